//! Real processes that die (SIGKILL), hang (SIGSTOP) or lose their network at every step of the protocol: Registry, source,
//! target, gateway and home, each before it sends a message, after it has sent it, and when a promise has just reached its disk.
//! HTTP clients write through the gateway all the while. Afterwards every request has its answer, nothing is lost and nothing
//! doubled, and each service is served by the one host that the record names.
//!
//! `cases` has the table, `run` the scenes, `world` the processes. Every case proves that its failpoint was reached. Cases run in
//! a few worlds side by side, one after the other in each, so that a world has many crashes behind it in the end.
//!
//! The variable `WAYFARE_CRASHES` says which: `few` (the default), `quarter` (which of four, the date says), `all`, or a part of
//! the names of those wanted. `WAYFARE_WORLDS` says how many worlds; `RUST_LOG` what their processes log.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod cases;
mod run;
mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write as _},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cases::{Case, LEFT_OUT, Scene, Victim};
use wayfare_tests::failpoint::{Action, DIR_VARIABLE};
use world::World;

/// The variable that says which cases to run.
const SHARE_VARIABLE: &str = "WAYFARE_CRASHES";
const WORLDS_VARIABLE: &str = "WAYFARE_WORLDS";
const WORLDS: usize = 4;
/// After so many failures no further case is begun.
const FAILURES_MAX: usize = 20;
/// How long one case may take.
const CASE_WITHIN: Duration = Duration::from_secs(240);

