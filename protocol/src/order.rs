//! What an owner orders: STOP, START, REMOVE and UPDATE, and what becomes of it (PROTOCOL 1).
//!
//! An order goes to the Registry over any node: [`OrderFrame`]. The Registry makes it the service's *standing* order, and
//! tells the host of record, at once and again with each answer to RENEW, until that reports what became of it
//! ([`OrderDone`]). The same frame again gets the same answer ([`OrderState`]): that is how the owner waits.
//!
//! A removed service leaves a [`Tombstone`], signed by its Registry: whoever still has something of the service is shown it,
//! and deletes. It names the last epoch, and what is registered later under the same name begins behind it.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Digest, Epoch, HostId, MigrationIds, ServiceId},
    limits::{ADDRESSES_MAX, TEXT_BYTES_MAX},
    manifest::Manifest,
    time::Timestamp,
    trust::{Certificate, Message, Signed, certificate::text_fits},
    wire::{Wire, bodies},
};

/// What is to be done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Execute no more requests; state and place stay.
    Stop,
    /// Execute requests again.
    Start,
    /// End it: state and name go.
    Remove,
    /// Go on under a new manifest.
    Update {
        /// Hash of the new signed manifest, which travels with the order.
        manifest: Digest,
        /// Whether the new code takes over the old one's state; else it begins with none.
        keep: bool,
        /// The node that has the new module.
        from: HostId,
    },
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Stop, Self::Start, Self::Remove];

    /// The word for people, and for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Remove => "remove",
            Self::Update { .. } => "update",
        }
    }
}

/// `O → R`: do this. Signed with the owner's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// The service.
    pub service: ServiceId,
    /// What to do.
    pub action: Action,
    /// Rises per service: R takes only higher ones.
    pub sequence: u64,
    /// R takes it until then.
    pub expiry: Timestamp,
}

/// ORDER with what it takes to carry it out. From any node to R, and from R to the host of record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderFrame {
    /// ORDER.
    pub order: Signed<Order>,
    /// The new manifest of an update; `None` otherwise.
    pub manifest: Option<Signed<Manifest>>,
    /// Where the node is reached that has the module. Not signed: whoever dials checks the key, and the module its hash.
    pub addresses: Vec<String>,
}

impl OrderFrame {
    /// Whether the texts are short enough.
    pub fn fits(&self) -> bool {
        self.addresses.len() <= ADDRESSES_MAX && self.addresses.iter().all(|text| text_fits(text))
    }
}

/// Host to node: the module with this hash, please.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModuleRequest {
    /// Its hash.
    pub code: Digest,
    /// Who asks: modules are for hosts alone.
    pub certificate: Signed<Certificate>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It cannot be: nothing has changed. A name, and perhaps what exactly is wrong behind a colon.
    Refused(String),
}

impl Outcome {
    /// Refused by this name, cut to what a frame takes.
    pub fn refused(mut reason: String) -> Self {
        let end = (0..=TEXT_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        Self::Refused(reason)
    }

    /// Whether the text is short enough.
    pub fn fits(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Refused(reason) => text_fits(reason),
        }
    }
}

/// `S → R`: what became of the standing order. Signed with vkS. No nonce: an order is reported once, in the same bytes
/// however often, and only from the host of record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderDone {
    /// The placement's own ids.
    pub ids: MigrationIds,
    /// The order, by hash.
    pub order: Digest,
    /// What became of it.
    pub outcome: Outcome,
}

/// `R → node`: how far the order is that the node sent. Unsigned: it changes nothing, and comes over the authenticated stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderState {
    /// The order, by hash.
    pub order: Digest,
    /// What became of it; `None`: R has it on disk, and waits for the host of record.
    pub outcome: Option<Outcome>,
}

/// `R → whoever has something of it`: the service was removed by its owner. Delete all of it up to this epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tombstone {
    /// The service.
    pub service: ServiceId,
    /// The last epoch that it had.
    pub epoch: Epoch,
    /// The version of its last manifest: another one under its name needs a higher version.
    pub version: u32,
    /// The owner's REMOVE, by hash.
    pub order: Digest,
    /// When R took it.
    pub at: Timestamp,
}

macro_rules! messages {
    ($($name:ident $label:literal,)*) => {
        $(
            impl Wire for $name {
                const LIMIT: usize = 1024;
            }

            impl Message for $name {
                const LABEL: &'static str = concat!("wayfare/1 ", $label);
            }
        )*
    };
}

messages! {
    Order "ORDER",
    OrderDone "ORDER_DONE",
    Tombstone "TOMBSTONE",
}

bodies! {
    OrderFrame 32 * 1024,
    OrderState 512,
    ModuleRequest 4096,
}
