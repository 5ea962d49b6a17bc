use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{limits::REQUEST_BYTES_MAX, wire};

const A: ClientId = ClientId([1; 32]);
const B: ClientId = ClientId([2; 32]);
const HASH: Digest = Digest([7; 32]);
const OTHER: Digest = Digest([8; 32]);

fn opened() -> Sessions {
    let mut table = Sessions::default();
    table.open(A).unwrap();
    table
}

fn run(table: &mut Sessions, sequence: u64, response: &[u8]) {
    assert_eq!(table.admit(A, sequence, HASH, 0), Ok(Admit::Execute));
    table.begin(A, sequence).unwrap();
    table.complete(A, sequence, response.to_vec()).unwrap();
}

fn client(number: usize) -> ClientId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ClientId(id)
}

#[test]
fn a_request_runs_once_and_is_replayed() {
    let mut table = opened();
    assert_eq!(table.admit(A, 3, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit(A, 3, HASH, 0), Ok(Admit::Join));
    table.complete(A, 3, b"first".to_vec()).unwrap();
    assert_eq!(table.admit(A, 3, HASH, 0), Ok(Admit::Replay(b"first".to_vec())));
    assert_eq!(table.complete(A, 3, b"second".to_vec()), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit(A, 3, HASH, 3), Ok(Admit::Replay(b"first".to_vec())));
}

#[test]
fn without_a_session_nothing_runs() {
    assert_eq!(opened().admit(B, 0, HASH, 0), Err(Reject::NoSession));
}

#[test]
fn below_the_mark_nothing_runs() {
    let mut table = opened();
    run(&mut table, 0, b"r");
    assert_eq!(table.admit(A, 5, HASH, 4), Ok(Admit::Execute));
    let before = table.clone();
    assert_eq!(table.admit(A, 0, HASH, 0), Err(Reject::BelowAcked));
    assert_eq!(table.admit(A, 3, HASH, 0), Err(Reject::BelowAcked));
    assert_eq!(table.admit(A, 6, HASH, 7), Err(Reject::BelowAcked), "below this call's own mark");
    assert_eq!(table, before);
    assert_eq!(table.kept_bytes(), 0, "acknowledged responses are forgotten");
}

#[test]
fn another_request_under_a_used_number_is_refused() {
    let mut table = opened();
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit(A, 0, OTHER, 0), Err(Reject::OtherRequest));
    table.complete(A, 0, b"r".to_vec()).unwrap();
    assert_eq!(table.admit(A, 0, OTHER, 0), Err(Reject::OtherRequest));
}

#[test]
fn a_response_that_was_given_up_meanwhile_is_not_kept() {
    let mut table = opened();
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Execute));
    assert_eq!(table.admit(A, 1, HASH, 1), Ok(Admit::Execute));
    table.complete(A, 0, b"late".to_vec()).unwrap();
    assert_eq!(table.kept_bytes(), 0);
    assert_eq!(table.admit(A, 0, HASH, 0), Err(Reject::BelowAcked));
}

#[test]
fn kept_responses_are_capped_by_number() {
    let mut table = opened();
    for sequence in 0..KEPT_RESPONSES_MAX as u64 {
        run(&mut table, sequence, b"");
    }
    let next = KEPT_RESPONSES_MAX as u64;
    assert_eq!(table.admit(A, next, HASH, 0), Ok(Admit::Busy));
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Replay(vec![])));
    assert_eq!(table.admit(A, next, HASH, 1), Ok(Admit::Execute));
}

#[test]
fn kept_responses_are_capped_by_bytes_whatever_waits() {
    let mut table = opened();
    let large = vec![0; REQUEST_BYTES_MAX];
    let waiting = 8;
    for sequence in 0..waiting {
        assert_eq!(table.admit(A, sequence, HASH, 0), Ok(Admit::Execute));
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
    assert_eq!(table.admit(A, 7, HASH, 0), Ok(Admit::Busy));
    assert_eq!(table.admit(A, 7, HASH, 1), Ok(Admit::Execute));
    assert_eq!(table.complete(A, 7, vec![0; REQUEST_BYTES_MAX + 1]), Err(Reject::FrameTooLarge));
}

#[test]
fn what_was_not_admitted_neither_begins_nor_completes() {
    let mut table = opened();
    assert_eq!(table.begin(A, 0), Err(Reject::UnexpectedMessage));
    assert_eq!(table.complete(A, 0, vec![]), Err(Reject::UnexpectedMessage));
    assert_eq!(table.complete(B, 0, vec![]), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Execute));
    table.forget_running();
    assert_eq!(table.running(), 0);
    assert_eq!(table.begin(A, 0), Err(Reject::UnexpectedMessage));
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Execute));
    table.forget(A, 0);
    assert_eq!(table.admit(A, 0, OTHER, 0), Ok(Admit::Execute));
}

#[test]
fn sessions_are_capped() {
    let mut table = Sessions::default();
    for number in 0..SESSIONS_MAX {
        table.open(client(number)).unwrap();
    }
    assert_eq!(table.open(client(SESSIONS_MAX)), Err(Reject::Full));
    assert_eq!(table.open(client(0)), Ok(()));
}

#[test]
fn an_idle_session_leaves_a_tombstone() {
    let mut table = opened();
    table.open(B).unwrap();
    run(&mut table, 0, b"r");
    assert!(table.sweep().is_empty(), "used since the last sweep");
    table.touch(B);
    assert_eq!(table.sweep(), [A]);
    assert_eq!(table.kept_bytes(), 0);
    assert_eq!(table.admit(A, 0, HASH, 0), Err(Reject::NoSession));
    assert_eq!(table.open(A), Err(Reject::Finished));
    let mut table = Sessions::from_bytes(&table.to_bytes()).unwrap();
    assert_eq!(table.open(A), Err(Reject::Finished));
    assert!(table.is_open(B) && table.len() == 1 && !table.is_empty());
}

#[test]
fn a_running_session_is_not_swept() {
    let mut table = opened();
    assert_eq!(table.admit(A, 0, HASH, 0), Ok(Admit::Execute));
    table.sweep();
    assert!(table.sweep().is_empty());
}

#[test]
fn tombstones_are_bounded_and_the_oldest_goes() {
    let mut table = Sessions::default();
    for number in 0..=TOMBSTONES_MAX {
        table.open(client(number)).unwrap();
        table.evict(client(number));
    }
    assert_eq!(table.evictions.len(), TOMBSTONES_MAX);
    assert_eq!(table.open(client(0)), Ok(()));
    assert_eq!(table.open(client(1)), Err(Reject::Finished));
}

#[test]
fn damaged_bytes_are_refused() {
    let mut table = opened();
    table.open(B).unwrap();
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
    table.open(B).unwrap();
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
            table.open(client(number)).unwrap();
        }
        for event in events {
            match event {
                Event::Call { client: number, sequence, acked_below } => {
                    let (who, mark) = (client(number), acked_below.min(sequence));
                    match table.admit(who, sequence, HASH, mark) {
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
                    let _ = table.open(client(number));
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
