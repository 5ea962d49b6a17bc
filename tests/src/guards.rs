//! Machines without some of their guards, to show what each guard is for.

use std::{cell::RefCell, collections::BTreeSet};

use wayfare_protocol::reject::{Guards, Reject};

thread_local! {
    static OFF: RefCell<BTreeSet<Reject>> = const { RefCell::new(BTreeSet::new()) };
}

/// Every guard in force but those that the present [`without`] names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Without;

impl Guards for Without {
    fn enforces(reject: Reject) -> bool {
        OFF.with_borrow(|off| !off.contains(&reject))
    }
}

/// Runs `attack`, on this thread, with these guards off.
pub fn without<T>(off: &[Reject], attack: impl FnOnce() -> T) -> T {
    OFF.with_borrow_mut(|guards| *guards = off.iter().copied().collect());
    let result = attack();
    OFF.with_borrow_mut(BTreeSet::clear);
    result
}

/// Whether `attack` goes through with all of `guards` off, and is stopped as soon as any one of them is on.
///
/// # Panics
/// If a guard is not needed, or does not suffice.
pub fn needs(what: &str, guards: &[Reject], attack: impl Fn() -> bool) {
    assert!(!without(&[], &attack), "{what}: goes through with all guards in force");
    assert!(without(guards, &attack), "{what}: is stopped by something else than {guards:?}");
    for on in guards {
        let off: Vec<Reject> = guards.iter().copied().filter(|guard| guard != on).collect();
        assert!(!without(&off, &attack), "{what}: {on:?} alone does not stop it");
    }
}
