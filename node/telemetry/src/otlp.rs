//! Spans on their way to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! Whoever has spans hands them over and goes on: [`Spans::send`] never waits. They queue up to [`SPANS_QUEUED_MAX`]; a task of its own
//! sends them in batches. A collector that is slow, dead or refuses costs spans, which are counted, and nothing else.

use hyper::Uri;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    instruments::{Counters, Register as _, by},
    limits::{BATCH_MAX, EXPORT_TIMEOUT, FLUSH_TIMEOUT, LINGER, SPANS_QUEUED_MAX},
};

/// Where a collector takes traces, below its address.
const TRACES_PATH: &str = "/v1/traces";

/// Why spans cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The address is none.
    #[error("`{0}` is no collector's address: write it like \"http://127.0.0.1:4318\"")]
    Address(String),
    /// TLS is not spoken.
    #[error(
        "`{0}`: OTLP is spoken over plain HTTP only: run a collector beside this process, and let that one encrypt"
    )]
    Tls(String),
    /// The exporter cannot be made.
    #[error("spans cannot be sent to `{0}`: {1}")]
    Exporter(String, String),
}

/// The address that traces are posted to.
///
/// # Errors
/// [`OtlpError::Address`], [`OtlpError::Tls`].
pub(crate) fn traces_address(otlp: &str) -> Result<String, OtlpError> {
    let address = || OtlpError::Address(otlp.to_owned());
    let uri: Uri = otlp.parse().map_err(|_| address())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => {}
        (Some("https"), Some(_)) => return Err(OtlpError::Tls(otlp.to_owned())),
        _ => return Err(address()),
    }
    if uri.query().is_some() {
        return Err(address());
    }
    let base = otlp.trim_end_matches('/');
    Ok(if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") })
}

/// Who exports: what every span of this process carries.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// The program.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The process's identifier, base58.
    pub instance: String,
    /// The provider's name; the Registry's own.
    pub name: String,
    /// `cloud`, `home`, `gateway` or `registry`.
    pub role: &'static str,
}

impl Exporter {
    fn resource(&self) -> Resource {
        let attributes = [
            KeyValue::new("service.name", self.program),
            KeyValue::new("service.version", self.version),
            KeyValue::new("service.instance.id", self.instance.clone()),
            KeyValue::new("wayfare.node", self.name.clone()),
            KeyValue::new("wayfare.node_role", self.role),
        ];
        Resource::builder_empty().with_attributes(attributes).build()
    }
}

/// Where spans go, if anywhere. A cheap handle.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: Option<mpsc::Sender<SpanData>>,
    counted: Counters<1>,
}

impl Default for Spans {
    fn default() -> Self {
        Self { queue: None, counted: by("outcome", ["exported", "failed", "dropped"]) }
    }
}

