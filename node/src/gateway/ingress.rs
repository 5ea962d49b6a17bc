//! The HTTP side: one port for each service, any number of clients.

use std::{convert::Infallible, fmt::Display, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Body,
    header::{RETRY_AFTER, UPGRADE},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};
use wayfare_protocol::{limits::REQUEST_BYTES_MAX, migration::messages::Lookup};

use super::{Answer, Command, http};
use crate::metrics::gateway::{GatewayMetrics, Outcome};

/// Connections of clients to one port. More wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// What a request's head may take of [`REQUEST_BYTES_MAX`].
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A client that has not sent its request's head in this time is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A request's body.
const BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX - HEAD_BYTES_MAX;
/// A client that has not sent its request's body in this time gets 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bodies of requests to one port that are arriving, or wait for their answers. More: 503.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What bodies are counted in, rounded up, so that their number fits a semaphore.
const UNIT_BYTES: usize = 1024;

/// One service's port.
#[derive(Clone)]
pub(super) struct Ingress {
    service: Lookup,
    commands: mpsc::Sender<Command>,
    /// [`BODIES_BYTES_MAX`], in units.
    bodies: Arc<Semaphore>,
    metrics: Arc<GatewayMetrics>,
    body_timeout: Duration,
}

impl Ingress {
    pub(super) fn new(service: Lookup, commands: mpsc::Sender<Command>, metrics: Arc<GatewayMetrics>) -> Self {
        let bodies = Arc::new(Semaphore::new(BODIES_BYTES_MAX / UNIT_BYTES));
        Self { service, commands, bodies, metrics, body_timeout: BODY_TIMEOUT }
    }

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
        let metrics = Arc::clone(&self.metrics);
        let _connected = metrics.connection();
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

    async fn handle<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        let counted = self.metrics.request();
        let (outcome, response) = self.respond(request).await;
        counted.ended(outcome, response.status());
        response
    }

    async fn respond<B>(&self, request: Request<B>) -> (Outcome, Response<Full<Bytes>>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        let refused = |response| (Outcome::Refused, response);
        let (head, body) = request.into_parts();
        if head.headers.contains_key(UPGRADE) || head.method == Method::CONNECT {
            let text = "connections of their own (CONNECT, Upgrade, WebSocket) are not carried: a service is called with one request at a time";
            return refused(http::plain(StatusCode::NOT_IMPLEMENTED, text));
        }
        let key = match http::idempotency_key(&head.headers) {
            Ok(key) => key,
            Err(text) => return refused(http::plain(StatusCode::BAD_REQUEST, text)),
        };
        let (body, room) = match tokio::time::timeout(self.body_timeout, collect(body, &self.bodies)).await {
            Ok(Ok(collected)) => collected,
            Ok(Err(error)) => return refused(error.response()),
            Err(_) => return refused(http::plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        };
        let request = http::request_bytes(&head.method, &head.uri, &head.headers, &body);
        drop(body);
        let (reply, answer) = oneshot::channel();
        let command = Command::Request { service: self.service.clone(), request, key, reply, room };
        if self.commands.send(command).await.is_err() {
            return (Outcome::Failed, http::plain(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping"));
        }
        match answer.await {
            Ok(Answer::Response(bytes)) => (Outcome::Answered, http::response(bytes)),
            Ok(Answer::Failed(failure)) => {
                let text = format!("`{}`: {failure}", super::name(&self.service));
                (Outcome::of(&failure), refusal(failure.status(), &text))
            }
            Ok(Answer::Refused(refuse)) => refused(refusal(refuse.status(), &refuse.to_string())),
            Err(_) => {
                let text = "the gateway is stopping: whether the request was executed is not known, unless it is sent again \
                            under the same Idempotency-Key";
                (Outcome::Failed, http::plain(StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }
}

/// Why a request's body was not taken.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    #[error("too many bodies are under way to this port: try again")]
    NoRoom,
    #[error("the body cannot be read: {0}")]
    Unreadable(String),
}

impl BodyError {
    fn response(&self) -> Response<Full<Bytes>> {
        let text = self.to_string();
        match self {
            Self::TooLong => http::plain(StatusCode::PAYLOAD_TOO_LARGE, &text),
            Self::NoRoom => later(http::plain(StatusCode::SERVICE_UNAVAILABLE, &text)),
            Self::Unreadable(_) => http::plain(StatusCode::BAD_REQUEST, &text),
        }
    }
}

/// The whole body, and the room that it takes up. What has arrived counts, not what is announced: who announces much
/// and sends nothing keeps nobody out.
async fn collect<B>(mut body: B, bodies: &Arc<Semaphore>) -> Result<(BytesMut, OwnedSemaphorePermit), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(BodyError::TooLong);
    }
    let mut collected = BytesMut::new();
    let mut room = take(bodies, 0)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Unreadable(error.to_string()))?;
        // Trailers are not carried.
        let Ok(bytes) = frame.into_data() else { continue };
        let len = collected.len() + bytes.len();
        if len > BODY_BYTES_MAX {
            return Err(BodyError::TooLong);
        }
        room.merge(take(bodies, len.div_ceil(UNIT_BYTES) - room.num_permits())?);
        collected.extend_from_slice(&bytes);
    }
    Ok((collected, room))
}

fn take(bodies: &Arc<Semaphore>, units: usize) -> Result<OwnedSemaphorePermit, BodyError> {
    let units = u32::try_from(units).map_err(|_| BodyError::NoRoom)?;
    Arc::clone(bodies).try_acquire_many_owned(units).map_err(|_| BodyError::NoRoom)
}

/// What the gateway says instead of a response.
fn refusal(code: u16, text: &str) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
    let response = http::plain(status, text);
    if status == StatusCode::SERVICE_UNAVAILABLE { later(response) } else { response }
}

