//! One request at a time: answers, and what is left after a failure.

use super::*;
use crate::runtime::{Fault, GlobalValue, LogStream, StateRecord};

/// The count that the misbehaving guest puts at the end of each response.
fn count(outcome: &CallOutcome) -> u64 {
    let tail = outcome.response.last_chunk().expect("a body");
    u64::from_le_bytes(*tail)
}

#[test]
fn the_kv_guest_serves_every_route() {
    let mut service = start(&prepare(KV), launch());
    let service = &mut *service;
    assert_eq!(kv(service, "GET", "/k/a", b""), (404, b"no such key\n".to_vec()));
    assert_eq!(kv(service, "PUT", "/k/a", b"\0\xff"), (201, b"created\n".to_vec()));
    assert_eq!(kv(service, "PUT", "/k/a", b""), (200, b"replaced\n".to_vec()));
    assert_eq!(kv(service, "GET", "/k/a", b""), (200, vec![]));
    assert_eq!(kv(service, "PUT", "/k/%2f%00", b"odd"), (201, b"created\n".to_vec()));
    assert_eq!(kv(service, "GET", "/k/%2F%00?query", b""), (200, b"odd".to_vec()));
    assert_eq!(kv(service, "DELETE", "/k/a", b""), (200, b"deleted\n".to_vec()));
    assert_eq!(kv(service, "DELETE", "/k/a", b"").0, 404);
    assert_eq!(kv(service, "GET", "/count", b""), (200, b"0".to_vec()));
    assert_eq!(kv(service, "POST", "/count", b""), (200, b"1".to_vec()));
    assert_eq!(kv(service, "POST", "/count", b""), (200, b"2".to_vec()));
    assert_eq!(kv(service, "GET", "/digest", b"").1.len(), 16);
    assert_eq!(kv(service, "POST", "/k/a", b"").0, 405);
    assert_eq!(kv(service, "DELETE", "/count", b"").0, 405);
    assert_eq!(kv(service, "GET", "/elsewhere", b"").0, 404);
    assert_eq!(kv(service, "GET", "/k/", b"").0, 400);
    assert_eq!(kv(service, "GET", "/k/%4", b"").0, 400);
    assert_eq!(kv(service, "GET", "/k/a/b", b"").0, 400);
    assert_eq!(kv(service, "PUT", &format!("/k/{}", "k".repeat(255)), b"x").0, 201);
    assert_eq!(kv(service, "PUT", &format!("/k/{}", "k".repeat(256)), b"x").0, 400);
    assert_eq!(kv(service, "PUT", "/k/large", &vec![b'v'; 1 << 20]).0, 201);
    assert_eq!(kv(service, "PUT", "/k/large", &vec![b'v'; (1 << 20) + 1]).0, 413);
}

#[test]
fn the_kv_guest_refuses_malformed_requests_and_goes_on() {
    let mut service = start(&prepare(KV), launch());
    let malformed: [&[u8]; 14] = [
        b"",
        b"\r\n",
        b"GET",
        b"GET /count",
        b"GET /count HTTP/1.1",
        b"GET /count HTTP/1.1\n\n",
        b"GET /count HTTP/1.1\r\n",
        b"GET /count HTTP/1.0\r\n\r\n",
        b"GET /count HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /count HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
        b"GET /count HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /count HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"GET /count HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        &[0xff; 300],
    ];
    for request in malformed {
        let outcome = call(&mut *service, request);
        assert_eq!((parsed(&outcome.response).0, outcome.rolled_back), (400, None), "{}", request.escape_ascii());
    }
    assert_eq!(kv(&mut *service, "POST", "/count", b""), (200, b"1".to_vec()));
}

#[test]
fn the_kv_guest_says_when_it_is_full_and_keeps_what_it_has() {
    let mut service = start(&prepare(KV), launch());
    let value = vec![b'v'; 1 << 20];
    let mut stored = 0;
    let full = loop {
        match kv(&mut *service, "PUT", &format!("/k/{stored}"), &value) {
            (201, _) => stored += 1,
            (status, _) => break status,
        }
    };
    assert_eq!(full, 507);
    assert!((8..16).contains(&stored), "{stored} MiB fit in 16 MiB");
    assert_eq!(kv(&mut *service, "DELETE", "/k/0", b"").0, 200);
    assert_eq!(kv(&mut *service, "PUT", "/k/again", b"small").0, 201);
}

#[test]
fn equal_contents_have_equal_digests_whatever_led_there() {
    let code = prepare(KV);
    let (mut left, mut right) = (start(&code, launch()), start(&code, roomy()));
    for key in 0..300 {
        kv(&mut *left, "PUT", &format!("/k/{key}"), format!("value {key}").as_bytes());
        kv(&mut *right, "PUT", &format!("/k/{}", 299 - key), format!("value {}", 299 - key).as_bytes());
    }
    assert_eq!(kv(&mut *left, "GET", "/digest", b""), kv(&mut *right, "GET", "/digest", b""));
    kv(&mut *left, "POST", "/count", b"");
    assert_ne!(kv(&mut *left, "GET", "/digest", b""), kv(&mut *right, "GET", "/digest", b""));
}

