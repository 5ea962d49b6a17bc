//! Joining: the node shows its Registry the join token's hash and proves that it holds its key; the Registry answers with a
//! certificate.
//!
//! The request is on disk before it is sent, and a repeat, even after a restart, sends the same bytes: the Registry then
//! gives the same answer, so a lost answer does not use the token up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wayfare_net::{FrameError, FrameReader, FrameWriter, Net, NetError, Protocol};
use wayfare_protocol::{
    ids::Nonce,
    limits::{FRAME_BYTES_MAX, RETRY_FIRST, RETRY_MAX},
    migration::messages::{Enrol, Enrolled, RegistryFrame},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, fresh16},
    trust::{Certificate, JoinToken, Receiver, Signed, TrustBundle},
    wire::Frame,
};

use crate::{
    clock::{entropy, now},
    state::{StateDir, StateError},
    words::in_words,
};

/// How long the Registry may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The Registry said no. Nothing changed there.
    #[error("the registry refuses this node: {reason}; {advice}")]
    Refused {
        /// What it said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The certificate is not the one that was asked for. The Registry and this program do not fit together.
    #[error("the registry's certificate cannot be used")]
    Certificate(#[source] Reject),
    /// The request or the certificate cannot be kept.
    #[error("the certificate cannot be kept")]
    State(#[from] StateError),
    /// The node was told to stop.
    #[error("the node was stopped before it had joined")]
    Stopped,
}

/// Why one try failed; the next may succeed.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("{0}")]
    Net(#[from] NetError),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it does not answer")]
    Silent,
    #[error("it sent something unusable: {0}")]
    Unusable(#[from] Reject),
}

enum Answer {
    Enrolled(Signed<Certificate>),
    Refused(String),
}

/// What the Registry's word for a refusal means to the operator.
fn advice(reason: &str) -> &'static str {
    let is = |reject: Reject| reject.name() == reason;
    if is(Reject::BadToken) {
        "a join token is used up by the first node that shows it, and expires: make a new one with `wayfare-registry \
         join-token`, and put it into join.token (chmod 600)"
    } else if is(Reject::Revoked) {
        "the operator of the registry has revoked it: ask there"
    } else if is(Reject::Conflict) || is(Reject::WrongRole) {
        "its key is enrolled under another name or role, or the token is for another one: make a new node with \
         `wayfare init` in another directory"
    } else {
        "ask the operator of the registry"
    }
}

/// A node that wants to join.
pub(crate) struct Candidate<'a> {
    pub(crate) dir: &'a StateDir,
    pub(crate) net: &'a Net,
    pub(crate) secret: &'a Secret,
    pub(crate) region: &'a str,
    pub(crate) bundle: &'a TrustBundle,
}

impl Candidate<'_> {
    /// Joins, trying until the Registry answers or `shutdown`. The certificate is on disk then, the token deleted.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub(crate) async fn join(
        &self,
        token: &JoinToken,
        shutdown: &CancellationToken,
    ) -> Result<Signed<Certificate>, EnrolError> {
        let request = self.request(token)?;
        let mut pause = RETRY_FIRST;
        loop {
            let answer = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(EnrolError::Stopped),
                answer = self.ask(token, &request) => answer,
            };
            match answer {
                Ok(Answer::Enrolled(certificate)) => {
                    self.check(token, &certificate)?;
                    self.dir.keep_certificate(&certificate)?;
                    info!(name = token.name, role = token.role.name(), "joined");
                    return Ok(certificate);
                }
                Ok(Answer::Refused(reason)) => {
                    return Err(EnrolError::Refused { reason: in_words(&reason), advice: advice(&reason) });
                }
                Err(error) => {
                    let (registry, seconds) = (token.anchor.addresses.join(", "), pause.as_secs_f64());
                    warn!(registry, %error, "cannot join yet: the registry is not reached; trying again in {seconds} s");
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(EnrolError::Stopped),
                () = tokio::time::sleep(Duration::from_micros(pause.0)) => {}
            }
            pause = pause.times(2).min(RETRY_MAX);
        }
    }

    /// The request of an earlier run for the same token, or a new one that is now on disk.
    fn request(&self, token: &JoinToken) -> Result<Signed<Enrol>, StateError> {
        let wanted = Enrol {
            host: self.net.host_id(),
            role: token.role,
            region: self.region.to_owned(),
            token: token.secret.hash(),
            nonce: Nonce(fresh16(&mut entropy())),
        };
        let same = |old: &Enrol| *old == Enrol { nonce: old.nonce, ..wanted.clone() };
        if let Some(earlier) = self.dir.join_request()
            && earlier.unverified().is_ok_and(|old| same(&old))
        {
            return Ok(earlier);
        }
        let registry = token.anchor.id;
        let signed = Signed::sign::<Dalek>(self.secret, registry, Receiver::Registry(registry), &wanted);
        self.dir.keep_join_request(&signed)?;
        Ok(signed)
    }

    async fn ask(&self, token: &JoinToken, request: &Signed<Enrol>) -> Result<Answer, Unreached> {
        let anchor = &token.anchor;
        let stream = self.net.open(anchor.host(), &anchor.addresses, Protocol::Registry).await?;
        let (read_half, write_half) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write_half, FRAME_BYTES_MAX);
        let mut reader = FrameReader::new(read_half, FRAME_BYTES_MAX);
        let nonce = request.unverified()?.nonce;
        let exchange = async {
            writer.send(&RegistryFrame::Enrol(request.clone()).to_bytes()).await?;
            loop {
                match RegistryFrame::from_bytes(&reader.read().await?)? {
                    RegistryFrame::Enrolled(Enrolled { nonce: answered, certificate }) if answered == nonce => {
                        return Ok(Answer::Enrolled(certificate));
                    }
                    RegistryFrame::Refused(refused) if refused.about == token.secret.hash() => {
                        return Ok(Answer::Refused(refused.reason));
                    }
                    // Not about this request.
                    _ => {}
                }
            }
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(Unreached::Silent))?;
        // The answer is here: how the stream ends does not matter.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, writer.finish()).await;
        Ok(answer)
    }

    fn check(&self, token: &JoinToken, certificate: &Signed<Certificate>) -> Result<(), EnrolError> {
        let (me, wall) = (self.net.host_id(), now().wall);
        let verified = self.bundle.verify_certificate::<Dalek, Strict>(certificate, me, &[token.role], wall);
        let (registry, certificate) = verified.map_err(EnrolError::Certificate)?;
        let ours = registry == token.anchor.id && certificate.name == token.name && certificate.region == self.region;
        if ours { Ok(()) } else { Err(EnrolError::Certificate(Reject::BadCertificate)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        assert!(advice("bad_token").contains("wayfare-registry"));
        assert!(advice("revoked").contains("revoked"));
        assert!(advice("\u{1b}[31m").contains("operator"));
    }
}
