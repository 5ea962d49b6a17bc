//! A node's metrics: what there is, by part of the node, and how it comes to the endpoint.
//!
//! Counters of what happens are bumped by the tasks that own the machines, in one place each: [`host`] sees every effect and
//! event, [`gateway`] every request. What is a state (services, leases, requests that wait) is read off the machine when
//! somebody scrapes. `docs/metrics.md` lists everything; a test compares.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayfare_telemetry::{Endpoint, Metrics, NetMetrics, Process, Refresh, Rejections};

use crate::{gateway::GatewayHandle, host::HostHandle, node::RunningNode};

pub(crate) mod gateway;
pub(crate) mod host;
pub(crate) mod journal;

/// What every part of a node has.
struct Common {
    process: Process,
    net: NetMetrics,
    rejections: Rejections,
}

/// The pools of a host's and of a gateway's streams.
const HOST_POOLS: [&str; 3] = ["migrate", "request", "registry"];
const GATEWAY_POOLS: [&str; 2] = ["request", "registry"];

/// Serves a node's metrics until `shutdown`.
pub(crate) fn serve(endpoint: Endpoint, node: &RunningNode, tracker: &TaskTracker, shutdown: CancellationToken) {
    let mut metrics = Metrics::default();
    let role = node.certificate.role.name();
    let process = Process::register(&mut metrics, "wayfare", role, env!("CARGO_PKG_VERSION"));
    let pools: &[&'static str] = if node.host.is_some() { &HOST_POOLS } else { &GATEWAY_POOLS };
    let net = NetMetrics::register(&mut metrics, node.net.clone(), pools);
    let common = Arc::new(Common { process, net, rejections: Rejections::register(&mut metrics) });
    let refresh = match (&node.host, &node.gateway) {
        (Some(host), _) => of_host(&mut metrics, common, host.clone()),
        (None, Some(gateway)) => of_gateway(&mut metrics, common, gateway.clone()),
        (None, None) => return,
    };
    endpoint.serve(metrics, refresh, tracker, shutdown);
}

fn of_host(metrics: &mut Metrics, common: Arc<Common>, handle: HostHandle) -> Refresh {
    handle.metrics().register(metrics);
    Arc::new(move || {
        let (common, handle) = (Arc::clone(&common), handle.clone());
        Box::pin(async move {
            let Some(numbers) = handle.numbers().await else { return false };
            common.process.refresh();
            common.rejections.refresh(&numbers.rejects);
            common.net.refresh(&HOST_POOLS.into_iter().zip(numbers.streams).collect::<Vec<_>>());
            handle.metrics().refresh(&numbers.figures);
            true
        })
    })
}

fn of_gateway(metrics: &mut Metrics, common: Arc<Common>, handle: GatewayHandle) -> Refresh {
    handle.metrics().register(metrics);
    Arc::new(move || {
        let (common, handle) = (Arc::clone(&common), handle.clone());
        Box::pin(async move {
            let Some(numbers) = handle.numbers().await else { return false };
            common.process.refresh();
            common.rejections.refresh(&numbers.rejects);
            common.net.refresh(&GATEWAY_POOLS.into_iter().zip(numbers.streams).collect::<Vec<_>>());
            handle.metrics().refresh(&numbers.figures);
            true
        })
    })
}
