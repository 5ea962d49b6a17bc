//! Linear memories that can be rolled back: each is a private mapping of a file in memory.
//!
//! The file holds the memory as the last finished request left it. What a request writes goes to private copies of its
//! pages, made by the kernel. The kernel's page map says which they are: they are written to the file after a success
//! (*commit*), and given back after a failure (*rollback*, by making the instance again over the file). So the state is
//! the file; the mapping is only what the engine needs to run. A capture reads the file and never the mapping.
//!
//! Cost, measured: finding the copies takes 1 us per MiB of memory that the instance has touched (64 MiB: 65 us), and each
//! 4 KiB page that a request wrote takes about 2 us (fault, copy, write back, give back), whatever the memory's size.
//! A rollback takes 70 us.
//!
//! All `unsafe` code of the runtime is in this file, but for loading code from the cache (`code.rs`).
#![expect(unsafe_code, reason = "a memory whose pages are shared with a file is made by hand")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::{Arc, OnceLock};

use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::runtime::limits::CHUNK_BYTES;

/// The committed bytes of one memory: a file that has no name and lives in memory only.
#[derive(Debug)]
pub(super) struct MemoryFile(File);

impl MemoryFile {
    pub(super) fn new() -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("wayfare-memory", MemfdFlags::CLOEXEC)?;
        Ok(Self(File::from(fd)))
    }

    /// Makes the file `bytes` long; what is new is zero, what is cut is gone.
    pub(super) fn resize(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    /// Makes the file at least `bytes` long.
    fn extend(&self, bytes: u64) -> io::Result<()> {
        if self.0.metadata()?.len() < bytes { self.resize(bytes) } else { Ok(()) }
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    pub(super) fn read_chunk(&self, index: u64, chunk: &mut [u8; CHUNK_BYTES]) -> io::Result<()> {
        self.0.read_exact_at(chunk, index * CHUNK_BYTES as u64)
    }

    /// The chunks from `index` on that may hold something: the next such run, or `None` if all the rest is zero.
    pub(super) fn next_data(&self, index: u64) -> io::Result<Option<Range<u64>>> {
        let chunk = CHUNK_BYTES as u64;
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(index * chunk)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&self.0, SeekFrom::Hole(start))?;
        Ok(Some(start / chunk..end.div_ceil(chunk)))
    }
}

thread_local! {
    /// The files for the memories of the instance that this thread is making: the engine's interface has no other way.
    static FILES: RefCell<VecDeque<Arc<MemoryFile>>> = const { RefCell::new(VecDeque::new()) };
}

/// Runs `make`, which makes an instance whose memories, in order, are mappings of `files`.
pub(super) fn with_files<T>(files: &[Arc<MemoryFile>], make: impl FnOnce() -> T) -> T {
    FILES.set(files.iter().cloned().collect());
    let made = make();
    FILES.take();
    made
}

/// Gives the engine mappings of the files of [`with_files`].
#[derive(Debug)]
pub(super) struct Mapper;

// SAFETY: each memory is a fresh mapping that only its owner, the engine, uses: page-aligned, zero or the file's bytes
// up to its size, inaccessible from there to the end of reservation and guard, and never moved.
unsafe impl MemoryCreator for Mapper {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let file = FILES.with_borrow_mut(VecDeque::pop_front).ok_or("a memory that no file was made for")?;
        let capacity = reserved_size_in_bytes.or(maximum).unwrap_or(minimum);
        let mapping = Mapping::new(file, capacity, guard_size_in_bytes, minimum).map_err(|error| error.to_string())?;
        Ok(Box::new(mapping))
    }
}

struct Mapping {
    base: *mut c_void,
    /// All that is mapped: capacity and guard.
    mapped: usize,
    capacity: usize,
    /// What is accessible; the file is at least as long.
    size: usize,
    file: Arc<MemoryFile>,
}

// SAFETY: `base` points to a mapping that this value alone owns, and no method with `&self` touches what it points to.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: Arc<MemoryFile>, capacity: usize, guard: usize, size: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mapped = capacity.checked_add(guard).ok_or_else(too_large)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so nothing else is mapped over; nothing is accessible yet.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), mapped, ProtFlags::empty(), flags, &file.0, 0) }?;
        let mut mapping = Self { base, mapped, capacity, size: 0, file };
        mapping.grow(size)?;
        Ok(mapping)
    }

    fn grow(&mut self, size: usize) -> io::Result<()> {
        if size > self.capacity || size < self.size {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // Beyond the file's end an access would be a SIGBUS: so the file first.
        self.file.extend(size as u64)?;
        if size > 0 {
            // SAFETY: the range is inside the mapping, which this value owns, and page-aligned: the engine asks for
            // multiples of 64 KiB. Making more of it accessible invalidates no reference.
            unsafe { rustix::mm::mprotect(self.base, size, MprotectFlags::READ | MprotectFlags::WRITE) }?;
        }
        self.size = size;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the engine, which drops it, has no instance that uses it any more.
        // Unmapping what was mapped can fail only if the arguments are wrong, and would then leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.base, self.mapped) };
    }
}

