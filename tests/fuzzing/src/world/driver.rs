//! Messages in, effects out.

use wayfare_protocol::{
    advert::Gossip,
    gateway,
    gateway::messages::ClientFrame,
    host::{Base, CaptureJob, Effect, Entry, Host, ImageId, Logged, Restored, UpdateJob},
    ids::{HostId, MigrationId},
    migration::messages::RegistryFrame,
    registry,
    reject::{Reject, Strict},
    suite::Suite,
    transfer::{Opener, RecordKind, SealedRecord, Sealer, state_digest},
    wire::Frame,
};

use super::{
    Content, Message, PAST_MAX, Stream, World, check,
    node::{Instance, number_of},
};

/// Effects that one event leads to, at most, in a mesh of this size.
const EFFECTS_MAX: usize = 2000;

impl<S: Suite> World<S> {
    /// Has a message arrive, and checks that what is refused has changed nothing. Then everybody does what is to be done.
    ///
    /// # Errors
    /// The receiver's rejection.
    pub fn deliver(&mut self, message: Message) -> Result<(), Reject> {
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(message.clone());
        let Message { from, to, content } = message;
        let result = match content {
            Content::State(mig, records) => {
                self.land(mig, from, to, &records);
                Ok(())
            }
            Content::Frame(stream, bytes) if to == self.registry.host() => self.registry_hears(from, stream, &bytes),
            Content::Frame(stream, bytes) if to == self.gateway => self.gateway_hears(from, stream, &bytes),
            Content::Frame(stream, bytes) => self.host_hears(from, to, stream, &bytes),
        };
        self.run();
        result
    }

    fn registry_hears(&mut self, from: HostId, stream: Stream, bytes: &[u8]) -> Result<(), Reject> {
        let now = self.now;
        match stream {
            Stream::Registry => {
                let before = self.registry.clone();
                let result = self.registry.handle_frame(now, &mut self.rng, from, bytes);
                if let Err(reject) = result {
                    check::registry_unchanged(&before, &self.registry, reject, bytes);
                }
                result
            }
            Stream::Gossip => match Gossip::from_bytes(bytes)? {
                Gossip::Advert(advert) => self.registry.handle_advert(now, &advert),
                Gossip::Placement(_) => Ok(()),
            },
            Stream::Migrate | Stream::Client => Ok(()),
        }
    }

    fn gateway_hears(&mut self, from: HostId, stream: Stream, bytes: &[u8]) -> Result<(), Reject> {
        let (now, machine) = (self.now, &mut self.entrance.machine);
        let before = machine.clone();
        let result = match stream {
            Stream::Client => machine.handle_frame(now, from, bytes),
            Stream::Registry => {
                let RegistryFrame::Found(found) = RegistryFrame::from_bytes(bytes)? else { return Ok(()) };
                let registry =
                    if from == self.registry.host() { self.registry.id() } else { self.attacker.registry.id };
                machine.handle_found(now, registry, &found)
            }
            Stream::Gossip => match Gossip::from_bytes(bytes)? {
                Gossip::Advert(advert) => machine.handle_gossip_advert(now, &advert).map(|_| ()),
                Gossip::Placement(placement) => machine.handle_gossip_placement(now, &placement),
            },
            Stream::Migrate => return Ok(()),
        };
        if let Err(reject) = result {
            check::gateway_unchanged(before, machine, reject, stream);
        }
        result
    }

    fn host_hears(&mut self, from: HostId, to: HostId, stream: Stream, bytes: &[u8]) -> Result<(), Reject> {
        let (now, real) = (self.now, (self.registry.host(), self.registry.id()));
        let rogue = (HostId(S::public_key(&self.attacker.registry.secret)), self.attacker.registry.id);
        let Some(node) = self.nodes.get_mut(&to) else { return Ok(()) };
        let before = node.host.clone();
        let result = match stream {
            Stream::Registry => {
                // Nobody else is asked.
                let Some((_, id)) = [real, rogue].into_iter().find(|(host, _)| *host == from) else { return Ok(()) };
                node.host.handle_registry_frame(now, id, bytes, &mut self.rng)
            }
            Stream::Migrate => node.host.handle_migrate_frame(now, from, bytes, &mut self.rng),
            Stream::Client => node.host.handle_client_frame(now, from, bytes),
            Stream::Gossip => node.host.handle_gossip(now, bytes),
        };
        if let Err(reject) = result {
            check::host_unchanged(before, &node.host, reject, bytes);
            if stream == Stream::Client {
                node.host.handle_gateway_lost(from);
                if from == self.gateway {
                    self.entrance.machine.handle_disconnected(now, to);
                }
            }
        }
        result
    }

