//! The `wayfare-registry` command. Exit codes: 0 success, 1 refused or failed, 2 cannot even begin (wrong usage, not
//! initialised, unreadable files, a port in use, not running); errors go to stderr and say what to do.

mod audit;
mod client;
mod output;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use wayfare_net::{DirectConnector, Witness};
use wayfare_protocol::trust::Role;
use wayfare_telemetry::{
    MetricsSettings, TelemetrySettings, dumps,
    logs::{self, LogFormat},
};

use crate::{
    api::{BackupRequest, JoinTokenRequest, RevokeRequest, Status},
    backup::{self, BackupError},
    config::{ConfigError, Observed, StateDir},
    run::{RunError, run_watched},
    store::StoreError,
    view::{BackupView, HostView, JoinTokenView, RecoveryView, ServiceView, StatsView},
};

use audit::{AuditCommand, AuditError};
use client::{Client, ClientError};

const EXAMPLES: &str = "\
Examples:
  wayfare-registry init --name testbed --listen 127.0.0.1:4730
  wayfare-registry run
  wayfare-registry join-token --cloud fjord          (hand the printed token to the node of cloud fjord)
  wayfare-registry placements --json
";

/// The trust anchor of a Wayfare mesh: enrols clouds, allows moves, holds where every service is.
#[derive(Debug, Parser)]
#[command(name = "wayfare-registry", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// The registry's directory: key, configuration, records.
    #[arg(long, default_value = "wayfare-registry", value_name = "DIR")]
    dir: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    /// Advertises, receives and hosts services.
    Cloud,
    /// Hosts the services that start on it.
    Home,
    /// Carries clients' requests.
    Gateway,
}

