//! The client against a small `kv` of our own over real sockets, with faults to be found.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::*;

/// What a bad service does, at its write number 100 (an increment, of the mix).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Goes back to its state of 20 writes ago.
    RollBack,
    /// Executes it twice.
    Repeat,
    /// Answers nothing for 600 ms.
    Freeze,
    /// Answers 503.
    Refuse,
}

#[derive(Clone, Default)]
struct Kv {
    count: u64,
    keys: BTreeMap<String, String>,
}

struct Server {
    kv: Mutex<Kv>,
    earlier: Mutex<Kv>,
    writes: AtomicU64,
    fault: Fault,
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> (StatusCode, String) {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut times = 1;
        if method != Method::GET {
            // Requests may overtake each other: the repeated one must be an increment.
            let repeats = self.fault == Fault::Repeat && path != "/count";
            let write = if repeats { 0 } else { self.writes.fetch_add(1, Ordering::Relaxed) };
            if write == 80 {
                *self.earlier.lock().unwrap() = self.kv.lock().unwrap().clone();
            }
            if write == 100 {
                match self.fault {
                    Fault::None => {}
                    Fault::RollBack => *self.kv.lock().unwrap() = self.earlier.lock().unwrap().clone(),
                    Fault::Repeat => times = 2,
                    Fault::Freeze => tokio::time::sleep(Duration::from_millis(600)).await,
                    Fault::Refuse => return (StatusCode::SERVICE_UNAVAILABLE, String::new()),
                }
            }
        }
        let mut kv = self.kv.lock().unwrap();
        match (method, path.as_str()) {
            (Method::POST, "/count") => {
                kv.count += times;
                (StatusCode::OK, kv.count.to_string())
            }
            (Method::GET, "/count") => (StatusCode::OK, format!("{}\n", kv.count)),
            (Method::GET, "/digest") => (StatusCode::OK, format!("{:x}", kv.count + kv.keys.len() as u64)),
            (Method::PUT, _) => {
                kv.keys.insert(path, String::from_utf8(body.to_vec()).unwrap());
                (StatusCode::NO_CONTENT, String::new())
            }
            (Method::GET, _) => match kv.keys.get(&path) {
                Some(value) => (StatusCode::OK, value.clone()),
                None => (StatusCode::NOT_FOUND, String::new()),
            },
            (method, path) => panic!("{method} {path} is no request of a client"),
        }
    }
}

async fn serve(fault: Fault) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Server { kv: Mutex::default(), earlier: Mutex::default(), writes: AtomicU64::new(0), fault });
    server.kv.lock().unwrap().count = 41;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let server = Arc::clone(&server);
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move {
                    let (status, body) = server.answer(request).await;
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    address
}

/// One second at 400 a second, unless changed.
async fn run(fault: Fault, change: fn(&mut LoadConfig)) -> LoadReport {
    let mut config = LoadConfig::new(serve(fault).await);
    (config.rate_per_s, config.duration, config.seed) = (400.0, Duration::from_secs(1), 77);
    change(&mut config);
    LoadClient::start(config, Timer::start().unwrap()).await.unwrap().finish().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_service_loses_nothing() {
    let report = run(Fault::None, |_| {}).await;
    assert_eq!(
        (report.sent, report.ok, report.failed, report.lost, report.duplicated),
        (400, 400, 0, 0, 0),
        "{report:?}"
    );
    let audit = report.audit.unwrap();
    assert_eq!((audit.count_before, audit.count_after, audit.increments_acknowledged), (41, 241, 200));
    assert_eq!((audit.keys_checked, audit.digest.as_str()), (120, "169"));
    assert!(report.latency_ms.p50 < 20.0, "{:?}", report.latency_ms);
    assert_eq!(report.series.iter().map(|s| s.ok).sum::<u64>(), 400);
    println!(
        "p50 {:.2} ms, p99 {:.2} ms, gap {:.1} ms",
        report.latency_ms.p50, report.latency_ms.p99, report.max_gap_ms
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_found() {
    let rolled_back = run(Fault::RollBack, |_| {}).await;
    assert!(rolled_back.lost >= 10 && rolled_back.duplicated == 0, "{:?}", rolled_back.audit);
    let repeated = run(Fault::Repeat, |_| {}).await;
    assert_eq!((repeated.failed, repeated.lost, repeated.duplicated), (0, 0, 1), "{:?}", repeated.audit);
    let refused = run(Fault::Refuse, |_| {}).await;
    assert_eq!((refused.sent, refused.ok, refused.failed), (400, 399, 1));
    assert_eq!((refused.failures["status 503"], refused.lost, refused.duplicated), (1, 0, 0), "{:?}", refused.audit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shows_in_the_latency_of_all_who_wait() {
    let report = run(Fault::Freeze, |config| config.in_flight_max = 1).await;
    let reason = "over 1 in flight";
    assert!(report.failures[reason] > 150, "{:?}", report.failures);
    assert_eq!((report.ok + report.failures[reason], report.failed), (400, report.failures[reason]));
    assert!(report.latency_ms.max >= 600.0 && report.max_gap_ms >= 600.0, "{report:?}");
    assert_eq!((report.lost, report.duplicated), (0, 0), "{:?}", report.audit);
}

#[tokio::test]
async fn a_timeout_is_neither_lost_nor_duplicated() {
    let report = run(Fault::Freeze, |config| config.timeout = Duration::from_millis(300)).await;
    assert_eq!((report.failed, report.failures.get("timeout")), (1, Some(&1)), "{:?}", report.failures);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{:?}", report.audit);
}

#[tokio::test]
async fn other_services_stopping_and_the_live_view() {
    let mut config = LoadConfig::new(serve(Fault::None).await);
    config.service = Service::Other { path: "/digest".to_owned() };
    let client = LoadClient::start(config.clone(), Timer::start().unwrap()).await.unwrap();
    let mut live = client.live();
    let seen = live.wait_for(|live| live.ok >= 20).await.unwrap().clone();
    assert!(seen.elapsed >= Duration::from_millis(150) && seen.sent >= seen.ok, "{seen:?}");
    client.stop();
    let report = client.finish().await.unwrap();
    assert_eq!((report.failed, report.sent, report.audit), (0, report.ok, None));
    config.rate_per_s = f64::NAN;
    let refusal = LoadClient::start(config, Timer::start().unwrap()).await.unwrap_err().to_string();
    assert_eq!(refusal, "a rate of NaN requests a second is not possible: give one above 0, at most 100000");
}

#[tokio::test]
async fn a_gateway_that_is_not_there() {
    let mut config = LoadConfig::new("127.0.0.1:9".parse().unwrap());
    config.timeout = Duration::from_millis(150);
    let refusal = LoadClient::start(config, Timer::start().unwrap()).await.unwrap_err().to_string();
    assert_eq!(
        refusal,
        "the service does not answer GET /count through the gateway 127.0.0.1:9 (no connection): is it deployed, and a kv?"
    );
}
