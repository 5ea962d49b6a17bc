//! Somebody who watches a node or a Registry at the moments at which a crash matters: just before a message of the protocol is
//! sent, just after, and as soon as an entry of the journal is on disk, before anything that rests on it leaves.
//!
//! Products have none, and then [`Watched`] does nothing. A test of crashes puts one there that ends, stops or cuts off the
//! process.

use std::{collections::VecDeque, fmt, sync::Arc};

/// Is told, on the task that owns the machine: whoever does not return stops it there.
pub trait Witness: Send + Sync + 'static {
    /// The message with this name is about to be sent.
    fn before_send(&self, message: &'static str);
    /// The message with this name is on its way out.
    fn after_send(&self, message: &'static str);
    /// The entry with this name is on disk; what waits for it has not been done yet.
    fn after_sync(&self, entry: &'static str);
}

/// A machine's owner with its witness, if there is one.
#[derive(Clone, Default)]
pub struct Watched {
    witness: Option<Arc<dyn Witness>>,
    /// Entries on their way to disk. Without a witness always empty.
    unsynced: VecDeque<(u64, &'static str)>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("witness", &self.witness.is_some()).finish_non_exhaustive()
    }
}

impl Watched {
    /// Watched by `witness`, or by nobody.
    pub const fn by(witness: Option<Arc<dyn Witness>>) -> Self {
        Self { witness, unsynced: VecDeque::new() }
    }

    /// Sends a message by `send`, under the witness's eyes.
    pub fn send(&self, message: &'static str, send: impl FnOnce()) {
        let Some(witness) = &self.witness else { return send() };
        witness.before_send(message);
        send();
        witness.after_send(message);
    }

    /// Something of this name is about to be sent, as [`Watched::sent`] will say.
    pub fn sending(&self, message: &'static str) {
        if let Some(witness) = &self.witness {
            witness.before_send(message);
        }
    }

    /// See [`Watched::sending`].
    pub fn sent(&self, message: &'static str) {
        if let Some(witness) = &self.witness {
            witness.after_send(message);
        }
    }

    /// The entry of this number and name is on its way to disk.
    pub fn appended(&mut self, seq: u64, entry: &'static str) {
        if self.witness.is_some() {
            self.unsynced.push_back((seq, entry));
        }
    }

    /// Everything up to this number is on disk. To be called before the machine hears of it.
    pub fn synced(&mut self, seq: u64) {
        while let Some((_, entry)) = self.unsynced.pop_front_if(|(appended, _)| *appended <= seq) {
            self.written(entry);
        }
    }

    /// What has this name is on disk, and nothing that rests on it was done.
    pub fn written(&self, entry: &'static str) {
        if let Some(witness) = &self.witness {
            witness.after_sync(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Witness for Notes {
        fn before_send(&self, message: &'static str) {
            self.0.lock().unwrap().push(format!("before {message}"));
        }

        fn after_send(&self, message: &'static str) {
            self.0.lock().unwrap().push(format!("after {message}"));
        }

        fn after_sync(&self, entry: &'static str) {
            self.0.lock().unwrap().push(format!("synced {entry}"));
        }
    }

    #[test]
    fn each_moment_is_told_once_and_in_order() {
        let notes = Arc::new(Notes::default());
        let mut watched = Watched::by(Some(Arc::clone(&notes) as Arc<dyn Witness>));
        for (seq, entry) in [(1, "one"), (2, "two"), (3, "three")] {
            watched.appended(seq, entry);
        }
        watched.synced(2);
        watched.send("message", || notes.0.lock().unwrap().push("sent".to_owned()));
        watched.synced(3);
        watched.synced(3);
        let told = notes.0.lock().unwrap().clone();
        assert_eq!(told, ["synced one", "synced two", "before message", "sent", "after message", "synced three"]);
    }

    #[test]
    fn without_a_witness_nothing_is_kept() {
        let mut watched = Watched::default();
        watched.appended(1, "one");
        assert!(watched.unsynced.is_empty());
        let mut sent = false;
        watched.send("message", || sent = true);
        assert!(sent);
    }
}
