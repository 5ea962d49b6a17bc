//! A party at work: a production machine with its driver's part (disk, instances, clock, chance), as one value that a
//! step turns into the next. Steps are pure: the same party and the same input always lead to the same step.

use std::{collections::BTreeMap, convert::Infallible};

use rand_core::{TryRng, utils};
use wayfare_protocol::{
    host::{Entry, Host, ImageId, ReceiveJob, hosted::Stay},
    ids::{Digest, HostId, MigrationId},
    registry::{Registry, StoreOp},
    suite::digest,
    time::{Micros, Now},
};

use super::{
    guards::Lifted,
    message::{Envelope, Guest, Note, Party},
    symbolic::Symbolic,
    world::World,
};

/// A party's source of chance: never the same bytes twice, and the same ones each time a step is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Draws {
    pub(super) party: Party,
    pub(super) drawn: u64,
}

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.drawn += 1;
        let Digest(bytes) = digest("draw", &[&[self.party], &self.drawn.to_le_bytes()]);
        Ok(bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk)))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        utils::fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

/// A host's disk: what outlives a crash. The last `unsynced` entries do so by luck only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct HostDisk {
    pub(super) journal: Vec<(u64, Entry)>,
    pub(super) unsynced: usize,
    pub(super) images: BTreeMap<ImageId, (Guest, Vec<u8>)>,
}

/// What a target has of an attempt: what it expects, and what came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Incoming {
    pub(super) job: Option<ReceiveJob>,
    pub(super) guest: Option<Guest>,
}

/// A cloud.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HostParty {
    pub(super) machine: Host<Symbolic, Lifted>,
    pub(super) now: Now,
    pub(super) draws: Draws,
    pub(super) running: BTreeMap<Stay, Guest>,
    pub(super) incoming: BTreeMap<MigrationId, Incoming>,
    /// `None` if no crash can follow any more: then everything is on disk at once, and never read.
    pub(super) disk: Option<HostDisk>,
}

/// The Registry's store. The last `unsynced` batches outlive a crash by luck only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) image: wayfare_protocol::registry::StoreImage,
    pub(super) unsynced: Vec<(u64, Vec<StoreOp>)>,
}

/// The Registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RegistryParty {
    pub(super) machine: Registry<Symbolic, Lifted>,
    pub(super) now: Now,
    pub(super) draws: Draws,
    /// See [`HostParty::disk`].
    pub(super) disk: Option<Store>,
}

/// A party.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Registry(Box<RegistryParty>),
    Host(Box<HostParty>),
    /// The attacker: everything that it does is in [`attacker`](super::attacker).
    Attacker,
}

/// What can happen to a party.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    /// A message arrives.
    Deliver(Envelope),
    /// It waits, and what it does when nothing comes happens.
    Timeout,
    /// So much time passes.
    Pass(Micros),
    /// What was written reaches the disk.
    Sync,
    /// It dies and starts again; of what had not reached the disk, so many writes have nevertheless.
    Crash { kept: usize },
    /// Its operator moves the service to this host.
    Move(HostId),
    /// The migrate stream to this host ends.
    PeerLost(HostId),
    /// The Registry's operator revokes this host.
    Revoke(HostId),
    /// No crash can follow any more.
    ForgetDisk,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Output {
    pub(super) sent: Vec<Envelope>,
    pub(super) notes: Vec<Note>,
    /// Whether anything but time and gossip happened.
    pub(super) active: bool,
}

impl Node {
    /// Does what `input` leads to. `None`: it is impossible, or changes nothing.
    pub(super) fn step(&self, world: &World, party: Party, input: &Input) -> Option<(Self, Output)> {
        let mut output = Output::default();
        let next = match self {
            Self::Registry(registry) => {
                let mut next = registry.clone();
                next.take(world, input, &mut output)?;
                next.forget_figures();
                Self::Registry(next)
            }
            Self::Host(host) => {
                let mut next = host.clone();
                next.take(world, party, input, &mut output)?;
                next.machine.forget_figures();
                Self::Host(next)
            }
            Self::Attacker => return None,
        };
        let waited = matches!(input, Input::Timeout) && !output.active;
        let same = output.sent.is_empty() && output.notes.is_empty() && next == *self;
        (!waited && !same).then_some((next, output))
    }

    /// How many writes have not reached the disk.
    pub(super) fn unsynced(&self) -> usize {
        match self {
            Self::Registry(registry) => registry.disk.as_ref().map_or(0, |disk| disk.unsynced.len()),
            Self::Host(host) => host.disk.as_ref().map_or(0, |disk| disk.unsynced),
            Self::Attacker => 0,
        }
    }
}
