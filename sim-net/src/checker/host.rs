//! A cloud's part: its journal, its instances, its clock, its effects.

use wayfare_protocol::{
    gateway::messages::{Call, ClientFrame, Hello, Open, request_hash},
    host::{Base, CaptureJob, Effect, Entry, Host, ImageId, RestoreJob, Restored, hosted::Stay},
    ids::MigrationId,
    limits::STEP_TIMEOUT,
    migration::messages::RegistryFrame,
    suite::digest,
    time::Micros,
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    wire::Frame as _,
};

use super::{
    guards::Lifted,
    message::{Body, Envelope, Guest, Note, Party, REGISTRY},
    party::{HostParty, Incoming, Input, Output},
    symbolic::Symbolic,
    world::{RESTART, World},
};

/// How far ahead a deadline may lie for a timeout to reach it: beyond every timer of a migration.
const HORIZON: Micros = Micros::from_secs(60);
/// Deadlines that one timeout passes, at most.
const DEADLINES_MAX: usize = 24;
/// How long a timeout goes on behind the first deadline at which something happens: beyond any single step's time.
const PATIENCE: Micros = Micros(STEP_TIMEOUT.0 + STEP_TIMEOUT.0 / 2);

impl HostParty {
    pub(super) fn take(&mut self, world: &World, party: Party, input: &Input, output: &mut Output) -> Option<()> {
        match input {
            Input::Deliver(envelope) => self.hear(world, envelope)?,
            Input::Timeout => self.wait(world, party, output),
            Input::Pass(length) => {
                self.now.mono = self.now.mono + *length;
                self.now.wall = self.now.wall + *length;
                if self.machine.poll_timeout() <= self.now.mono {
                    self.machine.handle_timeout(self.now, &mut self.draws);
                }
            }
            Input::Sync => self.sync()?,
            Input::Crash { kept } => self.crash(world, party, *kept, output)?,
            Input::Move(to) => {
                self.machine.begin_move(self.now, world.service, *to, "asked", &mut self.draws).ok()?;
            }
            Input::PeerLost(peer) => self.machine.handle_peer_lost(self.now, *peer, "lost", &mut self.draws),
            Input::ForgetDisk => {
                self.sync();
                self.disk.take()?;
            }
            Input::Revoke(_) => return None,
        }
        self.effects(world, party, output);
        Some(())
    }

    /// Waits until something happens, and then for as long as a step may take: what repeats itself meanwhile says nothing
    /// new, and would only make more states of the same.
    fn wait(&mut self, world: &World, party: Party, output: &mut Output) {
        let mut end = self.now.mono + HORIZON;
        for _ in 0..DEADLINES_MAX {
            let due = self.machine.poll_timeout();
            if due > end {
                break;
            }
            self.now.mono = self.now.mono.max(due);
            self.machine.handle_timeout(self.now, &mut self.draws);
            let before = output.active;
            self.effects(world, party, output);
            if output.active && !before {
                end = self.now.mono + PATIENCE;
            }
        }
    }

    /// A message arrives. What the machine refuses shows in what it does.
    fn hear(&mut self, world: &World, envelope: &Envelope) -> Option<()> {
        match &envelope.body {
            Body::Registry(bytes) => {
                let id = world.service.registry;
                let _ = self.machine.handle_registry_frame(self.now, id, bytes, &mut self.draws);
            }
            Body::Migrate(bytes) => {
                let peer = world.host(envelope.from)?;
                let _ = self.machine.handle_migrate_frame(self.now, peer, bytes, &mut self.draws);
            }
            Body::State { mig, records } => self.receive(world, envelope.from, *mig, records)?,
            Body::Call { sequence, acked_below } => {
                let call = world.call(*sequence, *acked_below);
                let _ = self.machine.handle_client_frame(self.now, world.gateway, &ClientFrame::Call(call).to_bytes());
            }
        }
        Some(())
    }

    fn sync(&mut self) -> Option<()> {
        let disk = self.disk.as_mut()?;
        if disk.unsynced == 0 {
            return None;
        }
        disk.unsynced = 0;
        let (last, _) = disk.journal.last()?;
        self.machine.handle_synced(*last);
        Some(())
    }

    fn crash(&mut self, world: &World, party: Party, kept: usize, output: &mut Output) -> Option<()> {
        let disk = self.disk.as_mut()?;
        let length = disk.journal.len() - disk.unsynced.saturating_sub(kept);
        disk.journal.truncate(length);
        disk.unsynced = 0;
        let last = disk.journal.last().map_or(0, |(seq, _)| *seq);
        let entries = disk.journal.clone();
        self.now.wall = self.now.wall + RESTART;
        self.running.clear();
        self.incoming.clear();
        let (identity, config) = world.parts(party)?;
        self.machine = Host::restore(identity, config, world.bundle.clone(), self.now, last, entries).ok()?;
        world.introduce(&mut self.machine, self.now, &mut self.draws);
        self.effects(world, party, output);
        Some(())
    }

