//! Which protocols this node accepts, and who takes their streams.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use wayfare_protocol::ids::HostId;

use crate::error::NetError;
use crate::limits::INBOUND_STREAMS_MAX;
use crate::stream::{Protocol, Spoken, Stream};

/// A stream that a peer opened, with the peer that the transport authenticated.
pub type Incoming = (HostId, Stream);

/// A protocol is offered to peers exactly as long as the receiver that [`accept`](Self::accept) returned lives.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What this node speaks, newest first.
    versions: Vec<u8>,
    accepters: Mutex<BTreeMap<Protocol, Accepter>>,
}

#[derive(Debug)]
struct Accepter {
    sender: mpsc::Sender<Incoming>,
    offered: Vec<Spoken>,
}

impl Inbound {
    pub(crate) fn new(versions: Vec<u8>) -> Self {
        Self { versions, accepters: Mutex::default() }
    }

    /// This node's names for `protocol`, newest first.
    pub(crate) fn spoken(&self, protocol: Protocol) -> Vec<Spoken> {
        self.versions.iter().map(|version| Spoken::new(protocol, *version)).collect()
    }

    pub(crate) fn accept(&self, protocol: Protocol) -> Result<mpsc::Receiver<Incoming>, NetError> {
        let mut accepters = self.lock();
        if accepters.get(&protocol).is_some_and(|accepter| !accepter.sender.is_closed()) {
            return Err(NetError::AlreadyAccepted(protocol));
        }
        let (sender, receiver) = mpsc::channel(INBOUND_STREAMS_MAX);
        accepters.insert(protocol, Accepter { sender, offered: self.spoken(protocol) });
        Ok(receiver)
    }

    pub(crate) fn offered(&self) -> Vec<Spoken> {
        let accepters = self.lock();
        let open = accepters.values().filter(|accepter| !accepter.sender.is_closed());
        open.flat_map(|accepter| accepter.offered.iter().cloned()).collect()
    }

    /// Hands a stream over. `false`: nobody takes it, or too many wait; the stream is reset.
    pub(crate) fn deliver(&self, protocol: Protocol, host: HostId, stream: Stream) -> bool {
        self.lock().get(&protocol).is_some_and(|accepter| accepter.sender.try_send((host, stream)).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Protocol, Accepter>> {
        self.accepters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
