//! Who can be reached, and by whom this node can.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use wayfare_net::{Net, NetConfig, NetError};
use wayfare_protocol::{ids::HostId, limits::ADVERT_LIFETIME_MAX, suite::fresh_secret, trust::Anchor};

use super::{Context, Finding, files::Identity};
use crate::{
    api::shapes::{Cloud, Counters, Incompatible, NodeInfo},
    clock::entropy,
    config::Config,
};

/// How long somebody may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far another machine's clock may be off without a word, s.
const SKEW_S: f64 = 1.0;
/// A cloud advertises so often, s: its newest advert is at most so old.
const ADVERT_EVERY_S: f64 = wayfare_protocol::limits::ADVERT_INTERVAL.0 as f64 / 1e6;

/// The ports that the configuration names: free, or the running node's.
pub(super) fn ports(config: &Config, running: bool, findings: &mut Vec<Finding>) {
    const CHECK: &str = "ports";
    let carried = config.gateway.services.iter().map(|service| (service.listen, Carrier::Tcp));
    let sockets: BTreeSet<(SocketAddr, Carrier)> =
        config.node.listen.iter().filter_map(|text| listened(text)).chain(carried).collect();
    for (socket, carrier) in sockets.into_iter().filter(|(socket, _)| socket.port() != 0) {
        let (bound, shown) = match carrier {
            Carrier::Tcp => (TcpListener::bind(socket).map(drop), format!("{socket}")),
            Carrier::Udp => (UdpSocket::bind(socket).map(drop), format!("{socket} (UDP)")),
        };
        findings.push(match bound {
            Ok(()) if running => {
                let found = format!("{shown} is free, and the node that runs should have it");
                Finding::warn(CHECK, found, "restart the node: node.toml was changed since its start")
            }
            Ok(()) => Finding::ok(CHECK, format!("{shown} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
                Finding::ok(CHECK, format!("{shown} is taken, by this node as it seems"))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let advice = format!("find who has it: ss -tulnp 'sport = :{}'; or choose another port", socket.port());
                Finding::fail(CHECK, format!("{shown} is taken by another process"), advice)
            }
            Err(error) => {
                let advice = "name an address of this machine, and a port above 1023 or the right to use it";
                Finding::fail(CHECK, format!("{shown}: {error}"), advice)
            }
        });
    }
}

/// What carries a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carrier {
    Tcp,
    Udp,
}

/// `/ip4/…/tcp/…` or `/ip4/…/udp/…`, and what follows it.
fn listened(multiaddr: &str) -> Option<(SocketAddr, Carrier)> {
    let mut parts = multiaddr.split('/').skip(1);
    let (Some("ip4" | "ip6"), Some(ip), Some(carrier), Some(port)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let carrier = match carrier {
        "tcp" => Carrier::Tcp,
        "udp" => Carrier::Udp,
        _ => return None,
    };
    Some((SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?), carrier))
}

/// Speaks to the registries, and to the running node as others would, under a key of the moment.
pub(super) async fn reach(identity: &Identity, running: Option<&NodeInfo>, findings: &mut Vec<Finding>) {
    for anchor in identity.bundle.anchors() {
        findings.push(registry(anchor).await);
    }
    if let Some(info) = running {
        findings.extend(own_addresses(info).await);
    }
}

/// One round trip on a connection of its own, so that no earlier one stands in for `addresses`.
async fn ping(host: HostId, addresses: &[String]) -> Result<Duration, NetError> {
    let shutdown = CancellationToken::new();
    let config = NetConfig { listen: Vec::new(), ..NetConfig::local(*fresh_secret(&mut entropy()).expose()) };
    let (net, _events) = Net::start(config, shutdown.clone()).await?;
    let measured = tokio::time::timeout(PATIENCE, net.probe(host, addresses)).await;
    shutdown.cancel();
    // What is left of it ends with this process.
    let _ = tokio::time::timeout(PATIENCE, net.stopped()).await;
    measured.unwrap_or(Err(NetError::Timeout { peer: host, what: "a probe" }))
}

