use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{reject::Strict, wire};

const A: ClientId = ClientId([1; 32]);
const B: ClientId = ClientId([2; 32]);
const GATEWAY: HostId = HostId([9; 32]);
const HASH: Digest = Digest([7; 32]);
const OTHER: Digest = Digest([8; 32]);

fn opened() -> Sessions {
    let mut table = Sessions::default();
    table.open(A, GATEWAY).unwrap();
    table
}

fn run(table: &mut Sessions, sequence: u64, response: &[u8]) {
    assert_eq!(table.admit::<Strict>(A, sequence, HASH, 0), Ok(Admit::Execute));
    table.begin(A, sequence).unwrap();
    table.complete(A, sequence, response.to_vec()).unwrap();
}

fn client(number: usize) -> ClientId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ClientId(id)
}

fn gateway(number: usize) -> HostId {
    HostId(client(number).0)
}

/// The next request of `who`; whether it ran.
fn hold(table: &mut Sessions, who: ClientId, sequence: u64, response: &[u8]) -> bool {
    if table.admit::<Strict>(who, sequence, HASH, 0) != Ok(Admit::Execute) {
        return false;
    }
    table.begin(who, sequence).is_ok_and(|()| table.complete(who, sequence, response.to_vec()) == Ok(()))
}

/// All sessions of this gateway take what they get.
fn hog(table: &mut Sessions, number: usize, response: &[u8]) {
    for session in 0..GATEWAY_SESSIONS_MAX {
        let who = client(1_000_000 + number * GATEWAY_SESSIONS_MAX + session);
        table.open(who, gateway(number)).unwrap();
        (0..).take_while(|sequence| hold(table, who, *sequence, response)).for_each(drop);
    }
}

#[test]
fn a_gateway_that_holds_all_it_can_leaves_room_for_others() {
    let mut table = Sessions::default();
    table.open(A, GATEWAY).unwrap();
    let large = vec![0; REQUEST_BYTES_MAX - 1000];
    hog(&mut table, 0, &large);
    assert!(table.kept_bytes() >= TABLE_BYTES_MAX && table.kept_bytes() < TABLE_BYTES_MAX + TABLE_BYTES_SLACK);
    let hog = client(1_000_000 + GATEWAY_SESSIONS_MAX - 1);
    assert_eq!(table.admit::<Strict>(hog, 900, HASH, 0), Ok(Admit::Busy));
    // The other asks one thing after the other, and acknowledges.
    for sequence in 0..20 {
        assert!(hold(&mut table, A, sequence, &large));
        table.acknowledge(A, sequence + 1);
    }
    assert_eq!(
        table.admit::<Strict>(client(1_000_000), 0, HASH, 0),
        Ok(Admit::Replay(large)),
        "and none is the worse for it"
    );
}

#[test]
fn what_is_admitted_yet_over_its_share_does_not_begin() {
    let mut table = Sessions::default();
    let late = client(1_000_000 + GATEWAY_SESSIONS_MAX - 1);
    table.open(late, gateway(0)).unwrap();
    assert_eq!(table.admit::<Strict>(late, 900, HASH, 0), Ok(Admit::Execute));
    hog(&mut table, 0, &vec![0; REQUEST_BYTES_MAX]);
    assert_eq!(table.begin(late, 900), Err(Reject::Full));
    assert_eq!(table.begin(late, 900), Err(Reject::UnexpectedMessage), "it is no longer admitted");
}

#[test]
fn whoever_holds_most_makes_room_and_the_table_stays_bounded() {
    let mut table = Sessions::default();
    table.open(A, GATEWAY).unwrap();
    let large = vec![0; REQUEST_BYTES_MAX];
    for number in 0..6 {
        hog(&mut table, number, &large);
        assert!(table.kept_bytes() <= TABLE_BYTES_HARD);
    }
    for number in 100..400 {
        table.open(client(number), gateway(number)).unwrap();
        assert!(hold(&mut table, client(number), 0, &large[..300_000]));
        assert!(table.kept_bytes() <= TABLE_BYTES_HARD);
    }
    assert!(table.kept_bytes() >= TABLE_BYTES_MAX, "the caps were reached");
    assert!(hold(&mut table, A, 0, &large));
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Replay(large)));
    // What was lost for it is not executed again.
    assert_eq!(table.admit::<Strict>(client(1_000_000), 0, HASH, 0), Err(Reject::BelowAcked));
}

