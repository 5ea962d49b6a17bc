//! What the end-to-end and attack tests are made of.
//!
//! [`alter`] has tables of fields and what becomes of a message in which one is altered; [`shot`] turns a table and an honest
//! message into bytes to send; [`fields`] lists a message's fields, so that no table can forget one. [`peer`] is a node of
//! the mesh that speaks by hand, [`ledger`] counts what its receiver rejects, [`range`] brings these together. The puppets,
//! honest until told otherwise, are in [`puppet`]; real nodes in [`real`]. [`failpoint`] and [`gate`] let a process die, stop or
//! lose its network at a chosen point.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a library of tests may fail")]

pub mod alter;
pub mod failpoint;
pub mod fields;
pub mod gate;
pub mod guards;
pub mod hand;
pub mod ledger;
pub mod peer;
pub mod puppet;
pub mod range;
pub mod real;
pub mod shot;
