//! The `wayfare` binary: see [`wayfare_node::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wayfare_node::run()
}
