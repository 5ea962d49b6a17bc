//! An open-loop HTTP client: it sends at times fixed in advance, whether or not earlier requests were answered, and
//! counts each latency from the *intended* time of sending, so that a pause of the service shows in full.
//!
//! Against the `kv` guest it keeps its own record of every write and, at the end, compares it with what the service
//! holds: [`LoadReport::lost`] and [`LoadReport::duplicated`]. Of any other service only answered and failed are known.
//!
//! The client speaks plain TCP to a gateway beside it; the distance lies between the gateway, which moves with it, and
//! the clouds. `ledger` is the record, `stats` the figures, `http` one request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod http;
mod ledger;
mod readback;
mod stats;

pub use http::ANSWER_BYTES_MAX;
pub use ledger::{Audit, KEYS};
pub use stats::{Latency, SERIES_SECONDS_MAX, Second};

use crate::emulator::Timer;
use http::{Ended, Http};
use ledger::{Ledger, Operation, Outcome};
use stats::Stats;

/// The highest rate, in requests a second.
pub const RATE_PER_S_MAX: f64 = 100_000.0;
/// How long [`probe`] waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the live view is renewed.
const LIVE_EVERY: Duration = Duration::from_millis(100);
/// How many requests that are due are sent before answers are looked at again.
const BURST_MAX: usize = 64;

/// What the client talks to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Service {
    /// The `kv` guest: increments, writes, reads, and the audit at the end.
    Kv {
        /// Nobody else increments the counter, so that a surplus is a duplicate. False where outside clients are let in.
        exclusive: bool,
    },
    /// Anything else: `GET` of this path.
    Other {
        /// With a leading slash.
        path: String,
    },
}

/// A run of the client.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// The gateway's HTTP port.
    pub gateway: SocketAddr,
    /// Requests a second, above 0, at most [`RATE_PER_S_MAX`].
    pub rate_per_s: f64,
    /// For how long requests are sent; answers are waited for beyond it.
    pub duration: Duration,
    /// What answers.
    pub service: Service,
    /// The most requests under way; one that is due beyond it fails without being sent.
    pub in_flight_max: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Marks the values that this run writes.
    pub seed: u64,
}

impl LoadConfig {
    /// 100 requests a second for a minute to a `kv` of its own, at most 1024 under way, each for 30 s.
    pub fn new(gateway: SocketAddr) -> Self {
        Self {
            gateway,
            rate_per_s: 100.0,
            duration: Duration::from_secs(60),
            service: Service::Kv { exclusive: true },
            in_flight_max: 1024,
            timeout: Duration::from_secs(30),
            seed: 0,
        }
    }
}

/// Whether the service answers a GET at all: for waiting until it is there.
pub async fn probe(gateway: SocketAddr, path: &str) -> bool {
    let http = Http::new(gateway, PROBE_TIMEOUT);
    let ended = http.ask(hyper::Method::GET, path, String::new()).await;
    // Any word of the service itself will do.
    ended.failure.is_none_or(|failure| failure.starts_with("status 4"))
}

/// Why a run did not start, or has no result.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says what its fields say")]
pub enum LoadError {
    #[error("a rate of {rate_per_s} requests a second is not possible: give one above 0, at most {RATE_PER_S_MAX}")]
    Rate { rate_per_s: f64 },
    #[error("no request may be in flight: allow at least one")]
    InFlight,
    #[error(
        "the service does not answer GET /count through the gateway {gateway} ({reason}): is it deployed, and a kv?"
    )]
    NoCounter { gateway: SocketAddr, reason: String },
    #[error("the client's task ended before its time")]
    Ended,
}

