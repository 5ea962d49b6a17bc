//! Parties that a test plays: honest machines, whose frames the test can hold back, alter and replace.

pub mod registry;
pub mod source;
pub mod target;
