//! `wayfare-sim attack`.

use std::process::ExitCode;

use clap::Args;

use super::{chosen, report, run};
use crate::cli::{fail, print_json};

/// What can be asked for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wayfare-sim attack                                every attack, in about a minute and a half
  wayfare-sim attack --list                         what there is, and what a success would be worth
  wayfare-sim attack --only forged-yes --only man-in-the-middle
  wayfare-sim attack --json                         for programs: one JSON object on stdout

Runs the programs `wayfare` and `wayfare-registry` that are beside this one. Exits with 1
unless every attack was blocked and no client's request failed meanwhile.")]
pub(crate) struct AttackArgs {
    /// Say what there is, and attack nobody
    #[arg(long)]
    list: bool,
    /// This attack only; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl AttackArgs {
    /// Does what is asked for.
    pub(crate) async fn run(self) -> ExitCode {
        let attacks = match chosen(&self.only) {
            Ok(attacks) => attacks,
            Err(reason) => return fail(&anyhow::anyhow!("--only: {reason}"), 2),
        };
        if self.list {
            if self.json {
                print_json(&attacks.iter().map(report::Listed::from).collect::<Vec<_>>());
            } else {
                print!("{}", report::list(&attacks));
            }
            return ExitCode::SUCCESS;
        }
        let summary = match run(&attacks, self.json).await {
            Ok(summary) => summary,
            Err(error) => return fail(&error, 1),
        };
        if self.json {
            print_json(&summary);
        } else {
            println!("\n{summary}");
        }
        if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
