//! The attacker.

pub mod hand;
pub mod peer;
pub mod sign;
pub mod source;
