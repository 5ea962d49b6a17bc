//! The main job, on one machine: a service follows its user across clouds.
//!
//! [`prepare`] reads the inputs, [`Prepared::run`] brings up a mesh over the latencies of a real matrix, deploys a service at home, sends it requests at a fixed
//! rate while the user goes from place to place, and reports what became of each request. `watch` prints what happens
//! while it happens, [`summary`] what came of it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use tokio::sync::watch as signal;
use wayfare_protocol::{manifest::Durability, placement::Policy, trust::Role};

use crate::{
    client::{LoadClient, LoadConfig, LoadReport, Service},
    emulator::{Emulator, Timer},
    journey::{Itinerary, Score, score},
    layout::{Journey, Layout, layout},
    matrix::LatencyMatrix,
    mesh::{Joining, Member, Mesh, Records, migrations},
};

pub mod summary;
mod watch;

pub use summary::Summary;

/// The service that is built in: `tests/guests/kv`.
const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");
/// The service's name on the mesh.
const SERVICE: &str = "demo";
/// How often the gateway measures round trips.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// How long the service may take to answer its first request.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// How long the last move may take to settle after the journey's end.
const SETTLE: Duration = Duration::from_secs(20);

/// What to show. Every field has a command line option of its name.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Clouds on the mesh.
    pub clouds: usize,
    /// The latencies; `None`: the built-in ones.
    pub matrix: Option<PathBuf>,
    /// Where the user goes.
    pub journey: Journey,
    /// How long it stays at each place.
    pub dwell: Duration,
    /// Requests a second.
    pub rate: f64,
    /// Where clients from outside reach the service; `None`: a free port of this machine, for the demo alone.
    pub listen: Option<SocketAddr>,
    /// A module of one's own; `None`: the built-in `kv`.
    pub module: Option<PathBuf>,
    /// When the service moves.
    pub policy: Policy,
    /// Chooses who stands where.
    pub seed: u64,
    /// Whether progress is printed.
    pub quiet: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            clouds: 8,
            matrix: None,
            journey: Journey::Stops(4),
            dwell: Duration::from_secs(15),
            rate: 100.0,
            listen: None,
            module: None,
            policy: Policy::Sardis,
            seed: 1,
            quiet: false,
        }
    }
}

/// A demo whose inputs were read and fit together.
#[derive(Debug)]
pub struct Prepared {
    options: DemoOptions,
    matrix: Arc<LatencyMatrix>,
    layout: Layout,
    itinerary: Itinerary,
    score: Score,
    module: Vec<u8>,
}

/// Reads and checks everything that a demo needs; nothing is started.
///
/// # Errors
/// A matrix, layout or module that cannot be used, by name.
pub fn prepare(options: DemoOptions) -> anyhow::Result<Prepared> {
    ensure!(options.rate.is_finite() && options.rate > 0.0, "the rate must be above 0 requests a second");
    ensure!(!options.dwell.is_zero(), "the dwell must be above 0 seconds");
    let matrix = match &options.matrix {
        Some(path) => LatencyMatrix::read(path)?,
        None => LatencyMatrix::bundled()?,
    };
    let layout = layout(&matrix, options.clouds, &options.journey, options.seed)?;
    let itinerary = Itinerary::even(&layout, options.dwell);
    let score = score(&matrix, &layout, &itinerary)?;
    let module = match &options.module {
        Some(path) => fs::read(path).with_context(|| format!("cannot read the module {}", path.display()))?,
        None => KV.to_vec(),
    };
    Ok(Prepared { options, matrix: Arc::new(matrix), layout, itinerary, score, module })
}