async fn registry(anchor: &Anchor) -> Finding {
    const CHECK: &str = "registry";
    let at = anchor.addresses.join(", ");
    match ping(anchor.host(), &anchor.addresses).await {
        Ok(rtt) => {
            Finding::ok(CHECK, format!("answers at {at} in {:.1} ms, with the key that is trusted", millis(rtt)))
        }
        Err(NetError::WrongPeer { found, address, .. }) => Finding::fail(
            CHECK,
            format!("{address} answers with the key of {found:#}, not with the registry's"),
            "it is another registry, or the wrong address: compare trust.json with `wayfare-registry run`'s address and key",
        ),
        Err(NetError::NoCommonVersion { peer }) => Finding::fail(
            CHECK,
            peer.to_string(),
            "install the same release on both; the others of the mesh can follow one by one",
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("does not answer at {at}: {error}"),
            "look whether `wayfare-registry run` runs, whether a firewall is in between, and whether trust.json has its address",
        ),
    }
}

/// The addresses that others are told.
async fn own_addresses(info: &NodeInfo) -> Vec<Finding> {
    const CHECK: &str = "addresses";
    let Some(host) = HostId::parse(&info.host) else { return Vec::new() };
    let mut findings = Vec::new();
    for address in &info.addresses {
        findings.push(match ping(host, std::slice::from_ref(address)).await {
            Ok(rtt) => Finding::ok(CHECK, format!("{address} leads here, in {:.1} ms", millis(rtt))),
            Err(error) => Finding::warn(
                CHECK,
                format!("{address} does not lead here from here: {error}"),
                "set node.advertise to addresses at which others reach this node (behind NAT it may work for them all the same)",
            ),
        });
    }
    findings
}

/// Who the running node is connected to, and whose clock is off.
pub(super) async fn peers(context: &Context, info: &NodeInfo, findings: &mut Vec<Finding>) {
    const CHECK: &str = "peers";
    findings.push(match info.peers {
        0 => Finding::warn(CHECK, "connected to nobody", "see `registry` above; node.bootstrap may name other nodes"),
        peers => Finding::ok(CHECK, format!("connected to {peers}")),
    });
    if let Ok(counters) = context.client().get::<Counters>(&["rejects"], "").await {
        let warn = |peer: &Incompatible| Finding::warn(CHECK, peer.text.clone(), "install the same release on both");
        findings.extend(counters.incompatible.iter().map(warn));
    }
    let Ok(clouds) = context.client().get::<Vec<Cloud>>(&["clouds"], "").await else { return };
    if let Some(finding) = clock(&clouds) {
        findings.push(finding);
    }
}

/// An advert is made to last for [`ADVERT_LIFETIME_MAX`] by its maker's clock, and is renewed every few seconds: what is left
/// of it by this clock says how far the two differ at least.
fn clock(clouds: &[Cloud]) -> Option<Finding> {
    const CHECK: &str = "clock";
    let lifetime_s = ADVERT_LIFETIME_MAX.as_secs_f64();
    let skew = |cloud: &Cloud| {
        let ahead = cloud.expires_in_s - lifetime_s;
        let behind = lifetime_s - ADVERT_EVERY_S - cloud.expires_in_s;
        if ahead > 0.0 { -ahead } else { behind.max(0.0) }
    };
    let off: Vec<(&Cloud, f64)> = clouds.iter().map(|cloud| (cloud, skew(cloud))).collect();
    let (cloud, worst) = off.iter().max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()))?;
    if worst.abs() <= SKEW_S {
        return Some(Finding::ok(
            CHECK,
            format!("agrees with those of {} clouds, as far as their adverts show", clouds.len()),
        ));
    }
    let (name, by) = (&cloud.name, worst.abs());
    let direction = if *worst > 0.0 { "ahead of" } else { "behind" };
    // One that has just gone looks the same: its adverts get old.
    let found = format!("this clock is {by:.1} s or more {direction} that of {name}, or {name} has just gone");
    Some(Finding::warn(CHECK, found, "have both set by NTP: adverts and verdicts tolerate 5 s"))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
