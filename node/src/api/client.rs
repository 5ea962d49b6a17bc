//! The other end of the control API, for the command line and for programs.

use std::{io, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::shapes::ErrorBody;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one line of an answer that goes on, at most.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no node runs in {dir}: start it with `wayfare run --dir {dir}`, or name its directory with --dir")]
    NotRunning {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("{dir} belongs to another user: run this as the user that the node runs as")]
    NotAllowed {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The node says no.
    #[error("{}\n  {}", .0.error, .0.what_to_do)]
    Refused(ErrorBody),
    /// The connection failed.
    #[error("the connection to the node failed: {0}; its log may say why")]
    Broken(String),
    /// The answer is not what this program expects.
    #[error("the node's answer is not understood ({0}): use the `wayfare` of the same version as the node")]
    Garbled(String),
}

/// Talks to one node, with a connection for each call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// `text` as one segment of a path.
fn segment(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        // The dot too: `.` and `..` mean something in paths.
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

impl Client {
    /// For the node whose API listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// `GET` of `/v1`, then `path`, each a segment, with an optional query.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, query, &[], Bytes::new()).await
    }

    /// `POST` of `body` as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.call(Method::POST, path, "", &[("content-type", "application/json")], body.into()).await
    }

    /// Any call.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (response, _connection) = self.send(request(method, path, query, headers, body)?).await?;
        let bytes = whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// As [`get`](Self::get), of an answer that goes on, line by line. Dropping the lines hangs up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_lines(&self, path: &[&str]) -> Result<Lines, ClientError> {
        self.lines(request(Method::GET, path, "", &[], Bytes::new())?).await
    }

    /// As [`post`](Self::post), of an answer that goes on, line by line. Dropping the lines hangs up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_lines(&self, path: &[&str], body: &impl Serialize) -> Result<Lines, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.lines(request(Method::POST, path, "", &[("content-type", "application/json")], body.into())?).await
    }

    async fn lines(&self, request: Request<Full<Bytes>>) -> Result<Lines, ClientError> {
        let (response, connection) = self.send(request).await?;
        Ok(Lines { body: response.into_body(), read: Vec::new(), _connection: connection })
    }

    /// An answer that is no refusal, and the connection that it comes by.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ClientError> {
        let dir = || self.socket.parent().map(PathBuf::from).unwrap_or_default();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { dir: dir() },
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { dir: dir() },
            _ => ClientError::Broken(error.to_string()),
        })?;
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // How it ends shows in the answer.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, connection));
        }
        let bytes = whole(response).await?;
        Err(match serde_json::from_slice(&bytes) {
            Ok(body) => ClientError::Refused(body),
            Err(_) => ClientError::Garbled(format!("{status}: {}", String::from_utf8_lossy(&bytes))),
        })
    }
}

fn request(
    method: Method,
    path: &[&str],
    query: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let path: String = path.iter().map(|part| format!("/{}", segment(part))).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let mut request = Request::builder().method(method).uri(format!("/v1{path}{query}")).header("host", "node");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body)).map_err(|error| ClientError::Garbled(error.to_string()))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes())
}

/// An answer that goes on: one JSON value on each line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

impl Lines {
    /// The next line; `None` when the node has said all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let garbled = |error: serde_json::Error| ClientError::Garbled(error.to_string());
                return serde_json::from_slice(&line).map(Some).map_err(garbled);
            }
            if self.read.len() > LINE_BYTES_MAX {
                return Err(ClientError::Garbled(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                None if self.read.is_empty() => return Ok(None),
                None => return Err(ClientError::Broken("it ended within a line".to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("kv-1_~"), "kv-1_~");
        assert_eq!(segment("../a b?ü"), "%2E%2E%2Fa%20b%3F%C3%BC");
    }

    #[tokio::test]
    async fn a_node_that_does_not_run_is_told_so() {
        let temp = tempfile::tempdir().unwrap();
        let client = Client::new(temp.path().join("api.sock"));
        let error = client.get::<()>(&["node"], "").await.unwrap_err().to_string();
        assert!(error.contains("wayfare run --dir"), "{error}");
    }
}
