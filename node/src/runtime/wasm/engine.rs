//! The process's one engine, and the thread that makes time pass for it while calls run.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel, WasmFeatures};

use super::memory::{Mapper, NEEDS, PageMap};
use crate::runtime::ProbeError;

/// How often the engine looks whether a call has run too long. Interrupting by epochs costs the running code one load
/// and compare a loop; counting fuel would cost two to three times as much. Its drawback, that the same request may be
/// cut here and not there, is harmless: a cut request is logged as cut, and replay does not run it.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// The WebAssembly proposals that services may use: those that leave an instance's state in memories and globals.
pub(super) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::EXTENDED_CONST);

/// The engine, made at first use: a node without services does without it.
pub(super) fn engine() -> Result<&'static Engine, ProbeError> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    // The page map first: without it no instance can be rolled back.
    PageMap::shared().map_err(|source| ProbeError::Missing { what: NEEDS, source })?;
    let made = ENGINE.get_or_init(|| Engine::new(&config()).map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|reason| ProbeError::Engine { reason: reason.clone() })
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(FEATURES, true)
        // Replay needs the same results on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        // Memories are ours; the engine's own images of initial data would be a second copy.
        .with_host_memory(Arc::new(Mapper))
        .memory_init_cow(false);
    config
}

struct Clock {
    /// Calls that run now, and whether the thread is asleep until one does.
    state: Mutex<(usize, bool)>,
    wake: Condvar,
    started: OnceLock<Result<(), String>>,
}

static CLOCK: Clock = Clock { state: Mutex::new((0, false)), wake: Condvar::new(), started: OnceLock::new() };

/// While it lives, the engine's epoch rises each [`EPOCH_TICK`].
pub(super) struct Running(());

impl Running {
    pub(super) fn begin() -> Result<Self, String> {
        let started = CLOCK.started.get_or_init(|| {
            let thread = thread::Builder::new().name("wayfare-epoch".into()).stack_size(64 * 1024);
            thread.spawn(tick).map(|_| ()).map_err(|error| format!("no thread for the time limit: {error}"))
        });
        started.clone()?;
        let mut state = CLOCK.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if state.1 {
            CLOCK.wake.notify_one();
        }
        Ok(Self(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        CLOCK.state.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }
}

/// Lives as long as the process; sleeps, without waking up, while no call runs.
fn tick() {
    let Ok(engine) = engine() else { return };
    loop {
        let mut state = CLOCK.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 == 0 {
            state.1 = true;
            state = CLOCK.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 = false;
        drop(state);
        thread::sleep(EPOCH_TICK);
        engine.increment_epoch();
    }
}
