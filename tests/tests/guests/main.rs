//! The guests of `tests/guests` as services of a mesh of processes: what is in their memory goes with them, whatever it is.
//!
//! `town` has the mesh and a client; the rest is one file for each guest.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod sql;
mod state;
mod todo;
mod town;