/// The run so far, renewed ten times a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Since the first request.
    pub elapsed: Duration,
    /// Requests that were due.
    pub sent: u64,
    /// Requests answered as they should be.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests under way.
    pub in_flight: usize,
    /// The last full second.
    pub last_second: Second,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LoadReport {
    /// Requests that were due: `ok + failed`.
    pub sent: u64,
    /// Requests answered as they should be.
    pub ok: u64,
    /// Requests with no answer, another status than 2xx, or an answer that contradicts the record.
    pub failed: u64,
    /// Acknowledged writes that were missing; 0 without an audit.
    pub lost: u64,
    /// Writes executed more than once; 0 without an audit.
    pub duplicated: u64,
    /// The failed, by reason.
    pub failures: BTreeMap<String, u64>,
    /// In milliseconds, of the requests that were ok.
    pub latency_ms: Latency,
    /// The longest time without an answer, in milliseconds, from the start of the run.
    pub max_gap_ms: f64,
    /// Second by second.
    pub series: Vec<Second>,
    /// The service against the record; `None` for services other than `kv`, or if it failed.
    pub audit: Option<Audit>,
    /// Why there is no audit of a `kv`.
    pub audit_failure: Option<String>,
}

/// A run under way. Dropping it stops the run without a result.
#[derive(Debug)]
pub struct LoadClient {
    live: watch::Receiver<Live>,
    stop: CancellationToken,
    task: JoinHandle<LoadReport>,
}

impl LoadClient {
    /// Waits until the service answers, then starts to send.
    ///
    /// # Errors
    /// The configuration is out of range, or a `kv` does not answer within the timeout.
    pub async fn start(config: LoadConfig, timer: Timer) -> Result<Self, LoadError> {
        let rate_per_s = config.rate_per_s;
        if !(rate_per_s > 0.0 && rate_per_s <= RATE_PER_S_MAX) {
            return Err(LoadError::Rate { rate_per_s });
        }
        if config.in_flight_max == 0 {
            return Err(LoadError::InFlight);
        }
        let http = Http::new(config.gateway, config.timeout);
        let ledger = match config.service {
            Service::Kv { .. } => Some(Ledger::new(config.seed, readback::first_count(&http, &config).await?)),
            Service::Other { .. } => None,
        };
        let (publish, live) = watch::channel(Live::default());
        let stop = CancellationToken::new();
        let run = Run {
            http,
            ledger,
            stats: Stats::new().ok_or(LoadError::Ended)?,
            timer,
            publish,
            stop: stop.clone(),
            config: Arc::new(config),
        };
        Ok(Self { live, stop, task: tokio::spawn(run.run()) })
    }

    /// The run so far.
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// Sends nothing more; [`LoadClient::finish`] has the result of what was sent.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the last request is sent and answered and the audit is done.
    ///
    /// # Errors
    /// The task was aborted with its runtime.
    pub async fn finish(mut self) -> Result<LoadReport, LoadError> {
        (&mut self.task).await.map_err(|_| LoadError::Ended)
    }
}

impl Drop for LoadClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that ended.
struct Done {
    operation: Operation,
    intended: Instant,
    at: Instant,
    ended: Ended,
}

/// The one owner of a run's state.
struct Run {
    http: Http,
    ledger: Option<Ledger>,
    stats: Stats,
    timer: Timer,
    publish: watch::Sender<Live>,
    stop: CancellationToken,
    config: Arc<LoadConfig>,
}

