//! The control API: HTTP and JSON on a unix socket in the state directory. Whoever can open the socket is the operator.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use wayfare_protocol::trust::{Anchor, Role};

use crate::{
    handle::{Handle, HandleError},
    view::{BackupView, JoinTokenView},
};

/// Longest body of a request.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a join token can live at most: a month.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// How long requests under way may take once the Registry stops.
const GRACE: Duration = Duration::from_secs(1);

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) addresses: Vec<String>,
}

impl Status {
    pub(crate) fn new(name: &str, anchor: &Anchor) -> Self {
        Self {
            name: name.to_owned(),
            id: anchor.id.to_string(),
            key: anchor.host().to_string(),
            addresses: anchor.addresses.clone(),
        }
    }
}

/// Body of `POST /v1/join-tokens`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinTokenRequest {
    pub(crate) cloud: String,
    pub(crate) role: String,
    pub(crate) ttl_s: u64,
}

/// Body of `POST /v1/revoke`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    pub(crate) target: String,
}

/// Body of `POST /v1/backup`: an absolute path on the Registry's machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupRequest {
    pub(crate) file: PathBuf,
    pub(crate) force: bool,
}

/// Body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: String,
}

struct ApiError(StatusCode, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<HandleError> for ApiError {
    fn from(error: HandleError) -> Self {
        let status = match error {
            HandleError::Refused(_) | HandleError::Backup(_) => StatusCode::UNPROCESSABLE_ENTITY,
            HandleError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

#[derive(Clone)]
struct Shared {
    handle: Handle,
    status: Status,
}

/// Makes the socket, for its owner alone. A socket that a crashed process left behind is replaced: the caller holds the
/// store, so no other Registry runs here.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `shutdown`, then removes the socket.
pub(crate) async fn serve(
    listener: UnixListener,
    path: PathBuf,
    handle: Handle,
    status: Status,
    shutdown: CancellationToken,
) {
    let router = router(Shared { handle, status });
    let stop = shutdown.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = async { serving.await } => if let Err(error) = result {
            tracing::error!(%error, "the control API stopped");
        },
        () = deadline => {}
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, path = %path.display(), "the control socket is gone already");
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(async |State(shared): State<Shared>| Json(shared.status)))
        .route("/v1/join-tokens", post(join_token))
        .route("/v1/revoke", post(revoke))
        .route("/v1/backup", post(backup))
        .route("/v1/recovery", get(async |State(shared): State<Shared>| answer(shared.handle.recovery().await)))
        .route("/v1/enrolled", get(async |State(shared): State<Shared>| answer(shared.handle.enrolled().await)))
        .route("/v1/placements", get(async |State(shared): State<Shared>| answer(shared.handle.placements().await)))
        .route("/v1/stats", get(async |State(shared): State<Shared>| answer(shared.handle.stats().await)))
        .fallback(async || ApiError(StatusCode::NOT_FOUND, "no such resource".to_owned()))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

fn answer<T: Serialize>(result: Result<T, HandleError>) -> Result<Json<T>, ApiError> {
    Ok(Json(result?))
}

async fn join_token(
    State(shared): State<Shared>,
    Json(request): Json<JoinTokenRequest>,
) -> Result<Json<JoinTokenView>, ApiError> {
    let bad = |text: String| ApiError(StatusCode::UNPROCESSABLE_ENTITY, text);
    let role = Role::parse(&request.role)
        .ok_or_else(|| bad(format!("`{}` is no role: use cloud, home or gateway", request.role)))?;
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(bad(format!("a join token lives from 1 second to {} days", TTL_MAX.as_secs() / 86_400)));
    }
    let token = shared.handle.join_token(&request.cloud, role, ttl).await?;
    Ok(Json(JoinTokenView::new(&token, wayfare_protocol::time::Micros::from_secs(request.ttl_s))))
}

async fn revoke(
    State(shared): State<Shared>,
    Json(request): Json<RevokeRequest>,
) -> Result<Json<RevokeRequest>, ApiError> {
    shared.handle.revoke(&request.target).await?;
    Ok(Json(request))
}

async fn backup(
    State(shared): State<Shared>,
    Json(request): Json<BackupRequest>,
) -> Result<Json<BackupView>, ApiError> {
    if !request.file.is_absolute() {
        return Err(ApiError(StatusCode::UNPROCESSABLE_ENTITY, "`file` must be an absolute path".to_owned()));
    }
    answer(shared.handle.backup(&request.file, request.force).await)
}
