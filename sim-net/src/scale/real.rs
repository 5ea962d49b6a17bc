//! The same on real nodes: a Registry and so many nodes in one process, over the emulated delays of the same matrix
//! or over none.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use wayfare_protocol::{ids::HostId, placement::Policy, trust::Role};

use super::topology::advertises;
use crate::{
    emulator::Emulator,
    matrix::LatencyMatrix,
    mesh::{Joining, Member, Mesh, Records},
    rng::SplitMix64,
};

/// How long the mesh may settle, and how long it is watched.
const SETTLE: Duration = Duration::from_secs(15);
const WATCH: Duration = Duration::from_secs(40);
/// How often each node is asked what it knows: how exact the figures are.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// What was seen: for each advert that was made while the mesh was watched, when each other node that heard of it did, ms
/// after it was made, earliest first.
#[derive(Debug)]
pub(crate) struct Seen {
    nodes: usize,
    adverts: Vec<Vec<u64>>,
}

impl Seen {
    /// How long until this share of the nodes (from 0 to 1) had an advert, for each that got so far, shortest first, ms.
    pub(crate) fn covered(&self, share: f64) -> Vec<u64> {
        // The publisher is not among those who hear of it.
        let needed = ((self.nodes as f64 * share).ceil() as usize).saturating_sub(1).max(1);
        let mut times: Vec<u64> = self.adverts.iter().filter_map(|times| times.get(needed - 1).copied()).collect();
        times.sort_unstable();
        times
    }
}

/// When an advert, by host and serial, was first seen at each node, ms after it was made (by its own word).
type Sightings = BTreeMap<(HostId, u64), BTreeMap<usize, u64>>;

/// Brings `nodes` real nodes up, at the distances of `matrix` if there is one, watches their adverts spread, and takes them down.
///
/// # Errors
/// If they do not come up.
pub(crate) async fn run(nodes: usize, matrix: Option<&LatencyMatrix>, seed: u64) -> anyhow::Result<Seen> {
    let mut rng = SplitMix64::new(seed);
    let emulator = matrix.map(|matrix| Emulator::new(Arc::new(matrix.clone()))).transpose()?;
    let rows = matrix.map_or(1, LatencyMatrix::rows);
    let mesh = Mesh::start(emulator, rng.below(rows), Records::Memory).await?;
    let mut members = Vec::new();
    for node in 1..=nodes {
        let role = if advertises(node) { Role::Cloud } else { Role::Home };
        let mut joining = Joining::new(format!("node-{node}"), role, rng.below(rows));
        joining.policy = Policy::Never;
        members.push(mesh.join(joining).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let mut sightings = Sightings::new();
    watch(&members, &mut Sightings::new(), Duration::ZERO).await?;
    watch(&members, &mut sightings, WATCH).await?;
    mesh.stop(members).await;
    let adverts = sightings.into_values().map(|nodes| {
        let mut times: Vec<u64> = nodes.into_values().collect();
        times.sort_unstable();
        times
    });
    Ok(Seen { nodes, adverts: adverts.collect() })
}

/// Asks every node again and again which adverts it knows. What was known before the watch began is left out.
async fn watch(members: &[Member], sightings: &mut Sightings, length: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let since = wall_us();
    loop {
        let round = Instant::now();
        for (node, member) in members.iter().enumerate() {
            let host = member.host()?;
            let known = host.with(|host, now, _| {
                host.adverts().live(now.wall).map(|entry| (entry.advert.host, entry.advert.serial)).collect::<Vec<_>>()
            });
            let at = wall_us();
            for (advertiser, serial) in known.await.unwrap_or_default() {
                // A serial is the moment at which the advert was made.
                if serial >= since {
                    let first = sightings.entry((advertiser, serial)).or_default();
                    first.entry(node).or_insert(at.saturating_sub(serial) / 1000);
                }
            }
        }
        if begun.elapsed() >= length {
            return Ok(());
        }
        tokio::time::sleep(POLL.saturating_sub(round.elapsed())).await;
    }
}

fn wall_us() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
