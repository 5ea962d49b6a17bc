//! `wayfare-sim fuzz`: arguments, what is printed, exit codes.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{BREAKS, Break, FuzzOptions, Terms, fuzz, replay};

/// The arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wayfare-sim fuzz                                 1000 seeds; exits 1 if one breaks a promise
  wayfare-sim fuzz --seeds 300 --start 20260101    fresh seeds
  wayfare-sim fuzz --replay 42 --trace             the story of one seed, bit for bit
  wayfare-sim fuzz --break sync-gate               without one guard: must exit 1
  wayfare-sim fuzz --list-breaks                   the guards that can be taken away

Each seed is a world of its own: nodes, network, disks, clocks, clients, moves and faults. The
machines and the cryptography are those of the real programs. After every event all invariants
are checked; then everything heals, and must come right.")]
pub struct FuzzArgs {
    /// How many seeds to run [default: 1000; with --break: as many as it takes at most]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    start: u64,
    /// Events of each seed after which nothing goes wrong any more [default: as the seed says]
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// Seeds that run at the same time
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// Run each seed a second time, which must be the same bit for bit
    #[arg(long, conflicts_with = "replay")]
    twice: bool,
    /// Run this seed alone, and print its trace hash
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "start", "jobs", "coverage"])]
    replay: Option<u64>,
    /// Tell everything that happens
    #[arg(long, requires = "replay")]
    trace: bool,
    /// Take one guard away: it must be found out
    #[arg(long = "break", value_name = "NAME", value_parser = parse_break)]
    broken: Option<Break>,
    /// Let owners order updates, too: some seeds still fail with that
    #[arg(long)]
    updates: bool,
    /// The guards that can be taken away, and within how many seeds that is found out
    #[arg(long, exclusive = false, conflicts_with_all = ["replay", "broken", "seeds"])]
    list_breaks: bool,
    /// Print which event met which state under which fault, and how often
    #[arg(long)]
    coverage: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Seeds of a run that looks for anything.
const SEEDS: u64 = 1000;

fn parse_break(name: &str) -> Result<Break, String> {
    Break::named(name).ok_or_else(|| {
        let names: Vec<&str> = BREAKS.iter().map(|known| known.name).collect();
        format!("there is no such break; there are {}", names.join(", "))
    })
}

/// What `--replay --json` prints.
#[derive(Serialize)]
struct Replayed {
    seed: u64,
    trace_hash: String,
    events: u64,
    invariant: Option<&'static str>,
    detail: Option<String>,
}

impl FuzzArgs {
    /// Does what the arguments say. 1: a promise was broken.
    pub fn run(self) -> ExitCode {
        if self.list_breaks {
            list_breaks(self.json);
            return ExitCode::SUCCESS;
        }
        match self.replay {
            Some(seed) => self.run_one(seed),
            None => self.run_many(),
        }
    }

    fn terms(&self) -> Terms {
        Terms { events_max: self.events.unwrap_or(u64::MAX), updates: self.updates, broken: self.broken }
    }

    fn run_one(&self, seed: u64) -> ExitCode {
        let print = self.trace && !self.json;
        let outcome = replay(seed, self.terms(), print.then_some(true));
        let violated = outcome.violated();
        if self.json {
            print_json(&Replayed {
                seed,
                trace_hash: outcome.trace_hash(),
                events: outcome.counts().1,
                invariant: violated.map(|(invariant, _)| invariant),
                detail: violated.map(|(_, detail)| detail.to_owned()),
            });
        } else {
            println!("{outcome}");
            if let Some((invariant, detail)) = violated {
                println!("VIOLATED: {invariant}\n  {detail}");
            }
        }
        exit(violated.is_some())
    }

    fn run_many(&self) -> ExitCode {
        let default = self.broken.map_or(SEEDS, |broken| broken.found_within_seeds);
        let mut report = fuzz(&FuzzOptions {
            seeds: self.seeds.unwrap_or(default),
            start: self.start,
            terms: self.terms(),
            jobs: self.jobs,
            twice: self.twice,
            progress: true,
        });
        let failed = !report.violations.is_empty();
        if self.json {
            if self.coverage {
                report.with_coverage();
            }
            print_json(&report);
        } else {
            if self.coverage {
                println!("{}", report.coverage());
            }
            println!("{report}");
            match self.broken {
                Some(broken) if failed => println!("found, as it should be: without the guard \"{}\"", broken.guard),
                Some(broken) => println!("NOT found: nothing notices that the guard \"{}\" is missing", broken.guard),
                None => {}
            }
        }
        exit(failed)
    }
}

fn list_breaks(json: bool) {
    if json {
        print_json(&BREAKS);
        return;
    }
    println!("{:<24}{:>6}  guard", "name", "seeds");
    for known in BREAKS {
        println!("{:<24}{:>6}  {}", known.name, known.found_within_seeds, known.guard);
    }
}

fn exit(failed: bool) -> ExitCode {
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("wayfare-sim: the result cannot be written as JSON: {error}"),
    }
}