#[test]
fn the_fullest_table_fits_what_travels() {
    let header = wire::encode(&(A, GATEWAY, 0u64, 0u64, 0u32)).len() + 4;
    let tombstone = wire::encode(&A).len() + 4;
    let fixed = 5 + 12 + SESSIONS_MAX * header + TOMBSTONES_MAX * tombstone;
    assert!(fixed < 1024 * 1024 - 4096, "{fixed}");
    let kept = wire::encode(&(0u64, HASH, Vec::<u8>::new())).len() + 4;
    assert!(kept <= KEPT_OVERHEAD, "{kept}");
    let mut table = opened();
    (0..100).for_each(|sequence| run(&mut table, sequence, b"r"));
    assert_eq!(table.to_bytes().len(), 5 + 12 + header + 100 * (kept + 1));
    assert_eq!(table.kept_bytes(), 100 * (KEPT_OVERHEAD + 1));
    const { assert!(TABLE_BYTES_HARD + 1024 * 1024 < 96 * 1024 * 1024) };
}

#[test]
fn responses_that_came_are_forgotten_without_another_call() {
    let mut table = opened();
    run(&mut table, 0, b"a");
    run(&mut table, 1, b"b");
    table.sweep();
    table.acknowledge(A, 1);
    assert_eq!(table.kept_bytes(), KEPT_OVERHEAD + 1);
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Err(Reject::BelowAcked));
    table.acknowledge(A, 0);
    assert_eq!(table.admit::<Strict>(A, 1, HASH, 0), Ok(Admit::Replay(b"b".to_vec())), "a mark does not fall");
    table.acknowledge(B, 5);
    assert!(table.sweep().is_empty(), "its gateway is there");
    table.acknowledge(A, u64::MAX);
    assert_eq!(table.kept_bytes(), 0);
    assert_eq!(
        table.admit::<Strict>(A, u64::MAX, HASH, 0),
        Err(Reject::BelowAcked),
        "no mark can rise above this number"
    );
}

#[test]
fn the_host_counts_what_a_client_asks() {
    let mut table = opened();
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.take_completed(A), 0, "not until it is done");
    table.complete(A, 0, vec![]).unwrap();
    table.admit::<Strict>(A, 0, HASH, 0).unwrap();
    run(&mut table, 1, b"");
    assert_eq!((table.take_completed(A), table.take_completed(A), table.take_completed(B)), (2, 0, 0));
    run(&mut table, 2, b"");
    let mut moved = Sessions::from_bytes(&table.to_bytes()).unwrap();
    assert_eq!(moved.take_completed(A), 0, "it does not travel");
}

#[test]
fn a_gateway_has_few_sessions_and_its_oldest_idle_one_goes() {
    let mut table = Sessions::default();
    table.open(B, gateway(1)).unwrap();
    // Their order is not that of their names.
    let own = |number: usize| client(100 - number);
    for number in 0..GATEWAY_SESSIONS_MAX {
        table.open(own(number), GATEWAY).unwrap();
    }
    assert_eq!(table.admit::<Strict>(own(0), 0, HASH, 0), Ok(Admit::Execute));
    table.open(own(8), GATEWAY).unwrap();
    assert!(table.is_open(own(0)) && !table.is_open(own(1)), "the oldest runs something");
    assert_eq!(table.open(own(1), GATEWAY), Err(Reject::Finished), "it leaves a tombstone");
    let mut table = Sessions::from_bytes(&table.to_bytes()).unwrap();
    table.open(own(9), GATEWAY).unwrap();
    assert!(!table.is_open(own(0)), "nothing runs after a move; the order went along");
    for number in [2, 3, 4, 5, 6, 7, 8, 9] {
        assert_eq!(table.admit::<Strict>(own(number), 0, HASH, 0), Ok(Admit::Execute));
    }
    let before = table.clone();
    assert_eq!(table.open(own(10), GATEWAY), Err(Reject::Full));
    assert_eq!(table, before);
    for number in 11..90 {
        table.forget(own(2), 0);
        let _ = table.open(own(number), GATEWAY);
    }
    assert!(table.is_open(B) && table.len() == GATEWAY_SESSIONS_MAX + 1, "others keep theirs");
}

