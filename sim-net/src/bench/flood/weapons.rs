//! What an attacker throws: all of it made before it is thrown, so that the attacker's core has nothing to do but to send.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use wayfare_net::{FrameReader, FrameWriter, Net, NetEvent, Protocol, Stream};
use wayfare_protocol::{
    advert::{Advert, Gossip, verify_advert},
    gateway::messages::{Call, ClientFrame, Hello, Open, client_id, request_hash},
    ids::{Digest, Epoch, HostId, Nonce, OwnerKey, PlacementKey, RegistryId, ServiceId},
    limits::FRAME_BYTES_MAX,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Enrol, Lookup, Register, RegisterFrame, RegistryFrame, VerifyCloud, VerifyCloudFrame},
    reject::Strict,
    suite::{Dalek, Secret, Suite, fresh_secret, fresh16},
    time::{Micros, Timestamp},
    trust::{Certificate, JoinToken, Message, Receiver, Signed, TrustBundle},
    wire::Frame,
};

/// How long anything may take that is answered at once when nobody floods.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long until a victim's advert is heard.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

type Rng = rand_core::UnwrapErr<getrandom::SysRng>;

const fn rng() -> Rng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn nonce() -> Nonce {
    Nonce(fresh16(&mut rng()))
}

fn wall() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// An open stream of frames.
pub(super) struct Line {
    reader: FrameReader<tokio::io::ReadHalf<Stream>>,
    writer: FrameWriter<tokio::io::WriteHalf<Stream>>,
}

impl Line {
    pub(super) async fn open(net: &Net, to: HostId, addresses: &[String], protocol: Protocol) -> anyhow::Result<Self> {
        let (read, write) = tokio::io::split(net.open(to, addresses, protocol).await?);
        Ok(Self { reader: FrameReader::new(read, 8 << 20), writer: FrameWriter::new(write, FRAME_BYTES_MAX) })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.writer.send(bytes).await?)
    }

    pub(super) async fn receive(&mut self) -> anyhow::Result<bytes::Bytes> {
        Ok(tokio::time::timeout(PATIENCE, self.reader.read()).await.context("no answer")??)
    }

    pub(super) fn split(self) -> (FrameReader<tokio::io::ReadHalf<Stream>>, FrameWriter<tokio::io::WriteHalf<Stream>>) {
        (self.reader, self.writer)
    }

    async fn ask(&mut self, frame: &RegistryFrame) -> anyhow::Result<RegistryFrame> {
        self.send(&frame.to_bytes()).await?;
        Ok(RegistryFrame::from_bytes(&self.receive().await?)?)
    }
}

/// A node of the mesh whose keys the attacker has: it was enrolled like any other.
pub(super) struct Insider {
    net: Net,
    realm: RegistryId,
    host: HostId,
    certificate: Signed<Certificate>,
    registry: HostId,
    registry_at: Vec<String>,
}

impl Insider {
    /// Joins with `token`.
    pub(super) async fn join(net: Net, secret: &Secret, token: &JoinToken) -> anyhow::Result<Self> {
        let (realm, registry) = (token.anchor.id, token.anchor.host());
        let host = HostId(Dalek::public_key(secret));
        let enrol = Enrol { host, role: token.role, region: String::new(), token: token.secret.hash(), nonce: nonce() };
        let enrol = Signed::sign::<Dalek>(secret, realm, Receiver::Registry(realm), &enrol);
        let mut line = Line::open(&net, registry, &token.anchor.addresses, Protocol::Registry).await?;
        let certificate = match line.ask(&RegistryFrame::Enrol(enrol)).await? {
            RegistryFrame::Enrolled(enrolled) => enrolled.certificate,
            other => bail!("not enrolled: {other:?}"),
        };
        let registry_at = token.anchor.addresses.clone();
        Ok(Self { net, realm, host, certificate, registry, registry_at })
    }

    fn sign<T: Message>(&self, secret: &Secret, message: &T) -> Signed<T> {
        Signed::sign::<Dalek>(secret, self.realm, Receiver::Registry(self.realm), message)
    }

