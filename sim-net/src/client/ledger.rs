//! The client's own record of what the `kv` guest owes it, and the audit against what the guest has in the end.
//!
//! Two things are written: a counter, whose every increment answers with its value, so that a value that comes twice
//! betrays a loss and a value that nobody was given a duplicate; and keys with values that only ever rise, one write
//! per key at a time. A request that failed with its outcome unknown may or may not have been executed, and is neither.

use std::collections::BTreeSet;

use serde::Serialize;

/// How many keys a client writes; also the most writes of keys under way. Beyond it the client increments instead.
pub const KEYS: usize = 128;
/// How many writes of unknown outcome are remembered for each key; older ones are forgotten.
const UNKNOWN_PER_KEY_MAX: usize = 64;
/// The mix, repeated: half increments, three tenths key writes, two tenths reads.
const MIX: [Kind; 10] = [
    Kind::Count,
    Kind::Put,
    Kind::Count,
    Kind::GetKey,
    Kind::Count,
    Kind::Put,
    Kind::Count,
    Kind::Put,
    Kind::Count,
    Kind::GetCount,
];

#[derive(Clone, Copy)]
enum Kind {
    Count,
    Put,
    GetKey,
    GetCount,
}

/// A request that is under way, with what its answer must not fall short of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    /// `POST /count`.
    Count,
    /// `PUT /k/<key>`.
    Put { key: usize, version: u64 },
    /// `GET /k/<key>`, when this version was acknowledged.
    GetKey { key: usize, floor: u64 },
    /// `GET /count`, when this value was acknowledged.
    GetCount { floor: u64 },
    /// A request to a service of which nothing is known.
    Other,
}

/// How a request ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// An answer of status 2xx, or 404 to the reading of a key, with its body.
    Answered { found: bool, body: String },
    /// No answer, or another status: it may have been executed.
    Unknown,
    /// It never left.
    NotSent,
}

/// What the service is found to hold at the end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct ReadBack {
    pub(super) count: u64,
    /// The text of each key, `None` where there is none. As many as [`Ledger::written_keys`].
    pub(super) keys: Vec<(usize, Option<String>)>,
    pub(super) digest: String,
}

/// The service against the client's record, at the end of a run.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Audit {
    /// The counter before the first request.
    pub count_before: u64,
    /// The counter after the last.
    pub count_after: u64,
    /// Increments that were acknowledged.
    pub increments_acknowledged: u64,
    /// Increments that may have been executed without an answer.
    pub increments_unknown: u64,
    /// Acknowledged increments that the counter does not hold.
    pub increments_lost: u64,
    /// Increments that the counter holds and nobody asked for. Counted only where no one else increments.
    pub increments_duplicated: u64,
    /// Increments of others, where there may be others.
    pub increments_foreign: u64,
    /// Keys that were written and read back.
    pub keys_checked: u64,
    /// Keys that do not hold the last acknowledged write, nor one of unknown outcome.
    pub keys_lost: u64,
    /// Reads during the run that did not see a write acknowledged before them, or were not understood.
    pub stale_reads: u64,
    /// The guest's own digest of its whole state.
    pub digest: String,
}

impl Audit {
    /// Acknowledged writes that were missing, for a while or for good.
    pub fn lost(&self) -> u64 {
        self.increments_lost + self.keys_lost + self.stale_reads
    }

    /// Writes executed more than once, as far as the counter shows it.
    pub fn duplicated(&self) -> u64 {
        self.increments_duplicated
    }
}

#[derive(Clone, Debug, Default)]
struct Key {
    sent: u64,
    acknowledged: u64,
    unknown: Vec<u64>,
    busy: bool,
}

/// The record. Pure: it chooses what to ask and takes what was answered.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Marks this run's values, so that those of an earlier one do not pass for them.
    tag: u64,
    count_before: u64,
    count_seen: u64,
    /// One number per acknowledged increment; bounded by the length of the run.
    counts: Vec<u64>,
    counts_unknown: u64,
    keys: Vec<Key>,
    turn: usize,
    next_key: usize,
    stale_reads: u64,
}

impl Ledger {
    pub(super) fn new(tag: u64, count_before: u64) -> Self {
        Self {
            tag,
            count_before,
            count_seen: count_before,
            counts: Vec::new(),
            counts_unknown: 0,
            keys: vec![Key::default(); KEYS],
            turn: 0,
            next_key: 0,
            stale_reads: 0,
        }
    }

    /// The next request of the mix.
    pub(super) fn next(&mut self) -> Operation {
        let kind = MIX[self.turn % MIX.len()];
        self.turn += 1;
        match kind {
            Kind::Count => Operation::Count,
            Kind::GetCount => Operation::GetCount { floor: self.count_seen },
            Kind::GetKey => {
                let key = self.turn / MIX.len() * 7 % KEYS;
                Operation::GetKey { key, floor: self.keys[key].acknowledged }
            }
            Kind::Put => self.next_put().unwrap_or(Operation::Count),
        }
    }

