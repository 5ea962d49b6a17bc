//! The victims: a Registry, a home with a service, a cloud and a gateway, each a process of the product, and what they count. Beside
//! them another Registry, with a realm of its own.
//!
//! The attacker has the wire between the gateway and the home ([`Wire`]), hears all gossip, and is given join tokens like
//! anybody whom an operator trusts by mistake. It has no key of a victim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use wayfare_net::{NetConfig, NetEvent, Protocol};
use wayfare_node::api::shapes::Counters;
use wayfare_protocol::{
    advert::{Advert, Gossip},
    ids::HostId,
    migration::messages::{Found, Lookup, Placement, RegistryFrame},
    reject::Reject,
    suite::fresh_secret,
    trust::{Certificate, JoinToken, Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_registry::view::JoinTokenView;

use super::{
    hand::{Realm, entropy},
    peer::{Line, PATIENCE, Peer, Whereabouts, until},
    source::{KV, KV_CODE, Source},
    wire::Wire,
};
use crate::processes::{Joining, Kind, Processes, Programs, REGISTRY, Setup, free_address};

/// The service that the victims serve.
pub(super) const SERVICE: &str = "kv";
/// Seconds of a lease, as by default: no attack waits for its end, and on a busy machine a shorter one would end by itself.
const LEASE_S: u64 = 30;
/// How long hosts wait for each other's next message: what an attacker leaves half done is gone after it.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a counter is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pieces of gossip of each kind that the eavesdropper keeps. The oldest go.
const HEARD_MAX: usize = 64;

/// Who is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// The trust anchor.
    Registry,
    /// Where the service is.
    Home,
    /// A cloud.
    Cloud,
    /// How clients reach the service.
    Gateway,
    /// The Registry of another realm.
    OtherRegistry,
}

impl Victim {
    /// The word for it, in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Home => "home",
            Self::Cloud => "cloud",
            Self::Gateway => "gateway",
            Self::OtherRegistry => "other registry",
        }
    }

    /// Its process.
    pub(super) const fn process(self) -> &'static str {
        match self {
            Self::Registry | Self::OtherRegistry => REGISTRY,
            Self::Home => "home",
            Self::Cloud => "cloud",
            Self::Gateway => "gateway",
        }
    }
}

/// What one thing that was sent led to.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What was sent, or tried.
    pub(super) what: String,
    /// What the victim's own counter says, or what became of it.
    pub(super) observed: String,
    /// Whether it was refused as it must be.
    pub(super) blocked: bool,
}

/// A victim's counters before something is sent to it.
pub(super) struct Before {
    victim: Victim,
    counts: BTreeMap<String, u64>,
}

/// A node of the attacker's with a certificate: somebody whom the operator let in.
pub(super) struct Member {
    /// Its name on the mesh.
    pub(super) peer: Peer,
    /// What the Registry says of it.
    pub(super) certificate: Signed<Certificate>,
    /// The provider's name.
    pub(super) name: String,
}

impl Member {
    /// An advert of it as of now.
    pub(super) fn advert(&self, realm: &Realm) -> anyhow::Result<Signed<Advert>> {
        let advert = realm.advert(self.peer.host, &self.certificate, &self.peer.net.listen_addresses())?;
        Ok(realm.signer(&self.peer.secret, Receiver::Anyone).sign(&advert))
    }
}

/// What goes about on the mesh.
#[derive(Debug, Default)]
struct Heard {
    adverts: Vec<Signed<Advert>>,
}

/// The victims, and what the attacker may do with them.
pub(super) struct Field {
    /// The processes.
    pub(super) mesh: Processes,
    /// The other Registry.
    pub(super) other: Processes,
    /// The Registry as its members know it.
    pub(super) realm: Realm,
    /// The other one.
    pub(super) other_realm: Realm,
    /// Where each victim is.
    pub(super) registry: Whereabouts,
    pub(super) other_registry: Whereabouts,
    pub(super) home: Whereabouts,
    pub(super) cloud: Whereabouts,
    pub(super) gateway: Whereabouts,
    /// Between the gateway and the home.
    pub(super) wire: Wire,
    /// Where clients ask.
    pub(super) ingress: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    /// Ends with the field.
    _eavesdropper: JoinSet<()>,
    seen: Vec<Seen>,
    members: u64,
}

fn setup(programs: &Programs) -> anyhow::Result<Setup> {
    Ok(Setup {
        programs: programs.clone(),
        lease_s: LEASE_S,
        step_timeout: STEP_TIMEOUT,
        listen: free_address()?,
        announce: None,
        environment: Vec::new(),
        log: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
        prefix: "wayfare-attack-".to_owned(),
    })
}

