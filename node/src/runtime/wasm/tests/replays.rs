//! A request that is run again, with what it read then, leads to the same.

use super::*;
use crate::runtime::limits::{CLOCK_READS_MAX, TRAP_TEXT_BYTES_MAX};
use crate::runtime::{CallError, Fault, InputsError, StartError};

#[test]
fn replay_repeats_answers_and_state_byte_for_byte() {
    let code = probe();
    let (mut first, inputs) = started(&code, launch());
    let other = Launch { outside: Ticking::from(5_000_000), ..launch() };
    let (mut second, _) = WasmDriver::new().start(&code, other, Some(&inputs)).expect("it starts");
    assert_eq!(digest(&*first), digest(&*second));
    for request in [b"n", b"c", b"t", b"l", b"c", b"g", b"G", b"w", b"r", b"c"] {
        let outcome = call(&mut *first, request);
        // What was cut is not run again: another machine might not have cut it.
        let again = second.replay(request, &outcome.inputs).expect("the same");
        assert_eq!(again, outcome);
        assert_eq!(digest(&*first), digest(&*second), "{}", request.escape_ascii());
    }
    // The clock goes on from the last recorded reading.
    let reading = |outcome: CallOutcome| u64::from_le_bytes(outcome.response[27..35].try_into().expect("eight bytes"));
    let last = reading(call(&mut *first, b"c"));
    assert!(reading(call(&mut *second, b"c")) <= last + 10_000);
}

#[test]
fn a_start_is_replayed_too() {
    let code = prepare(KV);
    let (first, inputs) = started(&code, launch());
    assert!(!inputs.is_empty(), "the kv guest draws a seed");
    let other = Launch { outside: Ticking::from(77), ..launch() };
    let log = other.log.clone();
    let (second, _) = WasmDriver::new().start(&code, other.clone(), Some(&inputs)).expect("it starts");
    assert_eq!(digest(&*first), digest(&*second));
    assert_eq!(log.since(0), [], "what is replayed was logged before");
    assert_ne!(digest(&*start(&code, other)), digest(&*first));
    let error = WasmDriver::new().start(&code, launch(), Some(&RecordedInputs::default())).err().expect("a failure");
    assert!(matches!(error, StartError::Initialize(_)), "{error}");
}

#[test]
fn another_record_than_the_requests_own_is_noticed_and_changes_nothing() {
    let mut service = start(&probe(), launch());
    let before = digest(&*service);
    let clocks = call(&mut *start(&probe(), launch()), b"c").inputs;
    let mut more = clocks.clone();
    more.clock_ns.push(1);
    let mut unseeded = clocks.clone();
    unseeded.seed = None;
    for (request, inputs) in [(b"n", &clocks), (b"c", &RecordedInputs::default()), (b"c", &more), (b"c", &unseeded)] {
        assert!(matches!(service.replay(request, inputs), Err(CallError::Diverged(_))), "{inputs:?}");
        assert_eq!(digest(&*service), before);
    }
}

#[test]
fn records_do_not_show_their_seed() {
    let inputs = call(&mut *start(&probe(), launch()), b"c").inputs;
    assert_eq!(format!("{inputs:?}"), "RecordedInputs { clock_reads: 2, seeded: true, cut: None }");
}

#[test]
fn records_survive_the_codec_and_nothing_else_does() {
    let mut service = start(&probe(), launch());
    for request in [b"n", b"c", b"t", b"g", b"G"] {
        let inputs = call(&mut *service, request).inputs;
        assert_eq!(RecordedInputs::from_bytes(&inputs.to_bytes()), Ok(inputs), "{}", request.escape_ascii());
    }
    assert!(call(&mut *service, b"n").inputs.to_bytes().is_empty());
    let bytes = call(&mut *service, b"c").inputs.to_bytes();
    let longer = [bytes.as_slice(), &[0]].concat();
    for malformed in [&bytes[..bytes.len() - 1], &longer, &[1], &[&[1], [0; 10].as_slice()].concat()] {
        assert_eq!(RecordedInputs::from_bytes(malformed), Err(InputsError::Malformed), "{malformed:?}");
    }
    assert_eq!(RecordedInputs::from_bytes(&[2, 0]), Err(InputsError::Version { found: 2 }));
}

#[test]
fn the_longest_record_is_within_its_bound() {
    let clock_ns = vec![u64::MAX; CLOCK_READS_MAX];
    let cut = Some(Fault::Trapped { what: "x".repeat(TRAP_TEXT_BYTES_MAX) });
    let mut inputs = RecordedInputs { clock_ns, seed: Some([1; 32]), cut };
    assert_eq!(RecordedInputs::from_bytes(&inputs.to_bytes()).as_ref(), Ok(&inputs));
    inputs.clock_ns.push(1);
    assert_eq!(RecordedInputs::from_bytes(&inputs.to_bytes()), Err(InputsError::Malformed));
}
