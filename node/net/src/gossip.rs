//! Gossip of adverts: gossipsub carries bytes only; what they mean is `protocol::advert`'s business.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::gossipsub::{
    ConfigBuilder, IdentTopic, Message, MessageAcceptance, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, PublishError, TopicScoreParams, ValidationMode,
};

use wayfare_protocol::advert::Verdict;

use crate::counters::Counters;
use crate::door::Door;
use crate::error::NetError;
use crate::gossip_gate::{Gate, Gossipsub};
use crate::limits::{
    GOSSIP_BYTES_MAX, GOSSIP_CONTROL_MAX, GOSSIP_DUPLICATE_TIME, GOSSIP_ENVELOPE_BYTES, GOSSIP_HEARTBEAT,
    GOSSIP_HISTORY, GOSSIP_HISTORY_OFFERED, GOSSIP_QUEUE_MAX, GOSSIP_RPC_BYTES_MAX,
};

/// The topic of adverts.
pub(crate) const ADVERTS_TOPIC: &str = "wayfare/adverts/1";

/// Names one received message until it is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GossipId {
    pub(crate) message: MessageId,
    pub(crate) from: PeerId,
}

/// gossipsub's word for a verdict. After a few rejected messages the peer that forwarded them is no longer listened to.
pub(crate) fn acceptance(verdict: Verdict) -> MessageAcceptance {
    match verdict {
        Verdict::Accept => MessageAcceptance::Accept,
        Verdict::Ignore => MessageAcceptance::Ignore,
        Verdict::Reject => MessageAcceptance::Reject,
    }
}

/// Gossipsub with the settings of the platform notes, subscribed to [`ADVERTS_TOPIC`].
pub(crate) fn build(door: Arc<Door>, counters: Arc<Counters>) -> Result<Gate, NetError> {
    let setup = |what: &dyn ToString| NetError::Setup(format!("gossipsub: {}", what.to_string()));
    let config = ConfigBuilder::default()
        // Adverts carry a signature of their own; gossipsub's would be checked on every copy, before the duplicates.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(content_id)
        .flood_publish(false)
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT / 5)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .history_length(GOSSIP_HISTORY)
        .history_gossip(GOSSIP_HISTORY_OFFERED)
        .duplicate_cache_time(GOSSIP_DUPLICATE_TIME)
        .max_transmit_size(GOSSIP_RPC_BYTES_MAX)
        .max_transmit_size_for_topic(GOSSIP_BYTES_MAX + GOSSIP_ENVELOPE_BYTES, adverts_topic().hash())
        .max_publish_messages(GOSSIP_CONTROL_MAX)
        .max_control_messages_sent(GOSSIP_CONTROL_MAX)
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        .build()
        .map_err(|error| setup(&error))?;
    Gate::new(adverts_topic().hash(), door, counters, |filter, admit| {
        let anonymous = MessageAuthenticity::Anonymous;
        let gossip = Gossipsub::new_with_subscription_filter_and_transform(anonymous, config, filter, admit);
        let mut gossip = gossip.map_err(|error| setup(&error))?;
        gossip.with_peer_score(score(), thresholds()).map_err(|error| setup(&error))?;
        gossip.subscribe(&adverts_topic()).map_err(|error| setup(&error))?;
        Ok(gossip)
    })
}

fn adverts_topic() -> IdentTopic {
    IdentTopic::new(ADVERTS_TOPIC)
}

/// Equal bytes are the same message, whoever sends them.
fn content_id(message: &Message) -> MessageId {
    MessageId::from(blake3::hash(&message.data).as_bytes().as_slice())
}

/// Only provable faults lower a score. The defaults would also punish quiet topics (P3 expects 20 messages in five
/// seconds from each mesh peer) and many nodes behind one address (P6), both of which are ordinary here.
fn score() -> PeerScoreParams {
    let adverts = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // The square of the count: five rejected adverts cost 125, beyond the graylist; half is forgiven in 70 s.
        invalid_message_deliveries_weight: -5.0,
        invalid_message_deliveries_decay: 0.99,
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: HashMap::from([(adverts_topic().hash(), adverts)]),
        topic_score_cap: 10.0,
        ip_colocation_factor_weight: 0.0,
        // Reconnecting nodes graft within a back-off now and then; only repetition is a fault.
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.9,
        // Of peers that have gone: a key costs nothing, so that this is bounded by time.
        retain_score: Duration::from_secs(120),
        ..PeerScoreParams::default()
    }
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds { opportunistic_graft_threshold: 1.0, ..PeerScoreThresholds::default() }
}

/// Publishes adverts to the mesh.
pub(crate) fn publish(gossip: &mut Gossipsub, bytes: Vec<u8>) -> Result<(), NetError> {
    let len = bytes.len();
    if len > GOSSIP_BYTES_MAX {
        return Err(NetError::TooLarge { len, cap: GOSSIP_BYTES_MAX });
    }
    match gossip.publish(adverts_topic().hash(), bytes) {
        Ok(_) => Ok(()),
        Err(PublishError::Duplicate) => Err(NetError::AlreadyPublished),
        Err(PublishError::NoPeersSubscribedToTopic) => Err(NetError::NoGossipPeers),
        Err(PublishError::MessageTooLarge) => Err(NetError::TooLarge { len, cap: GOSSIP_BYTES_MAX }),
        Err(PublishError::AllQueuesFull(_)) => Err(NetError::Busy("gossip")),
        Err(error) => Err(NetError::Setup(format!("gossipsub: {error}"))),
    }
}
