//! One connection's half of [`substreams`](crate::substreams): negotiates streams.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use tokio::sync::oneshot;
use wayfare_protocol::ids::HostId;

use crate::counters::Counters;
use crate::door::Door;
use crate::error::NetError;
use crate::inbound::Inbound;
use crate::limits::OPENS_PER_CONNECTION_MAX;
use crate::stream::{Protocol, Spoken, Stream};

/// A stream that a caller waits for.
pub(crate) struct OpenRequest {
    pub(crate) protocol: Protocol,
    pub(crate) reply: oneshot::Sender<Result<Stream, NetError>>,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenRequest({})", self.protocol)
    }
}

/// The connection is to be closed: the peer did not answer a negotiation in time, and is taken for dead (libp2p itself notices a
/// vanished host only when TCP gives up, after a quarter of an hour), or it opens more streams than its share.
#[derive(Debug)]
pub(crate) struct Broken;

pub(crate) struct Handler {
    host: HostId,
    inbound: Arc<Inbound>,
    counters: Arc<Counters>,
    door: Arc<Door>,
    negotiation_timeout: Duration,
    requests: VecDeque<OpenRequest>,
    /// To be reported to the behaviour.
    broken: Option<Broken>,
}

impl Handler {
    pub(crate) fn new(
        host: HostId,
        inbound: Arc<Inbound>,
        counters: Arc<Counters>,
        door: Arc<Door>,
        negotiation_timeout: Duration,
    ) -> Self {
        Self { host, inbound, counters, door, negotiation_timeout, requests: VecDeque::new(), broken: None }
    }

    fn hand_over(&mut self, protocol: Protocol, stream: Stream) {
        if !self.door.may_open(self.host) {
            self.broken = Some(Broken);
            self.counters.streams_excess.add_one();
            return;
        }
        if !self.inbound.deliver(protocol, self.host, stream) {
            self.counters.streams_refused.add_one();
            tracing::debug!(host = %self.host, %protocol, "reset a stream that nobody took");
        }
    }

    fn refusal(&self, protocol: Protocol, error: StreamUpgradeError<Infallible>) -> NetError {
        let peer = self.host;
        match error {
            StreamUpgradeError::Timeout => NetError::Timeout { peer, what: "negotiation of a stream" },
            StreamUpgradeError::NegotiationFailed => NetError::Unsupported { peer, protocol },
            StreamUpgradeError::Io(error) => NetError::Unreachable { peer, reason: error.to_string() },
            StreamUpgradeError::Apply(never) => match never {},
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Broken;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.inbound.offered()), ()).with_timeout(self.negotiation_timeout)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, OpenRequest, Broken>> {
        // No waker is kept: requests arrive by `on_behaviour_event` only, after which libp2p polls again.
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(broken));
        }
        while let Some(request) = self.requests.pop_front() {
            if request.reply.is_closed() {
                continue;
            }
            // Newest first: the peer takes the first that it knows, which is the highest in common.
            let offer = Offer(self.inbound.spoken(request.protocol));
            let protocol = SubstreamProtocol::new(offer, request).with_timeout(self.negotiation_timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        if self.requests.len() < OPENS_PER_CONNECTION_MAX {
            self.requests.push_back(request);
        } else {
            let _ = request.reply.send(Err(NetError::Busy("streams of one connection")));
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, spoken),
                info: (),
            }) => {
                self.hand_over(spoken.protocol, Stream::new(stream, spoken.version));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, spoken), info }) => {
                let _ = info.reply.send(Ok(Stream::new(stream, spoken.version)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                if matches!(error, StreamUpgradeError::Timeout) {
                    self.broken = Some(Broken);
                }
                let _ = info.reply.send(Err(self.refusal(info.protocol, error)));
            }
            _ => {}
        }
    }
}

/// The protocols put up for negotiation; yields the raw stream and the one agreed on.
pub(crate) struct Offer(Vec<Spoken>);

impl UpgradeInfo for Offer {
    type Info = Spoken;
    type InfoIter = std::vec::IntoIter<Spoken>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<libp2p::Stream> for Offer {
    type Output = (libp2p::Stream, Spoken);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, spoken: Spoken) -> Self::Future {
        ready(Ok((stream, spoken)))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Offer {
    type Output = (libp2p::Stream, Spoken);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: libp2p::Stream, spoken: Spoken) -> Self::Future {
        ready(Ok((stream, spoken)))
    }
}
