//! The sync gate: an effect that makes a promise leaves a machine only when the journal entry it rests on is on disk.

use std::collections::VecDeque;

/// Effects on their way out, each perhaps waiting for a journal entry to be synced. Order is kept among those that are
/// ready; an effect that rests on nothing does not wait for one that does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbox<E> {
    ready: VecDeque<E>,
    gated: VecDeque<(u64, E)>,
    appended: u64,
    synced: u64,
    /// Whether promises wait at all: see [`Rule::SyncGate`](crate::reject::Rule::SyncGate).
    gate: bool,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self::starting_at(0, true)
    }
}

impl<E> Outbox<E> {
    /// An empty outbox whose next journal entry has number `last + 1`. Without a `gate`, promises do not wait.
    pub const fn starting_at(last: u64, gate: bool) -> Self {
        Self { ready: VecDeque::new(), gated: VecDeque::new(), appended: last, synced: last, gate }
    }

    /// Lets out a journal entry made by `entry` from its number; later [`Outbox::promise`]s rest on it.
    pub fn persist(&mut self, entry: impl FnOnce(u64) -> E) {
        self.appended += 1;
        self.ready.push_back(entry(self.appended));
    }

    /// Lets out `effect` at once: it promises nothing.
    pub fn now(&mut self, effect: E) {
        self.ready.push_back(effect);
    }

    /// Lets out `effect` when everything persisted so far is on disk.
    pub fn promise(&mut self, effect: E) {
        if self.appended <= self.synced || !self.gate {
            self.ready.push_back(effect);
        } else {
            self.gated.push_back((self.appended, effect));
        }
    }

    /// All journal entries up to number `seq` are on disk.
    pub fn handle_synced(&mut self, seq: u64) {
        self.synced = self.synced.max(seq.min(self.appended));
        while self.gated.front().is_some_and(|(needs, _)| *needs <= self.synced) {
            if let Some((_, effect)) = self.gated.pop_front() {
                self.ready.push_back(effect);
            }
        }
    }

    /// Forgets each waiting effect that is equal to one before it. Whoever may assume that doing it twice is doing it once
    /// (a network that repeats messages anyhow) has fewer conditions to tell apart.
    pub fn forget_repeats(&mut self)
    where
        E: PartialEq,
    {
        let mut kept: VecDeque<(u64, E)> = VecDeque::with_capacity(self.gated.len());
        for (needs, effect) in self.gated.drain(..) {
            if kept.iter().all(|(_, before)| *before != effect) {
                kept.push_back((needs, effect));
            }
        }
        self.gated = kept;
    }

    /// Numbers the entries that are not on disk by the commits they are in, of which `commits` has the last numbers: two machines
    /// that differ in how often they wrote, and not in what is still to be written, are then equal. The driver numbers on likewise.
    pub fn renumber(&mut self, commits: &[u64]) {
        let commit = |number: u64| commits.iter().take_while(|last| **last < number).count() as u64 + 1;
        self.gated.iter_mut().for_each(|(needs, _)| *needs = commit(*needs));
        (self.appended, self.synced) = (commits.len() as u64, 0);
    }

    /// The next effect to execute.
    pub fn poll(&mut self) -> Option<E> {
        self.ready.pop_front()
    }

    /// The number of the last journal entry let out.
    pub const fn last_appended(&self) -> u64 {
        self.appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_waits_for_its_entry_and_nothing_else_does() {
        let mut outbox = Outbox::default();
        outbox.persist(|seq| format!("persist {seq}"));
        outbox.promise("promise".to_owned());
        outbox.now("free".to_owned());
        assert_eq!(outbox.poll().as_deref(), Some("persist 1"));
        assert_eq!(outbox.poll().as_deref(), Some("free"));
        assert_eq!(outbox.poll(), None);
        outbox.handle_synced(0);
        assert_eq!(outbox.poll(), None);
        outbox.handle_synced(1);
        assert_eq!(outbox.poll().as_deref(), Some("promise"));
    }

    #[test]
    fn a_repeat_is_forgotten_and_the_first_stays() {
        let mut outbox = Outbox::default();
        for promise in ["a", "b", "a"] {
            outbox.persist(|_| "persist");
            outbox.promise(promise);
        }
        outbox.forget_repeats();
        outbox.handle_synced(3);
        let all: Vec<&str> = std::iter::from_fn(|| outbox.poll()).collect();
        assert_eq!(all, ["persist", "persist", "persist", "a", "b"]);
    }

    #[test]
    fn numbers_of_what_is_on_disk_make_no_difference_once_renumbered() {
        let (mut often, mut once) = (Outbox::default(), Outbox::default());
        for _ in 0..9 {
            often.persist(|_| "persist");
        }
        often.handle_synced(9);
        for outbox in [&mut often, &mut once] {
            outbox.persist(|_| "persist");
            outbox.promise("promise");
            while outbox.poll().is_some() {}
        }
        // A second entry in the same commit.
        often.persist(|_| "persist");
        often.poll();
        often.renumber(&[11]);
        once.renumber(&[1]);
        assert_eq!(often, once);
        often.handle_synced(1);
        assert_eq!(often.poll(), Some("promise"));
    }

    #[test]
    fn a_sync_of_what_was_never_appended_frees_nothing_later() {
        let mut outbox = Outbox::default();
        outbox.handle_synced(99);
        outbox.persist(|seq| seq);
        outbox.promise(7);
        assert_eq!(outbox.poll(), Some(1));
        assert_eq!(outbox.poll(), None);
    }
}
