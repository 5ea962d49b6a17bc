//! Wayfare.
