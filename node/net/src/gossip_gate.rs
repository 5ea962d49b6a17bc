//! gossipsub behind a gate: what a peer sends is charged to its [`Party`](crate::door::Party) before gossipsub remembers any of
//! it.
//!
//! gossipsub keeps each message for ten seconds and each identifier for two minutes, however many there are, and takes messages
//! of topics that nobody here has subscribed to. So messages beyond a peer's share, and those of other topics, are refused as they
//! are unpacked; and a peer that sends more calls than any honest one is disconnected.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::gossipsub::{self, DataTransform, Message, RawMessage, TopicHash, WhitelistSubscriptionFilter};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use wayfare_protocol::ids::HostId;

use crate::counters::Counters;
use crate::door::Door;
use crate::error::NetError;
use crate::identity::host_id;

/// gossipsub that knows one topic only, and asks [`Admit`] about each message.
pub(crate) type Gossipsub = gossipsub::Behaviour<Admit, WhitelistSubscriptionFilter>;

/// Whose call is being unpacked. gossipsub does not tell a transform: the gate does, on the same task.
type Caller = Arc<Mutex<Option<HostId>>>;

/// Refuses messages before gossipsub keeps anything of them; changes none.
pub(crate) struct Admit {
    topic: TopicHash,
    caller: Caller,
    door: Arc<Door>,
    counters: Arc<Counters>,
}

impl DataTransform for Admit {
    fn inbound_transform(&self, raw: RawMessage) -> io::Result<Message> {
        let caller = *self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        if raw.topic != self.topic || caller.is_some_and(|host| !self.door.may_gossip(host)) {
            self.counters.gossip_refused.add_one();
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        let RawMessage { source, data, sequence_number, topic, .. } = raw;
        Ok(Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

/// See the module.
pub(crate) struct Gate {
    inner: Gossipsub,
    caller: Caller,
    door: Arc<Door>,
    counters: Arc<Counters>,
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl Gate {
    /// `make` gets what gossipsub is to be built with.
    pub(crate) fn new(
        topic: TopicHash,
        door: Arc<Door>,
        counters: Arc<Counters>,
        make: impl FnOnce(WhitelistSubscriptionFilter, Admit) -> Result<Gossipsub, NetError>,
    ) -> Result<Self, NetError> {
        let caller = Caller::default();
        let admit = Admit {
            topic: topic.clone(),
            caller: Arc::clone(&caller),
            door: Arc::clone(&door),
            counters: Arc::clone(&counters),
        };
        let inner = make(WhitelistSubscriptionFilter(HashSet::from([topic])), admit)?;
        Ok(Self { inner, caller, door, counters, closing: VecDeque::new() })
    }

    /// What is behind the gate.
    pub(crate) fn inner(&mut self) -> &mut Gossipsub {
        &mut self.inner
    }

    fn set_caller(&self, caller: Option<HostId>) {
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = caller;
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = <Gossipsub as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = gossipsub::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let Some(host) = host_id(&peer) else { return };
        if !self.door.may_call(host) {
            self.counters.gossip_refused.add_one();
            if !self.closing.contains(&(peer, id)) {
                self.closing.push_back((peer, id));
            }
            return;
        }
        self.set_caller(Some(host));
        self.inner.on_connection_handler_event(peer, id, event);
        self.set_caller(None);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // No waker is kept: connections are to be closed when one has spoken, after which the swarm polls again.
        if let Some((peer_id, id)) = self.closing.pop_front() {
            let connection = CloseConnection::One(id);
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
        }
        self.inner.poll(context)
    }
}
