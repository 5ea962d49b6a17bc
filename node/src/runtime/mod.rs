//! Runs services, and takes them apart and puts them together again for a move.
//!
//! A [`Driver`] turns a module into [`Prepared`] code and that into an [`Instance`], which answers one request at a time.
//! Between requests an instance is *exactly* its state: memories, mutable globals and the last reading of the monotonic
//! clock. That is what is captured as [`StateRecord`]s, hashed, applied to an [`Incoming`] elsewhere, and activated there.
//!
//! Everything here is synchronous and does no I/O but to memory: one blocking thread owns each instance. What a request
//! read of the outside is recorded ([`RecordedInputs`]), so that it can be replayed to the same state, byte for byte.
//!
//! Read next: [`wasm`], the driver for WebAssembly; [`state`], the records and `h(state)`; `limits` for every bound.

pub mod limits;
pub mod state;
pub mod wasm;

mod blocker;
mod error;
mod fault;
mod log;
mod outside;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use wayfare_protocol::ids::Digest;

pub use blocker::Blocker;
pub use error::{ApplyError, CallError, CaptureError, HandOverError, PrepareError, ProbeError, SinkClosed, StartError};
pub use fault::Fault;
pub use limits::Limits;
pub use log::{LogLine, LogStream, LogTail};
pub use outside::{InputsError, Outside, RecordedInputs, SystemOutside};
pub use state::{GlobalValue, RecordError, Salt, StateRecord};

/// Makes instances of one kind of artifact.
pub trait Driver: Send + Sync {
    /// Checks that this machine can run the driver, without loading what only services need.
    ///
    /// # Errors
    /// What the machine lacks.
    fn probe(&self) -> Result<Probe, ProbeError>;

    /// Validates and compiles a module, or takes the code from the cache. Runs none of it. May take seconds.
    ///
    /// # Errors
    /// *All* reasons why the module cannot be a service under `memory_bytes_max`, or why compiling failed.
    fn prepare(&self, module: &[u8], memory_bytes_max: u64) -> Result<Prepared, PrepareError>;

    /// Starts a new service: runs `_initialize`, which happens once in a service's life. Returns what that read of the
    /// outside, or replays it if `recorded` is given.
    ///
    /// # Errors
    /// Nothing is left of the instance.
    fn start(
        &self,
        prepared: &Prepared,
        launch: Launch,
        recorded: Option<&RecordedInputs>,
    ) -> Result<(Box<dyn Instance>, RecordedInputs), StartError>;

    /// Opens an instance to be filled with state that comes from elsewhere. Runs none of its code. The salt is that of
    /// the coming [`Incoming::digest`].
    ///
    /// # Errors
    /// Nothing is left of the instance.
    fn receive(&self, prepared: &Prepared, launch: Launch, salt: Salt) -> Result<Box<dyn Incoming>, StartError>;
}

/// A running service. One owner calls it, one request at a time.
pub trait Instance: Send {
    /// Answers one HTTP/1.1 request. Whatever the service does, the outcome has a response; if it failed, its state is as
    /// before the request.
    ///
    /// # Errors
    /// [`CallError`]: the host must not answer from this instance.
    fn call(&mut self, request: &[u8]) -> Result<CallOutcome, CallError>;

    /// Runs a request again with what it read then, to the same state and response.
    ///
    /// # Errors
    /// [`CallError::Diverged`] if it does not lead to the same; the state is then as before the request.
    fn replay(&mut self, request: &[u8], recorded: &RecordedInputs) -> Result<CallOutcome, CallError>;

    /// Begins a capture, from now on all pages count as unsent. Calls go on; each page that one changes is unsent again.
    ///
    /// # Errors
    /// Nothing changed, but for an earlier capture, which ends.
    fn arm(&mut self, salt: Salt) -> Result<(), CaptureError>;

    /// Sends up to `pages_max` unsent pages while the service goes on (pre-copy). Blocks as long as `sink` does, so ask for
    /// few at a time between calls.
    ///
    /// # Errors
    /// What was not sent stays unsent.
    fn round(&mut self, pages_max: usize, sink: &mut dyn Sink) -> Result<RoundStats, CaptureError>;

    /// Freezes the service: no call until [`abort`](Self::abort).
    ///
    /// # Errors
    /// All reasons why it cannot be captured; it is then not frozen.
    fn quiesce(&mut self) -> Result<Quiesced, Vec<Blocker>>;

    /// Sends all that is still unsent, and hashes the state. May be repeated, and sends everything again after `arm`.
    ///
    /// # Errors
    /// The service stays frozen.
    fn finish(&mut self, quiesced: &Quiesced, sink: &mut dyn Sink) -> Result<FinalState, CaptureError>;

