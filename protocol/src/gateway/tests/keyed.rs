//! Requests with an `Idempotency-Key`: exactly once, though the gateway dies.

use super::{
    keys::{
        KEY_PENDING_MAX, KEY_RETENTION, KEYS_ANSWERED_BYTES_MAX, KEYS_BYTES_MAX, KEYS_MAX, KEYS_PENDING_BYTES_MAX,
        KEYS_PENDING_MAX,
    },
    *,
};
use crate::{
    limits::{REQUEST_BYTES_MAX, REQUEST_TIMEOUT},
    reject::{Guards, Rule},
    session::{Admit, Sessions},
};

/// Keeps to everything but the sync gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct NoGate;

impl Guards for NoGate {
    fn enforces(_: Reject) -> bool {
        true
    }

    fn keeps(rule: Rule) -> bool {
        rule != Rule::SyncGate
    }
}

/// A gateway, its disk, and host 1, which executes what it is sent.
struct Stage<G: Guards> {
    world: World,
    gateway: Gateway<Dalek, G>,
    disk: Disk,
    now: u64,
    to_host: Vec<Call>,
    sessions: Sessions,
    executed: Vec<Vec<u8>>,
    answers: Vec<(Ticket, Vec<u8>)>,
    failures: Vec<(Ticket, Failure)>,
}

impl<G: Guards> Stage<G> {
    fn new() -> Self {
        let world = World::new();
        let gateway = Gateway::new(world.config(), &[], 0, &mut FixedRng(0));
        let mut stage = Self {
            world,
            gateway,
            disk: Disk::default(),
            now: 0,
            to_host: vec![],
            sessions: Sessions::default(),
            executed: vec![],
            answers: vec![],
            failures: vec![],
        };
        stage.connect();
        stage.sync();
        stage
    }

    fn connect(&mut self) {
        let now = at(self.now);
        self.gateway.add_service(now, &self.world.lookup()).unwrap();
        self.gateway.handle_found(now, self.world.id, &self.world.found(now, 1, 1)).unwrap();
        self.gateway.handle_connected(now, host(1));
        self.run();
    }

    /// Executes the effects; nothing is synced.
    fn run(&mut self) {
        for effect in drain(&mut self.gateway) {
            self.disk.take(&effect);
            match effect {
                Effect::Send { frame: ClientFrame::Call(call), .. } => self.to_host.push(call),
                Effect::Send { frame: ClientFrame::Open(open), .. } => {
                    self.sessions.open(open.client, host(GATEWAY)).unwrap();
                }
                Effect::Answer { ticket, response } => self.answers.push((ticket, response)),
                Effect::Fail { ticket, reason } => self.failures.push((ticket, reason)),
                _ => {}
            }
        }
    }

    fn sync(&mut self) {
        loop {
            self.run();
            if self.disk.queue.is_empty() {
                return;
            }
            let seq = self.disk.sync();
            self.gateway.handle_synced(at(self.now), seq);
        }
    }

    fn ask(&mut self, request: &[u8], with: &str) -> Result<Ticket, Refuse> {
        let result = self.gateway.handle_request(at(self.now), &self.world.lookup(), request.to_vec(), Some(key(with)));
        self.run();
        result
    }

    fn pass(&mut self, length: Micros) {
        let from = self.now;
        self.now += length.0 / 1000;
        // The service stays where it is, and its lease is renewed.
        for millis in (from..self.now).step_by(10_000).chain([self.now]) {
            let _ = self.gateway.handle_gossip_placement(at(millis), &self.world.placement(at(millis), 1, 1));
            self.gateway.handle_timeout(at(millis));
        }
        self.run();
    }

