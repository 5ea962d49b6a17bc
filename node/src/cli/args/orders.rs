//! Orders: what only a service's owner may have done to it.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare stop kv
  wayfare stop kv --dir gate --owner-key ~/kv-owner.key

Any node of the mesh passes the order on; it needs the owner's key. What was taken on before is
answered first; then clients get 503 at once. The service may be moved, and stays stopped where it
goes.")]
pub(in crate::cli) struct Stop {
    #[command(flatten)]
    pub(in crate::cli) give: Give,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare start kv
  wayfare start kv --no-wait --json")]
pub(in crate::cli) struct Start {
    #[command(flatten)]
    pub(in crate::cli) give: Give,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare remove kv
  wayfare remove kv --timeout 120

It cannot be undone. If the service's host is gone, the name is free once its lease has ended; a
host that comes back deletes what it has. The owner may deploy under the name again, with a higher
manifest version (the default is the time).")]
pub(in crate::cli) struct Remove {
    #[command(flatten)]
    pub(in crate::cli) give: Give,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare update kv kv-2.wasm
  wayfare update kv kv-2.wasm --fresh                    begin with an empty state
  wayfare update kv --memory 128 --allow-cloud fjord     the same code, other terms

The state goes from the old code to the new by their exports wayfare_save and wayfare_load. If that fails, the old code goes
on and nothing is lost. Clients wait meanwhile, and no request runs twice. What no option names stays as it is.")]
pub(in crate::cli) struct Update {
    /// Its name or id
    pub(in crate::cli) service: String,
    /// The new WebAssembly module [default: the code that runs]
    pub(in crate::cli) module: Option<PathBuf>,
    /// Begin with an empty state: what is there is lost
    #[arg(long)]
    pub(in crate::cli) fresh: bool,
    /// Memory that it needs
    #[arg(long, value_name = "MIB")]
    pub(in crate::cli) memory: Option<u64>,
    /// Thousandths of a core that it needs
    #[arg(long, value_name = "MILLICORES")]
    pub(in crate::cli) cpu: Option<u32>,
    /// Storage that it needs
    #[arg(long, value_name = "MIB")]
    pub(in crate::cli) storage: Option<u64>,
    /// Bandwidth that it needs
    #[arg(long, value_name = "MBPS")]
    pub(in crate::cli) bandwidth: Option<u64>,
    /// A cloud that may host it, by name, in place of all named before
    #[arg(long = "allow-cloud", value_name = "CLOUD")]
    pub(in crate::cli) allow_clouds: Vec<String>,
    /// Any cloud may host it
    #[arg(long, conflicts_with = "allow_clouds")]
    pub(in crate::cli) any_cloud: bool,
    /// A region that it may run in, in place of all named before
    #[arg(long = "allow-region", value_name = "REGION")]
    pub(in crate::cli) allow_regions: Vec<String>,
    /// It may run in any region
    #[arg(long, conflicts_with = "allow_regions")]
    pub(in crate::cli) any_region: bool,
    /// The round trip that users are promised at most, ms; 0: no promise
    #[arg(long, value_name = "MS")]
    pub(in crate::cli) max_rtt: Option<u64>,
    /// The manifest's version: higher than that of any before it [default: the time, in seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) manifest_version: Option<u32>,
    /// The owner's secret key [default: DIR/owner.key]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) owner_key: Option<PathBuf>,
    /// Do not wait until it is done
    #[arg(long)]
    pub(in crate::cli) no_wait: bool,
    /// How long to wait until it is done
    #[arg(long, value_name = "S", default_value_t = 120)]
    pub(in crate::cli) timeout: u64,
}

/// What every order takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct Give {
    /// Its name or id
    pub(in crate::cli) service: String,
    /// The owner's secret key [default: DIR/owner.key]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) owner_key: Option<PathBuf>,
    /// Do not wait until it is done
    #[arg(long)]
    pub(in crate::cli) no_wait: bool,
    /// How long to wait until it is done
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(in crate::cli) timeout: u64,
}
