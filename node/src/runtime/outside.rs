//! What a service sees of the outside: clocks and randomness. Each value that it reads is recorded, so that the same
//! request can be run again and lead to the same state (PROTOCOL 5).

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wayfare_protocol::wire::{self, Wire};

use super::Fault;
use super::limits::{CLOCK_READS_MAX, INPUTS_BYTES_MAX};

/// Where an instance's clocks and seeds come from. A test gives fixed ones.
pub trait Outside: Send + Sync {
    /// Nanoseconds since the Unix epoch.
    fn realtime_ns(&self) -> u64;
    /// Nanoseconds of a clock that never goes back, from any start. What the service sees is shifted so that it never
    /// goes back over a move either.
    fn monotonic_ns(&self) -> u64;
    /// 32 random bytes that nobody else can guess, or `None` if the system has none to give.
    fn seed(&self) -> Option<[u8; 32]>;
}

/// The machine's own clocks and randomness.
#[derive(Debug)]
pub struct SystemOutside {
    origin: Instant,
}

impl Default for SystemOutside {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Outside for SystemOutside {
    fn realtime_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| saturate(elapsed.as_nanos()))
    }

    fn monotonic_ns(&self) -> u64 {
        saturate(self.origin.elapsed().as_nanos())
    }

    fn seed(&self) -> Option<[u8; 32]> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).ok().map(|()| seed)
    }
}

fn saturate(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Everything that one request read of the outside, in order: with the request itself, all that replay needs.
///
/// Random bytes are not kept: one seed is drawn for a request that asks for any, and its bytes are BLAKE3's output for
/// that seed. The seed is as secret as what the service made of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedInputs {
    pub(crate) clock_ns: Vec<u64>,
    pub(crate) seed: Option<[u8; 32]>,
    pub(crate) cut: Option<Fault>,
}

/// The version of encoded inputs, in front of them.
const INPUTS_VERSION: u8 = 1;

/// Bytes that are no record of what a request read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputsError {
    /// Of a later program.
    #[error("inputs of version {found}, this program reads {INPUTS_VERSION}: run the version that wrote them")]
    Version {
        /// Theirs.
        found: u8,
    },
    /// Of none.
    #[error("what a request read was written down wrongly, or damaged")]
    Malformed,
}

impl Wire for RecordedInputs {
    const LIMIT: usize = INPUTS_BYTES_MAX;
}

impl RecordedInputs {
    /// For the log: no bytes if nothing was read, as for most requests.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut bytes = vec![INPUTS_VERSION];
        bytes.append(&mut wire::encode(self));
        bytes
    }

    /// Reads them back.
    ///
    /// # Errors
    /// Any other bytes than [`to_bytes`](Self::to_bytes) makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InputsError> {
        match bytes {
            [] => Ok(Self::default()),
            [INPUTS_VERSION, body @ ..] => match wire::decode(body) {
                Ok(Self { cut: None, seed: None, clock_ns }) if clock_ns.is_empty() => Err(InputsError::Malformed),
                Ok(inputs) if inputs.clock_ns.len() <= CLOCK_READS_MAX => Ok(inputs),
                Ok(_) | Err(_) => Err(InputsError::Malformed),
            },
            [found, ..] => Err(InputsError::Version { found: *found }),
        }
    }

    /// Why the request was rolled back, if it was: replay then leaves the state alone, whatever the reason was.
    pub fn cut(&self) -> Option<&Fault> {
        self.cut.as_ref()
    }

    /// Whether there is nothing to keep but the request.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for RecordedInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedInputs")
            .field("clock_reads", &self.clock_ns.len())
            .field("seeded", &self.seed.is_some())
            .field("cut", &self.cut)
            .finish()
    }
}

/// Why a read of the outside ends the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TapeError {
    #[error("more clock reads in one request than {CLOCK_READS_MAX}")]
    TooManyReads,
    #[error("the system gave no randomness")]
    NoRandomness,
    #[error("the request read more of the outside than was recorded")]
    PastTheEnd,
}

