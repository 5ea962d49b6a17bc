//! A gateway among hosts that exist only here.

use std::collections::BTreeSet;

use super::{messages::*, *};
use crate::{
    ids::{Digest, Epoch, HostId, MigrationId, OwnerKey, PlacementKey, RegistryId, ServiceId},
    limits::LEASE,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{Found, Lookup, Placement},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite},
    time::{Instant, Micros, Now, Timestamp},
    trust::{
        Anchor, Certificate, Receiver, Role, Signed, TrustBundle,
        certificate::{cloud_id, registry_id},
    },
    wire::Frame,
};

mod exchange;
mod following;
mod journeys;
mod keyed;
mod probing;
mod synced;

type TestGateway = Gateway<Dalek, Strict>;

/// Draws what a test tells it to.
struct FixedRng(u64);

impl rand_core::TryRng for FixedRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|next| next as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 += 1;
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.fill(self.0 as u8);
        Ok(())
    }
}

/// A moment, in milliseconds from the start.
fn at(millis: u64) -> Now {
    let micros = millis * 1000;
    Now { mono: Instant(micros), wall: Timestamp(1_000_000_000_000 + micros) }
}

fn secret(seed: u8) -> Secret {
    Secret::new([seed; 32])
}

/// The host with this number.
fn host(seed: u8) -> HostId {
    HostId(Dalek::public_key(&secret(seed)))
}

/// One Registry and one service named `kv`.
struct World {
    id: RegistryId,
    bundle: TrustBundle,
    manifest: Signed<Manifest>,
    service: ServiceId,
}

const REGISTRY: u8 = 200;
const OWNER: u8 = 201;
const GATEWAY: u8 = 202;

impl World {
    fn new() -> Self {
        let key = Dalek::public_key(&secret(REGISTRY));
        let id = registry_id(&key);
        let owner = OwnerKey(Dalek::public_key(&secret(OWNER)));
        let manifest = Self::manifest_of(id, owner, "kv");
        let service = manifest.service;
        let manifest = Signed::sign::<Dalek>(&secret(OWNER), id, Receiver::Anyone, &manifest);
        Self { id, bundle: TrustBundle::new(vec![Anchor { id, key, addresses: vec![] }]), manifest, service }
    }

    fn manifest_of(id: RegistryId, owner: OwnerKey, name: &str) -> Manifest {
        Manifest {
            service: service_id(id, owner, name),
            name: name.to_owned(),
            owner,
            version: 1,
            code: Digest([1; 32]),
            tos: ServiceType::Request,
            required: Resources::default(),
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: vec![],
            allowed_regions: vec![],
            allowed_domains: vec![],
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        }
    }

    fn config(&self) -> GatewayConfig {
        let certificate = Certificate {
            cloud: cloud_id(self.id, "gate"),
            name: "gate".to_owned(),
            host: host(GATEWAY),
            role: Role::Gateway,
            region: String::new(),
            not_before: Timestamp(0),
            expiry: Timestamp(u64::MAX / 2),
        };
        let certificate = Signed::sign::<Dalek>(&secret(REGISTRY), self.id, Receiver::Anyone, &certificate);
        GatewayConfig::new(host(GATEWAY), certificate, self.bundle.clone(), self.id)
    }

    fn gateway(&self) -> TestGateway {
        Gateway::new(self.config(), &[], 0, &mut FixedRng(0))
    }

    /// A placement by `signer`, as the Registry would issue it now.
    fn placement_by(&self, signer: u8, now: Now, era: u64, on: u8) -> Signed<Placement> {
        let placement = Placement {
            service: self.service,
            epoch: Epoch { era, hop: 0 },
            cloud: cloud_id(self.id, "cloud"),
            host: host(on),
            key: PlacementKey([era as u8; 32]),
            mig: MigrationId([era as u8; 16]),
            previous: host(on),
            manifest: self.manifest.hash(),
            issued: now.wall,
            lease: LEASE,
        };
        Signed::sign::<Dalek>(&secret(signer), self.id, Receiver::Anyone, &placement)
    }

    fn placement(&self, now: Now, era: u64, on: u8) -> Signed<Placement> {
        self.placement_by(REGISTRY, now, era, on)
    }

    fn lookup(&self) -> Lookup {
        Lookup::Name("kv".to_owned())
    }

