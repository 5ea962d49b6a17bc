//! Where a journal's space comes from.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::limits::RESERVE_BYTES;

/// Reserves disk space for a journal. Products have [`Disk`]; a test may have a disk that fills up when it says so.
pub trait Space: Debug + Send {
    /// Reserves [`RESERVE_BYTES`] behind `end` of `file`, whose name is `path`, without changing its length. False if the
    /// file system cannot, but has as much free.
    ///
    /// # Errors
    /// Without so much space. What was reserved before is still there.
    fn reserve(&self, path: &Path, file: &File, end: u64) -> io::Result<bool>;
}

/// The disk that the file is on.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Space for Disk {
    fn reserve(&self, _: &Path, file: &File, end: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, RESERVE_BYTES) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let disk = rustix::fs::fstatvfs(file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= RESERVE_BYTES { Ok(false) } else { Err(Errno::NOSPC.into()) }
    }
}
