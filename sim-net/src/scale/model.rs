//! The mesh in virtual time: one production machine a node, one queue of events.

use std::{
    sync::Arc,
    time::{Duration, Instant as WallClock},
};

use anyhow::Context as _;
use wayfare_protocol::{
    advert::{Advert, Gossip, verify_advert},
    host::{Effect, Host, HostConfig, Identity},
    ids::HostId,
    limits::{COMPACT_JOURNAL_BYTES_MIN, IMAGE_LOG_BYTES_MIN, STEP_TIMEOUT},
    manifest::Resources,
    placement::PlacementConfig,
    reject::Strict,
    suite::{Dalek, Secret, Suite},
    time::{Instant, Micros, Now, Timestamp},
    trust::{
        Anchor, Certificate, Receiver, Role, Signed, TrustBundle, Verified,
        certificate::{cloud_id, registry_id},
    },
    wire::Frame as _,
};

use super::{
    SizeReport, percentile,
    topology::{Topology, advertises},
};
use crate::{bench::Memory, matrix::LatencyMatrix, rng::SplitMix64};

/// The queue's grain: events within one are carried out in the order in which they were made.
const GRAIN_US: u64 = 100;
/// From the arrival of a copy until it is forwarded: verification and queues of a real node.
const FORWARD_US: u64 = 300;
/// gossipsub's heartbeat, and for how many of them a message is offered (`node/net/src/limits.rs`).
const HEARTBEAT_US: u64 = 500_000;
const OFFERED: u32 = 6;
/// What gossipsub sends beside an advert: topic, lengths; and for each offer of one: its identifier.
const ENVELOPE_BYTES: u64 = 40;
const OFFER_BYTES: u64 = 36;
/// How often a node measures a round trip.
const PING_US: u64 = 5_000_000;
const START: Now = Now { mono: Instant(1_000_000), wall: Timestamp(1_800_000_000_000_000) };

#[derive(Clone, Copy)]
enum Event {
    /// The machine's own timer.
    Timer(u32),
    /// A copy of a published advert arrives.
    Copy { to: u32, from: u32, advert: u32 },
    /// A node measures a round trip.
    Ping(u32),
}

/// A published advert.
struct Published {
    advert: Arc<Verified<Advert>>,
    certificate: Arc<Verified<Certificate>>,
    bytes: u64,
    at: u64,
    seen: Vec<u64>,
    reached: usize,
    covered: Option<u64>,
}

impl Published {
    /// Whether this is the first copy at `node`.
    fn first_at(&mut self, node: usize) -> bool {
        let (word, bit) = (node / 64, 1 << (node % 64));
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }
}

struct World<'a> {
    matrix: &'a LatencyMatrix,
    topology: Topology,
    rng: SplitMix64,
    bundle: TrustBundle,
    /// The relay has no machine here: place 0 stays empty.
    hosts: Vec<Option<Host>>,
    numbers: std::collections::BTreeMap<HostId, usize>,
    published: Vec<Published>,
    /// By grain from the start.
    queue: Vec<Vec<Event>>,
    now_us: u64,
    events: u64,
    deliveries: u64,
    duplicates: u64,
    bytes: u64,
    needed: usize,
}

/// Simulates a mesh of `nodes` for `length`, of which `baseline_mib` of memory is not part.
///
/// # Errors
/// If a machine refuses what an honest one sent: the model is wrong then.
pub fn run(
    nodes: usize,
    length: Duration,
    matrix: &LatencyMatrix,
    seed: u64,
    baseline_mib: f64,
) -> anyhow::Result<SizeReport> {
    let begun = WallClock::now();
    let mut world = World::new(nodes, length, matrix, seed)?;
    let setup = begun.elapsed();
    world.run()?;
    let memory = Memory::own().map_or(0.0, |memory| memory.resident_mib - baseline_mib);
    Ok(world.report(nodes, memory, begun.elapsed() - setup))
}

