//! Attacks on hosts, gateways and what they hear by gossip.

use std::sync::Arc;

use wayfare_protocol::{
    advert::{Advert, AdvertStore, verify_advert},
    gateway::{
        Gateway, GatewayConfig,
        messages::{Call, ClientFrame, Hello, Open, client_id, request_hash},
    },
    host::{Effect, Host, HostConfig, Identity},
    ids::{Digest, HostId, ServiceId},
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, STEP_TIMEOUT},
    migration::messages::*,
    order::Tombstone,
    placement::PlacementConfig,
    registry::{Effect as Said, Registry, RegistryConfig},
    reject::{Reject, Strict},
    suite::{Dalek, Secret},
    time::{Micros, Now},
    trust::{Receiver, Role, Signed, certificate::cloud_id},
    wire::Frame,
};
use wayfare_tests::{
    guards::{Without, needs},
    hand::{CAPACITY, Realm, Service, claim, entropy, now},
    shot::{thief, unsigned},
};

use super::machines::host;

/// A Registry's key, a home with a service that is served, a cloud, two gateways.
struct Town {
    realm: Realm,
    now: Now,
    home: Host<Dalek, Without>,
    service: Service,
    cloud: Secret,
    record: Signed<Placement>,
}

const GATEWAYS: [u8; 2] = [4, 5];

impl Town {
    fn new() -> Self {
        let secret = Secret::new([200; 32]);
        let mut registry = Registry::<Dalek, Strict>::new(RegistryConfig::new::<Dalek>(secret.clone(), vec![]));
        let realm = Realm::new(registry.id(), secret, registry.anchor());
        let (key, cloud, now) = (Secret::new([1; 32]), Secret::new([2; 32]), now());
        let me = host(&key);
        let service = Service::new(&realm, &key, "kv", Digest([7; 32]));
        let certificate = realm.says(Receiver::Anyone).sign(&realm.certificate("home", me, Role::Home));
        let bundle = realm.bundle();
        let verified = bundle.verify_certificate::<Dalek, Strict>(&certificate, me, &[Role::Home], now.wall);
        let (id, certificate) = verified.unwrap();
        let identity = Identity { secret: key.clone(), registry: id, certificate };
        let config = HostConfig {
            capacity: CAPACITY,
            price_micros: 0,
            placement: PlacementConfig::default(),
            step_timeout: STEP_TIMEOUT,
            image_log_bytes: IMAGE_LOG_BYTES_MIN,
            compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
        };
        let mut home = Host::new(identity, config, bundle, 0);
        home.handle_module(service.manifest.code);
        home.deploy(now, &service.signed_manifest, &mut entropy()).unwrap();
        // The Registry that it joined: what it says is taken over by the home.
        let lifetime = Micros::from_secs(60);
        let token = registry.create_join_token(now, &mut entropy(), "home", Role::Home, lifetime).unwrap();
        let enrol = realm.hears(&key).sign(&realm.enrol(&key, Role::Home, token.secret.hash()));
        let enrol = RegistryFrame::Enrol(enrol).to_bytes();
        registry.handle_frame(now, &mut entropy(), me, &enrol).unwrap();
        for frame in effects(&mut home).into_iter().filter_map(to_registry) {
            registry.handle_frame(now, &mut entropy(), me, &frame.to_bytes()).unwrap();
        }
        let mut record = None;
        while let Some(said) = registry.poll_effect() {
            match said {
                Said::Persist { seq, .. } => registry.handle_synced(seq),
                Said::Reply { frame: RegistryFrame::Granted(granted), .. } => {
                    record = Some(granted.placement.clone());
                    let frame = RegistryFrame::Granted(granted).to_bytes();
                    home.handle_registry_frame(now, id, &frame, &mut entropy()).unwrap();
                }
                Said::Reply { .. } | Said::Ask { .. } | Said::Event(_) => {}
            }
        }
        effects(&mut home);
        let town = Self { realm, now, home, service, cloud, record: record.expect("the service is registered") };
        assert_eq!(town.home.services(now).len(), 1, "the service is there");
        town
    }

    fn id(&self) -> ServiceId {
        self.service.id()
    }

    /// A gateway's hello, on its own stream.
    fn hello(&mut self, seed: u8) -> HostId {
        let gateway = host(&Secret::new([seed; 32]));
        let certificate = self.realm.certificate("phone", gateway, Role::Gateway);
        let certificate = self.realm.says(Receiver::Anyone).sign(&certificate);
        let hello = ClientFrame::Hello(Hello { certificate, incarnation: 1 });
        self.home.handle_client_frame(self.now, gateway, &hello.to_bytes()).unwrap();
        gateway
    }

    /// An advert of the cloud.
    fn advert(&self) -> Advert {
        let (key, realm) = (host(&self.cloud), &self.realm);
        let certificate = realm.says(Receiver::Anyone).sign(&realm.certificate("fjord", key, Role::Cloud));
        realm.advert(key, &certificate, &[])
    }

    fn signed(&self, advert: &Advert) -> Signed<Advert> {
        self.realm.signer(&self.cloud, Receiver::Anyone).sign(advert)
    }

    /// A gateway that follows the service to its home.
    fn gateway(&self) -> Gateway<Dalek, Without> {
        let key = host(&Secret::new([GATEWAYS[0]; 32]));
        let certificate = self.realm.certificate("phone", key, Role::Gateway);
        let certificate = self.realm.says(Receiver::Anyone).sign(&certificate);
        let config = GatewayConfig::new(key, certificate, self.realm.bundle(), self.realm.id);
        let mut gateway = Gateway::new(config, &[], 0, &mut entropy());
        let lookup = Lookup::Name(self.service.manifest.name.clone());
        gateway.add_service(self.now, &lookup).unwrap();
        let service = Some((self.record.clone(), self.service.signed_manifest.clone()));
        let found = Found { lookup, service, addresses: vec!["/memory/1".to_owned()] };
        gateway.handle_found(self.now, self.realm.id, &found).unwrap();
        gateway
    }
}