    /// Everybody does what is to be done, until nothing is.
    pub fn run(&mut self) {
        self.clients.insert(self.entrance.machine.client());
        for _ in 0..EFFECTS_MAX {
            let mut idle = true;
            if let Some(effect) = self.registry.poll_effect() {
                (idle, ()) = (false, self.registry_does(effect));
            }
            for host in self.hosts.clone() {
                if let Some(effect) = self.nodes.get_mut(&host).and_then(|node| node.host.poll_effect()) {
                    (idle, ()) = (false, self.host_does(host, effect));
                }
            }
            if let Some(effect) = self.entrance.machine.poll_effect() {
                (idle, ()) = (false, self.gateway_does(effect));
            }
            if idle {
                return;
            }
        }
        panic!("the effects of one event do not end");
    }

    fn registry_does(&mut self, effect: registry::Effect) {
        let from = self.registry.host();
        match effect {
            registry::Effect::Persist { seq, batch, .. } => {
                batch.iter().for_each(|op| op.apply(&mut self.store));
                self.registry.handle_synced(seq);
                self.check_record();
            }
            registry::Effect::Reply { to, frame } | registry::Effect::Ask { to, frame, .. } => {
                self.send(from, to, Content::Frame(Stream::Registry, frame.to_bytes()));
            }
            registry::Effect::Event(_) => {}
        }
    }

    fn gossip(&mut self, from: HostId, gossip: &Gossip) {
        let everybody = [self.gateway, self.registry.host()].into_iter().chain(self.hosts.iter().copied());
        for to in everybody.filter(|to| *to != from).collect::<Vec<_>>() {
            self.send(from, to, Content::Frame(Stream::Gossip, gossip.to_bytes()));
        }
    }

