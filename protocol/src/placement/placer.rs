//! What is known about one service's clients and moves.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Candidate, Explanation, Instant, Micros, Now, PlacementConfig, RTT_FRESH, dwell::Dwells};
use crate::{
    ids::{ClientId, HostId},
    limits::{ADVERTS_MAX, DECISION_ROWS_KEPT, DECISIONS_KEPT, REPORT_ENTRIES_MAX, SESSIONS_MAX},
    manifest::Resources,
    reject::Reject,
    time::Timestamp,
    wire::Wire,
};

/// Longest downtime that counts, whoever measured it: a longer one would keep a service where it is for good.
pub const DOWNTIME_MAX: Micros = Micros::from_secs(60);
/// The shortest time over which requests are averaged.
const WEIGHED_OVER_MIN: Micros = Micros::from_secs(1);

/// A client's last words on where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// Round trip and when it was measured, by host; at most [`REPORT_ENTRIES_MAX`].
    rtts: BTreeMap<HostId, (Micros, Instant)>,
    /// Thousandths of a request per second, smoothed, and one: clients that ask nothing weigh equally among themselves
    /// and nothing beside one that does.
    pub(super) weight: u64,
    reported: Instant,
}

impl Client {
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.reported) <= RTT_FRESH
    }

    pub(super) fn rtt(&self, now: Instant, host: HostId) -> Option<Micros> {
        self.rtts.get(&host).filter(|(_, measured)| now.since(*measured) <= RTT_FRESH).map(|(rtt, _)| *rtt)
    }
}

/// Moves to a host that failed, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Failure {
    until: Instant,
    pause: Micros,
}

/// What a placer has learnt, to go with the service to its next host; times are lengths, so they mean the same there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Memory {
    /// Past dwells, oldest first.
    pub dwells: Vec<Micros>,
    /// The nearest host now, and for how long.
    pub present: Option<(HostId, Micros)>,
    /// The smoothed downtime of moves.
    pub downtime: Option<Micros>,
}

impl Wire for Memory {
    const LIMIT: usize = 1024;
}

/// The placement state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placer {
    pub(super) config: PlacementConfig,
    pub(super) required: Resources,
    /// What users are promised; zero: nothing.
    pub(super) max_rtt: Micros,
    pub(super) clients: BTreeMap<ClientId, Client>,
    pub(super) dwells: Dwells,
    pub(super) downtime: Option<Micros>,
    failures: BTreeMap<HostId, Failure>,
    /// No request that a report counts is older.
    since: Instant,
    /// When it was last decided.
    decided: Instant,
    /// The last decisions, oldest first; at most [`DECISIONS_KEPT`].
    decisions: VecDeque<Decision>,
}

/// Decisions in a row that came to the same verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// When the first of them was made.
    pub first: Timestamp,
    /// And the last.
    pub last: Timestamp,
    /// How many there were.
    pub times: u32,
    /// The last of them; of its candidates, the nearest [`DECISION_ROWS_KEPT`].
    pub explanation: Explanation,
}

impl Placer {
    /// For a service that needs `required` and promises its users at most `max_rtt` (zero: nothing), as its manifest says.
    pub fn new(config: PlacementConfig, required: Resources, max_rtt: Micros) -> Self {
        Self {
            config,
            required,
            max_rtt,
            clients: BTreeMap::new(),
            dwells: Dwells::default(),
            downtime: None,
            failures: BTreeMap::new(),
            since: Instant::default(),
            decided: Instant::default(),
            decisions: VecDeque::new(),
        }
    }

    /// Takes over what another host's placer learnt of this service, which arrives now. It is a peer's advice, not state:
    /// downtime is cut to [`DOWNTIME_MAX`], dwells in number and length.
    #[must_use]
    pub fn with_memory(mut self, now: Now, memory: &Memory) -> Self {
        self.dwells = Dwells::resumed(&memory.dwells, memory.present, now.mono);
        self.downtime = memory.downtime.map(|downtime| downtime.min(DOWNTIME_MAX));
        self.since = now.mono;
        self
    }

    /// What was learnt, for the next host: dwells and downtime, not who measured what. At most [`Memory::LIMIT`] bytes.
    pub fn memory(&self, now: Now) -> Memory {
        Memory { dwells: self.dwells.past().collect(), present: self.dwells.present(now.mono), downtime: self.downtime }
    }

    /// Another configuration, from now on.
    pub fn set_config(&mut self, config: PlacementConfig) {
        self.config = config;
    }

    /// Takes a client's report: round trips with their ages; and its requests since the last one, as the host counted them.
    /// They are averaged over that time, so that who reports seldom weighs no more. Measurements older than [`RTT_FRESH`]
    /// are left out; hosts that this report does not name keep what was reported before.
    ///
    /// # Errors
    /// Nothing changed: [`Reject::FieldTooLong`] beyond [`REPORT_ENTRIES_MAX`]; [`Reject::Full`] if more than
    /// [`SESSIONS_MAX`] clients report.
    pub fn handle_report(
        &mut self,
        now: Now,
        client: ClientId,
        entries: &[(HostId, Micros, Micros)],
        requests: u32,
    ) -> Result<(), Reject> {
        let now = now.mono;
        if entries.len() > REPORT_ENTRIES_MAX {
            return Err(Reject::FieldTooLong);
        }
        if self.clients.len() >= SESSIONS_MAX && !self.clients.contains_key(&client) {
            self.clients.retain(|_, known| known.is_fresh(now));
            if self.clients.len() >= SESSIONS_MAX {
                return Err(Reject::Full);
            }
        }
        // Before a first report, it is not known since when requests were counted: at most since the service came here.
        let last = self.clients.get(&client).map_or(self.since, |known| known.reported);
        let over = now.since(last).max(WEIGHED_OVER_MIN);
        let thousandths = u64::from(requests) * 1000 * Micros::from_secs(1).0 / over.0;
        let known = self.clients.entry(client).or_insert_with(|| Client {
            rtts: BTreeMap::new(),
            weight: thousandths + 1,
            reported: now,
        });
        known.weight = (known.weight + thousandths) / 2 + 1;
        known.reported = now;
        known.rtts.retain(|_, (_, measured)| now.since(*measured) <= RTT_FRESH);
        for (host, rtt, age) in entries {
            let room = known.rtts.len() < REPORT_ENTRIES_MAX || known.rtts.contains_key(host);
            if *age <= RTT_FRESH && *rtt <= crate::latency::RTT_MAX && room {
                known.rtts.insert(*host, (*rtt, now - *age));
            }
        }
        Ok(())
    }