    /// 2 of a service of its own, again and again with rising counters: each is in order, costs the Registry three
    /// verifications, a signature and a place on its disk, and ends the migration that the last one began.
    pub(super) async fn questions(&self, advert: &Signed<Advert>, count: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        let (owner, key) = (fresh_secret(&mut rng()), fresh_secret(&mut rng()));
        let manifest = self.manifest(&owner);
        let service = manifest.service;
        let manifest = Signed::sign::<Dalek>(&owner, self.realm, Receiver::Anyone, &manifest);
        let (host, placement) = (self.host, PlacementKey(Dalek::public_key(&key)));
        let register = Register { service, manifest: manifest.hash(), key: placement, host, nonce: nonce() };
        let register = RegisterFrame { register: self.sign(&key, &register), manifest, addresses: Vec::new() };
        let mut line = Line::open(&self.net, self.registry, &self.registry_at, Protocol::Registry).await?;
        let RegistryFrame::Granted(_) = line.ask(&RegistryFrame::Register(register)).await? else {
            bail!("the attacker's service is not registered");
        };
        let offered = advert.unverified()?;
        let question = |counter| {
            let request = VerifyCloud {
                service,
                epoch: Epoch::FIRST,
                key: placement,
                cloud: offered.cloud,
                host: offered.host,
                advert: advert.hash(),
                counter,
                nonce: nonce(),
            };
            let request = self.sign(&key, &request);
            RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert: advert.clone() }).to_bytes()
        };
        Ok((1..=count).map(question).collect())
    }

    fn manifest(&self, owner: &Secret) -> Manifest {
        let (name, key) = ("flood".to_owned(), OwnerKey(Dalek::public_key(owner)));
        Manifest {
            service: service_id(self.realm, key, &name),
            name,
            owner: key,
            version: 1,
            code: Digest([7; 32]),
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 1, memory_bytes: 1, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: Vec::new(),
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        }
    }

    /// What a gateway says to a host before its requests, and the requests.
    pub(super) async fn calls(&self, service: &str, count: u64) -> anyhow::Result<(Vec<Vec<u8>>, Vec<Vec<u8>>)> {
        let service = self.find(service).await?;
        let (incarnation, hello) = (wall().0, self.certificate.clone());
        let client = client_id(self.host, incarnation);
        let hello = ClientFrame::Hello(Hello { certificate: hello, incarnation }).to_bytes();
        let open = ClientFrame::Open(Open { service, client }).to_bytes();
        let request = b"GET /count HTTP/1.1\r\nhost: kv\r\n\r\n".to_vec();
        let hash = request_hash(&request);
        let call = |sequence| {
            let call = Call { service, client, sequence, hash, acked_below: sequence, request: request.clone() };
            ClientFrame::Call(call).to_bytes()
        };
        Ok((vec![hello, open], (0..count).map(call).collect()))
    }

    async fn find(&self, name: &str) -> anyhow::Result<ServiceId> {
        let mut line = Line::open(&self.net, self.registry, &self.registry_at, Protocol::Registry).await?;
        match line.ask(&RegistryFrame::Lookup(Lookup::Name(name.to_owned()))).await? {
            RegistryFrame::Found(found) => {
                let (placement, _) = found.service.context("no such service")?;
                Ok(placement.unverified()?.service)
            }
            other => bail!("the service is not found: {other:?}"),
        }
    }
}

/// The advert of `victim`, as gossip brings it.
pub(super) async fn advert_of(
    victim: HostId,
    net: &Net,
    bundle: &TrustBundle,
    events: &mut tokio::sync::mpsc::Receiver<NetEvent>,
) -> anyhow::Result<Signed<Advert>> {
    let heard = async {
        while let Some(event) = events.recv().await {
            let NetEvent::Gossip { id, bytes, .. } = event else { continue };
            net.judge(id, wayfare_net::Verdict::Accept);
            let Ok(Gossip::Advert(advert)) = Gossip::from_bytes(&bytes) else { continue };
            if verify_advert::<Dalek, Strict>(&advert, bundle, wall()).is_ok_and(|(told, _)| told.host == victim) {
                return Some(advert);
            }
        }
        None
    };
    tokio::time::timeout(HEARD_WITHIN, heard).await.context("the victim does not advertise")?.context("the mesh ended")
}
