//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use wayfare_protocol::{placement::Policy, trust::Role};

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
Exit codes: 0 success; 2 the command line, a file, a port or a join token must be changed first; 1 any other failure."
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
    #[command(after_help = "\
Examples:
  wayfare init --dir fjord --join wayfare-join-1:8Zx... --region eu-north
  wayfare init --dir gate --join - --service kv=127.0.0.1:8080 --bootstrap 192.0.2.7:4740 < token

The token comes from `wayfare-registry join-token`, and says whether the node is a cloud, a home or a gateway.
Nothing is overwritten. Every setting is explained in the node.toml that this writes.")]
    Init(Init),
    /// Run a node, until SIGINT or SIGTERM
    #[command(after_help = "\
Examples:
  wayfare run --dir fjord
  RUST_LOG=wayfare_node=debug wayfare run --dir fjord --role cloud

At its first run the node joins: it waits for the registry for as long as it takes. Logs go to stderr; one line on stdout
says when the node is up (with --json: {name, role, host, addresses, api, gateway}).")]
    Run(Run),
    /// Start a service on this node
    #[command(after_help = "\
Examples:
  wayfare deploy kv.wasm --name kv
  wayfare deploy kv.wasm --name kv --memory 128 --allow-cloud fjord --allow-cloud delta --max-rtt 40

MODULE is a WebAssembly module with the ABI wayfare:request/1. The manifest is signed with DIR/owner.key, which is made at
the first deployment: keep it, it alone speaks for the service.")]
    Deploy(Deploy),
    /// Stop a service: it keeps its state and its place, and executes nothing
    #[command(after_help = "\
Examples:
  wayfare stop kv
  wayfare stop kv --dir gate --owner-key ~/kv-owner.key

Any node of the mesh passes the order on; it needs the owner's key. What was taken on before is answered first; then clients
get 503 at once. It may be moved, and stays stopped there.")]
    Stop(Give),
    /// Start a service that was stopped
    #[command(after_help = "Examples:\n  wayfare start kv\n  wayfare start kv --no-wait --json")]
    Start(Give),
    /// Remove a service, its state and its name
    #[command(after_help = "\
Examples:
  wayfare remove kv
  wayfare remove kv --timeout 120

It cannot be undone. If its host is gone, its name is free once its lease has ended; a host that comes back deletes what it
has. The same owner may deploy under the name again, with a higher manifest version (the default is the time).")]
    Remove(Give),
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
    #[command(
        name = "move",
        after_help = "\
Examples:
  wayfare move kv --to delta
  wayfare move kv                where placement would have it now
  wayfare move kv --dry-run      every candidate, its round trip, gain and verdict"
    )]
    Move(Move),
    /// List the migrations that this node took part in
    #[command(after_help = "Examples:\n  wayfare migrations\n  wayfare migrations --json")]
    Migrations,
    /// Show the steps of a migration and when they happened
    #[command(after_help = "\
Examples:
  wayfare trace last
  wayfare trace 5HqTn2       the first characters of its id will do")]
    Trace {
        /// The migration's id, its first characters, or `last`
        #[arg(value_name = "MIGRATION")]
        id: String,
    },
    /// Print what a service wrote to stdout and stderr on this node
    #[command(
        after_help = "Examples:\n  wayfare logs kv\n  wayfare logs kv -f\n  wayfare logs kv -f --json     one line of JSON each"
    )]
    Logs {
        /// Its name or id
        service: String,
        /// Go on printing
        #[arg(short, long)]
        follow: bool,
    },
    /// Count what this node refused or dropped since its start, by reason
    #[command(after_help = "Examples:\n  wayfare rejects\n  wayfare rejects --json")]
    Rejects,
    /// Take no more services on this node
    #[command(
        after_help = "Examples:\n  wayfare cordon\n  wayfare uncordon\n\nWhat runs here stays until it moves. A restart takes the cordon away."
    )]
    Cordon,
    /// Take services again
    #[command(after_help = "Examples:\n  wayfare uncordon")]
    Uncordon,
}

#[derive(Args, Debug)]
pub(super) struct Init {
    /// The join token; `-` reads it from stdin
    #[arg(long, value_name = "TOKEN")]
    pub(super) join: String,
    /// Where to listen, as 192.0.2.7:4740 or a multiaddr [default: 0.0.0.0:4740; a gateway only dials]
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(super) listen: Vec<String>,
    /// Nodes to stay connected to
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(super) bootstrap: Vec<String>,
    /// Where other nodes reach this one, if not where it listens
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(super) advertise: Vec<String>,
    /// Where the node is, for owners' policies
    #[arg(long, default_value = "")]
    pub(super) region: String,
    /// A gateway's service and its HTTP port, as kv=127.0.0.1:8080
    #[arg(long = "service", value_name = "NAME=ADDRESS", value_parser = carried)]
    pub(super) services: Vec<(String, SocketAddr)>,
    /// Thousandths of a core that services may take [default: all]
    #[arg(long, value_name = "MILLICORES")]
    pub(super) cpu: Option<u32>,
    /// Memory that services may take [default: one half]
    #[arg(long, value_name = "MIB")]
    pub(super) memory: Option<u64>,
    /// Storage that services may take [default: 10240]
    #[arg(long, value_name = "MIB")]
    pub(super) storage: Option<u64>,
    /// Bandwidth that services may take [default: 1000]
    #[arg(long, value_name = "MBPS")]
    pub(super) bandwidth: Option<u64>,
    /// When services move by themselves: sardis, nearest or never [default: sardis]
    #[arg(long, value_parser = policy)]
    pub(super) policy: Option<Policy>,
}

