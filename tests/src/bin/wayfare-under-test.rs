//! The `wayfare` binary, built with the tests: see [`wayfare_node::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wayfare_node::run()
}
