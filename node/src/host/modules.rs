//! Modules at hand: files named by their hash, verified whenever they are read.

use std::{
    collections::BTreeMap,
    fs, io,
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

impl Modules {
    /// The modules in `dir`, which is made if it is missing. Files that are not what their name says are left alone and
    /// not used.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut loaded = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
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

    /// Keeps a module; returns its hash.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn insert(&mut self, module: Vec<u8>) -> io::Result<Digest> {
        let digest = module_digest(&module);
        if !self.loaded.contains_key(&digest) {
            let temporary = self.dir.join(format!("{digest}.part"));
            fs::write(&temporary, &module)?;
            fs::rename(&temporary, self.dir.join(format!("{digest}.wasm")))?;
            self.loaded.insert(digest, module.into());
        }
        Ok(digest)
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
