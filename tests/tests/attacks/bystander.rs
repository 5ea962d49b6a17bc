//! A service that has nothing to do with an attack: a real home, a real cloud, a real gateway.

use wayfare_net::Protocol;
use wayfare_protocol::{advert::Gossip, ids::ServiceId, trust::Role, wire::Frame};
use wayfare_tests::{
    ledger::Watched,
    peer::{Whereabouts, until},
    range::Range,
    real::{Authority, RealGateway, RealHost},
    shot::Shot,
};

/// The service's name.
const NAME: &str = "bystander";

pub(crate) struct Bystander {
    home: RealHost,
    cloud: RealHost,
    gateway: RealGateway,
    service: ServiceId,
    count: u64,
}

impl Bystander {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let home = RealHost::start(authority, "cabin", Role::Home, &[]).await;
        let cloud = RealHost::start(authority, "harbour", Role::Cloud, &home.at.addresses).await;
        let service = home.deploy(authority.realm(), NAME).await;
        let gateway = RealGateway::start(authority, &[NAME]).await;
        let mut bystander = Self { home, cloud, gateway, service, count: 0 };
        bystander.answers().await;
        bystander
    }

    /// The service answers, from the state that it was in.
    pub(crate) async fn answers(&mut self) {
        self.count += 1;
        assert_eq!(self.gateway.count(NAME).await, self.count);
    }

    /// An honest move succeeds, and the state comes along.
    pub(crate) async fn moves(&mut self, authority: &Authority) {
        self.home.until_meets(&[&self.cloud]).await;
        self.home.begin_move(self.service, self.cloud.host()).await;
        self.cloud.until_serving(self.service).await;
        let there = format!("{} 2.0 {}", self.service, self.cloud.host());
        until("the record to move", async || authority.placements().await.contains(&there).then_some(())).await;
        self.answers().await;
    }

    /// The cloud nearby takes over what came to `from`.
    pub(crate) async fn takes_over(&self, authority: &Authority, from: &RealHost, service: ServiceId) {
        let before = authority.placements().await;
        from.hear(advert_bytes(&self.cloud).await).await;
        from.begin_move(service, self.cloud.host()).await;
        self.cloud.until_serving(service).await;
        until("the record to move", async || (authority.placements().await != before).then_some(())).await;
    }

    /// Where the cloud nearby is.
    pub(crate) const fn cloud_at(&self) -> &Whereabouts {
        &self.cloud.at
    }

    /// Counts what the home rejects.
    pub(crate) async fn home_range(&self) -> Range {
        Range::open(Watched::Host(self.home.handle.clone())).await
    }

    /// Fires on the home.
    pub(crate) async fn fire(&self, mut range: Range, from: &sim_net::attack::peer::Peer, shots: Vec<Shot>) {
        range.fire(from, &self.home.at, Protocol::Migrate, shots).await;
        range.close();
    }
}

async fn advert_bytes(cloud: &RealHost) -> Vec<u8> {
    Gossip::Advert(crate::target::advert_of(cloud).await).to_bytes()
}
