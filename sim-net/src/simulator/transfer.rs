//! The two ends of a state stream, as `node/src/host/bulk.rs` and `worker.rs` have them: records sealed and opened by the
//! production code, cut anywhere.

use wayfare_protocol::{
    host::{CaptureJob, Host, ImageId, ReceiveJob, hosted::Stay},
    ids::{Digest, MigrationId},
    limits::RECORD_BYTES_MAX,
    migration::messages::MigrationRef,
    reject::{Guards, Reject},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, StateFrame, state_digest},
    wire::Frame as _,
};

use super::{
    coverage::Fault,
    event::Event,
    guest::{Guest, Image},
    host::{ImageFor, Task},
    memo::Memo,
    network::{Frame, Kind},
    node::Machine,
    world::World,
};

/// A capture under way.
#[derive(Debug)]
pub(super) struct Leaving {
    stay: Stay,
    conn: usize,
    opened: bool,
    /// `h(state)`, size and records, until they are sent.
    captured: Option<(Digest, u64)>,
    records: Vec<SealedRecord>,
}

/// What a target keeps of an arrival until it runs.
#[derive(Debug)]
pub(super) struct Landing {
    /// `None` after a restart.
    job: Option<ReceiveJob>,
    reading: Option<Reading>,
    /// The whole state, ready to run.
    pub(super) ready: Option<Ready>,
}

/// A state that has come in whole.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) guest: Guest,
    belongings: Vec<u8>,
    state: Digest,
    bytes: u64,
}

/// A state stream that is being read.
#[derive(Debug)]
struct Reading {
    conn: usize,
    opener: Opener,
    guest: Guest,
    module: Vec<u8>,
    sessions: Vec<u8>,
    bytes: u64,
    applied: u64,
}

impl Landing {
    pub(super) const fn new(job: ReceiveJob) -> Self {
        Self { job: Some(job), reading: None, ready: None }
    }

    /// What was held before a restart.
    pub(super) const fn again(guest: Guest, belongings: Vec<u8>) -> Self {
        Self { job: None, reading: None, ready: Some(Ready { guest, belongings, state: Digest([0; 32]), bytes: 0 }) }
    }

    /// Which service is on its way here, as far as that is known.
    pub(super) fn service(&self) -> Option<wayfare_protocol::ids::ServiceId> {
        self.job.as_ref().map(|job| job.ids.service)
    }
}

/// Records between two acknowledgements.
const ACK_EVERY: u64 = 4;

/// The hash that a manifest has of its code.
pub(super) fn module_digest(module: &[u8]) -> Digest {
    Digest(*blake3::hash(module).as_bytes())
}

