//! The memory and the processor's time of an idle node: in a process of its own, started as `wayfare run` starts it, with real peers.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::future::try_join_all;
use wayfare_net::{CancellationToken, DirectConnector};
use wayfare_node::{
    config::Config,
    node::{self, NodeOptions},
    state::StateDir,
};
use wayfare_protocol::trust::Role;

use super::Memory;
use crate::mesh::{Joining, Mesh, Records};

/// The hidden command that [`serve`] is behind.
pub(crate) const COMMAND: &str = "idle-node";
/// How long the node may take to know all its peers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it then idles, and how long its processor's time is taken.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

/// What an idle node takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    pub(super) memory: Memory,
    /// Of the processor, µs per second.
    pub(super) cpu_us_per_s: f64,
}

/// Runs a node with `peers` peers beside this process, and reads what it takes.
pub(super) async fn measure(peers: usize) -> anyhow::Result<Idle> {
    let mesh = Mesh::start(None, 0, Records::Memory).await?;
    let joining = (0..peers).map(|number| mesh.join(Joining::new(format!("peer-{number}"), Role::Cloud, 0)));
    let members = try_join_all(joining).await?;
    let mut config = Config::default();
    config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    config.node.bootstrap = members.iter().flat_map(|member| member.node.addresses()).collect();
    let token = mesh.registry().handle().join_token("idle", Role::Cloud, Duration::from_secs(60)).await?;
    let dir = StateDir::new(mesh.dir().join("idle"));
    dir.init(&token, &config)?;
    let idle = observe(dir.path(), peers).await;
    mesh.stop(members).await;
    idle
}

async fn observe(dir: &Path, peers: usize) -> anyhow::Result<Idle> {
    let program = std::env::current_exe().context("this program's file is not known")?;
    let mut child = Command::new(program)
        .arg(COMMAND)
        .arg(dir)
        .arg(peers.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("the idle node's process does not start")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    // One way or another the line, or the end, comes: the node gives up by itself.
    let ready = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next()).await?;
    let idle = match ready {
        Some(line) => {
            line?;
            tokio::time::sleep(SETTLE).await;
            watch(child.id()).await
        }
        None => Err(anyhow::anyhow!("the idle node does not find its peers")),
    };
    // It ends when its stdin does.
    drop(child.stdin.take());
    tokio::task::spawn_blocking(move || child.wait()).await??;
    idle
}

async fn watch(pid: u32) -> anyhow::Result<Idle> {
    let (began, before) = (Instant::now(), cpu_ns(pid)?);
    tokio::time::sleep(IDLE).await;
    let used = cpu_ns(pid)?.saturating_sub(before) as f64;
    let memory = Memory::of(pid).context("the process's memory cannot be read")?;
    Ok(Idle { memory, cpu_us_per_s: used / 1e3 / began.elapsed().as_secs_f64() })
}

/// The processor's time of all threads that a process has now, ns. One that ends meanwhile is not counted.
fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process's threads cannot be read")? {
        let stat = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += stat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// The idle node's side: runs the node in `dir`, prints a line once it has `peers` peers, ends with stdin.
pub(crate) async fn serve(dir: &Path, peers: usize) -> anyhow::Result<()> {
    let options = NodeOptions::from_dir(&StateDir::new(dir))?;
    let shutdown = CancellationToken::new();
    let node = node::start(options, Arc::new(DirectConnector), shutdown).await?;
    let mut connected = node.net.watch_connected();
    tokio::time::timeout(READY_TIMEOUT, connected.wait_for(|connected| *connected >= peers)).await??;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    node.stop().await;
    Ok(())
}
