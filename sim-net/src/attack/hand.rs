//! Honest messages made by hand: a realm as its members know it, and a service whose keys are in one's own hand.

use std::{
    sync::OnceLock,
    time::{Instant as Clock, SystemTime},
};

use wayfare_protocol::{
    advert::Advert,
    ids::{
        CloudId, Digest, Epoch, HostId, MigrationId, MigrationIds, Nonce, OwnerKey, PlacementKey, RegistryId, ServiceId,
    },
    latency::Coordinate,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::*,
    placement::Memory,
    reject::Reject,
    session::Sessions,
    suite::{Dalek, Secret, Suite, fresh_secret, fresh16},
    time::{Instant, Micros, Now, Timestamp},
    trust::{Anchor, Certificate, CoSigned, Receiver, Role, Signed, TrustBundle},
    wire,
};

use super::sign::{CoSigner, Signer};

/// The operating system's random numbers.
pub type Entropy = rand_core::UnwrapErr<getrandom::SysRng>;

/// See [`Entropy`].
pub const fn entropy() -> Entropy {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// Both clocks.
pub fn now() -> Now {
    static START: OnceLock<Clock> = OnceLock::new();
    let mono = START.get_or_init(Clock::now).elapsed().as_micros() as u64 + 1_000_000_000;
    let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64;
    Now { mono: Instant(mono), wall: Timestamp(wall) }
}

/// A fresh nonce.
pub fn nonce() -> Nonce {
    Nonce(fresh16(&mut entropy()))
}

/// The public half.
pub fn placement_key(secret: &Secret) -> PlacementKey {
    PlacementKey(Dalek::public_key(secret))
}

/// What every service here needs, of everything something.
pub const REQUIRED: Resources =
    Resources { cpu_millicores: 100, memory_bytes: 32 << 20, storage_bytes: 1 << 20, bandwidth_bps: 1000 };
/// What every host here has.
pub const CAPACITY: Resources =
    Resources { cpu_millicores: 4000, memory_bytes: 4 << 30, storage_bytes: 4 << 30, bandwidth_bps: 1 << 30 };

/// A Registry, as whoever is in its realm knows it.
#[derive(Clone, Debug)]
pub struct Realm {
    /// Its name.
    pub id: RegistryId,
    /// How others know it.
    pub anchor: Anchor,
}

impl Realm {
    /// Whom its members trust.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.anchor.clone()])
    }

    /// What somebody signs for the Registry.
    pub fn hears(&self, secret: &Secret) -> Signer {
        Signer { secret: secret.clone(), registry: self.id, receiver: Receiver::Registry(self.id) }
    }

    /// What somebody signs for `receiver`.
    pub fn signer(&self, secret: &Secret, receiver: Receiver) -> Signer {
        Signer { secret: secret.clone(), registry: self.id, receiver }
    }

    /// The request for one.
    pub fn enrol(&self, secret: &Secret, role: Role, token: Digest) -> Enrol {
        let host = HostId(Dalek::public_key(secret));
        Enrol { host, role, region: "lab".to_owned(), token, nonce: nonce() }
    }

    /// A manifest of `owner`.
    pub fn manifest(&self, owner: &Secret, name: &str, code: Digest) -> Manifest {
        let key = OwnerKey(Dalek::public_key(owner));
        Manifest {
            service: service_id(self.id, key, name),
            name: name.to_owned(),
            owner: key,
            version: 1,
            code,
            tos: ServiceType::Request,
            required: REQUIRED,
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: Durability::Memory,
            token_policy: TokenPolicy::Refuse,
        }
    }

    /// An advert of a cloud.
    ///
    /// # Errors
    /// The certificate is none.
    pub fn advert(
        &self,
        host: HostId,
        certificate: &Signed<Certificate>,
        addresses: &[String],
    ) -> Result<Advert, Reject> {
        let wall = now().wall;
        Ok(Advert {
            registry: self.id,
            cloud: certificate.unverified()?.cloud,
            host,
            tos: ServiceType::Cloud,
            resources: CAPACITY,
            cordoned: false,
            price_micros: 0,
            addresses: addresses.to_vec(),
            coordinate: Coordinate::default(),
            certificate: certificate.clone(),
            serial: wall.0,
            expiry: wall + Micros::from_secs(55),
        })
    }
}

/// A service whose keys are in one's own hand.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its realm.
    pub realm: Realm,
    /// Its owner's key.
    pub owner: Secret,
    /// The owner's word.
    pub manifest: Manifest,
    /// The same, signed.
    pub signed_manifest: Signed<Manifest>,
    /// vkS's secret.
    pub key: Secret,
    /// The epoch.
    pub epoch: Epoch,
    /// Where it is.
    pub host: HostId,
    /// That host's key.
    pub host_secret: Secret,
    counter: u64,
}

