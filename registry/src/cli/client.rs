//! Asks the running Registry over its socket.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{api::ErrorBody, config::StateDir};

/// How long an answer may take: a sync of a slow disk, generously.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer: a hundred thousand hosts or services.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("no registry is running in {}: start it with `wayfare-registry run --dir {}`", dir.display(), dir.display())]
    NotRunning { dir: PathBuf },
    /// The socket is not ours.
    #[error("cannot open {}: run this as the user that runs the registry", path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// It broke off.
    #[error("the registry did not answer ({0}): see its log")]
    NoAnswer(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// The Registry of one directory.
#[derive(Debug)]
pub(super) struct Client {
    dir: PathBuf,
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(dir: &StateDir) -> Self {
        Self { dir: dir.path().to_owned(), socket: dir.socket() }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::NoAnswer(error.to_string()))?;
        self.request(Method::POST, path, body.into()).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let stream = self.connect().await?;
        let answered = tokio::time::timeout(TIMEOUT, exchange(stream, method, path, body)).await;
        let (ok, body) = answered
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|error| ClientError::NoAnswer(error.to_string()))?;
        if ok {
            return serde_json::from_slice(&body).map_err(|error| ClientError::NoAnswer(error.to_string()));
        }
        Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(refused) => ClientError::Refused(refused.error),
            Err(_) => ClientError::Refused(String::from_utf8_lossy(&body).into_owned()),
        })
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { dir: self.dir.clone() }
            }
            _ => ClientError::Socket { path: self.socket.clone(), source },
        })
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(bool, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "registry")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let ok = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok((ok, body))
}
