//! Meshes of real processes: the `wayfare` and `wayfare-registry` binaries as people start them, each in a directory of its
//! own, on fixed ports of the loopback, so that they can be killed and started again.
//!
//! [`Processes`] is such a mesh, [`Process`] one of them, which dies with this one. [`User`] is an HTTP client that keeps
//! asking, with an `Idempotency-Key`, until it has its answer, and knows afterwards what was lost or doubled.

mod child;
mod mesh;
mod ports;
mod user;

pub use child::{Process, run_command};
pub use mesh::{Health, Joining, Kind, Processes, Programs, REGISTRY, Setup};
pub use ports::free_address;
pub use user::{Audit, User, UserConfig, UserStats};
