//! The driver for WebAssembly core modules with the ABI `wayfare:request/1` (tests/guests/README.md), on wasmtime.
//!
//! [`WasmDriver`] is all that others see. `analyse` says why a module cannot be a service; `code` compiles and caches;
//! `memory` makes rollback cheap; `image` is a service's committed state and its capture; `executor` runs requests on it for an
//! `instance`; `incoming` fills an image from records; `wasi` is what a service can reach of the outside.

mod analyse;
mod code;
mod engine;
mod executor;
mod image;
mod incoming;
mod instance;
mod memory;
mod wasi;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::code::{Cache, Code};
use self::incoming::WasmIncoming;
use self::instance::WasmInstance;
use self::memory::PageMap;
use super::{
    Driver, Incoming, Instance, Launch, PrepareError, Prepared, Probe, ProbeError, RecordedInputs, Salt, StartError,
};

/// Runs WebAssembly services. Cheap until the first module is prepared: that makes the process's one engine.
#[derive(Default)]
pub struct WasmDriver {
    cache: Cache,
}

impl WasmDriver {
    /// A driver that keeps compiled code in memory only.
    pub fn new() -> Self {
        Self::default()
    }

    /// A driver that also keeps compiled code in `folder`, so that starting a known module takes no compiling. Compiled
    /// code is native code: the folder must be this user's alone, and its files are used only if they are.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn with_cache(folder: &Path) -> io::Result<Self> {
        Ok(Self { cache: Cache::in_folder(folder)? })
    }
}

fn code_of(prepared: &Prepared) -> Result<Arc<Code>, StartError> {
    Arc::clone(&prepared.code).downcast().map_err(|_| StartError::ForeignCode)
}

impl Driver for WasmDriver {
    fn probe(&self) -> Result<Probe, ProbeError> {
        PageMap::shared().map_err(|source| ProbeError::Missing { what: memory::NEEDS, source })?;
        Ok(Probe { driver: "wasm", engine: "wasmtime 48.0.8" })
    }

    fn prepare(&self, module: &[u8], memory_bytes_max: u64) -> Result<Prepared, PrepareError> {
        let code = self.cache.prepare(module, memory_bytes_max)?;
        Ok(Prepared { digest: code.digest, code })
    }

    fn start(
        &self,
        prepared: &Prepared,
        launch: Launch,
        recorded: Option<&RecordedInputs>,
    ) -> Result<(Box<dyn Instance>, RecordedInputs), StartError> {
        let code = code_of(prepared)?;
        code.check_memory(launch.limits.memory_bytes_max)?;
        let (instance, inputs) = WasmInstance::start(code, launch, recorded)?;
        Ok((Box::new(instance), inputs))
    }

    fn receive(&self, prepared: &Prepared, launch: Launch, salt: Salt) -> Result<Box<dyn Incoming>, StartError> {
        let code = code_of(prepared)?;
        code.check_memory(launch.limits.memory_bytes_max)?;
        Ok(Box::new(WasmIncoming::new(code, launch, salt)?))
    }
}