    fn next_put(&mut self) -> Option<Operation> {
        let index = (0..KEYS).map(|i| (self.next_key + i) % KEYS).find(|&i| !self.keys[i].busy)?;
        self.next_key = index + 1;
        let key = &mut self.keys[index];
        key.busy = true;
        key.sent += 1;
        Some(Operation::Put { key: index, version: key.sent })
    }

    /// Takes the end of a request; false if its answer is not what a `kv` may answer.
    pub(super) fn settle(&mut self, operation: &Operation, outcome: &Outcome) -> bool {
        match (operation, outcome) {
            (Operation::Count, Outcome::Answered { body, .. }) => match body.trim().parse() {
                Ok(value) => {
                    self.counts.push(value);
                    self.count_seen = self.count_seen.max(value);
                    true
                }
                Err(_) => {
                    self.counts_unknown += 1;
                    false
                }
            },
            (Operation::Count, Outcome::Unknown) => {
                self.counts_unknown += 1;
                true
            }
            (Operation::Put { key, version }, outcome) => {
                let key = &mut self.keys[*key];
                key.busy = false;
                match outcome {
                    Outcome::Answered { .. } => key.acknowledged = *version,
                    Outcome::Unknown => {
                        if key.unknown.len() == UNKNOWN_PER_KEY_MAX {
                            key.unknown.remove(0);
                        }
                        key.unknown.push(*version);
                    }
                    Outcome::NotSent => {}
                }
                true
            }
            (Operation::GetKey { key, floor }, Outcome::Answered { found, body }) => {
                let fresh = self.is_fresh(*key, *floor, found.then_some(body.as_str()));
                self.stale_reads += u64::from(!fresh);
                fresh
            }
            (Operation::GetCount { floor }, Outcome::Answered { body, .. }) => {
                let fresh = body.trim().parse().is_ok_and(|value: u64| value >= *floor);
                self.stale_reads += u64::from(!fresh);
                fresh
            }
            (
                Operation::Count | Operation::GetKey { .. } | Operation::GetCount { .. },
                Outcome::Unknown | Outcome::NotSent,
            )
            | (Operation::Other, _) => true,
        }
    }

    /// What a write puts.
    pub(super) fn value(&self, version: u64) -> String {
        format!("{:x}.{version}", self.tag)
    }

    /// The keys to read back: those with an acknowledged write.
    pub(super) fn written_keys(&self) -> Vec<usize> {
        (0..KEYS).filter(|&key| self.keys[key].acknowledged > 0).collect()
    }

    /// Whether a key's text is at least as new as the floor, or a write of unknown outcome that came through late.
    fn is_fresh(&self, key: usize, floor: u64, text: Option<&str>) -> bool {
        if floor == 0 {
            return true;
        }
        let version = text.and_then(|text| text.trim().split_once('.')).and_then(|(tag, version)| {
            if tag == format!("{:x}", self.tag) { version.parse::<u64>().ok() } else { None }
        });
        version.is_some_and(|v| v >= floor && v <= self.keys[key].sent || self.keys[key].unknown.contains(&v))
    }

