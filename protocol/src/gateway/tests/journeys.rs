//! Whatever happens on the way, each request is executed once and answered (PROTOCOL 5).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::session::{Admit, Sessions};

/// The service, wherever it is: its session table, its counter, and the host of record.
struct Service {
    sessions: Sessions,
    era: u64,
    on: u8,
    /// Frozen: what arrives is dropped, as a host in a handover may.
    frozen: bool,
    executed: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Gateway, journal, streams and service. Frames in flight are lost when their stream is.
struct Net {
    world: World,
    gateway: TestGateway,
    disk: Disk,
    now: u64,
    to_host: BTreeMap<HostId, VecDeque<ClientFrame>>,
    to_gateway: VecDeque<(HostId, ClientFrame)>,
    streams: BTreeSet<HostId>,
    service: Service,
    asked: BTreeMap<Ticket, Vec<u8>>,
    /// Requests with a key, by number: their clients do not give up.
    keyed: BTreeSet<usize>,
    answered: BTreeMap<Vec<u8>, Vec<u8>>,
    failed: Vec<(Vec<u8>, Failure)>,
}

impl Net {
    fn new() -> Self {
        let world = World::new();
        let gateway = world.gateway();
        let service =
            Service { sessions: Sessions::default(), era: 1, on: 1, frozen: false, executed: BTreeMap::new() };
        let mut net = Self {
            world,
            gateway,
            disk: Disk::default(),
            now: 0,
            to_host: BTreeMap::new(),
            to_gateway: VecDeque::new(),
            streams: BTreeSet::new(),
            service,
            asked: BTreeMap::new(),
            keyed: BTreeSet::new(),
            answered: BTreeMap::new(),
            failed: vec![],
        };
        net.gateway.add_service(at(0), &net.world.lookup()).unwrap();
        net
    }

    fn effects(&mut self) {
        while let Some(effect) = self.gateway.poll_effect() {
            let now = at(self.now);
            self.disk.take(&effect);
            match effect {
                Effect::Persist { .. } | Effect::Compact { .. } => {}
                Effect::Connect { host, .. } => {
                    self.cut(host);
                    self.streams.insert(host);
                    self.gateway.handle_connected(now, host);
                }
                Effect::Disconnect { host } => self.cut(host),
                Effect::Send { host, frame } => {
                    if self.streams.contains(&host) {
                        self.to_host.entry(host).or_default().push_back(frame);
                    }
                }
                Effect::Lookup { registry, lookup } => {
                    let found = Found { lookup, ..self.world.found(now, self.service.era, self.service.on) };
                    self.gateway.handle_found(now, registry, &found).unwrap();
                }
                Effect::Answer { ticket, response } => {
                    let request = self.asked.remove(&ticket).expect("answered once");
                    let before = self.answered.insert(request.clone(), response.clone());
                    if request.starts_with(b"keyed") {
                        assert!(before.is_none_or(|before| before == response), "the same answer to all");
                    } else {
                        assert_eq!(before, None);
                    }
                }
                Effect::Fail { ticket, reason } => {
                    let request = self.asked.remove(&ticket).expect("answered once");
                    self.failed.push((request, reason));
                }
            }
        }
    }

    fn cut(&mut self, host: HostId) {
        self.streams.remove(&host);
        self.to_host.remove(&host);
        self.to_gateway.retain(|(from, _)| *from != host);
    }

    /// A host takes its next frame.
    fn serve(&mut self, from: HostId) {
        let Some(frame) = self.to_host.get_mut(&from).and_then(VecDeque::pop_front) else { return };
        let service = self.world.service;
        let placement = self.world.placement(at(self.now), self.service.era, self.service.on);
        let answer = |net: &mut Self, frame| net.to_gateway.push_back((from, frame));
        match frame {
            ClientFrame::Open(_) | ClientFrame::Call(_) if from != host(self.service.on) => {
                answer(self, ClientFrame::Moved(placement));
            }
            _ if self.service.frozen => {}
            ClientFrame::Open(Open { client, .. }) => {
                self.service.sessions.open(client, host(GATEWAY)).unwrap();
                answer(self, ClientFrame::Opened(Opened { service, client }));
            }
            ClientFrame::Call(Call { client, sequence, hash, acked_below, request, .. }) => {
                let response = match self.service.sessions.admit::<Strict>(client, sequence, hash, acked_below) {
                    Ok(Admit::Execute) => {
                        let response = format!("{}", self.service.executed.len()).into_bytes();
                        let before = self.service.executed.insert(request, response.clone());
                        assert_eq!(before, None, "executed twice");
                        self.service.sessions.complete(client, sequence, response.clone()).unwrap();
                        response
                    }
                    Ok(Admit::Replay(response)) => response,
                    Ok(Admit::Join | Admit::Busy) => return,
                    Err(reject) => {
                        let reason = reject.name().to_owned();
                        answer(self, ClientFrame::NotExecuted(NotExecuted { service, client, sequence, reason }));
                        return;
                    }
                };
                answer(self, ClientFrame::Reply(Reply { service, client, sequence, response }));
            }
            _ => {}
        }
    }