impl Spans {
    /// Sends to the collector at `otlp` (`http://HOST:PORT`) until `shutdown`, and then what is still queued. Without an
    /// address: nowhere.
    ///
    /// # Errors
    /// [`OtlpError`].
    pub fn start(
        otlp: Option<&str>,
        exporter: &Exporter,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, OtlpError> {
        let mut spans = Self::default();
        if let Some(otlp) = otlp {
            let address = traces_address(otlp)?;
            let made = SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(&address)
                .with_timeout(EXPORT_TIMEOUT)
                .build();
            let mut sender = made.map_err(|error| OtlpError::Exporter(otlp.to_owned(), error.to_string()))?;
            sender.set_resource(&exporter.resource());
            let (queue, queued) = mpsc::channel(SPANS_QUEUED_MAX);
            spans.queue = Some(queue);
            info!(collector = address, "traces");
            let task = Task { exporter: sender, queued, counted: spans.counted.clone(), failing: false };
            tracker.spawn(task.run(shutdown));
        }
        Ok(spans)
    }

    /// Puts the counter into `metrics`.
    pub fn register(&self, metrics: &mut Registry) {
        metrics.add(
            "wayfare_telemetry_spans",
            "A span was exported to the collector; or it failed, since the collector refused it or did not answer; or it was \
             dropped, since too many were queued",
            &self.counted,
        );
    }

    /// Whether anybody wants spans.
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands over spans, and never waits: what finds no room is dropped and counted.
    pub fn send(&self, spans: impl IntoIterator<Item = SpanData>) {
        let Some(queue) = &self.queue else { return };
        for span in spans {
            if queue.try_send(span).is_err() {
                count(&self.counted, "dropped", 1);
            }
        }
    }
}

fn count(counted: &Counters<1>, outcome: &'static str, spans: usize) {
    counted.get_or_create(&[("outcome", outcome)]).inc_by(spans as u64);
}

struct Task {
    exporter: SpanExporter,
    queued: mpsc::Receiver<SpanData>,
    counted: Counters<1>,
    failing: bool,
}

impl Task {
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                first = self.queued.recv() => first,
            };
            let Some(first) = first else { return };
            // The spans of a migration come together: one request is enough.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            let batch = self.batch(Some(first));
            let stopping = async {
                shutdown.cancelled().await;
                tokio::time::sleep(FLUSH_TIMEOUT).await;
            };
            self.export(batch, stopping).await;
        }
        self.queued.close();
        let rest = self.batch(None);
        if !rest.is_empty() {
            self.export(rest, tokio::time::sleep(FLUSH_TIMEOUT)).await;
        }
    }

    fn batch(&mut self, first: Option<SpanData>) -> Vec<SpanData> {
        let mut batch: Vec<SpanData> = first.into_iter().collect();
        while batch.len() < BATCH_MAX
            && let Ok(span) = self.queued.try_recv()
        {
            batch.push(span);
        }
        batch
    }

    /// Sends a batch, unless that takes longer than [`EXPORT_TIMEOUT`] or `given_up`.
    async fn export(&mut self, batch: Vec<SpanData>, given_up: impl Future<Output = ()>) {
        let spans = batch.len();
        let late = || Some("it did not answer in time".to_owned());
        let failure = tokio::select! {
            biased;
            result = tokio::time::timeout(EXPORT_TIMEOUT, self.exporter.export(batch)) => match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => late(),
            },
            () = given_up => late(),
        };
        count(&self.counted, if failure.is_none() { "exported" } else { "failed" }, spans);
        let failing = failure.is_some();
        match failure {
            // Once, not for every batch.
            Some(error) if !self.failing => {
                warn!(error, "the collector of traces cannot be used: spans are lost until it can")
            }
            None if self.failing => info!("the collector of traces can be used again"),
            Some(_) | None => {}
        }
        self.failing = failing;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanContext, SpanId, SpanKind, Status},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn span() -> SpanData {
        let now = std::time::SystemTime::now();
        SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "a span".into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    fn start(listener: &TcpListener, tracker: &TaskTracker, shutdown: CancellationToken) -> Spans {
        let exporter = Exporter {
            program: "wayfare",
            version: "0",
            instance: "me".to_owned(),
            name: "fjord".to_owned(),
            role: "cloud",
        };
        let address = format!("http://{}", listener.local_addr().unwrap());
        Spans::start(Some(&address), &exporter, tracker, shutdown).unwrap()
    }

    fn counted(spans: &Spans, outcome: &'static str) -> u64 {
        spans.counted.get_or_create(&[("outcome", outcome)]).get()
    }

    #[test]
    fn an_address_is_completed_or_refused_with_what_to_do() {
        for address in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"] {
            assert_eq!(traces_address(address).unwrap(), "http://127.0.0.1:4318/v1/traces");
        }
        assert_eq!(traces_address("http://a.example/otlp").unwrap(), "http://a.example/otlp/v1/traces");
        for address in ["", "127.0.0.1:4318", "grpc://a.example", "http://", "/v1/traces", "http://a?b=c"] {
            let error = traces_address(address).unwrap_err().to_string();
            assert!(error.contains("http://127.0.0.1:4318"), "{error}");
        }
        let error = traces_address("https://a.example:4318").unwrap_err().to_string();
        assert!(error.contains("plain HTTP"), "{error}");
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_costs_spans_and_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let spans = start(&listener, &tracker, shutdown.clone());
        let began = Instant::now();
        let many = SPANS_QUEUED_MAX + BATCH_MAX + 100;
        spans.send((0..many).map(|_| span()));
        assert!(began.elapsed() < EXPORT_TIMEOUT, "sending waits");
        assert!(counted(&spans, "dropped") >= 100);
        // Taken, and never answered: it ends all the same when it is to stop, and soon.
        let (_held, _) = listener.accept().await.unwrap();
        shutdown.cancel();
        tracker.close();
        tokio::time::timeout(EXPORT_TIMEOUT, tracker.wait()).await.unwrap();
        assert!(counted(&spans, "failed") > 0);
        assert_eq!(counted(&spans, "exported"), 0);
    }

    #[tokio::test]
    async fn what_is_queued_at_the_end_is_sent_and_a_refusal_is_counted() {
        for (status, outcome) in [("200 OK", "exported"), ("400 Bad Request", "failed")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
            let spans = start(&listener, &tracker, shutdown.clone());
            spans.send([span(), span()]);
            shutdown.cancel();
            tracker.close();
            let (mut collector, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 64 * 1024];
            let read = collector.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
            collector.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            tracker.wait().await;
            assert_eq!((counted(&spans, outcome), counted(&spans, "dropped")), (2, 0), "{status}");
        }
    }
}
