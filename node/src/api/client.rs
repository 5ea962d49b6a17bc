//! The other end of the control API, for the command line and for programs.

use std::{io, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::shapes::ErrorBody;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

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
        let path: String = path.iter().map(|part| format!("/{}", segment(part))).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let mut request = Request::builder().method(method).uri(format!("/v1{path}{query}")).header("host", "node");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| ClientError::Garbled(error.to_string()))?;
        let (status, bytes) = self.send(request).await?;
        let garbled = |error: serde_json::Error| ClientError::Garbled(error.to_string());
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(garbled);
        }
        match serde_json::from_slice(&bytes) {
            Ok(body) => Err(ClientError::Refused(body)),
            Err(_) => Err(ClientError::Garbled(format!("{status}: {}", String::from_utf8_lossy(&bytes)))),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(hyper::StatusCode, Bytes), ClientError> {
        let dir = || self.socket.parent().map(PathBuf::from).unwrap_or_default();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { dir: dir() },
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { dir: dir() },
            _ => ClientError::Broken(error.to_string()),
        })?;
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| ClientError::Broken(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        let answer = answer.await;
        connection.abort();
        answer
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
