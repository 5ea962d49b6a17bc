//! What is worse than a crash: a cloud that lies, and disks that somebody replaced by older ones.

use wayfare_protocol::{
    host::{Entry, hosted::Stay},
    ids::{Digest, MigrationId, MigrationIds, Nonce, PlacementKey},
    manifest::ServiceType,
    migration::messages::{CompleteFrame, Mode, RegistryFrame, Transfer, TransferComplete},
    registry::mark_restored,
    reject::Guards,
    suite::{Secret, Suite, fresh_secret, fresh16},
    trust::{CoSigned, Receiver},
    wire::Frame as _,
};

use super::{
    host::HostDisk,
    memo::Memo,
    network::Kind,
    node::{Disk, Machine},
    world::World,
};

/// A copy of a host's disk, and what the host had consented to when it was made.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) disk: Box<HostDisk>,
    pub(super) consented: Vec<(Stay, MigrationId)>,
    stays: Vec<Stay>,
}

impl<G: Guards> World<G> {
    /// The liar learns the placement key's secret that it would have: its own machine made it.
    pub(super) fn note_key(&mut self, node: usize, entry: &Entry) {
        if let Entry::KeyMade { ids, secret } = entry
            && self.plan.rogue == Some(node)
        {
            self.loot = Some((*ids, *secret.expose()));
        }
    }

    /// The Registry has pinned the liar's key: it says that it has the service, with a consent of its own making.
    pub(super) fn lie(&mut self, node: usize, bytes: &[u8]) {
        if self.plan.rogue != Some(node) || self.calm {
            return;
        }
        let Ok(RegistryFrame::YesService(_)) = RegistryFrame::from_bytes(bytes) else { return };
        let Some((ids, new_secret)) = self.loot.take() else { return };
        let frame = RegistryFrame::Complete(self.forge(node, ids, &Secret::new(new_secret)));
        self.tell(node, |_| "lies: it completes a move that nobody consented to".to_owned());
        let registry = self.registry;
        self.send(node, Kind::Registry, registry, true, frame.name(), frame.to_bytes());
    }

    fn forge(&mut self, node: usize, ids: MigrationIds, new_secret: &Secret) -> CompleteFrame {
        let now = self.now(node).wall;
        let (registry, mine) = (ids.service.registry, self.nodes[node].secret.clone());
        let new_key = PlacementKey(Memo::public_key(new_secret));
        let (nonce_b, state) = (Nonce(fresh16(&mut self.rng)), Digest(*fresh_secret(&mut self.rng).expose()));
        let transcript = Digest(*fresh_secret(&mut self.rng).expose());
        let transfer = Transfer { ids, new_key, transcript, nonce_b, state, mode: Mode::Registry };
        let to_me = Receiver::Host(self.nodes[node].host);
        let consent = CoSigned::sign::<Memo>(new_secret, &mine, registry, to_me, &transfer);
        let complete = TransferComplete {
            ids,
            tos: ServiceType::Request,
            new_key,
            transcript,
            state,
            consent: consent.hash(),
            asked: now,
            answered: now,
            completed: now,
        };
        let to_registry = Receiver::Registry(registry);
        let complete = CoSigned::sign::<Memo>(new_secret, &mine, registry, to_registry, &complete);
        CompleteFrame { complete, consent }
    }

    /// Somebody copies the disk of a host that has services, while nothing moves there.
    pub(super) fn back_up(&mut self, node: usize) {
        let Node { host: Some(stays), quiet: true } = self.look_at(node) else { return };
        if stays.is_empty() {
            return;
        }
        let Disk::Host(disk) = &self.nodes[node].disk else { return };
        let disk = Box::new(HostDisk {
            journal: disk.journal.copy(),
            images: disk.images.copy(),
            modules: disk.modules.clone(),
        });
        let consented = self.check.consents_of(node);
        self.tell(node, |_| "its disk is copied".to_owned());
        self.backups.insert(node, Backup { disk, consented, stays });
    }

    /// A host on which nothing runs gets back the disk that it had when services were there: it must find out that they have
    /// left, and keep what it has, sealed.
    pub(super) fn roll_back(&mut self, node: usize, down: u64) {
        let Node { host: Some(stays), quiet: true } = self.look_at(node) else { return };
        if !stays.is_empty()
            || !self.backups.contains_key(&node)
            || self.check.expects_something_of(self.nodes[node].host)
        {
            return;
        }
        self.crash(node, down);
        let Some(Backup { disk, consented, stays }) = self.backups.remove(&node) else { return };
        self.tell(node, |_| "fault: its disk is replaced by the copy".to_owned());
        self.nodes[node].disk = Disk::Host(disk);
        self.check.rolled_back(node, &stays, &consented);
    }

    /// Somebody copies the Registry's store.
    pub(super) fn back_up_store(&mut self) {
        if let Disk::Registry(store) = &self.nodes[self.registry].disk {
            self.store_backup = Some(store.durable().clone());
            self.tell(self.registry, |_| "its store is copied".to_owned());
        }
    }

    /// The Registry has lost its store, and begins again with the copy.
    pub(super) fn restore_store(&mut self) {
        let (registry, wall) = (self.registry, self.now(self.registry).wall);
        let Some(mut rows) = self.store_backup.clone() else { return };
        let id = self.bundle.anchors()[0].id;
        let listed = rows.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let Ok(mark) = mark_restored(id, listed, wall) else { return };
        mark.iter().for_each(|change| change.apply(&mut rows));
        self.crash(registry, self.plan.down_us);
        self.tell(registry, |_| "fault: its store is replaced by the copy".to_owned());
        if let Disk::Registry(store) = &mut self.nodes[registry].disk {
            store.restore(rows);
        }
        self.check.restored();
        self.remind_owners();
    }

    fn look_at(&self, node: usize) -> Node {
        let Machine::Host(host) = &self.nodes[node].machine else { return Node { host: None, quiet: false } };
        let quiet = self.nodes[node].phases == ["idle", "none"] && host.landing.is_empty() && !host.host.is_moving();
        Node { host: Some(host.instances.keys().copied().collect()), quiet }
    }
}

/// What runs on a host, and whether nothing moves there.
struct Node {
    host: Option<Vec<Stay>>,
    quiet: bool,
}