/// All effects, with every entry synced.
fn effects(host: &mut Host<Dalek, Without>) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(effect) = host.poll_effect() {
        if let Effect::Persist { seq, .. } = &effect {
            host.handle_synced(*seq);
        }
        effects.push(effect);
    }
    effects
}

fn to_registry(effect: Effect) -> Option<RegistryFrame> {
    match effect {
        Effect::ToRegistry(_, frame) => Some(frame),
        _ => None,
    }
}

#[test]
pub(crate) fn a_tombstone_that_nobody_made() {
    needs("a forged tombstone", &[Reject::BadSignature], || {
        let mut town = Town::new();
        let epoch = claim(&town.record).epoch;
        let made = Tombstone { service: town.id(), epoch, version: 1, order: Digest([3; 32]), at: town.now.wall };
        let forged = RegistryFrame::Removed(town.realm.signer(&thief(), Receiver::Anyone).sign(&made)).to_bytes();
        // Refused or not: what counts is whether the service is still there.
        let _ = town.home.handle_registry_frame(town.now, town.realm.id, &forged, &mut entropy());
        town.home.services(town.now).is_empty()
    });
}

#[test]
pub(crate) fn a_request_in_anothers_name() {
    needs("a request of another's client", &[Reject::WrongClient], || {
        let mut town = Town::new();
        let (victim, mallory) = (town.hello(GATEWAYS[0]), town.hello(GATEWAYS[1]));
        let (service, client) = (town.id(), client_id(victim, 1));
        let open = ClientFrame::Open(Open { service, client }).to_bytes();
        town.home.handle_client_frame(town.now, victim, &open).unwrap();
        let request = b"POST /count HTTP/1.1\r\n\r\n".to_vec();
        let hash = request_hash(&request);
        let call = Call { service, client, sequence: 0, hash, acked_below: 0, request };
        let call = ClientFrame::Call(call).to_bytes();
        town.home.handle_client_frame(town.now, mallory, &call).is_ok()
    });
}

#[test]
pub(crate) fn a_placement_that_is_not_the_registrys_or_not_the_last() {
    needs("a forged 11", &[Reject::BadSignature], || {
        let town = Town::new();
        let mut gateway = town.gateway();
        let record = claim(&town.record);
        let stolen = Placement { epoch: record.epoch.next_era(), host: host(&thief()), ..record };
        let stolen = town.realm.signer(&thief(), Receiver::Anyone).sign(&stolen);
        gateway.handle_gossip_placement(town.now, &stolen).is_ok()
    });
    needs("an old 11", &[Reject::WrongEpoch], || {
        let town = Town::new();
        let mut gateway = town.gateway();
        let record = claim(&town.record);
        let cloud = cloud_id(town.realm.id, "fjord");
        let moved = Placement { epoch: record.epoch.next_era(), host: host(&town.cloud), cloud, ..record };
        let moved = town.realm.says(Receiver::Anyone).sign(&moved);
        gateway.handle_gossip_placement(town.now, &moved).unwrap();
        gateway.handle_gossip_placement(town.now, &town.record).is_ok()
    });
}

#[test]
pub(crate) fn an_advert_that_is_not_the_clouds() {
    // Called bad_certificate by the machine: the signature that does not verify is the certificate's.
    needs("an advert under a made-up certificate", &[Reject::BadSignature], || {
        let town = Town::new();
        let own = town.realm.signer(&thief(), Receiver::Anyone);
        let certificate = own.sign(&claim(&town.advert().certificate));
        let advert = town.signed(&Advert { certificate, ..town.advert() });
        verify_advert::<Dalek, Without>(&advert, &town.realm.bundle(), town.now.wall).is_ok()
    });
    needs("an altered advert", &[Reject::BadSignature], || {
        let town = Town::new();
        let honest = town.advert();
        let elsewhere = Advert { addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()], ..honest.clone() };
        let advert = unsigned(&town.signed(&honest), &elsewhere);
        verify_advert::<Dalek, Without>(&advert, &town.realm.bundle(), town.now.wall).is_ok()
    });
}

/// Whether somebody who has heard `first` takes `second` over.
fn heard(town: &Town, first: &Advert, second: &Advert) -> bool {
    let (mut store, bundle) = (AdvertStore::default(), town.realm.bundle());
    let mut hear = |advert: &Advert| {
        let verified = verify_advert::<Dalek, Without>(&town.signed(advert), &bundle, town.now.wall);
        let (advert, certificate) = verified.unwrap();
        store.insert::<Without>(town.now.wall, Arc::new(advert), Arc::new(certificate)).is_ok()
    };
    assert!(hear(first), "an honest advert");
    hear(second)
}

#[test]
pub(crate) fn an_advert_that_is_not_the_last() {
    needs("an old advert", &[Reject::OldSerial], || {
        let town = Town::new();
        let old = town.advert();
        heard(&town, &Advert { serial: old.serial + 1, ..old.clone() }, &old)
    });
    needs("two adverts of one number", &[Reject::Reused], || {
        let town = Town::new();
        let one = town.advert();
        heard(&town, &one, &Advert { price_micros: 7, ..one.clone() })
    });
}
