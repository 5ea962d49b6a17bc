//! A host's process: the production machine, its instances and its disk, as `node/src/host/owner.rs` drives them.
//! `transfer` has the two ends of a state stream.

use std::collections::BTreeMap;

use wayfare_protocol::{
    gateway::messages::ClientFrame,
    host::{CaptureJob, Effect, Entry, Event as Told, Host, ImageId, RestoreJob, UpdateJob, hosted::Stay},
    ids::{ClientId, Digest, MigrationId},
    reject::Guards,
    wire::Frame as _,
};

use super::{
    coverage::Fault,
    disk::{Change, Files, Journal},
    event::Event,
    guest::{Guest, Image},
    memo::Memo,
    network::Kind,
    node::{Disk, Machine, Node},
    transfer::{Landing, Leaving},
    world::World,
};

/// Which entries of a log are still needed.
pub(super) type Keep = BTreeMap<Stay, u64>;

fn survives(seq: u64, bytes: &[u8], keep: &Keep) -> bool {
    Entry::from_bytes(bytes).is_ok_and(|entry| entry.survives(seq, keep))
}

/// What a host keeps on disk.
#[derive(Debug)]
pub(super) struct HostDisk {
    pub(super) journal: Journal<Keep>,
    pub(super) images: Files<ImageId, Image>,
    /// Code, by hash.
    pub(super) modules: BTreeMap<Digest, Vec<u8>>,
}

impl HostDisk {
    pub(super) const fn new() -> Self {
        Self { journal: Journal::new(survives), images: Files::new(), modules: BTreeMap::new() }
    }
}

/// An instance and its thread, which does one thing after the other.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: u64,
    /// `None` until it has started.
    pub(super) guest: Option<Guest>,
    /// What an update has made, until the switch.
    pub(super) next: Option<Guest>,
    pub(super) busy_until: u64,
}

/// A host's process.
#[derive(Debug)]
pub(super) struct HostNode<G: Guards> {
    pub(super) host: Host<Memo, G>,
    pub(super) instances: BTreeMap<Stay, Instance>,
    pub(super) leaving: BTreeMap<MigrationId, Leaving>,
    pub(super) landing: BTreeMap<MigrationId, Landing>,
}

/// What an instance's thread does.
#[derive(Debug)]
pub(super) enum Task {
    Start(Digest),
    Restore(Box<RestoreJob>),
    Call { client: ClientId, sequence: u64, request: Vec<u8> },
    Capture(Box<CaptureJob>),
    Resume,
    Save { upto: u64, belongings: Vec<u8> },
    Update(Box<UpdateJob>),
    Switch,
}

impl Task {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Restore(_) => "restore",
            Self::Call { .. } => "call",
            Self::Capture(_) => "capture",
            Self::Resume => "resume",
            Self::Save { .. } => "save",
            Self::Update(_) => "update",
            Self::Switch => "switch",
        }
    }
}

/// Why an image is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum ImageFor {
    Arrival(MigrationId),
    Log { stay: Stay, upto: u64 },
    Update { stay: Stay, order: Digest, image: ImageId },
}

impl<G: Guards> Node<G> {
    pub(super) fn host_disk(&mut self) -> Option<&mut HostDisk> {
        match &mut self.disk {
            Disk::Host(disk) => Some(disk),
            Disk::Registry(_) | Disk::Gateway(_) => None,
        }
    }
}

impl<G: Guards> World<G> {
    pub(super) fn host_frame(&mut self, node: usize, kind: Kind, from: usize, bytes: &[u8]) {
        if kind == Kind::Registry {
            self.lie(node, bytes);
            self.note_answer(bytes);
        }
        let (now, peer, registry) = (self.now(node), self.nodes[from].host, self.bundle.anchors()[0].id);
        let Self { nodes, rng, .. } = self;
        let Machine::Host(host) = &mut nodes[node].machine else { return };
        let result = match kind {
            Kind::Registry => {
                // The stream stays: leases depend on it.
                let _ = host.host.handle_registry_frame(now, registry, bytes, rng);
                Ok(())
            }
            Kind::Migrate => host.host.handle_migrate_frame(now, peer, bytes, rng),
            Kind::Request => host.host.handle_client_frame(now, peer, bytes),
            Kind::State => Ok(()),
        };
        if let Err(reject) = result {
            self.tell(node, |_| format!("refuses it: {reject}"));
            self.close(node, kind, from);
            self.host_peer_lost(node, kind, from, "it broke the protocol");
        }
    }

