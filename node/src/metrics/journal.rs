//! What the journal's thread counts.

use std::time::Duration;

use wayfare_journal::Observer;
use wayfare_telemetry::{
    Metrics,
    instruments::{Counter, Durations, Gauge, Register as _},
};

/// Counted by the journal's thread, read by whoever scrapes. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct JournalMetrics {
    syncs: Durations,
    entries: Counter,
    bytes: Gauge,
    full: Gauge,
    compactions_failed: Counter,
}

impl JournalMetrics {
    /// Puts them into `metrics`.
    pub(crate) fn register(&self, metrics: &mut Metrics) {
        metrics.add(
            "wayfare_journal_sync_duration_seconds",
            "From writing a group of entries until it is on disk: once for each sync",
            &self.syncs,
        );
        metrics.add("wayfare_journal_entries", "An entry is on disk", &self.entries);
        metrics.add("wayfare_journal_size_bytes", "Length of the journal", &self.bytes);
        metrics.add(
            "wayfare_journal_full",
            "1 while the disk has no room for more than what must be decided: nothing new is taken on",
            &self.full,
        );
        metrics.add(
            "wayfare_journal_compactions_failed",
            "The journal could not be made smaller, and goes on growing",
            &self.compactions_failed,
        );
    }
}

impl Observer for JournalMetrics {
    fn synced(&self, entries: usize, took: Duration) {
        self.syncs.observe(took);
        self.entries.inc_by(entries as u64);
    }

    fn progressed(&self, bytes: u64, full: bool) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.full.set(full.into());
    }

    fn compaction_failed(&self) {
        self.compactions_failed.inc();
    }
}
