//! `init` and `run`.

use std::io::Read;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wayfare_protocol::trust::{JoinToken, Role};
use wayfare_telemetry::{dumps, logs};

use super::{Context, Failure, Given, args, out};
use crate::{
    api::lookup_name,
    config::{CapacitySettings, CarriedService, Config},
    node::{self, NodeOptions, RunningNode},
    shutdown,
};

/// Characters of a token on stdin at most.
const STDIN_BYTES_MAX: u64 = 64 * 1024;

/// `{dir, host, name, role, registry}`.
#[derive(Serialize)]
struct Made {
    dir: String,
    host: String,
    name: String,
    role: &'static str,
    registry: String,
}

pub(super) fn init(context: &Context, args: args::Init) -> Result<(), Failure> {
    let token = read_token(&args.join)?;
    let config = configuration(&args, token.role);
    let host = context.dir.init(&token, &config)?;
    let made = Made {
        dir: context.dir.path().display().to_string(),
        host: host.to_string(),
        name: token.name.clone(),
        role: token.role.name(),
        registry: token.anchor.id.to_string(),
    };
    context.print(&made, |made| {
        format!(
            "Made a {} node of `{}` in {dir}: host {}\n\nLook at {dir}/node.toml, then start it:\n  wayfare run --dir {dir}\n",
            made.role,
            made.name,
            made.host,
            dir = made.dir,
        )
    })
}

fn read_token(text: &str) -> Result<JoinToken, Failure> {
    let mut piped = String::new();
    let text = if text == "-" {
        let read = std::io::stdin().take(STDIN_BYTES_MAX).read_to_string(&mut piped);
        read.map_err(|error| Failure::setup(format!("cannot read the join token from stdin: {error}")))?;
        if piped.trim().is_empty() {
            let example = "wayfare-registry join-token --cloud NAME | wayfare init --join -";
            return Err(Failure::setup(format!(
                "--join -: nothing came on stdin: pipe a join token into it, as by\n  {example}"
            )));
        }
        &piped
    } else {
        text
    };
    JoinToken::parse(text).map_err(|error| Failure::setup(format!("--join: {error}")))
}

fn configuration(args: &args::Init, role: Role) -> Config {
    let mut config = Config { capacity: this_machine(), ..Config::default() };
    let (node, capacity) = (&mut config.node, &mut config.capacity);
    if role == Role::Gateway {
        node.listen.clear();
    }
    if !args.listen.is_empty() {
        node.listen = args.listen.iter().flat_map(|listen| listen.all.clone()).collect();
    }
    // One way to each: a second connection would be of no use.
    node.bootstrap = args.bootstrap.iter().map(|address| address.first.clone()).collect();
    node.advertise = args.advertise.iter().flat_map(|address| address.all.clone()).collect();
    node.mdns = args.mdns;
    node.region.clone_from(&args.region);
    capacity.cpu_millicores = args.cpu.unwrap_or(capacity.cpu_millicores);
    capacity.memory_mib = args.memory.unwrap_or(capacity.memory_mib);
    capacity.storage_mib = args.storage.unwrap_or(capacity.storage_mib);
    capacity.bandwidth_mbps = args.bandwidth.unwrap_or(capacity.bandwidth_mbps);
    config.placement.policy = args.policy.unwrap_or(config.placement.policy);
    let service = |(name, listen): &(String, _)| CarriedService { name: name.clone(), listen: *listen };
    config.gateway.services = args.services.iter().map(service).collect();
    config.metrics.listen = args.metrics;
    config.telemetry.otlp.clone_from(&args.otlp);
    config
}

/// All cores and half of the memory; what cannot be found out as by default.
fn this_machine() -> CapacitySettings {
    let mut capacity = CapacitySettings::default();
    if let Ok(cores) = std::thread::available_parallelism() {
        capacity.cpu_millicores = u32::try_from(cores.get()).unwrap_or(u32::MAX).saturating_mul(1000);
    }
    let memory_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()
    });
    if let Some(kib) = memory_kib {
        capacity.memory_mib = (kib / 1024 / 2).max(1);
    }
    capacity
}

