//! Modules at hand: files named by their hash, verified whenever they are read.
//!
//! A module is on disk before anything is promised that needs it ([`store`]): a host that restarts cannot ask for it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use wayfare_protocol::ids::Digest;

/// Modules on disk, and those used lately in memory.
#[derive(Debug)]
pub struct Modules {
    dir: PathBuf,
    loaded: BTreeMap<Digest, Arc<[u8]>>,
}

/// The hash of a module: BLAKE3 of its bytes, as a manifest names it.
pub fn module_digest(module: &[u8]) -> Digest {
    Digest(*blake3::hash(module).as_bytes())
}

fn path_of(dir: &Path, digest: Digest) -> PathBuf {
    dir.join(format!("{digest}.wasm"))
}

/// Writes a module to `dir`, down to the disk, unless it is there. Blocks.
///
/// # Errors
/// If it cannot be written.
pub fn store(dir: &Path, module: &[u8]) -> io::Result<()> {
    let digest = module_digest(module);
    let path = path_of(dir, digest);
    if fs::read(&path).is_ok_and(|there| there == module) {
        return Ok(());
    }
    // Two may store the same module at once: each writes a file of its own.
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let temporary = dir.join(format!("{digest}.{}.part", data_encoding::HEXLOWER.encode(&random)));
    let written = File::create_new(&temporary)
        .and_then(|mut file| file.write_all(module).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        // It is of no use to anybody.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// The module with this hash, if `dir` has it. Blocks.
pub fn read(dir: &Path, digest: Digest) -> Option<Vec<u8>> {
    fs::read(path_of(dir, digest)).ok().filter(|module| module_digest(module) == digest)
}

impl Modules {
    /// The modules in `dir`, which is made if it is missing. Files that are not what their name says are left alone and
    /// not used.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        File::open(dir.parent().unwrap_or(dir))?.sync_all()?;
        let mut loaded = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                // A crash has left it. It is in nobody's way, so it does not matter whether it goes.
                let _ = fs::remove_file(&path);
            }
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            let bytes = fs::read(&path)?;
            let digest = module_digest(&bytes);
            if path.file_stem().is_some_and(|stem| stem.to_string_lossy() == digest.to_string()) {
                loaded.insert(digest, bytes.into());
            }
        }
        Ok(Self { dir: dir.to_owned(), loaded })
    }

    /// Where modules are kept.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A module that was [stored](store) is at hand from now on; returns its hash.
    pub fn insert(&mut self, module: Vec<u8>) -> Digest {
        let digest = module_digest(&module);
        self.loaded.entry(digest).or_insert_with(|| module.into());
        digest
    }

    /// The module with this hash.
    pub fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.loaded.get(digest).cloned()
    }

    /// All hashes.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.loaded.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_module_is_there_at_the_next_open_and_a_changed_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let digest = Modules::open(temp.path()).unwrap().insert(b"module".to_vec());
        assert!(Modules::open(temp.path()).unwrap().get(&digest).is_none(), "it was not stored");
        store(temp.path(), b"module").unwrap();
        store(temp.path(), b"module").unwrap();
        fs::write(temp.path().join("left.part"), b"by a crash").unwrap();
        assert_eq!(Modules::open(temp.path()).unwrap().get(&digest).as_deref(), Some(b"module".as_slice()));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        fs::write(path_of(temp.path(), digest), b"other").unwrap();
        assert!(Modules::open(temp.path()).unwrap().get(&digest).is_none());
        store(temp.path(), b"module").unwrap();
        assert!(Modules::open(temp.path()).unwrap().get(&digest).is_some());
    }
}
