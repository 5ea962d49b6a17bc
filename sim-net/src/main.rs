//! `wayfare-sim`: see [`sim_net`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sim_net::run()
}