// SAFETY: `as_ptr` points to `byte_size` accessible bytes, followed by inaccessible ones up to capacity and guard; growing
// up to the capacity does not move them.
unsafe impl LinearMemory for Mapping {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.grow(new_size).map_err(wasmtime::Error::new)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.base.cast()
    }
}

/// Gives back the private copies of pages in `memory`, which then shows the file's bytes again. `memory` is a memory
/// made by [`Mapper`], or a part of one that begins and ends at page boundaries.
pub(super) fn discard(memory: &mut [u8]) -> io::Result<()> {
    if memory.is_empty() {
        return Ok(());
    }
    if !memory.len().is_multiple_of(rustix::param::page_size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the exclusive reference shows that nobody else looks at the range; any bytes are valid in it; it is whole
    // pages (the kernel refuses a start inside of one), so nothing around it is touched. The advice unmaps nothing: it
    // replaces the contents of a private mapping by those of its file.
    unsafe { rustix::mm::madvise(memory.as_mut_ptr().cast(), memory.len(), Advice::LinuxDontNeed) }?;
    Ok(())
}

const ENTRY_BYTES: usize = 8;
const ENTRIES_AT_ONCE: usize = 4096;
/// `/proc/self/pagemap` (the kernel's admin-guide/mm/pagemap.rst): the page is of a file; it is swapped out; it is there.
const OF_FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// What a machine without [`PageMap`] lacks.
pub(super) const NEEDS: &str = "private mappings of memory files with a page map";

/// The kernel's account of which pages of this process are private copies.
#[derive(Debug)]
pub(super) struct PageMap {
    file: File,
    page_bytes: usize,
}

impl PageMap {
    /// The process's page map, once it has been seen to tell copies from a file's pages: without that, a commit would
    /// lose writes.
    pub(super) fn shared() -> io::Result<&'static Self> {
        static SHARED: OnceLock<io::Result<PageMap>> = OnceLock::new();
        let checked = || {
            let file = File::open("/proc/self/pagemap")?;
            let map = Self { file, page_bytes: rustix::param::page_size() };
            map.check()?;
            Ok(map)
        };
        SHARED.get_or_init(checked).as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn check(&self) -> io::Result<()> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::Unsupported, what));
        if !CHUNK_BYTES.is_multiple_of(self.page_bytes) {
            return wrong("pages are larger than 64 KiB");
        }
        let file = Arc::new(MemoryFile::new()?);
        let mapping = Mapping::new(file, CHUNK_BYTES, 0, CHUNK_BYTES)?;
        // SAFETY: the mapping is accessible, CHUNK_BYTES long, and not used otherwise while this reference lives.
        let memory = unsafe { std::slice::from_raw_parts_mut(mapping.base.cast::<u8>(), CHUNK_BYTES) };
        let last = CHUNK_BYTES - self.page_bytes;
        let zero = std::hint::black_box(memory[0]);
        memory[last] = 1;
        let mut found = Vec::new();
        self.copies(memory, &mut |range| found.push(range))?;
        if found.as_slice() != std::slice::from_ref(&(last..CHUNK_BYTES)) {
            return wrong("/proc/self/pagemap does not show which pages were written");
        }
        discard(memory)?;
        if std::hint::black_box(memory[last]) != zero {
            return wrong("MADV_DONTNEED does not give back what was written");
        }
        Ok(())
    }

    /// Calls `found` with each run of bytes of `memory`, which begins at a page boundary, that are in private copies.
    pub(super) fn copies(&self, memory: &[u8], found: &mut dyn FnMut(Range<usize>)) -> io::Result<()> {
        let first_page = memory.as_ptr().addr() / self.page_bytes;
        let pages = memory.len() / self.page_bytes;
        let mut entries = [0; ENTRIES_AT_ONCE * ENTRY_BYTES];
        let mut run: Option<usize> = None;
        for begin in (0..pages).step_by(ENTRIES_AT_ONCE) {
            let entries = &mut entries[..ENTRY_BYTES * ENTRIES_AT_ONCE.min(pages - begin)];
            self.file.read_exact_at(entries, ((first_page + begin) * ENTRY_BYTES) as u64)?;
            for (at, entry) in entries.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
                let entry = u64::from_ne_bytes(*entry);
                let copied = entry & OF_FILE == 0 && entry & (PRESENT | SWAPPED) != 0;
                let page = begin + at;
                match run {
                    None if copied => run = Some(page),
                    Some(start) if !copied => {
                        found(start * self.page_bytes..page * self.page_bytes);
                        run = None;
                    }
                    _ => {}
                }
            }
        }
        if let Some(start) = run {
            found(start * self.page_bytes..pages * self.page_bytes);
        }
        Ok(())
    }
}
