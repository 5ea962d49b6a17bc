//! Capture here, restore there: the same service, in the middle of its life.

use proptest::prelude::*;

use super::*;
use crate::runtime::state::{KIND_GLOBALS, KIND_PAGE};
use crate::runtime::{ApplyError, CallError, CaptureError, GlobalValue, StartError, StateRecord};

#[test]
fn a_moved_service_goes_on_where_it_was() {
    let code = prepare(KV);
    let mut service = start(&code, launch());
    for _ in 0..41 {
        kv(&mut *service, "POST", "/count", b"");
    }
    kv(&mut *service, "PUT", "/k/key", &vec![1; 300_000]);
    let (before, logical) = (digest(&*service), kv(&mut *service, "GET", "/digest", b""));
    let launch = Launch { outside: Ticking::from(0), ..launch() };
    let log = launch.log.clone();
    let mut moved = moved(&code, service, launch);
    assert_eq!(log.since(0), [], "`_initialize` is not run again");
    assert_eq!(kv(&mut *moved, "GET", "/digest", b""), logical);
    assert_eq!(kv(&mut *moved, "POST", "/count", b""), (200, b"42".to_vec()));
    assert_eq!(kv(&mut *moved, "GET", "/k/key", b"").0, 500, "longer than the response limit of this test");
    assert_ne!(digest(&*moved), before);
}

#[test]
fn a_move_restores_zeroed_data_grown_memories_globals_and_the_clock() {
    let code = probe();
    let mut service = start(&code, launch());
    call(&mut *service, b"c");
    call(&mut *service, b"g");
    let last = u64::from_le_bytes(call(&mut *service, b"c").response[27..35].try_into().expect("eight bytes"));
    let before = digest(&*service);
    let mut moved = moved(&code, service, Launch { outside: Ticking::from(0), ..launch() });
    assert_eq!(digest(&*moved), before);
    let response = call(&mut *moved, b"c").response;
    assert!(u64::from_le_bytes(response[27..35].try_into().expect("eight bytes")) >= last);
    assert!(call(&mut *moved, b"G").rolled_back.is_some(), "a rollback after a move");
    assert!(call(&mut *moved, b"g").rolled_back.is_none());
}

#[test]
fn rounds_while_it_serves_lead_to_the_same_state_and_leave_little_to_the_end() {
    let code = prepare(KV);
    let mut service = start(&code, roomy());
    for key in 0..60 {
        kv(&mut *service, "PUT", &format!("/k/{key}"), &vec![key; 50_000]);
    }
    let mut records = Records::new();
    service.arm(Salt([7; 32])).expect("armed");
    let mut left = u64::MAX;
    for step in 0u8.. {
        let stats = service.round(10, &mut collect(&mut records)).expect("sent");
        assert!(stats.pages_sent <= 10);
        if stats.pages_left >= left && stats.pages_left < 10 {
            break;
        }
        left = stats.pages_left;
        // Pages change, grow, and become zero while others are sent.
        kv(&mut *service, "PUT", &format!("/k/{step}"), &vec![0; 70_000]);
        kv(&mut *service, "POST", "/count", b"");
        assert!(step < 100, "the rounds do not end");
    }
    let quiesced = service.quiesce().expect("no blocker");
    assert!(matches!(service.call(b"x"), Err(CallError::Frozen)));
    let state = service.finish(&quiesced, &mut collect(&mut records)).expect("captured");
    assert!(state.stats.pages_sent < 12, "{:?}", state.stats);
    assert_eq!(state.digest, digest(&*service));
    let incoming = receive(&code, roomy(), &records);
    assert_eq!(incoming.digest().expect("complete"), state.digest);

    // Everything once more, to the same receiver: harmless, and it leads to the same.
    service.arm(Salt([7; 32])).expect("armed");
    let mut again = records.clone();
    assert_eq!(service.finish(&quiesced, &mut collect(&mut again)).expect("captured").digest, state.digest);
    assert_eq!(receive(&code, roomy(), &again).digest().expect("complete"), state.digest);
    service.abort(quiesced);
    let counted = kv(&mut *service, "POST", "/count", b"");
    let mut moved = incoming.activate(state.digest).expect("it activates");
    assert_eq!(kv(&mut *moved, "POST", "/count", b""), counted);
}

