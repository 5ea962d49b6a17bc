//! The HTTP side: one port for each service, any number of clients.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{RETRY_AFTER, UPGRADE},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use wayfare_protocol::{limits::REQUEST_BYTES_MAX, migration::messages::Lookup};

use super::{Answer, Command, http};

/// Connections of clients to one port. More wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// What a request's head may take of [`REQUEST_BYTES_MAX`].
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A client that has not sent its request's head in this time is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// One service's port.
#[derive(Clone)]
pub(super) struct Ingress {
    pub(super) service: Lookup,
    pub(super) commands: mpsc::Sender<Command>,
}

impl Ingress {
    /// Accepts clients until shutdown; then the connections finish the request they are at.
    pub(super) async fn serve(self, listener: TcpListener, tracker: TaskTracker, shutdown: CancellationToken) {
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
                    let (ingress, shutdown) = (self.clone(), shutdown.clone());
                    tracker.spawn(async move {
                        ingress.connection(stream, shutdown).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, say: existing clients go on, new ones wait.
                    warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, shutdown: CancellationToken) {
        // Responses are small and awaited: never held back for more.
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let ingress = self.clone();
            async move { Ok::<_, Infallible>(ingress.handle(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            debug!(%error, "a client's connection ended");
        }
    }

    async fn handle(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if head.headers.contains_key(UPGRADE) || head.method == Method::CONNECT {
            let text = "connections of their own (CONNECT, Upgrade, WebSocket) are not carried: a service is called with one request at a time";
            return http::plain(StatusCode::NOT_IMPLEMENTED, text);
        }
        let body = match Limited::new(body, REQUEST_BYTES_MAX - HEAD_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let text = format!("the body is longer than {} bytes", REQUEST_BYTES_MAX - HEAD_BYTES_MAX);
                return http::plain(StatusCode::PAYLOAD_TOO_LARGE, &text);
            }
            Err(error) => return http::plain(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}")),
        };
        let request = http::request_bytes(&head.method, &head.uri, &head.headers, &body);
        let (reply, answer) = oneshot::channel();
        let command = Command::Request { service: self.service.clone(), request, reply };
        if self.commands.send(command).await.is_err() {
            return http::plain(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping");
        }
        match answer.await {
            Ok(Answer::Response(bytes)) => http::response(bytes),
            Ok(Answer::Failed(failure)) => http::plain(status(failure.status()), &failure.to_string()),
            Ok(Answer::Refused(refuse)) => {
                let mut response = http::plain(status(refuse.status()), &refuse.to_string());
                if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().insert(RETRY_AFTER, 1.into());
                }
                response
            }
            Err(_) => http::plain(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping"),
        }
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY)
}
