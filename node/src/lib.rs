//! Wayfare.
pub mod runtime;
