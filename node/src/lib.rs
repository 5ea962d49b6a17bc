//! Wayfare's nodes: clouds and homes, which run services and move them, and gateways, through which clients reach them.
//!
//! [`node`] puts a node together from [`config`] and [`state`], a [`host`] or a [`gateway`], and the control [`api`]; start
//! reading there. [`runtime`] runs services, [`wayfare_journal`] keeps what was promised. [`run`] is the `wayfare` binary, whose
//! commands are in `cli`.

use std::{process::ExitCode, sync::Arc};

use wayfare_net::{Connector, DirectConnector, Witness};

pub mod api;
mod cli;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod gateway;
pub mod host;
mod mesh;
mod metrics;
pub mod node;
mod questions;
pub mod runtime;
pub mod shutdown;
pub mod state;
mod words;

/// The `wayfare` binary: reads the arguments of the process and does what they say.
///
/// Exit codes: 0 on success; 2 if the command line, a file of the node, a port or a join token must be changed first; 1 for
/// any other failure.
pub fn run() -> ExitCode {
    run_watched(Arc::new(DirectConnector), None)
}

/// As [`run`]; the node that the `run` command runs dials through `connector`, and `witness` watches it.
pub fn run_watched(connector: Arc<dyn Connector>, witness: Option<Arc<dyn Witness>>) -> ExitCode {
    cli::run(std::env::args_os(), connector, witness)
}
