//! TCP and QUIC for one peer: both are tried, and TCP has a head start.
//!
//! TCP with noise carries twice as much as QUIC for half the processor time, and answers sooner, so that it is wanted wherever
//! it works. Where it is refused, QUIC starts at once; where its packets vanish, after [`HEAD_START`]. The first connection
//! that is ready serves, and the other dial ends.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol as Part;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use crate::door::Door;
use crate::limits::{HEAD_START, REFUSED_IN_A_ROW_MAX};
use crate::target::is_quic;

/// An authenticated connection.
pub(crate) type Output = (PeerId, StreamMuxerBox);

/// What either transport has to say.
type Event = TransportEvent<<Boxed<Output> as Transport>::ListenerUpgrade, io::Error>;

/// Both transports.
pub(crate) struct Race {
    tcp: Boxed<Output>,
    /// `None`: QUIC addresses are not supported, and named in the refusal.
    quic: Option<Boxed<Output>>,
    /// Turns between them, so that neither starves the other of polls.
    quic_first: bool,
    dials: Arc<Dials>,
    door: Arc<Door>,
}

impl Race {
    pub(crate) fn new(tcp: Boxed<Output>, quic: Option<Boxed<Output>>, door: Arc<Door>) -> Self {
        Self { tcp, quic, quic_first: false, dials: Arc::default(), door }
    }

    /// What the transports have to say, connections that the door refuses included.
    fn poll_both(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        self.quic_first = !self.quic_first;
        let Some(quic) = &mut self.quic else { return Pin::new(&mut self.tcp).poll(context) };
        let (first, second) = if self.quic_first { (quic, &mut self.tcp) } else { (&mut self.tcp, quic) };
        match Pin::new(first).poll(context) {
            Poll::Pending => Pin::new(second).poll(context),
            ready => ready,
        }
    }
}

/// The dials by TCP under way: how many to each peer. An entry goes with its last dial.
#[derive(Default)]
struct Dials(Mutex<HashMap<PeerId, watch::Sender<usize>>>);

impl Dials {
    fn enter(self: &Arc<Self>, peer: PeerId) -> Runner {
        self.lock().entry(peer).or_default().send_modify(|count| *count += 1);
        Runner { dials: Arc::clone(self), peer }
    }

    /// Returns when nothing is dialled by TCP to `peer`, or the head start is over.
    async fn head_start(&self, peer: PeerId) {
        let Some(mut count) = self.lock().get(&peer).map(watch::Sender::subscribe) else { return };
        // However it ends: it is QUIC's turn.
        let _ = tokio::time::timeout(HEAD_START, count.wait_for(|count| *count == 0)).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, watch::Sender<usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dial by TCP, counted until it has ended.
struct Runner {
    dials: Arc<Dials>,
    peer: PeerId,
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut dials = self.dials.lock();
        if let Some(count) = dials.get(&self.peer) {
            count.send_modify(|count| *count -= 1);
            if *count.borrow() == 0 {
                dials.remove(&self.peer);
            }
        }
    }
}

/// The peer that an address names last.
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Part::P2p(peer)) => Some(peer),
        _ => None,
    }
}

impl Transport for Race {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Output> as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        match &mut self.quic {
            Some(quic) if is_quic(&address) => quic.listen_on(id, address),
            _ => self.tcp.listen_on(id, address),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id) || self.quic.as_mut().is_some_and(|quic| quic.remove_listener(id))
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let peer = peer_of(&address);
        if !is_quic(&address) {
            let dial = self.tcp.dial(address, opts)?;
            let runner = peer.map(|peer| self.dials.enter(peer));
            return Ok(async move {
                let _runner = runner;
                dial.await
            }
            .boxed());
        }
        let Some(quic) = &mut self.quic else { return Err(TransportError::MultiaddrNotSupported(address)) };
        // It does nothing before it is polled.
        let (dial, dials) = (quic.dial(address, opts)?, Arc::clone(&self.dials));
        Ok(async move {
            if let Some(peer) = peer {
                dials.head_start(peer).await;
            }
            dial.await
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..REFUSED_IN_A_ROW_MAX {
            let event = ready!(self.poll_both(context));
            let TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } = event else {
                return Poll::Ready(event);
            };
            if let Some(handshake) = self.door.enter(&send_back_addr) {
                let upgrade = async move {
                    let _handshake = handshake;
                    upgrade.await
                }
                .boxed();
                return Poll::Ready(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr });
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn quic_starts_when_nothing_is_dialled_by_tcp() {
        let (dials, peer) = (Arc::new(Dials::default()), PeerId::random());
        let _other = dials.enter(PeerId::random());
        assert!(poll!(pin!(dials.head_start(peer))).is_ready());
        let (one, two) = (dials.enter(peer), dials.enter(peer));
        let mut waiting = pin!(dials.head_start(peer));
        assert!(poll!(&mut waiting).is_pending());
        drop(one);
        assert!(poll!(&mut waiting).is_pending());
        drop(two);
        assert!(poll!(&mut waiting).is_ready());
        assert_eq!(dials.lock().len(), 1, "the other peer's");
    }

    #[tokio::test]
    async fn quic_starts_when_the_packets_of_tcp_vanish() {
        let (dials, peer) = (Arc::new(Dials::default()), PeerId::random());
        let _silent = dials.enter(peer);
        let start = std::time::Instant::now();
        dials.head_start(peer).await;
        assert!(start.elapsed() >= HEAD_START);
    }
}
