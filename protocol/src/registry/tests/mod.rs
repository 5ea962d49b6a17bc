//! The Registry against hand-made peers. [`harness`] compares the store with the memory after every single call.

mod exchange;
mod harness;
mod membership;
mod orders;
mod races;
mod recovery;
mod refusals;
