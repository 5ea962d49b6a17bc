//! Adverts and coordinates at scale: how a mesh of thousands of nodes hears of its clouds, in virtual time, on the
//! production machine of each node.
//!
//! [`model`] is the mesh: who is connected to whom, how gossip spreads (gossipsub's mesh and its lazy offers) over links
//! with the delays of a matrix. [`real`] measures the same on real nodes, so that the two can be compared. Every distinct
//! advert is verified once and the result shared by hash: each of the real nodes verifies it for itself, on its own
//! processor; here thousands share one.

use std::{fmt, time::Duration};

use anyhow::ensure;
use serde::Serialize;

use crate::{bench::Machine, matrix::LatencyMatrix};

pub mod model;
pub(crate) mod real;
mod topology;

/// What to run.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// Sizes of the mesh, smallest first.
    pub nodes: Vec<usize>,
    /// Virtual seconds of each.
    pub seconds: u64,
    /// Real nodes to compare with; 0: none.
    pub calibrate: usize,
    /// Chooses who stands where and who meets whom.
    pub seed: u64,
}

/// A mesh of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeReport {
    /// Nodes, the Registry's relay not counted.
    pub nodes: usize,
    /// Those that advertise.
    pub advertisers: usize,
    /// Events of the simulation: copies, offers, timers, pings.
    pub events: u64,
    /// Adverts published.
    pub adverts: u64,
    /// First copies, taken by a node's machine.
    pub deliveries: u64,
    /// Further copies, dropped by the mesh.
    pub duplicates: u64,
    /// Adverts verified: each distinct one once.
    pub verifications: u64,
    /// Received by a node in the mean, bytes a second.
    pub bytes_per_node_s: f64,
    /// Resident memory for each node, KiB.
    pub memory_kib_per_node: f64,
    /// From publication until 99 % of the nodes have an advert, ms: the median advert and the slowest of a hundred.
    pub coverage_p50_ms: f64,
    /// See `coverage_p50_ms`.
    pub coverage_p99_ms: f64,
    /// Adverts that reached 99 % of the nodes before the end, %.
    pub covered_pct: f64,
    /// Median relative error of the round trips that coordinates predict, %.
    pub coordinate_error_pct: f64,
    /// Processor time, s.
    pub wall_s: f64,
    /// The same for each event, µs.
    pub us_per_event: f64,
}

/// The model beside real nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Nodes.
    pub nodes: usize,
    /// Adverts that were followed on the real mesh.
    pub real_adverts: usize,
    /// Until 99 % of the real nodes had an advert, ms.
    pub real_coverage_p50_ms: f64,
    /// See `real_coverage_p50_ms`.
    pub real_coverage_p99_ms: f64,
    /// The same in the model.
    pub model_coverage_p50_ms: f64,
    /// See `model_coverage_p50_ms`.
    pub model_coverage_p99_ms: f64,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScaleReport {
    /// Where it ran.
    pub machine: Machine,
    /// Virtual seconds of each size.
    pub seconds: u64,
    /// How verification was done.
    pub verification: &'static str,
    /// One entry a size.
    pub sizes: Vec<SizeReport>,
    /// The comparison, if it was asked for.
    pub calibration: Option<Calibration>,
}

/// Runs every size, and the comparison.
///
/// # Errors
/// If a size is impossible, or real nodes do not come up.
pub async fn run(options: &ScaleOptions, matrix: &LatencyMatrix) -> anyhow::Result<ScaleReport> {
    ensure!(options.nodes.iter().all(|nodes| (10..=20_000).contains(nodes)), "--nodes: 10 to 20000 each");
    ensure!((1..=3600).contains(&options.seconds), "--seconds: 1 to 3600");
    let machine = Machine::read();
    let mut sizes = Vec::new();
    let baseline = crate::bench::Memory::own().map_or(0.0, |memory| memory.resident_mib);
    for nodes in &options.nodes {
        eprintln!("{nodes} nodes, {} virtual seconds …", options.seconds);
        let report = model::run(*nodes, Duration::from_secs(options.seconds), matrix, options.seed, baseline)?;
        eprintln!("  {} events in {:.1} s", report.events, report.wall_s);
        sizes.push(report);
    }
    let calibration = match options.calibrate {
        0 => None,
        nodes => {
            eprintln!("{nodes} real nodes …");
            let real = real::run(nodes, Some(matrix), options.seed).await?.covered(0.99);
            let model = model::run(nodes, Duration::from_secs(60), matrix, options.seed, 0.0)?;
            Some(Calibration {
                nodes,
                real_adverts: real.len(),
                real_coverage_p50_ms: percentile(&real, 0.5),
                real_coverage_p99_ms: percentile(&real, 0.99),
                model_coverage_p50_ms: model.coverage_p50_ms,
                model_coverage_p99_ms: model.coverage_p99_ms,
            })
        }
    };
    let verification = "each distinct advert once, shared by hash; a real node verifies each for itself";
    Ok(ScaleReport { machine, seconds: options.seconds, verification, sizes, calibration })
}

/// The value below which `part` of the sorted values lie; 0 of none.
pub(crate) fn percentile(sorted: &[u64], part: f64) -> f64 {
    let rank = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).map_or(0.0, |value| *value as f64)
}

/// The table for people.
impl fmt::Display for ScaleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, load, .. } = &self.machine;
        writeln!(f, "scale: {cpu}, {cores} cores, load {load:.2}; {} virtual seconds each", self.seconds)?;
        writeln!(f, "verification: {}", self.verification)?;
        writeln!(
            f,
            "  {:>6} {:>6} {:>10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>8}",
            "nodes",
            "adv.",
            "events",
            "µs/event",
            "s",
            "kB/s/node",
            "KiB/node",
            "99% p50",
            "99% p99",
            "covered",
            "coord.",
            "verified"
        )?;
        for size in &self.sizes {
            writeln!(
                f,
                "  {:>6} {:>6} {:>10} {:>9.2} {:>7.1} {:>9.1} {:>9.0} {:>6.0} ms {:>6.0} ms {:>5.1} % {:>5.1} % {:>8}",
                size.nodes,
                size.advertisers,
                size.events,
                size.us_per_event,
                size.wall_s,
                size.bytes_per_node_s / 1000.0,
                size.memory_kib_per_node,
                size.coverage_p50_ms,
                size.coverage_p99_ms,
                size.covered_pct,
                size.coordinate_error_pct,
                size.verifications,
            )?;
        }
        if let Some(calibration) = &self.calibration {
            writeln!(
                f,
                "  99 % coverage among {} nodes: real p50 {:.0} ms, p99 {:.0} ms ({} adverts); model p50 {:.0} ms, p99 {:.0} ms",
                calibration.nodes,
                calibration.real_coverage_p50_ms,
                calibration.real_coverage_p99_ms,
                calibration.real_adverts,
                calibration.model_coverage_p50_ms,
                calibration.model_coverage_p99_ms,
            )?;
        }
        Ok(())
    }
}