    fn gateway_does(&mut self, effect: gateway::Effect) {
        let (from, now) = (self.gateway, self.now);
        let entrance = &mut self.entrance;
        match effect {
            gateway::Effect::Persist { seq, entry } => {
                assert_eq!(seq, entrance.journal.last().map_or(0, |(seq, _)| *seq) + 1, "numbers have no gaps");
                entrance.journal.push((seq, entry));
                entrance.machine.handle_synced(now, seq);
            }
            gateway::Effect::Compact { seq, keep, entry } => {
                entrance.journal.retain(|(seq, _)| keep.contains(seq));
                entrance.journal.push((seq, entry));
                entrance.machine.handle_synced(now, seq);
            }
            gateway::Effect::Connect { host, .. } if self.nodes.contains_key(&host) => {
                self.entrance.machine.handle_connected(now, host);
            }
            gateway::Effect::Connect { host, .. } => self.entrance.machine.handle_disconnected(now, host),
            gateway::Effect::Disconnect { host } => {
                if let Some(node) = self.nodes.get_mut(&host) {
                    node.host.handle_gateway_lost(from);
                }
            }
            gateway::Effect::Send { host, frame } => {
                self.send(from, host, Content::Frame(Stream::Client, frame.to_bytes()));
            }
            gateway::Effect::Lookup { registry, lookup } => {
                if registry == self.registry.id() {
                    let frame = RegistryFrame::Lookup(lookup).to_bytes();
                    self.send(from, self.registry.host(), Content::Frame(Stream::Registry, frame));
                }
            }
            gateway::Effect::Answer { ticket, response } => {
                assert_eq!(self.told.insert(ticket, ()), None, "answered twice");
                let number = number_of(&response);
                let service = self.asked_of.get(&ticket).copied();
                if let Some((service, asked)) = service.filter(|(service, _)| !self.tainted.contains(service)) {
                    assert_eq!(number, asked, "the response to another request");
                    self.acknowledged.entry(service).or_default().insert(number);
                }
            }
            gateway::Effect::Fail { ticket, .. } => {
                assert_eq!(self.told.insert(ticket, ()), None, "answered twice");
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each effect")]
    fn host_does(&mut self, me: HostId, effect: Effect) {
        let (now, registry) = (self.now, self.registry.host());
        let Some(node) = self.nodes.get_mut(&me) else { return };
        match effect {
            Effect::Persist { seq, entry } => {
                let last = node.unsynced.last().or(node.journal.last()).map_or(0, |(seq, _)| *seq);
                assert_eq!(seq, last + 1, "numbers have no gaps");
                assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(&entry));
                node.unsynced.push((seq, entry.clone()));
                if !node.slow {
                    node.sync();
                }
                self.heard_of(me, &entry);
            }
            Effect::Compact { seq, snapshot, keep_after } => {
                node.sync();
                node.journal.retain(|(seq, entry)| entry.survives(*seq, &keep_after));
                node.journal.push((seq, snapshot));
                node.host.handle_synced(seq);
            }
            Effect::KeepImages(keep) => node.images.retain(|image, _| keep.contains(image)),
            Effect::DropImage(image) => drop(node.images.remove(&image)),
            Effect::SaveImage { service, epoch, upto, belongings } => {
                let saved = node.running.get(&(service, epoch)).cloned();
                let result = saved.map_or(Err("it does not run".to_owned()), |instance| {
                    node.images.insert(ImageId::Taken { service, epoch, upto }, (instance, belongings));
                    Ok(8)
                });
                node.host.handle_saved(now, (service, epoch), upto, result);
            }
            Effect::Restore(job) => {
                let stay = (job.service, job.epoch);
                let base = match job.base {
                    Base::Fresh { .. } => Some((Instance::default(), None)),
                    Base::Image(image) => {
                        node.images.get(&image).cloned().map(|(instance, bytes)| (instance, Some(bytes)))
                    }
                };
                let result = base.map_or(Err("no image".to_owned()), |(mut instance, belongings)| {
                    let again =
                        |logged: &Logged| instance.call(&logged.request, self.clients.contains(&logged.client)).0;
                    let responses = job.log.iter().map(again).collect();
                    node.running.insert(stay, instance);
                    Ok(Restored { belongings, responses, image_bytes: 8 })
                });
                assert!(result.is_ok(), "an image that is needed was dropped");
                node.host.handle_restored(now, stay, result, &mut self.rng);
            }
            Effect::RestoreHeld(job) => {
                let result = match node.images.get(&ImageId::Held(job.mig)).cloned() {
                    Some((instance, belongings)) => {
                        node.landing.insert(job.mig, (None, Some(instance)));
                        Ok(belongings)
                    }
                    None => Err("no image".to_owned()),
                };
                assert!(result.is_ok(), "what was held was dropped");
                node.host.handle_held_restored(now, job.mig, result);
            }
            Effect::Fetch(job) => {
                node.host.handle_module(job.code);
                let result = if super::CODES.contains(&job.code) { Ok(()) } else { Err("no_module".to_owned()) };
                node.host.handle_fetched(now, (job.service, job.epoch), job.order, result);
            }
            Effect::Update(job) => self.update(me, job),
            Effect::Switch { service, epoch } => {
                if let Some(instance) = node.updating.remove(&(service, epoch)) {
                    node.running.insert((service, epoch), instance);
                }
                node.host.handle_started(now, (service, epoch), Ok(Vec::new()), &mut self.rng);
            }
            Effect::ToRegistry(id, frame) => {
                if id == self.registry.id() {
                    self.send(me, registry, Content::Frame(Stream::Registry, frame.to_bytes()));
                }
            }
            Effect::ToPeer { host, frame, .. } => {
                self.send(me, host, Content::Frame(Stream::Migrate, frame.to_bytes()));
            }
            Effect::ToGateway(_, ClientFrame::Reply(reply)) if !node.host.may_answer(now, reply.service) => {}
            Effect::ToGateway(to, frame) => self.send(me, to, Content::Frame(Stream::Client, frame.to_bytes())),
            Effect::Gossip(gossip) => self.gossip(me, &gossip),
            Effect::Start { service, epoch, .. } => {
                node.running.insert((service, epoch), Instance::default());
                node.host.handle_started(now, (service, epoch), Ok(b"init".to_vec()), &mut self.rng);
            }
            Effect::Execute { service, epoch, client, sequence, request } => {
                let instance = node.running.get_mut(&(service, epoch)).expect("what executes runs");
                let known = instance.clone();
                let (response, fresh) = instance.call(&request, self.clients.contains(&client));
                let inputs = b"inputs".to_vec();
                node.host.handle_executed(now, (service, epoch), client, sequence, response, inputs);
                self.check_executed(service, client, &request, &known, fresh);
            }
            Effect::Capture(job) => self.capture(me, &job),
            Effect::Resume { service, epoch } => {
                let ready = node.running.contains_key(&(service, epoch));
                let result = if ready { Ok(Vec::new()) } else { Err("nothing to resume".to_owned()) };
                node.host.handle_started(now, (service, epoch), result, &mut self.rng);
            }
            Effect::Receive(job) => drop(node.landing.insert(job.ids.mig, (Some(job), None))),
            Effect::Activate { mig, service, epoch } => {
                let landed = node.landing.remove(&mig).and_then(|(_, instance)| instance);
                node.running.insert((service, epoch), landed.expect("what is activated was received whole"));
                node.host.handle_started(now, (service, epoch), Ok(Vec::new()), &mut self.rng);
            }
            Effect::DiscardInstance { service, epoch } => drop(node.running.remove(&(service, epoch))),
            Effect::DiscardIncoming { mig } => drop(node.landing.remove(&mig)),
            Effect::Event(_) => {}
        }
    }

    fn update(&mut self, me: HostId, job: UpdateJob) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&me) else { return };
        let stay = (job.service, job.epoch);
        let instance = if job.keep { node.running.get(&stay).cloned() } else { Some(Instance::default()) };
        let result = instance.map_or(Err("it does not run".to_owned()), |instance| {
            if let Some(image) = job.image {
                node.images.insert(image, (instance.clone(), job.belongings));
            }
            node.updating.insert(stay, instance);
            Ok(8)
        });
        node.host.handle_updated(now, stay, job.order, job.image, result);
    }