/// A join token, from the operator.
async fn token(mesh: &Processes, name: &str, role: Role) -> anyhow::Result<JoinToken> {
    let body = json!({ "cloud": name, "role": role.name(), "ttl_s": 3600 });
    let view: JoinTokenView = mesh.client(REGISTRY)?.post(&["join-tokens"], &body).await?;
    Ok(JoinToken::parse(&view.token)?)
}

/// A Registry, as anybody with a token knows it.
async fn realm_of(mesh: &Processes) -> anyhow::Result<(Realm, Whereabouts)> {
    let anchor = token(mesh, "anybody", Role::Cloud).await?.anchor;
    let at = Whereabouts { host: anchor.host(), addresses: anchor.addresses.clone() };
    Ok((Realm { id: anchor.id, anchor }, at))
}

/// Where a node says that it is.
async fn whereabouts(mesh: &mut Processes, name: &str) -> anyhow::Result<Whereabouts> {
    let ready = mesh.process(name)?.ready().await?;
    let host = ready.get("host").and_then(|host| host.as_str()).and_then(HostId::parse);
    let addresses = ready.get("addresses").and_then(|list| list.as_array()).into_iter().flatten();
    let addresses = addresses.filter_map(|address| address.as_str()).map(str::to_owned).collect();
    Ok(Whereabouts { host: host.with_context(|| format!("{name} does not say who it is"))?, addresses })
}

