//! The audit log's files: blocks one after the other, a new file when one is large enough. A file is named by the number of
//! its first entry, so that names sort as entries do.
//!
//! | Head | 112 bytes |
//! |---|---|
//! | magic | `WFAUDIT1` |
//! | registry, key | 32 bytes each: whose log this is |
//! | after | u64 and 32 bytes: number and hash of the entry before the first one here |
//!
//! Then blocks: a length (u32, little endian) and a [`Block`] each. There are no checksums: the chain is one, and signed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use wayfare_protocol::{
    ids::{Digest, RegistryId},
    limits::AUDIT_BLOCK_BYTES_MAX,
    registry::audit::{Block, Head},
    suite::PublicKey,
    wire,
};

use super::limits::{FILE_BYTES_MAX, SEGMENTS_MAX};

/// What every file begins with; the number is the version of what follows.
pub(crate) const MAGIC: &[u8; 8] = b"WFAUDIT1";
/// The head's length.
pub(crate) const HEAD_BYTES: usize = 112;
const LENGTH_BYTES: usize = 4;
const SUFFIX: &str = "audit";

/// What a file says of itself. Nothing of it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHead {
    pub(crate) registry: RegistryId,
    pub(crate) key: PublicKey,
    /// What the first entry in the file follows.
    pub(crate) after: Head,
}

impl FileHead {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..40].copy_from_slice(&self.registry.0);
        bytes[40..72].copy_from_slice(&self.key);
        bytes[72..80].copy_from_slice(&self.after.sequence.to_le_bytes());
        bytes[80..].copy_from_slice(&self.after.hash.0);
        bytes
    }

    /// `None` if the bytes are no head.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(..HEAD_BYTES)?.strip_prefix(MAGIC)?;
        let (registry, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (sequence, hash) = rest.split_first_chunk()?;
        let after = Head { sequence: u64::from_le_bytes(*sequence), hash: Digest(hash.try_into().ok()?) };
        Some(Self { registry: RegistryId(*registry), key: *key, after })
    }
}

/// A block as it is in a file.
pub(crate) fn framed(block: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + block.len());
    bytes.extend(u32::try_from(block.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(block);
    bytes
}

/// What is in a file behind its head: blocks, each with where it ends, up to the first bytes that are none.
pub(crate) fn blocks(bytes: &[u8]) -> impl Iterator<Item = (Block, usize)> {
    let mut at = HEAD_BYTES;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > AUDIT_BLOCK_BYTES_MAX {
            return None;
        }
        let block = wire::decode::<Block>(rest.get(..length)?).ok()?;
        at += LENGTH_BYTES + length;
        Some((block, at))
    })
}

/// The name of the file whose first entry is the one after `after`.
pub(crate) fn name(after: Head) -> String {
    format!("{:016}.{SUFFIX}", after.sequence.saturating_add(1))
}

/// All files of the log in `dir`, oldest first; none if there is no such directory.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let found = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        found => found?,
    };
    for entry in found {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let numbered = stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_digit());
        if numbered && path.extension().is_some_and(|extension| extension == SUFFIX) {
            files.push(path);
        }
        if files.len() > SEGMENTS_MAX {
            return Err(io::Error::other(format!("more than {SEGMENTS_MAX} files: move the oldest elsewhere")));
        }
    }
    files.sort();
    Ok(files)
}

/// A whole file. One that is too long to be this program's is refused unread.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    if file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)? as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes: it is no file of an audit log")));
    }
    Ok(bytes)
}

/// The file that is being written.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    /// Where the next block goes: what is behind is of a write that failed.
    end: u64,
}

impl Segment {
    /// Begins a file; whatever has its name is put aside.
    pub(crate) fn begin(dir: &Path, head: &FileHead) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(name(head.after));
        if path.exists() {
            put_aside(&path)?;
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all_at(&head.encode(), 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { file, end: HEAD_BYTES as u64 })
    }

    /// Goes on with a file behind `end`; what is there is cut off.
    pub(crate) fn go_on(path: &Path, end: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(end as u64)?;
        Ok(Self { file, end: end as u64 })
    }

    /// Appends a framed block; it is not synced.
    pub(crate) fn append(&mut self, framed: &[u8]) -> io::Result<()> {
        self.file.write_all_at(framed, self.end)?;
        self.end += framed.len() as u64;
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.end
    }
}

/// Keeps a file under a name that is no file's of the log.
fn put_aside(path: &Path) -> io::Result<()> {
    for n in 1..SEGMENTS_MAX {
        let aside = path.with_extension(format!("{SUFFIX}.damaged-{n}"));
        if !aside.exists() {
            return fs::rename(path, aside);
        }
    }
    Err(io::Error::other("too many damaged files: move them elsewhere"))
}
