//! The door of `wayfare-net`, with distance behind it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use wayfare_net::{Connection, Connector};

use super::{Emulator, NodeId};

/// One node's way out.
#[derive(Debug)]
struct Door {
    emulator: Emulator,
    node: NodeId,
}

impl Emulator {
    /// A connector whose every dial starts where the node then stands.
    pub fn connector_for(&self, node: NodeId) -> Arc<dyn Connector> {
        Arc::new(Door { emulator: self.clone(), node })
    }
}

impl Connector for Door {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let dialled = self.emulator.dial(self.node, target);
        async move { Ok(Box::new(dialled.await?) as Box<dyn Connection>) }.boxed()
    }
}