    /// The records of an attempt, all at once, from whom they are expected.
    fn receive(&mut self, world: &World, from: Party, mig: MigrationId, records: &[SealedRecord]) -> Option<()> {
        let incoming = self.incoming.get_mut(&mig)?;
        let job = incoming.job.take_if(|job| world.party(job.from) == Some(from))?;
        let mut opener = Opener::new(job.key.clone(), job.transcript);
        let (mut guest, mut belongings) = (Guest::default(), Vec::new());
        for record in records {
            let plaintext = match opener.open::<Symbolic, Lifted>(record) {
                Ok(plaintext) => plaintext,
                Err(reject) => {
                    self.machine.handle_receive_failed(self.now, mig, reject);
                    return Some(());
                }
            };
            match record.kind {
                RecordKind::Page => guest = Guest::from_bytes(&plaintext),
                RecordKind::Sessions => belongings = plaintext,
                RecordKind::Module | RecordKind::Globals | RecordKind::Log | RecordKind::End => {}
            }
        }
        let salt = opener.salt();
        let state = state_digest(&salt, &job.code, &digest("guest", &[&salt.0, &guest.to_bytes()]), &belongings);
        incoming.guest = Some(guest.clone());
        if let Some(disk) = self.disk.as_mut().filter(|_| job.durable) {
            disk.images.insert(ImageId::Held(mig), (guest, belongings.clone()));
        }
        self.machine.handle_received(self.now, mig, state, 8, belongings);
        Some(())
    }

    fn effects(&mut self, world: &World, party: Party, output: &mut Output) {
        while let Some(effect) = self.machine.poll_effect() {
            output.active |= !matches!(effect, Effect::Gossip(_) | Effect::Event(_));
            self.execute(world, party, effect, output);
        }
    }

    fn execute(&mut self, world: &World, party: Party, effect: Effect, output: &mut Output) {
        match effect {
            Effect::Persist { seq, entry } => self.persist(seq, entry, output),
            Effect::ToRegistry(_, frame) => self.tell_registry(party, &frame, output),
            Effect::ToPeer { host, frame, .. } => {
                if let Some(to) = world.party(host) {
                    output.sent.push(Envelope { from: party, to, body: Body::Migrate(frame.to_bytes()) });
                }
            }
            Effect::ToGateway(_, ClientFrame::Reply(reply)) => {
                // The driver asks just before a response leaves.
                if self.machine.may_answer(self.now, reply.service) {
                    output.notes.push(Note::Answered { sequence: reply.sequence });
                }
            }
            Effect::Start { service, epoch, .. } => self.started((service, epoch), Some(Guest::default())),
            Effect::Execute { service, epoch, client, sequence, request } => {
                let guest = self.running.entry((service, epoch)).or_default();
                if guest.0.contains(&sequence) {
                    output.notes.push(Note::Twice { sequence });
                }
                guest.0.push(sequence);
                self.machine.handle_executed(self.now, (service, epoch), client, sequence, request, Vec::new());
            }
            Effect::Capture(job) => self.capture(party, &job, world, output),
            Effect::Resume { service, epoch } => self.started((service, epoch), None),
            Effect::Receive(job) => {
                self.incoming.insert(job.ids.mig, Incoming { job: Some(job), guest: None });
            }
            Effect::Activate { mig, service, epoch } => {
                let guest = self.incoming.remove(&mig).and_then(|incoming| incoming.guest).unwrap_or_default();
                output.notes.push(Note::Activated { mig, guest: guest.clone() });
                self.started((service, epoch), Some(guest));
            }
            Effect::DiscardInstance { service, epoch } => {
                if let Some(guest) = self.running.remove(&(service, epoch)) {
                    output.notes.push(Note::Discarded { epoch, guest });
                }
            }
            Effect::DiscardIncoming { mig } => drop(self.incoming.remove(&mig)),
            Effect::KeepImages(keep) => self.images(|images| images.retain(|image, _| keep.contains(image))),
            Effect::DropImage(image) => self.images(|images| drop(images.remove(&image))),
            Effect::SaveImage { service, epoch, upto, belongings } => {
                let guest = self.running.get(&(service, epoch)).cloned().unwrap_or_default();
                let image = ImageId::Taken { service, epoch, upto };
                self.images(|images| drop(images.insert(image, (guest, belongings))));
                self.machine.handle_saved(self.now, (service, epoch), upto, Ok(8));
            }
            Effect::Restore(job) => self.restore(job, output),
            Effect::RestoreHeld(job) => {
                let image = self.disk.as_ref().and_then(|disk| disk.images.get(&ImageId::Held(job.mig))).cloned();
                let result = image.ok_or_else(|| "the image is not there".to_owned()).map(|(guest, belongings)| {
                    self.incoming.insert(job.mig, Incoming { job: None, guest: Some(guest) });
                    belongings
                });
                self.machine.handle_held_restored(self.now, job.mig, result);
            }
            // No scope updates a service or lets a journal grow long; gossip reaches gateways, events people.
            Effect::Fetch(_)
            | Effect::Update(_)
            | Effect::Switch { .. }
            | Effect::Compact { .. }
            | Effect::ToGateway(..)
            | Effect::Gossip(_)
            | Effect::Event(_) => {}
        }
    }