    /// Host 1 executes what it was sent; its replies are returned.
    fn serve(&mut self) -> Vec<Vec<u8>> {
        let mut replies = vec![];
        for call in std::mem::take(&mut self.to_host) {
            let Call { service, client, sequence, hash, acked_below, request } = call;
            let frame = match self.sessions.admit::<Strict>(client, sequence, hash, acked_below) {
                Ok(Admit::Execute) => {
                    self.executed.push(request);
                    let response = format!("{}", self.executed.len()).into_bytes();
                    self.sessions.complete(client, sequence, response.clone()).unwrap();
                    ClientFrame::Reply(Reply { service, client, sequence, response })
                }
                Ok(Admit::Replay(response)) => ClientFrame::Reply(Reply { service, client, sequence, response }),
                Ok(Admit::Join | Admit::Busy) => continue,
                Err(reject) => {
                    let reason = reject.name().to_owned();
                    ClientFrame::NotExecuted(NotExecuted { service, client, sequence, reason })
                }
            };
            replies.push(frame.to_bytes());
        }
        replies
    }

    /// Replies arrive.
    fn deliver(&mut self, replies: &[Vec<u8>]) {
        for reply in replies {
            self.gateway.handle_frame(at(self.now), host(1), reply).unwrap();
        }
        self.run();
    }

    /// Calls go out, answers come in, all is synced.
    fn exchange(&mut self) {
        self.sync();
        let replies = self.serve();
        self.deliver(&replies);
        self.sync();
    }

    fn refuse(&mut self, sequence: u64, reject: Reject) {
        let (service, client, reason) = (self.world.service, self.gateway.client(), reject.name().to_owned());
        let frame = ClientFrame::NotExecuted(NotExecuted { service, client, sequence, reason });
        self.deliver(&[frame.to_bytes()]);
    }

    /// The process dies, and what its disk does not have; another one starts.
    fn restart(&mut self) {
        self.disk.crash(0);
        self.to_host.clear();
        self.answers.clear();
        self.failures.clear();
        self.gateway = Gateway::new(self.world.config(), &self.disk.entries, self.disk.last, &mut FixedRng(7));
        self.connect();
    }

    fn answers_to(&self, ticket: Ticket) -> Vec<&[u8]> {
        self.answers.iter().filter(|(to, _)| *to == ticket).map(|(_, response)| response.as_slice()).collect()
    }
}

type Strictly = Stage<Strict>;

const UNKNOWN: Failure = Failure::Refused(Refuse::OutcomeUnknown);

#[test]
fn the_request_is_on_disk_before_it_is_sent_and_the_answer_before_it_is_given() {
    let mut stage = Strictly::new();
    let keyed = stage.ask(b"pay", "k").unwrap();
    assert!(stage.to_host.is_empty());
    let lookup = stage.world.lookup();
    stage.gateway.handle_request(at(0), &lookup, b"get".to_vec(), None).unwrap();
    stage.run();
    let sent: Vec<_> = stage.to_host.iter().map(|call| (call.sequence, call.acked_below)).collect();
    assert_eq!(sent, [(2, 1)], "a request without a key does not wait, and acknowledges nothing for the other");
    stage.sync();
    assert_eq!(stage.to_host[1].sequence, 1);

    let replies = stage.serve();
    stage.deliver(&replies);
    assert_eq!(stage.answers.len(), 1, "that without a key");
    stage.gateway.handle_request(at(0), &lookup, b"get".to_vec(), None).unwrap();
    stage.run();
    assert_eq!(stage.to_host.pop().unwrap().acked_below, 1, "the host must keep the response");
    assert!(stage.answers_to(keyed).is_empty());
    stage.sync();
    assert_eq!(stage.answers_to(keyed), [b"2"]);
    stage.gateway.handle_request(at(0), &lookup, b"get".to_vec(), None).unwrap();
    stage.run();
    assert_eq!(stage.to_host.pop().unwrap().acked_below, 3);
}

/// Where a gateway dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    BeforeKeyedIsSynced,
    BeforeSending,
    AfterSending,
    AfterExecution,
    AfterTheReply,
    AfterAnsweredIsSynced,
}

