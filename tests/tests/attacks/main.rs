//! Every message of the protocol, altered in every field, replayed, out of order, by the wrong peer, for the wrong receiver,
//! over real sockets: a named rejection, counted once, and nothing else. Each group of tables ends with the honest
//! message, and with a service nearby that has kept its state and can be moved.
//!
//! `proofs` shows for each attack of `wayfare-sim attack` that it is real. Open next: `coverage` for what the tables must contain, then the receivers: `registry`, `target`, `source`, `clients`,
//! `gateway`, `mesh`, `recovery`. `guards` shows for single guards that without them the attack succeeds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod bystander;
mod clients;
mod coverage;
mod gateway;
mod guards;
mod joining;
mod mesh;
mod proofs;
mod recovery;
mod registry;
mod source;
mod target;
