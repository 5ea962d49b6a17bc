//! The virtual-time simulator.

mod breaks;
mod check;
mod client;
mod clock;
mod command;
mod coverage;
mod disk;
mod faults;
mod fuzz;
mod gateway;
mod guest;
mod host;
mod network;
mod queue;
mod registry;
mod rng;
mod rogue;
mod run;
mod setup;
mod story;
mod transfer;
mod world;

pub use breaks::{BREAKS, Break};
pub use command::FuzzArgs;
pub use coverage::{Coverage, CoverageRow};
pub use fuzz::{Found, FuzzOptions, FuzzReport, Migrations, fuzz, replay};
pub use run::Outcome;
