//! How many verdicts a Registry gives: the production machine and its store on disk, straight, without streams between. Many
//! clients ask at the same time; what has come is decided, one request after the other, and written down with one sync, with
//! its entries in the audit log, as the Registry's driver does it.
//!
//! The floor is one core that does nothing but verify and sign what the protocol demands.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use wayfare_protocol::{
    advert::Advert,
    ids::{Digest, Epoch, HostId, MigrationIds, Nonce, OwnerKey, PlacementKey, ServiceId},
    latency::Coordinate,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    migration::messages::{
        Enrol, Register, RegisterFrame, RegistryFrame, VerifyCloud, VerifyCloudFrame, VerifyService, YesCloud,
    },
    registry::{Effect, Registry, RegistryConfig},
    reject::Strict,
    suite::{Dalek, Secret, Suite, fresh_secret, fresh16},
    time::{Instant as Mono, Micros, Now, Timestamp},
    trust::{Certificate, Message, Receiver, Role, Signed},
    wire::Frame as _,
};
use wayfare_registry::{
    audit,
    records::{Batch, Records},
    store::LogStore,
};

use super::{Report, Row, floor};

/// Services that ask at the same time, each of a host of its own.
const CLIENTS: usize = 64;
/// How often each primitive is timed.
const FLOOR_ROUNDS: usize = 301;
/// Signatures that the Registry verifies for 2: it, the advert and the certificate in it. For 5: it alone. Each answer is signed.
const VERIFIED: [u32; 2] = [3, 1];

type Machine = Registry<Dalek, Strict>;
type Rng = rand_core::UnwrapErr<getrandom::SysRng>;

/// Each client asks 2 and 5 `rounds` times.
///
/// # Errors
/// What the disk reports, or a refusal.
pub fn run(rounds: usize, progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("registry");
    let dir = tempfile::Builder::new().prefix("wayfare-").tempdir()?;
    // The same without the audit log, in turn, so that both see the same machine.
    let mut worlds = [
        World::new(&dir.path().join("registry.journal"), true)?,
        World::new(&dir.path().join("unaudited.journal"), false)?,
    ];
    let mut took = [[Duration::ZERO; 2]; 2];
    for round in 0..rounds {
        for (world, took) in worlds.iter_mut().zip(&mut took) {
            // The clients' own signatures are made before, and not timed.
            let twos = world.twos();
            let verdicts = world.ask(&twos, &mut took[0])?;
            let fives = world.fives(&verdicts)?;
            let answers = world.ask(&fives, &mut took[1])?;
            ensure!(
                answers.iter().all(|frame| matches!(frame, RegistryFrame::YesService(_))),
                "a NO: {:?}",
                answers.first()
            );
        }
        if progress && round % 50 == 49 {
            eprintln!("  {} of {rounds} rounds", round + 1);
        }
    }
    let (verify_us, sign_us) = floor::signatures_us(FLOOR_ROUNDS);
    let sync_us = floor::sync_us(dir.path(), FLOOR_ROUNDS)?;
    let each = |took: Duration| took.as_secs_f64() * 1e6 / (rounds * CLIENTS) as f64;
    let row = |name: &str, us: f64, verified: u32, signed: u32| {
        // Verdicts per second, so the floor is a ceiling; as times, they compare as all others do.
        let least = f64::from(verified) * verify_us + f64::from(signed) * sign_us;
        Row::new(format!("registry.{name}"), us, "us")
            .param("clients", CLIENTS as u64)
            .param("verified", verified)
            .param("per_s", 1e6 / us)
            .beside(least, "verify and sign on one core")
    };
    let [us, unaudited] = took.map(|took| took.map(each));
    let [two, five] = VERIFIED;
    let both = Row::new("registry.verdicts_per_s", 2e6 / (us[0] + us[1]), "1/s").param("clients", CLIENTS as u64);
    let least = f64::from(two + five) * verify_us + 2.0 * sign_us;
    report.push(both.beside(2e6 / least, "verify and sign on one core"));
    report.push(row("verdict_3", us[0], two, 1));
    report.push(row("verdict_6", us[1], five, 1));
    let logged = Row::new("registry.verdict_audited", (us[0] + us[1]) / 2.0, "us").param("clients", CLIENTS as u64);
    report.push(logged.beside((unaudited[0] + unaudited[1]) / 2.0, "the same without the audit log"));
    report.push(Row::new("disk.sync_p50", sync_us, "us"));
    Ok(report.finish())
}

/// One who asks: a service and its host.
struct Client {
    host: HostId,
    service: ServiceId,
    key: Secret,
    counter: u64,
}

