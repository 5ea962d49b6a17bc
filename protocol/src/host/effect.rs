//! What a [`Host`](super::Host) asks its driver to do, and what it journals.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{hosted::Stay, orders::Ordered};
use crate::{
    advert::Gossip,
    gateway::messages::ClientFrame,
    ids::{ClientId, Digest, Epoch, HostId, MigrationId, MigrationIds, RegistryId, ServiceId},
    limits::{ENTRY_BYTES_MAX, LOG_ENTRY_OVERHEAD},
    manifest::Manifest,
    migration::{
        messages::{MigrateFrame, Placement, RegisterFrame, RegistryFrame},
        source::Consented,
        target::Held,
        trace::Trace,
    },
    order::{Action, Tombstone},
    reject::Reject,
    session::Executed,
    suite::{Secret, stored_secret},
    trust::Signed,
    wire::{self, Wire},
};

/// One thing to do. The driver executes effects in the order in which it polls them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Have a module at hand, compiled and on disk; then `handle_fetched`.
    Fetch(FetchJob),
    /// Make an instance of other code beside the one that runs, and give it the state; then `handle_updated`. The one that
    /// runs stays as it was until [`Effect::Switch`].
    Update(UpdateJob),
    /// From now on the instance that [`Effect::Update`] made is the one that runs; then `handle_started`.
    Switch {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
    },
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
    /// Delete every image but these: the first effect after a restart.
    KeepImages(Vec<ImageId>),
    /// Rebuild an instance; then `handle_restored`.
    Restore(RestoreJob),
    /// Make what was held ready to run, from its image; then `handle_held_restored`. None of its code runs before
    /// [`Effect::Activate`].
    RestoreHeld(HeldJob),
    /// Save the instance as it is when this is reached, behind earlier [`Effect::Execute`]s and before later ones, with
    /// `belongings`, as [`ImageId::Taken`]; sync it; then `handle_saved`.
    SaveImage {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
        /// The journal entry up to which the image covers the log.
        upto: u64,
        /// What is kept beside the memory.
        belongings: Vec<u8>,
    },
    /// Delete an image, if it is there.
    DropImage(ImageId),
    /// Replace the journal, at once, by those of its entries that [survive](Entry::survives), under their numbers, and
    /// `snapshot` under number `seq`; then [`handle_synced`](super::Host::handle_synced).
    Compact {
        /// Number of the snapshot.
        seq: u64,
        /// Everything but the logs.
        snapshot: Entry,
        /// Each service's log is needed from behind this number.
        keep_after: BTreeMap<Stay, u64>,
    },
    /// Tell people.
    Event(Event),
}

/// A service's state as saved on disk: instance, client table and placement history. What is not acknowledged by
/// `handle_saved` or `handle_received` is not relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageId {
    /// As received in this attempt, before 9 promised to hold it.
    Held(MigrationId),
    /// As it was after this journal entry.
    Taken {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
        /// The last entry that the image covers.
        upto: u64,
    },
    /// As new code began with it.
    Updated {
        /// The service.
        service: ServiceId,
        /// Under this epoch.
        epoch: Epoch,
        /// Of the order.
        sequence: u64,
    },
}

impl fmt::Display for ImageId {
    /// A file name, without an extension.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(mig) => write!(f, "held-{mig}"),
            Self::Taken { service, epoch, upto } => write!(f, "{service}-{}.{}-{upto}", epoch.era, epoch.hop),
            Self::Updated { service, epoch, sequence } => {
                write!(f, "{service}-{}.{}-updated-{sequence}", epoch.era, epoch.hop)
            }
        }
    }
}

/// What a log builds on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// A new instance, whose `_initialize` read this of the outside.
    Fresh {
        /// As recorded.
        inputs: Vec<u8>,
    },
    /// A saved one.
    Image(ImageId),
}

/// A request that was executed, with all that it takes to execute it again to the same state and response.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Logged {
    /// Whose.
    pub client: ClientId,
    /// Who spoke for the client.
    pub gateway: HostId,
    /// Its number.
    pub sequence: u64,
    /// Its hash.
    pub hash: Digest,
    /// The client's mark when it was admitted.
    pub acked_below: u64,
    /// An HTTP/1.1 message.
    #[serde(with = "crate::wire::bytes")]
    pub request: Vec<u8>,
    /// What it read of the outside, as the driver recorded it.
    #[serde(with = "crate::wire::bytes")]
    pub inputs: Vec<u8>,
}

