//! What a journal says of an earlier run. Until a node can take its services up again, it says what was lost, and stops.

use std::{collections::BTreeMap, fmt};

use wayfare_protocol::{
    host::Entry,
    ids::{Epoch, MigrationId, ServiceId},
};

/// Services that an earlier run of this node held when it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    services: Vec<String>,
    unreadable: usize,
}

impl std::error::Error for Lost {}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unreadable > 0 {
            write!(f, "{} journal entries cannot be read by this version; ", self.unreadable)?;
        }
        write!(
            f,
            "this node held {} when it last stopped, and their state was in memory only (durability = memory): {}. \
             Start with --forget-lost to go on without them; their leases end by themselves",
            match self.services.len() {
                1 => "a service".to_owned(),
                count => format!("{count} services"),
            },
            self.services.join(", "),
        )
    }
}

/// Reads the entries in order; `None` if nothing was held at the end.
pub(super) fn lost<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Option<Lost> {
    let mut served: BTreeMap<(ServiceId, Epoch), &str> = BTreeMap::new();
    let mut held: BTreeMap<MigrationId, ServiceId> = BTreeMap::new();
    let mut unreadable = 0;
    for bytes in entries {
        let Ok(entry) = Entry::from_bytes(bytes) else {
            unreadable += 1;
            continue;
        };
        match entry {
            Entry::Placed { placement, .. } => {
                if let Ok(placement) = placement.unverified() {
                    held.remove(&placement.mig);
                    served.insert((placement.service, placement.epoch), "served");
                }
            }
            Entry::Registering { .. } | Entry::KeyMade { .. } => {}
            Entry::Consented { ids, .. } => {
                served.insert((ids.service, ids.epoch), "frozen, its migration undecided");
            }
            Entry::Held { ids, .. } => {
                held.insert(ids.mig, ids.service);
            }
            Entry::Released { ids, .. } => {
                served.remove(&(ids.service, ids.epoch));
            }
            Entry::Aborted { ids } => {
                held.remove(&ids.mig);
                if let Some(state) = served.get_mut(&(ids.service, ids.epoch)) {
                    *state = "served";
                }
            }
            Entry::Dropped { .. } => {}
            Entry::Sealed { service, epoch, .. } => {
                served.insert((service, epoch), "sealed");
            }
        }
    }
    let served = served.iter().map(|((service, epoch), state)| format!("{service} at epoch {epoch} ({state})"));
    let held = held.values().map(|service| format!("{service} (held, its migration undecided)"));
    let services: Vec<String> = served.chain(held).collect();
    (!services.is_empty() || unreadable > 0).then_some(Lost { services, unreadable })
}