/// Gives a request its view of the outside and records it, or plays a record back.
pub(crate) struct Tape {
    /// The last monotonic reading: state, so captured and rolled back with it.
    monotonic_ns: u64,
    /// A host reading and the service's reading at the same moment; the difference is kept for the instance's life.
    anchor: Option<(u64, u64)>,
    recorded: RecordedInputs,
    /// While replaying: how many clock values have been read.
    replayed: Option<usize>,
    random: Option<blake3::OutputReader>,
}

impl Tape {
    pub(crate) fn new(monotonic_ns: u64) -> Self {
        Self { monotonic_ns, anchor: None, recorded: RecordedInputs::default(), replayed: None, random: None }
    }

    /// A tape whose last reading is `monotonic_ns`, and whose clock goes on as this one's.
    pub(crate) fn resumed(&self, monotonic_ns: u64) -> Self {
        Self { anchor: self.anchor, ..Self::new(monotonic_ns) }
    }

    /// Begins a request: live, or played back.
    pub(crate) fn begin(&mut self, recorded: Option<&RecordedInputs>) {
        self.replayed = recorded.map(|_| 0);
        self.recorded = recorded.cloned().unwrap_or_default();
        self.random = None;
    }

    /// Ends a request: what it read, or `None` if it did not read all that was recorded.
    pub(crate) fn end(&mut self) -> Option<RecordedInputs> {
        let played = self.replayed.take().is_none_or(|read| read == self.recorded.clock_ns.len());
        let seeded = self.recorded.seed.is_some() == self.random.take().is_some();
        let recorded = std::mem::take(&mut self.recorded);
        (played && seeded).then_some(recorded)
    }

    pub(crate) fn monotonic_last_ns(&self) -> u64 {
        self.monotonic_ns
    }

    pub(crate) fn realtime(&mut self, outside: &dyn Outside) -> Result<u64, TapeError> {
        self.clock(|_| outside.realtime_ns())
    }

    pub(crate) fn monotonic(&mut self, outside: &dyn Outside) -> Result<u64, TapeError> {
        let reading = self.clock(|tape| {
            let host = outside.monotonic_ns();
            let (host_then, service_then) = *tape.anchor.get_or_insert((host, tape.monotonic_ns));
            service_then.saturating_add(host.saturating_sub(host_then)).max(tape.monotonic_ns)
        })?;
        self.monotonic_ns = reading;
        Ok(reading)
    }

    fn clock(&mut self, live: impl FnOnce(&mut Self) -> u64) -> Result<u64, TapeError> {
        if let Some(read) = self.replayed.as_mut() {
            let value = self.recorded.clock_ns.get(*read).copied().ok_or(TapeError::PastTheEnd)?;
            *read += 1;
            return Ok(value);
        }
        if self.recorded.clock_ns.len() >= CLOCK_READS_MAX {
            return Err(TapeError::TooManyReads);
        }
        let value = live(self);
        self.recorded.clock_ns.push(value);
        Ok(value)
    }

    pub(crate) fn random(&mut self, outside: &dyn Outside, out: &mut [u8]) -> Result<(), TapeError> {
        if self.random.is_none() {
            let seed = match (self.recorded.seed, self.replayed) {
                (Some(seed), _) => seed,
                (None, Some(_)) => return Err(TapeError::PastTheEnd),
                (None, None) => outside.seed().ok_or(TapeError::NoRandomness)?,
            };
            self.recorded.seed = Some(seed);
            let mut hasher = blake3::Hasher::new_derive_key("wayfare 2026 service randomness of one request");
            hasher.update(&seed);
            self.random = Some(hasher.finalize_xof());
        }
        if let Some(random) = self.random.as_mut() {
            random.fill(out);
        }
        Ok(())
    }
}
