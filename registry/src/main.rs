//! `wayfare-registry`: see [`wayfare_registry::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    wayfare_registry::cli::main(std::env::args_os())
}