#[test]
fn a_captured_gateway_with_too_many_sessions_is_refused() {
    let mut table = Sessions::default();
    for number in 0..=GATEWAY_SESSIONS_MAX {
        table.open(client(number), gateway(number)).unwrap();
    }
    assert!(Sessions::from_bytes(&table.to_bytes()).is_ok());
    table.open.values_mut().for_each(|session| session.gateway = GATEWAY);
    assert_eq!(Sessions::from_bytes(&table.to_bytes()), Err(Reject::Full));
}

#[test]
fn a_request_runs_once_and_is_replayed() {
    let mut table = opened();
    assert_eq!(table.admit::<Strict>(A, 3, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit::<Strict>(A, 3, HASH, 0), Ok(Admit::Join));
    table.complete(A, 3, b"first".to_vec()).unwrap();
    assert_eq!(table.admit::<Strict>(A, 3, HASH, 0), Ok(Admit::Replay(b"first".to_vec())));
    assert_eq!(table.complete(A, 3, b"second".to_vec()), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit::<Strict>(A, 3, HASH, 3), Ok(Admit::Replay(b"first".to_vec())));
}

#[test]
fn without_a_session_nothing_runs() {
    assert_eq!(opened().admit::<Strict>(B, 0, HASH, 0), Err(Reject::NoSession));
}

#[test]
fn below_the_mark_nothing_runs() {
    let mut table = opened();
    run(&mut table, 0, b"r");
    assert_eq!(table.admit::<Strict>(A, 5, HASH, 4), Ok(Admit::Execute));
    let before = table.clone();
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Err(Reject::BelowAcked));
    assert_eq!(table.admit::<Strict>(A, 3, HASH, 0), Err(Reject::BelowAcked));
    assert_eq!(table.admit::<Strict>(A, 6, HASH, 7), Err(Reject::BelowAcked), "below this call's own mark");
    assert_eq!(table, before);
    assert_eq!(table.kept_bytes(), 0, "acknowledged responses are forgotten");
}

#[test]
fn another_request_under_a_used_number_is_refused() {
    let mut table = opened();
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit::<Strict>(A, 0, OTHER, 0), Err(Reject::OtherRequest));
    table.complete(A, 0, b"r".to_vec()).unwrap();
    assert_eq!(table.admit::<Strict>(A, 0, OTHER, 0), Err(Reject::OtherRequest));
}

#[test]
fn a_response_that_was_given_up_meanwhile_is_not_kept() {
    let mut table = opened();
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit::<Strict>(A, 1, HASH, 1), Ok(Admit::Execute));
    table.complete(A, 0, b"late".to_vec()).unwrap();
    assert_eq!(table.kept_bytes(), 0);
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Err(Reject::BelowAcked));
}

#[test]
fn kept_responses_are_capped_by_number() {
    let mut table = opened();
    for sequence in 0..KEPT_RESPONSES_MAX as u64 {
        run(&mut table, sequence, b"");
    }
    let next = KEPT_RESPONSES_MAX as u64;
    assert_eq!(table.admit::<Strict>(A, next, HASH, 0), Ok(Admit::Busy));
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Replay(vec![])));
    assert_eq!(table.admit::<Strict>(A, next, HASH, 1), Ok(Admit::Execute));
}

#[test]
fn kept_responses_are_capped_by_bytes_whatever_waits() {
    let mut table = opened();
    let large = vec![0; REQUEST_BYTES_MAX];
    let waiting = 8;
    for sequence in 0..waiting {
        assert_eq!(table.admit::<Strict>(A, sequence, HASH, 0), Ok(Admit::Execute));
    }
    let mut ran = 0;
    for sequence in 0..waiting {
        match table.begin(A, sequence) {
            Ok(()) => table.complete(A, sequence, large.clone()).unwrap(),
            Err(reject) => {
                assert_eq!(reject, Reject::Full);
                ran = ran.max(sequence);
            }
        }
    }
    assert!(ran > 0 && table.kept_bytes() < KEPT_BYTES_MAX + REQUEST_BYTES_MAX);
    assert_eq!(table.admit::<Strict>(A, 7, HASH, 0), Ok(Admit::Busy));
    assert_eq!(table.admit::<Strict>(A, 7, HASH, 1), Ok(Admit::Execute));
    assert_eq!(table.complete(A, 7, vec![0; REQUEST_BYTES_MAX + 1]), Err(Reject::FrameTooLarge));
}