    pub(super) fn host_peer_lost(&mut self, node: usize, kind: Kind, peer: usize, reason: &str) {
        let (now, peer) = (self.now(node), self.nodes[peer].host);
        let Self { nodes, rng, .. } = self;
        let Machine::Host(host) = &mut nodes[node].machine else { return };
        match kind {
            Kind::Migrate => host.host.handle_peer_lost(now, peer, reason, rng),
            Kind::Request => host.host.handle_gateway_lost(peer),
            Kind::Registry | Kind::State => {}
        }
    }

    pub(super) fn host_gossip(&mut self, node: usize, bytes: &[u8]) {
        let now = self.now(node);
        if let Machine::Host(host) = &mut self.nodes[node].machine {
            let _ = host.host.handle_gossip(now, bytes);
        }
    }

    pub(super) fn host_synced(&mut self, node: usize, seq: u64) {
        let now = self.now(node);
        let Some(disk) = self.nodes[node].host_disk() else { return };
        let bytes = disk.journal.bytes();
        if let Machine::Host(host) = &mut self.nodes[node].machine {
            host.host.handle_synced(seq);
            host.host.compact_if(now, bytes);
        }
    }

    /// Carries out the next effect. True if there is none.
    pub(super) fn host_effect(&mut self, node: usize) -> bool {
        let Machine::Host(host) = &mut self.nodes[node].machine else { return true };
        let Some(effect) = host.host.poll_effect() else { return true };
        self.carry_out(node, effect);
        false
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist { seq, entry } => {
                self.note_entry(node, &entry);
                self.note_key(node, &entry);
                let bytes = entry.to_bytes();
                self.tell(node, |_| format!("journals {} as {seq}", entry_name(&entry)));
                self.write(node, seq, Change::Append(bytes));
            }
            Effect::Compact { seq, snapshot, keep_after } => {
                self.tell(node, |_| format!("compacts its journal behind {seq}"));
                self.write(node, seq, Change::Compact { snapshot: snapshot.to_bytes(), keep: keep_after });
            }
            Effect::ToRegistry(_, frame) => {
                let registry = self.registry;
                self.note_to_registry(node, &frame);
                self.send(node, Kind::Registry, registry, true, frame.name(), frame.to_bytes());
            }
            Effect::ToPeer { host, addresses, frame } => {
                let Some(peer) = self.by_host.get(&host).copied() else { return };
                self.note_to_peer(node, &frame);
                self.send(node, Kind::Migrate, peer, !addresses.is_empty(), frame.name(), frame.to_bytes());
            }
            Effect::ToGateway(host, frame) => self.answer_gateway(node, host, &frame),
            Effect::Gossip(gossip) => {
                self.note_gossip(node, &gossip);
                self.gossip(node, gossip_name(&gossip), gossip.to_bytes());
            }
            Effect::Start { service, epoch, code, .. } => {
                if self.instance(node, (service, epoch), None) {
                    self.task(node, (service, epoch), 2_000, Task::Start(code));
                }
            }
            Effect::Execute { service, epoch, client, sequence, request } => {
                self.check_execute(node, (service, epoch));
                self.check_not_stopped(node, service, epoch);
                let mean = self.plan.call_us;
                self.task(node, (service, epoch), mean, Task::Call { client, sequence, request });
            }
            Effect::Capture(job) => self.capture(node, job),
            Effect::Resume { service, epoch } => {
                self.stop_sending(node, (service, epoch));
                self.task(node, (service, epoch), 500, Task::Resume);
            }
            Effect::Fetch(job) => self.fetch(node, job),
            Effect::Update(job) => self.update(node, job),
            Effect::Switch { service, epoch } => self.task(node, (service, epoch), 100, Task::Switch),
            Effect::Receive(job) => {
                let Some(host) = self.nodes[node].as_host_mut() else { return };
                host.landing.insert(job.ids.mig, Landing::new(job));
                self.nodes[node].phases[1] = "receiving";
            }
            Effect::Activate { mig, service, epoch } => self.activate(node, mig, (service, epoch)),
            Effect::DiscardInstance { service, epoch } => {
                self.check_discard(node, (service, epoch));
                self.stop_sending(node, (service, epoch));
                let Some(host) = self.nodes[node].as_host_mut() else { return };
                host.instances.remove(&(service, epoch));
            }
            Effect::DiscardIncoming { mig } => {
                self.check_discard_incoming(node, mig);
                let Some(host) = self.nodes[node].as_host_mut() else { return };
                host.landing.remove(&mig);
                self.nodes[node].phases[1] = "none";
            }
            Effect::Restore(job) => self.restore_instance(node, job),
            Effect::RestoreHeld(job) => {
                let life = self.nodes[node].life;
                let at = self.time + self.rng.wait(20_000);
                self.queue.push(at, Event::HeldAgain { node, life, job });
                self.nodes[node].phases[1] = "held";
            }
            Effect::SaveImage { service, epoch, upto, belongings } => {
                self.task(node, (service, epoch), 2_000, Task::Save { upto, belongings });
            }
            Effect::DropImage(image) => {
                if let Some(disk) = self.nodes[node].host_disk() {
                    disk.images.remove(&image);
                }
            }
            Effect::KeepImages(keep) => self.keep_images(node, &keep),
            Effect::Event(event) => self.told(node, &event),
        }
    }

    fn write(&mut self, node: usize, seq: u64, change: Change<Keep>) {
        if let Some(disk) = self.nodes[node].host_disk() {
            disk.journal.change(seq, change);
        }
        self.sync(node);
    }

    /// The lease is looked at once more just before a response leaves: effects may have waited.
    fn answer_gateway(&mut self, node: usize, to: wayfare_protocol::ids::HostId, frame: &ClientFrame) {
        let now = self.now(node);
        if let ClientFrame::Reply(reply) = frame {
            let Some(host) = self.nodes[node].as_host() else { return };
            if !host.host.may_answer(now, reply.service) {
                return;
            }
            self.check_reply(node, reply.service);
        }
        let Some(gateway) = self.by_host.get(&to).copied() else { return };
        self.send(node, Kind::Request, gateway, false, frame.name(), frame.to_bytes());
    }

    fn keep_images(&mut self, node: usize, keep: &[ImageId]) {
        let Some(disk) = self.nodes[node].host_disk() else { return };
        let drop: Vec<ImageId> = disk.images.keys().filter(|image| !keep.contains(image)).copied().collect();
        for image in drop {
            if let Some(disk) = self.nodes[node].host_disk() {
                disk.images.remove(&image);
            }
        }
    }

    /// Begins an instance, numbered anew. False if the node is no host that is up.
    pub(super) fn instance(&mut self, node: usize, stay: Stay, guest: Option<Guest>) -> bool {
        self.instances += 1;
        let instance = Instance { id: self.instances, guest, next: None, busy_until: self.time };
        let Some(host) = self.nodes[node].as_host_mut() else { return false };
        host.instances.insert(stay, instance);
        true
    }

    /// Gives an instance's thread something to do, behind what it has.
    pub(super) fn task(&mut self, node: usize, stay: Stay, mean: u64, task: Task) {
        let takes = self.rng.wait(mean);
        let (time, life) = (self.time, self.nodes[node].life);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        if let Some(instance) = host.instances.get_mut(&stay) {
            instance.busy_until = instance.busy_until.max(time) + takes;
            let (at, instance) = (instance.busy_until, instance.id);
            self.queue.push(at, Event::Work { node, life, stay, instance, task });
        } else {
            self.started(node, stay, Err("the instance has ended".to_owned()));
        }
    }

    pub(super) fn handle_work(&mut self, node: usize, stay: Stay, instance: u64, task: Task) {
        let Some(host) = self.nodes[node].as_host() else { return };
        if host.instances.get(&stay).is_none_or(|found| found.id != instance) {
            return;
        }
        self.cover(node, task.name(), Fault::None);
        match task {
            Task::Start(code) => {
                let guest = Guest::start(code, self.rng.next());
                self.check.born(&guest, stay);
                let inputs = guest.started();
                self.set_guest(node, stay, guest);
                self.started(node, stay, Ok(inputs));
            }
            Task::Restore(job) => self.replay_log(node, stay, &job),
            Task::Call { client, sequence, request } => self.call(node, stay, client, sequence, &request),
            Task::Capture(job) => self.captured(node, stay, &job),
            Task::Resume => self.started(node, stay, Ok(Vec::new())),
            Task::Update(job) => self.hand_over(node, stay, &job),
            Task::Switch => self.switch(node, stay),
            Task::Save { upto, belongings } => {
                let Some(guest) = self.guest(node, stay).cloned() else { return };
                let (service, epoch) = stay;
                let image = ImageId::Taken { service, epoch, upto };
                self.save(node, image, Image { guest, belongings }, ImageFor::Log { stay, upto });
            }
        }
    }

    pub(super) fn guest(&self, node: usize, stay: Stay) -> Option<&Guest> {
        self.nodes[node].as_host()?.instances.get(&stay)?.guest.as_ref()
    }

    pub(super) fn set_guest(&mut self, node: usize, stay: Stay, guest: Guest) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        if let Some(instance) = host.instances.get_mut(&stay) {
            instance.guest = Some(guest);
        }
    }

    fn call(&mut self, node: usize, stay: Stay, client: ClientId, sequence: u64, request: &[u8]) {
        self.check_call(node, stay, request);
        let (now, outside) = (self.now(node), self.rng.next());
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let guest = host.instances.get_mut(&stay).and_then(|instance| instance.guest.as_mut());
        let Some(response) = guest.and_then(|guest| guest.call(request, outside)) else { return };
        host.host.handle_executed(now, stay, client, sequence, response, outside.to_le_bytes().to_vec());
    }

    pub(super) fn started(&mut self, node: usize, stay: Stay, result: Result<Vec<u8>, String>) {
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        if let Machine::Host(host) = &mut nodes[node].machine {
            host.host.handle_started(now, stay, result, rng);
        }
    }

    fn activate(&mut self, node: usize, mig: MigrationId, stay: Stay) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let guest = host.landing.remove(&mig).and_then(|landing| landing.ready.map(|ready| ready.guest));
        if guest.is_none() {
            self.started(node, stay, Err("the received state is gone".to_owned()));
            return;
        }
        self.instance(node, stay, guest);
        self.started(node, stay, Ok(Vec::new()));
    }

    fn told(&mut self, node: usize, event: &Told) {
        self.tell(node, |_| format!("says {event:?}"));
        match event {
            Told::MoveStarted(..) => self.nodes[node].phases[0] = "verifying",
            Told::MovedAway(..) | Told::MoveFailed(..) | Told::Superseded(..) => self.nodes[node].phases[0] = "idle",
            Told::Serving(..) => self.nodes[node].phases[1] = "none",
            Told::Undecided(..) => self.nodes[node].phases[0] = "undecided",
            Told::Lost(service, _) => self.check.excuse(*service),
            Told::Broken(service, reason) => {
                let (service, reason) = (*service, reason.clone());
                self.violate("every instance runs", || format!("{service}: {reason}"));
            }
            Told::DeployFailed(service, _) => self.deployment_failed(*service),
            Told::LeaseEnded(..)
            | Told::AttemptEnded(..)
            | Told::Progress(_)
            | Told::Restoring(..)
            | Told::Restored(..)
            | Told::Ordered(..)
            | Told::OrderRefused(..)
            | Told::Removed(..)
            | Told::NotSaved(..) => {}
        }
    }
}