const DEATHS: [Death; 6] = [
    Death::BeforeKeyedIsSynced,
    Death::BeforeSending,
    Death::AfterSending,
    Death::AfterExecution,
    Death::AfterTheReply,
    Death::AfterAnsweredIsSynced,
];

/// A request is under way, and so is what comes behind it.
fn until<G: Guards>(death: Death) -> Stage<G> {
    let mut stage = Stage::new();
    if death == Death::BeforeSending {
        stage.gateway.handle_disconnected(at(0), host(1));
    }
    stage.ask(b"pay", "k").unwrap();
    if death == Death::BeforeKeyedIsSynced {
        // Nothing may have left. Whatever did, arrives.
        stage.serve();
        return stage;
    }
    stage.sync();
    assert_eq!(stage.to_host.len(), usize::from(death != Death::BeforeSending));
    if matches!(death, Death::BeforeSending | Death::AfterSending) {
        return stage;
    }
    let replies = stage.serve();
    if death == Death::AfterExecution {
        return stage;
    }
    stage.deliver(&replies);
    if death == Death::AfterAnsweredIsSynced {
        stage.sync();
    }
    // Another client's request tells the host what it may forget.
    stage.gateway.handle_request(at(0), &stage.world.lookup(), b"get".to_vec(), None).unwrap();
    stage.run();
    stage.serve();
    stage
}

#[test]
fn wherever_the_gateway_dies_a_keyed_request_is_executed_once() {
    for death in DEATHS {
        let mut stage: Strictly = until(death);
        for _ in 0..2 {
            stage.restart();
            let known = death != Death::BeforeKeyedIsSynced;
            assert_eq!(stage.gateway.keys(), usize::from(known), "{death:?}");
            let unresolved = known && death != Death::AfterAnsweredIsSynced;
            stage.sync();
            let again: Vec<_> = stage.to_host.iter().map(|call| (call.sequence, call.acked_below)).collect();
            assert_eq!(again, if unresolved { vec![(1, 1)] } else { vec![] }, "{death:?}: under its old number");
        }
        let ticket = stage.ask(b"pay", "k").unwrap();
        stage.exchange();
        assert_eq!(stage.executed.iter().filter(|request| *request == b"pay").count(), 1, "{death:?}");
        let position = stage.executed.iter().position(|request| request == b"pay").unwrap() + 1;
        assert_eq!(stage.answers_to(ticket), [position.to_string().as_bytes()], "{death:?}");
        let later = stage.ask(b"other", "l").unwrap();
        stage.exchange();
        assert_eq!(stage.answers_to(later).len(), 1);
        let numbers = stage.disk.entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Keyed { sequence, key, .. } => Some((key.as_str(), *sequence)),
            _ => None,
        });
        assert!(numbers.filter(|(key, _)| *key == "l").all(|(_, sequence)| sequence > 4096), "of a fresh block");
    }
}

#[test]
fn what_the_gateway_takes_up_it_resolves_though_no_client_comes_back() {
    let mut stage: Strictly = until(Death::AfterSending);
    stage.restart();
    stage.exchange();
    assert_eq!((stage.executed.len(), stage.answers.len()), (1, 0));
    stage.restart();
    stage.sync();
    assert!(stage.to_host.is_empty(), "nothing is left to do");
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.sync();
    assert_eq!(stage.answers_to(ticket), [b"1"]);
    assert_eq!(stage.executed.len(), 1);
}

#[test]
fn without_the_sync_gate_a_request_is_executed_twice() {
    let mut stage: Stage<NoGate> = until(Death::BeforeKeyedIsSynced);
    assert_eq!(stage.executed.len(), 1, "it left at once");
    stage.restart();
    stage.ask(b"pay", "k").unwrap();
    stage.exchange();
    assert_eq!(stage.executed, [b"pay", b"pay"]);
}

