//! Reading and writing the files of a state directory: secret ones for their owner only, all of them whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::StateError;

/// For the owner only.
pub(super) const PRIVATE: u32 = 0o600;
/// For everybody to read.
pub(super) const PUBLIC: u32 = 0o644;

/// Makes a directory, for its owner only, if there is none.
pub(super) fn make_dir(path: &Path) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StateError::Write { path: path.to_owned(), source })
}

/// Writes a file that must not exist yet, down to the disk.
pub(super) fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StateError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_dir(path)
    };
    write().map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => StateError::Exists { path: path.to_owned() },
        _ => StateError::Write { path: path.to_owned(), source },
    })
}

/// Writes a file in place of what is there, if anything: a crash leaves the old or the new.
pub(super) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StateError> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        sync_dir(path)
    };
    write().map_err(|source| StateError::Write { path: path.to_owned(), source })
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::Write { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// The text of a file of at most `bytes_max` bytes.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<String>, StateError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => StateError::Missing { path: path.to_owned() },
        _ => StateError::Read { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > bytes_max {
        return Err(StateError::damaged(path, "it is too long", "put the right file there"));
    }
    Ok(text)
}

/// As [`read`], of a file that only its owner may read.
pub(super) fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<String>, StateError> {
    let text = read(path, bytes_max)?;
    let metadata = fs::metadata(path).map_err(|source| StateError::Read { path: path.to_owned(), source })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(StateError::Exposed { path: path.to_owned() });
    }
    Ok(text)
}
