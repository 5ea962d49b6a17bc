//! A host with its disk and its instances.

use std::collections::{BTreeMap, BTreeSet};

use wayfare_protocol::{
    host::{Entry, Host, HostConfig, Identity, ImageId, ReceiveJob, hosted::Stay},
    ids::{Digest, MigrationId},
    reject::Strict,
    suite::{Suite, digest},
    time::Now,
    trust::TrustBundle,
};

use super::CODES;

/// A service's state: the numbers of the requests that it has executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instance(pub(super) BTreeSet<u64>);

impl Instance {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.chunks_exact(8).map(|number| u64::from_le_bytes(*number.first_chunk().unwrap())).collect())
    }

    /// As the runtime's digest: of all that there is.
    pub(super) fn digest(&self, salt: &Digest) -> Digest {
        digest("guest", &[&salt.0, &self.to_bytes()])
    }

    /// Executes a request: its number is its last word. Others' numbers are not mistaken for those of honest users.
    pub(super) fn call(&mut self, request: &[u8], honest: bool) -> (Vec<u8>, bool) {
        let number = number_of(request);
        let fresh = self.0.insert(if honest { number } else { number | 1 << 63 });
        (format!("HTTP/1.1 200 OK\r\n\r\n{number}").into_bytes(), fresh)
    }
}

/// The number of a request, or of the response to it.
pub(super) fn number_of(message: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(message);
    text.rsplit(|letter: char| !letter.is_ascii_digit())
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(u64::MAX)
}

/// What is received, and what has come of it.
pub(super) type Landing = (Option<ReceiveJob>, Option<Instance>);

/// A host, its disk and its instances.
#[derive(Clone, Debug)]
pub struct Node<S: Suite> {
    /// The machine.
    pub host: Host<S, Strict>,
    pub(super) identity: Identity,
    pub(super) config: HostConfig,
    pub(super) bundle: TrustBundle,
    /// On disk.
    pub(super) journal: Vec<(u64, Entry)>,
    /// Written, and not yet on disk.
    pub(super) unsynced: Vec<(u64, Entry)>,
    /// Nothing reaches the disk before it is told to.
    pub slow: bool,
    pub(super) images: BTreeMap<ImageId, (Instance, Vec<u8>)>,
    pub(super) running: BTreeMap<Stay, Instance>,
    pub(super) updating: BTreeMap<Stay, Instance>,
    pub(super) landing: BTreeMap<MigrationId, Landing>,
}

impl<S: Suite> Node<S> {
    pub(super) fn new(identity: Identity, config: HostConfig, bundle: TrustBundle, address: String) -> Self {
        let mut host = Host::new(identity.clone(), config.clone(), bundle.clone(), 0);
        host.set_addresses(vec![address]);
        CODES.into_iter().for_each(|code| host.handle_module(code));
        Self {
            host,
            identity,
            config,
            bundle,
            journal: Vec::new(),
            unsynced: Vec::new(),
            slow: false,
            images: BTreeMap::new(),
            running: BTreeMap::new(),
            updating: BTreeMap::new(),
            landing: BTreeMap::new(),
        }
    }

    /// The number of the last entry on disk.
    pub(super) fn last(&self) -> u64 {
        self.journal.last().map_or(0, |(seq, _)| *seq)
    }

    /// What a restart makes of this journal.
    pub(super) fn restored(&self, now: Now, journal: Vec<(u64, Entry)>) -> Host<S, Strict> {
        self.restored_at(now, self.last(), journal)
    }

    /// The same, if `last` is the number of the last entry ever written.
    pub(super) fn restored_at(&self, now: Now, last: u64, journal: Vec<(u64, Entry)>) -> Host<S, Strict> {
        let (identity, config, bundle) = (self.identity.clone(), self.config.clone(), self.bundle.clone());
        Host::restore(identity, config, bundle, now, last, journal).expect("a host reads its own journal")
    }

    /// Everything written reaches the disk.
    pub fn sync(&mut self) {
        let Some((last, _)) = self.unsynced.last() else { return };
        let last = *last;
        self.journal.append(&mut self.unsynced);
        self.host.handle_synced(last);
    }

    /// The power fails, and comes back: what is not on disk is gone.
    pub(super) fn crash(&mut self, now: Now) {
        self.unsynced.clear();
        self.slow = false;
        self.running.clear();
        self.updating.clear();
        self.landing.clear();
        self.host = self.restored(now, self.journal.clone());
        CODES.into_iter().for_each(|code| self.host.handle_module(code));
        self.host.set_addresses(vec!["/again".to_owned()]);
    }
}
