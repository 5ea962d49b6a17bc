//! Services: starting them, moving them, asking about them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Whether acknowledged writes survive a crash of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Durability {
    /// What was acknowledged survives a crash or stop of its host
    Log,
    /// A crash or stop of the host loses the service; moves lose nothing
    Memory,
}

/// What a service can be begun in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Language {
    /// One header; builds with clang
    C,
    /// Much like TypeScript; builds with npm
    Assemblyscript,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare new guest-book
  wayfare new guest-book --lang assemblyscript --path services/guest-book

Makes a folder with a service that builds and can be deployed as it is, and a README that says
how. Nothing is overwritten.")]
pub(in crate::cli) struct New {
    /// Its name: lowercase letters, digits and hyphens
    pub(in crate::cli) name: String,
    /// The language that it is written in
    #[arg(long, value_enum, default_value_t = Language::C)]
    pub(in crate::cli) lang: Language,
    /// The folder to make [default: ./NAME]
    #[arg(long, value_name = "FOLDER")]
    pub(in crate::cli) path: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare deploy kv.wasm --name kv
  wayfare deploy kv.wasm --name kv --memory 128 --allow-cloud fjord --allow-cloud delta --max-rtt 40

MODULE is a WebAssembly module with the ABI wayfare:request/1. The manifest is signed with
DIR/owner.key, which is made at the first deployment: keep it, it alone speaks for the service.")]
pub(in crate::cli) struct Deploy {
    /// The WebAssembly module
    pub(in crate::cli) module: PathBuf,
    /// The service's name, unique at its registry
    #[arg(long)]
    pub(in crate::cli) name: String,
    /// Memory that it needs
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub(in crate::cli) memory: u64,
    /// Thousandths of a core that it needs
    #[arg(long, value_name = "MILLICORES", default_value_t = 100)]
    pub(in crate::cli) cpu: u32,
    /// Storage that it needs
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub(in crate::cli) storage: u64,
    /// Bandwidth that it needs
    #[arg(long, value_name = "MBPS", default_value_t = 0)]
    pub(in crate::cli) bandwidth: u64,
    /// A cloud that may host it, by name [default: any]
    #[arg(long = "allow-cloud", value_name = "CLOUD")]
    pub(in crate::cli) allow_clouds: Vec<String>,
    /// A region that it may run in [default: any]
    #[arg(long = "allow-region", value_name = "REGION")]
    pub(in crate::cli) allow_regions: Vec<String>,
    /// The round trip that users are promised at most, ms [default: no promise]
    #[arg(long, value_name = "MS")]
    pub(in crate::cli) max_rtt: Option<u64>,
    /// Whether acknowledged writes survive a crash of the host
    #[arg(long, value_enum, default_value_t = Durability::Log)]
    pub(in crate::cli) durability: Durability,
    /// The manifest's version: higher than that of any before it [default: the time, in seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) manifest_version: Option<u32>,
    /// The owner's secret key [default: DIR/owner.key, made if it is missing]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) owner_key: Option<PathBuf>,
    /// How long to wait until it runs
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(in crate::cli) timeout: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare move kv --to delta
  wayfare move kv                where placement would have it now
  wayfare move kv --dry-run      every candidate, its round trip, gain and verdict")]
pub(in crate::cli) struct Move {
    /// Its name or id
    pub(in crate::cli) service: String,
    /// The cloud's name, or its host's id [default: where placement would have it]
    #[arg(long, value_name = "CLOUD")]
    pub(in crate::cli) to: Option<String>,
    /// Only say why: every candidate, what ruled it out, gain, cost, verdict
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Do not wait until it has moved
    #[arg(long)]
    pub(in crate::cli) no_wait: bool,
    /// How long to wait until it has moved
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(in crate::cli) timeout: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare why kv
  wayfare why kv --json

Asked of the node that has the service. To see what a decision would be, without the past:
`wayfare move kv --dry-run`.")]
pub(in crate::cli) struct Why {
    /// Its name or id
    pub(in crate::cli) service: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare migrations
  wayfare migrations --json
  wayfare migrations --watch             a line for each step, as it happens
  wayfare migrations --watch --json      one line of JSON each")]
pub(in crate::cli) struct Migrations {
    /// Go on: show migrations as they happen
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare trace last
  wayfare trace 5HqTn2       the first characters of its id will do")]
pub(in crate::cli) struct Trace {
    /// The migration's id, its first characters, or `last`
    #[arg(value_name = "MIGRATION")]
    pub(in crate::cli) id: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare logs kv
  wayfare logs kv -f
  wayfare logs kv -f --json     one line of JSON each")]
pub(in crate::cli) struct Logs {
    /// Its name or id
    pub(in crate::cli) service: String,
    /// Go on printing
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
}
