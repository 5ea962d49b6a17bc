//! A home whose every message is in one's own hand: it has the keys of a service, runs its instance, and offers it to real
//! clouds; honestly, unless somebody alters what it has made before it is sent.

use std::sync::{Arc, LazyLock, OnceLock};

use anyhow::{Context as _, anyhow, bail};
use wayfare_net::Protocol;
use wayfare_node::{
    host::modules::module_digest,
    runtime::{Driver, Instance, Launch, Limits, Salt, SinkClosed, state::KIND_PAGE, wasm::WasmDriver},
};
use wayfare_protocol::{
    advert::{Advert, verify_advert},
    ids::Digest,
    limits::RECORD_BYTES_MAX,
    manifest::Manifest,
    migration::{
        messages::*,
        source::{Agreement, Source as Machine, SourceParty},
    },
    placement::Memory,
    reject::{Reject, Strict},
    session::Sessions,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, Sealer, StateFrame, state_digest},
    trust::{CoSigned, Receiver, Signed, TrustBundle, Verified},
    wire::Frame,
};

use super::{
    hand::{Realm, Service, belongings, entropy, now},
    peer::{Line, Peer, Whereabouts},
};

/// The key-value service.
pub static KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");

/// Its code's name.
pub static KV_CODE: LazyLock<Digest> = LazyLock::new(|| module_digest(KV));

/// One driver for all hosts of the process: the service is compiled once.
pub fn driver() -> Arc<dyn Driver> {
    static DRIVER: OnceLock<Arc<WasmDriver>> = OnceLock::new();
    DRIVER.get_or_init(|| Arc::new(WasmDriver::new())).clone()
}

/// A home in one's own hand, with one service.
pub struct Source {
    /// Its place on the mesh.
    pub peer: Peer,
    /// The service and its keys.
    pub service: Service,
    realm: Realm,
    /// Where the Registry is.
    registry: Whereabouts,
    placement: Option<Placement>,
    instance: Box<dyn Instance>,
}

/// An attempt that it has begun.
pub struct Attempt {
    machine: Machine,
    /// 4 with 3 and the manifest.
    pub four: RequestFrame,
}

impl Source {
    /// A member's home with the instance of a service that is not registered yet; the manifest names `code`, whatever runs.
    ///
    /// # Errors
    /// The service does not start.
    pub fn new(peer: Peer, realm: &Realm, registry: Whereabouts, service: &str, code: Digest) -> anyhow::Result<Self> {
        let service = Service::new(realm, &peer.secret, service, code);
        let prepared = driver().prepare(KV, service.manifest.required.memory_bytes)?;
        let limits = Limits { memory_bytes_max: service.manifest.required.memory_bytes, ..Limits::default() };
        let (instance, _) = driver().start(&prepared, Launch { limits, ..Launch::default() }, None)?;
        Ok(Self { peer, service, realm: realm.clone(), registry, placement: None, instance })
    }

