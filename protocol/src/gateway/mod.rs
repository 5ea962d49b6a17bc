//! The gateway: a client's entry. It follows its services wherever they go, numbers requests so that each is executed
//! once, holds them while a service moves, and measures latency for the host that decides.
//!
//! [`Gateway`] is the machine (in `machine`; `frames` is what hosts say, `follow` where services are, `timers` what happens
//! when nothing arrives, `keyed` the requests that outlive the gateway); [`effect`] says what its driver does. `route` is one service as seen from here: the newest
//! placement, and what is unanswered. `links` keeps the streams to hosts, `probe` the round trips. [`messages`] is the
//! contract with hosts.
//!
//! **Whose replies count.** Only the host of the newest placement known, while that is unexpired by the stated skew
//! (PROTOCOL 4, 5). A reply of the former host that crosses the news of a move is dropped, though it may be genuine: if
//! it is, the response went into the captured sessions before the consent, and the new host replays the same bytes. A
//! host that goes on serving after its consent could send the same frame, and nothing would tell the two apart.
//!
//! **What is on disk first** (`Rule::SyncGate`): the incarnation before a Hello with it; a block of numbers before one of
//! them is used; an epoch before anything is sent to its host, so that no restarted gateway goes back to the host before;
//! a request with a key before it is sent; its response before the client has it and before the host may forget it.

pub mod effect;
pub mod figures;
mod follow;
mod frames;
mod keyed;
pub mod keys;
mod links;
mod machine;
pub mod messages;
mod probe;
mod route;
#[cfg(test)]
mod tests;
mod timers;

pub use effect::{Effect, Entry, Failure, Refuse, Ticket};
pub use keyed::COMPACT_BYTES_MIN;
pub use keys::{IdempotencyKey, NotAKey};
pub use machine::{Gateway, GatewayConfig};
pub use probe::{PROBE_EXPLORE, PROBE_NEAREST};