#[test]
fn the_same_again_is_answered_the_same_and_another_request_is_refused() {
    let mut stage = Strictly::new();
    let first = stage.ask(b"pay", "k").unwrap();
    let joined = stage.ask(b"pay", "k").unwrap();
    let refuse = stage.ask(b"pay more", "k").unwrap_err();
    assert_eq!((refuse, refuse.status()), (Refuse::KeyReused, 422));
    stage.exchange();
    assert_eq!(stage.answers, [(first, b"1".to_vec()), (joined, b"1".to_vec())]);
    assert_eq!(stage.ask(b"pay more", "k"), Err(Refuse::KeyReused), "answered or not");
    let third = stage.ask(b"pay", "k").unwrap();
    assert_eq!(stage.answers_to(third), [b"1"], "at once");
    assert!(stage.to_host.is_empty());
    stage.ask(b"pay", "another").unwrap();
    stage.exchange();
    assert_eq!(stage.executed.len(), 2, "keys are what counts, not bytes");
}

#[test]
fn an_answer_that_is_not_on_disk_is_not_given_to_whoever_asks_again() {
    let mut stage = Strictly::new();
    stage.ask(b"pay", "k").unwrap();
    stage.sync();
    let replies = stage.serve();
    stage.deliver(&replies);
    let again = stage.ask(b"pay", "k").unwrap();
    assert!(stage.answers.is_empty());
    stage.sync();
    assert_eq!(stage.answers_to(again), [b"1"]);
}

#[test]
fn a_request_that_was_certainly_not_executed_frees_its_key_when_that_is_on_disk() {
    let mut stage = Strictly::new();
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.sync();
    stage.refuse(1, Reject::Broken);
    assert!(stage.failures.is_empty());
    stage.sync();
    assert_eq!(stage.failures, [(ticket, Failure::NotExecuted("broken".to_owned()))]);
    assert_eq!(stage.gateway.keys(), 0);
    stage.restart();
    stage.sync();
    assert!(stage.to_host.is_empty(), "it is not tried behind the client's back");
    stage.ask(b"something else", "k").unwrap();
    stage.exchange();
    assert_eq!(stage.executed, [b"something else"]);
}

#[test]
fn a_host_that_refuses_what_was_sent_before_leaves_the_outcome_unknown() {
    // Broken now; but it may have been executed before that.
    let mut stage: Strictly = until(Death::AfterSending);
    stage.restart();
    stage.sync();
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.refuse(1, Reject::Broken);
    stage.sync();
    assert_eq!((UNKNOWN.status(), &stage.failures[..]), (409, &[(ticket, UNKNOWN)][..]));
    assert_eq!(stage.ask(b"pay", "k"), Err(Refuse::OutcomeUnknown));
    assert_eq!(stage.ask(b"other", "k"), Err(Refuse::KeyReused));
    stage.restart();
    assert_eq!(stage.ask(b"pay", "k"), Err(Refuse::OutcomeUnknown), "it stays so");
    assert!(UNKNOWN.to_string().contains("not known whether"), "{UNKNOWN}");

    for reject in [Reject::BelowAcked, Reject::OtherRequest] {
        let mut stage = Strictly::new();
        let ticket = stage.ask(b"pay", "k").unwrap();
        stage.sync();
        stage.refuse(1, reject);
        stage.sync();
        assert_eq!(stage.failures, [(ticket, UNKNOWN)], "{reject}");
    }
}