#[test]
fn a_checkpoint_of_what_arrived_is_the_same_state() {
    let code = probe();
    let mut service = start(&code, launch());
    call(&mut *service, b"g");
    let mut records = Records::new();
    let state = service.save(Salt([7; 32]), &mut collect(&mut records)).expect("readable");
    let mut copy = Records::new();
    let kept = receive(&code, launch(), &records).save(&mut collect(&mut copy)).expect("complete");
    assert_eq!((kept.digest, copy), (state.digest, records));
}

#[test]
fn a_capture_needs_arming_and_survives_a_closed_sink() {
    let mut service = start(&probe(), launch());
    let mut nowhere = |_: u8, _: &[u8]| Err(SinkClosed);
    assert!(matches!(service.round(1, &mut nowhere), Err(CaptureError::NotArmed)));
    service.arm(Salt([7; 32])).expect("armed");
    assert!(matches!(service.round(1, &mut nowhere), Err(CaptureError::Closed(_))));
    let quiesced = service.quiesce().expect("no blocker");
    assert!(matches!(service.finish(&quiesced, &mut nowhere), Err(CaptureError::Closed(_))));
    let mut records = Records::new();
    let state = service.finish(&quiesced, &mut collect(&mut records)).expect("captured");
    assert_eq!(receive(&probe(), launch(), &records).digest().expect("complete"), state.digest);
}

fn encoded(record: &StateRecord<'_>) -> (u8, Vec<u8>) {
    let mut payload = Vec::new();
    record.encode(&mut payload);
    (record.kind(), payload)
}

fn page(round: u32, memory: u32, index: u64, bytes: &'static [u8]) -> StateRecord<'static> {
    StateRecord::Page { round, memory, index, bytes: bytes.into() }
}

#[test]
fn each_wrong_record_is_refused_by_name_and_changes_nothing() {
    let code = probe();
    let mut incoming = receive(&code, launch(), &Records::new());
    let mut apply = |record: StateRecord<'_>| {
        let (kind, payload) = encoded(&record);
        incoming.apply(kind, &payload)
    };
    let globals = |count| StateRecord::Globals {
        values: vec![GlobalValue::I64(count), GlobalValue::V128(0), GlobalValue::F64(0)],
        monotonic_ns: 0,
    };
    let layout = |pages: &[u64]| StateRecord::Layout { pages: pages.to_vec() };
    assert!(matches!(apply(page(1, 0, 0, b"x")), Err(ApplyError::NoLayout)));
    assert!(matches!(apply(globals(1)), Err(ApplyError::NoLayout)));
    assert!(matches!(apply(layout(&[2])), Err(ApplyError::MemoryCount { found: 1, expected: 2 })));
    assert!(matches!(apply(layout(&[1, 1])), Err(ApplyError::MemorySize { memory: 0, min: 2, max: 64, .. })));
    assert!(matches!(apply(layout(&[65, 1])), Err(ApplyError::MemorySize { memory: 0, .. })));
    assert!(matches!(apply(layout(&[2, u64::MAX])), Err(ApplyError::MemorySize { memory: 1, .. })));
    assert!(matches!(apply(layout(&[2, 65536])), Err(ApplyError::MemoryTooLarge { .. })));
    assert!(apply(layout(&[3, 1])).is_ok());
    assert!(matches!(apply(layout(&[2, 1])), Err(ApplyError::MemorySize { memory: 0, min: 3, .. })));
    assert!(matches!(apply(page(1, 2, 0, b"x")), Err(ApplyError::OutOfRange { .. })));
    assert!(matches!(apply(page(1, 0, 3, b"x")), Err(ApplyError::OutOfRange { .. })));
    assert!(matches!(apply(page(1, 0, u64::MAX, b"x")), Err(ApplyError::OutOfRange { .. })));
    assert!(apply(page(2, 0, 0, b"two")).is_ok());
    assert!(apply(page(2, 0, 0, b"two")).is_ok());
    assert!(apply(page(1, 0, 0, b"one, late")).is_ok());
    assert!(matches!(apply(page(2, 0, 0, b"other")), Err(ApplyError::PageConflict { .. })));
    assert!(apply(page(3, 0, 0, b"3")).is_ok());
    let short = StateRecord::Globals { values: vec![], monotonic_ns: 0 };
    assert!(matches!(apply(short), Err(ApplyError::GlobalMismatch { expected: 3 })));
    let mistyped = StateRecord::Globals { values: vec![GlobalValue::I32(0); 3], monotonic_ns: 0 };
    assert!(matches!(apply(mistyped), Err(ApplyError::GlobalMismatch { .. })));
    assert!(apply(globals(1)).is_ok());
    assert!(apply(globals(1)).is_ok());
    assert!(matches!(apply(globals(2)), Err(ApplyError::GlobalConflict)));
    assert!(matches!(incoming.apply(99, b""), Err(ApplyError::Malformed(_))));

    let same = [encoded(&layout(&[3, 1])), encoded(&page(1, 0, 0, b"3")), encoded(&globals(1))];
    let plain = receive(&code, launch(), &same.to_vec());
    assert_eq!(incoming.digest().expect("complete"), plain.digest().expect("complete"));
}

