//! What a [`Host`](super::Host) asks its driver to do, and what it journals.

use serde::{Deserialize, Serialize};

use crate::{
    advert::Gossip,
    gateway::messages::ClientFrame,
    ids::{ClientId, Digest, Epoch, HostId, MigrationId, MigrationIds, RegistryId, ServiceId},
    limits::FRAME_BYTES_MAX,
    manifest::Manifest,
    migration::{
        messages::{MigrateFrame, Placement, RegisterFrame, RegistryFrame},
        source::Consented,
        target::Held,
    },
    reject::Reject,
    suite::Secret,
    trust::Signed,
    wire::{self, Wire},
};

/// One thing to do. The driver executes effects in the order in which it polls them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "each is consumed as soon as it is polled")]
pub enum Effect {
    /// Append `entry` under number `seq`, sync, then call [`handle_synced`](super::Host::handle_synced).
    Persist {
        /// Number of the entry, from 1, without gaps.
        seq: u64,
        /// What must survive a crash.
        entry: Entry,
    },
    /// Send on the stream to this Registry; dropped if there is none (the machine repeats what matters).
    ToRegistry(RegistryId, RegistryFrame),
    /// Send on the migrate stream to `host`, dialling `addresses` if there is none.
    ToPeer {
        /// The other side.
        host: HostId,
        /// Where to dial; empty: answer on the peer's own stream only.
        addresses: Vec<String>,
        /// What to say.
        frame: MigrateFrame,
    },
    /// Send on this gateway's request stream; dropped if it is gone.
    ToGateway(HostId, ClientFrame),
    /// Publish.
    Gossip(Gossip),
    /// Start a new instance; then `handle_started`.
    Start {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
        /// Its module.
        code: Digest,
        /// Memory limit in bytes.
        memory_bytes: u64,
    },
    /// Call the instance; then `handle_executed`.
    Execute {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
        /// Whose request it is.
        client: ClientId,
        /// Its number.
        sequence: u64,
        /// An HTTP/1.1 message.
        request: Vec<u8>,
    },
    /// Capture the instance and send its records; then `handle_captured`.
    Capture(CaptureJob),
    /// Let a captured instance go on; then `handle_started`.
    Resume {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Expect records; then `handle_records`, `handle_received` or `handle_receive_failed`.
    Receive(ReceiveJob),
    /// Run what was received; then `handle_started`.
    Activate {
        /// The attempt that brought it.
        mig: MigrationId,
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Delete the instance under this (service, epoch), and nothing else.
    DiscardInstance {
        /// The service.
        service: ServiceId,
        /// The epoch it ran under.
        epoch: Epoch,
    },
    /// Delete what was received under this attempt, and nothing else.
    DiscardIncoming {
        /// The attempt.
        mig: MigrationId,
    },
    /// Tell people.
    Event(Event),
}

/// How to capture and seal a service that is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CaptureJob {
    /// The attempt.
    pub ids: MigrationIds,
    /// Where the target is reached.
    pub addresses: Vec<String>,
    /// K.
    pub key: Secret,
    /// th.
    pub transcript: Digest,
    /// The module's hash.
    pub code: Digest,
    /// Whether the module goes first.
    pub send_module: bool,
    /// The last record but the end.
    pub sessions: Vec<u8>,
}

/// What a target expects on the state stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReceiveJob {
    /// The attempt.
    pub ids: MigrationIds,
    /// The only peer that may send it.
    pub from: HostId,
    /// K.
    pub key: Secret,
    /// th.
    pub transcript: Digest,
    /// The module's hash.
    pub code: Digest,
    /// Whether the module comes first.
    pub needs_module: bool,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A service runs here now.
    Serving(ServiceId, Epoch),
    /// An attempt began.
    MoveStarted(ServiceId, HostId, String),
    /// A service has left.
    MovedAway(ServiceId, HostId),
    /// An attempt ended without a move.
    MoveFailed(ServiceId, HostId, String),
    /// A deployment was refused.
    DeployFailed(ServiceId, String),
    /// The lease ended: requests wait until it is renewed.
    LeaseEnded(ServiceId),
    /// Superseded without consent: the state is kept, sealed. An operator must look.
    Superseded(ServiceId, Epoch),
    /// A frozen service waits for its Registry.
    Undecided(ServiceId, MigrationId),
    /// An instance could not be started or resumed.
    Broken(ServiceId, String),
}

/// A journal entry. Everything is keyed by (service, epoch) or by the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "each is encoded as soon as it is made")]
pub enum Entry {
    /// A service may be served here.
    Placed {
        /// The record.
        placement: Signed<Placement>,
        /// The owner's word.
        manifest: Signed<Manifest>,
        /// The placement key's secret.
        secret: [u8; 32],
        /// Whether its state came with `placement.mig`; else it started here.
        received: bool,
    },
    /// REGISTER will be sent: the first vkS's secret. Without it, a crash before the answer would lock the name for ever.
    Registering {
        /// REGISTER as sent: the same bytes get the same answer.
        frame: RegisterFrame,
        /// The placement key's secret.
        secret: [u8; 32],
    },
    /// 5 will be sent: vkNew's secret.
    KeyMade {
        /// The attempt.
        ids: MigrationIds,
        /// vkNew's secret.
        secret: [u8; 32],
    },
    /// Consent will be sent.
    Consented {
        /// The attempt.
        ids: MigrationIds,
        /// The consent and what its answers must name.
        consented: Consented,
        /// Where the target is reached.
        addresses: Vec<String>,
    },
    /// 9 and 10 will be sent.
    Held {
        /// The attempt.
        ids: MigrationIds,
        /// The source.
        from: HostId,
        /// 9, 10 and the state's hash. The state itself is not in the journal.
        held: Held,
        /// The owner's word.
        manifest: Signed<Manifest>,
    },
    /// The service has moved: the copy is deleted.
    Released {
        /// The attempt.
        ids: MigrationIds,
        /// Where it is now.
        placement: Signed<Placement>,
    },
    /// The attempt was aborted: a source serves again, a target deletes.
    Aborted {
        /// The attempt.
        ids: MigrationIds,
    },
    /// An arrival that promised nothing has ended: its key is of no use any more.
    Dropped {
        /// The attempt.
        ids: MigrationIds,
    },
    /// Superseded without consent: kept, sealed, not served.
    Sealed {
        /// The service.
        service: ServiceId,
        /// The epoch it was served under.
        epoch: Epoch,
        /// Where the service is now.
        by: Signed<Placement>,
    },
}

/// The version of journal entries, in front of each.
const ENTRY_VERSION: u8 = 1;

impl Entry {
    /// `version ‖ body`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![ENTRY_VERSION];
        bytes.append(&mut wire::encode(self));
        bytes
    }

    /// Reads an entry back.
    ///
    /// # Errors
    /// [`Reject::WrongVersion`], or a decoding error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Reject> {
        match bytes {
            [ENTRY_VERSION, body @ ..] => wire::decode(body),
            _ => Err(Reject::WrongVersion),
        }
    }
}

impl Wire for Entry {
    const LIMIT: usize = 4 * FRAME_BYTES_MAX;
}
