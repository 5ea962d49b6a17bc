//! The `wayfare-sim` binary, built with the tests: see [`sim_net`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sim_net::run()
}