impl<'a> World<'a> {
    fn new(nodes: usize, length: Duration, matrix: &'a LatencyMatrix, seed: u64) -> anyhow::Result<Self> {
        let mut rng = SplitMix64::new(seed);
        let topology = Topology::new(nodes, matrix, &mut rng);
        let anchor_secret = wayfare_protocol::suite::fresh_secret(&mut rng);
        let key = Dalek::public_key(&anchor_secret);
        let anchor = Anchor { id: registry_id(&key), key, addresses: Vec::new() };
        let bundle = TrustBundle::new(vec![anchor.clone()]);
        let mut hosts = vec![None];
        let mut numbers = std::collections::BTreeMap::new();
        for node in 1..=nodes {
            let host = host(node, &anchor, &anchor_secret, &bundle, &mut rng)?;
            numbers.insert(host.me(), node);
            hosts.push(Some(host));
        }
        let grains = length.as_micros() as u64 / GRAIN_US + 1;
        let mut world = Self {
            matrix,
            topology,
            rng,
            bundle,
            hosts,
            numbers,
            published: Vec::new(),
            queue: (0..grains).map(|_| Vec::new()).collect(),
            now_us: 0,
            events: 0,
            deliveries: 0,
            duplicates: 0,
            bytes: 0,
            needed: (nodes * 99).div_ceil(100),
        };
        for node in 1..=nodes {
            // Nodes start at different moments.
            if advertises(node) {
                let at = world.rng.below(10_000_000) as u64;
                world.push(at, Event::Timer(node as u32));
            }
            let at = world.rng.below(PING_US as usize) as u64;
            world.push(at, Event::Ping(node as u32));
        }
        Ok(world)
    }

    fn push(&mut self, at_us: u64, event: Event) {
        // What would happen after the end does not.
        if let Some(grain) = self.queue.get_mut((at_us / GRAIN_US) as usize) {
            grain.push(event);
        }
    }

    fn now(&self) -> Now {
        Now { mono: START.mono + Micros(self.now_us), wall: START.wall + Micros(self.now_us) }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        for grain in 0..self.queue.len() {
            self.now_us = grain as u64 * GRAIN_US;
            let mut next = 0;
            while let Some(event) = self.queue[grain].get(next).copied() {
                next += 1;
                self.events += 1;
                match event {
                    Event::Timer(node) => self.timer(node as usize)?,
                    Event::Copy { to, from, advert } => self.copy(to as usize, from as usize, advert as usize)?,
                    Event::Ping(node) => self.ping(node as usize),
                }
            }
            self.queue[grain] = Vec::new();
        }
        Ok(())
    }

    fn timer(&mut self, node: usize) -> anyhow::Result<()> {
        let now = self.now();
        let Some(host) = self.hosts[node].as_mut() else { return Ok(()) };
        host.handle_timeout(now, &mut self.rng);
        let mut gossip = Vec::new();
        while let Some(effect) = host.poll_effect() {
            if let Effect::Gossip(said) = effect {
                gossip.push(said);
            }
        }
        let next = host.poll_timeout().since(START.mono).0.max(self.now_us + GRAIN_US);
        self.push(next, Event::Timer(node as u32));
        gossip.into_iter().try_for_each(|said| self.publish(node, &said))
    }

    fn publish(&mut self, node: usize, gossip: &Gossip) -> anyhow::Result<()> {
        let bytes = gossip.to_bytes();
        let Gossip::Advert(signed) = Gossip::from_bytes(&bytes)? else { return Ok(()) };
        let (advert, certificate) = verify_advert::<Dalek, Strict>(&signed, &self.bundle, self.now().wall)?;
        let seen = vec![0; self.hosts.len().div_ceil(64)];
        let (advert, certificate) = (Arc::new(advert), Arc::new(certificate));
        let bytes = bytes.len() as u64 + ENVELOPE_BYTES;
        let mut published = Published { advert, certificate, bytes, at: self.now_us, seen, reached: 1, covered: None };
        published.first_at(node);
        let number = self.published.len();
        self.published.push(published);
        self.forward(node, node, number);
        Ok(())
    }