    fn images(&mut self, change: impl FnOnce(&mut std::collections::BTreeMap<ImageId, (Guest, Vec<u8>)>)) {
        if let Some(disk) = &mut self.disk {
            change(&mut disk.images);
        }
    }

    fn tell_registry(&self, party: Party, frame: &RegistryFrame, output: &mut Output) {
        output.sent.push(Envelope { from: party, to: REGISTRY, body: Body::Registry(frame.to_bytes()) });
    }

    fn persist(&mut self, seq: u64, entry: Entry, output: &mut Output) {
        match &entry {
            Entry::Consented { ids, consented, .. } => {
                output.notes.push(Note::Consented { mig: ids.mig, epoch: ids.epoch, state: consented.state });
            }
            Entry::Held { ids, held, .. } => output.notes.push(Note::Held { mig: ids.mig, state: held.state }),
            _ => {}
        }
        match &mut self.disk {
            Some(disk) => {
                disk.journal.push((seq, entry));
                disk.unsynced += 1;
            }
            None => self.machine.handle_synced(seq),
        }
    }

    fn started(&mut self, stay: Stay, guest: Option<Guest>) {
        if let Some(guest) = guest {
            self.running.insert(stay, guest);
        }
        self.machine.handle_started(self.now, stay, Ok(Vec::new()), &mut self.draws);
    }

    fn capture(&mut self, party: Party, job: &CaptureJob, world: &World, output: &mut Output) {
        let guest = self.running.get(&(job.ids.service, job.ids.epoch)).cloned().unwrap_or_default();
        output.notes.push(Note::Captured { mig: job.ids.mig, guest: guest.clone() });
        let mut sealer = Sealer::new(job.key.clone(), job.transcript);
        let salt = sealer.salt();
        let parts = [(RecordKind::Page, guest.to_bytes()), (RecordKind::Sessions, job.sessions.clone())];
        let sealed = parts.into_iter().chain([(RecordKind::End, Vec::new())]);
        let records: Result<Vec<_>, _> =
            sealed.map(|(kind, plaintext)| sealer.seal::<Symbolic>(kind, &plaintext)).collect();
        let state = state_digest(&salt, &job.code, &digest("guest", &[&salt.0, &guest.to_bytes()]), &job.sessions);
        let mig = job.ids.mig;
        let result = records.map_err(|reject| reject.to_string()).map(|records| {
            if let Some(to) = world.party(job.ids.host) {
                output.sent.push(Envelope { from: party, to, body: Body::State { mig, records } });
            }
            (state, 8)
        });
        self.machine.handle_captured(self.now, mig, result, &mut self.draws);
    }

    /// Executes the log again on what it builds on.
    fn restore(&mut self, job: RestoreJob, output: &mut Output) {
        let base = match job.base {
            Base::Fresh { .. } => Some((Guest::default(), None)),
            Base::Image(image) => {
                let saved = self.disk.as_ref().and_then(|disk| disk.images.get(&image)).cloned();
                saved.map(|(guest, belongings)| (guest, Some(belongings)))
            }
        };
        let stay = (job.service, job.epoch);
        let result = base.ok_or_else(|| "the image is not there".to_owned()).map(|(mut guest, belongings)| {
            for logged in &job.log {
                if guest.0.contains(&logged.sequence) {
                    output.notes.push(Note::Twice { sequence: logged.sequence });
                }
                guest.0.push(logged.sequence);
            }
            self.running.insert(stay, guest);
            let responses = job.log.iter().map(|logged| logged.request.clone()).collect();
            Restored { belongings, responses, image_bytes: 8 }
        });
        self.machine.handle_restored(self.now, stay, result, &mut self.draws);
    }

    /// Whether it would execute a client's request now: tried out on a copy.
    pub(super) fn would_execute(&self, world: &World) -> Option<Stay> {
        let mut machine = self.machine.clone();
        let say = |machine: &mut Host<Symbolic, Lifted>, frame: ClientFrame| {
            let _ = machine.handle_client_frame(self.now, world.gateway, &frame.to_bytes());
        };
        let client = wayfare_protocol::gateway::messages::client_id(world.gateway, PROBE);
        let hello = Hello { certificate: world.gateway_certificate.clone(), incarnation: PROBE };
        say(&mut machine, ClientFrame::Hello(hello));
        say(&mut machine, ClientFrame::Open(Open { service: world.service, client }));
        let (request, service) = (b"probe".to_vec(), world.service);
        let hash = request_hash(&request);
        say(&mut machine, ClientFrame::Call(Call { service, client, sequence: 0, hash, acked_below: 0, request }));
        while let Some(effect) = machine.poll_effect() {
            if let Effect::Execute { service, epoch, .. } = effect {
                return Some((service, epoch));
            }
        }
        None
    }
}

/// The incarnation of the client that only asks whether it would be served.
const PROBE: u64 = u64::MAX;
