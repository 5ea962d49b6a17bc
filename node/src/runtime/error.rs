//! What can go wrong, an enum for each operation. The operations say what is left afterwards.

use std::io;

use wayfare_protocol::ids::Digest;

use super::{Blocker, Fault, RecordError};

/// Nobody takes the records any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the records of state any more")]
pub struct SinkClosed;

/// Why a machine cannot run a driver.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel lacks something.
    #[error("this machine cannot run WebAssembly services: {what} (Linux with /proc is needed)")]
    Missing {
        /// What.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// The engine does not start.
    #[error("the WebAssembly engine does not start: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
}

/// Why a module was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The module cannot be a service.
    #[error("the module cannot be a service: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Blocked(Vec<Blocker>),
    /// The machine cannot run any.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The compiler failed.
    #[error("compiling the module failed: {reason}")]
    Compile {
        /// Why.
        reason: String,
    },
}

/// Why an instance does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Code of another driver.
    #[error("the code was prepared by another driver")]
    ForeignCode,
    /// The module's first memory is above the limit of this launch.
    #[error("the module starts with {bytes} bytes of memory and may use {bytes_max}")]
    MemoryTooLarge {
        /// What it starts with.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// `_initialize` failed.
    #[error("`_initialize` failed: {0}")]
    Initialize(Fault),
    /// `_initialize` did not lead to the same as when it was recorded.
    #[error("`_initialize` did not repeat what was recorded: {0}")]
    Diverged(String),
    /// The engine failed.
    #[error("the engine did not make the instance: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
    /// This machine failed.
    #[error("the instance's memory could not be set up")]
    Memory(#[source] io::Error),
    /// The state that arrived is not the one to be activated.
    #[error("the state that arrived has digest {found:#}, and not {expected:#}")]
    WrongState {
        /// Of what arrived.
        found: Digest,
        /// Of what was to be activated.
        expected: Digest,
    },
    /// The state that arrived is not complete.
    #[error(transparent)]
    Incomplete(ApplyError),
}

/// Why a request got no outcome. The host must not answer it from this instance.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Frozen: hold the request, or send it to where the service goes.
    #[error("the service is frozen for a move")]
    Frozen,
    /// A replayed request did not repeat itself: the log does not belong to this state or code.
    #[error("the request did not repeat what was recorded: {0}")]
    Diverged(String),
    /// This machine failed while it kept or restored the state: build the instance again from image and log.
    #[error("the instance is lost: build it again from its last image and log ({0})")]
    Lost(String),
}

/// Why a state did not go from one version of a service's code to another.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The old version has no `wayfare_save`.
    #[error("no_state_export: the version that runs exports no `wayfare_save`, so its state cannot be kept")]
    NoSave,
    /// The old version could not save.
    #[error("state_not_saved: `wayfare_save` of the version that runs answered 0")]
    NotSaved,
    /// The new version has no `wayfare_load`.
    #[error("no_state_import: the new version exports no `wayfare_load`, so it cannot take the state")]
    NoLoad,
    /// The new version does not want it.
    #[error("state_refused: `wayfare_load` of the new version answered {code}")]
    Refused {
        /// What it answered.
        code: u32,
    },
    /// Either failed.
    #[error("state_failed: {0}")]
    Failed(Fault),
    /// This machine failed: build the instance again.
    #[error(transparent)]
    Lost(CallError),
}

/// Why a capture did not go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// [`Instance::arm`] comes first.
    #[error("no capture was begun")]
    NotArmed,
    /// The receiver of records is gone.
    #[error(transparent)]
    Closed(#[from] SinkClosed),
    /// A request ended in [`CallError::Lost`]: there is no state to capture.
    #[error("the instance is lost: build it again from its last image and log")]
    Lost,
    /// This machine failed to read the state.
    #[error("the state could not be read")]
    Read(#[from] io::Error),
    /// What arrived is not complete, so it cannot be saved.
    #[error(transparent)]
    Incomplete(ApplyError),
}

/// Why a record was not applied.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant is its documentation")]
pub enum ApplyError {
    #[error(transparent)]
    Malformed(#[from] RecordError),
    #[error("a page or globals before the layout")]
    NoLayout,
    #[error("a layout of {found} memories for a module with {expected}")]
    MemoryCount { found: usize, expected: usize },
    #[error("memory {memory} of {pages} pages: the module or an earlier layout allows {min} to {max}")]
    MemorySize { memory: usize, pages: u64, min: u64, max: u64 },
    #[error("memories of {bytes} bytes where the manifest allows {bytes_max}")]
    MemoryTooLarge { bytes: u64, bytes_max: u64 },
    #[error("page {index} of memory {memory} is outside of it")]
    OutOfRange { memory: u32, index: u64 },
    #[error("page {index} of memory {memory} twice in one round, with different contents")]
    PageConflict { memory: u32, index: u64 },
    #[error("globals that are not the module's: it has {expected} mutable ones, of given types")]
    GlobalMismatch { expected: usize },
    #[error("globals twice, with different contents")]
    GlobalConflict,
    #[error("no globals have arrived")]
    NoGlobals,
    #[error("the state could not be written")]
    Write(#[source] io::Error),
}
