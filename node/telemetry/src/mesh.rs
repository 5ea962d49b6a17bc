//! What every member of the mesh counts: connections, refusals, gossip, probes.

use std::time::Duration;

use prometheus_client::registry::Registry;
use wayfare_net::{Net, Verdict};
use wayfare_protocol::reject::{Reject, RejectCounters};

use crate::instruments::{Counter, Counters, Durations, Gauge, Gauges, Register, by, follow, set};

/// What was refused, by name.
#[derive(Clone, Debug)]
pub struct Rejections(Counters<1>);

impl Rejections {
    /// Registers one counter for each name.
    pub fn register(metrics: &mut Registry) -> Self {
        let counters = by("reason", Reject::ALL.iter().map(|reject| reject.name()));
        metrics.add(
            "wayfare_protocol_rejections",
            "Something a peer sent was refused, for this reason; nothing else changed",
            &counters,
        );
        Self(counters)
    }

    /// Takes over what a machine counted.
    pub fn refresh(&self, rejects: &RejectCounters) {
        for (reject, count) in rejects.iter() {
            follow(&self.0.get_or_create(&[("reason", reject.name())]), count);
        }
    }
}

/// What is counted, in words, in the order of `NetCounters::by_name`.
const DESCRIBED: [(&str, &str); 14] = [
    ("gossip_dropped", "A gossiped message was dropped, since this node was behind"),
    (
        "gossip_refused",
        "A gossiped message, or a call of gossipsub, was refused unread: beyond its peer's share, or of another topic",
    ),
    ("verdicts_dropped", "A gossiped message was not passed on, since the swarm's task was behind"),
    ("streams_refused", "A peer's stream was reset, since nobody took it in time"),
    ("streams_excess", "A connection was closed, since the peer opened more streams than its share"),
    ("frames_delayed", "A frame waited, since its peer had used up its share"),
    (
        "reads_delayed",
        "A stranger's socket was not read for a while, since strangers at its address had used up their share",
    ),
    (
        "handshakes_refused",
        "An inbound connection was closed before its handshake: beyond the share of its address, or of all",
    ),
    ("strangers_closed", "A stranger's connection was closed to make room for another"),
    ("probes_refused", "A peer's probe stream was reset, since too many are open"),
    ("inbound_failed", "An inbound connection failed its handshake or exceeded a limit"),
    ("dials_failed", "A dial failed at every address"),
    ("versions_refused", "A peer speaks no version of the protocol that this node speaks"),
    ("frames_unsent", "A frame was not sent, since the version spoken with its receiver has no such message"),
];

/// The transport.
#[derive(Clone, Debug)]
pub struct NetMetrics {
    net: Net,
    peers: Gauge,
    streams: Gauges<1>,
    dropped: [Counter; 14],
}

impl NetMetrics {
    /// Registers them, with a gauge for each of the `pools` of streams.
    pub fn register(metrics: &mut Registry, net: Net, pools: &[&'static str]) -> Self {
        let this = Self {
            net,
            peers: Gauge::default(),
            streams: by("protocol", pools.iter().copied()),
            dropped: Default::default(),
        };
        metrics.add("wayfare_net_peers", "Peers with a connection now", &this.peers);
        metrics.add("wayfare_net_streams", "Long-lived streams that are open now, by what they carry", &this.streams);
        // In the order of `NetCounters::by_name`: a test compares.
        for ((name, help), counter) in DESCRIBED.into_iter().zip(&this.dropped) {
            metrics.add(&format!("wayfare_net_{name}"), help, counter);
        }
        this
    }

    /// To be called before each scrape, with the number of streams in each pool.
    pub fn refresh(&self, pools: &[(&'static str, usize)]) {
        set(&self.peers, self.net.connected());
        for (name, streams) in pools {
            set(&self.streams.get_or_create(&[("protocol", *name)]), *streams);
        }
        let counted = self.net.counters().by_name();
        self.dropped.iter().zip(counted).for_each(|(counter, (_, value))| follow(counter, value));
    }
}

/// Gossip and probes, as clouds, homes and gateways have them.
#[derive(Clone, Debug)]
pub struct Mesh {
    adverts_sent: Counter,
    adverts_received: Counter,
    gossip: Counters<1>,
    adverts_live: Gauge,
    probes_sent: Counter,
    probes_lost: Counter,
    rtt: Durations,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            adverts_sent: Counter::default(),
            adverts_received: Counter::default(),
            gossip: by("verdict", ["accepted", "ignored", "rejected"]),
            adverts_live: Gauge::default(),
            probes_sent: Counter::default(),
            probes_lost: Counter::default(),
            rtt: Durations::default(),
        }
    }
}

impl Mesh {
    /// Puts them into `metrics`.
    pub fn register(&self, metrics: &mut Registry) {
        metrics.add("wayfare_mesh_adverts_sent", "This node advertised itself", &self.adverts_sent);
        metrics.add(
            "wayfare_mesh_adverts_received",
            "A cloud's advert was received and is genuine; repeats that gossip brings are not counted",
            &self.adverts_received,
        );
        metrics.add(
            "wayfare_mesh_gossip_received",
            "A gossiped message, an advert or a placement, was judged: accepted and passed on; ignored, since an honest relay may \
             send it; or rejected",
            &self.gossip,
        );
        metrics.add("wayfare_mesh_adverts_live", "Clouds whose adverts are in date now", &self.adverts_live);
        metrics.add("wayfare_mesh_probes_sent", "A round trip to a cloud was to be measured", &self.probes_sent);
        metrics.add(
            "wayfare_mesh_probes_lost",
            "A probe was not answered in time, or could not be sent",
            &self.probes_lost,
        );
        metrics.add("wayfare_mesh_probe_rtt_seconds", "Round trips measured by probes that were answered", &self.rtt);
    }

    /// This node advertises.
    pub fn advertised(&self) {
        self.adverts_sent.inc();
    }

    /// A cloud's advert was accepted.
    pub fn heard_advert(&self) {
        self.adverts_received.inc();
    }

    /// A gossiped message was judged.
    pub fn judged(&self, verdict: Verdict) {
        let word = match verdict {
            Verdict::Accept => "accepted",
            Verdict::Ignore => "ignored",
            Verdict::Reject => "rejected",
        };
        self.gossip.get_or_create(&[("verdict", word)]).inc();
    }

    /// Clouds whose adverts are in date.
    pub fn set_live(&self, adverts: usize) {
        set(&self.adverts_live, adverts);
    }

    /// A probe begins.
    pub fn probing(&self) {
        self.probes_sent.inc();
    }

    /// And ends, with the round trip if it was answered.
    pub fn probed(&self, rtt: Option<Duration>) {
        match rtt {
            Some(rtt) => self.rtt.observe(rtt),
            None => {
                self.probes_lost.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wayfare_net::NetCounters;

    use super::*;

    #[test]
    fn what_is_described_is_what_is_counted() {
        assert_eq!(DESCRIBED.map(|(name, _)| name), NetCounters::default().by_name().map(|(name, _)| name));
    }
}
