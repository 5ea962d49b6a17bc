//! State on its way in: checked record by record, written to the files that the instance will map. There is no instance
//! yet, so nothing of the service can run.

use std::sync::Arc;

use wayfare_protocol::ids::Digest;

use super::code::Code;
use super::image::Image;
use super::instance::WasmInstance;
use crate::runtime::limits::CHUNK_BYTES;
use crate::runtime::state::{PageHash, page_hash};
use crate::runtime::{
    ApplyError, CaptureError, FinalState, GlobalValue, Incoming, Instance, Launch, Salt, Sink, StartError, StateRecord,
};

/// The newest that has arrived for a page.
#[derive(Clone, Copy)]
struct Arrived {
    round: u32,
    hash: PageHash,
}

pub(super) struct WasmIncoming {
    code: Arc<Code>,
    launch: Launch,
    salt: Salt,
    /// Its globals count once `globals_arrived`.
    image: Image,
    /// By memory and page.
    pages: Vec<Vec<Option<Arrived>>>,
    laid_out: bool,
    globals_arrived: bool,
}

impl WasmIncoming {
    pub(super) fn new(code: Arc<Code>, launch: Launch, salt: Salt) -> Result<Self, StartError> {
        let image = code.empty_image().map_err(StartError::Memory)?;
        let pages = vec![Vec::new(); image.memories.len()];
        Ok(Self { code, launch, salt, image, pages, laid_out: false, globals_arrived: false })
    }

    fn layout(&mut self, pages: &[u64]) -> Result<(), ApplyError> {
        let shape = &self.code.shape.memories;
        if pages.len() != shape.len() {
            return Err(ApplyError::MemoryCount { found: pages.len(), expected: shape.len() });
        }
        for (memory, ((&pages, &(min, max)), (_, now))) in pages.iter().zip(shape).zip(&self.image.memories).enumerate()
        {
            let min = min.max(*now);
            if pages < min || pages > max {
                return Err(ApplyError::MemorySize { memory, pages, min, max });
            }
        }
        let bytes = pages.iter().map(|pages| pages * CHUNK_BYTES as u64).sum();
        let bytes_max = self.launch.limits.memory_bytes_max;
        if bytes > bytes_max {
            return Err(ApplyError::MemoryTooLarge { bytes, bytes_max });
        }
        for ((file, now), &pages) in self.image.memories.iter_mut().zip(pages) {
            file.resize(pages * CHUNK_BYTES as u64).map_err(ApplyError::Write)?;
            *now = pages;
        }
        self.laid_out = true;
        Ok(())
    }

    fn page(&mut self, round: u32, memory: u32, index: u64, bytes: &[u8]) -> Result<(), ApplyError> {
        self.require_layout()?;
        let out_of_range = ApplyError::OutOfRange { memory, index };
        let Some((file, size)) = self.image.memories.get(memory as usize) else { return Err(out_of_range) };
        let Some(at) = usize::try_from(index).ok().filter(|_| index < *size) else { return Err(out_of_range) };
        let pages = &mut self.pages[memory as usize];
        if pages.len() <= at {
            pages.resize(at + 1, None);
        }
        let slot = &mut pages[at];
        let hash = page_hash(&self.salt, bytes);
        let mut was_zero = true;
        if let Some(last) = slot {
            if round < last.round || (round == last.round && hash == last.hash) {
                return Ok(());
            }
            if round == last.round {
                return Err(ApplyError::PageConflict { memory, index });
            }
            was_zero = last.hash.is_none();
        }
        // If the write fails, nobody knows what is there: a hash that no page has, so that the digest fails too.
        *slot = Some(Arrived { round: slot.map_or(0, |last| last.round), hash: Some([0; 32]) });
        let offset = index * CHUNK_BYTES as u64;
        if was_zero {
            file.write(offset, bytes).map_err(ApplyError::Write)?;
        } else {
            // What the new contents leave out is zero.
            let mut page = bytes.to_vec();
            page.resize(CHUNK_BYTES, 0);
            file.write(offset, &page).map_err(ApplyError::Write)?;
        }
        *slot = Some(Arrived { round, hash });
        Ok(())
    }

    fn globals(&mut self, values: Vec<GlobalValue>, monotonic_ns: u64) -> Result<(), ApplyError> {
        self.require_layout()?;
        let shape = &self.code.shape.globals;
        let fits = values.len() == shape.len() && values.iter().zip(shape).all(|(value, (_, ty))| value.same_type(*ty));
        if !fits {
            return Err(ApplyError::GlobalMismatch { expected: shape.len() });
        }
        if self.globals_arrived && (self.image.globals != values || self.image.monotonic_ns != monotonic_ns) {
            return Err(ApplyError::GlobalConflict);
        }
        (self.image.globals, self.image.monotonic_ns, self.globals_arrived) = (values, monotonic_ns, true);
        Ok(())
    }

    fn require_layout(&self) -> Result<(), ApplyError> {
        if self.laid_out { Ok(()) } else { Err(ApplyError::NoLayout) }
    }

    fn require_complete(&self) -> Result<(), ApplyError> {
        self.require_layout()?;
        if self.globals_arrived { Ok(()) } else { Err(ApplyError::NoGlobals) }
    }
}

impl Incoming for WasmIncoming {
    fn apply(&mut self, kind: u8, payload: &[u8]) -> Result<(), ApplyError> {
        match StateRecord::decode(kind, payload)? {
            StateRecord::Layout { pages } => self.layout(&pages),
            StateRecord::Page { round, memory, index, bytes } => self.page(round, memory, index, &bytes),
            StateRecord::Globals { values, monotonic_ns } => self.globals(values, monotonic_ns),
        }
    }

    fn digest(&self) -> Result<Digest, ApplyError> {
        self.require_complete()?;
        let hashes =
            self.pages.iter().map(|pages| pages.iter().map(|page| page.and_then(|page| page.hash)).collect()).collect();
        Ok(self.image.digest(&self.salt, hashes))
    }

    fn save(&self, sink: &mut dyn Sink) -> Result<FinalState, CaptureError> {
        self.require_complete().map_err(CaptureError::Incomplete)?;
        self.image.save(self.salt.clone(), sink)
    }

    fn activate(self: Box<Self>, expected: Digest) -> Result<Box<dyn Instance>, StartError> {
        let found = self.digest().map_err(StartError::Incomplete)?;
        if found != expected {
            return Err(StartError::WrongState { found, expected });
        }
        Ok(Box::new(WasmInstance::over(self.code, self.launch, self.image)?))
    }
}
