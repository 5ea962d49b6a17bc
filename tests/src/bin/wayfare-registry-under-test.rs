//! The `wayfare-registry` binary, built with the tests: see [`wayfare_registry::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wayfare_registry::cli::main(std::env::args_os())
}
