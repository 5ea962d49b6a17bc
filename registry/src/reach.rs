//! A Registry whose address has changed makes itself known: it connects to the hosts whose addresses it has, and to those
//! that advertise. They recognise it by its key, and speak to it over the connection that it made.
//!
//! An address is a hint at either end: the transport checks the key that answers.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;
use wayfare_net::Net;
use wayfare_protocol::{advert::Advert, ids::HostId, trust::Signed};

use crate::handle::Handle;

/// Between two rounds through the known hosts. The first is at once.
const ROUND: Duration = Duration::from_secs(30);
/// Peers up to which the Registry connects to more by itself; others come to it.
const PEERS_MAX: usize = 256;
/// Dials at a time.
const DIALS_MAX: usize = 8;

/// Connects to the hosts that the records name, again and again, until `shutdown`.
pub(crate) async fn run(net: Net, handle: Handle, shutdown: CancellationToken) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let Ok(hosts) = handle.whereabouts(PEERS_MAX).await else { return };
        let dials = futures::stream::iter(hosts)
            .for_each_concurrent(DIALS_MAX, |(host, addresses)| connect(&net, host, addresses));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = dials => {}
        }
    }
}

async fn connect(net: &Net, host: HostId, addresses: Vec<String>) {
    if net.connected() >= PEERS_MAX {
        return;
    }
    if let Err(error) = net.connect(host, &addresses).await {
        debug!(host = %format!("{host:#}"), %error, "a host is not where it was");
    }
}

/// Connects to hosts as they advertise.
pub(crate) struct Greeter {
    net: Net,
    tracker: TaskTracker,
    dials: Arc<Semaphore>,
}

impl Greeter {
    pub(crate) fn new(net: Net, tracker: TaskTracker) -> Self {
        Self { net, tracker, dials: Arc::new(Semaphore::new(DIALS_MAX)) }
    }

    /// Connects to whom `advert` names. When too much is under way, nothing: it will be advertised again.
    pub(crate) fn meet(&self, advert: &Signed<Advert>) {
        let Ok(dial) = Arc::clone(&self.dials).try_acquire_owned() else { return };
        let Ok(advert) = advert.unverified() else { return };
        let net = self.net.clone();
        self.tracker.spawn(async move {
            connect(&net, advert.host, advert.addresses).await;
            drop(dial);
        });
    }
}
