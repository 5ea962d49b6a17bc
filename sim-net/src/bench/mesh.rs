//! How fast a mesh of real nodes hears of a cloud, and what a node takes while nothing happens.
//!
//! The nodes are in one process, over loopback without emulated distances: what is measured is the mesh itself. A node that
//! idles is a process of its own, as `wayfare run` starts it.

use anyhow::ensure;

use super::{Memory, Report, Row, idle};
use crate::scale::{percentile, real};

/// Shares of the nodes, in per cent.
const SHARES: [u64; 3] = [50, 99, 100];
/// Peers of the node that idles.
const PEERS: usize = 16;
/// Chooses who connects to whom first.
const SEED: u64 = 1;

/// Brings up a mesh of each size, one after the other; takes about a minute for each.
///
/// # Errors
/// A node that does not start, or a mesh in which no advert gets to all.
pub async fn run(sizes: &[usize], progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("mesh");
    for &nodes in sizes {
        if progress {
            eprintln!("  {nodes} nodes, about a minute");
        }
        let seen = real::run(nodes, None, SEED).await?;
        for share in SHARES {
            let times = seen.covered(share as f64 / 100.0);
            ensure!(!times.is_empty(), "no advert got to {share} % of {nodes} nodes");
            let row = |name: &str, value: f64| {
                Row::new(format!("mesh.{name}"), value, "ms")
                    .param("nodes", nodes as u64)
                    .param("share_pct", share)
                    .param("adverts", times.len() as u64)
                    .param("exact_to_ms", real::POLL.as_millis() as u64)
            };
            report.push(row("advert_p50", percentile(&times, 0.5)));
            report.push(row("advert_max", percentile(&times, 1.0)));
        }
    }
    if progress {
        eprintln!("  an idle node");
    }
    for row in idle_rows().await? {
        report.push(row);
    }
    Ok(report.finish())
}

/// A node of its own process, connected to [`PEERS`] peers, with nothing to do.
pub(super) async fn idle_rows() -> anyhow::Result<Vec<Row>> {
    let idle::Idle { memory, cpu_us_per_s } = idle::measure(PEERS).await?;
    let Memory { resident_mib, anonymous_mib, .. } = memory;
    let row = |name, value, unit| Row::new(name, value, unit).param("peers", PEERS as u64);
    Ok(vec![
        row("node.idle_rss_mib", resident_mib, "MiB"),
        row("node.idle_anon_mib", anonymous_mib, "MiB"),
        row("node.idle_cpu", cpu_us_per_s, "us/s"),
    ])
}
