//! `wayfare-sim check`: arguments, what is printed, exit codes.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use wayfare_protocol::reject::{Reject, Rule};

use super::{
    guards::Off,
    removals::{Listed, REMOVALS, Removal},
    scopes::{Bound, SCOPES, Scope},
    search::{Found, search},
    world::CannotBegin,
};

/// The arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wayfare-sim check                                   every scope but the large ones
  wayfare-sim check --scope crashes --jobs 2          one of them
  wayfare-sim check --without sync_gate --scope crashes    must exit 1, and tell a story
  wayfare-sim check --removals                        without each guard that has a scope, in turn
  wayfare-sim check --list                            scopes, their bounds, and guards

Each scope is a small world of the real machines under perfect cryptography. Everything that can
happen in it happens, in every order, until there is no new state; in each, every promise is checked.")]
pub(crate) struct CheckArgs {
    /// The scopes to search [default: all but the large ones]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_scope)]
    scope: Vec<Scope>,
    /// The large scopes as well
    #[arg(long, conflicts_with = "scope")]
    full: bool,
    /// Take these guards away, by the names of their rejections or rules: a promise must break
    #[arg(long, value_name = "GUARD,...", value_parser = Off::named)]
    without: Option<Off>,
    /// Take away, in turn, each set of guards that has a scope in which that must show
    #[arg(long, conflicts_with_all = ["scope", "full", "without", "bound", "most"])]
    removals: bool,
    /// The scopes with their bounds, and the guards that can be taken away
    #[arg(long, conflicts_with_all = ["scope", "full", "without", "bound", "most", "removals"])]
    list: bool,
    /// Stop a search after about so many states; it is then not complete, and fails
    #[arg(long, value_name = "STATES")]
    most: Option<usize>,
    /// Other bounds than the scope's: moves, timeouts, crashes, losses, requests, calls, passes
    #[arg(long, value_name = "BOUND=N", value_delimiter = ',', value_parser = parse_bound)]
    bound: Vec<(Bound, u8)>,
    /// Threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_scope(name: &str) -> Result<Scope, String> {
    Scope::named(name).ok_or_else(|| {
        let names: Vec<&str> = SCOPES.iter().map(|scope| scope.name).collect();
        format!("there is no such scope; there are {}", names.join(", "))
    })
}

fn parse_bound(text: &str) -> Result<(Bound, u8), String> {
    let (name, number) = text.split_once('=').ok_or("give a bound and a number: timeouts=2")?;
    let bound = Bound::ALL.into_iter().find(|bound| bound.name() == name);
    let bound =
        bound.ok_or_else(|| format!("there is no such bound; there are {}", Bound::ALL.map(Bound::name).join(", ")))?;
    Ok((bound, number.parse().map_err(|_| format!("{number}: give a number from 0 to 255"))?))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    scopes: Vec<Found>,
}

/// What `--list --json` prints.
#[derive(Serialize)]
struct List {
    scopes: &'static [Scope],
    removals: Vec<Listed>,
    rejects: Vec<&'static str>,
    rules: Vec<&'static str>,
}

impl CheckArgs {
    /// Does what the arguments say. 1: a promise is broken, a search is not complete, or a removal shows nowhere.
    pub(crate) fn run(self) -> ExitCode {
        if self.list {
            list(self.json);
            return ExitCode::SUCCESS;
        }
        let result = if self.removals { self.run_removals() } else { self.run_scopes() };
        result.unwrap_or_else(|error| {
            eprintln!("wayfare-sim: {error}");
            ExitCode::FAILURE
        })
    }

    fn run_scopes(&self) -> Result<ExitCode, CannotBegin> {
        let scopes: Vec<Scope> = if self.scope.is_empty() {
            SCOPES.iter().filter(|scope| self.full || !scope.large).copied().collect()
        } else {
            self.scope.clone()
        };
        let off = self.without.unwrap_or(Off::NONE);
        let mut report = Report { scopes: Vec::new() };
        for scope in scopes.into_iter().map(|scope| scope.bounded(&self.bound)) {
            let found = search(scope, off, self.jobs, self.most)?;
            self.show(&found);
            report.scopes.push(found);
        }
        let clean = report.scopes.iter().all(Found::is_clean);
        if self.json {
            print_json(&report);
        } else {
            let (states, unique) = report
                .scopes
                .iter()
                .fold((0, 0), |(states, unique), found| (states + found.states, unique + found.unique));
            let scopes = report.scopes.len();
            println!(
                "{scopes} scopes, {states} states, {unique} different: {}",
                if clean { "every promise holds" } else { "FAILED" }
            );
        }
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn run_removals(&self) -> Result<ExitCode, CannotBegin> {
        let mut report = Report { scopes: Vec::new() };
        for removal in REMOVALS {
            let Some(scope) = Scope::named(removal.scope) else { continue };
            let found = search(scope, removal.off, self.jobs, None)?;
            if !self.json {
                match found.counterexamples.first() {
                    Some(shortest) => println!(
                        "without {}: {} ({}, {} steps, {} states)",
                        found.without,
                        shortest.property,
                        found.scope.name,
                        shortest.story.len(),
                        found.unique
                    ),
                    None => println!("without {}: NOT FOUND in {}", found.without, found.scope.name),
                }
            }
            report.scopes.push(found);
        }
        let found = report.scopes.iter().filter(|found| !found.counterexamples.is_empty()).count();
        if self.json {
            print_json(&report);
        } else {
            println!("{found} of {} removals found", REMOVALS.len());
        }
        Ok(if found == REMOVALS.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn show(&self, found: &Found) {
        if !self.json {
            println!("{found}");
        }
    }
}

fn list(json: bool) {
    let removals: Vec<Listed> = REMOVALS.iter().map(Removal::listed).collect();
    let rejects: Vec<&str> = Reject::ALL.iter().map(|reject| reject.name()).collect();
    let rules: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    if json {
        print_json(&List { scopes: SCOPES, removals, rejects, rules });
        return;
    }
    for scope in SCOPES {
        println!("{:<19} {}", scope.name, scope.about);
        println!("{:<19} {}", "", scope.bounds());
    }
    println!("\nwithout these guards a promise breaks (--removals tries each):");
    for removal in REMOVALS {
        println!("  --scope {:<13} --without {:<36} {}", removal.scope, removal.off.names(), removal.then);
    }
    println!("\nrules:   {}", rules.join(", "));
    println!("rejects: {}", rejects.join(", "));
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("wayfare-sim: the result cannot be written as JSON: {error}"),
    }
}
