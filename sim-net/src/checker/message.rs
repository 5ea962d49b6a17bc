//! What parties say to each other, and what they are known to have done.

use wayfare_protocol::{
    ids::{Digest, Epoch, HostId, MigrationId},
    migration::messages::{MigrateFrame, Placement, RegistryFrame},
    transfer::SealedRecord,
    wire::Frame as _,
};

/// A party of a scope: the Registry is 0, then the clouds.
pub(super) type Party = u8;

/// The Registry.
pub(super) const REGISTRY: Party = 0;

/// A stream's kind with what was said on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Body {
    /// A frame of `/wayfare/registry/1`.
    Registry(Vec<u8>),
    /// A frame of `/wayfare/migrate/1`.
    Migrate(Vec<u8>),
    /// All records of one attempt.
    State { mig: MigrationId, records: Vec<SealedRecord> },
    /// A client's request, through the gateway.
    Call { sequence: u64, acked_below: u64 },
}

/// One message. The transport authenticates `from`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envelope {
    pub(super) from: Party,
    pub(super) to: Party,
    pub(super) body: Body,
}

impl Envelope {
    /// The message by its number and name in PROTOCOL 3.
    pub(super) fn name(&self) -> String {
        match &self.body {
            Body::Registry(bytes) => match RegistryFrame::from_bytes(bytes) {
                Ok(frame) => numbered(bytes, frame.name()),
                Err(_) => "garbage".to_owned(),
            },
            Body::Migrate(bytes) => match MigrateFrame::from_bytes(bytes) {
                Ok(frame) => numbered(bytes, frame.name()),
                Err(_) => "garbage".to_owned(),
            },
            Body::State { .. } => "8 records".to_owned(),
            Body::Call { sequence, .. } => format!("request {sequence}"),
        }
    }
}

/// The kinds below 13 are the numbers of PROTOCOL 3; the others have names only.
fn numbered(bytes: &[u8], name: &str) -> String {
    match bytes.get(1) {
        Some(kind @ 2..=12) => format!("{kind} {name}"),
        Some(33) => format!("3 {name}"),
        Some(36) => format!("6 {name}"),
        _ => name.to_owned(),
    }
}

/// The service's state: the requests that it has executed, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Guest(pub(super) Vec<u64>);

impl Guest {
    /// The state as bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sequence| sequence.to_le_bytes()).collect()
    }

    /// Reads [`Guest::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok()).map(u64::from_le_bytes).collect())
    }

    /// Whether it goes on from `other`.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// What a party did that the others may depend on: what the promises are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Note {
    /// A source has put its consent into its journal.
    Consented { mig: MigrationId, epoch: Epoch, state: Digest },
    /// A source has captured this.
    Captured { mig: MigrationId, guest: Guest },
    /// A target has put what it holds into its journal.
    Held { mig: MigrationId, state: Digest },
    /// A target runs what it was sent.
    Activated { mig: MigrationId, guest: Guest },
    /// A source has deleted its instance.
    Discarded { epoch: Epoch, guest: Guest },
    /// The Registry has said that the record moved.
    Placed { placement: Box<Placement>, host: HostId },
    /// The Registry has said that an attempt never will.
    Aborted { mig: MigrationId },
    /// A request was executed that the instance had executed before.
    Twice { sequence: u64 },
    /// A response has left.
    Answered { sequence: u64 },
}