#[test]
fn under_another_incarnation_only_what_is_certain_goes_on() {
    // Sent a moment ago in a session that idled away: it was not executed in it.
    let mut stage = Strictly::new();
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.sync();
    stage.to_host.clear();
    stage.refuse(0, Reject::Finished);
    assert!(stage.to_host.is_empty());
    stage.exchange();
    assert_eq!(stage.answers_to(ticket), [b"1"]);
    stage.restart();
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.sync();
    assert_eq!((stage.answers_to(ticket), stage.executed.len()), (vec![&b"1"[..]], 1));

    // From the journal: who knows how long the session idled.
    for dies_then in [false, true] {
        let mut stage: Strictly = until(Death::AfterExecution);
        stage.restart();
        let mut ticket = stage.ask(b"pay", "k").unwrap();
        stage.sync();
        stage.to_host.clear();
        stage.refuse(0, Reject::Finished);
        stage.sync();
        assert_eq!(stage.failures, [(ticket, UNKNOWN)]);
        if dies_then {
            stage.restart();
            assert_eq!(stage.ask(b"pay", "k"), Err(Refuse::OutcomeUnknown));
        }
        ticket = stage.ask(b"pay", "l").unwrap();
        stage.exchange();
        assert_eq!(stage.answers_to(ticket), [b"2"]);
    }
}

#[test]
fn a_new_incarnation_alone_on_disk_makes_older_numbers_void() {
    let mut stage: Strictly = until(Death::AfterSending);
    let next = stage.disk.last + 1;
    stage.disk.take(&Effect::Persist { seq: next, entry: Entry::Incarnation(77) });
    stage.disk.sync();
    stage.restart();
    assert_eq!(stage.ask(b"pay", "k"), Err(Refuse::OutcomeUnknown));
    stage.sync();
    assert!(stage.to_host.is_empty());
}

#[test]
fn a_service_that_is_no_more_leaves_what_was_sent_unknown_and_frees_the_rest() {
    let mut stage = Strictly::new();
    let sent = stage.ask(b"sent", "s").unwrap();
    stage.sync();
    let unsent = stage.ask(b"unsent", "u").unwrap();
    let lookup = Lookup::Id(stage.world.service);
    stage.gateway.handle_disconnected(at(0), host(1));
    stage.run();
    let found = Found { lookup, service: None, addresses: vec![] };
    stage.gateway.handle_found(at(1), stage.world.id, &found).unwrap();
    stage.sync();
    assert_eq!(stage.failures, [(sent, UNKNOWN), (unsent, Failure::NoSuchService)]);
    assert_eq!(stage.gateway.keys(), 1);
}

#[test]
fn clients_stop_waiting_before_the_gateway_stops_trying() {
    let mut stage = Strictly::new();
    let ticket = stage.ask(b"pay", "k").unwrap();
    stage.sync();
    let lost = stage.serve();
    stage.pass(Micros(REQUEST_TIMEOUT.0 / 2));
    let second = stage.ask(b"pay", "k").unwrap();
    stage.pass(Micros(REQUEST_TIMEOUT.0 / 2));
    assert_eq!(stage.failures, [(ticket, Failure::StillTrying)]);
    assert_eq!((Failure::StillTrying.status(), stage.gateway.pending()), (504, 1));
    stage.deliver(&lost);
    stage.sync();
    assert_eq!(stage.answers, [(second, b"1".to_vec())]);
    let third = stage.ask(b"pay", "k").unwrap();
    assert_eq!(stage.answers_to(third), [b"1"]);
    stage.pass(KEY_RETENTION);
    assert_eq!(stage.gateway.keys(), 0, "for so long it is remembered");
}

#[test]
fn what_stays_without_an_answer_for_long_is_unknown_or_was_never_sent() {
    let mut stage = Strictly::new();
    stage.ask(b"pay", "k").unwrap();
    stage.sync();
    stage.pass(KEY_PENDING_MAX);
    stage.sync();
    assert_eq!(stage.gateway.pending(), 0);
    assert_eq!(stage.ask(b"pay", "k"), Err(Refuse::OutcomeUnknown));
    stage.pass(KEY_RETENTION);
    assert_eq!(stage.gateway.keys(), 0);

    let mut stage = Strictly::new();
    stage.gateway.handle_disconnected(at(0), host(1));
    stage.ask(b"pay", "k").unwrap();
    stage.sync();
    stage.pass(KEY_PENDING_MAX);
    assert_eq!((stage.gateway.pending(), stage.gateway.keys()), (0, 0), "the key is free");
}

