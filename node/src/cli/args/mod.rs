//! The command line: [`Command`] names the commands, in the order in which help lists them. What a command takes, with its
//! examples, is in the file of its group.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod node;
mod operate;
mod orders;
mod services;

pub(super) use node::{Init, Run};
pub(super) use operate::{Completions, Doctor, Drain};
pub(super) use orders::{Give, Remove, Start, Stop, Update};
pub(super) use services::{Deploy, Durability, Language, Logs, Migrations, Move, New, Trace, Why};

/// Services that follow their users from cloud to cloud.
#[derive(Debug, Parser)]
#[command(
    name = "wayfare",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  wayfare init --dir fjord --join \"$(cat token)\" --bootstrap 192.0.2.7:4740
  wayfare run --dir fjord
  wayfare deploy kv.wasm --name kv --dir fjord
  wayfare move kv --to delta --dir fjord

The state directory is --dir, or $WAYFARE_DIR, or ./wayfare-node.
Exit codes: 0 success; 2 the command line, a file, a port or a join token must be changed first;
1 any other failure."
)]
pub(super) struct Cli {
    /// The node's state directory [default: $WAYFARE_DIR or ./wayfare-node]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Print JSON on stdout
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a node: its key, its trust, its configuration
    Init(Init),
    /// Run a node, until SIGINT or SIGTERM
    Run(Run),
    /// Begin to write a service: a small project that builds
    New(New),
    /// Start a service on this node
    Deploy(Deploy),
    /// Stop a service: it keeps its state and its place, and executes nothing
    Stop(Stop),
    /// Start a service that was stopped
    Start(Start),
    /// Update a service's code or its terms; it keeps its state and its clients
    Update(Update),
    /// Remove a service, its state and its name
    Remove(Remove),
    /// List the clouds that advertise, as this node knows them
    #[command(after_help = "Examples:\n  wayfare clouds\n  wayfare clouds --json --dir fjord")]
    Clouds,
    /// List the services on this node (at a gateway: those it carries, and where they are)
    #[command(after_help = "Examples:\n  wayfare services\n  wayfare services --json --dir gate")]
    Services,
    /// List measured round trips from services' clients to clouds
    #[command(after_help = "Examples:\n  wayfare rtt\n  wayfare rtt --json")]
    Rtt,
    /// Move a service to another cloud
    #[command(name = "move")]
    Move(Move),
    /// Say why a service is where it is, and what would have to change for it to move
    Why(Why),
    /// List the migrations that this node took part in, or follow them
    Migrations(Migrations),
    /// Show the steps of a migration and when they happened
    Trace(Trace),
    /// Print what a service wrote to stdout and stderr on this node
    Logs(Logs),
    /// Count what this node refused or dropped since its start, by reason
    #[command(after_help = "Examples:\n  wayfare rejects\n  wayfare rejects --json")]
    Rejects,
    /// Take no more services on this node
    #[command(after_help = "\
Examples:
  wayfare cordon
  wayfare cordon --dir fjord --json

What runs here stays until it moves: `wayfare drain` moves it away. The cordon holds over
restarts, until `wayfare uncordon`.")]
    Cordon,
    /// Take services again
    #[command(after_help = "Examples:\n  wayfare uncordon\n  wayfare uncordon --dir fjord --json")]
    Uncordon,
    /// Move every service away from this node, then stop it
    Drain(Drain),
    /// Look at all that a node needs, whether it runs or not, and say what to do about what is wrong
    Doctor(Doctor),
    /// Print what completes this command's words in a shell
    Completions(Completions),
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent_and_every_command_has_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:") && help.contains("wayfare "), "{}", command.get_name());
            let long = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{}: a terminal would break this line once more", command.get_name());
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for line in ["wayfare --dir d --json clouds", "wayfare clouds --json --dir d"] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.dir, cli.json), (Some(PathBuf::from("d")), true));
        }
    }

    #[test]
    fn a_move_and_a_deployment_are_read() {
        let Command::Move(args) = parse("wayfare move kv --to delta --no-wait").unwrap().command else { panic!() };
        assert_eq!(
            (args.service.as_str(), args.to.as_deref(), args.no_wait, args.dry_run),
            ("kv", Some("delta"), true, false)
        );
        let line = "wayfare deploy kv.wasm --name kv --allow-cloud a --allow-cloud b --max-rtt 40 --durability memory";
        let Command::Deploy(args) = parse(line).unwrap().command else { panic!() };
        assert_eq!((args.allow_clouds, args.max_rtt, args.memory), (vec!["a".into(), "b".into()], Some(40), 64));
        assert_eq!(args.durability, Durability::Memory);
    }

    #[test]
    fn what_cannot_be_is_a_usage_error() {
        for line in [
            "wayfare",
            "wayfare fly",
            "wayfare init",
            "wayfare run --role boss",
            "wayfare deploy kv.wasm",
            "wayfare deploy kv.wasm --name kv --durability none",
            "wayfare init --join t --service kv",
            "wayfare init --join t --service kv=8080",
            "wayfare move",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("wayfare --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    }
}