    /// Compares with what the service holds, once nothing is under way. `exclusive`: nobody else increments its counter.
    pub(super) fn audit(&self, found: &ReadBack, exclusive: bool) -> Audit {
        let distinct: BTreeSet<u64> = self.counts.iter().copied().collect();
        let held = distinct.iter().filter(|&&value| value > self.count_before && value <= found.count).count() as u64;
        let acknowledged = self.counts.len() as u64;
        let surplus = found.count.saturating_sub(self.count_before).saturating_sub(held);
        let unasked = surplus.saturating_sub(self.counts_unknown);
        let keys_lost = found.keys.iter().filter(|(key, text)| {
            let acknowledged = self.keys[*key].acknowledged;
            !self.is_fresh(*key, acknowledged, text.as_deref())
        });
        Audit {
            count_before: self.count_before,
            count_after: found.count,
            increments_acknowledged: acknowledged,
            increments_unknown: self.counts_unknown,
            increments_lost: acknowledged - held,
            increments_duplicated: if exclusive { unasked } else { 0 },
            increments_foreign: if exclusive { 0 } else { unasked },
            keys_checked: found.keys.len() as u64,
            keys_lost: keys_lost.count() as u64,
            stale_reads: self.stale_reads,
            digest: found.digest.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: &str) -> Outcome {
        Outcome::Answered { found: true, body: body.to_owned() }
    }

    fn counted(before: u64, answers: &[&str], unknown: usize, after: u64, exclusive: bool) -> Audit {
        let mut ledger = Ledger::new(1, before);
        for body in answers {
            assert!(ledger.settle(&Operation::Count, &answered(body)));
        }
        for _ in 0..unknown {
            ledger.settle(&Operation::Count, &Outcome::Unknown);
        }
        ledger.settle(&Operation::Count, &Outcome::NotSent);
        ledger.audit(&ReadBack { count: after, ..ReadBack::default() }, exclusive)
    }

    #[test]
    fn counter_against_the_record() {
        let lost_and_duplicated = |audit: Audit| (audit.lost(), audit.duplicated(), audit.increments_foreign);
        assert_eq!(lost_and_duplicated(counted(7, &["8", "10\n", "9"], 0, 10, true)), (0, 0, 0));
        assert_eq!(lost_and_duplicated(counted(0, &["1", "2", "3"], 0, 2, true)), (1, 0, 0), "rolled back");
        assert_eq!(lost_and_duplicated(counted(0, &["1", "2", "2"], 0, 2, true)), (1, 0, 0), "one answer twice");
        assert_eq!(lost_and_duplicated(counted(0, &["1", "3"], 0, 3, true)), (0, 1, 0), "executed twice");
        assert_eq!(lost_and_duplicated(counted(0, &["1", "3"], 1, 3, true)), (0, 0, 0), "explained by a time-out");
        assert_eq!(lost_and_duplicated(counted(0, &["1", "3", "5"], 1, 5, false)), (0, 0, 1), "someone else's");
        assert_eq!(lost_and_duplicated(counted(0, &["1", "2", "2", "4"], 0, 4, true)), (1, 1, 0), "do not cancel out");
        assert_eq!(lost_and_duplicated(counted(9, &["1", "2"], 0, 2, true)), (2, 0, 0), "another instance's state");
    }

    #[test]
    fn keys_against_the_record() {
        let mut ledger = Ledger::new(0xab, 0);
        let put = |ledger: &mut Ledger, version: u64, outcome: &Outcome| {
            ledger.keys[3].sent = version;
            ledger.settle(&Operation::Put { key: 3, version }, outcome);
        };
        put(&mut ledger, 1, &answered(""));
        put(&mut ledger, 2, &answered(""));
        assert_eq!((ledger.written_keys(), ledger.value(2)), (vec![3], "ab.2".to_owned()));
        let lost = |ledger: &Ledger, text: Option<&str>| {
            let keys = vec![(3, text.map(str::to_owned))];
            ledger.audit(&ReadBack { keys, ..ReadBack::default() }, true).keys_lost
        };
        let texts = [Some("ab.2"), Some("ab.1"), Some("ab.3"), Some("ac.2"), Some("2"), Some(""), None];
        assert_eq!(texts.map(|text| lost(&ledger, text)), [0, 1, 1, 1, 1, 1, 1]);
        put(&mut ledger, 3, &Outcome::Unknown);
        assert_eq!(texts.map(|text| lost(&ledger, text)), [0, 1, 0, 1, 1, 1, 1]);
        put(&mut ledger, 4, &answered(""));
        assert_eq!([lost(&ledger, Some("ab.4")), lost(&ledger, Some("ab.3")), lost(&ledger, Some("ab.2"))], [0, 0, 1]);
    }

    #[test]
    fn reads_must_see_what_was_acknowledged_before_them() {
        let mut ledger = Ledger::new(1, 0);
        ledger.keys[0] = Key { sent: 5, acknowledged: 4, ..Key::default() };
        let missing = Outcome::Answered { found: false, body: String::new() };
        assert!(ledger.settle(&Operation::GetKey { key: 0, floor: 0 }, &missing));
        assert!(ledger.settle(&Operation::GetKey { key: 0, floor: 4 }, &answered("1.5")));
        assert!(ledger.settle(&Operation::GetCount { floor: 9 }, &answered("9")));
        assert_eq!(ledger.stale_reads, 0);
        assert!(!ledger.settle(&Operation::GetKey { key: 0, floor: 4 }, &missing));
        assert!(!ledger.settle(&Operation::GetKey { key: 0, floor: 4 }, &answered("1.3")));
        assert!(!ledger.settle(&Operation::GetCount { floor: 9 }, &answered("8")));
        assert!(!ledger.settle(&Operation::GetCount { floor: 9 }, &answered("<html>")));
        assert_eq!(ledger.audit(&ReadBack::default(), true).lost(), 4);
    }

    #[test]
    fn one_write_per_key_at_a_time() {
        let mut ledger = Ledger::new(1, 0);
        let asked: Vec<Operation> = (0..10 * KEYS).map(|_| ledger.next()).collect();
        let puts: BTreeSet<usize> =
            asked.iter().filter_map(|o| if let Operation::Put { key, .. } = o { Some(*key) } else { None }).collect();
        assert_eq!(puts.len(), KEYS);
        let count = |wanted: fn(&Operation) -> bool| asked.iter().filter(|o| wanted(o)).count();
        assert_eq!(count(|o| matches!(o, Operation::Put { .. })), KEYS, "the rest became increments");
        assert_eq!(count(|o| matches!(o, Operation::GetKey { .. } | Operation::GetCount { .. })), 2 * KEYS);
        ledger.settle(&Operation::Put { key: 9, version: 1 }, &Outcome::NotSent);
        assert_eq!(ledger.next_put(), Some(Operation::Put { key: 9, version: 2 }));
        assert_eq!(ledger.next_put(), None);
    }
}
