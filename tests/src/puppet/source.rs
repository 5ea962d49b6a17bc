//! A home that a test plays: it holds the keys of a service, runs its instance, and offers it to real clouds.

use wayfare_net::Protocol;
use wayfare_node::runtime::{Instance, Launch, Limits, Salt, SinkClosed, state::KIND_PAGE};
use wayfare_protocol::{
    advert::{Advert, verify_advert},
    ids::Digest,
    migration::{
        messages::*,
        source::{Agreement, Source, SourceParty},
    },
    placement::Memory,
    reject::Strict,
    session::Sessions,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, Sealer, StateFrame, state_digest},
    trust::{Receiver, Role, Signed, TrustBundle, Verified},
    wire::Frame,
};

use crate::{
    hand::{Realm, Service, belongings, claim, entropy, now},
    peer::{Line, Peer, Whereabouts},
    real::{Authority, KV, KV_CODE, driver},
};

/// A home in the test's hand, with one service.
pub struct PuppetSource {
    /// Its place on the mesh.
    pub peer: Peer,
    /// The service and its keys.
    pub service: Service,
    realm: Realm,
    placement: Option<Placement>,
    instance: Box<dyn Instance>,
}

/// An attempt that the puppet has begun.
pub struct Attempt {
    source: Source,
    /// 4 with 3 and the manifest.
    pub four: RequestFrame,
}

impl PuppetSource {
    /// Joins, and starts the instance of a service that is not registered yet.
    pub async fn start(authority: &Authority, seed: u8, service: &str) -> Self {
        Self::with_code(authority, seed, service, *KV_CODE).await
    }

    /// The same, with a manifest that names this code, whatever runs.
    pub async fn with_code(authority: &Authority, seed: u8, service: &str, code: Digest) -> Self {
        let peer = Peer::start(seed).await;
        authority.enrol(&peer, "puppet-home", Role::Home).await;
        let realm = authority.realm().clone();
        let service = Service::new(&realm, &peer.secret, service, code);
        let prepared = driver().prepare(KV, service.manifest.required.memory_bytes).unwrap();
        let limits = Limits { memory_bytes_max: service.manifest.required.memory_bytes, ..Limits::default() };
        let (instance, _) = driver().start(&prepared, Launch { limits, ..Launch::default() }, None).unwrap();
        Self { peer, service, realm, placement: None, instance }
    }

    /// Registers the service, which is then served by nobody but the puppet.
    pub async fn register(&mut self, authority: &Authority) {
        let register = self.service.to_registry().sign(&self.service.register());
        let manifest = self.service.signed_manifest.clone();
        let frame = RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] });
        let mut line = self.peer.line(&authority.whereabouts(), Protocol::Registry).await;
        line.say(&frame).await;
        let RegistryFrame::Granted(granted) = line.hear().await else { panic!("not registered") };
        self.placement = Some(claim(&granted.placement));
    }

    /// The service counts one up.
    pub fn count(&mut self) {
        let request = b"POST /count HTTP/1.1\r\nhost: kv\r\ncontent-length: 0\r\n\r\n";
        self.instance.call(request).unwrap();
    }

    /// 2, 3 and 4 to the cloud behind `advert`.
    pub async fn attempt(&mut self, authority: &Authority, advert: &Signed<Advert>) -> Attempt {
        let bundle = self.realm.bundle();
        let (advert, _) = verify_advert::<Dalek, Strict>(advert, &bundle, now().wall).unwrap();
        let manifest = self.manifest();
        let party = self.party(&bundle, &manifest);
        let (mut source, two) = Source::start::<Dalek>(&party, &advert, now().wall.0, &mut entropy());
        let frame = RegistryFrame::VerifyCloud(VerifyCloudFrame { request: two, advert: advert.signed().clone() });
        let mut line = self.peer.line(&authority.whereabouts(), Protocol::Registry).await;
        line.say(&frame).await;
        let RegistryFrame::YesCloud(yes) = line.hear().await else { panic!("no verdict") };
        let four = source.handle_yes::<Dalek, Strict>(&party, now(), &yes, &mut entropy()).unwrap();
        Attempt { source, four }
    }

    fn manifest(&self) -> Verified<wayfare_protocol::manifest::Manifest> {
        let owner = self.service.manifest.owner.0;
        self.service.signed_manifest.verify::<Dalek, Strict>(&owner, self.realm.id, Receiver::Anyone).unwrap()
    }

    fn party<'a>(
        &'a self,
        bundle: &'a TrustBundle,
        manifest: &'a Verified<wayfare_protocol::manifest::Manifest>,
    ) -> SourceParty<'a> {
        SourceParty {
            me: self.peer.host,
            host_secret: &self.peer.secret,
            bundle,
            placement: self.placement.as_ref().unwrap(),
            placement_secret: &self.service.key,
            manifest,
        }
    }

    /// 7: what it agreed on.
    pub fn agree(&self, attempt: &mut Attempt, seven: &ResponseFrame) -> Agreement {
        let (bundle, manifest) = (self.realm.bundle(), self.manifest());
        attempt.source.handle_response::<Dalek, Strict>(&self.party(&bundle, &manifest), now(), seven).unwrap()
    }

    /// The consent to a move of this state.
    pub fn consent(&self, attempt: &mut Attempt, state: Digest) -> Transfer {
        let (bundle, manifest) = (self.realm.bundle(), self.manifest());
        let consented = attempt.source.consent::<Dalek>(&self.party(&bundle, &manifest), state).unwrap();
        consented.consent.unverified().unwrap()
    }

    /// All records of the instance, and `h(state)`.
    pub fn records(&mut self, agreement: &Agreement) -> (Vec<SealedRecord>, Digest) {
        let mut sealer = Sealer::new(agreement.key.clone(), agreement.transcript);
        let salt = sealer.salt();
        let sessions = belongings(&Sessions::default(), &Memory::default());
        let mut records = Vec::new();
        self.instance.arm(Salt(salt.0)).unwrap();
        let quiesced = self.instance.quiesce().unwrap();
        let mut sink = |kind: u8, payload: &[u8]| {
            let kind = if kind == KIND_PAGE { RecordKind::Page } else { RecordKind::Globals };
            records.push(sealer.seal::<Dalek>(kind, payload).map_err(|_| SinkClosed)?);
            Ok(())
        };
        let finished = self.instance.finish(&quiesced, &mut sink).unwrap();
        self.instance.abort(quiesced);
        records.push(sealer.seal::<Dalek>(RecordKind::Sessions, &sessions).unwrap());
        records.push(sealer.seal::<Dalek>(RecordKind::End, &[]).unwrap());
        (records, state_digest(&salt, &self.service.manifest.code, &finished.digest, &sessions))
    }

    /// Opens a state stream and says what it is for.
    pub async fn state_line(&self, to: &Whereabouts, attempt: &Attempt) -> Line {
        let mut line = self.peer.line(to, Protocol::State).await;
        let mig = claim(&attempt.four.request).ids.mig;
        line.say(&StateFrame::Begin(MigrationRef { mig })).await;
        line
    }

    /// Sends records, and ends the stream when the receiver has them.
    pub async fn send_records(&self, to: &Whereabouts, attempt: &Attempt, records: Vec<SealedRecord>) {
        let mut line = self.state_line(to, attempt).await;
        for record in records {
            line.send(&StateFrame::Record(record).to_bytes()).await;
        }
        line.finish().await;
    }
}
