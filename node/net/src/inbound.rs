//! Which protocols this node accepts, and who takes their streams.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use wayfare_protocol::ids::HostId;

use crate::error::NetError;
use crate::limits::INBOUND_STREAMS_MAX;
use crate::stream::{Protocol, Stream};

/// A stream that a peer opened, with the peer that the transport authenticated.
pub type Incoming = (HostId, Stream);

/// A protocol is offered to peers exactly as long as the receiver that [`accept`](Self::accept) returned lives.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    accepters: Mutex<BTreeMap<Protocol, mpsc::Sender<Incoming>>>,
}

impl Inbound {
    pub(crate) fn accept(&self, protocol: Protocol) -> Result<mpsc::Receiver<Incoming>, NetError> {
        let mut accepters = self.lock();
        if accepters.get(&protocol).is_some_and(|sender| !sender.is_closed()) {
            return Err(NetError::AlreadyAccepted(protocol));
        }
        let (sender, receiver) = mpsc::channel(INBOUND_STREAMS_MAX);
        accepters.insert(protocol, sender);
        Ok(receiver)
    }

    pub(crate) fn offered(&self) -> Vec<Protocol> {
        self.lock().iter().filter(|(_, sender)| !sender.is_closed()).map(|(protocol, _)| *protocol).collect()
    }

    /// Hands a stream over. `false`: nobody takes it, or too many wait; the stream is reset.
    pub(crate) fn deliver(&self, protocol: Protocol, host: HostId, stream: Stream) -> bool {
        self.lock().get(&protocol).is_some_and(|sender| sender.try_send((host, stream)).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Protocol, mpsc::Sender<Incoming>>> {
        self.accepters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