/// Says something that is to be seen also when the test passes.
fn say(text: &str) {
    // Nobody may be reading.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[derive(Default)]
struct Results {
    passed: BTreeMap<(Victim, Action), usize>,
    failures: Vec<String>,
    requests: u64,
    retries: u64,
    longest: Duration,
    forgotten: usize,
}

impl Results {
    fn leave(&mut self, world: &World) {
        self.forgotten += world.forgotten;
        if let Ok(user) = world.user() {
            let stats = user.stats();
            self.requests += stats.answered;
            self.retries += stats.retries.values().sum::<u64>();
            self.longest = self.longest.max(stats.longest_request);
        }
    }
}

struct Queue {
    cases: Mutex<VecDeque<Case>>,
    results: Mutex<Results>,
    begun: Instant,
    total: usize,
}

impl Queue {
    fn next(&self) -> Option<Case> {
        if self.results.lock().unwrap().failures.len() >= FAILURES_MAX {
            return None;
        }
        self.cases.lock().unwrap().pop_front()
    }

    fn failed(&self, case: &Case, error: &anyhow::Error, world: Option<World>) {
        let kept = world.map(|world| world.keep().display().to_string()).unwrap_or_default();
        let failure = format!("{case}\n    {error:#}\n    its processes' files: {kept}");
        say(&format!("FAILED {failure}"));
        self.results.lock().unwrap().failures.push(failure);
    }

    /// Plays cases for as long as there are any; a world in which one fails is given up.
    async fn work(&self) {
        let mut world: Option<World> = None;
        while let Some(case) = self.next() {
            let deployments = self
                .cases
                .lock()
                .unwrap()
                .iter()
                .filter(|case| matches!(case.step.scene, Scene::Deploy | Scene::Removal))
                .count()
                + 1;
            let mut present = match world.take() {
                Some(present) => present,
                None => match World::start(deployments).await {
                    Ok(present) => present,
                    Err(error) => {
                        self.failed(&case, &error.context("the world does not begin"), None);
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            let played = tokio::time::timeout(CASE_WITHIN, run::play(&mut present, &case)).await;
            let played = played.unwrap_or_else(|_| Err(anyhow::anyhow!("it never ends")));
            let mut results = self.results.lock().unwrap();
            match played {
                Ok(()) => {
                    *results.passed.entry((case.step.victim, case.point.action)).or_default() += 1;
                    let done = results.passed.values().sum::<usize>() + results.failures.len();
                    let (at, took) = (self.begun.elapsed().as_secs(), begun.elapsed().as_secs_f64());
                    say(&format!("{at:4} s  {done:3}/{}  {case}: {took:.1} s", self.total));
                    drop(results);
                    // A large service makes every later move slow.
                    if case.step.scene == Scene::LargeMove {
                        self.results.lock().unwrap().leave(&present);
                    } else {
                        world = Some(present);
                    }
                }
                Err(error) => {
                    results.leave(&present);
                    drop(results);
                    self.failed(&case, &error, Some(present));
                }
            }
        }
        if let Some(world) = &world {
            self.results.lock().unwrap().leave(world);
        }
    }
}

#[test]
fn whoever_fails_whenever_nothing_is_lost_or_doubled() {
    let wanted = std::env::var(SHARE_VARIABLE).unwrap_or_else(|_| "few".to_owned());
    let worlds = std::env::var(WORLDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(WORLDS);
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let (share, cases) = cases::share(&wanted, day);
    let (total, worlds) = (cases.len(), worlds.min(cases.len()));
    say(&format!("crashes: {share}, in {worlds} worlds; {SHARE_VARIABLE}=few|quarter|all|TEXT chooses"));
    assert!(total > 0, "no case has `{wanted}` in its name");
    let queue =
        Arc::new(Queue { cases: Mutex::new(cases.into()), results: Mutex::default(), begun: Instant::now(), total });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..worlds {
            let queue = Arc::clone(&queue);
            tasks.spawn(async move { queue.work().await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
    report(&queue, &share);
}

/// Of the products, tests beside them look the same way, and find nothing.
#[test]
fn only_the_binaries_under_test_have_failpoints() {
    let knows = |program: &str| String::from_utf8_lossy(&std::fs::read(program).unwrap()).contains(DIR_VARIABLE);
    assert!(knows(env!("CARGO_BIN_EXE_wayfare-under-test")));
    assert!(knows(env!("CARGO_BIN_EXE_wayfare-registry-under-test")));
    assert!(!knows(env!("CARGO_BIN_EXE_wayfare-sim-under-test")));
}

/// Machines without a guard exist in the simulator and in tests: no node and no registry can be made of them.
#[test]
fn only_the_simulator_has_machines_without_a_guard() {
    let knows =
        |program: &str| String::from_utf8_lossy(&std::fs::read(program).unwrap()).contains("thaw-without-aborted");
    assert!(knows(env!("CARGO_BIN_EXE_wayfare-sim-under-test")));
    assert!(!knows(env!("CARGO_BIN_EXE_wayfare-under-test")));
    assert!(!knows(env!("CARGO_BIN_EXE_wayfare-registry-under-test")));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<_> =
        ["protocol/src", "node/src", "node/net/src", "registry/src"].map(|folder| root.join(folder)).into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("impl Guards for")) {
                found.push(path);
            }
        }
    }
    assert!(
        found.iter().all(|path| path.ends_with("protocol/src/reject.rs") || path.to_string_lossy().contains("/tests"))
    );
    assert_eq!(found.iter().filter(|path| path.ends_with("protocol/src/reject.rs")).count(), 1);
}

fn report(queue: &Queue, share: &str) {
    let results = queue.results.lock().unwrap();
    let mut table = format!("crashes: {share}; passed:\n            kill  hang   cut\n");
    for victim in Victim::ALL {
        let count = |action| results.passed.get(&(victim, action)).copied().unwrap_or(0);
        let [kill, hang, cut] = Action::ALL.map(count);
        table.push_str(&format!("  {:<8} {kill:5} {hang:5} {cut:5}\n", victim.name()));
    }
    for (what, why) in LEFT_OUT {
        table.push_str(&format!("  not a case: {what}: {why}\n"));
    }
    let passed = results.passed.values().sum::<usize>();
    table.push_str(&format!(
        "  {passed} passed, {} failed, in {:.0} s; {} requests answered after {} repeats, the longest took {:.1} s; {} moves that their\n  \
         source had forgotten were ended by the next",
        results.failures.len(),
        queue.begun.elapsed().as_secs_f64(),
        results.requests,
        results.retries,
        results.longest.as_secs_f64(),
        results.forgotten,
    ));
    say(&table);
    assert!(results.failures.is_empty(), "{}", results.failures.join("\n"));
    assert_eq!(passed, queue.total, "not all cases were played");
}