struct World {
    machine: Machine,
    records: Records,
    rng: Rng,
    began: Instant,
    clients: Vec<Client>,
    cloud: Secret,
    advert: Signed<Advert>,
}

impl World {
    /// A Registry with one cloud and many services, each registered.
    fn new(path: &Path, audited: bool) -> anyhow::Result<Self> {
        let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
        let secret = fresh_secret(&mut rng);
        let store = Box::new(LogStore::open(path)?);
        let records = match audited {
            true => Records::audited(store, &[], &audit::beside(path), secret.clone())?,
            false => Records::unaudited(store),
        };
        let machine = Machine::new(RegistryConfig::new::<Dalek>(secret, Vec::new()));
        let cloud = fresh_secret(&mut rng);
        let host = HostId(Dalek::public_key(&cloud));
        // Until it has enrolled, there is no certificate to put into an advert.
        let began = Instant::now();
        let mut entry = Entry { machine, records, rng, began };
        let certificate = entry.enrol(&cloud, "cloud", Role::Cloud)?;
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let home = fresh_secret(&mut entry.rng);
            let name = format!("home-{number}");
            entry.enrol(&home, &name, Role::Home)?;
            clients.push(entry.register(&home, &name)?);
        }
        let Entry { machine, records, rng, began } = entry;
        let (now, registry) = (at(began), machine.id());
        let certified = certificate.unverified()?;
        let advert = Advert {
            registry,
            cloud: certified.cloud,
            host,
            tos: ServiceType::Cloud,
            resources: Resources {
                cpu_millicores: 1_000_000,
                memory_bytes: 1 << 40,
                storage_bytes: 0,
                bandwidth_bps: 0,
            },
            price_micros: 0,
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            coordinate: Coordinate::default(),
            certificate,
            cordoned: false,
            serial: 1,
            expiry: now.wall + wayfare_protocol::limits::ADVERT_LIFETIME_MAX,
        };
        let advert = Signed::sign::<Dalek>(&cloud, registry, Receiver::Anyone, &advert);
        Ok(Self { machine, records, rng, began, clients, cloud, advert })
    }

    fn twos(&mut self) -> Vec<(HostId, Vec<u8>)> {
        let registry = self.machine.id();
        let cloud = self.advert.unverified().map(|advert| (advert.cloud, advert.host));
        let Ok((cloud, host)) = cloud else { return Vec::new() };
        let frames = self.clients.iter_mut().map(|client| {
            client.counter += 1;
            let request = VerifyCloud {
                service: client.service,
                epoch: Epoch::FIRST,
                key: PlacementKey(Dalek::public_key(&client.key)),
                cloud,
                host,
                advert: self.advert.hash(),
                counter: client.counter,
                nonce: Nonce(fresh16(&mut self.rng)),
            };
            let request = Signed::sign::<Dalek>(&client.key, registry, Receiver::Registry(registry), &request);
            let frame = RegistryFrame::VerifyCloud(VerifyCloudFrame { request, advert: self.advert.clone() });
            (client.host, frame.to_bytes())
        });
        frames.collect()
    }

    fn fives(&mut self, verdicts: &[RegistryFrame]) -> anyhow::Result<Vec<(HostId, Vec<u8>)>> {
        let (registry, host) = (self.machine.id(), HostId(Dalek::public_key(&self.cloud)));
        let mut frames = Vec::new();
        for verdict in verdicts {
            let RegistryFrame::YesCloud(verdict) = verdict else { anyhow::bail!("a NO: {verdict:?}") };
            let YesCloud { request, mig, .. } = verdict.unverified()?;
            let ids = MigrationIds {
                service: request.service,
                cloud: request.cloud,
                host: request.host,
                mig,
                epoch: request.epoch,
            };
            let verify = VerifyService {
                ids,
                key: request.key,
                nonce: Nonce(fresh16(&mut self.rng)),
                request: Digest([7; 32]),
                new_key: PlacementKey(Dalek::public_key(&fresh_secret(&mut self.rng))),
            };
            let signed = Signed::sign::<Dalek>(&self.cloud, registry, Receiver::Registry(registry), &verify);
            frames.push((host, RegistryFrame::VerifyService(signed).to_bytes()));
        }
        Ok(frames)
    }

    /// Decides all that has come, writes it down with one sync, and gives the answers.
    fn ask(&mut self, frames: &[(HostId, Vec<u8>)], took: &mut Duration) -> anyhow::Result<Vec<RegistryFrame>> {
        let begun = Instant::now();
        for (peer, bytes) in frames {
            self.machine.handle_frame(at(self.began), &mut self.rng, *peer, bytes)?;
        }
        let answers = settle(&mut self.machine, &mut self.records)?;
        *took += begun.elapsed();
        ensure!(answers.len() == frames.len(), "{} answers to {} requests", answers.len(), frames.len());
        Ok(answers)
    }
}

