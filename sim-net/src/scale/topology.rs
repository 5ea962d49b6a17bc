//! Who is where, who is connected to whom, and along which of these connections gossip flows at once.
//!
//! As the real nodes do: each is connected to the Registry's relay and to some clouds whose adverts it heard first
//! (`node/src/mesh.rs`). Among connected peers gossipsub keeps a mesh of 6 (at most 12) along which it forwards at once; to
//! some of the others it offers what it has at each heartbeat.

use crate::{matrix::LatencyMatrix, rng::SplitMix64};

/// Connections that a node makes by itself, the relay's included.
const PEERS_WANTED: usize = 8;
/// gossipsub's `mesh_n` and `mesh_n_high`.
const MESH: usize = 6;
const MESH_MAX: usize = 12;
/// gossipsub's `gossip_lazy` and `gossip_factor`.
const OFFERS_MIN: usize = 6;
const OFFERS_PART: f64 = 0.25;
/// Access link of a node, one way, at most, µs.
const ACCESS_MAX_US: usize = 5_000;

/// Node 0 is the relay.
pub(super) struct Topology {
    /// Rows of the matrix, and the access link's delay in µs.
    places: Vec<(usize, u32)>,
    /// Along which copies go at once.
    pub(super) mesh: Vec<Vec<u32>>,
    /// For each node, its peers outside the mesh that have no mesh of their own: only offers reach them.
    pub(super) lazy: Vec<Vec<u32>>,
    /// The chance that a heartbeat's offer goes to a given one of the peers outside the mesh.
    pub(super) offer_chance: Vec<f64>,
    /// Peers offered to at each heartbeat.
    pub(super) offers: Vec<u32>,
}

impl Topology {
    /// `nodes` nodes and the relay; every tenth advertises.
    pub(super) fn new(nodes: usize, matrix: &LatencyMatrix, rng: &mut SplitMix64) -> Self {
        let place = |rng: &mut SplitMix64| (rng.below(matrix.rows()), rng.below(ACCESS_MAX_US) as u32);
        let places = (0..=nodes).map(|_| place(rng)).collect();
        let advertisers: Vec<usize> = (1..=nodes).filter(|node| advertises(*node)).collect();
        let mut connections: Vec<Vec<u32>> = vec![Vec::new(); nodes + 1];
        for node in 1..=nodes {
            let mut known = advertisers.clone();
            // More than are wanted, as the node itself may be among them.
            rng.shuffle_first(&mut known, PEERS_WANTED);
            let chosen = known.into_iter().filter(|other| *other != node).take(PEERS_WANTED - 1);
            for other in chosen.chain([0]).collect::<Vec<usize>>() {
                if !connections[node].contains(&(other as u32)) {
                    connections[node].push(other as u32);
                    connections[other].push(node as u32);
                }
            }
        }
        let mut mesh: Vec<Vec<u32>> = vec![Vec::new(); nodes + 1];
        let mut order: Vec<usize> = (0..=nodes).collect();
        rng.shuffle_first(&mut order, nodes + 1);
        for node in order {
            let mut peers = connections[node].clone();
            let count = peers.len();
            rng.shuffle_first(&mut peers, count);
            for peer in peers {
                if mesh[node].len() >= MESH {
                    break;
                }
                if mesh[peer as usize].len() < MESH_MAX && !mesh[node].contains(&peer) {
                    mesh[node].push(peer);
                    mesh[peer as usize].push(node as u32);
                }
            }
        }
        let outside = |node: usize| connections[node].iter().filter(|peer| !mesh[node].contains(peer)).count();
        let offers: Vec<u32> = (0..=nodes)
            .map(|node| (OFFERS_MIN.max((outside(node) as f64 * OFFERS_PART) as usize)).min(outside(node)) as u32)
            .collect();
        let offer_chance = (0..=nodes).map(|node| f64::from(offers[node]) / (outside(node).max(1)) as f64).collect();
        let lazy = (0..=nodes)
            .map(|node| connections[node].iter().filter(|peer| mesh[**peer as usize].is_empty()).copied().collect())
            .collect();
        Self { places, mesh, lazy, offer_chance, offers }
    }

    /// One way between two nodes, µs.
    pub(super) fn one_way_us(&self, matrix: &LatencyMatrix, from: usize, to: usize) -> u64 {
        let ((from, out), (to, in_)) = (self.places[from], self.places[to]);
        let rtt = matrix.rtt_us(from, to).unwrap_or(0);
        u64::from(rtt / 2 + out + in_)
    }
}

/// Whether a node is one of those that advertise.
pub(super) const fn advertises(node: usize) -> bool {
    node % 10 == 1
}
