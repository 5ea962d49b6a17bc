//! The `wayfare` binary, built with the tests, with points at which it can be made to fail: see [`wayfare_node::run`] and
//! [`wayfare_tests::failpoint`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let (connector, witness) = wayfare_tests::failpoint::from_environment();
    wayfare_node::run_watched(connector, witness)
}
