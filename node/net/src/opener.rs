//! Asks the swarm task for connections and streams.

use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wayfare_protocol::ids::HostId;

use crate::driver::Command;
use crate::error::NetError;
use crate::handler::OpenRequest;
use crate::identity::{peer_id, usable_addresses};
use crate::stream::{Protocol, Stream};
use crate::substreams::Call;

#[derive(Clone)]
pub(crate) struct Opener {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) open_timeout: Duration,
}

impl Opener {
    pub(crate) async fn open(
        &self,
        peer: HostId,
        addresses: &[String],
        protocol: Protocol,
    ) -> Result<Stream, NetError> {
        self.call(peer, addresses, |reply| Call::Open(OpenRequest { protocol, reply })).await
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