impl Logged {
    /// What the client table needs to know of it.
    pub const fn executed(&self) -> Executed {
        let Self { client, gateway, sequence, hash, acked_below, .. } = *self;
        Executed { client, gateway, sequence, hash, acked_below }
    }

    /// About how many bytes it takes in the journal.
    pub const fn cost(&self) -> u64 {
        LOG_ENTRY_OVERHEAD + self.request.len() as u64 + self.inputs.len() as u64
    }
}

/// How to rebuild an instance after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RestoreJob {
    /// The service.
    pub service: ServiceId,
    /// Under this epoch.
    pub epoch: Epoch,
    /// Its module.
    pub code: Digest,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// Where to begin.
    pub base: Base,
    /// What to execute again, in this order.
    pub log: Vec<Logged>,
}

/// What came of a [`RestoreJob`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restored {
    /// What the image held beside the memory, if the base was one.
    pub belongings: Option<Vec<u8>>,
    /// The response of each request of the log, in its order.
    pub responses: Vec<Vec<u8>>,
    /// Size of the image, 0 without one.
    pub image_bytes: u64,
}

/// How to make a held state ready again after a restart: from [`ImageId::Held`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldJob {
    /// The attempt.
    pub mig: MigrationId,
    /// The service.
    pub service: ServiceId,
    /// Under the epoch that it will have here.
    pub epoch: Epoch,
    /// Its module.
    pub code: Digest,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
}

/// A module that an update needs, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FetchJob {
    /// The service.
    pub service: ServiceId,
    /// Under this epoch.
    pub epoch: Epoch,
    /// The order, by hash.
    pub order: Digest,
    /// The module.
    pub code: Digest,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// The node that has it.
    pub from: HostId,
    /// Where that is reached.
    pub addresses: Vec<String>,
}

