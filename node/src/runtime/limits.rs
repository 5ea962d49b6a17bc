//! Every bound of the runtime, and what happens at it. The bounds that an owner sets are in [`Limits`].

use std::time::Duration;

/// Bytes of a page of state: a WebAssembly page, and the unit of records, of rounds and of the state's hash.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes of a module: larger ones are refused at [`prepare`](super::Driver::prepare).
pub const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Linear memories of a module: more are refused at prepare. Each reserves 4 GiB of address space, not of memory.
pub const MEMORIES_MAX: usize = 8;

/// Mutable globals of a module: more are refused at prepare.
pub const GLOBALS_MAX: usize = 1024;

/// Elements that a module's table may start with: larger ones are refused at prepare.
pub const TABLE_ELEMENTS_MAX: u64 = 1 << 20;

/// Clock values that one request may read, each eight bytes of the service's log: the next read cuts the request.
pub const CLOCK_READS_MAX: usize = 16 * 1024;

/// Bytes of all that one request read, as the host's log keeps it: the clock values, a seed, and why it was cut.
pub const INPUTS_BYTES_MAX: usize = CLOCK_READS_MAX * 8 + 4 * 1024;

/// Bytes of one line of a service's log: longer ones are broken.
pub const LOG_LINE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a service's log that are kept: the oldest lines are dropped.
pub const LOG_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the description of a trap that is kept and logged: longer ones are cut.
pub const TRAP_TEXT_BYTES_MAX: usize = 256;

/// How many times [`Limits::call_time_max`] a start or a replayed request may take: a start builds what requests then use,
/// and what is replayed did end in time once, on a machine that may have been faster.
pub const PATIENCE: u32 = 10;

/// What one service may use, from its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all linear memories together. Beyond it `memory.grow` answers -1, as it does for a memory's own maximum.
    pub memory_bytes_max: u64,
    /// Time of one request, by the wall clock, to within 20 ms: a longer one is cut and rolled back.
    pub call_time_max: Duration,
    /// Bytes of a request, head and body: a longer one gets status 413 and never reaches the service.
    pub request_bytes_max: usize,
    /// Bytes of a response, head and body: a longer one rolls the request back.
    pub response_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 256 * 1024 * 1024,
            call_time_max: Duration::from_secs(10),
            request_bytes_max: 2 * 1024 * 1024,
            response_bytes_max: 2 * 1024 * 1024,
        }
    }
}
