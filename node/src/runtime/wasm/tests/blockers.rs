//! Each reason why a module cannot be a service, provoked.

use proptest::prelude::*;

use super::*;
use crate::runtime::{Blocker, PrepareError};

/// A module with `extra` fields beside what the ABI asks for.
fn with(extra: &str) -> String {
    format!(
        r#"(module {extra}
            (memory (export "memory") 1)
            (func (export "wayfare_buffer") (param i32) (result i32) (i32.const 8))
            (func (export "wayfare_handle") (param i32) (result i64) (i64.const 0)))"#
    )
}

fn blockers_of(module: &[u8]) -> Vec<Blocker> {
    match WasmDriver::new().prepare(module, MIB) {
        Err(PrepareError::Blocked(blockers)) => blockers,
        Err(error) => panic!("{error}"),
        Ok(_) => vec![],
    }
}

fn blockers(text: &str) -> Vec<Blocker> {
    blockers_of(&wat::parse_str(text).expect("valid text"))
}

#[test]
fn a_plain_service_has_none() {
    assert_eq!(blockers(&with("")), []);
    assert_eq!(blockers_of(KV), []);
    assert_eq!(
        blockers(&with(r#"(table 2 funcref) (func $f) (elem (i32.const 0) $f) (global funcref (ref.func $f))"#)),
        []
    );
    assert_eq!(
        blockers(&with(r#"(data $d "passive") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1)))"#)),
        []
    );
}

#[test]
fn what_is_no_module() {
    assert_eq!(blockers_of(b"#!/bin/sh"), [Blocker::NotWebAssembly]);
    assert_eq!(blockers_of(b"\0as"), [Blocker::NotWebAssembly]);
    assert_eq!(blockers("(component)"), [Blocker::Component]);
    assert!(matches!(blockers_of(b"\0asm\x01\0\0\0\x63").as_slice(), [Blocker::Invalid { .. }]));
    assert!(matches!(blockers_of(&KV[..KV.len() - 1]).as_slice(), [Blocker::Invalid { .. }]));
    let huge = [b"\0asm\x01\0\0\0".as_slice(), &vec![0; crate::runtime::limits::MODULE_BYTES_MAX]].concat();
    assert_eq!(blockers_of(&huge), [Blocker::ModuleTooLarge { bytes: huge.len() }]);
}

#[test]
fn exports_that_are_missing_or_of_another_type() {
    let names: Vec<_> = blockers("(module)").into_iter().map(|blocker| blocker.to_string()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let odd = r#"(module (func (export "memory")) (memory (export "wayfare_handle") 1)
        (func (export "wayfare_buffer") (param i64) (result i32) (i32.const 8)) (func (export "_initialize") (param i32)))"#;
    let wrong = blockers(odd);
    assert!(wrong.iter().all(|blocker| matches!(blocker, Blocker::WrongExport { .. })), "{wrong:?}");
    assert_eq!(wrong.len(), 4);
    let second = r#"(module (memory 1) (memory (export "memory") 1)
        (func (export "wayfare_buffer") (param i32) (result i32) (i32.const 8))
        (func (export "wayfare_handle") (param i32) (result i64) (i64.const 0)))"#;
    assert!(matches!(blockers(second).as_slice(), [Blocker::WrongExport { name: "memory", .. }]));
    let reserved = with(r#"(func (export "__wizer_global_0"))"#);
    assert_eq!(blockers(&reserved), [Blocker::ReservedName { name: "__wizer_global_0".into() }]);
}

#[test]
fn imports_that_are_not_offered_are_all_named() {
    let found = blockers(&with(
        r#"(import "wasi_snapshot_preview1" "path_open" (func))
           (import "wasi_snapshot_preview1" "fd_write" (func (param i32) (result i32)))
           (import "env" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
           (import "env" "t" (table 1 funcref)) (import "env" "g" (global i32)) (import "env" "e" (tag))"#,
    ));
    let named = |module: &str, name: &str| (module.to_owned(), name.to_owned());
    let import = |(module, name)| Blocker::Import { module, name };
    let state = |kind, (module, name)| Blocker::ImportedState { kind, module, name };
    let (module, name) = named("wasi_snapshot_preview1", "fd_write");
    for expected in [
        import(named("wasi_snapshot_preview1", "path_open")),
        import(named("env", "fd_write")),
        Blocker::ImportType { module, name },
        state("table", named("env", "t")),
        state("global", named("env", "g")),
        state("tag", named("env", "e")),
    ] {
        assert!(found.contains(&expected), "{expected} not in {found:?}");
    }
    let memory = r#"(module (import "env" "m" (memory 1)) (export "memory" (memory 0))
        (func (export "wayfare_buffer") (param i32) (result i32) (i32.const 8))
        (func (export "wayfare_handle") (param i32) (result i64) (i64.const 0)))"#;
    assert_eq!(blockers(memory), [Blocker::ImportedMemory { module: "env".into(), name: "m".into() }]);
}

#[test]
fn what_cannot_be_captured() {
    let mutation = |body: &str| blockers(&with(&format!("(table $t 1 funcref) (elem $e funcref) (func {body})")));
    let table = |instruction| vec![Blocker::TableMutation { instruction }];
    assert_eq!(mutation("(table.set $t (i32.const 0) (ref.null func))"), table("table.set"));
    assert_eq!(mutation("(drop (table.grow $t (ref.null func) (i32.const 1)))"), table("table.grow"));
    assert_eq!(mutation("(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 0))"), table("table.init"));
    assert_eq!(mutation("(table.copy $t $t (i32.const 0) (i32.const 0) (i32.const 0))"), table("table.copy"));
    assert_eq!(mutation("(table.fill $t (i32.const 0) (ref.null func) (i32.const 0))"), table("table.fill"));
    assert_eq!(mutation("(elem.drop $e)"), [Blocker::SegmentDrop { instruction: "elem.drop" }]);
    assert_eq!(
        blockers(&with(r#"(data $d "x") (func (data.drop $d))"#)),
        [Blocker::SegmentDrop { instruction: "data.drop" }]
    );
    assert_eq!(
        blockers(&with("(global i32 (i32.const 0)) (global (mut funcref) (ref.null func))")),
        [Blocker::ReferenceGlobal { index: 1 }]
    );
    assert_eq!(blockers(&with("(func $main) (start $main)")), [Blocker::StartFunction]);
}

#[test]
fn proposals_that_are_not_supported() {
    assert_eq!(blockers(&with("(func (atomic.fence))")), [Blocker::Threads]);
    let memory = |memory: &str| blockers(&with("").replace(r#"(memory (export "memory") 1)"#, memory));
    assert_eq!(memory(r#"(memory (export "memory") 1 1 shared)"#), [Blocker::Threads]);
    assert_eq!(memory(r#"(memory (export "memory") i64 1)"#), [Blocker::Memory64 { index: 0 }]);
    let odd_pages = memory(r#"(memory (export "memory") 1 (pagesize 1))"#);
    assert_eq!(odd_pages, [Blocker::PageSize { index: 0 }]);
    let exception = blockers(&with("(tag $e) (func (throw $e))"));
    assert!(matches!(exception.as_slice(), [Blocker::UnsupportedFeature { .. }]), "{exception:?}");
    let gc = blockers(&with("(type $s (struct (field (mut i32))))"));
    assert!(matches!(gc.as_slice(), [Blocker::UnsupportedFeature { .. }]), "{gc:?}");
    let atomic = with("(func (drop (i32.atomic.load (i32.const 0))))");
    assert!(!blockers(&atomic).is_empty());
}

#[test]
fn sizes_beyond_the_limits() {
    let grown = with("").replace(r#""memory") 1"#, r#""memory") 17"#);
    assert_eq!(blockers(&grown), [Blocker::MemoryTooLarge { bytes: MIB + 65536, bytes_max: MIB }]);
    // Also when the code is known already, under a manifest that allows more.
    let driver = WasmDriver::new();
    let module = wat::parse_str(&grown).expect("valid text");
    let kept = driver.prepare(&module, 2 * MIB).expect("a service");
    assert!(matches!(driver.prepare(&module, MIB), Err(PrepareError::Blocked(_))));
    drop(kept);
    assert_eq!(blockers(&with("(table 2000000 funcref)")), [Blocker::TableTooLarge { index: 0, elements: 2_000_000 }]);
    assert_eq!(
        blockers(&with(&"(memory 0)".repeat(8))),
        [Blocker::WrongExport { name: "memory", expected: "linear memory 0" }, Blocker::TooManyMemories { count: 9 }]
    );
    assert_eq!(
        blockers(&with(&"(global (mut i32) (i32.const 0))".repeat(1025))),
        [Blocker::TooManyGlobals { count: 1025 }]
    );
}

#[test]
fn all_are_listed_in_one_error_that_says_what_to_do() {
    let error = WasmDriver::new().prepare(&wat::parse_str(r#"(module (func $f) (start $f))"#).expect("valid"), MIB);
    let text = error.expect_err("blocked").to_string();
    for part in ["`memory`", "`wayfare_buffer`", "`wayfare_handle`", "a start function", "README.md"] {
        assert!(text.contains(part), "{part} not in: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// Whatever somebody deploys: it can be a service, or the reasons are named.
    #[test]
    fn whatever_is_deployed_is_prepared_or_refused(
        random in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let driver = WasmDriver::new();
        let mut plain = wat::parse_str(with("")).unwrap();
        changes.iter().for_each(|(at, byte)| { let at = at.index(plain.len()); plain[at] = *byte; });
        for module in [&random, &[b"\0asm\x01\0\0\0", &random[..]].concat(), &plain] {
            match driver.prepare(module, MIB) {
                Err(PrepareError::Blocked(blockers)) => prop_assert!(!blockers.is_empty()),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
                Ok(_) => {}
            }
        }
    }
}