impl RoleArg {
    const fn role(self) -> Role {
        match self {
            Self::Cloud => Role::Cloud,
            Self::Home => Role::Home,
            Self::Gateway => Role::Gateway,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new registry: its key, a commented configuration, the trust bundle for nodes.
    #[command(after_help = "Examples:
  wayfare-registry init
  wayfare-registry init --dir /var/lib/wayfare-registry --name prod --listen 0.0.0.0:4730")]
    Init {
        #[command(flatten)]
        common: Common,
        /// What people call this registry.
        #[arg(long, default_value = "registry")]
        name: String,
        /// Where it will listen: HOST:PORT (by TCP and QUIC), or a multiaddr such as /ip4/0.0.0.0/tcp/4730.
        #[arg(long, default_value = "127.0.0.1:4730", value_name = "ADDR", value_parser = parse_listen)]
        listen: Listen,
        /// Where its metrics may be read by HTTP, as 127.0.0.1:9464 [default: nowhere]
        #[arg(long, value_name = "ADDRESS")]
        metrics: Option<SocketAddr>,
        /// Where it sends traces by OTLP, as http://127.0.0.1:4318 [default: nowhere]
        #[arg(long, value_name = "URL")]
        otlp: Option<String>,
    },
    /// Run the registry until it is interrupted.
    #[command(after_help = "Examples:
  wayfare-registry run
  RUST_LOG=debug wayfare-registry run --dir /var/lib/wayfare-registry
  wayfare-registry run --log-format json 2>> registry.log

With --json, one object with the addresses is printed once it is ready.")]
    Run {
        #[command(flatten)]
        common: Common,
        /// What the log on stderr looks like: text or json [default: as registry.toml says]
        #[arg(long, value_name = "FORMAT", value_parser = LogFormat::parse)]
        log_format: Option<LogFormat>,
        /// Let a debugger attach, and a crash leave a core dump: it would hold the key.
        #[arg(long)]
        allow_dumps: bool,
    },
    /// Print a token that lets one node join, once.
    #[command(after_help = "Examples:
  wayfare-registry join-token --cloud fjord
  wayfare-registry join-token --cloud alice --role gateway --ttl 10m
  TOKEN=$(wayfare-registry join-token --cloud fjord)")]
    JoinToken {
        #[command(flatten)]
        common: Common,
        /// The provider's name. Several nodes may have the same.
        #[arg(long, value_name = "NAME")]
        cloud: String,
        /// What the node may do.
        #[arg(long, value_enum, default_value = "cloud")]
        role: RoleArg,
        /// How long the token can be used: a number with s, m, h or d.
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: Duration,
    },
    /// List the hosts that have enrolled.
    #[command(after_help = "Examples:
  wayfare-registry enrolled
  wayfare-registry enrolled --json")]
    Enrolled {
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a host or a whole cloud: no service moves there any more, and what runs there is not renewed.
    #[command(after_help = "Examples:
  wayfare-registry revoke fjord
  wayfare-registry revoke 4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM")]
    Revoke {
        #[command(flatten)]
        common: Common,
        /// A cloud's name, or a host's key as `enrolled` prints it.
        target: String,
    },
    /// Say where every service is.
    #[command(after_help = "Examples:
  wayfare-registry placements
  wayfare-registry placements --json")]
    Placements {
        #[command(flatten)]
        common: Common,
    },
    /// Say how every cloud did as a target of moves, and what was rejected.
    #[command(after_help = "Examples:
  wayfare-registry stats
  wayfare-registry stats --json")]
    Stats {
        #[command(flatten)]
        common: Common,
    },
    /// Copy all records into FILE, whether the registry runs or not. The key is not in it: back that up yourself.
    #[command(after_help = "Examples:
  wayfare-registry backup /backup/registry.$(date +%F)
  wayfare-registry backup --force /backup/latest --json")]
    Backup {
        #[command(flatten)]
        common: Common,
        /// The backup to make.
        file: PathBuf,
        /// Replace FILE if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Put the backup FILE in place of the registry's records; the next `run` asks the hosts what has happened since.
    #[command(after_help = "Examples:
  wayfare-registry restore /backup/registry.2026-01-31
  wayfare-registry restore --force /backup/latest

The registry must not run. For the first 38 seconds of the next `run` no lease is given and
nothing is decided; services stop for about that long. Then a service goes on as soon as the
hosts that may have it have shown what they hold. One whose host is silent waits for it, as
`placements` shows. If that host is gone for ever, only the owner's order to recover or to
deregister the service could release it, and this version has no such orders yet. Lost with the
records are revocations since the backup (repeat them), join tokens (make new ones) and
statistics.")]
    Restore {
        #[command(flatten)]
        common: Common,
        /// A backup of this registry.
        file: PathBuf,
        /// Replace the present records, which are kept beside.
        #[arg(long)]
        force: bool,
    },
    /// The log of every decision, which others can check.
    #[command(
        subcommand,
        after_help = "Examples:
  wayfare-registry audit verify
  wayfare-registry audit export --service kv > kv.jsonl"
    )]
    Audit(AuditCommand),
    /// Print what completes this command's words in a shell.
    #[command(after_help = "Examples:
  wayfare-registry completions bash > ~/.local/share/bash-completion/completions/wayfare-registry
  wayfare-registry completions fish > ~/.config/fish/completions/wayfare-registry.fish")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line `arguments`, the first of which is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_watched(arguments, None)
}

/// As [`main`]; the registry that `run` runs is watched by `witness`.
pub fn main_watched(arguments: impl IntoIterator<Item = OsString>, witness: Option<Arc<dyn Witness>>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no errors; if that pipe is closed, nobody reads this either.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli.command, witness) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wayfare-registry: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let cannot_begin = error.is::<ConfigError>()
        || error.downcast_ref::<ClientError>().is_some_and(|error| matches!(error, ClientError::NotRunning { .. }))
        || error.is::<RunError>()
        || error.is::<AuditError>()
        || error.is::<StoreError>()
        || error.downcast_ref::<BackupError>().is_some_and(|error| !error.is_refusal());
    if cannot_begin { 2 } else { 1 }
}

fn execute(command: Command, witness: Option<Arc<dyn Witness>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
    match command {
        Command::Init { common, name, listen, metrics, otlp } => {
            let dir = StateDir::new(&common.dir);
            let (metrics, telemetry) = (MetricsSettings { listen: metrics }, TelemetrySettings { otlp });
            let anchor = dir.init(&name, &listen.0, Observed { metrics, telemetry })?;
            let status = Status::new(&name, &anchor);
            output::initialised(&dir, &status, common.json)
        }
        Command::Run { common, log_format, allow_dumps } => {
            if !allow_dumps {
                dumps::forbid();
            }
            runtime.block_on(serve(common, log_format, witness))
        }
        Command::JoinToken { common, cloud, role, ttl } => {
            let request = JoinTokenRequest { cloud, role: role.role().name().to_owned(), ttl_s: ttl.as_secs() };
            let token: JoinTokenView = runtime.block_on(client(&common).post("/v1/join-tokens", &request))?;
            output::join_token(&token, common.json)
        }
        Command::Enrolled { common } => {
            let hosts: Vec<HostView> = runtime.block_on(client(&common).get("/v1/enrolled"))?;
            output::enrolled(&hosts, common.json)
        }
        Command::Revoke { common, target } => {
            let revoked: RevokeRequest =
                runtime.block_on(client(&common).post("/v1/revoke", &RevokeRequest { target }))?;
            output::revoked(&revoked, common.json)
        }
        Command::Placements { common } => {
            let services: Vec<ServiceView> = runtime.block_on(client(&common).get("/v1/placements"))?;
            let recovery: Option<RecoveryView> = runtime.block_on(client(&common).get("/v1/recovery"))?;
            output::placements(&services, recovery.as_ref(), common.json)
        }
        Command::Stats { common } => {
            let stats: StatsView = runtime.block_on(client(&common).get("/v1/stats"))?;
            output::stats(&stats, common.json)
        }
        Command::Backup { common, file, force } => {
            let made = runtime.block_on(make_backup(&common, file, force))?;
            output::backed_up(&made, common.json)
        }
        Command::Audit(command) => audit::execute(command),
        Command::Completions { shell } => output::completions(shell, &mut Cli::command()),
        Command::Restore { common, file, force } => {
            let restored = backup::restore(&StateDir::new(&common.dir), &file, force)?;
            output::restored(&restored, &common.dir, common.json)
        }
    }
}

fn client(common: &Common) -> Client {
    Client::new(&StateDir::new(&common.dir))
}

/// The running Registry writes it, for it holds the records; without one, this process does.
async fn make_backup(common: &Common, file: PathBuf, force: bool) -> anyhow::Result<BackupView> {
    let file = std::path::absolute(&file).context("cannot tell where FILE is")?;
    let asked = client(common).post("/v1/backup", &BackupRequest { file: file.clone(), force }).await;
    match asked {
        Err(ClientError::NotRunning { .. }) => Ok(backup::of_stopped(&StateDir::new(&common.dir), &file, force)?),
        answered => Ok(answered?),
    }
}

async fn serve(common: Common, log_format: Option<LogFormat>, witness: Option<Arc<dyn Witness>>) -> anyhow::Result<()> {
    let config = StateDir::new(&common.dir).load()?;
    logs::init(log_format.unwrap_or(config.log.format));
    let name = config.name.clone();
    let shutdown = CancellationToken::new();
    let registry = run_watched(config, Arc::new(DirectConnector), witness, shutdown.clone()).await?;
    output::ready(&Status::new(&name, registry.anchor()), registry.metrics(), common.json)?;
    let stop = shutdown.clone();
    let signals = tokio::spawn(async move {
        match interrupted().await {
            Ok(()) => stop.cancel(),
            Err(error) => tracing::warn!(%error, "signals are not heard: stop this process by force"),
        }
    });
    // A store that fails later is no misuse: not exit code 2.
    let stopped = registry.stopped().await;
    signals.abort();
    stopped.map_err(|error| anyhow::anyhow!("{error}"))
}

async fn interrupted() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

/// Where to listen, as multiaddrs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listen(Vec<String>);

/// `HOST:PORT` with a numeric host, by TCP and QUIC; or a multiaddr as it is.
fn parse_listen(text: &str) -> Result<Listen, String> {
    if text.starts_with('/') {
        return Ok(Listen(vec![text.to_owned()]));
    }
    let tcp = match text.parse() {
        Ok(SocketAddr::V4(address)) => format!("/ip4/{}/tcp/{}", address.ip(), address.port()),
        Ok(SocketAddr::V6(address)) => format!("/ip6/{}/tcp/{}", address.ip(), address.port()),
        Err(_) => {
            return Err("expected an address such as 127.0.0.1:4730, [::1]:4730 or /ip4/127.0.0.1/tcp/4730".to_owned());
        }
    };
    Ok(Listen(wayfare_net::with_quic(&tcp)))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no length of time: write a number with s, m, h or d, such as 90s or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("wayfare-registry "), "{} has no examples", sub.get_name());
        }
    }

    #[test]
    fn lengths_of_time_and_addresses() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("2d"), Ok(Duration::from_secs(172_800)));
        for bad in
            ["", "h", "1", "0s", "-1s", "1w", "1.5h", "99999999999999999999d", "18446744073709551615d", "1\u{e9}"]
        {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
        let parsed = |text: &str| parse_listen(text).unwrap().0;
        assert_eq!(parsed("127.0.0.1:4730"), ["/ip4/127.0.0.1/tcp/4730", "/ip4/127.0.0.1/udp/4730/quic-v1"]);
        assert_eq!(parsed("[::1]:1"), ["/ip6/::1/tcp/1", "/ip6/::1/udp/1/quic-v1"]);
        assert_eq!(parsed("/dns/x/tcp/1"), ["/dns/x/tcp/1"]);
        assert!(parse_listen("localhost").is_err());
    }
}
