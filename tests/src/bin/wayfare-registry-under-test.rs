//! The `wayfare-registry` binary, built with the tests, with points at which it can be made to fail: see
//! [`wayfare_registry::cli`] and [`wayfare_tests::failpoint`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // A registry dials nobody.
    let (_, witness) = wayfare_tests::failpoint::from_environment();
    wayfare_registry::cli::main_watched(std::env::args_os(), witness)
}
