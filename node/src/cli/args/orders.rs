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
