//! 1 and 11 as gossip: to a real home and a real gateway at once, from strangers on the mesh.

use wayfare_net::{NetConfig, NetError, Protocol};
use wayfare_protocol::{
    advert::{Advert, Gossip},
    limits::{ADDRESSES_MAX, ADVERT_LIFETIME_MAX, CLOCK_SKEW, LEASE, TEXT_BYTES_MAX},
    migration::messages::Placement,
    reject::Reject,
    suite::fresh_secret,
    time::{Micros, Timestamp},
    trust::{Certificate, Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, service,
    },
    hand::{Service, claim, entropy, now},
    ledger::Watched,
    peer::{Peer, Whereabouts, until},
    range::Range,
    real::{Authority, KV_CODE, RealGateway, RealHost, RealRegistry},
    rows,
    shot::{Altered as _, Shot, Signer, misshapen},
};

use crate::{
    bystander::Bystander,
    coverage::{Covered, covers},
};

const CLOUDS: Expect = Free("the cloud's own word: the registry checks it before a move");

fn advert() -> Table<Advert> {
    rows!(Advert {
        registry => Reject::BadCertificate, raw Reject::BadCertificate;
        cloud => Reject::WrongCloud;
        host => Reject::BadCertificate, raw Reject::BadCertificate;
        tos => Reject::WrongTos;
        resources.cpu_millicores => CLOUDS;
        resources.memory_bytes => CLOUDS;
        resources.storage_bytes => CLOUDS;
        resources.bandwidth_bps => CLOUDS;
        cordoned => CLOUDS;
        price_micros => CLOUDS;
        addresses = |list| *list = vec![String::new(); ADDRESSES_MAX + 1]
            => Reject::FieldTooLong, raw Reject::FieldTooLong;
        addresses = |list| list.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong, raw Reject::FieldTooLong;
        coordinate.position = |position| position[0] ^= 1 => CLOUDS;
        coordinate.height => CLOUDS;
        coordinate.error_ppm => CLOUDS;
        certificate = |_| () => Free("a table of its own");
        serial = |serial| *serial -= 1 => Reject::OldSerial;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
        expiry = |expiry| *expiry = *expiry + ADVERT_LIFETIME_MAX + CLOCK_SKEW.times(2) => Reject::NotYetValid;
    })
}

/// The certificate in an advert: altered by the Registry itself, in an advert that the cloud signs anew.
fn certificate() -> Table<Certificate> {
    rows!(Certificate {
        cloud => Reject::WrongCloud;
        name => Free("the registry's own word");
        host => Reject::BadCertificate;
        role => Reject::WrongRole;
        region => Free("the registry's own word");
        not_before = |from| *from = Timestamp(u64::MAX / 2) => Reject::CertificateExpired;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::CertificateExpired;
    })
}

/// Of a service that neither carries: genuine and current is all that can be asked.
fn placement() -> Table<Placement> {
    const WORD: Expect = Free("the registry's own word");
    rows!(Placement {
        epoch.era => WORD;
        epoch.hop => WORD;
        cloud => WORD;
        host => WORD;
        key => WORD;
        mig => WORD;
        previous => WORD;
        manifest => WORD;
        issued = |at| *at = Timestamp(1) => Reject::Expired;
        lease = |lease| *lease = Micros::ZERO => Reject::Expired;
    })
    .nest("service", |placement| &mut placement.service, service(Reject::UnknownRegistry))
    .raw("service.registry", Reject::UnknownRegistry)
    .but("service.unique", WORD)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "mesh";
    vec![covers(to, &advert()), covers(to, &certificate()), covers(to, &placement())]
}

/// One receiver, and strangers on the mesh.
struct Target {
    at: Whereabouts,
    range: Range,
    stranger: Option<(Peer, usize)>,
}

impl Target {
    async fn new(at: &Whereabouts, watched: Watched) -> Self {
        Self { at: at.clone(), range: Range::open(watched).await, stranger: None }
    }

    /// Publishes on the mesh, by a stranger that nobody has a bad opinion of yet.
    async fn publish(&mut self, bytes: &[u8]) {
        // Whoever publishes what is provably false is soon not listened to any more.
        if self.stranger.as_ref().is_none_or(|(_, published)| *published >= 3) {
            let seed = *fresh_secret(&mut entropy()).expose();
            let bootstrap = self.at.addresses.clone();
            let peer = Peer::with(NetConfig { bootstrap, listen: vec![], ..NetConfig::local(seed) }).await;
            self.stranger = Some((peer, 0));
        }
        let (peer, published) = self.stranger.as_mut().unwrap();
        *published += 1;
        until("a subscriber", async || match peer.net.publish(bytes.to_vec()).await {
            Ok(()) => Some(()),
            Err(NetError::NoGossipPeers) => None,
            Err(error) => panic!("not published: {error}"),
        })
        .await;
    }

