//! What operators of a node do with it.

use clap::Args;
use clap_complete::Shell;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare drain --dir fjord
  wayfare drain --dir fjord --stay --timeout 600
  wayfare drain --dir fjord --json           one line of JSON for each thing that happens

The node takes no more services. Each that it has goes to the best cloud that may take it and
has room, four at a time; if one refuses, another is tried. Then the node takes leave of the
mesh and stops. If some service cannot leave in time, it says which and why, the node stays up,
cordoned, and the exit code is 1. Interrupted, it moves no more services; those on their way go
on. A restart of the node ends the drain, but not the cordon: `wayfare uncordon` ends that.")]
pub(in crate::cli) struct Drain {
    /// Do not stop the node when it is empty
    #[arg(long)]
    pub(in crate::cli) stay: bool,
    /// How long it may take
    #[arg(long, value_name = "S", default_value_t = 300)]
    pub(in crate::cli) timeout: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare doctor --dir fjord
  wayfare doctor --dir fjord --offline
  wayfare doctor --dir fjord --json

Each line is ok, warn or FAIL, with what to do. Exit codes: 0 if nothing fails, 1 if something
does.")]
pub(in crate::cli) struct Doctor {
    /// Do not speak to the registry, nor to this node as others would
    #[arg(long)]
    pub(in crate::cli) offline: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare completions bash > ~/.local/share/bash-completion/completions/wayfare
  wayfare completions zsh > ~/.zfunc/_wayfare              with fpath+=~/.zfunc before compinit
  wayfare completions fish > ~/.config/fish/completions/wayfare.fish")]
pub(in crate::cli) struct Completions {
    /// Which shell
    pub(in crate::cli) shell: Shell,
}
