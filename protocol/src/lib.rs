//! Wayfare's decisions, all of them, and nothing else: no clock, no I/O, no randomness of its own.
//!
//! Three machines matter: [`host::Host`], which runs services and moves them; [`gateway::Gateway`], through which clients
//! reach them; [`registry::Registry`], the arbiter. Each is told what happens (`handle_*`, with the time and, where needed, a
//! source of randomness as arguments) and says what to do (`poll_effect`, `poll_timeout`).
//!
//! To follow one move, read [`migration::messages`], then [`migration::source`] and [`migration::target`], then
//! [`registry`]. What may be believed is decided in [`trust`]; why something is refused is named in [`reject`]; the bytes
//! are in [`wire`]; every bound is in [`limits`]. `tests/handover.rs` runs all machines together.
#![forbid(unsafe_code)]
pub mod advert;
pub mod gateway;
pub mod host;
pub mod ids;
pub mod latency;
pub mod limits;
pub mod manifest;
pub mod migration;
pub mod order;
pub mod outbox;
pub mod placement;
pub mod quota;
pub mod registry;
pub mod reject;
pub mod session;
pub mod suite;
pub mod time;
pub mod transfer;
pub mod trust;
pub mod wire;
