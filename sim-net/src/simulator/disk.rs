//! Disks: what is appended survives a crash only when it was synced, and a random part of the rest does by luck.

use std::collections::{BTreeMap, VecDeque};

use wayfare_protocol::registry::{StoreImage, StoreOp};

use super::rng::Rng;

/// One change of a journal.
#[derive(Clone, Debug)]
pub(super) enum Change<K> {
    /// An entry, encoded.
    Append(Vec<u8>),
    /// The whole content is replaced, at once, by what survives under `keep` and this entry.
    Compact {
        /// The entry that says what the dropped ones said.
        snapshot: Vec<u8>,
        /// Which of the old ones stay.
        keep: K,
    },
}

/// Decides which entries survive a compaction: number, bytes and the rule that came with it.
pub(super) type Survives<K> = fn(u64, &[u8], &K) -> bool;

/// A journal: numbered entries, written in order, synced in groups.
#[derive(Clone, Debug)]
pub(super) struct Journal<K> {
    durable: Vec<(u64, Vec<u8>)>,
    pending: VecDeque<(u64, Change<K>)>,
    /// How many of `pending` the sync under way covers.
    syncing: Option<usize>,
    survives: Survives<K>,
}

impl<K> Journal<K> {
    pub(super) const fn new(survives: Survives<K>) -> Self {
        Self { durable: Vec::new(), pending: VecDeque::new(), syncing: None, survives }
    }

    pub(super) fn change(&mut self, seq: u64, change: Change<K>) {
        self.pending.push_back((seq, change));
    }

    /// Begins a sync of everything written so far, if there is anything and none is under way.
    pub(super) fn begin_sync(&mut self) -> bool {
        let begin = self.syncing.is_none() && !self.pending.is_empty();
        if begin {
            self.syncing = Some(self.pending.len());
        }
        begin
    }

    /// The sync is done: the number of the last entry on disk.
    pub(super) fn finish_sync(&mut self) -> Option<u64> {
        let count = self.syncing.take()?;
        let mut last = None;
        for _ in 0..count {
            last = self.settle().or(last);
        }
        last
    }

    fn settle(&mut self) -> Option<u64> {
        let (seq, change) = self.pending.pop_front()?;
        match change {
            Change::Append(bytes) => self.durable.push((seq, bytes)),
            Change::Compact { snapshot, keep } => {
                let survives = self.survives;
                self.durable.retain(|(number, bytes)| survives(*number, bytes, &keep));
                self.durable.push((seq, snapshot));
            }
        }
        Some(seq)
    }

    /// The machine dies: of what was not synced a random number of entries is there all the same; one that was only half
    /// written is cut off. Returns how many were lost.
    pub(super) fn crash(&mut self, rng: &mut Rng) -> usize {
        self.syncing = None;
        let lucky = rng.index(self.pending.len() + 1);
        for _ in 0..lucky {
            self.settle();
        }
        let lost = self.pending.len();
        self.pending.clear();
        lost
    }

    /// A copy of what is on disk.
    pub(super) fn copy(&self) -> Self {
        let (pending, syncing) = (VecDeque::new(), None);
        Self { durable: self.durable.clone(), pending, syncing, survives: self.survives }
    }

    /// What a reader finds.
    pub(super) fn durable(&self) -> &[(u64, Vec<u8>)] {
        &self.durable
    }