    /// Along the mesh at once, and by offers to those whom no mesh reaches.
    fn forward(&mut self, node: usize, from: usize, number: usize) {
        let at = self.now_us + FORWARD_US;
        for index in 0..self.topology.mesh[node].len() {
            let peer = self.topology.mesh[node][index];
            if peer as usize != from {
                let way = self.topology.one_way_us(self.matrix, node, peer as usize);
                self.push(at + way, Event::Copy { to: peer, from: node as u32, advert: number as u32 });
            }
        }
        self.bytes += u64::from(self.topology.offers[node] * OFFERED) * OFFER_BYTES;
        let first_heartbeat = at + self.rng.below(HEARTBEAT_US as usize) as u64;
        for index in 0..self.topology.lazy[node].len() {
            let peer = self.topology.lazy[node][index];
            let chance = self.topology.offer_chance[node];
            let beat = (0..OFFERED).find(|_| (self.rng.below(1 << 20) as f64) < chance * f64::from(1 << 20));
            let (Some(beat), true) = (beat, peer as usize != from) else { continue };
            // Offer, request, copy.
            let way = 3 * self.topology.one_way_us(self.matrix, node, peer as usize);
            let at = first_heartbeat + u64::from(beat) * HEARTBEAT_US + way;
            self.push(at, Event::Copy { to: peer, from: node as u32, advert: number as u32 });
        }
    }

    fn copy(&mut self, to: usize, from: usize, number: usize) -> anyhow::Result<()> {
        let now = self.now();
        let published = &mut self.published[number];
        if !published.first_at(to) {
            // A node that has it does not ask for what it is offered.
            if !self.topology.mesh[to].is_empty() {
                self.duplicates += 1;
                self.bytes += published.bytes;
            }
            return Ok(());
        }
        self.bytes += published.bytes;
        if let Some(host) = self.hosts[to].as_mut() {
            self.deliveries += 1;
            host.handle_verified_advert(now, &published.advert, &published.certificate)
                .with_context(|| format!("node {to} refuses an honest advert"))?;
            published.reached += 1;
            if published.reached == self.needed {
                published.covered = Some(self.now_us - published.at);
            }
        }
        self.forward(to, from, number);
        Ok(())
    }

    fn ping(&mut self, node: usize) {
        let now = self.now();
        self.push(self.now_us + PING_US, Event::Ping(node as u32));
        let Some(host) = self.hosts[node].as_mut() else { return };
        let Some((target, _)) = host.probe_target(now, &mut self.rng) else { return };
        let Some(other) = self.numbers.get(&target) else { return };
        let rtt = 2 * self.topology.one_way_us(self.matrix, node, *other);
        // Queues on the way: up to 5 %, now and then much more.
        let jitter = self.rng.below(rtt as usize / 20 + 1) as u64;
        let spike = if self.rng.below(50) == 0 { rtt } else { 0 };
        if let Some(host) = self.hosts[node].as_mut() {
            host.record_rtt(now, target, Micros(rtt + jitter + spike));
        }
    }

    /// How far off the round trips are that coordinates predict, over a sample of pairs, %.
    fn coordinate_error_pct(&mut self) -> f64 {
        let mut errors = Vec::new();
        for _ in 0..20_000 {
            let (a, b) = (1 + self.rng.below(self.hosts.len() - 1), 1 + self.rng.below(self.hosts.len() - 1));
            let (Some(here), Some(there)) = (&self.hosts[a], &self.hosts[b]) else { continue };
            let real = 2 * self.topology.one_way_us(self.matrix, a, b);
            if a != b && real > 0 {
                let predicted = here.coordinate().distance(&there.coordinate()).0;
                errors.push(predicted.abs_diff(real) * 1000 / real);
            }
        }
        errors.sort_unstable();
        percentile(&errors, 0.5) / 10.0
    }

