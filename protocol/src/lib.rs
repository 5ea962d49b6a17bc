//! Wayfare's decisions, all of them, and nothing else: no clock, no I/O, no randomness of its own.
#![forbid(unsafe_code)]
pub mod advert;
pub mod gateway;
pub mod host;
pub mod ids;
pub mod latency;
pub mod limits;
pub mod manifest;
pub mod migration;
pub mod outbox;
pub mod placement;
pub mod registry;
pub mod reject;
pub mod session;
pub mod suite;
pub mod time;
pub mod transfer;
pub mod trust;
pub mod wire;
