//! Every bound of this crate.

use std::time::Duration;

/// Connections to the metrics endpoint. More wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16;
/// A client that has not sent its request's head in this time is disconnected.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a scrape waits for the machine's figures. Beyond: 503.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// Spans that wait to be exported. More are dropped, and counted.
pub const SPANS_QUEUED_MAX: usize = 4096;
/// Spans in one request to the collector.
pub const BATCH_MAX: usize = 512;
/// How long a first span waits for others to go with it.
pub const LINGER: Duration = Duration::from_millis(200);
/// A collector that has not answered in this time has failed.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same, once the process is to stop.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
