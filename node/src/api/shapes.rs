//! The JSON of the control API, and of every command with `--json`. Fields are added, never renamed or removed.
//!
//! Identifiers are base58; `*_ms` and `*_s` are milliseconds and seconds, `*_us` microseconds since the Unix epoch.

use serde::{Deserialize, Serialize};
use wayfare_protocol::{manifest::Resources, placement::Explanation};

mod drain;
mod why;

pub use drain::{DrainLine, DrainRequest, Drained, StillHere};
pub use why::{Decided, Happening, MigrationEvent, Why};

/// `{error, what_to_do}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub what_to_do: String,
}

/// `{name, role, host, region, registry, addresses, peers, version, cordoned}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The provider's enrolled name.
    pub name: String,
    /// `cloud`, `home` or `gateway`.
    pub role: String,
    /// The node's id.
    pub host: String,
    /// Where it says it is.
    pub region: String,
    /// Its registry's id.
    pub registry: String,
    /// Where other nodes reach it: multiaddrs with its key.
    pub addresses: Vec<String>,
    /// Connected nodes.
    pub peers: usize,
    /// The program's version.
    pub version: String,
    /// Whether it takes no services, because an operator said so.
    #[serde(default)]
    pub cordoned: bool,
}

/// `{name, host, region, cordoned, resources, addresses, expires_in_s}`: a cloud whose advert is live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cloud {
    /// The provider's enrolled name.
    pub name: String,
    /// The host's id.
    pub host: String,
    /// Where the provider says it is.
    pub region: String,
    /// Whether it takes no services now.
    pub cordoned: bool,
    /// `{cpu_millicores, memory_bytes, storage_bytes, bandwidth_bps}`: what is free.
    pub resources: Resources,
    /// Multiaddrs.
    pub addresses: Vec<String>,
    /// Until the advert expires.
    pub expires_in_s: f64,
}

/// `{name, id, epoch, state, host, cloud, lease_s, clients, queued, durability, listen}`: a service on this node, or one
/// that this gateway carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its id; null at a gateway that has not found it yet.
    pub id: Option<String>,
    /// `era.hop`.
    pub epoch: Option<String>,
    /// `starting`, `serving`, `stopped`, `frozen`, `resuming`, `restoring`, `updating`, `sealed`, `lost`, `broken`; at a gateway `placed` or
    /// `unknown`.
    pub state: String,
    /// The id of the host that has it.
    pub host: Option<String>,
    /// That host's name.
    pub cloud: Option<String>,
    /// Until the lease ends unless it is renewed; null at a gateway.
    pub lease_s: Option<f64>,
    /// Clients with a session; null at a gateway.
    pub clients: Option<usize>,
    /// Requests that wait on this host; null at a gateway.
    pub queued: Option<usize>,
    /// `memory` or `log`; null at a gateway.
    pub durability: Option<String>,
    /// Where this gateway takes requests for it; null elsewhere.
    pub listen: Option<String>,
}

/// `{name, id, epoch, host, owner, version, manifest}`: what the registry has of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `era.hop`.
    pub epoch: String,
    /// The id of the host that has it.
    pub host: String,
    /// The owner's public key.
    pub owner: String,
    /// The manifest's version.
    pub version: u32,
    /// The signed manifest, base64.
    pub manifest: String,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderProgress {
    /// The registry has it, and tells the service's host.
    Running,
    /// It was carried out.
    Done,
}

/// `{service, id, action, order, outcome}`: an order that the registry took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The service's name, as far as this node knows it.
    pub service: String,
    /// Its id.
    pub id: String,
    /// `stop`, `start`, `remove` or `update`.
    pub action: String,
    /// The order's hash.
    pub order: String,
    /// `done`, or `running`.
    pub outcome: OrderProgress,
}

/// `{service, client, from, cloud, host, rtt_ms, age_s, stale, samples, lost, here}`: a round trip that a node measured: from
/// a service's client (its gateway) to a host, or from this cloud to another. Those older than five minutes are not shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// The service's name; empty at a gateway, which measures for all of its services, and for what this cloud measured.
    pub service: String,
    /// Who measured: the client's short id; empty for what this cloud measured.
    pub client: String,
    /// Who measured: the client's short id, or this node's name.
    pub from: String,
    /// The measured host's name, or its short id if it does not advertise.
    pub cloud: String,
    /// The measured host.
    pub host: String,
    /// Filtered.
    pub rtt_ms: f64,
    /// Since the measurement.
    pub age_s: Option<f64>,
    /// Whether it is too old to be decided on.
    pub stale: bool,
    /// Pings that were answered; null where another node counts them.
    pub samples: Option<u64>,
    /// Pings that were not.
    pub lost: Option<u64>,
    /// Whether the service (a service, at a gateway) is there now.
    pub here: bool,
}

