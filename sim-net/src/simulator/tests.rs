//! The simulator at work: what it finds, what it does not, and that it does the same again.

use super::*;

fn options(seeds: u64, start: u64, broken: Option<Break>) -> FuzzOptions {
    let terms = Terms { broken, ..Terms::default() };
    FuzzOptions { seeds, start, terms, jobs: 1, twice: false, progress: false }
}

fn assert_fine(outcome: &Outcome) {
    assert_eq!(outcome.violated(), None, "{outcome}");
}

#[test]
fn seeds_that_once_failed_do_not_and_are_the_same_twice() {
    for line in include_str!("regressions.txt").lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().and_then(|seed| seed.parse().ok()).expect("a seed");
        let [first, second] = [(); 2].map(|()| replay(seed, Terms::default(), None));
        assert_fine(&first);
        assert_eq!(first.trace_hash(), second.trace_hash(), "seed {seed}");
    }
}

#[test]
fn a_story_told_changes_nothing() {
    let [silent, told] = [None, Some(false)].map(|trace| replay(7, Terms::default(), trace));
    assert_eq!(silent.trace_hash(), told.trace_hash());
}

#[test]
fn few_seeds_move_services_through_crashes_and_nothing_is_lost() {
    let report = fuzz(&options(12, 0, None));
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.migrations.completed > 20 && report.crashes > 20 && report.requests > 500, "{report}");
    let rows = report.coverage().rows();
    assert!(rows.iter().any(|row| row.role == "source" && row.state == "frozen" && row.none > 0));
    assert!(rows.iter().all(|row| row.empty.iter().all(|why| why.contains(": "))));
}

#[test]
fn a_violation_says_how_to_see_it_again() {
    let broken = Break::named("no-dedupe").expect("it exists");
    let report = fuzz(&options(broken.found_within_seeds, 0, Some(broken)));
    let found = report.violations.first().expect("it is found");
    assert_eq!(found.replay, format!("wayfare-sim fuzz --replay {} --break no-dedupe --trace", found.seed));
    assert!(found.last.iter().rev().take(5).any(|line| line.contains("VIOLATED")), "{:?}", found.last);
    let json = serde_json::to_value(&report).expect("a report is JSON");
    for key in ["seeds", "events", "migrations", "crashes", "partitions", "requests", "violations"] {
        assert!(json.get(key).is_some(), "{key}");
    }
}

/// One test per break, so that they run side by side and a failure names its guard.
macro_rules! breaks_are_found {
    ($($test:ident $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                let broken = Break::named($name).expect("it exists");
                let report = fuzz(&options(broken.found_within_seeds, 0, Some(broken)));
                assert!(!report.violations.is_empty(), "nobody notices in {} seeds", broken.found_within_seeds);
            }
        )*

        #[test]
        fn every_break_has_a_test() {
            let tested = [$($name),*];
            assert_eq!(BREAKS.iter().map(|known| known.name).collect::<Vec<_>>(), tested);
        }
    };
}

breaks_are_found! {
    finds_an_open_sync_gate "sync-gate",
    finds_a_missing_epoch_check "epoch-check",
    finds_a_missing_consent_check "consent-check",
    finds_migrations_used_twice "single-use-mig",
    finds_held_states_that_a_timer_ends "held-by-timer",
    finds_missing_deduplication "no-dedupe",
    finds_ignored_marks "ignore-acked",
    finds_ignored_leases "ignore-lease",
    finds_thawing_without_aborted "thaw-without-aborted",
    finds_deleting_by_service "delete-by-service",
    finds_superseded_hosts_that_delete "superseded-deletes",
    finds_deciding_after_a_restore "decide-after-restore",
    finds_resources_that_are_not_released "resources-not-released",
    finds_duplicate_records "duplicate-record",
    finds_responses_before_the_log "response-before-log",
    finds_names_given_before_the_lease_ends "name-before-lease",
    finds_stopped_services_that_execute "stopped-executes",
}
