//! A real cloud (B) under attack: by a puppet home (A) whose service is to move there, by another member, and by the Registry's
//! own key. The service is real: it arrives with its state, in spite of everything, and is moved on.

use wayfare_net::{NetConfig, NetEvent, Protocol};
use wayfare_protocol::{
    advert::{Advert, Gossip},
    ids::MigrationIds,
    migration::messages::*,
    migration::source::Agreement,
    suite::fresh_secret,
    time::Micros,
    trust::{Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_tests::{
    hand::{claim, entropy, now},
    ledger::Watched,
    peer::{Line, Peer, within},
    puppet::{
        registry::PuppetRegistry,
        source::{Attempt, PuppetSource},
    },
    range::Range,
    real::{Authority, RealGateway, RealHost},
    shot::{Shot, Signer},
};

use crate::{bystander::Bystander, coverage::Covered};

mod offer;
mod records;
mod verdicts;

pub(crate) fn covered() -> Vec<Covered> {
    [offer::covered(), verdicts::covered(), records::covered()].into_iter().flatten().collect()
}

/// The cloud, and those round it.
pub(crate) struct Bench {
    pub(crate) authority: Authority,
    pub(crate) range: Range,
    pub(crate) cloud: RealHost,
    pub(crate) source: PuppetSource,
    pub(crate) delta: Peer,
    /// The cloud's own.
    pub(crate) advert: Signed<Advert>,
    pub(crate) bystander: Bystander,
}

/// An attempt that B has agreed to.
pub(crate) struct Agreed {
    pub(crate) attempt: Attempt,
    pub(crate) agreement: Agreement,
    /// A's stream to B.
    pub(crate) line: Line,
}

impl Bench {
    pub(crate) async fn start(seed: u8) -> Self {
        let authority = Authority::Puppet(PuppetRegistry::start(seed).await);
        let bystander = Bystander::start(&authority).await;
        let cloud = RealHost::start(&authority, "fjord", Role::Cloud, &[]).await;
        cloud.deploy(authority.realm(), "local").await;
        let mut source = PuppetSource::start(&authority, seed + 1, "kv").await;
        source.register().await;
        let delta = Peer::start(seed + 2).await;
        authority.enrol(&delta, "delta", Role::Cloud).await;
        let advert = advert_of(&cloud).await;
        let range = Range::open(Watched::Host(cloud.handle.clone())).await;
        Self { authority, range, cloud, source, delta, advert, bystander }
    }

    pub(crate) fn registry(&mut self) -> &mut PuppetRegistry {
        self.authority.puppet()
    }

    /// What A says to B.
    pub(crate) fn to_cloud(&self) -> Signer {
        let service = &self.source.service;
        service.realm.signer(&service.key, Receiver::Host(self.cloud.host()))
    }

    /// 2 and 3: an attempt that B does not know of yet.
    pub(crate) async fn attempt(&mut self) -> Attempt {
        if claim(&self.advert).expiry < now().wall + Micros::from_secs(30) {
            self.advert = advert_of(&self.cloud).await;
        }
        self.source.attempt(&self.advert).await
    }

    pub(crate) async fn migrate_line(&self) -> Line {
        Line::open(&self.source.peer, &self.cloud.at, Protocol::Migrate).await
    }

    /// 4 to 7, honestly.
    pub(crate) async fn agreed(&mut self) -> Agreed {
        let mut attempt = self.attempt().await;
        let mut line = self.migrate_line().await;
        line.say(&MigrateFrame::Request(attempt.four.clone())).await;
        let MigrateFrame::Response(seven) = line.hear().await else { panic!("no 7") };
        let agreement = self.source.agree(&mut attempt, &seven);
        Agreed { attempt, agreement, line }
    }

    pub(crate) fn ids(attempt: &Attempt) -> MigrationIds {
        claim(&attempt.four.request).ids
    }

    /// A fires on the migration protocol.
    pub(crate) async fn fire(&mut self, shots: Vec<Shot>) {
        self.range.fire(&self.source.peer, &self.cloud.at, Protocol::Migrate, shots).await;
    }

    /// Another member fires on the migration protocol.
    pub(crate) async fn fire_from_delta(&mut self, shots: Vec<Shot>) {
        self.range.fire(&self.delta, &self.cloud.at, Protocol::Migrate, shots).await;
    }

    /// The Registry's key fires.
    pub(crate) async fn fire_as_registry(&mut self, shots: Vec<Shot>) {
        let Authority::Puppet(registry) = &self.authority else { panic!("a puppet registry") };
        self.range.fire_as_registry(registry, &self.cloud.at, shots).await;
    }

    /// The service has arrived: it answers from the state it left with, and moves on, and so does the bystander.
    pub(crate) async fn close(mut self, counted: u64) {
        let gateway = RealGateway::start(&self.authority, &["kv", "local"]).await;
        assert_eq!(gateway.count("kv").await, counted + 1);
        assert_eq!(gateway.count("local").await, 1);
        self.bystander.answers().await;
        self.bystander.takes_over(&self.authority, &self.cloud, self.source.service.id()).await;
        assert_eq!(gateway.count("kv").await, counted + 2);
        self.bystander.moves(&self.authority).await;
        self.range.accepted("the honest moves").await;
        println!("{} shots", self.range.shots());
        self.range.close();
    }
}

/// The advert that a real cloud gossips.
pub(crate) async fn advert_of(cloud: &RealHost) -> Signed<Advert> {
    let seed = *fresh_secret(&mut entropy()).expose();
    let config = NetConfig { bootstrap: cloud.at.addresses.clone(), ..NetConfig::local(seed) };
    let mut listener = Peer::with(config).await;
    let listening = async {
        let mut again = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            tokio::select! {
                Some(event) = listener.events.recv() => {
                    if let NetEvent::Gossip { bytes, .. } = event
                        && let Ok(Gossip::Advert(advert)) = Gossip::from_bytes(&bytes)
                        && claim(&advert).host == cloud.host()
                    {
                        return advert;
                    }
                }
                // To be cordoned or not is news: it advertises at once.
                _ = again.tick() => drop(cloud.handle.with(|host, _, _| host.set_cordoned(false)).await),
            }
        }
    };
    within("an advert", listening).await
}
