//! `GET /metrics` and `GET /healthz`, on a port of their own.
//!
//! A scrape first has the figures of the machine read ([`Refresh`]), on its own task and for [`REFRESH_TIMEOUT`] at most: if the
//! task that owns the machine does not answer, neither does the endpoint (503), and Prometheus shows the node as down, which
//! it is. Nothing of this runs while nobody scrapes.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    classic,
    limits::{CONNECTIONS_MAX, HEAD_TIMEOUT, REFRESH_TIMEOUT},
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// After a connection could not be accepted.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Brings gauges up to date; false if who knows the figures is gone.
pub type Refresh = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics: choose another address for metrics.listen, or stop what uses it")]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// The operating system's error.
    pub source: std::io::Error,
}

/// A port on which metrics will be served. Connections wait until [`serve`](Self::serve).
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    /// Listens on `address`.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens: the real port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`.
    pub fn serve(self, metrics: Registry, refresh: Refresh, tracker: &TaskTracker, shutdown: CancellationToken) {
        info!(address = %self.address, "metrics");
        let served = Arc::new(Served { metrics, refresh });
        tracker.spawn(accept(self.listener, served, tracker.clone(), shutdown));
    }
}

struct Served {
    metrics: Registry,
    refresh: Refresh,
}

async fn accept(listener: TcpListener, served: Arc<Served>, tracker: TaskTracker, shutdown: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (served, shutdown) = (Arc::clone(&served), shutdown.clone());
                tracker.spawn(async move {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => {}
                        () = connection(stream, served) => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a scraper");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, served: Arc<Served>) {
    let service = service_fn(move |request| {
        let served = Arc::clone(&served);
        async move { Ok::<_, Infallible>(served.answer(&request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a scraper's connection ended");
    }
}

impl Served {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz") {
            return plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "this is only read");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let refreshed = tokio::time::timeout(REFRESH_TIMEOUT, (self.refresh)()).await;
        if !matches!(refreshed, Ok(true)) {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the node does not answer: its log may say why");
        }
        if path == "/healthz" {
            return plain(StatusCode::OK, "ok");
        }
        self.exposition(request.headers())
    }

    fn exposition(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut body = String::new();
        if text::encode(&mut body, &self.metrics).is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written");
        }
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        if accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
            return respond(StatusCode::OK, OPENMETRICS, body);
        }
        respond(StatusCode::OK, CLASSIC, classic::from_openmetrics(&body))
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, PLAIN, format!("{text}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::instruments::{Counter, Register as _};

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn whoever_asks_gets_the_format_that_it_knows_and_an_honest_status() {
        let (counter, alive) = (Counter::default(), Arc::new(AtomicBool::new(true)));
        let mut metrics = Registry::default();
        metrics.add("things", "Things", &counter);
        let refresh: Refresh = {
            let (counter, alive) = (counter.clone(), Arc::clone(&alive));
            Arc::new(move || {
                let (counter, alive) = (counter.clone(), Arc::clone(&alive));
                Box::pin(async move {
                    counter.inc();
                    alive.load(Ordering::Relaxed)
                })
            })
        };
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, tracker, shutdown) = (endpoint.address(), TaskTracker::new(), CancellationToken::new());
        let taken = Endpoint::bind(address).await.unwrap_err().to_string();
        assert!(taken.contains(&address.to_string()) && taken.contains("metrics.listen"), "{taken}");
        endpoint.serve(metrics, refresh, &tracker, shutdown.clone());

        let classic = ask(address, "GET /metrics HTTP/1.1").await;
        assert!(classic.starts_with("HTTP/1.1 200") && classic.contains("version=0.0.4"), "{classic}");
        assert!(classic.ends_with("# TYPE things_total counter\nthings_total 1\n"), "{classic}");
        let open = ask(address, "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0").await;
        assert!(
            open.contains("version=1.0.0") && open.ends_with("# TYPE things counter\nthings_total 2\n# EOF\n"),
            "{open}"
        );
        let health = ask(address, "GET /healthz HTTP/1.1").await;
        assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
        assert!(ask(address, "GET / HTTP/1.1").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1").await.starts_with("HTTP/1.1 405"));
        alive.store(false, Ordering::Relaxed);
        for path in ["/metrics", "/healthz"] {
            let dead = ask(address, &format!("GET {path} HTTP/1.1")).await;
            assert!(dead.starts_with("HTTP/1.1 503"), "{dead}");
        }
        shutdown.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
