//! What the checker must find: each of these guards, taken away, breaks a promise in a scope. A guard whose absence nobody
//! notices would be a promise that is missing here.
//!
//! Where two guards cover for each other, both are off: a key and the host that must go with it, two signatures.

use serde::Serialize;
use wayfare_protocol::reject::{Reject, Rule};

use super::guards::Off;

/// Guards to take away, and where that shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    pub(super) off: Off,
    /// The scope in which a promise breaks.
    pub(super) scope: &'static str,
    /// What then goes wrong.
    pub(super) then: &'static str,
}

/// What of a removal is listed.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    without: String,
    scope: &'static str,
    then: &'static str,
}

impl Removal {
    /// For programs.
    pub(super) fn listed(&self) -> Listed {
        Listed { without: self.off.names(), scope: self.scope, then: self.then }
    }
}

const fn rule(rules: &'static [Rule], scope: &'static str, then: &'static str) -> Removal {
    Removal { off: Off::rules(rules), scope, then }
}

const fn reject(rejects: &'static [Reject], scope: &'static str, then: &'static str) -> Removal {
    Removal { off: Off::rejects(rejects), scope, then }
}

/// Every removal.
pub(super) const REMOVALS: &[Removal] = &[
    rule(&[Rule::SyncGate], "crashes", "a promise is sent, and forgotten in a crash"),
    rule(&[Rule::HeldUntilDecided], "chaos", "an impatient target drops a state that it then wins"),
    rule(&[Rule::ThawWhenAborted], "chaos", "an impatient source serves on while its target wins"),
    rule(&[Rule::SingleUseMig], "chaos", "an aborted migration wins after all"),
    rule(&[Rule::DeleteByMigration], "return", "an old answer deletes what has come back since"),
    rule(&[Rule::LeaseChecked], "lease", "a host serves when its lease has ended"),
    rule(&[Rule::Deduplicate], "clients", "a request that comes twice is executed twice"),
    rule(&[Rule::RefuseAcked], "clients", "a request below the client's mark is executed again"),
    rule(&[Rule::LogBeforeReply], "clients", "a response leaves, and its write is forgotten in a crash"),
    reject(&[Reject::Revoked], "revoked", "a revoked cloud gets the service"),
    reject(&[Reject::BadSignature], "current-key", "anybody speaks for the Registry"),
    reject(
        &[Reject::NotHostOfRecord, Reject::BadCoSignature],
        "current-key",
        "the stolen key alone moves the record to the thief",
    ),
    reject(&[Reject::BadSignature, Reject::BadCoSignature], "rogue-target", "a target makes the consent itself"),
];
