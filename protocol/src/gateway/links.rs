//! Request streams to hosts: one per host, re-made with back-off for as long as a service is there.

use std::collections::BTreeMap;

use super::effect::Effect;
use crate::{
    ids::HostId,
    limits::RETRY_MAX,
    outbox::Outbox,
    time::{Instant, Micros},
};

const RECONNECT_FIRST: Micros = Micros::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Connecting,
    Connected,
    Waiting { until: Instant },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    state: State,
    pause: Micros,
}

/// The streams a gateway has or wants. Bounded by its routes: each has one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Links(BTreeMap<HostId, Link>);

impl Links {
    pub(super) fn is_connected(&self, host: HostId) -> bool {
        self.0.get(&host).is_some_and(|link| link.state == State::Connected)
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = HostId> + '_ {
        self.0.iter().filter(|(_, link)| link.state == State::Connected).map(|(host, _)| *host)
    }

    /// Wants a stream to `host`; dials if there is none yet.
    pub(super) fn want(&mut self, host: HostId, addresses: Vec<String>, outbox: &mut Outbox<Effect>) {
        self.0.entry(host).or_insert_with(|| {
            outbox.now(Effect::Connect { host, addresses });
            Link { state: State::Connecting, pause: RECONNECT_FIRST }
        });
    }

    /// Whether the stream is wanted, and not open already.
    pub(super) fn handle_connected(&mut self, host: HostId) -> bool {
        match self.0.get_mut(&host) {
            Some(link) if link.state != State::Connected => {
                link.state = State::Connected;
                true
            }
            _ => false,
        }
    }

    /// Whether the stream was wanted.
    pub(super) fn handle_disconnected(&mut self, now: Instant, host: HostId) -> bool {
        let Some(link) = self.0.get_mut(&host) else { return false };
        link.state = State::Waiting { until: now + link.pause };
        link.pause = Micros(link.pause.times(2).0.min(RETRY_MAX.0));
        true
    }

    /// The host serves: the next reconnect need not wait long.
    pub(super) fn progress(&mut self, host: HostId) {
        if let Some(link) = self.0.get_mut(&host) {
            link.pause = RECONNECT_FIRST;
        }
    }

    /// Closes what is no longer wanted.
    pub(super) fn prune(&mut self, wanted: impl Fn(HostId) -> bool, outbox: &mut Outbox<Effect>) {
        self.0.retain(|host, link| {
            let keep = wanted(*host);
            if !keep && !matches!(link.state, State::Waiting { .. }) {
                outbox.now(Effect::Disconnect { host: *host });
            }
            keep
        });
    }

    /// The hosts to dial again now; they count as being dialled.
    pub(super) fn redial(&mut self, now: Instant) -> Vec<HostId> {
        let mut due = Vec::new();
        for (host, link) in &mut self.0 {
            if matches!(link.state, State::Waiting { until } if until <= now) {
                link.state = State::Connecting;
                due.push(*host);
            }
        }
        due
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.0
            .values()
            .filter_map(|link| match link.state {
                State::Waiting { until } => Some(until),
                State::Connecting | State::Connected => None,
            })
            .min()
    }
}
