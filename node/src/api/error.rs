//! What the API says when it does not do something.

use axum::{
    Json,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use wayfare_protocol::reject::Reject;

use super::shapes::ErrorBody;
use crate::host::DeployError;

/// Bytes of an HTTP library's explanation that are passed on.
const TEXT_BYTES_MAX: usize = 4096;

/// A refusal: status, what is wrong, what to do.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), what_to_do: what_to_do.into() } }
    }

    pub(super) fn bad_request(error: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, what_to_do)
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping", "start it again with `wayfare run`")
    }

    pub(super) fn not_a_host() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "this node is a gateway and hosts no services",
            "name the --dir of the cloud or home node that does",
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

pub(super) async fn no_such_path() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no such path or method", "use the `wayfare` of the same version as the node")
}

/// What an operator can do about a rejection of a deployment or a move, by its name.
pub(super) fn advice(reason: &str) -> &'static str {
    let known = Reject::ALL.iter().copied().find(|reject| reject.name() == reason);
    match known {
        Some(Reject::NoResources) => "ask for less (--memory, --cpu), or raise [capacity] in the node's node.toml",
        Some(Reject::PolicyForbids) => {
            "the manifest does not allow this cloud or region: see --allow-cloud, --allow-region"
        }
        Some(Reject::NameTaken) => "choose another --name, or deploy with the key of the service's owner (--owner-key)",
        Some(Reject::NotFree) => {
            "wait until the last host's lease has ended (`wayfare remove` waits for that), and deploy again"
        }
        Some(Reject::Removed | Reject::OldVersion) => "give it a higher --manifest-version",
        Some(Reject::WrongOwner) => "sign with the key of the service's owner: --owner-key",
        Some(Reject::OldCounter) => "a newer order was given: look at the clock of this machine, or give it again",
        Some(Reject::Expired | Reject::NotYetValid) => "look at the clocks of this machine and of the registry's",
        Some(Reject::Conflict) => {
            "it is here already, or a move of it is under way: see `wayfare services`, `wayfare migrations`"
        }
        Some(Reject::UnknownAdvert) => "`wayfare clouds` lists the clouds that advertise",
        Some(Reject::SelfMove) => "nothing: it is there",
        Some(Reject::UnknownRegistry) => "deploy on a node of the registry that the manifest names",
        Some(Reject::Revoked | Reject::NotEnrolled) => "ask the operator of the registry",
        Some(_) | None => "see the logs of this node and of the registry",
    }
}

/// What the HTTP library refuses by itself (a body that is too long, a query that it cannot read) in the API's form.
pub(super) async fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_json =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), TEXT_BYTES_MAX).await.unwrap_or_default();
    let error = format!("{status}: {}", String::from_utf8_lossy(&text));
    Failure::new(status, error, "send what the API's description asks for").into_response()
}

impl From<Reject> for Failure {
    fn from(reject: Reject) -> Self {
        let status = match reject {
            Reject::UnknownService | Reject::UnknownAdvert => StatusCode::NOT_FOUND,
            Reject::Malformed | Reject::FieldTooLong | Reject::BadSignature | Reject::WrongService => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, reject.to_string(), advice(reject.name()))
    }
}

impl Failure {
    /// What was asked for and did not come about, in front of why.
    pub(super) fn of(mut self, asked: impl std::fmt::Display) -> Self {
        self.body.error = format!("{asked}: {}", self.body.error);
        self
    }
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Self {
        match error {
            DeployError::Module(_) => {
                let advice = "a service is a WebAssembly module with the ABI wayfare:request/1; see the README";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string(), advice)
            }
            DeployError::Write(source) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("the module cannot be written: {source}"),
                "make room in the node's directory",
            ),
            DeployError::Refused(reject) => reject.into(),
            DeployError::Stopping => Self::stopping(),
        }
    }
}
