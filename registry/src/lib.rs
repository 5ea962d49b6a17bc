//! The Registry of Wayfare: the trust anchor that enrols clouds, allows moves, and holds where every service is.
//!
//! All decisions are in [`wayfare_protocol::registry`]; this crate stores them, speaks for them on the mesh, and takes
//! an operator's commands. [`run`] starts one in this process and gives a [`RunningRegistry`]. Read `run.rs` first, then
//! `driver.rs` (the task that owns the machine), `store/` (what is on disk), `records.rs` and `audit/` (what others can check afterwards), `backup.rs` (and its way back), `api.rs` and `cli/` (what operators see).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api;
pub mod audit;
mod backup;
pub mod cli;
mod clock;
mod config;
mod driver;
mod handle;
mod metrics;
pub mod oscal;
mod reach;
pub mod records;
mod relay;
mod run;
pub mod store;
pub mod view;

pub use backup::{BackupError, MarkError, mark_restored};
pub use config::{Config, ConfigError, Observed, StateDir, StoreChoice};
pub use handle::{Handle, HandleError};
pub use run::{RunError, RunningRegistry, run, run_watched};
