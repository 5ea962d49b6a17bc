//! Local meshes over real latency data: the demo, the benches, the evaluation of Wayfare.
//!
//! [`matrix::LatencyMatrix`] says how far places are from each other, [`layout::Layout`] who stands where, and
//! [`emulator::Emulator`] makes connections over loopback that take so long. [`client::LoadClient`] is the user whose
//! requests must not fail, [`journey`] where it goes and what that would cost at best and at worst. [`mod@bench`] holds the
//! form that every bench prints.
//!
//! Read `matrix.rs` first, then `emulator/mod.rs`.

pub mod bench;
pub mod client;
pub mod emulator;
pub mod journey;
pub mod layout;
pub mod matrix;
pub mod rng;