    /// Registers the service, which is then served by nobody but this.
    ///
    /// # Errors
    /// The Registry does not take it.
    pub async fn register(&mut self) -> anyhow::Result<()> {
        let register = self.service.to_registry().sign(&self.service.register());
        let manifest = self.service.signed_manifest.clone();
        let frame = RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] });
        match self.ask(&frame).await? {
            RegistryFrame::Granted(granted) => self.placement = Some(granted.placement.unverified()?),
            other => bail!("{} is not registered: {}", self.service.manifest.name, other.name()),
        }
        Ok(())
    }

    /// What the Registry says to this.
    ///
    /// # Errors
    /// It cannot be reached, or says nothing.
    pub async fn ask(&self, frame: &RegistryFrame) -> anyhow::Result<RegistryFrame> {
        let mut line = self.peer.line(&self.registry, Protocol::Registry).await?;
        line.say(frame).await?;
        line.hear().await
    }

    /// The service counts one up.
    ///
    /// # Errors
    /// It does not run.
    pub fn count(&mut self) -> anyhow::Result<()> {
        let request = b"POST /count HTTP/1.1\r\nhost: kv\r\ncontent-length: 0\r\n\r\n";
        self.instance.call(request)?;
        Ok(())
    }

    /// 2, with the machine that expects the answer, about a move to the cloud behind `advert`.
    ///
    /// # Errors
    /// The advert does not hold, or the service is not registered.
    pub fn two(&self, advert: &Signed<Advert>) -> anyhow::Result<(Machine, VerifyCloudFrame)> {
        let bundle = self.realm.bundle();
        let (advert, _) = verify_advert::<Dalek, Strict>(advert, &bundle, now().wall)?;
        let manifest = self.manifest()?;
        let party = self.party(&bundle, &manifest)?;
        let (machine, request) = Machine::start::<Dalek>(&party, &advert, now().wall.0, &mut entropy());
        Ok((machine, VerifyCloudFrame { request, advert: advert.signed().clone() }))
    }

    /// 2, 3 and 4 to the cloud behind `advert`.
    ///
    /// # Errors
    /// The Registry does not allow it.
    pub async fn attempt(&mut self, advert: &Signed<Advert>) -> anyhow::Result<Attempt> {
        let (mut machine, two) = self.two(advert)?;
        let yes = match self.ask(&RegistryFrame::VerifyCloud(two)).await? {
            RegistryFrame::YesCloud(yes) => yes,
            other => bail!("no verdict, but {}", other.name()),
        };
        let (bundle, manifest) = (self.realm.bundle(), self.manifest()?);
        let party = self.party(&bundle, &manifest)?;
        let four = machine.handle_yes::<Dalek, Strict>(&party, now(), &yes, &mut entropy())?;
        Ok(Attempt { machine, four })
    }

    fn manifest(&self) -> Result<Verified<Manifest>, Reject> {
        let owner = self.service.manifest.owner.0;
        self.service.signed_manifest.verify::<Dalek, Strict>(&owner, self.realm.id, Receiver::Anyone)
    }

    fn party<'a>(
        &'a self,
        bundle: &'a TrustBundle,
        manifest: &'a Verified<Manifest>,
    ) -> anyhow::Result<SourceParty<'a>> {
        Ok(SourceParty {
            me: self.peer.host,
            host_secret: &self.peer.secret,
            bundle,
            placement: self.placement.as_ref().context("the service is not registered")?,
            placement_secret: &self.service.key,
            manifest,
        })
    }

    /// 7: what it agreed on.
    ///
    /// # Errors
    /// 7 does not hold.
    pub fn agree(&self, attempt: &mut Attempt, seven: &ResponseFrame) -> anyhow::Result<Agreement> {
        let (bundle, manifest) = (self.realm.bundle(), self.manifest()?);
        Ok(attempt.machine.handle_response::<Dalek, Strict>(&self.party(&bundle, &manifest)?, now(), seven)?)
    }

    /// The consent to a move of this state.
    ///
    /// # Errors
    /// Nothing was agreed on.
    pub fn consent(&self, attempt: &mut Attempt, state: Digest) -> anyhow::Result<CoSigned<Transfer>> {
        let (bundle, manifest) = (self.realm.bundle(), self.manifest()?);
        Ok(attempt.machine.consent::<Dalek>(&self.party(&bundle, &manifest)?, state)?.consent)
    }

    /// All records of the instance, its code before them if the cloud wants it, and `h(state)`.
    ///
    /// # Errors
    /// The instance does not run.
    pub fn records(
        &mut self,
        agreement: &Agreement,
        needs_module: bool,
    ) -> anyhow::Result<(Vec<SealedRecord>, Digest)> {
        let mut sealer = Sealer::new(agreement.key.clone(), agreement.transcript);
        let salt = sealer.salt();
        let sessions = belongings(&Sessions::default(), &Memory::default());
        let mut records = Vec::new();
        if needs_module {
            for piece in KV.chunks(RECORD_BYTES_MAX) {
                records.push(sealer.seal::<Dalek>(RecordKind::Module, piece)?);
            }
        }
        self.instance.arm(Salt(salt.0))?;
        let quiesced =
            self.instance.quiesce().map_err(|blockers| anyhow!("the service cannot be stopped: {blockers:?}"))?;
        let mut sink = |kind: u8, payload: &[u8]| {
            let kind = if kind == KIND_PAGE { RecordKind::Page } else { RecordKind::Globals };
            records.push(sealer.seal::<Dalek>(kind, payload).map_err(|_| SinkClosed)?);
            Ok(())
        };
        let finished = self.instance.finish(&quiesced, &mut sink)?;
        self.instance.abort(quiesced);
        records.push(sealer.seal::<Dalek>(RecordKind::Sessions, &sessions)?);
        records.push(sealer.seal::<Dalek>(RecordKind::End, &[])?);
        Ok((records, state_digest(&salt, &self.service.manifest.code, &finished.digest, &sessions)))
    }

    /// Opens a state stream and says what it is for.
    ///
    /// # Errors
    /// The cloud cannot be reached.
    pub async fn state_line(&self, to: &Whereabouts, attempt: &Attempt) -> anyhow::Result<Line> {
        let mut line = self.peer.line(to, Protocol::State).await?;
        let mig = attempt.four.request.unverified()?.ids.mig;
        line.say(&StateFrame::Begin(MigrationRef { mig })).await?;
        Ok(line)
    }

    /// Sends records, and ends the stream when the receiver has them.
    ///
    /// # Errors
    /// The cloud cannot be reached.
    pub async fn send_records(
        &self,
        to: &Whereabouts,
        attempt: &Attempt,
        records: Vec<SealedRecord>,
    ) -> anyhow::Result<()> {
        let mut line = self.state_line(to, attempt).await?;
        for record in records {
            line.send(&StateFrame::Record(record).to_bytes()).await?;
        }
        line.finish().await
    }
}