    fn deliver(&mut self) {
        if let Some((from, frame)) = self.to_gateway.pop_front() {
            self.gateway.handle_frame(at(self.now), from, &frame.to_bytes()).unwrap();
        }
    }

    fn request(&mut self, name: usize) {
        let request = format!("request {name}").into_bytes();
        let ticket = self.gateway.handle_request(at(self.now), &self.world.lookup(), request.clone(), None).unwrap();
        self.asked.insert(ticket, request);
    }

    fn request_keyed(&mut self, name: usize) {
        let request = format!("keyed {name}").into_bytes();
        let key = Some(key(&format!("{name}")));
        let ticket = self.gateway.handle_request(at(self.now), &self.world.lookup(), request.clone(), key).unwrap();
        self.asked.insert(ticket, request);
        self.keyed.insert(name);
    }

    fn sync(&mut self) {
        let seq = self.disk.sync();
        self.gateway.handle_synced(at(self.now), seq);
    }

    fn step(&mut self, event: &Event, number: usize) {
        match event {
            Event::Request => self.request(number),
            Event::Keyed => self.request_keyed(number),
            Event::Again(which) => {
                if let Some(name) = self.keyed.iter().cycle().nth(*which).copied() {
                    self.request_keyed(name);
                }
            }
            Event::Sync => self.sync(),
            Event::Compact => self.gateway.compact_if(u64::MAX - 1),
            Event::Serve(on) => self.serve(host(*on)),
            Event::Deliver => self.deliver(),
            Event::Pass(millis) => {
                self.now += millis;
                self.gateway.handle_timeout(at(self.now));
            }
            Event::Freeze => self.service.frozen = true,
            Event::Thaw => self.service.frozen = false,
            Event::Move(to) => {
                let bytes = self.service.sessions.to_bytes();
                self.service.sessions = Sessions::from_bytes(&bytes).unwrap();
                self.service.era += 1;
                self.service.on = *to;
                self.service.frozen = false;
            }
            Event::Gossip => {
                let placement = self.world.placement(at(self.now), self.service.era, self.service.on);
                let _ = self.gateway.handle_gossip_placement(at(self.now), &placement);
            }
            Event::Cut(on) => {
                if self.streams.contains(&host(*on)) {
                    self.cut(host(*on));
                    self.gateway.handle_disconnected(at(self.now), host(*on));
                }
            }
            Event::Restart(written) => {
                self.disk.crash(*written);
                self.streams.clear();
                self.to_host.clear();
                self.to_gateway.clear();
                self.gateway =
                    Gateway::new(self.world.config(), &self.disk.entries, self.disk.last, &mut FixedRng(self.now));
                self.gateway.add_service(at(self.now), &self.world.lookup()).unwrap();
                // Their clients learn nothing: without a key of theirs, the outcome is unknown.
                self.asked.clear();
            }
        }
        self.effects();
    }

    /// Everything heals, and time passes.
    fn heal(&mut self) {
        self.service.frozen = false;
        for _ in 0..400 {
            self.now += 50;
            self.sync();
            self.gateway.handle_timeout(at(self.now));
            self.effects();
            for on in 1..=3 {
                while self.to_host.get(&host(on)).is_some_and(|queue| !queue.is_empty()) {
                    self.serve(host(on));
                }
            }
            while !self.to_gateway.is_empty() {
                self.deliver();
                self.effects();
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Request,
    Keyed,
    /// The same as one before.
    Again(usize),
    Sync,
    Compact,
    Serve(u8),
    Deliver,
    Pass(u64),
    Freeze,
    Thaw,
    Move(u8),
    Gossip,
    Cut(u8),
    /// Of what was not synced, so much is on disk all the same.
    Restart(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Request),
        4 => Just(Event::Keyed),
        2 => (0..64usize).prop_map(Event::Again),
        6 => Just(Event::Sync),
        1 => Just(Event::Compact),
        8 => (1..=3u8).prop_map(Event::Serve),
        6 => Just(Event::Deliver),
        3 => (1..3000u64).prop_map(Event::Pass),
        1 => Just(Event::Freeze),
        1 => Just(Event::Thaw),
        2 => (1..=3u8).prop_map(Event::Move),
        1 => Just(Event::Gossip),
        2 => (1..=3u8).prop_map(Event::Cut),
        1 => (0..4usize).prop_map(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn each_request_is_executed_once_and_answered(events in proptest::collection::vec(event(), 1..120)) {
        let mut net = Net::new();
        net.effects();
        for (number, event) in events.iter().enumerate() {
            net.step(event, number);
        }
        net.heal();
        // Those whose gateway died, and those that it told to come again.
        for name in net.keyed.clone() {
            net.request_keyed(name);
        }
        net.heal();
        for name in &net.keyed {
            let request = format!("keyed {name}").into_bytes();
            prop_assert!(net.answered.contains_key(&request), "{} is answered", name);
        }
        prop_assert_eq!(&net.asked, &BTreeMap::new(), "all are answered");
        let late = [Failure::Timeout, Failure::StillTrying];
        prop_assert!(net.failed.iter().all(|(_, reason)| late.contains(reason)), "{:?}", net.failed);
        for (request, response) in &net.answered {
            prop_assert_eq!(net.service.executed.get(request), Some(response));
        }
    }
}