/// How to make an instance of other code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpdateJob {
    /// The service.
    pub service: ServiceId,
    /// Under this epoch.
    pub epoch: Epoch,
    /// The order, by hash.
    pub order: Digest,
    /// Its module.
    pub code: Digest,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// Whether it takes over the state; else it begins with none.
    pub keep: bool,
    /// Where the new instance is saved, and synced, before `handle_updated`; `None`: durability = memory.
    pub image: Option<ImageId>,
    /// What is kept beside the memory.
    pub belongings: Vec<u8>,
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
    /// Whether what was received is saved as [`ImageId::Held`], and synced, before `handle_received`.
    pub durable: bool,
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A service runs here now.
    Serving(ServiceId, Epoch),
    /// An attempt to move this service, away or here, took a step or ended: look at the
    /// [history](super::Host::history).
    Progress(ServiceId),
    /// An attempt began.
    MoveStarted(ServiceId, HostId, String),
    /// A service has left.
    MovedAway(ServiceId, HostId),
    /// An attempt ended without a move.
    MoveFailed(ServiceId, HostId, String),
    /// An attempt that this host took part in has ended, well or not: what it saw of it.
    AttemptEnded(Box<Trace>),
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
    /// A service is rebuilt from disk after a restart, with so many requests to execute again.
    Restoring(ServiceId, Epoch, usize),
    /// It is as it was before the restart.
    Restored(ServiceId, Epoch),
    /// A restart lost its state, which was in memory only, as its owner had chosen.
    Lost(ServiceId, Epoch),
    /// An image of a service could not be saved: its log stays, and grows.
    NotSaved(ServiceId, String),
    /// An order was carried out.
    Ordered(ServiceId, Action),
    /// An order cannot be carried out, for this reason: nothing has changed.
    OrderRefused(ServiceId, Action, String),
    /// A service was removed by its owner, and nothing of it is left here.
    Removed(ServiceId),
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
        #[serde(with = "stored_secret")]
        secret: Secret,
        /// Whether its state came with `placement.mig`; else it started here.
        received: bool,
    },
    /// REGISTER will be sent: the first vkS's secret. Without it, a crash before the answer would lock the name for ever.
    Registering {
        /// REGISTER as sent: the same bytes get the same answer.
        frame: RegisterFrame,
        /// The placement key's secret.
        #[serde(with = "stored_secret")]
        secret: Secret,
    },
    /// 5 will be sent: vkNew's secret.
    KeyMade {
        /// The attempt.
        ids: MigrationIds,
        /// vkNew's secret.
        #[serde(with = "stored_secret")]
        secret: Secret,
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
    /// A new instance has started.
    Started {
        /// The service.
        service: ServiceId,
        /// The epoch it runs under.
        epoch: Epoch,
        /// What `_initialize` read of the outside.
        inputs: Vec<u8>,
    },
    /// A request was executed: its response may leave.
    Executed {
        /// The service.
        service: ServiceId,
        /// The epoch it ran under.
        epoch: Epoch,
        /// The request.
        logged: Logged,
    },
    /// An image covers the log up to an entry.
    Imaged {
        /// The service.
        service: ServiceId,
        /// The epoch it runs under.
        epoch: Epoch,
        /// That entry's number.
        upto: u64,
    },
    /// A service, or its registration, is given up.
    Forgotten {
        /// The service.
        service: ServiceId,
        /// The epoch it was placed under; the first, if it was being registered.
        epoch: Epoch,
    },
    /// Where a service is that was here.
    Departed {
        /// As its Registry says.
        placement: Signed<Placement>,
    },
    /// Attempts that have ended.
    Finished {
        /// Oldest first.
        migs: Vec<MigrationId>,
    },
    /// What all entries before this one say, but for [`Entry::Started`] and [`Entry::Executed`].
    Snapshot(#[serde(with = "super::flat")] Vec<Entry>),
    /// An operator said whether this host takes services.
    Cordoned {
        /// Whether it takes none.
        cordoned: bool,
    },
    /// An order was carried out.
    Ordered {
        /// The service.
        service: ServiceId,
        /// The epoch under which it is here.
        epoch: Epoch,
        /// Which.
        ordered: Ordered,
        /// Whether the service is stopped by now.
        stopped: bool,
    },
    /// A service was removed by its owner: nothing of it is kept.
    Removed {
        /// R's word for it.
        tombstone: Signed<Tombstone>,
    },
    /// An UPDATE was carried out: what is served from here on is this manifest's code.
    Updated {
        /// The service.
        service: ServiceId,
        /// The epoch under which it is here.
        epoch: Epoch,
        /// The new manifest.
        manifest: Signed<Manifest>,
        /// The last order that was carried out.
        ordered: Ordered,
        /// The sequence in the name of the image from which the log goes on; `None`: durability = memory.
        image: Option<u64>,
        /// The last entry of the log that the image covers.
        upto: u64,
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

impl Entry {
    /// The entry's name, for whoever watches a host at work.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "Placed",
            Self::Registering { .. } => "Registering",
            Self::KeyMade { .. } => "KeyMade",
            Self::Consented { .. } => "Consented",
            Self::Held { .. } => "Held",
            Self::Released { .. } => "Released",
            Self::Aborted { .. } => "Aborted",
            Self::Dropped { .. } => "Dropped",
            Self::Sealed { .. } => "Sealed",
            Self::Started { .. } => "Started",
            Self::Executed { .. } => "Executed",
            Self::Imaged { .. } => "Imaged",
            Self::Forgotten { .. } => "Forgotten",
            Self::Ordered { .. } => "Ordered",
            Self::Removed { .. } => "Removed",
            Self::Updated { .. } => "Updated",
            Self::Departed { .. } => "Departed",
            Self::Finished { .. } => "Finished",
            Self::Snapshot(_) => "Snapshot",
            Self::Cordoned { .. } => "Cordoned",
        }
    }

    /// Whether the entry of this number outlives a compaction: it is in the part of a log that no image covers.
    pub fn survives(&self, seq: u64, keep_after: &BTreeMap<Stay, u64>) -> bool {
        match self {
            Self::Started { service, epoch, .. } | Self::Executed { service, epoch, .. } => {
                keep_after.get(&(*service, *epoch)).is_some_and(|covered| seq > *covered)
            }
            _ => false,
        }
    }
}

impl Wire for Entry {
    const LIMIT: usize = ENTRY_BYTES_MAX;
}