/// `{rejects: {name: count}, net: {name: count}, incompatible: [{host, agent, versions, text}]}`: what this node refused or dropped since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// By [`Reject::name`](wayfare_protocol::reject::Reject::name); those that happened.
    pub rejects: std::collections::BTreeMap<String, u64>,
    /// By field of [`NetCounters`](wayfare_net::NetCounters).
    pub net: std::collections::BTreeMap<String, u64>,
    /// Peers that speak no version of the protocol that this node speaks: the last few.
    #[serde(default)]
    pub incompatible: Vec<Incompatible>,
}

/// `{host, agent, versions, text}`: a peer of another time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incompatible {
    /// The peer.
    pub host: String,
    /// The program that it says it is.
    pub agent: String,
    /// The versions of the protocol that it speaks, newest first.
    pub versions: Vec<u8>,
    /// That in words, and which of both to upgrade.
    pub text: String,
}

/// Which side of an attempt a node was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The service was here.
    Source,
    /// The service was to come here.
    Target,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not decided yet.
    Running,
    /// The service moved.
    Moved,
    /// It did not.
    Failed,
}

/// `{id, service, service_id, from, to, from_host, to_host, side, reason, outcome, failure, bytes, downtime_ms, steps:
/// [{step, name, at_us}]}`: one attempt to move a service, as this node saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// The migration's id; null before step 3.
    pub id: Option<String>,
    /// The service's name, or its short id.
    pub service: String,
    /// The service's id.
    pub service_id: String,
    /// The source's name, or its short id if it does not advertise.
    pub from: String,
    /// The target's.
    pub to: String,
    /// The source.
    pub from_host: String,
    /// The target.
    pub to_host: String,
    /// Which of both this node was.
    pub side: Side,
    /// Why it was begun; empty at the target.
    pub reason: String,
    /// How it stands.
    pub outcome: Outcome,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Bytes of state.
    pub bytes: u64,
    /// From the freeze to the decision, by the source's clock; null before, and at the target.
    pub downtime_ms: Option<f64>,
    /// The steps that this node took part in, in the order of their times.
    pub steps: Vec<Step>,
}

/// A step of the protocol, 1 to 12.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub step: u8,
    /// Its name.
    pub name: String,
    /// When this node sent or received it.
    pub at_us: u64,
}

/// `{service, lines: [{number, at_us, stream, text}], next}`: what a service printed on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The service's name.
    pub service: String,
    /// Oldest first.
    pub lines: Vec<Line>,
    /// Where to go on.
    pub next: u64,
}

/// One line of a service's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 0; a gap means that lines were dropped.
    pub number: u64,
    /// When it was begun.
    pub at_us: u64,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line.
    pub text: String,
}

/// `{service, id, epoch, host, cloud, durability, warning}`: a service that now runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Its name.
    pub service: String,
    /// Its id.
    pub id: String,
    /// `era.hop`.
    pub epoch: String,
    /// The node it runs on.
    pub host: String,
    /// That node's name.
    pub cloud: String,
    /// `memory` or `log`.
    pub durability: String,
    /// What the owner should know of that.
    pub warning: Option<String>,
}

/// `{to, dry_run, wait, timeout_s}`, all optional.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveRequest {
    /// The cloud's name or its host's id; null: where placement would have it.
    pub to: Option<String>,
    /// Only explain.
    pub dry_run: bool,
    /// Answer when the attempt has ended, not when it has begun.
    pub wait: bool,
    /// For so long at most.
    pub timeout_s: u64,
}

impl Default for MoveRequest {
    fn default() -> Self {
        Self { to: None, dry_run: false, wait: true, timeout_s: 60 }
    }
}

/// `{service, id, from, to, outcome, migration, explanation}`: `outcome` is null for a dry run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// The service's name.
    pub service: String,
    /// Its id.
    pub id: String,
    /// This node's name.
    pub from: String,
    /// The target's name; null if a dry run found none.
    pub to: Option<String>,
    /// How the attempt stands.
    pub outcome: Option<Outcome>,
    /// The attempt.
    pub migration: Option<Migration>,
    /// Why, candidate by candidate: as of before the move.
    pub explanation: Explanation,
}

/// `{cordoned}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordoned {
    /// Whether this node takes no services from now on.
    pub cordoned: bool,
}

#[cfg(test)]
mod tests;
