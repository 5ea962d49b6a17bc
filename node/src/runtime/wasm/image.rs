//! A service's committed state, and its passage into records and out of them.

use std::io;
use std::sync::Arc;

use wayfare_protocol::ids::Digest;

use super::memory::MemoryFile;
use crate::runtime::limits::CHUNK_BYTES;
use crate::runtime::state::{PageHash, page_hash, state_digest, trimmed};
use crate::runtime::{CaptureError, FinalState, GlobalValue, RoundStats, Salt, Sink, StateRecord};

/// The state as the last finished request left it: everything that a move carries.
pub(super) struct Image {
    /// Digest of the module.
    pub(super) code: Digest,
    /// The bytes of each memory, and its size in pages.
    pub(super) memories: Vec<(Arc<MemoryFile>, u64)>,
    pub(super) globals: Vec<GlobalValue>,
    pub(super) monotonic_ns: u64,
}

impl Image {
    /// Empty memories and the given globals.
    pub(super) fn new(code: Digest, memories: usize, globals: Vec<GlobalValue>) -> io::Result<Self> {
        let memories = (0..memories).map(|_| Ok((Arc::new(MemoryFile::new()?), 0))).collect::<io::Result<_>>()?;
        Ok(Self { code, memories, globals, monotonic_ns: 0 })
    }

    pub(super) fn files(&self) -> Vec<Arc<MemoryFile>> {
        self.memories.iter().map(|(file, _)| Arc::clone(file)).collect()
    }

    pub(super) fn layout(&self) -> Vec<u64> {
        self.memories.iter().map(|(_, pages)| *pages).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.memories.iter().map(|(_, pages)| pages * CHUNK_BYTES as u64).sum()
    }

    /// Sends the whole state.
    pub(super) fn save(&self, salt: Salt, sink: &mut dyn Sink) -> Result<FinalState, CaptureError> {
        Capture::new(self, salt, 0)?.finish(self, sink)
    }

    /// `h(state)`, given the hash of each page; pages beyond the given ones are zero.
    pub(super) fn digest(&self, salt: &Salt, hashes: Vec<Vec<PageHash>>) -> Digest {
        let memories: Vec<_> = self.layout().into_iter().zip(hashes).collect();
        state_digest(salt, &self.code, &memories, &self.globals, self.monotonic_ns)
    }
}

/// What the receiver has of one page.
#[derive(Clone, Copy, Default)]
struct Page {
    /// Its contents may differ from what the receiver has.
    unsent: bool,
    /// What the receiver has; zero pages that were never sent need no record.
    hash: PageHash,
}

/// One capture of an image that goes on changing: which pages are still to be sent, and the hashes of those that were.
pub(super) struct Capture {
    salt: Salt,
    /// By memory and page; shorter than the memory if the rest is zero and was never written.
    pages: Vec<Vec<Page>>,
    layout_sent: Option<Vec<u64>>,
    round: u32,
    /// Where the next round begins, so that pages that change all the time do not hold up the others.
    next: (usize, usize),
}

impl Capture {
    /// All of `image` is unsent; its rounds go on from number `round`.
    pub(super) fn new(image: &Image, salt: Salt, round: u32) -> io::Result<Self> {
        let mut pages = Vec::new();
        for (file, _) in &image.memories {
            let mut unsent = Vec::new();
            let mut at = 0;
            while let Some(run) = file.next_data(at)? {
                unsent.resize(index(run.start), Page::default());
                unsent.resize(index(run.end), Page { unsent: true, hash: None });
                at = run.end;
            }
            pages.push(unsent);
        }
        Ok(Self { salt, pages, layout_sent: None, round, next: (0, 0) })
    }

    /// The number of the last round.
    pub(super) fn rounds(&self) -> u32 {
        self.round
    }

    /// The page has been written to.
    pub(super) fn touched(&mut self, memory: usize, page: usize) {
        let Some(pages) = self.pages.get_mut(memory) else { return };
        if pages.len() <= page {
            pages.resize(page + 1, Page::default());
        }
        pages[page].unsent = true;
    }

    /// Sends up to `pages_max` pages, each at most once.
    pub(super) fn round(
        &mut self,
        image: &Image,
        pages_max: usize,
        sink: &mut dyn Sink,
    ) -> Result<RoundStats, CaptureError> {
        let mut stats = RoundStats::default();
        let mut payload = Vec::new();
        let mut send = |record: &StateRecord<'_>, stats: &mut RoundStats| {
            payload.clear();
            record.encode(&mut payload);
            stats.bytes_sent += payload.len() as u64;
            sink.record(record.kind(), &payload)
        };
        let layout = image.layout();
        if self.layout_sent.as_ref() != Some(&layout) {
            send(&StateRecord::Layout { pages: layout.clone() }, &mut stats)?;
            self.layout_sent = Some(layout);
        }
        self.round += 1;
        let mut chunk = Box::new([0; CHUNK_BYTES]);
        let mut left = pages_max;
        while left > 0
            && let Some((memory, page)) = self.next_unsent()
        {
            image.memories[memory].0.read_chunk(page as u64, &mut chunk)?;
            let bytes = trimmed(chunk.as_slice());
            let hash = page_hash(&self.salt, bytes);
            let slot = &mut self.pages[memory][page];
            // What has not changed after all, or is zero as at the beginning, costs no record and no budget.
            if hash != slot.hash {
                let (memory, index) = (memory as u32, page as u64);
                send(&StateRecord::Page { round: self.round, memory, index, bytes: bytes.into() }, &mut stats)?;
                stats.pages_sent += 1;
                left -= 1;
            }
            *slot = Page { unsent: false, hash };
        }
        stats.pages_left = self.pages.iter().flatten().filter(|page| page.unsent).count() as u64;
        Ok(stats)
    }

    /// Sends all that is unsent, and the globals.
    pub(super) fn finish(&mut self, image: &Image, sink: &mut dyn Sink) -> Result<FinalState, CaptureError> {
        let mut stats = self.round(image, usize::MAX, sink)?;
        let globals = StateRecord::Globals { values: image.globals.clone(), monotonic_ns: image.monotonic_ns };
        let mut payload = Vec::new();
        globals.encode(&mut payload);
        sink.record(globals.kind(), &payload)?;
        stats.bytes_sent += payload.len() as u64;
        let hashes = self.pages.iter().map(|pages| pages.iter().map(|page| page.hash).collect()).collect();
        Ok(FinalState { digest: image.digest(&self.salt, hashes), stats })
    }

    /// The first unsent page from where the last one was, going round once.
    fn next_unsent(&mut self) -> Option<(usize, usize)> {
        let (memory, page) = self.next;
        let memories = self.pages.len();
        for step in 0..=memories {
            let at = (memory + step) % memories.max(1);
            let from = if step == 0 { page } else { 0 };
            let rest = self.pages.get(at)?.get(from..).unwrap_or_default();
            if let Some(found) = rest.iter().position(|page| page.unsent) {
                self.next = (at, from + found + 1);
                return Some((at, from + found));
            }
        }
        None
    }
}

/// Pages are fewer than 2^16 in a 32-bit memory, which Linux's `usize` always holds.
fn index(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX)
}