    /// Everything written, synced or not.
    pub(super) fn bytes(&self) -> u64 {
        self.durable.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Files that appear under their name when they are synced.
#[derive(Clone, Debug)]
pub(super) struct Files<K, V>(BTreeMap<K, (V, bool)>);

impl<K: Ord + Clone, V: Clone> Files<K, V> {
    /// A copy of what is on disk.
    pub(super) fn copy(&self) -> Self {
        let mut copy = self.clone();
        copy.crash();
        copy
    }
}

impl<K: Ord, V> Files<K, V> {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Begins to write a file.
    pub(super) fn write(&mut self, key: K, value: V) {
        self.0.insert(key, (value, false));
    }

    /// It is on disk. False if it was deleted meanwhile.
    pub(super) fn synced(&mut self, key: &K) -> bool {
        self.0.get_mut(key).is_some_and(|(_, synced)| {
            *synced = true;
            true
        })
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).filter(|(_, synced)| *synced).map(|(value, _)| value)
    }

    pub(super) fn remove(&mut self, key: &K) -> bool {
        self.0.remove(key).is_some()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What was not synced is gone.
    pub(super) fn crash(&mut self) {
        self.0.retain(|_, (_, synced)| *synced);
    }
}

/// The Registry's store: batches that take effect whole, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    durable: StoreImage,
    pending: VecDeque<(u64, Vec<StoreOp>)>,
    syncing: Option<usize>,
}

impl Store {
    pub(super) fn change(&mut self, seq: u64, batch: Vec<StoreOp>) {
        self.pending.push_back((seq, batch));
    }

    pub(super) fn begin_sync(&mut self) -> bool {
        let begin = self.syncing.is_none() && !self.pending.is_empty();
        if begin {
            self.syncing = Some(self.pending.len());
        }
        begin
    }

    pub(super) fn finish_sync(&mut self) -> Option<u64> {
        let count = self.syncing.take()?;
        (0..count).filter_map(|_| self.settle()).last()
    }

    fn settle(&mut self) -> Option<u64> {
        let (seq, batch) = self.pending.pop_front()?;
        batch.iter().for_each(|op| op.apply(&mut self.durable));
        Some(seq)
    }

    /// As [`Journal::crash`].
    pub(super) fn crash(&mut self, rng: &mut Rng) -> usize {
        self.syncing = None;
        let lucky = rng.index(self.pending.len() + 1);
        for _ in 0..lucky {
            self.settle();
        }
        let lost = self.pending.len();
        self.pending.clear();
        lost
    }

    /// What a restart finds.
    pub(super) const fn durable(&self) -> &StoreImage {
        &self.durable
    }

    /// The disk is replaced by a backup.
    pub(super) fn restore(&mut self, backup: StoreImage) {
        *self = Self { durable: backup, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survives(seq: u64, _: &[u8], keep: &u64) -> bool {
        seq > *keep
    }

    #[test]
    fn only_what_was_synced_is_sure_to_survive() {
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let mut journal: Journal<u64> = Journal::new(survives);
            (1..=3).for_each(|seq| journal.change(seq, Change::Append(vec![seq as u8])));
            assert!(journal.begin_sync() && !journal.begin_sync());
            journal.change(4, Change::Append(vec![4]));
            assert_eq!(journal.finish_sync(), Some(3));
            journal.change(5, Change::Append(vec![5]));
            let lost = journal.crash(&mut rng);
            let kept: Vec<u64> = journal.durable().iter().map(|(seq, _)| *seq).collect();
            assert_eq!(kept, (1..=5 - lost as u64).collect::<Vec<_>>());
            assert!(kept.len() >= 3);
        }
    }

    #[test]
    fn a_compaction_keeps_what_it_should_and_counts_as_an_entry() {
        let mut journal: Journal<u64> = Journal::new(survives);
        (1..=3).for_each(|seq| journal.change(seq, Change::Append(vec![seq as u8])));
        journal.change(4, Change::Compact { snapshot: vec![9], keep: 2 });
        journal.change(5, Change::Append(vec![5]));
        assert!(journal.begin_sync());
        assert_eq!(journal.finish_sync(), Some(5));
        assert_eq!(journal.durable(), [(3, vec![3]), (4, vec![9]), (5, vec![5])]);
        assert_eq!(journal.bytes(), 3);
    }

    #[test]
    fn a_file_is_there_when_it_is_synced() {
        let mut files = Files::new();
        files.write(1, 'a');
        files.write(2, 'b');
        assert!(files.synced(&1) && !files.synced(&3));
        assert_eq!((files.get(&1), files.get(&2), files.len()), (Some(&'a'), None, 2));
        files.crash();
        assert_eq!(files.keys().copied().collect::<Vec<_>>(), [1]);
        assert!(files.remove(&1) && !files.remove(&1));
    }
}