const fn gossip_name(gossip: &wayfare_protocol::advert::Gossip) -> &'static str {
    match gossip {
        wayfare_protocol::advert::Gossip::Advert(_) => "Advert",
        wayfare_protocol::advert::Gossip::Placement(_) => "GossipPlacement",
    }
}

/// An entry's name, for people.
pub(super) const fn entry_name(entry: &Entry) -> &'static str {
    match entry {
        Entry::Placed { .. } => "Placed",
        Entry::Registering { .. } => "Registering",
        Entry::KeyMade { .. } => "KeyMade",
        Entry::Consented { .. } => "Consented",
        Entry::Held { .. } => "Held",
        Entry::Released { .. } => "Released",
        Entry::Aborted { .. } => "Aborted",
        Entry::Dropped { .. } => "Dropped",
        Entry::Sealed { .. } => "Sealed",
        Entry::Started { .. } => "Started",
        Entry::Executed { .. } => "Executed",
        Entry::Imaged { .. } => "Imaged",
        Entry::Forgotten { .. } => "Forgotten",
        Entry::Departed { .. } => "Departed",
        Entry::Finished { .. } => "Finished",
        Entry::Snapshot(_) => "Snapshot",
        Entry::Cordoned { .. } => "Cordoned",
        Entry::Ordered { .. } => "Ordered",
        Entry::Removed { .. } => "Removed",
        Entry::Updated { .. } => "Updated",
    }
}