    /// Ends a freeze: the service goes on as if nothing had happened.
    fn abort(&mut self, quiesced: Quiesced);

    /// Sends the whole state, for a checkpoint: independent of any capture under way, and changes nothing.
    ///
    /// # Errors
    /// Nothing changed.
    fn save(&self, salt: Salt, sink: &mut dyn Sink) -> Result<FinalState, CaptureError>;

    /// Has the service write its state out for another version of its code. Its own state is afterwards as before.
    ///
    /// # Errors
    /// Why there is nothing to take; but for [`HandOverError::Lost`] the service goes on.
    fn hand_over(&mut self) -> Result<Vec<u8>, HandOverError>;

    /// Has a service that was just started take what another version of its code wrote.
    ///
    /// # Errors
    /// Why it does not; its state is then as before.
    fn take_over(&mut self, state: &[u8]) -> Result<(), HandOverError>;

    /// What the service takes of this machine now.
    fn usage(&self) -> Usage;
}

/// State that is arriving for an instance that does not run yet.
pub trait Incoming: Send {
    /// Takes one record. A repetition is harmless, and so is a page that one of a later round has replaced already.
    ///
    /// # Errors
    /// [`ApplyError`]: the sender is wrong, or this machine failed. The record had no effect.
    fn apply(&mut self, kind: u8, payload: &[u8]) -> Result<(), ApplyError>;

    /// `h(state)` of what has arrived.
    ///
    /// # Errors
    /// If layout or globals are missing.
    fn digest(&self) -> Result<Digest, ApplyError>;

    /// Sends what has arrived to `sink`, each page once: the first checkpoint of the new host.
    ///
    /// # Errors
    /// Nothing changed.
    fn save(&self, sink: &mut dyn Sink) -> Result<FinalState, CaptureError>;

    /// Makes it run, if it is the state with `expected` as digest. `_initialize` is not called: the service goes on.
    ///
    /// # Errors
    /// Nothing is left of the state.
    fn activate(self: Box<Self>, expected: Digest) -> Result<Box<dyn Instance>, StartError>;
}

/// Takes records of state: kind and payload, at most [`state::PAYLOAD_BYTES_MAX`] bytes, valid during the call only.
pub trait Sink {
    /// Takes one record. May block.
    ///
    /// # Errors
    /// Ends the sending.
    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), SinkClosed>;
}

impl<F: FnMut(u8, &[u8]) -> Result<(), SinkClosed>> Sink for F {
    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), SinkClosed> {
        self(kind, payload)
    }
}

/// What a driver found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The driver's name.
    pub driver: &'static str,
    /// The engine and its version.
    pub engine: &'static str,
}

/// What an instance is given at its start, here or after a move: the same on every host, but for `outside` and `log`.
#[derive(Clone)]
pub struct Launch {
    /// What it may use.
    pub limits: Limits,
    /// Arguments, the first of which is the program's name.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Clocks and randomness.
    pub outside: Arc<dyn Outside>,
    /// Where its stdout and stderr go.
    pub log: LogTail,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            args: Vec::new(),
            env: Vec::new(),
            outside: Arc::new(SystemOutside::default()),
            log: LogTail::default(),
        }
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Environment variables often hold secrets: names only.
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Launch").field("limits", &self.limits).field("args", &self.args).field("env", &names).finish()
    }
}

/// Validated and compiled code. Clones share it.
#[derive(Clone)]
pub struct Prepared {
    digest: Digest,
    code: Arc<dyn Any + Send + Sync>,
}

impl Prepared {
    /// BLAKE3 of the module.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(&self.digest).finish()
    }
}

/// The answer to one request, and what must be logged with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutcome {
    /// An HTTP/1.1 response, from the service or, if it failed, from the runtime.
    pub response: Vec<u8>,
    /// What the request read of the outside, to be synced before the response leaves.
    pub inputs: RecordedInputs,
    /// Why the state is as before the request, if the service failed. The same as [`RecordedInputs::cut`].
    pub rolled_back: Option<Fault>,
}

/// One pass over the unsent pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundStats {
    /// Pages sent.
    pub pages_sent: u64,
    /// Bytes of payload sent.
    pub bytes_sent: u64,
    /// Pages that are still, or again, unsent.
    pub pages_left: u64,
}

/// A frozen service: proof that [`Instance::quiesce`] succeeded.
#[derive(Debug)]
#[must_use = "the service stays frozen until this is given to `abort`"]
pub struct Quiesced(());

/// All of the state was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalState {
    /// `h(state)`.
    pub digest: Digest,
    /// What this last pass sent.
    pub stats: RoundStats,
}

/// What an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its linear memories, used or not.
    pub memory_bytes: u64,
}