impl Run {
    async fn run(mut self) -> LoadReport {
        // Aborts what is under way if this task is aborted; in the end there is nothing.
        let requests = TaskTracker::new();
        let cancel = CancellationToken::new();
        let _cancel_on_drop = cancel.clone().drop_guard();
        // Each request under way sends one message: the queue is never full.
        let (done, mut ended) = mpsc::channel(self.config.in_flight_max);
        let start = Instant::now();
        let total = (self.config.duration.as_secs_f64() * self.config.rate_per_s).round() as u64;
        let due = |number: u64, rate_per_s: f64| start + Duration::from_secs_f64(number as f64 / rate_per_s);
        let mut in_flight = 0;
        let mut next_live = start;
        let mut sending = true;
        loop {
            sending &= self.stats.sent < total && !self.stop.is_cancelled();
            if !sending && in_flight == 0 {
                break;
            }
            let mut burst = 0;
            while sending && self.stats.sent < total && burst < BURST_MAX {
                let intended = due(self.stats.sent, self.config.rate_per_s);
                if intended > Instant::now() {
                    break;
                }
                burst += 1;
                self.stats.sent += 1;
                if in_flight >= self.config.in_flight_max {
                    self.stats.failed(start.elapsed(), &format!("over {} in flight", self.config.in_flight_max));
                    continue;
                }
                in_flight += 1;
                let request = self.request(intended, done.clone());
                requests.spawn(cancel.clone().run_until_cancelled_owned(request));
            }
            let next_due = if sending { due(self.stats.sent, self.config.rate_per_s) } else { next_live };
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if sending => {}
                Some(done) = ended.recv() => {
                    in_flight -= 1;
                    self.settle(start, &done);
                    while let Ok(done) = ended.try_recv() {
                        in_flight -= 1;
                        self.settle(start, &done);
                    }
                }
                () = self.timer.sleep_until(next_due.min(next_live)) => {}
            }
            if Instant::now() >= next_live {
                self.publish(start.elapsed(), in_flight);
                next_live = Instant::now() + LIVE_EVERY;
            }
        }
        self.stats.finish();
        self.publish(start.elapsed(), 0);
        self.report().await
    }

    /// One request, from its place in the mix to its end.
    fn request(&mut self, intended: Instant, done: mpsc::Sender<Done>) -> impl Future<Output = ()> + Send + 'static {
        let operation = self.ledger.as_mut().map_or(Operation::Other, Ledger::next);
        let value = match (&self.ledger, &operation) {
            (Some(ledger), Operation::Put { version, .. }) => ledger.value(*version),
            (Some(_) | None, _) => String::new(),
        };
        let (http, config) = (self.http.clone(), Arc::clone(&self.config));
        async move {
            let path = if let Service::Other { path } = &config.service { path.as_str() } else { "/" };
            let ended = http.perform(&operation, value, path).await;
            // Fails only if the run is gone.
            let _ = done.send(Done { operation, intended, at: Instant::now(), ended }).await;
        }
    }

    fn settle(&mut self, start: Instant, done: &Done) {
        let as_recorded = self.ledger.as_mut().is_none_or(|ledger| ledger.settle(&done.operation, &done.ended.outcome));
        let at = done.at - start;
        match (&done.ended.failure, &done.ended.outcome) {
            (Some(reason), _) => self.stats.failed(at, reason),
            (None, Outcome::Answered { .. }) if as_recorded => self.stats.ok(at, done.at - done.intended),
            (None, _) => self.stats.failed(at, "contradicts the record"),
        }
    }

    fn publish(&mut self, elapsed: Duration, in_flight: usize) {
        self.stats.advance(elapsed);
        let last_second = self.stats.series.last().cloned().unwrap_or_default();
        let (sent, ok, failed) = (self.stats.sent, self.stats.ok, self.stats.failed);
        self.publish.send_replace(Live { elapsed, sent, ok, failed, in_flight, last_second });
    }

    async fn report(self) -> LoadReport {
        let mut report = LoadReport {
            sent: self.stats.sent,
            ok: self.stats.ok,
            failed: self.stats.failed,
            latency_ms: self.stats.latency(),
            max_gap_ms: self.stats.max_gap.as_secs_f64() * 1_000.0,
            failures: self.stats.reasons,
            series: self.stats.series,
            ..LoadReport::default()
        };
        if let (Some(ledger), Service::Kv { exclusive }) = (&self.ledger, &self.config.service) {
            match readback::read_back(&self.http, ledger.written_keys()).await {
                Ok(found) => {
                    let audit = ledger.audit(&found, *exclusive);
                    (report.lost, report.duplicated) = (audit.lost(), audit.duplicated());
                    report.audit = Some(audit);
                }
                Err(failure) => report.audit_failure = Some(failure),
            }
        }
        report
    }
}

#[cfg(test)]
mod tests;