/// What travels beside the memory, encoded as a host encodes it: client table and what was learnt of the users.
pub fn belongings(sessions: &Sessions, memory: &Memory) -> Vec<u8> {
    let mut bytes = wire::encode(&sessions.to_bytes());
    bytes.extend_from_slice(&wire::encode(memory));
    bytes
}

impl Service {
    /// A service that is to start on `host`.
    pub fn new(realm: &Realm, host_secret: &Secret, name: &str, code: Digest) -> Self {
        let (owner, key) = (fresh_secret(&mut entropy()), fresh_secret(&mut entropy()));
        let manifest = realm.manifest(&owner, name, code);
        let signed_manifest = realm.signer(&owner, Receiver::Anyone).sign(&manifest);
        let host = HostId(Dalek::public_key(host_secret));
        Self {
            realm: realm.clone(),
            owner,
            manifest,
            signed_manifest,
            key,
            epoch: Epoch::FIRST,
            host,
            host_secret: host_secret.clone(),
            counter: 0,
        }
    }

    /// Its identifier.
    pub const fn id(&self) -> ServiceId {
        self.manifest.service
    }

    /// REGISTER.
    pub fn register(&self) -> Register {
        let (service, manifest) = (self.id(), self.signed_manifest.hash());
        Register { service, manifest, key: placement_key(&self.key), host: self.host, nonce: nonce() }
    }

    /// What it says to the Registry.
    pub fn to_registry(&self) -> Signer {
        self.realm.hears(&self.key)
    }

    /// 2, with the next counter.
    pub fn two(&mut self, cloud: CloudId, host: HostId, advert: Digest) -> VerifyCloud {
        self.counter += 1;
        VerifyCloud {
            service: self.id(),
            epoch: self.epoch,
            key: placement_key(&self.key),
            cloud,
            host,
            advert,
            counter: self.counter,
            nonce: nonce(),
        }
    }

    /// The ids of an attempt.
    pub const fn ids(&self, cloud: CloudId, host: HostId, mig: MigrationId) -> MigrationIds {
        MigrationIds { service: self.id(), cloud, host, mig, epoch: self.epoch }
    }

    /// The attempt that a 3 allows.
    pub fn allowed(&self, yes: &YesCloud) -> MigrationIds {
        self.ids(yes.request.cloud, yes.request.host, yes.mig)
    }

    /// A consent to `ids`, with a transcript and a state that only a Registry believes.
    pub fn consent(&self, ids: MigrationIds, new_key: &Secret) -> Transfer {
        let (transcript, state, new_key) = (Digest([5; 32]), Digest([7; 32]), placement_key(new_key));
        Transfer { ids, new_key, transcript, nonce_b: Nonce([6; 16]), state, mode: Mode::Registry }
    }

    /// 4 of an attempt that 3 allows, with a key share that nobody keeps.
    ///
    /// # Errors
    /// 3 is none.
    pub fn four(&self, verdict: &Signed<YesCloud>, rng: &mut Entropy) -> Result<RequestFrame, Reject> {
        let yes = verdict.unverified()?;
        let request = Request {
            ids: self.allowed(&yes),
            key: placement_key(&self.key),
            tos: self.manifest.tos,
            nonce: nonce(),
            share: Dalek::dh_public(&fresh_secret(rng)),
            verdict: verdict.hash(),
            asked: now().wall,
            required: self.manifest.required,
            manifest: self.signed_manifest.hash(),
            suites: vec![SuiteId::X25519ChaCha20Poly1305],
        };
        let request = self.realm.signer(&self.key, Receiver::Host(yes.request.host)).sign(&request);
        Ok(RequestFrame { request, verdict: verdict.clone(), manifest: self.signed_manifest.clone() })
    }

    /// How it consents to a move to `target`.
    pub fn consents(&self, target: HostId) -> CoSigner {
        CoSigner {
            placement: self.key.clone(),
            host: self.host_secret.clone(),
            registry: self.realm.id,
            receiver: Receiver::Host(target),
        }
    }

    /// 5 of the target.
    pub fn five(&self, ids: MigrationIds, new_key: &Secret) -> VerifyService {
        let (key, new_key) = (placement_key(&self.key), placement_key(new_key));
        VerifyService { ids, key, nonce: nonce(), request: Digest([4; 32]), new_key }
    }

    /// 10 of the target, with this consent.
    pub fn ten(&self, transfer: &Transfer, consent: &CoSigned<Transfer>) -> TransferComplete {
        let wall = now().wall;
        TransferComplete {
            ids: transfer.ids,
            tos: self.manifest.tos,
            new_key: transfer.new_key,
            transcript: transfer.transcript,
            state: transfer.state,
            consent: consent.hash(),
            asked: wall,
            answered: wall,
            completed: wall,
        }
    }

    /// The service has moved to the host with this key.
    pub fn moved(&mut self, host_secret: &Secret, new_key: Secret) {
        self.key = new_key;
        self.epoch = self.epoch.next_era();
        self.host = HostId(Dalek::public_key(host_secret));
        self.host_secret = host_secret.clone();
        self.counter = 0;
    }
}
