//! Exhaustive search: the production machines in every state that a small world can get into.
//!
//! `wayfare-sim check` takes small worlds ([`scopes`]): a Registry, two or three clouds, a service, perhaps an attacker.
//! It begins with the service at rest and lets everything happen that can, in every order: messages arrive at any time, any
//! number of times or never; clocks run out, parties crash, operators act, each so often. In every state, all promises of
//! PROTOCOL 4 and 7 are checked ([`model`], [`promises`]), and that it can still end well ([`healing`]). The search ends when there
//! is no new state: it is complete within the stated bounds, and Stateright counts.
//!
//! The machines are those of the programs, [`Host`](wayfare_protocol::host::Host) and
//! [`Registry`](wayfare_protocol::registry::Registry), under perfect cryptography ([`symbolic`]) and, on demand, without a
//! guard ([`guards`]). Open [`party`] for how they are driven, [`memo`] for why that is fast, [`attacker`] for what an
//! attacker says.

mod attacker;
mod command;
mod forgery;
mod guards;
mod healing;
mod host;
mod memo;
mod message;
mod model;
mod party;
mod promises;
mod registry;
mod removals;
mod scopes;
mod search;
mod story;
mod symbolic;
mod world;

pub(crate) use command::CheckArgs;
#[cfg(test)]
mod tests;