#[derive(Args, Debug)]
pub(super) struct Run {
    /// The role that the node must have joined as: cloud, home or gateway
    #[arg(long, value_parser = role)]
    pub(super) role: Option<Role>,
    /// Give up the services whose state was lost when this node last stopped (durability = memory)
    #[arg(long)]
    pub(super) forget_lost: bool,
}

/// Whether acknowledged writes survive a crash of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Durability {
    /// What was acknowledged survives a crash or stop of its host
    Log,
    /// A crash or stop of the host loses the service; moves lose nothing
    Memory,
}

#[derive(Args, Debug)]
pub(super) struct Deploy {
    /// The WebAssembly module
    pub(super) module: PathBuf,
    /// The service's name, unique at its registry
    #[arg(long)]
    pub(super) name: String,
    /// Memory that it needs
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub(super) memory: u64,
    /// Thousandths of a core that it needs
    #[arg(long, value_name = "MILLICORES", default_value_t = 100)]
    pub(super) cpu: u32,
    /// Storage that it needs
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub(super) storage: u64,
    /// Bandwidth that it needs
    #[arg(long, value_name = "MBPS", default_value_t = 0)]
    pub(super) bandwidth: u64,
    /// A cloud that may host it, by name [default: any]
    #[arg(long = "allow-cloud", value_name = "CLOUD")]
    pub(super) allow_clouds: Vec<String>,
    /// A region that it may run in [default: any]
    #[arg(long = "allow-region", value_name = "REGION")]
    pub(super) allow_regions: Vec<String>,
    /// The round trip that users are promised at most, ms [default: no promise]
    #[arg(long, value_name = "MS")]
    pub(super) max_rtt: Option<u64>,
    /// Whether acknowledged writes survive a crash of the host
    #[arg(long, value_enum, default_value_t = Durability::Log)]
    pub(super) durability: Durability,
    /// The manifest's version: higher than that of any before it [default: the time, in seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(super) manifest_version: Option<u32>,
    /// The owner's secret key [default: DIR/owner.key, made if it is missing]
    #[arg(long, value_name = "FILE")]
    pub(super) owner_key: Option<PathBuf>,
    /// How long to wait until it runs
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(super) timeout: u64,
}

#[derive(Args, Debug)]
pub(super) struct Give {
    /// Its name or id
    pub(super) service: String,
    /// The owner's secret key [default: DIR/owner.key]
    #[arg(long, value_name = "FILE")]
    pub(super) owner_key: Option<PathBuf>,
    /// Do not wait until it is done
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How long to wait until it is done
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(super) timeout: u64,
}

#[derive(Args, Debug)]
pub(super) struct Move {
    /// Its name or id
    pub(super) service: String,
    /// The cloud's name, or its host's id [default: where placement would have it]
    #[arg(long, value_name = "CLOUD")]
    pub(super) to: Option<String>,
    /// Only say why: every candidate, what ruled it out, gain, cost, verdict
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not wait until it has moved
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How long to wait until it has moved
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(super) timeout: u64,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is cloud, home or gateway".to_owned())
}

fn policy(text: &str) -> Result<Policy, String> {
    Policy::parse(text).ok_or_else(|| "a policy is sardis, nearest or never".to_owned())
}

/// HOST:PORT as a multiaddr; a multiaddr as it is.
fn multiaddr(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or("write it as 192.0.2.7:4740, or as a multiaddr")?;
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Ok(format!("/ip4/{ip}/tcp/{port}")),
        Ok(IpAddr::V6(ip)) => Ok(format!("/ip6/{ip}/tcp/{port}")),
        Err(_) if !host.is_empty() && !host.contains(['/', ':']) => Ok(format!("/dns/{host}/tcp/{port}")),
        Err(_) => Err(format!("`{host}` is no host")),
    }
}

fn carried(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.rsplit_once('=').ok_or("write it as kv=127.0.0.1:8080")?;
    let address = address.parse().map_err(|_| format!("`{address}` is no address like 127.0.0.1:8080"))?;
    Ok((name.to_owned(), address))
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
    fn addresses_become_multiaddrs() {
        let cases = [
            ("127.0.0.1:0", "/ip4/127.0.0.1/tcp/0"),
            ("[::1]:4740", "/ip6/::1/tcp/4740"),
            ("a.example:4740", "/dns/a.example/tcp/4740"),
            ("/ip4/1.2.3.4/tcp/5/p2p/x", "/ip4/1.2.3.4/tcp/5/p2p/x"),
        ];
        for (text, expected) in cases {
            assert_eq!(multiaddr(text).as_deref(), Ok(expected));
        }
        for text in ["", "4740", ":4740", "1.2.3.4:70000", "::1::5"] {
            assert!(multiaddr(text).is_err(), "{text}");
        }
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
