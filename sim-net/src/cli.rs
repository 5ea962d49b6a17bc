//! The command line of `wayfare-sim`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use wayfare_protocol::placement::Policy;

use crate::{
    attack::AttackArgs,
    bench::{Report, durability, flood, gateway, handshake, idle, mesh, registry, transfer},
    checker::CheckArgs,
    demo::{self, DemoOptions},
    layout::Journey,
    matrix::LatencyMatrix,
    scale::{self, ScaleOptions},
    simulator::FuzzArgs,
    soak::{self, SoakOptions},
};

/// Meshes of real Wayfare nodes on one machine, over the latencies of real networks.
#[derive(Debug, Parser)]
#[command(name = "wayfare-sim", version, after_help = "Start with: wayfare-sim demo")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A service follows its user across clouds, live
    Demo(DemoArgs),
    /// Measure, each figure beside its floor
    #[command(subcommand)]
    Bench(BenchCommand),
    /// How a mesh of thousands hears of its clouds, in virtual time
    #[command(after_help = "\
Examples:
  wayfare-sim scale                           100, 1000 and 5000 nodes, and 50 real ones to compare with
  wayfare-sim scale --nodes 2000 --calibrate 0 --json")]
    Scale {
        /// Nodes of each mesh; every tenth advertises
        #[arg(long, value_delimiter = ',', default_value = "100,1000,5000")]
        nodes: Vec<usize>,
        /// Virtual seconds of each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Real nodes to compare the model with; 0: none
        #[arg(long, default_value_t = 50)]
        calibrate: usize,
        /// Chooses who stands where and who meets whom
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for seeds that break a promise: the production machines in virtual time, under faults of every kind
    Fuzz(FuzzArgs),
    /// A malicious node against real ones: every attack, and what the victims say of it
    Attack(AttackArgs),
    /// Search small worlds completely: the production machines in every state, in which every promise must hold
    Check(CheckArgs),
    /// Real processes, killed again and again while services move and clients write
    Soak(SoakArgs),
    /// Print what completes this command's words in a shell
    #[command(after_help = "\
Examples:
  wayfare-sim completions bash > ~/.local/share/bash-completion/completions/wayfare-sim
  wayfare-sim completions fish > ~/.config/fish/completions/wayfare-sim.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The attacker of a bench
    #[command(name = flood::COMMAND, hide = true)]
    FloodAttacker,
    /// The other process of a bench
    #[command(name = idle::COMMAND, hide = true)]
    IdleNode {
        /// The node's directory
        dir: PathBuf,
        /// How many peers it waits for
        peers: usize,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wayfare-sim demo                                  the whole story, in about a minute
  wayfare-sim demo --policy never                   what staying at home costs
  wayfare-sim demo --clouds 12 --seed 7 --json      for programs: one JSON object on stdout
  wayfare-sim demo --matrix my.csv --path 0,3,7     your own latencies, your own journey
  wayfare-sim demo --listen 127.0.0.1:8080          and meanwhile: curl -X POST http://127.0.0.1:8080/count

A matrix is a square CSV of round-trip times in milliseconds; a header row and a column of
labels may be there or not.")]
struct DemoArgs {
    /// Clouds on the mesh
    #[arg(long, default_value_t = 8)]
    clouds: usize,
    /// Round-trip times, a CSV file [default: 16 PlanetLab nodes]
    #[arg(long, value_name = "FILE.csv")]
    matrix: Option<PathBuf>,
    /// The rows that the user visits, in turn
    #[arg(long, value_name = "ROWS", value_delimiter = ',', conflicts_with = "stops")]
    path: Option<Vec<usize>>,
    /// How many places the user visits
    #[arg(long, default_value_t = 4)]
    stops: usize,
    /// How long the user stays at each place, seconds
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS")]
    dwell: f64,
    /// Requests a second, sent at fixed times however long the answers take
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Lets clients from outside in through the gateway as well
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The service: kv, or a module of your own
    #[arg(long, default_value = "kv", value_name = "kv|FILE.wasm")]
    service: PathBuf,
    /// When the service moves
    #[arg(long, value_enum, default_value_t = PolicyArg::Sardis)]
    policy: PolicyArg,
    /// Chooses who stands where
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object at the end, and nothing else on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// When the expected gain repays the downtime
    Sardis,
    /// Whenever another cloud is nearer
    Nearest,
    /// Not at all
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wayfare-sim soak                                  ten minutes: 3 services on 12 clouds, over 100 deaths and moves
  wayfare-sim soak --minutes 1 --clouds 4           a short one
  wayfare-sim soak --seed 7 --json                  for programs: one JSON object on stdout

Runs the programs `wayfare` and `wayfare-registry` that are beside this one. Exits with 1 if
anything was lost or doubled, or a request has no answer.")]
struct SoakArgs {
    /// How long processes die and services move
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Clouds on the mesh
    #[arg(long, default_value_t = 12)]
    clouds: usize,
    /// Services, each with its own clients
    #[arg(long, default_value_t = 3)]
    services: usize,
    /// A process is killed every so many seconds
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    kill_every: f64,
    /// A service is moved every so many seconds
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    move_every: f64,
    /// Chooses who dies, and what moves where
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object at the end, and nothing else on stdout
    #[arg(long)]
    json: bool,
}

impl SoakArgs {
    fn options(&self) -> Result<SoakOptions, String> {
        let seconds = |name: &str, seconds: f64, from: f64| {
            let fits = seconds >= from && seconds <= DWELL_MAX_S;
            fits.then(|| Duration::from_secs_f64(seconds))
                .ok_or_else(|| format!("{name}: give from {from} to {DWELL_MAX_S} seconds"))
        };
        Ok(SoakOptions {
            length: seconds("--minutes", self.minutes * 60.0, 1.0)?,
            clouds: self.clouds,
            services: self.services,
            kill_every: seconds("--kill-every", self.kill_every, 0.1)?,
            move_every: seconds("--move-every", self.move_every, 0.1)?,
            seed: self.seed,
            quiet: self.json,
        })
    }
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Whole migrations of a tiny service on open connections, beside what the protocol demands
    #[command(after_help = "\
Examples:
  wayfare-sim bench handshake
  wayfare-sim bench handshake --rounds 400 --runs 5 --json")]
    Handshake {
        /// Migrations to time
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// The request log on disk, beside the same service without one
    #[command(after_help = "Example: wayfare-sim bench durability --seconds 5 --json")]
    Durability {
        /// How long each load lasts
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Requests through a gateway, beside the same service called directly
    #[command(after_help = "\
Example: wayfare-sim bench gateway --seconds 5 --runs 3

Directly: a bare HTTP server in front of the same module in the same runtime, without gateway,
mesh, session or log.")]
    Gateway {
        /// How long each load lasts
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// A large state moved between two clouds, beside what carries it
    #[command(after_help = "Example: wayfare-sim bench transfer --size-mib 64,512 --json")]
    Transfer {
        /// Bytes of random state, MiB
        #[arg(long, value_delimiter = ',', default_value = "64,512")]
        size_mib: Vec<usize>,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Verdicts per second of one Registry, beside their signatures
    #[command(after_help = "\
Example: wayfare-sim bench registry --rounds 500 --json

The Registry's machine and its store on disk, without streams between: 64 services ask at the
same time.")]
    Registry {
        /// How often each of them asks
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Moves of a service while its mesh is flooded, beside the same undisturbed
    #[command(after_help = "\
Examples:
  wayfare-sim bench flood
  wayfare-sim bench flood --quick --json

Runs the programs `wayfare` and `wayfare-registry` that are beside this one, on one core; the
attacker has another. Exits with 1 if a move or a request failed, a process had more memory
than the stated cap, or moves were more than five times slower (p99; not with --quick).")]
    Flood {
        /// Few moves: about a minute
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// How long until every node has heard of a cloud, and what an idle node takes
    #[command(after_help = "Example: wayfare-sim bench mesh --nodes 10,50 --json")]
    Mesh {
        /// Real nodes of each mesh; every tenth advertises
        #[arg(long, value_delimiter = ',', default_value = "10,50")]
        nodes: Vec<usize>,
        #[command(flatten)]
        bench: BenchArgs,
    },
}

/// What all benches take.
#[derive(Clone, Copy, Debug, Args)]
struct BenchArgs {
    /// How often the whole is run: medians are printed, and how far the runs lie apart
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs of a bench at most.
const RUNS_MAX: usize = 100;

impl BenchCommand {
    const fn args(&self) -> BenchArgs {
        match self {
            Self::Handshake { bench, .. }
            | Self::Durability { bench, .. }
            | Self::Gateway { bench, .. }
            | Self::Transfer { bench, .. }
            | Self::Registry { bench, .. }
            | Self::Flood { bench, .. }
            | Self::Mesh { bench, .. } => *bench,
        }
    }

    /// What is wrong with the arguments, if anything is.
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f64, from: f64, to: f64| {
            let fits = value >= from && value <= to;
            fits.then_some(()).ok_or_else(|| format!("{name} {value}: give from {from} to {to}"))
        };
        within("--runs", self.args().runs as f64, 1.0, RUNS_MAX as f64)?;
        match self {
            Self::Handshake { rounds, .. } | Self::Registry { rounds, .. } => {
                within("--rounds", *rounds as f64, 1.0, 100_000.0)
            }
            Self::Durability { seconds, .. } | Self::Gateway { seconds, .. } => {
                within("--seconds", *seconds, 0.1, 600.0)
            }
            Self::Flood { .. } => Ok(()),
            Self::Transfer { size_mib, .. } => {
                let max = transfer::SIZE_MIB_MAX as f64;
                size_mib.iter().try_for_each(|size| within("--size-mib", *size as f64, 1.0, max))
            }
            Self::Mesh { nodes, .. } => {
                nodes.iter().try_for_each(|nodes| within("--nodes", *nodes as f64, 10.0, 200.0))
            }
        }
    }

    async fn run(&self) -> anyhow::Result<Report> {
        let BenchArgs { runs, json } = self.args();
        let mut reports = Vec::new();
        for run in 1..=runs {
            if !json && runs > 1 {
                eprintln!("run {run} of {runs}");
            }
            reports.push(match self {
                Self::Handshake { rounds, .. } => handshake::run(*rounds, !json).await?,
                Self::Durability { seconds, .. } => durability::run(Duration::from_secs_f64(*seconds), !json).await?,
                Self::Gateway { seconds, .. } => gateway::run(Duration::from_secs_f64(*seconds), !json).await?,
                Self::Transfer { size_mib, .. } => transfer::run(size_mib, !json).await?,
                Self::Registry { rounds, .. } => {
                    let rounds = *rounds;
                    tokio::task::spawn_blocking(move || registry::run(rounds, !json)).await??
                }
                Self::Flood { quick, .. } => flood::run(flood::FloodOptions { quick: *quick, progress: !json }).await?,
                Self::Mesh { nodes, .. } => mesh::run(nodes, !json).await?,
            });
        }
        Report::merged(&reports).ok_or_else(|| anyhow::anyhow!("no run"))
    }
}

/// The dwell that a demo may have, seconds.
const DWELL_MAX_S: f64 = 86_400.0;

impl DemoArgs {
    fn options(self) -> Result<DemoOptions, String> {
        if !(self.dwell > 0.0 && self.dwell <= DWELL_MAX_S) {
            return Err(format!("--dwell {}: give seconds above 0 and up to {DWELL_MAX_S}", self.dwell));
        }
        Ok(DemoOptions {
            clouds: self.clouds,
            matrix: self.matrix,
            journey: self.path.map_or(Journey::Stops(self.stops), Journey::Path),
            dwell: Duration::from_secs_f64(self.dwell),
            rate: self.rate,
            listen: self.listen,
            module: (self.service.as_os_str() != "kv").then_some(self.service),
            policy: match self.policy {
                PolicyArg::Sardis => Policy::Sardis,
                PolicyArg::Nearest => Policy::Nearest,
                PolicyArg::Never => Policy::Never,
            },
            seed: self.seed,
            quiet: false,
        })
    }
}

pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; whoever closed the terminal needs neither.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), 1),
    };
    match cli.command {
        Command::Fuzz(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "wayfare-sim", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Command::Attack(args) => runtime.block_on(args.run()),
        Command::Demo(args) => runtime.block_on(run_demo(args)),
        Command::Soak(args) => runtime.block_on(run_soak(args)),
        Command::FloodAttacker => match runtime.block_on(flood::serve()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Command::IdleNode { dir, peers } => match runtime.block_on(idle::serve(&dir, peers)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Command::Scale { nodes, seconds, calibrate, seed, json } => {
            let result = LatencyMatrix::bundled().map_err(anyhow::Error::from).and_then(|matrix| {
                runtime.block_on(scale::run(&ScaleOptions { nodes, seconds, calibrate, seed }, &matrix))
            });
            match result {
                Ok(report) if json => print_json(&report),
                Ok(report) => println!("{report}"),
                Err(error) => return fail(&error, 2),
            }
            ExitCode::SUCCESS
        }
        Command::Bench(bench) => {
            if let Err(reason) = bench.check() {
                return fail(&anyhow::anyhow!(reason), 2);
            }
            match runtime.block_on(bench.run()) {
                Ok(report) => print_report(&report, bench.args().json),
                Err(error) => fail(&error, 1),
            }
        }
    }
}

async fn run_demo(args: DemoArgs) -> ExitCode {
    let json = args.json;
    let options = match args.options() {
        Ok(options) => options,
        Err(reason) => return fail(&anyhow::anyhow!(reason), 2),
    };
    let prepared = match demo::prepare(options) {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error, 2),
    };
    let summary = match prepared.run().await {
        Ok(summary) => summary,
        Err(error) => return fail(&error, 1),
    };
    if json {
        print_json(&summary);
    } else {
        println!("\n{summary}");
        println!("\nnext: wayfare-sim demo --policy never   what staying at home costs");
        println!("      README.md                         run registry, clouds and gateway as processes of their own");
    }
    if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run_soak(args: SoakArgs) -> ExitCode {
    let options = match args.options() {
        Ok(options) => options,
        Err(reason) => return fail(&anyhow::anyhow!(reason), 2),
    };
    let summary = match soak::run(options).await {
        Ok(summary) => summary,
        Err(error) => return fail(&error, 1),
    };
    if args.json {
        print_json(&summary);
    } else {
        println!("{summary}");
    }
    if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_report(report: &Report, json: bool) -> ExitCode {
    if json {
        print_json(report)
    } else {
        println!("{report}")
    }
    ExitCode::SUCCESS
}

pub(crate) fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("wayfare-sim: the result cannot be written as JSON: {error}"),
    }
}

pub(crate) fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("wayfare-sim: {error:#}");
    ExitCode::from(code)
}