#[test]
fn what_is_too_old_at_a_restart_is_not_sent_again() {
    for (age, usable) in [(KEY_PENDING_MAX.0 / 1000 - 1, true), (KEY_PENDING_MAX.0 / 1000, false)] {
        let mut stage: Strictly = until(Death::AfterExecution);
        stage.now = age;
        stage.restart();
        stage.sync();
        assert_eq!(stage.to_host.len(), usize::from(usable));
        assert_eq!(stage.ask(b"pay", "k").is_ok(), usable);
    }
}

#[test]
fn a_restarted_gateway_that_is_told_nothing_looks_at_its_clock_by_itself() {
    let stage: Strictly = until(Death::AfterSending);
    let mut again: TestGateway = Gateway::new(stage.world.config(), &stage.disk.entries, 9, &mut FixedRng(7));
    assert_eq!(again.poll_timeout(), Some(Instant(0)));
    again.handle_timeout(at(5));
    let lookup = Lookup::Id(stage.world.service);
    let effects = drain(&mut again);
    assert!(effects.contains(&Effect::Lookup { registry: stage.world.id, lookup }), "{effects:?}");
    assert!(again.poll_timeout() > Some(at(5).mono));
}

#[test]
fn a_keyed_request_waits_for_its_service_to_be_found() {
    let world = World::new();
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    let mut ask =
        |request: &[u8]| gateway.handle_request(at(0), &world.lookup(), request.to_vec(), Some(key("k"))).unwrap();
    let (first, joined, other) = (ask(b"pay"), ask(b"pay"), ask(b"other"));
    gateway.handle_found(at(1), world.id, &world.found(at(1), 1, 1)).unwrap();
    gateway.handle_connected(at(1), host(1));
    let effects = settle(&mut gateway, at(1));
    assert_eq!(failures(&effects), [(other, Failure::Refused(Refuse::KeyReused))]);
    assert_eq!(calls(&effects), [(host(1), 1, 1)]);
    gateway.handle_frame(at(2), host(1), &world.reply(&gateway, 1, b"ok")).unwrap();
    let answered: Vec<Ticket> = settle(&mut gateway, at(2))
        .iter()
        .filter_map(|effect| match effect {
            Effect::Answer { ticket, .. } => Some(*ticket),
            _ => None,
        })
        .collect();
    assert_eq!(answered, [first, joined]);
}

#[test]
fn no_host_can_make_the_gateway_send_what_is_not_on_disk() {
    let mut stage = Strictly::new();
    stage.ask(b"pay", "k").unwrap();
    for reject in [Reject::Full, Reject::NoSession, Reject::UnknownService] {
        stage.refuse(1, reject);
        stage.pass(Micros::from_secs(10));
        assert!(stage.to_host.is_empty(), "{reject}");
    }
    stage.sync();
    stage.pass(Micros::from_secs(10));
    assert_eq!(stage.to_host[0].sequence, 1);
}

#[test]
fn unresolved_keys_are_bounded_in_number_and_bytes() {
    let mut stage = Strictly::new();
    for number in 0..KEYS_PENDING_MAX {
        stage.ask(b"x", &format!("{number}")).unwrap();
    }
    assert_eq!(stage.ask(b"x", "one-more"), Err(Refuse::Full));
    assert!(stage.ask(b"x", "0").is_ok(), "joining is not more");
    let lookup = stage.world.lookup();
    stage.gateway.handle_request(at(0), &lookup, vec![], None).expect("others go on");
    stage.exchange();
    assert!(stage.ask(b"x", "one-more").is_ok());

    let mut stage = Strictly::new();
    let large = vec![0; REQUEST_BYTES_MAX];
    for number in 0..KEYS_PENDING_BYTES_MAX / REQUEST_BYTES_MAX {
        stage.ask(&large, &format!("{number}")).unwrap();
    }
    assert_eq!(stage.ask(b"x", "one-more"), Err(Refuse::Full));

    let mut stage = Strictly::new();
    stage.gateway.set_full(true);
    assert_eq!(stage.ask(b"x", "k"), Err(Refuse::Full), "the disk is full");
    stage.gateway.set_full(false);
    assert!(stage.ask(b"x", "k").is_ok());
}