    /// What clients measured and reported: client, host, round trip, time since the measurement.
    pub fn measurements(&self, now: Now) -> impl Iterator<Item = (ClientId, HostId, Micros, Micros)> + '_ {
        self.clients.iter().flat_map(move |(client, known)| {
            known.rtts.iter().map(move |(host, (rtt, at))| (*client, *host, *rtt, now.mono.since(*at)))
        })
    }

    /// The session has ended: what the client measured counts no more.
    pub fn forget_client(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// Takes the measured downtime of a move; the first replaces the default, later ones are smoothed by one half.
    pub fn record_downtime(&mut self, downtime: Micros) {
        let downtime = downtime.min(DOWNTIME_MAX);
        self.downtime = Some(match self.downtime {
            Some(known) => Micros(known.0 / 2 + downtime.0 / 2),
            None => downtime,
        });
    }

    /// A move to `host` failed before the service left: it is left alone for a while, twice as long each time in a row.
    pub fn handle_failed(&mut self, now: Now, host: HostId) {
        let now = now.mono;
        let pause = match self.failures.get(&host) {
            // A pause that ended long ago is no row.
            Some(last) if now.since(last.until) <= last.pause => last.pause.times(2).0.min(self.config.failed_max.0),
            _ => self.config.failed_first.0,
        };
        let pause = Micros(pause);
        if self.failures.len() >= ADVERTS_MAX {
            let first = self.failures.iter().min_by_key(|(host, failure)| (failure.until, **host));
            if let Some(first) = first.map(|(host, _)| *host) {
                self.failures.remove(&first);
            }
        }
        self.failures.insert(host, Failure { until: now + pause, pause });
    }

    /// Failed moves of the past count no more.
    pub fn forgive(&mut self) {
        self.failures.clear();
    }

    /// How much longer `host` is left alone; `None` if it is not.
    pub(super) fn failed_for(&self, now: Instant, host: HostId) -> Option<Micros> {
        self.failures.get(&host).map(|failure| failure.until.since(now)).filter(|rest| *rest > Micros::ZERO)
    }

    /// How much longer `host` is left alone by a service that must leave: the first pause, however often moves there failed.
    pub(super) fn failed_for_refuge(&self, now: Instant, host: HostId) -> Option<Micros> {
        let failure = self.failures.get(&host)?;
        let failed_at = failure.until - failure.pause;
        let until = failed_at + Micros(failure.pause.0.min(self.config.failed_first.0));
        Some(until.since(now)).filter(|rest| *rest > Micros::ZERO)
    }

    /// The downtime that a move is expected to have.
    pub fn expected_downtime(&self) -> Micros {
        self.downtime.unwrap_or(self.config.downtime_default)
    }

    /// When the next decision is due: a slot after the last, as soon as any client has reported.
    pub fn due_at(&self) -> Instant {
        if self.clients.is_empty() { Instant(u64::MAX) } else { self.decided + self.config.slot }
    }

    /// Whether a decision is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due_at()
    }

    /// Takes note of the nearest cloud, and decides. To be called when due: the dwells are as exact as that is regular.
    pub fn decide(&mut self, now: Now, here: HostId, candidates: &[Candidate]) -> Explanation {
        self.observe(now.mono, here, candidates);
        self.decided = now.mono;
        self.clients.retain(|_, client| client.is_fresh(now.mono));
        let explanation = self.explain(now, here, candidates);
        self.note(now.wall, &explanation);
        explanation
    }

    fn note(&mut self, now: Timestamp, explanation: &Explanation) {
        let mut explanation = explanation.clone();
        explanation.rows.truncate(DECISION_ROWS_KEPT + 1);
        if let Some(last) = self.decisions.back_mut().filter(|last| last.explanation.verdict == explanation.verdict) {
            *last = Decision { first: last.first, last: now, times: last.times.saturating_add(1), explanation };
            return;
        }
        if self.decisions.len() >= DECISIONS_KEPT {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decision { first: now, last: now, times: 1, explanation });
    }

    /// The last decisions, oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter()
    }

    fn observe(&mut self, now: Instant, here: HostId, candidates: &[Candidate]) {
        let usable = candidates
            .iter()
            .filter(|candidate| candidate.permitted && !candidate.cordoned)
            .map(|candidate| candidate.host)
            .chain([here]);
        let rtts: BTreeMap<HostId, Micros> =
            usable.filter_map(|host| Some((host, self.weighed(now, host).counted()?))).collect();
        let nearest = rtts.iter().map(|(host, rtt)| (*rtt, *host)).min().map(|(rtt, host)| (host, rtt));
        self.dwells.observe(now, nearest, |host| rtts.get(&host).copied(), self.config.tie);
    }
}