impl<G: Guards> World<G> {
    /// Ends the sending of a stay's records.
    pub(super) fn stop_sending(&mut self, node: usize, stay: Stay) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let sends = |leaving: &&Leaving| leaving.stay == stay;
        let conns: Vec<usize> = host.leaving.values().filter(sends).map(|leaving| leaving.conn).collect();
        host.leaving.retain(|_, leaving| leaving.stay != stay);
        conns.into_iter().for_each(|conn| self.end(conn, node));
    }

    pub(super) fn capture(&mut self, node: usize, job: CaptureJob) {
        let (mig, stay) = (job.ids.mig, (job.ids.service, job.ids.epoch));
        let Some(peer) = self.by_host.get(&job.ids.host).copied() else { return };
        self.nodes[node].phases[0] = "transferring";
        let conn = self.dial(node, Kind::State, peer);
        let leaving = Leaving { stay, conn, opened: false, captured: None, records: Vec::new() };
        if let Some(host) = self.nodes[node].as_host_mut() {
            host.leaving.insert(mig, leaving);
        }
        self.task(node, stay, 3_000, Task::Capture(Box::new(job)));
    }

    /// The instance's thread has captured and sealed.
    pub(super) fn captured(&mut self, node: usize, stay: Stay, job: &CaptureJob) {
        let mig = job.ids.mig;
        let Some(host) = self.nodes[node].as_host() else { return };
        let guest = host.instances.get(&stay).and_then(|instance| instance.guest.clone());
        let Some(guest) = guest.filter(|_| host.leaving.contains_key(&mig)) else { return };
        let mut sealer = Sealer::new(job.key.clone(), job.transcript);
        let salt = sealer.salt();
        let mut pieces = Vec::new();
        if job.send_module {
            let module = self.nodes[node].host_disk().and_then(|disk| disk.modules.get(&job.code).cloned());
            let module = module.unwrap_or_default();
            pieces.extend(module.chunks(400).map(|piece| (RecordKind::Module, piece.to_vec())));
        }
        pieces.extend(guest.records());
        pieces.extend(job.sessions.chunks(RECORD_BYTES_MAX).map(|piece| (RecordKind::Sessions, piece.to_vec())));
        pieces.push((RecordKind::End, Vec::new()));
        let bytes = pieces.iter().map(|(_, piece)| piece.len() as u64).sum();
        let records = pieces.iter().filter_map(|(kind, piece)| sealer.seal::<Memo>(*kind, piece).ok()).collect();
        let state = state_digest(&salt, &job.code, &guest.digest(&salt), &job.sessions);
        self.check.captured(mig, guest);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        if let Some(leaving) = host.leaving.get_mut(&mig) {
            leaving.captured = Some((state, bytes));
            leaving.records = records;
        }
        self.stream(node, mig);
    }

    pub(super) fn state_opened(&mut self, node: usize, conn: usize) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let Some((mig, leaving)) = host.leaving.iter_mut().find(|(_, leaving)| leaving.conn == conn) else { return };
        leaving.opened = true;
        let mig = *mig;
        self.stream(node, mig);
    }

    /// Sends the records, when they are made and the stream is open.
    fn stream(&mut self, node: usize, mig: MigrationId) {
        let (time, life) = (self.time, self.nodes[node].life);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let Some(leaving) = host.leaving.get_mut(&mig) else { return };
        if !leaving.opened || leaving.captured.is_none() {
            return;
        }
        let (conn, records) = (leaving.conn, std::mem::take(&mut leaving.records));
        let begin = StateFrame::Begin(MigrationRef { mig });
        let frames = std::iter::once(begin).chain(records.into_iter().map(StateFrame::Record));
        for frame in frames {
            let (name, bytes) = (frame.name(), frame.to_bytes().into());
            self.send_on(conn, 0, Frame { name, bytes, fault: Fault::None });
        }
        // Sent is not arrived: what is in flight may still be lost.
        let flight = self.flushed_at(conn, 0) - time;
        let at = time + self.rng.range(flight / 4, flight * 2);
        self.queue.push(at, Event::Sent { node, life, mig, conn });
    }

    pub(super) fn handle_sent(&mut self, node: usize, mig: MigrationId, conn: usize) {
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        let Machine::Host(host) = &mut nodes[node].machine else { return };
        let Some(leaving) = host.leaving.get(&mig).filter(|leaving| leaving.conn == conn) else { return };
        let Some(captured) = leaving.captured else { return };
        host.leaving.remove(&mig);
        host.host.handle_captured(now, mig, Ok(captured), rng);
    }

    /// A state stream ended: bad if it was still needed.
    pub(super) fn state_closed(&mut self, node: usize, conn: usize, reason: &str) {
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        let Machine::Host(host) = &mut nodes[node].machine else { return };
        let mig = host.leaving.iter().find(|(_, leaving)| leaving.conn == conn).map(|(mig, _)| *mig);
        if let Some(mig) = mig {
            host.leaving.remove(&mig);
            host.host.handle_captured(now, mig, Err(reason.to_owned()), rng);
        }
        let reads = |landing: &Landing| landing.reading.as_ref().is_some_and(|reading| reading.conn == conn);
        let mig = host.landing.iter().find(|(_, landing)| reads(landing)).map(|(mig, _)| *mig);
        if let Some(mig) = mig {
            self.receive_failed(node, mig, Reject::RecordOutOfOrder);
        }
    }

    fn receive_failed(&mut self, node: usize, mig: MigrationId, reject: Reject) {
        self.tell(node, |_| format!("cannot use what came: {reject}"));
        let now = self.now(node);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        if let Some(reading) = host.landing.get_mut(&mig).and_then(|landing| landing.reading.take()) {
            self.end(reading.conn, node);
        }
        if let Some(host) = self.nodes[node].as_host_mut() {
            host.host.handle_receive_failed(now, mig, reject);
        }
    }

    /// A frame on a state stream.
    pub(super) fn state_frame(&mut self, node: usize, conn: usize, from: usize, bytes: &[u8]) {
        match StateFrame::from_bytes(bytes) {
            Ok(StateFrame::Begin(MigrationRef { mig })) => self.state_begins(node, conn, from, mig),
            Ok(StateFrame::Record(record)) => self.state_record(node, conn, &record),
            Err(_) => self.end(conn, node),
        }
    }

    fn state_begins(&mut self, node: usize, conn: usize, from: usize, mig: MigrationId) {
        let peer = self.nodes[from].host;
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let landing = host.landing.get_mut(&mig);
        let refused = match &landing {
            None | Some(Landing { job: None, .. }) => Some(Reject::UnknownMigration),
            Some(Landing { job: Some(job), .. }) if job.from != peer => Some(Reject::WrongPeer),
            Some(Landing { reading, ready, .. }) if reading.is_some() || ready.is_some() => Some(Reject::Reused),
            Some(_) => None,
        };
        if let Some(reject) = refused {
            host.host.count_reject(reject);
            let read_here = |landing: &Landing| landing.reading.as_ref().is_some_and(|reading| reading.conn == conn);
            // A repeat on the stream that is being read spoils it.
            let spoilt = host.landing.iter().find(|(_, landing)| read_here(landing)).map(|(mig, _)| *mig);
            match spoilt {
                Some(mig) => self.receive_failed(node, mig, Reject::UnexpectedMessage),
                None => self.end(conn, node),
            }
            return;
        }
        let Some(landing) = landing else { return };
        let Some(job) = &landing.job else { return };
        let opener = Opener::new(job.key.clone(), job.transcript);
        let (module, sessions, guest) = (Vec::new(), Vec::new(), Guest::start(job.code, 0));
        landing.reading = Some(Reading { conn, opener, guest, module, sessions, bytes: 0, applied: 0 });
    }

    fn state_record(&mut self, node: usize, conn: usize, record: &SealedRecord) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let reads = |landing: &Landing| landing.reading.as_ref().is_some_and(|reading| reading.conn == conn);
        let Some((mig, landing)) = host.landing.iter_mut().find(|(_, landing)| reads(landing)) else {
            self.end(conn, node);
            return;
        };
        let mig = *mig;
        match landing.apply::<G>(record) {
            Err(reject) => self.receive_failed(node, mig, reject),
            Ok(twice) => {
                let acked = landing.reading.as_ref().map_or(1, |reading| reading.opener.next());
                if twice {
                    self.violate("a state record is applied once", || format!("record {} of {mig}", record.number));
                }
                if record.kind == RecordKind::End {
                    self.landed(node, mig);
                } else if acked.is_multiple_of(ACK_EVERY) {
                    let now = self.now(node);
                    if let Some(host) = self.nodes[node].as_host_mut() {
                        host.host.handle_records(now, mig, acked);
                    }
                }
            }
        }
    }

    /// The last record is in: the state is made ready, and saved if that was promised.
    fn landed(&mut self, node: usize, mig: MigrationId) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let Some(landing) = host.landing.get_mut(&mig) else { return };
        let Some(Reading { conn, opener, guest, module, sessions, bytes, .. }) = landing.reading.take() else { return };
        let Some(job) = &landing.job else { return };
        let (code, durable, salt) = (job.code, job.durable, opener.salt());
        if Host::<Memo>::check_belongings(&sessions).is_err() {
            self.receive_failed(node, mig, Reject::RecordInvalid);
            return;
        }
        if job.needs_module && module_digest(&module) != code {
            self.receive_failed(node, mig, Reject::WrongCode);
            return;
        }
        let needs_module = job.needs_module;
        let state = state_digest(&salt, &code, &guest.digest(&salt), &sessions);
        let image = Image { guest: guest.clone(), belongings: sessions.clone() };
        landing.ready = Some(Ready { guest, belongings: sessions, state, bytes });
        if needs_module {
            host.host.handle_module(code);
            if let Some(disk) = self.nodes[node].host_disk() {
                disk.modules.insert(code, module);
            }
        }
        self.end(conn, node);
        if durable {
            self.save(node, ImageId::Held(mig), image, ImageFor::Arrival(mig));
        } else {
            self.received(node, mig);
        }
    }

    /// The state is as safe as it has to be.
    pub(super) fn received(&mut self, node: usize, mig: MigrationId) {
        let now = self.now(node);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let Some(ready) = host.landing.get(&mig).and_then(|landing| landing.ready.as_ref()) else { return };
        let (state, bytes, belongings) = (ready.state, ready.bytes, ready.belongings.clone());
        host.host.handle_received(now, mig, state, bytes, belongings);
    }
}

impl Landing {
    /// Takes one record in. Whether one of this number had been taken in before.
    fn apply<G: Guards>(&mut self, record: &SealedRecord) -> Result<bool, Reject> {
        let (Some(job), Some(reading)) = (&self.job, &mut self.reading) else { return Err(Reject::UnexpectedMessage) };
        let plaintext = reading.opener.open::<Memo, G>(record)?;
        let twice = record.number < reading.applied;
        reading.applied = reading.applied.max(record.number + 1);
        reading.bytes += plaintext.len() as u64;
        match record.kind {
            RecordKind::Module if job.needs_module => reading.module.extend_from_slice(&plaintext),
            RecordKind::Page | RecordKind::Globals => {
                reading.guest.apply(record.kind, &plaintext).ok_or(Reject::RecordInvalid)?;
            }
            RecordKind::Sessions => reading.sessions.extend_from_slice(&plaintext),
            RecordKind::End => {}
            RecordKind::Module | RecordKind::Log => return Err(Reject::RecordInvalid),
        }
        Ok(twice)
    }
}
