//! The virtual-time simulator.

mod check;
mod client;
mod clock;
mod coverage;
mod disk;
mod faults;
mod gateway;
mod guest;
mod host;
mod network;
mod queue;
mod registry;
mod rng;
mod run;
mod setup;
mod story;
mod transfer;
mod world;

pub use run::{Outcome, run};
