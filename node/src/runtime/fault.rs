//! Why a request failed, and what its client is told.

use serde::{Deserialize, Serialize};

/// Why a request was rolled back, or never reached the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// Longer than [`Limits::request_bytes_max`]; status 413.
    #[error("the request is longer than {bytes_max} bytes")]
    RequestTooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// It ran longer than [`Limits::call_time_max`].
    #[error("the service took longer than {millis_max} ms")]
    TimedOut {
        /// The limit.
        millis_max: u64,
    },
    /// It gave up after it had been refused more memory.
    #[error("the service needed more memory than the {bytes_max} bytes that it may use")]
    OutOfMemory {
        /// The limit.
        bytes_max: u64,
    },
    /// It read clocks too often ([`limits::CLOCK_READS_MAX`]).
    #[error("the service read its clocks too often")]
    TooManyInputs,
    /// This machine had no memory or randomness to give.
    #[error("the host lacked {what}")]
    HostLacks {
        /// What.
        what: String,
    },
    /// It called `proc_exit`.
    #[error("the service exited with code {code}")]
    Exited {
        /// Its exit code.
        code: u32,
    },
    /// It trapped.
    #[error("the service trapped: {what}")]
    Trapped {
        /// The engine's description.
        what: String,
    },
    /// It broke the ABI.
    #[error("the service broke the ABI: {what}")]
    BadResponse {
        /// In what way.
        what: String,
    },
}

impl Fault {
    /// A short name, for a header and for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestTooLong { .. } => "request-too-long",
            Self::TimedOut { .. } => "timeout",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::TooManyInputs => "too-many-inputs",
            Self::HostLacks { .. } => "host",
            Self::Exited { .. } => "exit",
            Self::Trapped { .. } => "trap",
            Self::BadResponse { .. } => "bad-response",
        }
    }

    /// What the client gets. It names the kind of failure only: details are for the service's owner.
    pub(crate) fn response(&self) -> Vec<u8> {
        let status = match self {
            Self::RequestTooLong { .. } => "413 Content Too Large",
            Self::TimedOut { .. }
            | Self::OutOfMemory { .. }
            | Self::TooManyInputs
            | Self::HostLacks { .. }
            | Self::Exited { .. }
            | Self::Trapped { .. }
            | Self::BadResponse { .. } => "500 Internal Server Error",
        };
        let name = self.name();
        let body = format!("the service failed ({name}) and is as it was before this request\n");
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nWayfare-Fault: {name}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}
