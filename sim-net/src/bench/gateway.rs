//! What it costs to reach a service through a gateway: requests per second and latency, beside the same service called
//! directly.
//!
//! *Directly* is a bare hyper server in this process, in front of the same module in the same runtime driver, on a thread of
//! its own as on a host: HTTP is parsed, the instance is called, HTTP is written. There is no gateway, no mesh, no session and
//! no log.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wayfare_node::runtime::{Driver, Instance, Launch, wasm::WasmDriver};
use wayfare_protocol::{manifest::Durability, placement::Policy, trust::Role};

use super::{Report, Row, floor::sync_us, load};
use crate::{
    client::probe,
    mesh::{Joining, Member, Mesh, Records},
};

const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");
/// Connections that ask at the same time.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// How often the synced append is timed.
const SYNC_ROUNDS: usize = 301;
/// How long a gateway may take to find its service.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests that wait for the direct server's instance.
const CALLS_MAX: usize = 256;
/// What the direct figures are called.
const DIRECTLY: &str = "the same service called directly";

/// Measures each number of connections for `length`: directly, through a gateway without a log, and with one.
///
/// # Errors
/// A node that does not start, or a request that fails.
pub async fn run(length: Duration, progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("gateway");
    let direct = Direct::start().await?;
    let mesh = Mesh::start(None, 0, Records::Disk).await?;
    let mut members = Vec::new();
    let measured = match join(&mesh, &mut members).await {
        Ok(gateways) => measure(&mut report, &mesh, direct.address, gateways, length, progress).await,
        Err(error) => Err(error),
    };
    mesh.stop(members).await;
    measured?;
    Ok(report.finish())
}

/// Two services, each with a home and a gateway of its own. Where the gateways listen.
async fn join(mesh: &Mesh, members: &mut Vec<Member>) -> anyhow::Result<[(Durability, SocketAddr); 2]> {
    let mut gateways = Vec::new();
    for (name, level) in [("memory", Durability::Memory), ("log", Durability::Log)] {
        let mut home = Joining::new(format!("home-{name}"), Role::Home, 0);
        home.policy = Policy::Never;
        let home = mesh.join(home).await?;
        mesh.deploy(&home, name, KV.to_vec(), level).await?;
        members.push(home);
        let mut gateway = Joining::new(format!("gateway-{name}"), Role::Gateway, 0);
        gateway.carries = Some((name.to_owned(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        let gateway = mesh.join(gateway).await?;
        let address = gateway.ingress().context("a gateway listens")?;
        members.push(gateway);
        let found = async {
            while !probe(address, "/count").await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, found).await.context("a gateway does not find its service")?;
        gateways.push((level, address));
    }
    gateways.try_into().ok().context("two gateways")
}

async fn measure(
    report: &mut Report,
    mesh: &Mesh,
    direct: SocketAddr,
    gateways: [(Durability, SocketAddr); 2],
    length: Duration,
    progress: bool,
) -> anyhow::Result<()> {
    load::run(direct, 1, length / 4).await?;
    let before = sync_us(mesh.dir(), SYNC_ROUNDS)?;
    for connections in CONNECTIONS {
        if progress {
            eprintln!("  {connections} connections, {} s each of three", length.as_secs_f64());
        }
        let row = |what: &str, value: f64, unit: &str| {
            Row::new(format!("gateway.{what}"), value, unit).param("connections", connections as u64)
        };
        let mut plain = load::run(direct, connections, length).await?;
        let (per_s, p50, p99) = (plain.per_s(), plain.quantile_us(0.5), plain.quantile_us(0.99));
        report.push(row("direct.requests", per_s, "1/s"));
        report.push(row("direct.p50", p50, "us"));
        for (level, address) in gateways {
            let mut through = load::run(address, connections, length).await?;
            let row = |what: &str, value: f64, unit: &str| row(what, value, unit).param("durability", name(level));
            report.push(row("requests", through.per_s(), "1/s").beside(per_s, DIRECTLY));
            let (t50, t99) = (through.quantile_us(0.5), through.quantile_us(0.99));
            report.push(row("p50", t50, "us").beside(p50, DIRECTLY));
            report.push(row("p99", t99, "us").beside(p99, DIRECTLY));
            if connections == 1 {
                report.push(row("added_p50", t50 - p50, "us"));
            }
        }
    }
    let sync = before.min(sync_us(mesh.dir(), SYNC_ROUNDS)?);
    report.push(Row::new("disk.sync_p50", sync, "us"));
    report.push(Row::new("disk.syncs", 1e6 / sync, "1/s"));
    Ok(())
}

const fn name(level: Durability) -> &'static str {
    match level {
        Durability::Memory => "memory",
        Durability::Log => "log",
    }
}

/// A request's bytes, and where the response's go.
type Call = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// The service without anything round it. Dropped, it ends.
struct Direct {
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Direct {
    async fn start() -> anyhow::Result<Self> {
        let driver = WasmDriver::new();
        let launch = Launch::default();
        let prepared = driver.prepare(KV, launch.limits.memory_bytes_max)?;
        let (instance, _) = driver.start(&prepared, launch, None)?;
        let (calls, queue) = mpsc::channel(CALLS_MAX);
        std::thread::Builder::new().name("direct".to_owned()).spawn(move || serve(instance, queue))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(async move {
            let _stopped = stop.clone().drop_guard();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let calls = calls.clone();
                let service = service_fn(move |request| answer(calls.clone(), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let stopped = stop.clone().cancelled_owned();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stopped => {}
                        _ = connection => {}
                    }
                });
            }
        });
        Ok(Self { address, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

fn serve(mut instance: Box<dyn Instance>, mut queue: mpsc::Receiver<Call>) {
    while let Some((request, reply)) = queue.blocking_recv() {
        let Ok(outcome) = instance.call(&request) else { return };
        // A client that has gone needs no answer.
        let _ = reply.send(outcome.response);
    }
}

async fn answer(calls: mpsc::Sender<Call>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = exchange(calls, request).await;
    Ok(response.unwrap_or_else(|error| {
        let mut response = Response::new(Full::new(Bytes::from(error.to_string())));
        *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
        response
    }))
}

async fn exchange(calls: mpsc::Sender<Call>, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut bytes = format!("{} {} HTTP/1.1\r\n", head.method, head.uri).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    let (reply, answered) = oneshot::channel();
    calls.send((bytes, reply)).await?;
    response(answered.await?)
}

/// Status and body: as much as a client of a bench looks at.
fn response(bytes: Vec<u8>) -> anyhow::Result<Response<Full<Bytes>>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { bail!("no HTTP message") };
    let status = bytes.get(9..12).context("no status")?;
    let status = hyper::StatusCode::from_bytes(status)?;
    let mut response = Response::new(Full::new(Bytes::from(bytes).slice(end + 4..)));
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_service_answers_directly() {
        let direct = Direct::start().await.unwrap();
        let mut load = load::run(direct.address, 2, Duration::from_millis(200)).await.unwrap();
        assert!(load.answered() > 0 && load.per_s() > 0.0 && load.quantile_us(0.5) > 0.0);
        // It counted what was asked, no more.
        let stream = tokio::net::TcpStream::connect(direct.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/count").header("host", "service").body(Full::default()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let counted: u64 = std::str::from_utf8(&body).unwrap().trim().parse().unwrap();
        assert_eq!(counted, load.answered() + 1);
    }
}
