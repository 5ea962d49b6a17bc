//! A node: its process while it runs, its disk and its clock always.

use std::collections::{BTreeMap, BTreeSet};

use wayfare_protocol::{
    gateway::Gateway,
    ids::HostId,
    registry::Registry,
    reject::Guards,
    suite::Secret,
    trust::{Certificate, Role, Signed},
};

use super::{
    clock::Clock,
    disk::{Journal, Store},
    event::Event,
    host::{HostDisk, HostNode},
    memo::Memo,
    network::Kind,
};

/// A node's process, while it runs.
#[derive(Debug)]
pub(super) enum Machine<G: Guards> {
    Down,
    Registry(Box<Registry<Memo, G>>),
    Host(Box<HostNode<G>>),
    Gateway(Box<Gateway<Memo, G>>),
}

/// A node's disk, whether it runs or not.
#[derive(Debug)]
pub(super) enum Disk {
    Registry(Store),
    Host(Box<HostDisk>),
    Gateway(Journal<BTreeSet<u64>>),
}

/// A node.
#[derive(Debug)]
pub(super) struct Node<G: Guards> {
    pub(super) name: String,
    pub(super) host: HostId,
    pub(super) secret: Secret,
    pub(super) role: Option<Role>,
    pub(super) certificate: Option<Signed<Certificate>>,
    pub(super) clock: Clock,
    /// Counts restarts: what was meant for an earlier process does not reach a later one.
    pub(super) life: u32,
    /// Nothing is processed before then.
    pub(super) busy_until: u64,
    /// When its machine was last told something.
    pub(super) called_at: u64,
    /// What has come meanwhile.
    pub(super) deferred: Vec<Event>,
    /// When its timer fires next.
    pub(super) timer: u64,
    pub(super) pools: BTreeMap<(Kind, usize), Vec<usize>>,
    pub(super) machine: Machine<G>,
    pub(super) disk: Disk,
    /// What it did last, for the coverage of crashes.
    pub(super) last: &'static str,
    /// How far its moves have come, for the coverage: as source and as target.
    pub(super) phases: [&'static str; 2],
}

impl<G: Guards> Node<G> {
    pub(super) fn new(name: String, host: HostId, secret: Secret, role: Option<Role>, disk: Disk) -> Self {
        Self {
            name,
            host,
            secret,
            role,
            certificate: None,
            clock: Clock::exact(),
            life: 0,
            busy_until: 0,
            called_at: 0,
            deferred: Vec::new(),
            timer: u64::MAX,
            pools: BTreeMap::new(),
            machine: Machine::Down,
            disk,
            last: "start",
            phases: ["idle", "none"],
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        !matches!(self.machine, Machine::Down)
    }

    pub(super) const fn as_host(&self) -> Option<&HostNode<G>> {
        match &self.machine {
            Machine::Host(host) => Some(host),
            Machine::Down | Machine::Registry(_) | Machine::Gateway(_) => None,
        }
    }

    pub(super) const fn as_host_mut(&mut self) -> Option<&mut HostNode<G>> {
        match &mut self.machine {
            Machine::Host(host) => Some(host),
            Machine::Down | Machine::Registry(_) | Machine::Gateway(_) => None,
        }
    }
}
