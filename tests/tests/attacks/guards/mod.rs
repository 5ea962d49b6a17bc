//! The attacks of PROTOCOL 8, and some more, in memory: with the guard off each goes through. So the guards are what stops
//! them, and the tables' rejections are not there by chance.

pub(crate) mod hosts;
pub(crate) mod machines;
pub(crate) mod members;
pub(crate) mod parties;
pub(crate) mod wires;