    fn capture(&mut self, me: HostId, job: &CaptureJob) {
        let (now, mig) = (self.now, job.ids.mig);
        let Some(node) = self.nodes.get_mut(&me) else { return };
        let Some(instance) = node.running.get(&(job.ids.service, job.ids.epoch)) else {
            node.host.handle_captured(now, mig, Err("it does not run".to_owned()), &mut self.rng);
            return;
        };
        let mut sealer = Sealer::new(job.key.clone(), job.transcript);
        let salt = sealer.salt();
        let parts = [
            (RecordKind::Page, &instance.to_bytes()),
            (RecordKind::Sessions, &job.sessions),
            (RecordKind::End, &vec![]),
        ];
        let records = parts.map(|(kind, part)| sealer.seal::<S>(kind, part).expect("it is short")).to_vec();
        let state = state_digest(&salt, &job.code, &instance.digest(&salt), &job.sessions);
        node.host.handle_captured(now, mig, Ok((state, 8)), &mut self.rng);
        self.send(me, job.ids.host, Content::State(mig, records));
    }

    fn land(&mut self, mig: MigrationId, from: HostId, to: HostId, records: &[SealedRecord]) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let Some((job, landed)) = node.landing.get_mut(&mig) else { return };
        // The driver takes a stream from who was announced only, and one for each attempt.
        let Some(job) = job.clone().filter(|job| job.from == from && landed.is_none()) else { return };
        let mut opener = Opener::new(job.key.clone(), job.transcript);
        let (mut instance, mut belongings) = (Instance::default(), Vec::new());
        for record in records {
            match opener.open::<S, Strict>(record) {
                Ok(plaintext) => match record.kind {
                    RecordKind::Page => instance = Instance::from_bytes(&plaintext),
                    RecordKind::Sessions => belongings = plaintext,
                    RecordKind::Module | RecordKind::Globals | RecordKind::Log | RecordKind::End => {}
                },
                Err(reject) => return node.host.handle_receive_failed(now, mig, reject),
            }
            node.host.handle_records(now, mig, opener.next());
        }
        if records.last().is_none_or(|record| record.kind != RecordKind::End) {
            return;
        }
        if let Err(reject) = Host::<S, Strict>::check_belongings(&belongings) {
            return node.host.handle_receive_failed(now, mig, reject);
        }
        let salt = opener.salt();
        let state = state_digest(&salt, &job.code, &instance.digest(&salt), &belongings);
        *landed = Some(instance.clone());
        if job.durable {
            node.images.insert(ImageId::Held(mig), (instance, belongings.clone()));
        }
        node.host.handle_received(now, mig, state, 8, belongings);
    }

    /// What a host writes down tells the attacker every placement's key: that alone must be worth nothing.
    fn heard_of(&mut self, me: HostId, entry: &Entry) {
        let secret = match entry {
            Entry::Placed { secret, .. } | Entry::Registering { secret, .. } => Some(secret.clone()),
            Entry::KeyMade { ids, secret } => {
                self.learn(&ids.mig.0);
                Some(secret.clone())
            }
            Entry::Consented { ids, .. } => {
                if me != self.attacker.host {
                    self.consents.insert(ids.mig);
                }
                None
            }
            _ => None,
        };
        let Some(secret) = secret else { return };
        self.learn(&S::public_key(&secret));
        self.attacker.learn_key(secret);
    }
}
