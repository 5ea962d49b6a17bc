//! The libp2p behaviour that opens and accepts our streams, and dials for whoever wants one.
//!
//! libp2p-stream is not used: it holds one waiting inbound stream for each protocol and resets the second, it
//! negotiates one stream of a connection at a time, it keeps a sender for every connection that ever was, and it dials
//! without addresses of ours.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use wayfare_protocol::ids::HostId;

use crate::counters::Counters;
use crate::door::{Admission, Door};
use crate::error::NetError;
use crate::handler::{Broken, Handler, OpenRequest};
use crate::identity::{host_id, peer_id};
use crate::inbound::Inbound;
use crate::limits::{CALLS_WAITING_MAX, REASON_CHARS_MAX};

/// What a caller wants of a peer.
pub(crate) enum Call {
    /// To be connected.
    Connect(oneshot::Sender<Result<(), NetError>>),
    /// A stream.
    Open(OpenRequest),
}

impl Call {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Connect(reply) => reply.is_closed(),
            Self::Open(request) => request.reply.is_closed(),
        }
    }

    fn fail(self, error: NetError) {
        match self {
            Self::Connect(reply) => drop(reply.send(Err(error))),
            Self::Open(request) => drop(request.reply.send(Err(error))),
        }
    }
}

/// A dial under way, and the calls that fail if it does. Any connection to the peer, however made, serves them all.
struct Dial {
    id: ConnectionId,
    addresses: Vec<Multiaddr>,
    calls: Vec<Call>,
}

pub(crate) struct Behaviour {
    inbound: Arc<Inbound>,
    counters: Arc<Counters>,
    door: Arc<Door>,
    negotiation_timeout: Duration,
    /// Each connected peer's connections, oldest first: streams are opened on the oldest.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    dials: HashMap<PeerId, Vec<Dial>>,
    actions: VecDeque<ToSwarm<std::convert::Infallible, OpenRequest>>,
}

impl Behaviour {
    pub(crate) fn new(
        inbound: Arc<Inbound>,
        counters: Arc<Counters>,
        door: Arc<Door>,
        negotiation_timeout: Duration,
    ) -> Self {
        Self {
            inbound,
            counters,
            door,
            negotiation_timeout,
            connections: HashMap::new(),
            dials: HashMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// Serves `call` over a connection to `peer`, dialling `addresses` if there is none.
    pub(crate) fn call(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, call: Call) {
        if let Some(id) = self.connections.get(&peer).and_then(|ids| ids.first()) {
            Self::serve(&mut self.actions, peer, *id, call);
            return;
        }
        for dials in self.dials.values_mut() {
            dials.iter_mut().for_each(|dial| dial.calls.retain(|call| !call.is_abandoned()));
        }
        if self.dials.values().flatten().map(|dial| dial.calls.len()).sum::<usize>() >= CALLS_WAITING_MAX {
            call.fail(NetError::Busy("calls that wait for a connection"));
            return;
        }
        let dials = self.dials.entry(peer).or_default();
        if let Some(dial) = dials.iter_mut().find(|dial| dial.addresses == addresses) {
            dial.calls.push(call);
            return;
        }
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses.clone())
            .extend_addresses_through_behaviour()
            .build();
        dials.push(Dial { id: opts.connection_id(), addresses, calls: vec![call] });
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    fn serve(
        actions: &mut VecDeque<ToSwarm<std::convert::Infallible, OpenRequest>>,
        peer_id: PeerId,
        id: ConnectionId,
        call: Call,
    ) {
        match call {
            Call::Connect(reply) => drop(reply.send(Ok(()))),
            Call::Open(event) => {
                actions.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event });
            }
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId) {
        self.connections.entry(peer).or_default().push(id);
        for call in self.dials.remove(&peer).into_iter().flatten().flat_map(|dial| dial.calls) {
            Self::serve(&mut self.actions, peer, id, call);
        }
    }

    /// Strangers make room for each other: those who came last from where there are few.
    fn on_guest(&mut self, peer: PeerId, id: ConnectionId, from: &Multiaddr) {
        let Some(host) = host_id(&peer) else { return };
        if let Admission::InsteadOf(other, oldest) = self.door.arrived(id, host, from) {
            let (peer_id, connection) = (peer_id(&other), CloseConnection::One(oldest));
            self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some(ids) = self.connections.get_mut(&peer) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.connections.remove(&peer);
            }
        }
    }

    fn on_dial_failure(&mut self, peer: PeerId, id: ConnectionId, error: &DialError) {
        let Some(dials) = self.dials.get_mut(&peer) else { return };
        let Some(position) = dials.iter().position(|dial| dial.id == id) else { return };
        let failed = dials.swap_remove(position);
        if dials.is_empty() {
            self.dials.remove(&peer);
        }
        let Some(host) = host_id(&peer) else { return };
        failed.calls.into_iter().for_each(|call| call.fail(explain(host, error)));
    }

    fn handler(&self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        let host = host_id(peer).ok_or_else(|| ConnectionDenied::new("the peer's key is not ed25519"))?;
        let (inbound, counters) = (Arc::clone(&self.inbound), Arc::clone(&self.counters));
        Ok(Handler::new(host, inbound, counters, Arc::clone(&self.door), self.negotiation_timeout))
    }
}

/// What a failed dial means to a caller.
fn explain(peer: HostId, error: &DialError) -> NetError {
    let reason = match error {
        DialError::WrongPeerId { obtained, address } => match host_id(obtained) {
            Some(found) => return NetError::WrongPeer { peer, found, address: address.to_string() },
            None => format!("{address} belongs to another peer"),
        },
        DialError::LocalPeerId { address } => format!("{address} is this node itself"),
        DialError::NoAddresses => "no usable address is known".to_owned(),
        DialError::Denied { cause } => chain(cause),
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => "the dial was aborted".to_owned(),
        DialError::Transport(failures) => {
            let texts: Vec<String> =
                failures.iter().map(|(address, error)| format!("{address}: {}", chain(error))).collect();
            texts.join("; ")
        }
    };
    NetError::Unreachable { peer, reason: reason.chars().take(REASON_CHARS_MAX).collect() }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                if endpoint.is_listener() {
                    self.on_guest(peer_id, connection_id, endpoint.get_remote_address());
                }
                self.on_established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.door.left(connection_id);
                self.on_closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), connection_id, error }) => {
                self.on_dial_failure(peer, connection_id, error);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer_id: PeerId, id: ConnectionId, Broken: THandlerOutEvent<Self>) {
        self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // No waker is kept: actions are queued by the swarm's own task only, which polls the swarm afterwards.
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
