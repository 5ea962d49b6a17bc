//! Machines without some of their guards, chosen by the names of their rejections and rules: the checker must find what
//! each of them prevents.
//!
//! [`Lifted`] reads what is off from the thread that it runs on. Nothing outside the checker names it.

use std::cell::Cell;

use wayfare_protocol::reject::{Guards, Reject, Rule};

/// The guards that are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Off {
    rejects: &'static [Reject],
    rules: &'static [Rule],
}

impl Off {
    /// All in force.
    pub(super) const NONE: Self = Self { rejects: &[], rules: &[] };

    /// Without the checks behind these rejections.
    pub(super) const fn rejects(rejects: &'static [Reject]) -> Self {
        Self { rejects, rules: &[] }
    }

    /// Without this rule.
    pub(super) const fn rules(rules: &'static [Rule]) -> Self {
        Self { rejects: &[], rules }
    }

    /// By names, separated by commas.
    ///
    /// # Errors
    /// The name that is none.
    pub(super) fn named(names: &str) -> Result<Self, String> {
        let (mut rejects, mut rules) = (Vec::new(), Vec::new());
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let reject = Reject::ALL.iter().find(|reject| reject.name() == name);
            let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
            match (reject, rule) {
                (Some(reject), _) => rejects.push(*reject),
                (None, Some(rule)) => rules.push(*rule),
                (None, None) => return Err(format!("there is no guard {name}: see wayfare-sim check --list")),
            }
        }
        // Once for each run of the program.
        Ok(Self { rejects: rejects.leak(), rules: rules.leak() })
    }

    /// Whether all guards are in force.
    pub(super) const fn is_none(&self) -> bool {
        self.rejects.is_empty() && self.rules.is_empty()
    }

    /// The names, separated by commas.
    pub(super) fn names(&self) -> String {
        let rejects = self.rejects.iter().map(|reject| reject.name());
        let names: Vec<&str> = rejects.chain(self.rules.iter().map(|rule| rule.name())).collect();
        names.join(",")
    }
}

thread_local! {
    static OFF: Cell<Off> = const { Cell::new(Off::NONE) };
}

/// Every guard in force but those of the present [`without`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lifted;

impl Guards for Lifted {
    fn enforces(reject: Reject) -> bool {
        !OFF.get().rejects.contains(&reject)
    }

    fn keeps(rule: Rule) -> bool {
        !OFF.get().rules.contains(&rule)
    }
}

/// Runs `work`, on this thread, without these guards.
pub(super) fn without<T>(off: Off, work: impl FnOnce() -> T) -> T {
    let before = OFF.replace(off);
    let result = work();
    OFF.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_off_only_where_it_is_taken_away() {
        let off = Off::named("wrong_epoch, sync_gate").unwrap();
        assert_eq!(off.names(), "wrong_epoch,sync_gate");
        without(off, || {
            assert!(!Lifted::enforces(Reject::WrongEpoch) && Lifted::enforces(Reject::WrongMigration));
            assert!(!Lifted::keeps(Rule::SyncGate) && Lifted::keeps(Rule::LeaseChecked));
        });
        assert!(Lifted::enforces(Reject::WrongEpoch) && Lifted::keeps(Rule::SyncGate));
        assert!(Off::named("").unwrap().is_none());
        assert!(Off::named("no_such_guard").unwrap_err().contains("no_such_guard"));
    }
}