#[test]
fn what_was_not_admitted_neither_begins_nor_completes() {
    let mut table = opened();
    assert_eq!(table.begin(A, 0), Err(Reject::UnexpectedMessage));
    assert_eq!(table.complete(A, 0, vec![]), Err(Reject::UnexpectedMessage));
    assert_eq!(table.complete(B, 0, vec![]), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    table.forget_running();
    assert_eq!(table.running(), 0);
    assert_eq!(table.begin(A, 0), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    table.forget(A, 0);
    assert_eq!(table.admit::<Strict>(A, 0, OTHER, 0), Ok(Admit::Execute));
}

#[test]
fn sessions_are_capped() {
    let mut table = Sessions::default();
    for number in 0..SESSIONS_MAX {
        table.open(client(number), gateway(number)).unwrap();
    }
    assert_eq!(table.open(client(SESSIONS_MAX), gateway(SESSIONS_MAX)), Err(Reject::Full));
    assert_eq!(table.open(client(0), gateway(0)), Ok(()));
}

#[test]
fn an_idle_session_leaves_a_tombstone() {
    let mut table = opened();
    table.open(B, GATEWAY).unwrap();
    run(&mut table, 0, b"r");
    assert!(table.sweep().is_empty(), "used since the last sweep");
    table.touch(B);
    assert_eq!(table.sweep(), [A]);
    assert_eq!(table.kept_bytes(), 0);
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Err(Reject::NoSession));
    assert_eq!(table.open(A, GATEWAY), Err(Reject::Finished));
    let mut table = Sessions::from_bytes(&table.to_bytes()).unwrap();
    assert_eq!(table.open(A, GATEWAY), Err(Reject::Finished));
    assert!(table.is_open(B) && table.len() == 1 && !table.is_empty());
}

#[test]
fn a_running_session_is_not_swept() {
    let mut table = opened();
    assert_eq!(table.admit::<Strict>(A, 0, HASH, 0), Ok(Admit::Execute));
    table.sweep();
    assert!(table.sweep().is_empty());
}

#[test]
fn tombstones_are_bounded_and_the_oldest_goes() {
    let mut table = Sessions::default();
    for number in 0..=TOMBSTONES_MAX {
        table.open(client(number), gateway(number)).unwrap();
        table.evict(client(number));
    }
    assert_eq!(table.evictions.len(), TOMBSTONES_MAX);
    assert_eq!(table.open(client(0), gateway(0)), Ok(()));
    assert_eq!(table.open(client(1), gateway(1)), Err(Reject::Finished));
}

#[test]
fn damaged_bytes_are_refused() {
    let mut table = opened();
    table.open(B, GATEWAY).unwrap();
    run(&mut table, 4, b"response");
    table.evict(B);
    let bytes = table.to_bytes();
    assert_eq!(Sessions::from_bytes(&bytes).map(|table| table.to_bytes()), Ok(bytes.clone()));
    for length in 0..bytes.len() {
        assert_eq!(Sessions::from_bytes(&bytes[..length]), Err(Reject::Malformed), "cut to {length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(Sessions::from_bytes(&longer), Err(Reject::Malformed));
    let mut other = bytes.clone();
    other[4] = 2;
    assert_eq!(Sessions::from_bytes(&other), Err(Reject::WrongVersion));
    // Counts beyond the limits are refused before anything is read for them.
    for counts in [(SESSIONS_MAX as u32 + 1, 0u32), (0, TOMBSTONES_MAX as u32 + 1)] {
        let mut huge = bytes[..5].to_vec();
        huge.extend_from_slice(&8u32.to_le_bytes());
        huge.extend_from_slice(&wire::encode(&counts));
        assert_eq!(Sessions::from_bytes(&huge), Err(Reject::Full));
    }
}

#[test]
fn clients_out_of_order_are_refused() {
    let mut table = opened();
    table.open(B, GATEWAY).unwrap();
    let bytes = table.to_bytes();
    // Magic, version, header item; then two session items of equal length.
    let (head, items) = bytes.split_at(5 + 12);
    let (first, second) = items.split_at(items.len() / 2);
    let swapped = [head, second, first].concat();
    assert_eq!(Sessions::from_bytes(&swapped), Err(Reject::Malformed));
    let twice = [head, first, first].concat();
    assert_eq!(Sessions::from_bytes(&twice), Err(Reject::Malformed));
}

/// One thing that can happen to a table, its gateways and its host.
#[derive(Clone, Debug)]
enum Event {
    /// A call arrives: new, a duplicate, a resend or out of order, with a mark that the client may lie about.
    Call { client: usize, sequence: u64, acked_below: u64 },
    /// The guest runs one of the requests that wait.
    Run { which: usize },
    /// The host gives its queue up without running it.
    Forget,
    /// The service moves: only the captured bytes go on.
    Move,
    /// The host sweeps, twice: what is idle goes.
    Sweep,
    /// A gateway opens its session, again or after eviction.
    Open { client: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3usize, 0..10u64, 0..4u64)
            .prop_map(|(client, sequence, acked_below)| Event::Call { client, sequence, acked_below }),
        6 => (0..8usize).prop_map(|which| Event::Run { which }),
        1 => Just(Event::Forget),
        2 => Just(Event::Move),
        1 => Just(Event::Sweep),
        1 => (0..3usize).prop_map(|client| Event::Open { client }),
    ]
}

proptest! {
    /// PROTOCOL 5: whatever happens, no (client, number) is executed twice, and every replay has the bytes of the one
    /// execution.
    #[test]
    fn executed_once_and_replayed_identically(events in proptest::collection::vec(event(), 1..200)) {
        let mut table = Sessions::default();
        let mut queue: Vec<(ClientId, u64)> = vec![];
        let mut executed: BTreeMap<(ClientId, u64), Vec<u8>> = BTreeMap::new();
        for number in 0..3 {
            table.open(client(number), gateway(number)).unwrap();
        }
        for event in events {
            match event {
                Event::Call { client: number, sequence, acked_below } => {
                    let (who, mark) = (client(number), acked_below.min(sequence));
                    match table.admit::<Strict>(who, sequence, HASH, mark) {
                        Ok(Admit::Execute) => {
                            prop_assert!(!queue.contains(&(who, sequence)));
                            queue.push((who, sequence));
                        }
                        Ok(Admit::Replay(response)) => {
                            prop_assert_eq!(Some(&response), executed.get(&(who, sequence)));
                        }
                        Ok(Admit::Join) => prop_assert!(queue.contains(&(who, sequence))),
                        Ok(Admit::Busy) => prop_assert!(false, "far from any cap"),
                        Err(reject) => {
                            prop_assert!(matches!(reject, Reject::NoSession | Reject::BelowAcked));
                        }
                    }
                }
                Event::Run { which } => if !queue.is_empty() {
                    let (who, sequence) = queue.remove(which % queue.len());
                    prop_assert_eq!(table.begin(who, sequence), Ok(()));
                    let response = format!("response {}", executed.len()).into_bytes();
                    let before = executed.insert((who, sequence), response.clone());
                    prop_assert_eq!(before, None, "executed twice");
                    prop_assert_eq!(table.complete(who, sequence, response), Ok(()));
                },
                Event::Forget => {
                    table.forget_running();
                    queue.clear();
                }
                Event::Move => {
                    let bytes = table.to_bytes();
                    table = Sessions::from_bytes(&bytes).unwrap();
                    prop_assert_eq!(table.to_bytes(), bytes);
                    queue.clear();
                }
                Event::Sweep => {
                    table.sweep();
                    table.sweep();
                }
                Event::Open { client: number } => {
                    let _ = table.open(client(number), gateway(number));
                }
            }
            let kept: usize = table.open.values().map(|session| session.kept_bytes).sum();
            prop_assert_eq!(table.kept_bytes(), kept);
            prop_assert_eq!(table.running(), queue.len());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let framed = [&b"WFSE\x01"[..], &bytes].concat();
        for bytes in [&bytes, &framed] {
            if let Ok(table) = Sessions::from_bytes(bytes) {
                prop_assert_eq!(&table.to_bytes(), bytes);
            }
        }
    }
}