    fn found(&self, now: Now, era: u64, on: u8) -> Found {
        Found {
            lookup: self.lookup(),
            service: Some((self.placement(now, era, on), self.manifest.clone())),
            addresses: vec![format!("/memory/{on}")],
        }
    }

    /// A gateway that follows the service, connected to it on `on` at time 0, everything on disk.
    fn following(&self, on: u8) -> TestGateway {
        let mut gateway = self.gateway();
        gateway.add_service(at(0), &self.lookup()).unwrap();
        gateway.handle_found(at(0), self.id, &self.found(at(0), 1, on)).unwrap();
        settle(&mut gateway, at(0));
        gateway.handle_connected(at(0), host(on));
        let opening = frames(&settle(&mut gateway, at(0)));
        assert_eq!(opening, [(host(on), "Hello"), (host(on), "Open")]);
        gateway
    }

    fn reply(&self, gateway: &TestGateway, sequence: u64, response: &[u8]) -> Vec<u8> {
        let (service, client, response) = (self.service, gateway.client(), response.to_vec());
        ClientFrame::Reply(Reply { service, client, sequence, response }).to_bytes()
    }

    fn refusal(&self, gateway: &TestGateway, sequence: u64, reject: Reject) -> Vec<u8> {
        let (service, client, reason) = (self.service, gateway.client(), reject.name().to_owned());
        ClientFrame::NotExecuted(NotExecuted { service, client, sequence, reason }).to_bytes()
    }
}

/// A journal: what is on disk, and what is on its way there.
#[derive(Clone, Debug, Default)]
struct Disk {
    entries: Vec<(u64, Entry)>,
    last: u64,
    queue: Vec<Effect>,
}

impl Disk {
    /// Queues what the effect says, if it is about the journal.
    fn take(&mut self, effect: &Effect) {
        if let Effect::Persist { seq, entry } | Effect::Compact { seq, entry, .. } = effect {
            let bytes = crate::wire::encode(entry);
            assert_eq!(crate::wire::decode::<Entry>(&bytes).as_ref(), Ok(entry));
            assert_eq!(*seq, self.last + self.queue.len() as u64 + 1, "without gaps");
            self.queue.push(effect.clone());
        }
    }

    /// Writes what is queued.
    fn sync(&mut self) -> u64 {
        for effect in std::mem::take(&mut self.queue) {
            if let Effect::Compact { keep, .. } = &effect {
                let known: BTreeSet<u64> = self.entries.iter().map(|(number, _)| *number).collect();
                assert!(keep.is_subset(&known), "{keep:?} of {known:?}");
                self.entries.retain(|(number, _)| keep.contains(number));
            }
            if let Effect::Persist { seq, entry } | Effect::Compact { seq, entry, .. } = effect {
                self.last = seq;
                self.entries.push((seq, entry));
            }
        }
        self.last
    }

    /// Of what was queued, so much was written before the end, though nobody was told.
    fn crash(&mut self, written: usize) {
        self.queue.truncate(written);
        self.sync();
    }
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::try_from(text.to_owned()).unwrap()
}

/// All effects there are, with nothing synced.
fn drain<G: crate::reject::Guards>(gateway: &mut Gateway<Dalek, G>) -> Vec<Effect> {
    std::iter::from_fn(|| gateway.poll_effect()).collect()
}

/// All effects, with every journal entry synced as soon as it is seen.
fn settle(gateway: &mut TestGateway, now: Now) -> Vec<Effect> {
    let mut effects = vec![];
    while let Some(effect) = gateway.poll_effect() {
        if let Effect::Persist { seq, .. } | Effect::Compact { seq, .. } = &effect {
            gateway.handle_synced(now, *seq);
        }
        effects.push(effect);
    }
    effects
}

/// The frames sent: to whom, which.
fn frames(effects: &[Effect]) -> Vec<(HostId, &'static str)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { host, frame } => Some((*host, frame.name())),
            _ => None,
        })
        .collect()
}

/// The calls sent: to whom, number, acknowledgement.
fn calls(effects: &[Effect]) -> Vec<(HostId, u64, u64)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { host, frame: ClientFrame::Call(call) } => Some((*host, call.sequence, call.acked_below)),
            _ => None,
        })
        .collect()
}

fn lookups(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Lookup { .. })).count()
}

fn failures(effects: &[Effect]) -> Vec<(Ticket, Failure)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Fail { ticket, reason } => Some((*ticket, reason.clone())),
            _ => None,
        })
        .collect()
}
