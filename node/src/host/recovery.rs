//! Taking up what an earlier run of this node wrote down.

use tracing::info;
use wayfare_protocol::host::{Entry, Host};

use super::{HostError, HostParts};
use crate::clock::now;

/// The machine as the journal remembers it. Its effects say what there is to rebuild.
pub(super) fn machine(
    parts: &HostParts,
    entries: Vec<wayfare_journal::Entry>,
    last_seq: u64,
) -> Result<Host, HostError> {
    let (dir, count) = (&parts.dir, entries.len());
    let mut decoded = Vec::with_capacity(count);
    for (seq, payload) in entries {
        let entry = Entry::from_bytes(&payload);
        decoded.push((seq, entry.map_err(|source| HostError::Entry { dir: dir.clone(), seq, source })?));
    }
    let (identity, config, bundle) = (parts.identity.clone(), parts.config.clone(), parts.bundle.clone());
    let restored = Host::restore(identity, config, bundle, now(), last_seq, decoded);
    let mut host = restored.map_err(|source| HostError::Foreign { dir: dir.clone(), source })?;
    if count > 0 {
        info!(entries = count, services = host.services(now()).len(), "the journal was read");
    }
    if parts.forget_lost {
        host.forget_lost();
    }
    Ok(host)
}
