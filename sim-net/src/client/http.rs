//! Single HTTP/1.1 requests to the gateway, over kept-alive connections.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::ledger::{Operation, Outcome};

/// The longest answer that is read, in bytes; a longer one counts as failed.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How many idle connections are kept. More are opened while more requests are under way.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Sends requests. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    gateway: SocketAddr,
    timeout: Duration,
}

/// A request that ended, and why it failed if it did.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) failure: Option<String>,
}

impl Http {
    pub(super) fn new(gateway: SocketAddr, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX).build(connector);
        Self { client, gateway, timeout }
    }

    /// Asks and waits for the whole answer, at most for the timeout. Cancel safe in that nothing else is affected.
    pub(super) async fn ask(&self, method: Method, path: &str, body: String) -> Ended {
        match tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await {
            Ok(ended) => ended,
            Err(_) => unknown("timeout".to_owned()),
        }
    }

    /// The request of an operation of the mix.
    pub(super) async fn perform(&self, operation: &Operation, value: String, other_path: &str) -> Ended {
        match operation {
            Operation::Count => self.ask(Method::POST, "/count", String::new()).await,
            Operation::Put { key, .. } => self.ask(Method::PUT, &key_path(*key), value).await,
            Operation::GetKey { key, .. } => self.ask(Method::GET, &key_path(*key), String::new()).await,
            Operation::GetCount { .. } => self.ask(Method::GET, "/count", String::new()).await,
            Operation::Other => self.ask(Method::GET, other_path, String::new()).await,
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: String) -> Ended {
        let reads_key = method == Method::GET && path.starts_with("/k/");
        let uri = Uri::builder().scheme("http").authority(self.gateway.to_string()).path_and_query(path).build();
        let request = uri.and_then(|uri| Request::builder().method(method).uri(uri).body(Full::from(body)));
        let request = match request {
            Ok(request) => request,
            Err(_) => return not_sent("no valid path"),
        };
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return not_sent("no connection"),
            Err(_) => return unknown("connection lost".to_owned()),
        };
        let status = response.status();
        let Ok(body) = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await else {
            return unknown("answer cut off".to_owned());
        };
        let found = status.is_success();
        let absent = reads_key && status == StatusCode::NOT_FOUND;
        if !(found || absent) {
            return unknown(format!("status {}", status.as_u16()));
        }
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ended { outcome: Outcome::Answered { found, body }, failure: None }
    }
}

/// The path of one of the client's keys.
pub(super) fn key_path(key: usize) -> String {
    format!("/k/load-{key}")
}

fn unknown(reason: String) -> Ended {
    Ended { outcome: Outcome::Unknown, failure: Some(reason) }
}

fn not_sent(reason: &str) -> Ended {
    Ended { outcome: Outcome::NotSent, failure: Some(reason.to_owned()) }
}