#[test]
fn resolved_keys_are_bounded_and_the_oldest_is_forgotten_first() {
    let mut stage = Strictly::new();
    for number in 0..=KEYS_MAX {
        stage.ask(b"x", &format!("{number}")).unwrap();
        stage.exchange();
    }
    assert_eq!(stage.gateway.keys(), KEYS_MAX);
    stage.ask(b"x", "1").unwrap();
    assert!(stage.to_host.is_empty() && stage.disk.queue.is_empty(), "the second is remembered");
    stage.ask(b"x", "0").unwrap();
    stage.exchange();
    assert_eq!(stage.executed.len(), KEYS_MAX + 2, "the first is not");

    let mut stage = Strictly::new();
    let response = vec![7; KEYS_ANSWERED_BYTES_MAX / 4];
    for number in 1..=5 {
        stage.ask(b"x", &format!("{number}")).unwrap();
        stage.sync();
        let (service, client, response) = (stage.world.service, stage.gateway.client(), response.clone());
        let reply = ClientFrame::Reply(Reply { service, client, sequence: number, response });
        stage.deliver(&[reply.to_bytes()]);
        stage.sync();
    }
    assert_eq!(stage.gateway.keys(), 4);
    stage.restart();
    assert_eq!(stage.gateway.keys(), 4, "nor does the journal bring back more");
}

#[test]
fn all_services_together_are_bounded_too() {
    let mut keys = keys::Keys::default();
    let service = |number: usize| ServiceId { registry: RegistryId([1; 32]), unique: [number as u8; 16] };
    let put = |keys: &mut keys::Keys, number: usize, state: keys::State| {
        let keyed = keys::Keyed { hash: Digest([0; 32]), entry: number as u64, state };
        keys.put(service(number), key("k"), keyed, Some(Instant(1)));
    };
    let most = KEYS_BYTES_MAX / KEYS_ANSWERED_BYTES_MAX;
    for number in 0..=most {
        put(&mut keys, number, keys::State::Answered(vec![0; KEYS_ANSWERED_BYTES_MAX]));
    }
    assert_eq!((keys.len(), keys.bytes()), (most, KEYS_BYTES_MAX));
    assert!(keys.get(service(0), &key("k")).is_none(), "the oldest of all");
    assert!(keys.make_room(service(100), 1));
    assert_eq!(keys.len(), most - 1);
    let pending = || keys::State::Pending { at: Timestamp(0), bytes: KEYS_PENDING_BYTES_MAX, waiting: BTreeSet::new() };
    let mut keys = keys::Keys::default();
    for number in 0..most {
        assert!(keys.make_room(service(number), KEYS_PENDING_BYTES_MAX));
        put(&mut keys, number, pending());
    }
    assert!(!keys.make_room(service(100), 1), "what is unresolved is never forgotten");
}