impl Prepared {
    /// Runs the demo.
    ///
    /// # Errors
    /// A node that does not start, or a service that does not answer.
    pub async fn run(self) -> anyhow::Result<Summary> {
        let Self { options, matrix, layout, itinerary, score, module } = self;
        let view = watch::View::new(options.quiet);
        view.header(&matrix, &layout, &itinerary, &options);
        let begun = Instant::now();
        let emulator = Emulator::new(Arc::clone(&matrix))?;
        let timer = emulator.timer().clone();
        let mesh = Mesh::start(Some(emulator), layout.registry, Records::Memory).await?;
        let mut members = bring_up(&mesh, &matrix, &layout, &options).await?;
        view.note(&format!("{} nodes are up", members.len() + 1));
        let home = members.first().context("a mesh has a home")?;
        mesh.deploy(home, SERVICE, module, Durability::Log).await?;
        view.note(&format!("the service runs at home, on {}", matrix.name(layout.home)));
        let mut user = members.pop().context("a mesh has a gateway")?;
        let ingress = user.ingress().context("the gateway listens")?;
        first_answer(ingress, options.module.is_none()).await?;
        view.note(&format!("the user reaches it at http://{ingress}/"));

        let cast = Cast { mesh: &mesh, members: &members, itinerary: &itinerary, options: &options, view: &view };
        let ran = cast.travel(&mut user, ingress, timer).await;
        let moves = migrations(&members).await;
        let placements = mesh.registry().handle().placements().await?;
        let stats = mesh.registry().handle().stats().await?;
        members.push(user);
        mesh.stop(members).await;
        Ok(Summary::new(summary::Ingredients {
            options: &options,
            matrix: &matrix,
            layout: &layout,
            score,
            report: ran?,
            moves: moves?,
            placements,
            stats,
            duration: begun.elapsed(),
        }))
    }
}

/// Home first, then the clouds, the gateway last.
async fn bring_up(
    mesh: &Mesh,
    matrix: &LatencyMatrix,
    layout: &Layout,
    options: &DemoOptions,
) -> anyhow::Result<Vec<Member>> {
    let first = *layout.path.first().context("a journey has a first place")?;
    let listen = options.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    let mut joining = vec![Joining::new("home", Role::Home, layout.home)];
    for row in &layout.cloud_rows {
        joining.push(Joining::new(watch::cloud_name(matrix, *row), Role::Cloud, *row));
    }
    let mut gateway = Joining::new("user", Role::Gateway, first);
    gateway.carries = Some((SERVICE.to_owned(), listen));
    gateway.probe_interval = PROBE_INTERVAL;
    joining.push(gateway);
    joining.iter_mut().for_each(|joining| joining.policy = options.policy);
    try_join_all(joining.into_iter().map(|joining| mesh.join(joining))).await
}

/// Waits until the gateway has found the service.
async fn first_answer(ingress: SocketAddr, is_kv: bool) -> anyhow::Result<()> {
    let path = if is_kv { "/count" } else { "/" };
    let answered = async {
        loop {
            if crate::client::probe(ingress, path).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(FIRST_ANSWER, answered).await.context("the service does not answer through the gateway")
}

/// Who takes part in the journey, but for the user.
struct Cast<'a> {
    mesh: &'a Mesh,
    members: &'a [Member],
    itinerary: &'a Itinerary,
    options: &'a DemoOptions,
    view: &'a watch::View,
}

impl Cast<'_> {
    async fn travel(&self, user: &mut Member, ingress: SocketAddr, timer: Timer) -> anyhow::Result<LoadReport> {
        let mut load = LoadConfig::new(ingress);
        load.rate_per_s = self.options.rate;
        load.duration = self.itinerary.duration();
        load.seed = self.options.seed;
        load.service = match &self.options.module {
            None => Service::Kv { exclusive: self.options.listen.is_none() },
            Some(_) => Service::Other { path: "/".to_owned() },
        };
        let client = LoadClient::start(load, timer).await?;
        let (place, places) = signal::channel(user.row);
        let watching = watch::follow(self.view, self.members, user.node.gateway.clone(), client.live(), places);
        let walking = async {
            for stop in self.itinerary.stops() {
                self.mesh.relocate(user, stop.row)?;
                // The view ends first if the demo is interrupted.
                let _ = place.send(stop.row);
                tokio::time::sleep(stop.dwell).await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            walked = walking => walked?,
            watched = watching => {
                watched?;
                bail!("the view ended before the journey")
            }
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                self.view.note("interrupted: this is how far it went");
                client.stop();
            }
        }
        let report = client.finish().await?;
        settle(self.members).await?;
        Ok(report)
    }
}

/// Waits until no migration is under way, so that the summary has them all.
async fn settle(members: &[Member]) -> anyhow::Result<()> {
    let settled = async {
        loop {
            let mut running = false;
            for member in members {
                let host = member.host()?;
                let services = host.with(|host, _, _| host.is_moving()).await;
                running |= services.unwrap_or(false);
            }
            if !running {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // What is not decided by then is shown as it stands.
    tokio::time::timeout(SETTLE, settled).await.unwrap_or(Ok(()))
}