/// A Registry that hosts and services come to.
struct Entry {
    machine: Machine,
    records: Records,
    rng: Rng,
    began: Instant,
}

impl Entry {
    fn sign<T: Message>(&self, secret: &Secret, message: &T) -> Signed<T> {
        let registry = self.machine.id();
        Signed::sign::<Dalek>(secret, registry, Receiver::Registry(registry), message)
    }

    fn one(&mut self, peer: HostId, frame: &RegistryFrame) -> anyhow::Result<RegistryFrame> {
        self.machine.handle_frame(at(self.began), &mut self.rng, peer, &frame.to_bytes())?;
        settle(&mut self.machine, &mut self.records)?.into_iter().next().context("an answer")
    }

    fn enrol(&mut self, secret: &Secret, name: &str, role: Role) -> anyhow::Result<Signed<Certificate>> {
        let lifetime = Micros::from_secs(600);
        let token = self.machine.create_join_token(at(self.began), &mut self.rng, name, role, lifetime)?;
        let host = HostId(Dalek::public_key(secret));
        let nonce = Nonce(fresh16(&mut self.rng));
        let enrol = Enrol { host, role, region: String::new(), token: token.secret.hash(), nonce };
        let frame = RegistryFrame::Enrol(self.sign(secret, &enrol));
        match self.one(host, &frame)? {
            RegistryFrame::Enrolled(enrolled) => Ok(enrolled.certificate),
            other => anyhow::bail!("not enrolled: {other:?}"),
        }
    }

    fn register(&mut self, home: &Secret, name: &str) -> anyhow::Result<Client> {
        let (owner, key) = (fresh_secret(&mut self.rng), fresh_secret(&mut self.rng));
        let (registry, host) = (self.machine.id(), HostId(Dalek::public_key(home)));
        let owner_key = OwnerKey(Dalek::public_key(&owner));
        let service = service_id(registry, owner_key, name);
        let manifest = Manifest {
            service,
            name: name.to_owned(),
            owner: owner_key,
            version: 1,
            code: Digest([7; 32]),
            tos: ServiceType::Request,
            required: Resources { cpu_millicores: 100, memory_bytes: 1 << 26, storage_bytes: 0, bandwidth_bps: 0 },
            max_rtt: Micros::ZERO,
            baseline: None,
            allowed_clouds: Vec::new(),
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        };
        let manifest = Signed::sign::<Dalek>(&owner, registry, Receiver::Anyone, &manifest);
        let register = Register {
            service,
            manifest: manifest.hash(),
            key: PlacementKey(Dalek::public_key(&key)),
            host,
            nonce: Nonce(fresh16(&mut self.rng)),
        };
        let register = self.sign(&key, &register);
        let addresses = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
        let frame = RegistryFrame::Register(RegisterFrame { register, manifest, addresses });
        match self.one(host, &frame)? {
            RegistryFrame::Granted(_) => Ok(Client { host, service, key, counter: 0 }),
            other => anyhow::bail!("not registered: {other:?}"),
        }
    }
}

/// Carries out the machine's effects: one commit for all batches, then the answers.
fn settle(machine: &mut Machine, records: &mut Records) -> anyhow::Result<Vec<RegistryFrame>> {
    let (mut answers, mut decided, mut last) = (Vec::new(), Batch::default(), 0);
    loop {
        while let Some(effect) = machine.poll_effect() {
            match effect {
                Effect::Persist { seq, batch, audit } => {
                    last = seq;
                    decided.append(Batch { changes: batch, audit });
                }
                Effect::Reply { frame, .. } => answers.push(frame),
                Effect::Ask { .. } | Effect::Event(_) => {}
            }
        }
        if decided == Batch::default() {
            return Ok(answers);
        }
        records.commit(std::mem::take(&mut decided))?;
        machine.handle_synced(last);
    }
}

/// Now, with a monotonic clock that began with the bench.
fn at(began: Instant) -> Now {
    let micros = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Now { mono: Mono(1_000_000 + micros(began.elapsed())), wall: Timestamp(micros(wall)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_gets_both_verdicts() {
        let report = run(2, false).unwrap();
        let names: Vec<&str> = report.rows.iter().map(|row| row.name.as_str()).collect();
        let expected =
            ["verdicts_per_s", "verdict_3", "verdict_6", "verdict_audited"].map(|name| format!("registry.{name}"));
        assert_eq!(names[..4], expected);
        assert_eq!(names[4..], ["disk.sync_p50"]);
        assert!(report.rows.iter().all(|row| row.value > 0.0), "{report:?}");
    }
}
