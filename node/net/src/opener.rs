//! Asks the swarm task for connections and streams.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wayfare_protocol::ids::HostId;

use crate::counters::Counters;
use crate::driver::Command;
use crate::error::NetError;
use crate::handler::OpenRequest;
use crate::identity::{peer_id, usable_addresses};
use crate::limits::IDENTIFY_TIME;
use crate::peers::Peers;
use crate::stream::{Protocol, Stream};
use crate::substreams::Call;

#[derive(Clone)]
pub(crate) struct Opener {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) open_timeout: Duration,
    pub(crate) peers: Arc<Peers>,
    pub(crate) counters: Arc<Counters>,
}

impl Opener {
    pub(crate) async fn open(
        &self,
        peer: HostId,
        addresses: &[String],
        protocol: Protocol,
    ) -> Result<Stream, NetError> {
        // Nothing is asked of a peer that is known to understand nothing: whoever tries again costs nobody anything.
        if let Some(peer) = self.peers.incompatible(peer) {
            self.counters.versions_refused.add_one();
            return Err(NetError::NoCommonVersion { peer });
        }
        let opened = self.call(peer, addresses, |reply| Call::Open(OpenRequest { protocol, reply })).await;
        if let Err(NetError::Unsupported { .. }) = opened
            && let Some(peer) = self.peers.wait_incompatible(peer, IDENTIFY_TIME).await
        {
            self.counters.versions_refused.add_one();
            return Err(NetError::NoCommonVersion { peer });
        }
        opened
    }

    pub(crate) async fn connect(&self, peer: HostId, addresses: &[String]) -> Result<(), NetError> {
        self.call(peer, addresses, Call::Connect).await
    }

    async fn call<T>(
        &self,
        host: HostId,
        addresses: &[String],
        call: impl FnOnce(oneshot::Sender<Result<T, NetError>>) -> Call,
    ) -> Result<T, NetError> {
        let peer: PeerId = peer_id(&host);
        let (reply, answer) = oneshot::channel();
        let command = Command::Call { peer, addresses: usable_addresses(&peer, addresses), call: call(reply) };
        let answered = async {
            self.commands.send(command).await.map_err(|_| NetError::Stopped)?;
            match answer.await {
                Ok(result) => result,
                Err(_) if self.commands.is_closed() => Err(NetError::Stopped),
                // libp2p drops requests for a connection that has just ended.
                Err(_) => Err(NetError::Unreachable { peer: host, reason: "the connection was closed".to_owned() }),
            }
        };
        timeout(self.open_timeout, answered)
            .await
            .unwrap_or(Err(NetError::Timeout { peer: host, what: "connection or stream" }))
    }
}