    fn report(mut self, nodes: usize, memory_mib: f64, took: Duration) -> SizeReport {
        let mut covered: Vec<u64> = self.published.iter().filter_map(|published| published.covered).collect();
        covered.sort_unstable();
        // The last ones have no time to reach everybody.
        let end = self.queue.len() as u64 * GRAIN_US;
        let early = self.published.iter().filter(|published| published.at + 5_000_000 < end);
        let (all, reached) = early.fold((0_u32, 0_u32), |(all, reached), published| {
            (all + 1, reached + u32::from(published.covered.is_some()))
        });
        let seconds = end as f64 / 1e6;
        SizeReport {
            nodes,
            advertisers: (1..=nodes).filter(|node| advertises(*node)).count(),
            events: self.events,
            adverts: self.published.len() as u64,
            deliveries: self.deliveries,
            duplicates: self.duplicates,
            verifications: self.published.len() as u64,
            bytes_per_node_s: self.bytes as f64 / seconds / nodes as f64,
            memory_kib_per_node: memory_mib * 1024.0 / nodes as f64,
            coverage_p50_ms: percentile(&covered, 0.5) / 1e3,
            coverage_p99_ms: percentile(&covered, 0.99) / 1e3,
            covered_pct: 100.0 * f64::from(reached) / f64::from(all.max(1)),
            coordinate_error_pct: self.coordinate_error_pct(),
            wall_s: took.as_secs_f64(),
            us_per_event: took.as_secs_f64() * 1e6 / self.events.max(1) as f64,
        }
    }
}

fn host(
    node: usize,
    anchor: &Anchor,
    anchor_secret: &Secret,
    bundle: &TrustBundle,
    rng: &mut SplitMix64,
) -> anyhow::Result<Host> {
    let secret = wayfare_protocol::suite::fresh_secret(rng);
    let me = HostId(Dalek::public_key(&secret));
    let role = if advertises(node) { Role::Cloud } else { Role::Home };
    let name = format!("node-{node}");
    let certificate = Certificate {
        cloud: cloud_id(anchor.id, &name),
        name,
        host: me,
        role,
        region: "scale".to_owned(),
        not_before: START.wall,
        expiry: START.wall + Micros::from_secs(86_400),
    };
    let certificate = Signed::sign::<Dalek>(anchor_secret, anchor.id, Receiver::Anyone, &certificate);
    let (_, certificate) = bundle.verify_certificate::<Dalek, Strict>(&certificate, me, &[role], START.wall)?;
    let gib = 1 << 30;
    let config = HostConfig {
        capacity: Resources { cpu_millicores: 4000, memory_bytes: gib, storage_bytes: gib, bandwidth_bps: gib },
        price_micros: 0,
        placement: PlacementConfig::default(),
        step_timeout: STEP_TIMEOUT,
        image_log_bytes: IMAGE_LOG_BYTES_MIN,
        compact_journal_bytes: COMPACT_JOURNAL_BYTES_MIN,
    };
    let identity = Identity { secret, registry: anchor.id, certificate };
    let mut host = Host::new(identity, config, bundle.clone(), 0);
    host.set_addresses(vec![format!("/ip4/10.{}.{}.{}/tcp/4740", node >> 16, (node >> 8) & 255, node & 255)]);
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_reach_everybody_and_the_same_seed_gives_the_same_run() {
        let matrix = LatencyMatrix::bundled().unwrap();
        let run = || run(100, Duration::from_secs(30), &matrix, 7, 0.0).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first.advertisers, 10);
        assert!(first.covered_pct > 99.0, "{first:?}");
        assert_eq!(first.verifications, first.adverts);
        assert!(first.deliveries > 99 * (first.adverts - 10), "{first:?}");
        assert_eq!(
            (first.events, first.deliveries, first.duplicates),
            (second.events, second.deliveries, second.duplicates)
        );
        assert_eq!(first.coverage_p99_ms, second.coverage_p99_ms);
        assert!(first.coordinate_error_pct < 60.0, "{first:?}");
    }
}