    async fn fire(&mut self, shots: &[Shot]) {
        for shot in shots {
            self.publish(&shot.bytes).await;
            self.range.judge(shot).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip() {
    let authority = Authority::Real(RealRegistry::start(130).await);
    let bystander = Bystander::start(&authority).await;
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    let fjord = Peer::start(131).await;
    let signed = authority.enrol(&fjord, "fjord", Role::Cloud).await;
    let mut targets = [
        Target::new(&home.at, Watched::Host(home.handle.clone())).await,
        Target::new(&gateway.at, Watched::Gateway(gateway.handle.clone())).await,
    ];

    let realm = authority.realm().clone();
    let (cloud, registry) = (realm.signer(&fjord.secret, Receiver::Anyone), realm.says(Receiver::Anyone));
    let honest = realm.advert(fjord.host, &signed, &[]);
    let service = Service::new(&realm, &fjord.secret, "other", *KV_CODE);
    for target in &mut targets {
        let known = Gossip::Advert(cloud.sign(&honest)).to_bytes();
        target.publish(&known).await;
        // The same bytes are the same news: what follows comes after them.
        let shots = [adverts(&cloud, &registry, &honest, &signed), placements(&registry, &service)].concat();
        target.fire(&shots).await;
    }
    for target in targets {
        println!("{} shots", target.range.shots());
        target.range.close();
    }
    let mut bystander = bystander;
    bystander.answers().await;
    bystander.moves(&authority).await;
}

/// A peer of another time is refused by name, once, by every part, and does no harm to what is between the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_another_version() {
    let registry = RealRegistry::start(132).await;
    let counts = Watched::Registry(registry.running.handle().clone());
    let (at, authority) = (registry.whereabouts(), Authority::Real(registry));
    let mut bystander = Bystander::start(&authority).await;
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    let receivers = [
        (at, counts),
        (home.at.clone(), Watched::Host(home.handle.clone())),
        (gateway.at.clone(), Watched::Gateway(gateway.handle.clone())),
    ];
    for (at, watched) in receivers {
        let mut range = Range::open(watched).await;
        let seed = *fresh_secret(&mut entropy()).expose();
        let peer = Peer::with(NetConfig { versions: vec![99], ..NetConfig::local(seed) }).await;
        for _ in 0..3 {
            let error = peer.net.open(at.host, &at.addresses, Protocol::Probe).await.unwrap_err();
            assert!(matches!(error, NetError::NoCommonVersion { .. }), "{error:?}");
        }
        range.judge(&Shot::new("a peer of version 99", vec![], Reject::NoCommonVersion)).await;
        range.close();
    }
    bystander.answers().await;
    bystander.moves(&authority).await;
}

fn adverts(cloud: &Signer, registry: &Signer, known: &Advert, own: &Signed<Certificate>) -> Vec<Shot> {
    let wrap = |signed| Gossip::Advert(signed).to_bytes();
    // Later than what is known, but for the row that is not.
    let serial = known.serial;
    let later = || Advert { serial, ..known.clone() };
    let mut shots = cloud.shots(&advert(), later, wrap, Reject::BadSignature);
    let with = |certificate| wrap(cloud.sign(&Advert { certificate, serial: serial + 1, ..known.clone() }));
    shots.extend(registry.shots(&certificate(), || claim(own), with, Reject::BadCertificate));
    let same_serial = Advert { price_micros: 99, ..known.clone() };
    shots.push(Shot::new("ADV, other bytes with the same serial", wrap(cloud.sign(&same_serial)), Reject::Reused));
    shots
        .extend(misshapen(&Gossip::Advert(cloud.sign(known)), <Signed<Advert> as wayfare_protocol::wire::Wire>::LIMIT));
    shots
}

fn placements(registry: &Signer, service: &Service) -> Vec<Shot> {
    let (ids, cloud) = (service.register(), wayfare_protocol::ids::CloudId([1; 16]));
    let base = Placement {
        service: ids.service,
        epoch: service.epoch,
        cloud,
        host: service.host,
        key: ids.key,
        mig: wayfare_protocol::ids::MigrationId([1; 16]),
        previous: service.host,
        manifest: ids.manifest,
        issued: Timestamp(now().wall.0 - CLOCK_SKEW.0 - 1_000_000),
        lease: LEASE,
    };
    let wrap = |signed| Gossip::Placement(signed).to_bytes();
    registry.shots(&placement(), || base.clone(), wrap, Reject::BadSignature)
}