/// `{name, role, host, addresses, api, gateway: [{service, listen}], metrics}`.
#[derive(Serialize)]
struct Up {
    name: String,
    role: &'static str,
    host: String,
    addresses: Vec<String>,
    api: String,
    gateway: Vec<Carried>,
    /// HOST:PORT, or null.
    metrics: Option<String>,
}

#[derive(Serialize)]
struct Carried {
    service: String,
    listen: String,
}

pub(super) async fn run(context: &Context, args: args::Run, given: Given) -> Result<(), Failure> {
    if !args.allow_dumps {
        dumps::forbid();
    }
    let mut options = NodeOptions::from_dir(&context.dir)?;
    logs::init(args.log_format.unwrap_or(options.config.log.format));
    options.role = args.role;
    options.forget_lost = args.forget_lost;
    options.witness = given.witness;
    let signals =
        shutdown::on_signals().map_err(|error| Failure::other(format!("cannot watch for signals: {error}")))?;
    // Its own, so that the node can be asked what it still holds before it stops.
    let shutdown = CancellationToken::new();
    let mut starting = std::pin::pin!(node::start(options, given.connector, shutdown.clone()));
    let node = tokio::select! {
        biased;
        started = &mut starting => started?,
        () = signals.cancelled() => {
            shutdown.cancel();
            starting.await?
        }
    };
    announce(context, &node)?;
    warn_of_cordon(&node).await;
    let failed = tokio::select! {
        biased;
        () = signals.cancelled() => false,
        () = node.leaving() => {
            info!("drained: this node leaves the mesh");
            false
        }
        () = node.stopping() => true,
    };
    warn_of_loss(&node).await;
    let ended = node.stop().await;
    match (failed, ended) {
        (true, _) => Err(Failure::other("the node had to stop: its log says why")),
        (false, false) => Err(Failure::other("the node did not stop in time: its log says what was left")),
        (false, true) => Ok(()),
    }
}

fn announce(context: &Context, node: &RunningNode) -> Result<(), Failure> {
    let carried = node.gateway.iter().flat_map(|gateway| gateway.listening());
    let up = Up {
        name: node.certificate.name.clone(),
        role: node.certificate.role.name(),
        host: node.certificate.host.to_string(),
        addresses: node.addresses(),
        api: context.dir.socket().display().to_string(),
        gateway: carried
            .map(|(service, listen)| Carried { service: lookup_name(service), listen: listen.to_string() })
            .collect(),
        metrics: node.metrics.map(|address| address.to_string()),
    };
    if context.json {
        let line = serde_json::to_string(&up).map_err(|error| Failure::other(error.to_string()))?;
        return out(&(line + "\n"));
    }
    let mut text = format!("{} node of `{}` is up: host {}\n", up.role, up.name, up.host);
    up.addresses.iter().for_each(|address| text.push_str(&format!("  listens on {address}\n")));
    let ports = up.gateway.iter().map(|carried| format!("  `{}` on http://{}\n", carried.service, carried.listen));
    ports.for_each(|line| text.push_str(&line));
    up.metrics.iter().for_each(|address| text.push_str(&format!("  metrics on http://{address}/metrics\n")));
    out(&text)
}

async fn warn_of_cordon(node: &RunningNode) {
    let Some(host) = &node.host else { return };
    if host.with(|host, _, _| host.is_cordoned()).await == Some(true) {
        warn!("this node is cordoned and takes no services: `wayfare uncordon` ends that");
    }
}

async fn warn_of_loss(node: &RunningNode) {
    let Some(host) = &node.host else { return };
    let services = host.with(|host, now, _| host.services(now)).await.unwrap_or_default();
    let in_memory = services.into_iter().filter(|service| service.durability == "memory" && service.state != "lost");
    let names: Vec<String> = in_memory.map(|service| service.name).collect();
    if !names.is_empty() {
        warn!(services = names.join(", "), "this stop loses the state of services that are in memory only");
    }
}
