//! The virtual-time simulator: whole worlds of Wayfare in one thread, under faults of every kind, in which every promise is
//! checked after every event. `wayfare-sim fuzz` runs it.
//!
//! What runs is production code: `Host`, `Registry` and `Gateway` of `wayfare-protocol`, the sealing of state records, and the
//! real cryptography with seeded keys. What is simulated is everything that the drivers do: clocks (`clock`), streams and
//! gossip (`network`), disks (`disk`), the instances' threads and the state streams (`host`, `transfer`), the Registry's
//! store (`registry`), the gateways (`gateway`), their clients and those who move services (`client`),
//! owners (`owner`). One seeded
//! generator (`rng`) decides everything, beginning with the configuration and the faults (`faults`); `queue` and `world`
//! are the engine. So a seed is a run, bit for bit, whose trace hash proves that.
//!
//! A run has two phases (`run`). First things go wrong; what is checked is safety. Then everything heals, and must come
//! right in bounded time: moves end, services serve, clients are answered, nothing is kept for what is over.
//!
//! # How to read a failure
//!
//! A failure names its seed, the invariant, what broke it, and the last forty lines of the story; `fuzz --replay SEED --trace`
//! tells the whole. Read it backwards from `VIOLATED`: which node did it, what did its machine last hear and journal, what was
//! lost in its last `fault:` line. Then ask first whether the simulator does what the real driver does (`node/src/host/owner.rs`,
//! `node/src/gateway/owner.rs`, `registry/src/driver.rs`), and only then whether the machine is wrong. A bug's seed goes to
//! `regressions.txt` once it is fixed.
//!
//! # How to add an invariant
//!
//! In `check`: call `violate` with the promise in words. Compare machines with what an observer outside knows (what was
//! acknowledged, what the Registry has on disk, true time), not with themselves. What holds at the end only belongs to
//! `unsettled`, `leftovers` or `check_history`. Then take the guard away that keeps the promise: add it to `breaks`, with the
//! number of seeds within which it is found out.
//!
//! # How to add a fault
//!
//! In `faults`: a variant of `Strike`, its rates in `Plan::new` (on in some seeds only, so that others show what it hides), and
//! what it does in `handle_strike`; faults that only a liar or a careless operator makes are in `rogue`. It must end with
//! `calm_down`, or leave a world that can still come right.

mod breaks;
mod check;
mod client;
mod clock;
mod command;
mod coverage;
mod disk;
mod event;
mod faults;
mod fuzz;
mod gateway;
mod guest;
mod host;
mod images;
mod memo;
mod network;
mod node;
mod owner;
mod queue;
mod registry;
mod rng;
mod rogue;
mod run;
mod setup;
mod story;
#[cfg(test)]
mod tests;
mod tidy;
mod transfer;
mod update;
mod world;

pub use breaks::{BREAKS, Break};
pub use command::FuzzArgs;
pub use coverage::{Coverage, CoverageRow};
pub use fuzz::{Found, FuzzOptions, FuzzReport, Migrations, Terms, fuzz, replay};
pub use run::Outcome;
