//! Compiled modules, in memory while any service uses them, and on disk to start fast.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::OFlags;
use wasmtime::{Engine, InstancePre, Linker, Module};
use wasmtime_wizer::Wizer;
use wayfare_protocol::ids::Digest;

use super::analyse::{Shape, analyse};
use super::engine::engine;
use super::executor::Context;
use super::image::Image;
use super::wasi;
use crate::runtime::{Blocker, PrepareError, StartError};

/// Begins a file of compiled code; its digits are the format's version.
const MAGIC: [u8; 8] = *b"wfcode01";
const CHECKSUM_BYTES: usize = 32;

/// Compiled code is several times as long as its module.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A module that is ready to be instantiated.
pub(super) struct Code {
    pub(super) digest: Digest,
    pub(super) shape: Shape,
    pub(super) pre: InstancePre<Context>,
}

impl Code {
    /// The state of an instance that has none yet.
    pub(super) fn empty_image(&self) -> io::Result<Image> {
        let globals = self.shape.globals.iter().map(|(_, zero)| *zero).collect();
        Image::new(self.digest, self.shape.memories.len(), globals)
    }

    /// That its first memories fit.
    pub(super) fn check_memory(&self, bytes_max: u64) -> Result<(), StartError> {
        let bytes = self.shape.bytes_min();
        if bytes > bytes_max { Err(StartError::MemoryTooLarge { bytes, bytes_max }) } else { Ok(()) }
    }
}

/// Compiles each module once.
#[derive(Default)]
pub(super) struct Cache {
    folder: Option<PathBuf>,
    /// Code that is in use, by the module's digest. Entries of what no longer is are removed at each insertion.
    live: Mutex<BTreeMap<Digest, Weak<Code>>>,
}

impl Cache {
    /// A cache that also keeps compiled code in `folder`, which is made, for this user only, if it is not there.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: Some(folder.to_owned()), live: Mutex::default() })
    }

    pub(super) fn prepare(&self, module: &[u8], memory_bytes_max: u64) -> Result<Arc<Code>, PrepareError> {
        let digest = Digest(*blake3::hash(module).as_bytes());
        let known = self.live().get(&digest).and_then(Weak::upgrade);
        let code = match known {
            Some(code) => code,
            None => self.load(digest, module, memory_bytes_max)?,
        };
        // Also of known code: another manifest may allow less.
        let bytes = code.shape.bytes_min();
        if bytes > memory_bytes_max {
            return Err(PrepareError::Blocked(vec![Blocker::MemoryTooLarge { bytes, bytes_max: memory_bytes_max }]));
        }
        Ok(code)
    }

    fn live(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Weak<Code>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, digest: Digest, module: &[u8], memory_bytes_max: u64) -> Result<Arc<Code>, PrepareError> {
        let shape = analyse(module, memory_bytes_max).map_err(PrepareError::Blocked)?;
        let engine = engine()?;
        let compile_error = |error: wasmtime::Error| PrepareError::Compile { reason: format!("{error:#}") };
        let path = self.folder.as_ref().map(|folder| folder.join(file_name(&digest, engine)));
        let kept = path.as_deref().and_then(|path| read(path, engine));
        let compiled = match kept {
            Some(compiled) => compiled,
            None => {
                let compiled = compile(engine, module).map_err(compile_error)?;
                if let Some(path) = path
                    && let Err(error) = keep(&path, &compiled)
                {
                    tracing::debug!(path = %path.display(), %error, "compiled code is not kept: the next start is slower");
                }
                compiled
            }
        };
        let mut linker = Linker::new(engine);
        wasi::define(&mut linker).map_err(compile_error)?;
        let pre = linker.instantiate_pre(&compiled).map_err(compile_error)?;
        let code = Arc::new(Code { digest, shape, pre });
        let mut live = self.live();
        live.retain(|_, code| code.strong_count() > 0);
        live.insert(digest, Arc::downgrade(&code));
        Ok(code)
    }
}

/// Exports the module's memories and mutable globals, so that an instance's state can be read and written, and compiles
/// that. Only for a module that [`analyse`] has passed.
fn compile(engine: &Engine, module: &[u8]) -> wasmtime::Result<Module> {
    let (_, instrumented) = Wizer::new().instrument(module)?;
    Module::new(engine, instrumented)
}

/// Names the module and all that its compiled form depends on: engine version and settings, the processor's features.
fn file_name(digest: &Digest, engine: &Engine) -> String {
    struct Blake(blake3::Hasher);
    impl Hasher for Blake {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let [a, b, c, d, e, f, g, h, ..] = *self.0.finalize().as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        }
    }
    let mut hasher = Blake(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let hex = data_encoding::HEXLOWER.encode(&digest.0);
    format!("{hex}-{:016x}", hasher.finish())
}

/// Reads kept code. Anything unexpected, and it is compiled again.
#[expect(unsafe_code, reason = "compiled code is loaded as it is")]
fn read(path: &Path, engine: &Engine) -> Option<Module> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.is_file()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0
        && metadata.len() <= FILE_BYTES_MAX;
    if !ours {
        tracing::warn!(path = %path.display(), "ignoring compiled code that others could have written");
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let (checksum, code) = bytes.strip_prefix(&MAGIC)?.split_first_chunk::<CHECKSUM_BYTES>()?;
    if blake3::hash(code) != *checksum {
        tracing::warn!(path = %path.display(), "ignoring damaged compiled code");
        return None;
    }
    // SAFETY: deserialized code runs as it is, so it must come from `serialize`. The file is only this user's to read and
    // write, is what `keep` wrote (checksum), and its name fixes the engine and its settings; code is never taken from
    // anywhere else. Who can write this user's private files can run code as this user anyway.
    unsafe { Module::deserialize(engine, code) }.ok()
}

/// Writes compiled code under another name first, so that nobody ever reads half of it.
fn keep(path: &Path, compiled: &Module) -> io::Result<()> {
    let code = compiled.serialize().map_err(|error| io::Error::other(format!("{error:#}")))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let partial = path.with_extension(data_encoding::HEXLOWER.encode(&random));
    let write = |mut file: File| {
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&MAGIC)?;
        file.write_all(blake3::hash(&code).as_bytes())?;
        file.write_all(&code)?;
        // A crash may leave an empty file under the final name otherwise; the checksum would find that, once a start.
        file.sync_data()?;
        std::fs::rename(&partial, path)
    };
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).and_then(write);
    if written.is_err() {
        // What is left of it is no use to anybody; if it cannot be removed either, it is only in the way.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
