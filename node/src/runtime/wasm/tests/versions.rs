//! A state goes from one version of a service's code to another.

use super::*;
use crate::runtime::{Fault, HandOverError};

const SAVE: &str = r#"(func (export "wayfare_save") (result i64)
    (i32.store (i32.const 512) (global.get $count))
    (global.set $count (i32.const 1000))
    (i64.const 0x20000000004))"#;
const LOAD: &str = r#"(func (export "wayfare_load") (param i32) (result i32)
    (global.set $count (i32.load (i32.const 1024)))
    (if (i32.eq (global.get $count) (i32.const 13)) (then unreachable))
    (i32.gt_u (global.get $count) (i32.const 100)))"#;

/// A service that counts its requests: the answer is the `version`, then the count as a byte.
fn counter(version: char, exports: &str) -> Prepared {
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (global $count (mut i32) (i32.const 0))
            (data (i32.const 0) "HTTP/1.1 200 OK\0d\0a\0d\0a{version}")
            (func (export "wayfare_buffer") (param i32) (result i32)
                (if (result i32) (i32.gt_u (local.get 0) (i32.const 4096)) (then (i32.const 0)) (else (i32.const 1024))))
            (func (export "wayfare_handle") (param i32) (result i64)
                (global.set $count (i32.add (global.get $count) (i32.const 1)))
                (i32.store8 (i32.const 20) (global.get $count))
                (i64.const 21))
            {exports})"#
    );
    prepare(&wat::parse_str(text).expect("valid text"))
}

fn count(instance: &mut dyn Instance) -> (u8, u8) {
    let response = call(instance, b"x").response;
    (response[19], response[20])
}

fn counted(prepared: &Prepared, requests: u8) -> Box<dyn Instance> {
    let mut service = start(prepared, launch());
    for _ in 0..requests {
        count(&mut *service);
    }
    service
}

#[test]
fn a_new_version_goes_on_with_the_state_of_the_old_which_stays_as_it_was() {
    let mut old = counted(&counter('1', SAVE), 5);
    let before = digest(&*old);
    let state = old.hand_over().expect("saved");
    assert_eq!((state.as_slice(), digest(&*old)), (5i32.to_le_bytes().as_slice(), before));
    let mut new = start(&counter('2', LOAD), launch());
    new.take_over(&state).expect("taken");
    assert_eq!((count(&mut *new), count(&mut *old)), ((b'2', 6), (b'1', 6)));
    let mut moved = moved(&counter('2', LOAD), new, launch());
    assert_eq!(count(&mut *moved), (b'2', 7), "what was taken is state like any other");
}

#[test]
fn what_cannot_be_kept_is_refused_by_name_and_changes_nothing() {
    let named = |error: HandOverError, name: &str| assert!(error.to_string().starts_with(name), "{error}");
    named(counted(&counter('1', ""), 1).hand_over().expect_err("no export"), "no_state_export: ");
    let zero = r#"(func (export "wayfare_save") (result i64) (i64.const 0))"#;
    named(counted(&counter('1', zero), 1).hand_over().expect_err("zero"), "state_not_saved: ");
    let outside = r#"(func (export "wayfare_save") (result i64) (i64.const 0xffff00000002))"#;
    let error = counted(&counter('1', outside), 1).hand_over().expect_err("outside of the memory");
    assert!(matches!(error, HandOverError::Failed(Fault::BadResponse { .. })), "{error}");

    let mut without = start(&counter('2', ""), launch());
    named(without.take_over(b"1234").expect_err("no import"), "no_state_import: ");
    let mut new = counted(&counter('2', LOAD), 1);
    let before = digest(&*new);
    named(new.take_over(&101i32.to_le_bytes()).expect_err("refused"), "state_refused: ");
    let error = new.take_over(&13i32.to_le_bytes()).expect_err("trapped");
    assert!(matches!(error, HandOverError::Failed(Fault::Trapped { .. })), "{error}");
    let error = new.take_over(&[0; 5000]).expect_err("no room");
    assert!(matches!(error, HandOverError::Failed(Fault::BadResponse { .. })), "{error}");
    assert_eq!((digest(&*new), count(&mut *new)), (before, (b'2', 2)));
}

#[test]
fn a_database_goes_from_one_version_to_another() {
    const SQL: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/sql/sql.wasm"));
    let code = WasmDriver::new().prepare(SQL, 64 * MIB).expect("a service");
    let mut old = start(&code, roomy());
    let (status, body) = kv(&mut *old, "POST", "/sql", b"CREATE TABLE t(a); INSERT INTO t VALUES (1),(2),(3);");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let state = old.hand_over().expect("saved");
    let mut new = start(&code, roomy());
    new.take_over(&state).expect("taken");
    let (status, body) = kv(&mut *new, "POST", "/sql", b"SELECT sum(a) FROM t; ");
    assert_eq!((status, String::from_utf8_lossy(&body).contains("[[6]]")), (200, true));
}
