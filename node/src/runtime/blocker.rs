//! Why a module cannot be a service: each reason has a name, and says what to do.

use super::limits::{GLOBALS_MAX, MEMORIES_MAX, MODULE_BYTES_MAX, TABLE_ELEMENTS_MAX};

/// One thing that stops a module from being run, or a running service from being captured. Refused by name at prepare:
/// nothing is dropped silently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant is its documentation")]
pub enum Blocker {
    #[error("not WebAssembly: the file does not start with \\0asm; deploy a .wasm module")]
    NotWebAssembly,
    #[error("a WebAssembly component: deploy a core module (a WASI preview 1 reactor) instead")]
    Component,
    #[error("a module of {bytes} bytes: at most {MODULE_BYTES_MAX} are taken; strip it of debug information")]
    ModuleTooLarge { bytes: usize },
    #[error("not a valid module: {reason}; build it again")]
    Invalid { reason: String },
    #[error("an instruction or type that is not supported: {reason}; build without that WebAssembly proposal")]
    UnsupportedFeature { reason: String },
    #[error("no export `{name}` ({expected}): export it, see tests/guests/README.md")]
    MissingExport { name: &'static str, expected: &'static str },
    #[error("the export `{name}` is not {expected}: give it that type, see tests/guests/README.md")]
    WrongExport { name: &'static str, expected: &'static str },
    #[error("the export `{name}` uses a reserved prefix: rename it")]
    ReservedName { name: String },
    #[error(
        "the import `{module}.{name}` is not offered: avoid what needs it; offered are clocks, random, arguments, \
             environment, stdout and stderr of wasi_snapshot_preview1"
    )]
    Import { module: String, name: String },
    #[error(
        "the import `{module}.{name}` has another type than WASI preview 1 gives it: build with a current WASI SDK"
    )]
    ImportType { module: String, name: String },
    #[error("the memory `{module}.{name}` is imported: define it in the module (no --import-memory)")]
    ImportedMemory { module: String, name: String },
    #[error("the {kind} `{module}.{name}` is imported: define it in the module (link statically)")]
    ImportedState { kind: &'static str, module: String, name: String },
    #[error("a start function: it would run again after each move; initialise in `_initialize` (a reactor) instead")]
    StartFunction,
    #[error("`{instruction}` changes a table, which cannot be captured: avoid dynamic linking and growing tables")]
    TableMutation { instruction: &'static str },
    #[error("`{instruction}` drops a segment, which cannot be captured: build without passive segments (no threads)")]
    SegmentDrop { instruction: &'static str },
    #[error("the mutable global {index} holds a reference, which cannot be captured: keep references in tables")]
    ReferenceGlobal { index: u32 },
    #[error("threads (a shared memory or atomic instructions): build for one thread")]
    Threads,
    #[error("memory {index} is 64-bit: build for wasm32")]
    Memory64 { index: u32 },
    #[error("memory {index} has pages of another size than 64 KiB: build without custom page sizes")]
    PageSize { index: u32 },
    #[error(
        "the memories start with {bytes} bytes and the manifest allows {bytes_max}: raise its memory or lower theirs"
    )]
    MemoryTooLarge { bytes: u64, bytes_max: u64 },
    #[error("{count} memories: at most {MEMORIES_MAX} are taken")]
    TooManyMemories { count: usize },
    #[error("{count} mutable globals: at most {GLOBALS_MAX} are taken")]
    TooManyGlobals { count: usize },
    #[error("table {index} starts with {elements} elements: at most {TABLE_ELEMENTS_MAX} are taken")]
    TableTooLarge { index: u32, elements: u64 },
}
