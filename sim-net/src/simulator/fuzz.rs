//! Many seeds, on several threads; what `wayfare-sim fuzz` does.

use std::{
    io::{IsTerminal as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use wayfare_protocol::reject::Strict;

use super::{
    breaks::{Break, Without, without},
    check::Violation,
    coverage::{Coverage, CoverageRow},
    run::{Outcome, run_seed},
    story::Story,
};

/// What to run.
#[derive(Clone, Debug)]
pub struct FuzzOptions {
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub start: u64,
    /// What is the same for each.
    pub terms: Terms,
    /// Threads.
    pub jobs: usize,
    /// Whether each seed is run a second time, which must be the same bit for bit.
    pub twice: bool,
    /// Whether progress is shown on stderr.
    pub progress: bool,
}

/// What a run depends on beside its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Events after which nothing goes wrong any more.
    pub events_max: u64,
    /// Whether owners order updates, too.
    pub updates: bool,
    /// The guard to do without. The first violation ends the run.
    pub broken: Option<Break>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { events_max: u64::MAX, updates: false, broken: None }
    }
}

/// Migrations that ended one way or the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Migrations {
    /// With the service elsewhere.
    pub completed: u64,
    /// With the service where it was.
    pub aborted: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// In this seed.
    pub seed: u64,
    /// The promise.
    pub invariant: String,
    /// The command that shows it again.
    pub replay: String,
    /// What happened before it.
    #[serde(skip)]
    pub last: Vec<String>,
    /// How it was broken.
    #[serde(skip)]
    pub detail: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FuzzReport {
    /// Runs.
    pub seeds: u64,
    /// Events in all.
    pub events: u64,
    /// Moves in all.
    pub migrations: Migrations,
    /// Crashes of nodes.
    pub crashes: u64,
    /// One-way partitions.
    pub partitions: u64,
    /// Clients' requests.
    pub requests: u64,
    /// Broken promises, by seed.
    pub violations: Vec<Found>,
    /// Completed migrations a second, on this machine.
    pub migrations_per_second: f64,
    /// What was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Vec<CoverageRow>>,
    #[serde(skip)]
    counts: Coverage,
}

impl FuzzReport {
    /// What was tried, as a table.
    pub const fn coverage(&self) -> &Coverage {
        &self.counts
    }

    /// Puts the coverage into the JSON form.
    pub fn with_coverage(&mut self) {
        self.coverage = Some(self.counts.rows());
    }

    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.migrations.completed += outcome.completed;
        self.migrations.aborted += outcome.aborted;
        self.crashes += outcome.crashes;
        self.partitions += outcome.partitions;
        self.requests += outcome.requests;
        self.counts.add(&outcome.coverage);
    }
}

impl std::fmt::Display for FuzzReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for found in &self.violations {
            writeln!(f, "seed {}: VIOLATED: {}", found.seed, found.invariant)?;
            writeln!(f, "  {}", found.detail)?;
            found.last.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
            writeln!(f, "  replay: {}\n", found.replay)?;
        }
        let Migrations { completed, aborted } = self.migrations;
        writeln!(f, "{} seeds, {} events, {} requests", self.seeds, self.events, self.requests)?;
        writeln!(
            f,
            "{completed} migrations completed, {aborted} aborted; {:.0} migrations/s",
            self.migrations_per_second
        )?;
        writeln!(f, "{} crashes, {} partitions", self.crashes, self.partitions)?;
        write!(f, "{} violations", self.violations.len())
    }
}

/// The command that runs a seed again.
fn replay_command(seed: u64, terms: Terms) -> String {
    let broken = terms.broken.map_or_else(String::new, |broken| format!(" --break {}", broken.name));
    let updates = if terms.updates { " --updates" } else { "" };
    format!("wayfare-sim fuzz --replay {seed}{broken}{updates} --trace")
}

/// Runs one seed; a panic within it is a violation like any other.
pub fn replay(seed: u64, terms: Terms, trace: Option<bool>) -> Outcome {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let story = trace.map_or(Story::Untold, Story::told);
        match terms.broken {
            Some(broken) => without(broken, || run_seed::<Without>(seed, terms, story)),
            None => run_seed::<Strict>(seed, terms, story),
        }
    }));
    caught.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let detail = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Outcome::panicked(seed, Violation { invariant: "nothing panics", detail })
    })
}

/// Tells what led to a violation, by running the seed once more.
fn explain(outcome: &Outcome, options: &FuzzOptions) -> Option<Found> {
    let violation = outcome.violation.as_ref()?;
    let again = replay(outcome.seed, options.terms, Some(false));
    Some(Found {
        seed: outcome.seed,
        invariant: violation.invariant.to_owned(),
        replay: replay_command(outcome.seed, options.terms),
        last: again.last,
        detail: violation.detail.clone(),
    })
}

/// The violation of a seed that did something else the second time.
fn differs(outcome: &Outcome, options: &FuzzOptions) -> Option<Found> {
    let again = options.twice.then(|| replay(outcome.seed, options.terms, None))?;
    (again.trace_hash() != outcome.trace_hash()).then(|| Found {
        seed: outcome.seed,
        invariant: "a seed is a run, bit for bit".to_owned(),
        replay: replay_command(outcome.seed, options.terms),
        last: Vec::new(),
        detail: format!("trace hashes {} and {}", outcome.trace_hash(), again.trace_hash()),
    })
}

/// Runs all seeds of `options`.
pub fn fuzz(options: &FuzzOptions) -> FuzzReport {
    // Panics are caught and reported with their seed: the standard report would only be in the way.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let report = fuzz_quietly(options);
    std::panic::set_hook(hook);
    report
}

fn fuzz_quietly(options: &FuzzOptions) -> FuzzReport {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let shared = Mutex::new((FuzzReport::default(), Instant::now()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.seeds {
                return;
            }
            let outcome = replay(options.start + at, options.terms, None);
            let found = explain(&outcome, options).or_else(|| differs(&outcome, options));
            let Ok(mut guard) = shared.lock() else { return };
            let (report, shown) = &mut *guard;
            report.add(&outcome);
            if options.terms.broken.is_some() && found.is_some() {
                next.store(options.seeds, Ordering::Relaxed);
            }
            report.violations.extend(found);
            if options.progress && shown.elapsed() > Duration::from_millis(250) {
                *shown = Instant::now();
                show(report, options.seeds);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let (mut report, _) = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.violations.sort_by_key(|found| found.seed);
    report.migrations_per_second = report.migrations.completed as f64 / began.elapsed().as_secs_f64();
    if options.progress {
        eprint!("\r{:78}\r", "");
    }
    report
}

/// One line that is written over and over.
fn show(report: &FuzzReport, seeds: u64) {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return;
    }
    let Migrations { completed, aborted } = report.migrations;
    let bad = report.violations.len();
    let line = format!(
        "{}/{seeds} seeds, {completed}+{aborted} migrations, {} crashes, {bad} violations",
        report.seeds, report.crashes
    );
    // Without a reader there is nobody to inform.
    let _ = write!(stderr, "\r{line:78}");
    let _ = stderr.flush();
}
