//! The names of services that have been here: a machine forgets a service when it leaves, people do not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use wayfare_protocol::{
    ids::ServiceId,
    limits::{HISTORY_MAX, SERVICES_MAX},
};

use crate::host::HostHandle;

/// Names kept. At the limit an arbitrary one is forgotten, and shown as an id.
const NAMES_MAX: usize = SERVICES_MAX + HISTORY_MAX;

/// Names by the text of the id.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<String, String>>>);

impl Names {
    /// Learns the names of the services here, whenever something happens to one.
    pub(super) async fn follow(self, host: HostHandle, shutdown: CancellationToken) {
        let Some(mut events) = host.events().await else { return };
        loop {
            let Some(services) = host.with(|host, now, _| host.services(now)).await else { return };
            for view in services {
                self.learn(view.service, view.name);
            }
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            if matches!(event, Err(RecvError::Closed)) {
                return;
            }
        }
    }

    pub(super) fn learn(&self, id: String, name: String) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(&id) {
            names.pop_first();
        }
        names.insert(id, name);
    }

    /// The service's name; its short id if it is not known.
    pub(super) fn of(&self, service: ServiceId) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&service.to_string()).cloned().unwrap_or_else(|| format!("{service:#}"))
    }

    /// The id of the service of this name.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().find(|(_, known)| *known == name).map(|(id, _)| id.clone())
    }
}