/// Says that the same request may succeed soon.
fn later(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(RETRY_AFTER, 1.into());
    response
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use wayfare_protocol::gateway::Refuse;

    use super::*;
    use crate::metrics::journal::JournalMetrics;

    fn ingress(commands: mpsc::Sender<Command>) -> Ingress {
        let metrics = Arc::new(GatewayMetrics::new(JournalMetrics::default()));
        Ingress::new(Lookup::Name("s".to_owned()), commands, metrics)
    }

    fn chunks(chunks: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let chunks: Vec<_> = chunks.iter().map(|len| Ok(Frame::data(Bytes::from(vec![7; *len])))).collect();
        StreamBody::new(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_takes_up_room_until_it_is_let_go() {
        let bodies = Arc::new(Semaphore::new(4));
        let (body, room) = collect(chunks(&[1000, 1000, 1]), &bodies).await.unwrap();
        assert_eq!((body.len(), bodies.available_permits()), (2001, 2));
        let refused = collect(chunks(&[1024, 1024, 1]), &bodies).await.unwrap_err();
        assert!(matches!(refused, BodyError::NoRoom), "{refused}");
        let response = refused.response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get(RETRY_AFTER).unwrap(), "1");
        assert_eq!(bodies.available_permits(), 2, "who is refused gives back what it had");
        let (empty, _) = collect(chunks(&[]), &Arc::new(Semaphore::new(0))).await.unwrap();
        assert!(empty.is_empty(), "a request without a body needs no room");
        drop(room);
        assert_eq!(bodies.available_permits(), 4);
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let bodies = Arc::new(Semaphore::new(BODIES_BYTES_MAX / UNIT_BYTES));
        let announced = collect(Full::new(Bytes::from(vec![0; BODY_BYTES_MAX + 1])), &bodies).await;
        let arrived = collect(chunks(&[BODY_BYTES_MAX, 1]), &bodies).await;
        for refused in [announced, arrived] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, BodyError::TooLong), "{refused}");
            assert_eq!(refused.response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        assert_eq!(collect(chunks(&[BODY_BYTES_MAX]), &bodies).await.unwrap().0.len(), BODY_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_port_full_of_bodies_refuses_the_next_and_takes_one_after_an_answer() {
        let (commands, mut queue) = mpsc::channel(8);
        let mut ingress = ingress(commands);
        ingress.bodies = Arc::new(Semaphore::new(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let tracker = TaskTracker::new();
        tracker.spawn(ingress.serve(listener, tracker.clone(), shutdown.clone()));
        let send = || async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            let request = b"POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
            client.write_all(request).await.unwrap();
            client
        };
        let text = |mut client: TcpStream| async move {
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        };
        let first = send().await;
        let Some(Command::Request { request, reply, room, .. }) = queue.recv().await else { unreachable!() };
        assert!(request.ends_with(b"\r\n\r\nbody"));
        let refused = text(send().await).await;
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
        drop(room);
        assert!(reply.send(Answer::Response(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).is_ok());
        assert!(text(first).await.starts_with("HTTP/1.1 200"));
        let _third = send().await;
        assert!(matches!(queue.recv().await, Some(Command::Request { .. })));
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_key_goes_along_with_its_request_and_what_is_none_goes_nowhere() {
        let (commands, mut queue) = mpsc::channel(8);
        let ingress = ingress(commands);
        let request = |key| {
            let request = Request::post("/pay").header("Idempotency-Key", key);
            request.body(Full::new(Bytes::from_static(b"1"))).unwrap()
        };
        let refused = ingress.clone().handle(request("a b")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        let asking = tokio::spawn(ingress.handle(request("\"a\"")));
        let Some(Command::Request { key, request, reply, .. }) = queue.recv().await else { unreachable!() };
        assert_eq!(key.map(String::from).as_deref(), Some("a"));
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains("idempotency-key: \"a\"\r\n"), "{request}");
        assert!(reply.send(Answer::Refused(Refuse::KeyReused)).is_ok());
        assert_eq!(asking.await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let (commands, _queue) = mpsc::channel(8);
        let mut ingress = ingress(commands);
        ingress.body_timeout = Duration::from_millis(20);
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let response = ingress.handle(Request::new(body)).await;
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