#[test]
fn what_is_incomplete_or_not_the_expected_state_does_not_run() {
    let code = probe();
    let mut service = start(&code, launch());
    call(&mut *service, b"n");
    let mut records = Records::new();
    let state = service.save(Salt([7; 32]), &mut collect(&mut records)).expect("readable");
    let last = records.pop().expect("globals");
    assert!(matches!(receive(&code, launch(), &records).digest(), Err(ApplyError::NoGlobals)));
    assert!(matches!(receive(&code, launch(), &Records::new()).digest(), Err(ApplyError::NoLayout)));
    let early = receive(&code, launch(), &records).activate(state.digest).err().expect("refused");
    assert!(matches!(early, StartError::Incomplete(_)), "{early}");
    assert_eq!(records.pop().expect("a page").0, KIND_PAGE);
    records.push(last);
    let wrong = receive(&code, launch(), &records).activate(state.digest).err().expect("refused");
    assert!(matches!(wrong, StartError::WrongState { .. }), "{wrong}");
}

/// What a client may do to the key-value guest.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32),
    Delete(u8),
    Count,
    Read(u8),
    Junk(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), 0u32..100_000).prop_map(|(key, len)| Step::Put(key % 16, len)),
        any::<u8>().prop_map(|key| Step::Delete(key % 16)),
        Just(Step::Count),
        any::<u8>().prop_map(|key| Step::Read(key % 16)),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Step::Junk),
    ]
}

fn request(step: &Step) -> Vec<u8> {
    match step {
        Step::Put(key, len) => http("PUT", &format!("/k/{key}"), &vec![*key; *len as usize]),
        Step::Delete(key) => http("DELETE", &format!("/k/{key}"), b""),
        Step::Count => http("POST", "/count", b""),
        Step::Read(key) => http("GET", &format!("/k/{key}"), b""),
        Step::Junk(bytes) => bytes.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_life_with_a_move_is_the_same_life(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let code = prepare(KV);
        let (mut stays, inputs) = started(&code, roomy());
        let (mut moves, _) = WasmDriver::new().start(&code, roomy(), Some(&inputs)).expect("it starts");
        for step in &before {
            prop_assert_eq!(call(&mut *stays, &request(step)), call(&mut *moves, &request(step)));
        }
        let mut moves = moved(&code, moves, roomy());
        prop_assert_eq!(digest(&*stays), digest(&*moves));
        for step in &after {
            prop_assert_eq!(call(&mut *stays, &request(step)), call(&mut *moves, &request(step)));
        }
        prop_assert_eq!(digest(&*stays), digest(&*moves));
    }

    #[test]
    fn no_bytes_from_a_peer_panic_or_take_more_than_their_limit(
        records in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..64)), 0..40),
    ) {
        let code = probe();
        let mut incoming = receive(&code, launch(), &vec![encoded(&StateRecord::Layout { pages: vec![2, 1] })]);
        for (kind, payload) in &records {
            let _ = incoming.apply(*kind, payload);
        }
        let _ = incoming.digest();
    }

    #[test]
    fn a_changed_byte_changes_the_digest(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let code = probe();
        let mut service = start(&code, launch());
        call(&mut *service, b"g");
        let mut records = Records::new();
        let state = service.save(Salt([7; 32]), &mut collect(&mut records)).expect("readable");
        let pages: Vec<_> = (0..records.len()).filter(|&n| records[n].0 == KIND_PAGE || n + 1 == records.len()).collect();
        let (kind, payload) = &mut records[pages[at.index(pages.len())]];
        // Beside the round, which is not state: contents, addresses and globals.
        let from = if *kind == KIND_GLOBALS { 1 } else { 4 };
        let byte = from + at.index(payload.len() - from);
        payload[byte] ^= 1 << bit;
        let mut incoming = receive(&code, launch(), &Records::new());
        let applied = records.iter().try_for_each(|(kind, payload)| incoming.apply(*kind, payload));
        prop_assert!(applied.is_err() || incoming.digest().expect("complete") != state.digest);
    }
}
