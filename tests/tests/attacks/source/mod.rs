//! A real home (A) under attack, while it moves its service to a puppet cloud (B): by B's key, by another member's, and by the
//! Registry's own. The service goes on where it was, and then really moves.

use wayfare_net::Protocol;
use wayfare_protocol::{
    advert::Gossip,
    ids::{HostId, MigrationIds, ServiceId},
    migration::messages::*,
    trust::{Receiver, Role},
    wire::Frame,
};
use wayfare_tests::{
    hand::claim,
    ledger::Watched,
    peer::{Line, Peer, until},
    puppet::{registry::PuppetRegistry, target::PuppetTarget},
    range::Range,
    real::{Authority, KV_CODE, RealGateway, RealHost},
    shot::{Shot, Signer, thief},
};

use crate::{bystander::Bystander, coverage::Covered};

mod decisions;
mod leases;
mod offers;

pub(crate) fn covered() -> Vec<Covered> {
    [offers::covered(), decisions::covered(), leases::covered()].into_iter().flatten().collect()
}

/// The home, its service, and those round it.
pub(crate) struct Bench {
    pub(crate) authority: Authority,
    pub(crate) range: Range,
    pub(crate) home: RealHost,
    pub(crate) service: ServiceId,
    pub(crate) target: PuppetTarget,
    pub(crate) delta: Peer,
    gateway: RealGateway,
    count: u64,
    bystander: Bystander,
}

impl Bench {
    async fn start(seed: u8) -> Self {
        let authority = Authority::Puppet(PuppetRegistry::start(seed).await);
        let bystander = Bystander::start(&authority).await;
        let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
        let target = PuppetTarget::start(&authority, seed + 1, "fjord").await;
        let delta = Peer::start(seed + 2).await;
        authority.enrol(&delta, "delta", Role::Cloud).await;
        let gateway = RealGateway::start(&authority, &["kv"]).await;
        let range = Range::open(Watched::Host(home.handle.clone())).await;
        // Until the first is deployed.
        let service = authority.realm().manifest(&thief(), "none", *KV_CODE).service;
        Self { authority, range, home, service, target, delta, gateway, count: 0, bystander }
    }

    pub(crate) fn registry(&mut self) -> &mut PuppetRegistry {
        self.authority.puppet()
    }

    /// What the Registry says to A.
    pub(crate) fn registry_says(&self) -> Signer {
        self.authority.realm().says(Receiver::Host(self.home.host()))
    }

    /// What the Registry says to everybody.
    pub(crate) fn registry_tells(&self) -> Signer {
        self.authority.realm().says(Receiver::Anyone)
    }

    /// What B says to A.
    pub(crate) fn target_says(&self) -> Signer {
        self.authority.realm().signer(&self.target.peer.secret, Receiver::Host(self.home.host()))
    }

    /// B fires.
    pub(crate) async fn fire(&mut self, shots: Vec<Shot>) {
        self.range.fire(&self.target.peer, &self.home.at, Protocol::Migrate, shots).await;
    }

    /// Another member fires.
    pub(crate) async fn fire_from_delta(&mut self, shots: Vec<Shot>) {
        self.range.fire(&self.delta, &self.home.at, Protocol::Migrate, shots).await;
    }

    /// The Registry's key fires.
    pub(crate) async fn fire_as_registry(&mut self, shots: Vec<Shot>) {
        let Authority::Puppet(registry) = &self.authority else { panic!("a puppet registry") };
        self.range.fire_as_registry(registry, &self.home.at, shots).await;
    }

    /// The Registry sends what is honest.
    pub(crate) async fn tell(&mut self, frame: RegistryFrame) {
        let home = self.home.host();
        self.registry().send(home, frame.to_bytes()).await;
    }

    /// The next frame to A that the Registry holds back.
    pub(crate) async fn held(&mut self) -> RegistryFrame {
        let home = self.home.host();
        self.registry().held(home).await
    }

    /// B's stream to A.
    pub(crate) async fn line(&self) -> Line {
        self.target.peer.line(&self.home.at, Protocol::Migrate).await
    }

    /// A begins to move its service to B.
    pub(crate) async fn begin(&mut self) {
        self.home.hear(Gossip::Advert(self.target.advert()).to_bytes()).await;
        self.home.begin_move(self.service, self.target.peer.host).await;
    }

    /// 4, on A's stream.
    pub(crate) async fn four(&mut self) -> (Line, RequestFrame) {
        let home: HostId = self.home.host();
        let mut line = self.target.called_by(home).await;
        let MigrateFrame::Request(four) = line.hear().await else { panic!("no 4") };
        (line, four)
    }

    /// Waits until the attempt is over.
    pub(crate) async fn until_no_attempt(&self) {
        let service = self.service;
        until("the end of the attempt", async || {
            let attempt = self.home.handle.with(move |host, _, _| host.attempt_of(service)).await.unwrap();
            attempt.is_none().then_some(())
        })
        .await;
    }

    /// The service answers, from the state that it was in.
    pub(crate) async fn answers(&mut self) {
        self.count += 1;
        assert_eq!(self.gateway.count("kv").await, self.count);
    }

    async fn close(mut self) {
        self.answers().await;
        self.bystander.answers().await;
        self.bystander.takes_over(&self.authority, &self.home, self.service).await;
        self.answers().await;
        self.bystander.moves(&self.authority).await;
        self.range.accepted("the honest moves").await;
        println!("{} shots", self.range.shots());
        self.range.close();
    }
}

/// The ids of an attempt, as its 4 has them.
pub(crate) fn ids_of(four: &RequestFrame) -> MigrationIds {
    claim(&four.request).ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source() {
    let mut bench = Bench::start(90).await;
    leases::registration(&mut bench).await;
    bench.answers().await;
    offers::refused(&mut bench).await;
    bench.answers().await;
    offers::sevens(&mut bench).await;
    bench.answers().await;
    offers::given_up(&mut bench).await;
    bench.answers().await;
    decisions::reclaimed(&mut bench).await;
    bench.answers().await;
    leases::renewal(&mut bench).await;
    bench.close().await;
}