fn multiaddr(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

impl Field {
    /// Starts the victims, and waits until they serve.
    pub(super) async fn start(programs: &Programs) -> anyhow::Result<Self> {
        let (mesh, other) = tokio::try_join!(Processes::start(setup(programs)?), Processes::start(setup(programs)?))?;
        let (mut mesh, ingress) = (mesh, free_address()?);
        let (at_home, at_cloud, at_gateway) = (free_address()?, free_address()?, free_address()?);
        let wire = Wire::start(free_address()?, at_home).await?;
        let joining = |kind, name: &str, listen, advertise, services| Joining {
            name: name.to_owned(),
            kind,
            listen: Some(listen),
            advertise,
            services,
            environment: Vec::new(),
        };
        let carried = vec![(SERVICE.to_owned(), ingress)];
        mesh.join(joining(Kind::Home, "home", at_home, Some(wire.address()), Vec::new())).await?;
        mesh.join(joining(Kind::Cloud, "cloud", at_cloud, None, Vec::new())).await?;
        mesh.join(joining(Kind::Gateway, "gateway", at_gateway, None, carried)).await?;
        let module = mesh.dir().join("kv.wasm");
        fs::write(&module, KV)?;
        mesh.deploy("home", &module, SERVICE).await?;
        let (realm, registry) = realm_of(&mesh).await?;
        let (other_realm, other_registry) = realm_of(&other).await?;
        let at = |found: Whereabouts, address| Whereabouts { addresses: vec![multiaddr(address)], ..found };
        let home = at(whereabouts(&mut mesh, "home").await?, at_home);
        let cloud = at(whereabouts(&mut mesh, "cloud").await?, at_cloud);
        let gateway = at(whereabouts(&mut mesh, "gateway").await?, at_gateway);
        let heard = Arc::default();
        let eavesdropper = eavesdrop(&[&registry, &home, &cloud, &gateway], Arc::clone(&heard)).await?;
        let field = Self {
            mesh,
            other,
            realm,
            other_realm,
            registry,
            other_registry,
            home,
            cloud,
            gateway,
            wire,
            ingress,
            heard,
            _eavesdropper: eavesdropper,
            seen: Vec::new(),
            members: 0,
        };
        field.served().await?;
        field.cloud_advert().await?;
        Ok(field)
    }

    /// The end; where the victims' files are, if they are to be kept.
    pub(super) fn end(self, keep: bool) -> Option<PathBuf> {
        let Self { mesh, .. } = self;
        keep.then(|| mesh.keep())
    }

    /// Waits until the service answers its clients.
    pub(super) async fn served(&self) -> anyhow::Result<()> {
        until("the service to answer", async || crate::client::probe(self.ingress, "/count").await.then_some(())).await
    }

    /// Where a victim is.
    pub(super) const fn at(&self, victim: Victim) -> &Whereabouts {
        match victim {
            Victim::Registry => &self.registry,
            Victim::OtherRegistry => &self.other_registry,
            Victim::Home => &self.home,
            Victim::Cloud => &self.cloud,
            Victim::Gateway => &self.gateway,
        }
    }

    /// What a victim has refused so far, by name; what its transport did, with `net.` before the name.
    async fn counts(&self, victim: Victim) -> anyhow::Result<BTreeMap<String, u64>> {
        match victim {
            Victim::Registry => Ok(self.mesh.stats().await?.rejections),
            Victim::OtherRegistry => Ok(self.other.stats().await?.rejections),
            Victim::Home | Victim::Cloud | Victim::Gateway => {
                let counters: Counters = self.mesh.client(victim.process())?.get(&["rejects"], "").await?;
                let net = counters.net.into_iter().map(|(name, count)| (format!("net.{name}"), count));
                Ok(counters.rejects.into_iter().chain(net).collect())
            }
        }
    }

    /// Reads a victim's counters: what follows is compared with them.
    pub(super) async fn before(&self, victim: Victim) -> anyhow::Result<Before> {
        Ok(Before { victim, counts: self.counts(victim).await? })
    }

    /// Waits until the victim has counted `expected` since `before`, `times` times at least. That it counts nothing is no block.
    pub(super) async fn counted(
        &mut self,
        before: Before,
        what: &str,
        expected: &str,
        times: u64,
    ) -> anyhow::Result<bool> {
        let Before { victim, counts: before } = before;
        let deadline = Instant::now() + PATIENCE;
        let (after, blocked) = loop {
            let now = self.counts(victim).await?;
            let more = now.get(expected).copied().unwrap_or(0) - before.get(expected).copied().unwrap_or(0);
            if more >= times || Instant::now() > deadline {
                break (now, more >= times);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let observed = if blocked {
            let more = after.get(expected).copied().unwrap_or(0) - before.get(expected).copied().unwrap_or(0);
            format!("{}: {expected} +{more}", victim.name())
        } else {
            format!("{}: {expected} not counted, but {}", victim.name(), difference(&before, &after))
        };
        self.note(what, observed, blocked);
        Ok(blocked)
    }

    /// As [`counted`](Self::counted), for a named rejection, once.
    pub(super) async fn refused(&mut self, before: Before, what: &str, expected: Reject) -> anyhow::Result<bool> {
        self.counted(before, what, expected.name(), 1).await
    }

    /// `from` sends `bytes` to a victim on a stream of its own: it must be refused by this name.
    pub(super) async fn shoot(
        &mut self,
        from: &Peer,
        at: Victim,
        protocol: Protocol,
        what: &str,
        bytes: &[u8],
        expected: Reject,
    ) -> anyhow::Result<bool> {
        // Some are refused as soon as their stream is there.
        let before = self.before(at).await?;
        let line = from.line(self.at(at), protocol).await;
        let mut line = line.with_context(|| format!("no stream to the {}", at.name()))?;
        line.send(bytes).await?;
        self.refused(before, what, expected).await
    }

    /// Notes what something led to.
    pub(super) fn note(&mut self, what: &str, observed: impl Into<String>, blocked: bool) {
        self.seen.push(Seen { what: what.to_owned(), observed: observed.into(), blocked });
    }

    /// Notes a harm that must not have come about.
    pub(super) fn harmless(&mut self, holds: bool, harm: &str) {
        if !holds {
            self.note(harm, harm, false);
        }
    }

    /// What was noted since the last time.
    pub(super) fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// A node of the attacker's that nobody has let in.
    pub(super) async fn stranger(&self) -> anyhow::Result<Peer> {
        Ok(Peer::with(NetConfig { gossip: false, ..NetConfig::local(*fresh_secret(&mut entropy()).expose()) }).await?)
    }

    /// A node of the attacker's that takes part in the gossip of one victim.
    pub(super) async fn gossip(&self, victim: Victim) -> anyhow::Result<Peer> {
        let seed = *fresh_secret(&mut entropy()).expose();
        let bootstrap = self.at(victim).addresses.clone();
        Ok(Peer::with(NetConfig { bootstrap, listen: vec![], ..NetConfig::local(seed) }).await?)
    }

    /// A join token of the Registry's for somebody new; and the name in it.
    pub(super) async fn token(&mut self, role: Role) -> anyhow::Result<(String, JoinToken)> {
        self.members += 1;
        let name = format!("mallory-{}", self.members);
        Ok((name.clone(), token(&self.mesh, &name, role).await?))
    }

    /// A join token of the other Registry's.
    pub(super) async fn other_token(&self, name: &str, role: Role) -> anyhow::Result<JoinToken> {
        token(&self.other, name, role).await
    }

    /// A node of the attacker's that joins like anybody.
    pub(super) async fn member(&mut self, role: Role) -> anyhow::Result<Member> {
        let peer = self.stranger().await?;
        let (name, token) = self.token(role).await?;
        let enrol = self.realm.hears(&peer.secret).sign(&self.realm.enrol(&peer.secret, role, token.secret.hash()));
        let mut line = peer.line(&self.registry, Protocol::Registry).await?;
        line.say(&RegistryFrame::Enrol(enrol)).await?;
        match line.hear().await? {
            RegistryFrame::Enrolled(enrolled) => Ok(Member { peer, certificate: enrolled.certificate, name }),
            other => bail!("{name} is not enrolled: {}", other.name()),
        }
    }

    /// A home of the attacker's, with a registered service.
    pub(super) async fn source(&mut self) -> anyhow::Result<Source> {
        let member = self.member(Role::Home).await?;
        let service = format!("bait-{}", self.members);
        let mut source = Source::new(member.peer, &self.realm, self.registry.clone(), &service, *KV_CODE)?;
        source.register().await?;
        Ok(source)
    }

    /// The record and the address of a service, as a member is told.
    pub(super) async fn lookup(&self, by: &Peer, name: &str) -> anyhow::Result<(Signed<Placement>, Found)> {
        let mut line: Line = by.line(&self.registry, Protocol::Registry).await?;
        line.say(&RegistryFrame::Lookup(Lookup::Name(name.to_owned()))).await?;
        let found = line.wait_for(|frame| if let RegistryFrame::Found(found) = frame { Some(found) } else { None });
        let found = found.await?;
        let (placement, _) = found.service.clone().with_context(|| format!("there is no `{name}`"))?;
        Ok((placement, found))
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adverts of a host that were gossiped, oldest first.
    pub(super) fn adverts_of(&self, host: HostId) -> Vec<Signed<Advert>> {
        let of = |signed: &&Signed<Advert>| signed.unverified().is_ok_and(|advert| advert.host == host);
        self.heard().adverts.iter().filter(of).cloned().collect()
    }

    /// The cloud's newest advert; a new one, if that is about to expire.
    pub(super) async fn cloud_advert(&self) -> anyhow::Result<Signed<Advert>> {
        let fresh = || {
            self.adverts_of(self.cloud.host)
                .pop()
                .filter(|signed| signed.unverified().is_ok_and(|advert| super::gossip::lasts(&advert)))
        };
        if fresh().is_none() {
            self.readvertise().await?;
        }
        until("an advert of the cloud", async || fresh()).await
    }

    /// Has the cloud advertise now: an operator's doing.
    pub(super) async fn readvertise(&self) -> anyhow::Result<()> {
        let _: serde_json::Value = self.mesh.client("cloud")?.post(&["uncordon"], &json!({})).await?;
        Ok(())
    }

    /// What a victim's process takes of memory, MiB.
    pub(super) fn memory_mib(&mut self, victim: Victim) -> anyhow::Result<u64> {
        let id = self.mesh.process(victim.process())?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024)
    }

    /// Notes by how much a victim has grown, and that it is not more than `most_mib`.
    pub(super) fn grown(&mut self, victim: Victim, before_mib: u64, most_mib: u64) -> anyhow::Result<()> {
        let grown = self.memory_mib(victim)?.saturating_sub(before_mib);
        let what = format!("memory that the {} took for it", victim.name());
        self.note(&what, format!("{grown} MiB, of {most_mib} at most"), grown <= most_mib);
        Ok(())
    }

    /// The records that the Registry keeps of the victims' service: `epoch host`.
    pub(super) async fn record(&self) -> anyhow::Result<String> {
        let placements = self.mesh.placements().await?;
        let record = placements.into_iter().find(|view| view.name == SERVICE);
        let record = record.with_context(|| format!("there is no record of {SERVICE}"))?;
        Ok(format!("{} {}", record.epoch, record.cloud))
    }

    /// What the home says of its service: `serving`, unless something is wrong.
    pub(super) async fn state_at(&self, host: &str) -> anyhow::Result<Option<String>> {
        let services = self.mesh.services(host).await?;
        Ok(services.into_iter().find(|service| service.name == SERVICE).map(|service| service.state))
    }

    /// Services that the cloud has, or is about to have, by name.
    pub(super) async fn at_cloud(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.mesh.services("cloud").await?.into_iter().map(|service| service.name).collect())
    }
}

/// Listens to all gossip.
async fn eavesdrop(victims: &[&Whereabouts], heard: Arc<Mutex<Heard>>) -> anyhow::Result<JoinSet<()>> {
    let seed = *fresh_secret(&mut entropy()).expose();
    let bootstrap = victims.iter().flat_map(|at| at.addresses.clone()).collect();
    let mut peer = Peer::with(NetConfig { bootstrap, listen: vec![], ..NetConfig::local(seed) }).await?;
    let mut listening = JoinSet::new();
    listening.spawn(async move {
        while let Some(event) = peer.events.recv().await {
            let NetEvent::Gossip { bytes, .. } = event else { continue };
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match Gossip::from_bytes(&bytes) {
                Ok(Gossip::Advert(advert)) => keep(&mut heard.adverts, advert),
                Ok(Gossip::Placement(_)) | Err(_) => {}
            }
        }
    });
    Ok(listening)
}

fn keep<T>(list: &mut Vec<T>, new: T) {
    if list.len() >= HEARD_MAX {
        list.remove(0);
    }
    list.push(new);
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let more = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| format!("{name} +{more}"))
    };
    let names: Vec<String> = after.iter().filter_map(more).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
