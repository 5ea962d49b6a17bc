//! A client that gives no request up: it repeats each, under one `Idempotency-Key`, until there is an answer. So it knows what
//! the `kv` guest must hold in the end, exactly, whoever died on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::watch, task::JoinSet};

/// Answers are short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Between two tries of one request.
const PAUSE: Duration = Duration::from_millis(50);
/// Kinds of failed tries that are told apart.
const REASONS_MAX: usize = 32;

/// How a user behaves.
#[derive(Clone, Debug)]
pub struct UserConfig {
    /// The gateways' ports for the service. A worker always asks the same one, which remembers its keys.
    pub gateways: Vec<SocketAddr>,
    /// Marks this user's keys and values.
    pub tag: String,
    /// Requests at a time.
    pub workers: usize,
    /// How many keys of the service each worker writes, over and over.
    pub keys: u64,
    /// Between an answer and the next request.
    pub pace: Duration,
    /// How long a try may take.
    pub try_within: Duration,
}

/// What the user has seen.
#[derive(Clone, Debug, Default)]
pub struct UserStats {
    /// Requests made, each counted once.
    pub requests: u64,
    /// Requests answered.
    pub answered: u64,
    /// Tries that failed, by reason; each was followed by another.
    pub retries: BTreeMap<String, u64>,
    /// The longest that a request took, all its tries together.
    pub longest_request: Duration,
    /// The longest time without any answer.
    pub longest_pause: Duration,
}

/// The service against the user's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged writes that the service does not have, or did not have for a while.
    pub lost: u64,
    /// Writes that were executed more than once.
    pub doubled: u64,
    /// What exactly, for people.
    pub findings: Vec<String>,
    /// Writes that were looked at.
    pub checked: u64,
}

#[derive(Default)]
struct Record {
    stats: UserStats,
    audit: Audit,
    /// Values that increments were answered with.
    counts: BTreeSet<u64>,
    increments: u64,
    /// The last acknowledged write of each key.
    keys: BTreeMap<String, String>,
    last_answer: Option<Instant>,
    /// Requests under way, since when, by worker.
    under_way: BTreeMap<usize, (String, Instant)>,
}

impl Record {
    fn finding(&mut self, text: String) {
        if self.audit.findings.len() < REASONS_MAX {
            self.audit.findings.push(text);
        }
    }

    /// A try failed.
    fn failed(&mut self, reason: String) {
        let retries = &mut self.stats.retries;
        let known = retries.contains_key(&reason) || retries.len() < REASONS_MAX;
        *retries.entry(if known { reason } else { "other".to_owned() }).or_default() += 1;
    }

    fn answered(&mut self, worker: usize) {
        let now = Instant::now();
        self.stats.answered += 1;
        if let Some((_, since)) = self.under_way.remove(&worker) {
            self.stats.longest_request = self.stats.longest_request.max(now - since);
        }
        if let Some(last) = self.last_answer.replace(now) {
            self.stats.longest_pause = self.stats.longest_pause.max(now - last);
        }
    }
}

type Http = Client<HttpConnector, Full<Bytes>>;