#[test]
fn each_failure_has_its_name_and_leaves_the_state_as_it_was() {
    let code = probe();
    let mut service = start(&code, launch());
    assert_eq!(count(&call(&mut *service, b"n")), 101);
    let before = digest(&*service);
    let memory = service.usage();
    let is = |letter: &[u8], expected: fn(&Fault) -> bool, service: &mut dyn Instance| {
        let outcome = call(service, letter);
        let fault = outcome.rolled_back.clone().expect("a fault");
        assert!(expected(&fault), "{}: {fault}", letter.escape_ascii());
        assert_eq!(outcome.inputs.cut(), Some(&fault));
        assert_eq!(parsed(&outcome.response).0, 500);
        assert_eq!(digest(service), before, "{}", letter.escape_ascii());
    };
    is(b"t", |fault| matches!(fault, Fault::Trapped { .. }), &mut *service);
    is(b"l", |fault| matches!(fault, Fault::TimedOut { millis_max: 1000 }), &mut *service);
    is(b"G", |fault| matches!(fault, Fault::Trapped { .. }), &mut *service);
    assert_eq!(service.usage(), memory);
    is(b"m", |fault| matches!(fault, Fault::OutOfMemory { bytes_max } if *bytes_max == 16 * MIB), &mut *service);
    is(b"r", |fault| *fault == Fault::TooManyInputs, &mut *service);
    is(b"x", |fault| *fault == Fault::Exited { code: 3 }, &mut *service);
    is(b"b", |fault| matches!(fault, Fault::BadResponse { .. }), &mut *service);
    is(b"o", |fault| matches!(fault, Fault::BadResponse { .. }), &mut *service);
    is(b"s", |fault| matches!(fault, Fault::BadResponse { .. }), &mut *service);
    assert_eq!(count(&call(&mut *service, b"n")), 102);
}

#[test]
fn a_refused_growth_is_the_services_to_handle() {
    let mut service = start(&probe(), launch());
    let outcome = call(&mut *service, b"M");
    assert_eq!(outcome.rolled_back, None);
    assert_eq!(&outcome.response[19..23], &[0xff; 4]);
}

#[test]
fn a_request_that_is_too_long_never_reaches_the_service() {
    let mut service = start(&prepare(KV), launch());
    let before = digest(&*service);
    let outcome = call(&mut *service, &vec![b'n'; 2 * 1024 * 1024 + 1]);
    assert_eq!(outcome.rolled_back, Some(Fault::RequestTooLong { bytes_max: 2 * MIB }));
    assert_eq!(parsed(&outcome.response).0, 413);
    assert_eq!(digest(&*service), before);
}

#[test]
fn the_log_keeps_what_was_written_even_by_requests_that_failed() {
    let launch = launch();
    let log = launch.log.clone();
    let mut service = start(&probe(), launch);
    call(&mut *service, b"w");
    let lines = log.since(0);
    assert_eq!((lines[0].text.as_str(), lines[0].stream), ("hello", LogStream::Stdout));
}

#[test]
fn the_environment_reaches_the_service() {
    let mut service = start(&probe(), launch());
    let response = call(&mut *service, b"e").response;
    assert_eq!(&response[19..27], [1, 0, 0, 0, 11, 0, 0, 0]);
    assert_eq!(&response[35..46], b"NAME=value\0");
}

#[test]
fn time_goes_on_over_a_rollback_and_never_back() {
    let mut service = start(&probe(), launch());
    let monotonic =
        |outcome: CallOutcome| u64::from_le_bytes(outcome.response[27..35].try_into().expect("eight bytes"));
    let first = monotonic(call(&mut *service, b"c"));
    assert!(call(&mut *service, b"r").rolled_back.is_some());
    let second = monotonic(call(&mut *service, b"c"));
    assert!(second > first + 1000, "the clock ran on while a request was cut: {first} {second}");
}

#[test]
fn nothing_of_a_failed_start_is_left() {
    let module = PROBE.replace("(global.set $count (i64.add (global.get $count) (i64.const 100)))", "(unreachable)");
    let code = prepare(&wat::parse_str(module).expect("valid text"));
    let error = WasmDriver::new().start(&code, launch(), None).err().expect("a failure");
    assert!(error.to_string().contains("`_initialize` failed"), "{error}");
    let small = Launch { limits: Limits { memory_bytes_max: MIB / 8, ..launch().limits }, ..launch() };
    let error = WasmDriver::new().start(&probe(), small, None).err().expect("a failure");
    assert!(error.to_string().contains("may use 131072"), "{error}");
}

#[test]
fn the_captured_globals_are_those_of_the_service() {
    let mut service = start(&probe(), launch());
    call(&mut *service, b"n");
    let mut records = Records::new();
    service.save(Salt([7; 32]), &mut collect(&mut records)).expect("readable");
    let (kind, payload) = records.last().expect("globals");
    let expected = vec![GlobalValue::I64(101), GlobalValue::V128(6 << 64 | 4), GlobalValue::F64(1.5f64.to_bits())];
    let Ok(StateRecord::Globals { values, .. }) = StateRecord::decode(*kind, payload) else { panic!("not globals") };
    assert_eq!(values, expected);
}

#[test]
fn code_is_compiled_once_and_kept_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("code");
    let entries =
        || std::fs::read_dir(&path).expect("a folder").map(|e| e.expect("an entry").path()).collect::<Vec<_>>();
    let prepare = || WasmDriver::with_cache(&path).expect("a cache").prepare(KV, MIB).expect("a service");
    let code = prepare();
    let kept = entries();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::metadata(&kept[0]).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(prepare().digest(), code.digest());

    // Damaged, or open to others: compiled again, and kept again.
    let whole = std::fs::read(&kept[0]).expect("readable");
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("not empty") ^= 1;
    std::fs::write(&kept[0], damaged).expect("writable");
    assert_eq!(kv(&mut *start(&prepare(), launch()), "POST", "/count", b""), (200, b"1".to_vec()));
    assert_eq!(std::fs::read(&kept[0]).expect("readable"), whole);
    std::fs::set_permissions(&kept[0], std::fs::Permissions::from_mode(0o644)).expect("allowed");
    prepare();
    assert_eq!(std::fs::metadata(&kept[0]).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(entries().len(), 1);
}
