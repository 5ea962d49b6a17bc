//! Machines without one of their guards. Each must be found out by the fuzzer, in so many seeds: a guard whose absence
//! nobody notices would be a check that is missing here.
//!
//! [`Without`] reads which guards are off from the thread it runs on, so one type serves for all of them. Nothing outside
//! the simulator names it: the programs know [`Strict`](wayfare_protocol::reject::Strict) only.

use std::cell::Cell;

use serde::Serialize;
use wayfare_protocol::reject::{Guards, Reject, Rule};

/// A guard that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// For the command line.
    pub name: &'static str,
    /// What is not kept to any more.
    pub guard: &'static str,
    /// The fuzzer finds it within the first so many seeds.
    pub found_within_seeds: u64,
    #[serde(skip)]
    off: Off,
}

/// What is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Off {
    Rule(Rule),
    Rejects(&'static [Reject]),
}

const fn rule(name: &'static str, rule: Rule, found_within_seeds: u64) -> Break {
    Break { name, guard: rule.text(), found_within_seeds, off: Off::Rule(rule) }
}

const fn reject(name: &'static str, guard: &'static str, rejects: &'static [Reject], found_within_seeds: u64) -> Break {
    Break { name, guard, found_within_seeds, off: Off::Rejects(rejects) }
}

/// Every break.
pub const BREAKS: &[Break] = &[
    rule("sync-gate", Rule::SyncGate, 60),
    reject(
        "epoch-check",
        "a message counts for its own epoch, and an older epoch never replaces a newer one",
        &[Reject::WrongEpoch],
        20,
    ),
    reject(
        "consent-check",
        "a record moves only with its holder's consent",
        &[Reject::WrongConsent, Reject::BadSignature, Reject::BadCoSignature],
        30,
    ),
    rule("single-use-mig", Rule::SingleUseMig, 120),
    rule("held-by-timer", Rule::HeldUntilDecided, 120),
    rule("no-dedupe", Rule::Deduplicate, 10),
    rule("ignore-acked", Rule::RefuseAcked, 10),
    rule("ignore-lease", Rule::LeaseChecked, 60),
    rule("thaw-without-aborted", Rule::ThawWhenAborted, 20),
    rule("delete-by-service", Rule::DeleteByMigration, 20),
    rule("superseded-deletes", Rule::SealSuperseded, 40),
    rule("decide-after-restore", Rule::SuspendRestored, 20),
    rule("resources-not-released", Rule::FreeResources, 10),
    rule("duplicate-record", Rule::RecordOnce, 300),
    rule("response-before-log", Rule::LogBeforeReply, 120),
    rule("name-before-lease", Rule::LeaseBeforeName, 30),
    rule("stopped-executes", Rule::StoppedIsStill, 30),
];

impl Break {
    /// The break of this name.
    pub fn named(name: &str) -> Option<Self> {
        BREAKS.iter().find(|known| known.name == name).copied()
    }
}

thread_local! {
    static OFF: Cell<Option<Off>> = const { Cell::new(None) };
}

/// Every guard in force but those of the present [`without`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Without;

impl Guards for Without {
    fn enforces(reject: Reject) -> bool {
        !matches!(OFF.get(), Some(Off::Rejects(off)) if off.contains(&reject))
    }

    fn keeps(rule: Rule) -> bool {
        OFF.get() != Some(Off::Rule(rule))
    }
}

/// Runs `test`, on this thread, without that guard.
pub(super) fn without<T>(broken: Break, test: impl FnOnce() -> T) -> T {
    OFF.set(Some(broken.off));
    let result = test();
    OFF.set(None);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_takes_away_its_own_guard_and_only_while_it_lasts() {
        let broken = Break::named("sync-gate").unwrap();
        without(broken, || {
            assert!(!Without::keeps(Rule::SyncGate) && Without::keeps(Rule::LeaseChecked));
            assert!(Without::enforces(Reject::WrongEpoch));
        });
        assert!(Without::keeps(Rule::SyncGate));
        without(Break::named("epoch-check").unwrap(), || assert!(!Without::enforces(Reject::WrongEpoch)));
        assert_eq!(Break::named("no such"), None);
    }
}