struct Shared {
    config: UserConfig,
    http: Http,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One try. The status and the body.
    async fn attempt(
        &self,
        gateway: SocketAddr,
        method: &Method,
        path: &str,
        body: &str,
        key: Option<&str>,
    ) -> Result<(StatusCode, String), String> {
        let uri = Uri::builder().scheme("http").authority(gateway.to_string()).path_and_query(path).build();
        let mut request = Request::builder().method(method).uri(uri.map_err(|error| error.to_string())?);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::from(body.to_owned())).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| {
                if error.is_connect() { "no connection".to_owned() } else { "connection lost".to_owned() }
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|_| "answer cut off".to_owned())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
        };
        tokio::time::timeout(self.config.try_within, exchange).await.unwrap_or_else(|_| Err("timeout".to_owned()))
    }

    /// Asks until there is an answer: success, or that there is no such key.
    async fn ask(&self, worker: usize, method: Method, path: &str, body: &str, key: Option<&str>) -> Option<String> {
        let gateway = self.config.gateways[worker % self.config.gateways.len()];
        {
            let mut record = self.record();
            record.stats.requests += 1;
            let what = format!("{method} {path} {}", key.unwrap_or_default());
            record.under_way.insert(worker, (what, Instant::now()));
        }
        loop {
            let reason = match self.attempt(gateway, &method, path, body, key).await {
                Ok((status, body)) if status.is_success() => return Some(body),
                Ok((StatusCode::NOT_FOUND, text)) if method == Method::GET && text == "no such key" => return None,
                Ok((status, text)) => format!("status {}: {text}", status.as_u16()),
                Err(reason) => reason,
            };
            self.record().failed(reason);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn work(&self, worker: usize, mut running: watch::Receiver<bool>) {
        let tag = &self.config.tag;
        for number in 0.. {
            // Fails when the user is gone.
            if running.wait_for(|running| *running).await.is_err() {
                return;
            }
            let idempotency = format!("{tag}-{worker}-{number}");
            let path = format!("/k/{tag}-{worker}-{}", number / 4 % self.config.keys);
            match number % 4 {
                1 => {
                    let value = format!("{tag}.{number}");
                    self.ask(worker, Method::PUT, &path, &value, Some(&idempotency)).await;
                    let mut record = self.record();
                    record.answered(worker);
                    record.keys.insert(path, value);
                }
                2 => {
                    // Nobody else writes this key: it holds what was acknowledged last, to the byte.
                    let expected = self.record().keys.get(&path).cloned();
                    let found = self.ask(worker, Method::GET, &path, "", None).await;
                    let mut record = self.record();
                    record.answered(worker);
                    if found != expected {
                        record.audit.lost += 1;
                        record.finding(format!("GET {path} gave {found:?} instead of {expected:?}"));
                    }
                }
                _ => {
                    let answer = self.ask(worker, Method::POST, "/count", "", Some(&idempotency)).await;
                    let mut record = self.record();
                    record.answered(worker);
                    record.increments += 1;
                    let count = answer.and_then(|text| text.parse::<u64>().ok());
                    if !count.is_some_and(|count| record.counts.insert(count)) {
                        record.audit.lost += 1;
                        record.finding(format!("{idempotency}: POST /count gave {count:?}, which another one had"));
                    }
                }
            }
            tokio::time::sleep(self.config.pace).await;
        }
    }
}

/// A user at work, until it is dropped.
pub struct User {
    shared: Arc<Shared>,
    running: watch::Sender<bool>,
    _workers: JoinSet<()>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl User {
    /// Starts to ask. The service's counter is at 0, and nobody else increments it.
    pub fn start(config: UserConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(config.workers).build(connector);
        let workers = config.workers;
        let shared = Arc::new(Shared { config, http, record: Mutex::default() });
        let (running, go) = watch::channel(true);
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let (shared, go) = (Arc::clone(&shared), go.clone());
            tasks.spawn(async move { shared.work(worker, go).await });
        }
        Self { shared, running, _workers: tasks }
    }

    /// So far.
    pub fn stats(&self) -> UserStats {
        self.shared.record().stats.clone()
    }

    /// Since when a request has had no answer, and which.
    pub fn longest_under_way(&self) -> Option<(Duration, String)> {
        let record = self.shared.record();
        let oldest = record.under_way.values().min_by_key(|(_, since)| *since);
        oldest.map(|(what, since)| (since.elapsed(), what.clone()))
    }

    /// Makes no new request, and waits until all that are under way are answered.
    ///
    /// # Errors
    /// One gets no answer in time.
    pub async fn pause(&self, within: Duration) -> anyhow::Result<()> {
        self.running.send_replace(false);
        let begun = Instant::now();
        while let Some((_, what)) = self.longest_under_way() {
            if begun.elapsed() > within {
                bail!("no answer for {:.0?}: {what}; tries: {:?}", begun.elapsed(), self.stats().retries);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Goes on asking.
    pub fn resume(&self) {
        self.shared.record().last_answer = None;
        self.running.send_replace(true);
    }

    /// Waits until so many more requests are answered.
    ///
    /// # Errors
    /// They are not in time.
    pub async fn served(&self, more: u64, within: Duration) -> anyhow::Result<()> {
        let (begun, from) = (Instant::now(), self.stats().answered);
        while self.stats().answered < from + more {
            if begun.elapsed() > within {
                let under_way = self.longest_under_way().unwrap_or_default();
                bail!("clients are not answered: {under_way:?}; tries: {:?}", self.stats().retries);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Reads everything back and compares it with the record, which includes what was seen on the way. The user must pause.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn audit(&self, within: Duration) -> anyhow::Result<Audit> {
        let (keys, increments, mut audit) = {
            let record = self.shared.record();
            ensure!(record.under_way.is_empty(), "requests are under way");
            (record.keys.clone(), record.increments, record.audit.clone())
        };
        let deadline = Instant::now() + within;
        let read = async |path: &str| {
            loop {
                let gateway = self.shared.config.gateways[0];
                match self.shared.attempt(gateway, &Method::GET, path, "", None).await {
                    Ok((status, body)) if status.is_success() => return Ok(Some(body)),
                    Ok((StatusCode::NOT_FOUND, text)) if text == "no such key" => return Ok(None),
                    Ok((status, _)) if Instant::now() > deadline => bail!("GET {path}: status {status}"),
                    Err(reason) if Instant::now() > deadline => bail!("GET {path}: {reason}"),
                    Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        let count = read("/count").await?.context("there is no counter")?;
        let count: u64 = count.parse().context("GET /count: no number")?;
        audit.checked = increments;
        if count < increments {
            audit.lost += increments - count;
            audit.findings.push(format!("{increments} increments were acknowledged, the counter is at {count}"));
        } else if count > increments {
            audit.doubled += count - increments;
            audit.findings.push(format!("{increments} increments were asked for, the counter is at {count}"));
        }
        for (path, expected) in keys {
            audit.checked += 1;
            let found = read(&path).await?;
            if found.as_ref() != Some(&expected) {
                audit.lost += 1;
                audit.findings.push(format!("{path} holds {found:?} instead of {expected:?}"));
            }
        }
        Ok(audit)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use hyper::{Response, body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// A `kv` that fails every third request after having executed it, and then remembers answers by key, or does not; or loses
    /// every fifth write that it acknowledges.
    #[derive(Default)]
    struct Kv {
        requests: u64,
        count: u64,
        values: BTreeMap<String, String>,
        answers: BTreeMap<String, String>,
        forgets_keys: bool,
        loses: bool,
    }

    impl Kv {
        fn answer(&mut self, method: &Method, path: &str, body: String, key: Option<String>) -> (u16, String) {
            self.requests += 1;
            if let Some(answer) = key.as_ref().and_then(|key| self.answers.get(key)) {
                return (200, answer.clone());
            }
            let lost = self.loses && self.requests.is_multiple_of(5);
            let (status, text) = match (method.as_str(), path) {
                ("POST", _) => {
                    self.count += u64::from(!lost);
                    (200, self.count.to_string())
                }
                ("PUT", _) => {
                    if !lost {
                        self.values.insert(path.to_owned(), body);
                    }
                    (200, String::new())
                }
                (_, "/count") => (200, self.count.to_string()),
                _ => self.values.get(path).map_or((404, "no such key\n".to_owned()), |value| (200, value.clone())),
            };
            if let Some(key) = key.filter(|_| !self.forgets_keys) {
                self.answers.insert(key, text.clone());
            }
            if self.requests.is_multiple_of(3) { (502, String::new()) } else { (status, text) }
        }
    }

    async fn audited(kv: Kv) -> (UserStats, Audit) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let kv = Arc::new(Mutex::new(kv));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let kv = Arc::clone(&kv);
                let service = service_fn(move |request: Request<Incoming>| {
                    let kv = Arc::clone(&kv);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                        let key = head.headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
                        let (status, text) = kv.lock().unwrap().answer(&head.method, head.uri.path(), body, key);
                        let response = Response::builder().status(status).body(Full::<Bytes>::from(text)).unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let user = User::start(UserConfig {
            gateways: vec![gateway],
            tag: "t".to_owned(),
            workers: 3,
            keys: 2,
            pace: Duration::from_millis(1),
            try_within: Duration::from_secs(5),
        });
        user.served(60, Duration::from_secs(30)).await.unwrap();
        user.pause(Duration::from_secs(10)).await.unwrap();
        let audit = user.audit(Duration::from_secs(10)).await.unwrap();
        (user.stats(), audit)
    }

    #[tokio::test]
    async fn a_service_that_answers_repeats_alike_passes() {
        let (stats, audit) = audited(Kv::default()).await;
        assert_eq!((audit.lost, audit.doubled, audit.findings), (0, 0, Vec::new()));
        assert!(stats.answered >= 60 && !stats.retries.is_empty(), "{stats:?}");
    }

    #[tokio::test]
    async fn what_is_executed_twice_and_what_is_lost_is_seen() {
        let (_, audit) = audited(Kv { forgets_keys: true, ..Kv::default() }).await;
        assert!(audit.doubled > 0, "{audit:?}");
        let (_, audit) = audited(Kv { loses: true, ..Kv::default() }).await;
        assert!(audit.lost > 0, "{audit:?}");
    }
}