#[test]
fn a_compacted_journal_says_the_same() {
    let mut stage = Strictly::new();
    for number in 0..10 {
        stage.ask(b"x", &format!("old-{number}")).unwrap();
        stage.exchange();
    }
    stage.pass(KEY_RETENTION);
    stage.ask(b"done", "done").unwrap();
    stage.exchange();
    stage.ask(b"unknown", "unknown").unwrap();
    stage.sync();
    stage.refuse(12, Reject::BelowAcked);
    stage.ask(b"freed", "freed").unwrap();
    stage.sync();
    stage.refuse(13, Reject::Broken);
    stage.ask(b"sent", "sent").unwrap();
    stage.sync();
    stage.to_host.clear();
    // These are on their way to the disk while the journal is compacted.
    stage.ask(b"under way", "under-way").unwrap();
    stage.gateway.compact_if(COMPACT_BYTES_MIN - 1);
    assert_eq!(drain(&mut stage.gateway), []);
    stage.gateway.compact_if(COMPACT_BYTES_MIN);
    stage.ask(b"behind", "behind").unwrap();
    stage.gateway.compact_if(COMPACT_BYTES_MIN * 2 - 1);
    stage.sync();
    assert_eq!(stage.disk.entries.len(), 6, "{:?}", stage.disk.entries);

    stage.restart();
    stage.sync();
    let sent: Vec<&[u8]> = stage.to_host.iter().map(|call| call.request.as_slice()).collect();
    assert_eq!(sent, [&b"sent"[..], b"under way", b"behind"]);
    let executed = stage.executed.len();
    let done = stage.ask(b"done", "done").unwrap();
    stage.run();
    assert_eq!(stage.answers_to(done), [b"11"]);
    assert_eq!(stage.ask(b"unknown", "unknown"), Err(Refuse::OutcomeUnknown));
    stage.ask(b"other", "freed").unwrap();
    stage.exchange();
    assert_eq!(stage.executed.len(), executed + 4);
    assert!(stage.executed.ends_with(&[b"other".to_vec()]));
    let last = stage.disk.entries.iter().find_map(|(_, entry)| match entry {
        Entry::Keyed { sequence, key, .. } if key.as_str() == "freed" => Some(*sequence),
        _ => None,
    });
    assert_eq!(last, Some(4097), "numbers skip to a fresh block");
}

#[test]
fn a_journal_is_compacted_when_most_of_it_counts_no_more() {
    let compacts = |gateway: &mut TestGateway, bytes| {
        gateway.compact_if(bytes);
        settle(gateway, at(0)).iter().any(|effect| matches!(effect, Effect::Compact { .. }))
    };
    let mut stage = Strictly::new();
    assert!(!compacts(&mut stage.gateway, COMPACT_BYTES_MIN - 1));
    assert!(compacts(&mut stage.gateway, COMPACT_BYTES_MIN));
    assert!(!compacts(&mut stage.gateway, COMPACT_BYTES_MIN + 1), "once is enough");
    assert!(compacts(&mut stage.gateway, 2 * COMPACT_BYTES_MIN), "it did not help");
    assert!(!compacts(&mut stage.gateway, 1000), "it did");
    assert!(compacts(&mut stage.gateway, COMPACT_BYTES_MIN));
    assert!(!compacts(&mut stage.gateway, 1000));
    for number in 0..4 {
        let request = vec![0; REQUEST_BYTES_MAX];
        let lookup = stage.world.lookup();
        stage.gateway.handle_request(at(0), &lookup, request, Some(key(&format!("{number}")))).unwrap();
    }
    settle(&mut stage.gateway, at(0));
    assert!(!compacts(&mut stage.gateway, COMPACT_BYTES_MIN), "half of it counts");
    assert!(compacts(&mut stage.gateway, 2 * COMPACT_BYTES_MIN));
}

#[test]
fn a_key_is_visible_ascii() {
    for text in ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "~!", &"x".repeat(128)] {
        assert_eq!(IdempotencyKey::try_from(text.to_owned()).unwrap().as_str(), text);
    }
    for text in ["", "a b", "\t", "é", "a\n", &"x".repeat(129)] {
        assert!(IdempotencyKey::try_from(text.to_owned()).is_err(), "{text:?}");
    }
    let entry = Entry::Freed { service: World::new().service, key: key("k") };
    let mut bytes = crate::wire::encode(&entry);
    *bytes.last_mut().unwrap() = b' ';
    assert!(crate::wire::decode::<Entry>(&bytes).is_err());
}
