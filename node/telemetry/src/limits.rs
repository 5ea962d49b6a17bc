//! Every bound of this crate.

use std::time::Duration;

/// Connections to the metrics endpoint. More wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16;
/// A client that has not sent its request's head in this time is disconnected.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a scrape waits for the machine's figures. Beyond: 503.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);
