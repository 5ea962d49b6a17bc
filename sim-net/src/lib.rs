//! Local meshes over real latency data: the demo, the benches, the evaluation of Wayfare.
//!
//! [`matrix::LatencyMatrix`] says how far places are from each other, [`layout::Layout`] who stands where, and
//! [`emulator::Emulator`] makes connections over loopback that take so long. [`client::LoadClient`] is the user whose
//! requests must not fail, [`journey`] where it goes and what that would cost at best and at worst. [`mod@bench`] holds the
//! form that every bench prints.
//!
//! [`mesh::Mesh`] runs real nodes together in one process, [`mod@demo`] lets a service follow its user there. [`run`] is the
//! `wayfare-sim` binary.
//!
//! [`mod@scale`] is thousands of machines in virtual time.
//!
//! Read `matrix.rs` first, then `emulator/mod.rs`, `mesh.rs` and `demo/mod.rs`.

use std::process::ExitCode;

pub mod attack;
pub mod bench;
mod checker;
mod cli;
pub mod client;
pub mod demo;
pub mod emulator;
pub mod journey;
pub mod layout;
pub mod matrix;
pub mod mesh;
pub mod moves;
pub mod processes;
pub mod rng;
pub mod scale;
pub mod simulator;
pub mod soak;

/// The `wayfare-sim` binary: reads the arguments of the process and does what they say.
///
/// Exit codes: 0 on success; 1 if what was run did not do what it should; 2 if the command line or an input must be changed
/// first.
pub fn run() -> ExitCode {
    cli::run(std::env::args_os())
}
