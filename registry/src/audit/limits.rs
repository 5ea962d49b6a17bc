//! The bounds of the audit log.

use wayfare_protocol::limits::AUDIT_BLOCK_BYTES_MAX;

/// A file of the log this long is followed by another.
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// A longer file is not read.
pub(crate) const FILE_BYTES_MAX: u64 = SEGMENT_BYTES + AUDIT_BLOCK_BYTES_MAX as u64 + 64 * 1024;
/// Files in one log's directory. More: refused, with what to do.
pub(crate) const SEGMENTS_MAX: usize = 100_000;
/// Bytes of blocks that the records keep, as it is not certain that the log's files have them on disk. More: the file is synced.
pub(crate) const PENDING_BYTES: usize = 1024 * 1024;
/// The same, if the files cannot be written. More: the registry stops, for it must not decide what it cannot log.
pub(crate) const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Flaws that one look at a log names. Those beyond are not looked for.
pub(crate) const FLAWS_MAX: usize = 100;
/// Characters of one line of an export. A longer one is none.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
