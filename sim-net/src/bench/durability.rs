//! What it costs that an acknowledged request survives a crash: the same service with its log on disk and in memory only,
//! through a gateway, beside what the disk needs for one synced append; and how long a restart takes.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use wayfare_net::{CancellationToken, DirectConnector};
use wayfare_node::{
    node::{self, NodeOptions},
    state::StateDir,
};
use wayfare_protocol::{host::Event, manifest::Durability, placement::Policy, trust::Role};

use super::{Report, Row, floor::sync_us, load};
use crate::{
    client::probe,
    mesh::{Joining, Member, Mesh, Records},
};

const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");
/// Connections that ask at the same time, each for its next request as soon as it has its answer.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// How often the synced append is timed.
const SYNC_ROUNDS: usize = 501;
/// How long a gateway may take to find its service, and a restarted node to serve.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures each level and number of connections for `length`.
///
/// # Errors
/// A node that does not start, or a request that fails.
pub async fn run(length: Duration, progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("durability");
    let mesh = Mesh::start(None, 0, Records::Disk).await?;
    let mut members = Vec::new();
    for level in [Durability::Memory, Durability::Log] {
        let mut home = Joining::new(format!("home-{}", name(level)), Role::Home, 0);
        home.policy = Policy::Never;
        let home = mesh.join(home).await?;
        mesh.deploy(&home, name(level), KV.to_vec(), level).await?;
        let mut gateway = Joining::new(format!("gateway-{}", name(level)), Role::Gateway, 0);
        gateway.carries = Some((name(level).to_owned(), SocketAddr::from(([127, 0, 0, 1], 0))));
        members.push(home);
        members.push(mesh.join(gateway).await?);
    }
    let measured = measure(&mut report, &mesh, &members, length, progress).await;
    let Some(logged) = members.drain(2..3).next() else { bail!("four members") };
    let restarted = match measured {
        Ok(requests) => restart(&mut report, mesh.dir(), logged, requests).await,
        Err(error) => Err(error),
    };
    mesh.stop(members).await;
    restarted?;
    Ok(report.finish())
}

const fn name(level: Durability) -> &'static str {
    match level {
        Durability::Memory => "memory",
        Durability::Log => "log",
    }
}

/// How many requests the service with a log has answered.
async fn measure(
    report: &mut Report,
    mesh: &Mesh,
    members: &[Member],
    length: Duration,
    progress: bool,
) -> anyhow::Result<u64> {
    let [_, memory, _, log] = members else { bail!("four members") };
    let (memory, log) = (memory.ingress().context("a gateway")?, log.ingress().context("a gateway")?);
    for address in [memory, log] {
        let found = async {
            while !probe(address, "/count").await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, found).await.context("a gateway does not find its service")?;
    }
    let before = sync_us(mesh.dir(), SYNC_ROUNDS)?;
    let mut logged = 0;
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        if progress {
            eprintln!("  {connections} connections, {} s each", length.as_secs_f64());
        }
        let mut without = load::run(memory, connections, length).await?;
        let mut with = load::run(log, connections, length).await?;
        logged += with.answered();
        let (fast, slow) = (without.quantile_us(0.5), with.quantile_us(0.5));
        let row = |what: &str, level: Durability, value: f64, unit: &str| {
            Row::new(format!("durability.{what}"), value, unit)
                .param("durability", name(level))
                .param("connections", connections as u64)
        };
        rows.push(row("requests", Durability::Memory, without.per_s(), "1/s"));
        rows.push(row("requests", Durability::Log, with.per_s(), "1/s"));
        rows.push(row("p50", Durability::Memory, fast, "us"));
        let slow = row("p50", Durability::Log, slow, "us");
        // Many share a sync, and the wake-ups behind it: only for one alone is there a floor.
        rows.push(if connections == 1 { slow.param("memory_us", fast) } else { slow });
    }
    let sync = before.min(sync_us(mesh.dir(), SYNC_ROUNDS)?);
    report.push(Row::new("disk.sync_p50", sync, "us"));
    report.push(Row::new("disk.syncs", 1e6 / sync, "1/s"));
    for row in rows {
        let memory_us = row.params.get("memory_us").and_then(serde_json::Value::as_f64);
        report.push(match memory_us {
            // It cannot be logged faster than without a log, and one sync.
            Some(memory_us) => row.floor(memory_us + sync),
            None => row,
        });
    }
    Ok(logged)
}

/// Stops the host with the log and starts it again on its directory: until it serves as before.
async fn restart(report: &mut Report, dir: &Path, host: Member, requests: u64) -> anyhow::Result<()> {
    let dir = StateDir::new(dir.join(&host.name));
    host.node.stop().await;
    let begun = Instant::now();
    let shutdown = CancellationToken::new();
    let node = node::start(NodeOptions::from_dir(&dir)?, Arc::new(DirectConnector), shutdown.clone()).await?;
    let handle = node.host.clone().context("it hosts")?;
    let mut events = handle.events().await.context("it is stopping")?;
    let restored = async {
        loop {
            let state = handle.with(|host, now, _| host.services(now).first().map(|view| view.state.clone())).await;
            if state.flatten().as_deref() == Some("serving") {
                return Ok(());
            }
            tokio::select! {
                event = events.recv() => if let Event::Broken(_, reason) = event? {
                    bail!("it does not come back: {reason}");
                },
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    tokio::time::timeout(READY_TIMEOUT, restored).await.context("it does not come back in time")??;
    let took = begun.elapsed().as_secs_f64();
    report.push(Row::new("durability.restart", took * 1e3, "ms").param("requests_ever", requests));
    node.stop().await;
    shutdown.cancel();
    Ok(())
}
