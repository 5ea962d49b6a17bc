//! The control API: HTTP/1.1 and JSON on a unix socket that only the node's user may open.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /v1/node` | [`NodeInfo`](shapes::NodeInfo) |
//! | `GET /v1/clouds` | list of [`Cloud`](shapes::Cloud) |
//! | `GET /v1/services` | list of [`Service`](shapes::Service) |
//! | `GET /v1/rtt` | list of [`Rtt`](shapes::Rtt) |
//! | `GET /v1/rejects` | [`Counters`](shapes::Counters) |
//! | `GET /v1/migrations` | list of [`Migration`](shapes::Migration), oldest first |
//! | `GET /v1/migrations/{id}` | [`Migration`](shapes::Migration); a prefix of the id will do, or `last` |
//! | `GET /v1/migrations/events` | a [`MigrationEvent`](shapes::MigrationEvent) on each line, until the caller closes |
//! | `GET /v1/services/{name}/why` | [`Why`](shapes::Why) |
//! | `GET /v1/services/{name}/logs?since=N` | [`Logs`](shapes::Logs) |
//! | `POST /v1/deploy?timeout_s=N` | [`Deployed`](shapes::Deployed). Header [`MANIFEST_HEADER`]: the signed manifest, base64; body: the module |
//! | `POST /v1/services/{name}/move` | [`Moved`](shapes::Moved). Body: [`MoveRequest`](shapes::MoveRequest) |
//! | `GET /v1/records/{name}` | [`Record`](shapes::Record): what the registry has of a service, wherever that is |
//! | `POST /v1/orders?timeout_s=N&wait=B` | [`Ordered`](shapes::Ordered). Header [`ORDER_HEADER`]: the owner's signed order, base64; for an update also [`MANIFEST_HEADER`], and the module as body |
//! | `POST /v1/cordon`, `POST /v1/uncordon` | [`Cordoned`](shapes::Cordoned) |
//! | `POST /v1/drain` | a [`DrainLine`](shapes::DrainLine) on each line. Body: [`DrainRequest`](shapes::DrainRequest). Closing it ends the drain |
//!
//! A service's `{name}` may also be its id. Anything else than success has a status of 4xx or 5xx and an
//! [`ErrorBody`](shapes::ErrorBody).
//!
//! Open next: [`shapes`] for the JSON, `show` and `act` for the handlers, [`client`] for the other end.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};
use wayfare_net::Net;
use wayfare_protocol::{
    ids::RegistryId,
    limits::MODULE_BYTES_MAX,
    trust::{Certificate, Verified},
};

use crate::{gateway::GatewayHandle, host::HostHandle};

mod act;
pub mod client;
mod drain;
mod error;
mod gateway;
mod lines;
mod names;
mod order;
pub mod shapes;
mod show;
mod watch;
mod why;

pub(crate) use gateway::lookup_name;
use names::Names;

/// The header that carries a signed manifest beside its module.
pub const MANIFEST_HEADER: &str = "wayfare-manifest";
/// The header that carries an owner's signed order.
pub const ORDER_HEADER: &str = "wayfare-order";
/// Bytes of a request's body at most, but for a module: more is refused.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why the control API does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another node listens there.
    #[error("a node answers on {socket} already: stop it first, or choose another --dir")]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {socket} (a socket's path has at most 107 bytes)")]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl ApiError {
    /// Whether the operator has to change something first.
    pub const fn is_setup(&self) -> bool {
        true
    }
}

/// What the API shows and acts on.
pub(crate) struct ApiParts {
    pub(crate) host: Option<HostHandle>,
    pub(crate) gateway: Option<GatewayHandle>,
    pub(crate) net: Net,
    pub(crate) certificate: Verified<Certificate>,
    pub(crate) registry: RegistryId,
    /// What the configuration says of where it is reached, if anything.
    pub(crate) advertised: Vec<String>,
    /// Cancelled when the node is to stop because it was drained.
    pub(crate) leaving: CancellationToken,
}

/// What every handler gets.
struct Shared {
    parts: ApiParts,
    names: Names,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

type Api = axum::extract::State<Arc<Shared>>;

/// Starts the API on `socket`; a socket that a crashed node left there is replaced.
///
/// # Errors
/// [`ApiError`].
pub(crate) fn serve(
    socket: &Path,
    parts: ApiParts,
    tracker: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<(), ApiError> {
    let listener = listen(socket)?;
    let names = Names::default();
    if let Some(host) = &parts.host {
        tracker.spawn(names.clone().follow(host.clone(), shutdown.clone()));
    }
    let router = router(Arc::new(Shared { parts, names, tracker: tracker.clone(), shutdown: shutdown.clone() }));
    let path = socket.to_owned();
    tracker.spawn(async move {
        info!(socket = %path.display(), "control API");
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            error!(%error, "the control API has ended");
        }
        // What is left is replaced at the next start.
        let _ = fs::remove_file(&path);
    });
    Ok(())
}

fn listen(socket: &Path) -> Result<UnixListener, ApiError> {
    let failed = |source| ApiError::Listen { socket: socket.to_owned(), source };
    match UnixStream::connect(socket) {
        Ok(_) => return Err(ApiError::InUse { socket: socket.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(socket) => {
            fs::remove_file(socket).map_err(failed)?;
        }
        // Not there, or something that binding will report.
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn router(shared: Arc<Shared>) -> Router {
    let module_bytes_max = usize::try_from(MODULE_BYTES_MAX).unwrap_or(usize::MAX);
    Router::new()
        .route("/v1/node", get(show::node))
        .route("/v1/clouds", get(show::clouds))
        .route("/v1/services", get(show::services))
        .route("/v1/rtt", get(show::rtt))
        .route("/v1/rejects", get(show::rejects))
        .route("/v1/migrations", get(show::migrations))
        .route("/v1/migrations/events", get(watch::events))
        .route("/v1/migrations/{id}", get(show::migration))
        .route("/v1/services/{name}/why", get(why::why))
        .route("/v1/services/{name}/logs", get(show::logs))
        .route("/v1/services/{name}/move", post(act::move_service))
        .route("/v1/records/{name}", get(order::record))
        .route("/v1/cordon", post(act::cordon))
        .route("/v1/uncordon", post(act::uncordon))
        .route("/v1/drain", post(drain::drain))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route("/v1/deploy", post(act::deploy).layer(DefaultBodyLimit::max(module_bytes_max)))
        .route("/v1/orders", post(order::order).layer(DefaultBodyLimit::max(module_bytes_max)))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_path)
        .layer(axum::middleware::map_response(error::in_json))
        .with_state(shared)
}

#[cfg(test)]
mod tests;
