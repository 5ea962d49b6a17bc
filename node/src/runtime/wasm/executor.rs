//! The engine's instance that works on an image: made over it, run one request at a time, its writes committed to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Global, Memory, ResourceLimiter, Store, Trap, TypedFunc, Val};

use super::analyse::{LOAD, SAVE, Shape};
use super::code::Code;
use super::engine::{EPOCH_TICK, Running};
use super::image::{Capture, Image};
use super::memory::{PageMap, discard, with_files};
use super::wasi::HostTrap;
use crate::runtime::limits::{CHUNK_BYTES, TRAP_TEXT_BYTES_MAX};
use crate::runtime::outside::{Outside, Tape, TapeError};
use crate::runtime::{
    Fault, GlobalValue, HandOverError, Launch, Limits, LogStream, LogTail, RecordedInputs, StartError,
};

/// What host functions and the engine's limiter work on.
pub(super) struct Context {
    pub(super) tape: Tape,
    pub(super) outside: Arc<dyn Outside>,
    /// NUL-terminated.
    pub(super) args: Arc<[Vec<u8>]>,
    /// `name=value`, NUL-terminated.
    pub(super) env: Arc<[Vec<u8>]>,
    log: LogTail,
    /// What a replayed request writes has been written before.
    silent: bool,
    memory_bytes: u64,
    memory_bytes_max: u64,
    /// The running request was refused memory.
    refused: bool,
}

impl Context {
    /// For an instance whose last monotonic reading is `monotonic_ns`.
    pub(super) fn new(launch: Launch, monotonic_ns: u64) -> Self {
        let ended = |text: &str| [text.as_bytes(), &[0]].concat();
        Self {
            tape: Tape::new(monotonic_ns),
            outside: launch.outside,
            args: launch.args.iter().map(|arg| ended(arg)).collect(),
            env: launch.env.iter().map(|(name, value)| ended(&format!("{name}={value}"))).collect(),
            log: launch.log,
            silent: false,
            memory_bytes: 0,
            memory_bytes_max: launch.limits.memory_bytes_max,
            refused: false,
        }
    }

    /// For an instance that takes the place of this context's, which has failed.
    fn resumed(mut self, monotonic_ns: u64) -> Self {
        self.tape = self.tape.resumed(monotonic_ns);
        (self.memory_bytes, self.refused, self.silent) = (0, false, false);
        self
    }

    pub(super) fn log(&self, stream: LogStream, bytes: &[u8]) {
        if !self.silent {
            self.log.write(stream, self.outside.realtime_ns(), bytes);
        }
    }
}

impl ResourceLimiter for Context {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = self.memory_bytes.saturating_add((desired - current) as u64);
        if bytes > self.memory_bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            self.refused = true;
            return Ok(false);
        }
        self.memory_bytes = bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        // That *this* host has no more memory must not become part of the state: the request ends here.
        if error.is::<io::Error>() { Err(error) } else { Ok(()) }
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Only at the start: prepare has checked the size, and that nothing grows a table later.
        Ok(true)
    }
}

/// The engine's instance. Made again whenever a request has failed.
pub(super) struct Executor {
    store: Store<Context>,
    memories: Vec<Memory>,
    globals: Vec<Global>,
    buffer: TypedFunc<u32, u32>,
    handle: TypedFunc<u32, u64>,
    initialize: Option<TypedFunc<(), ()>>,
    save: Option<TypedFunc<(), u64>>,
    load: Option<TypedFunc<u32, u32>>,
}

impl Executor {
    /// Makes an instance over the image's files. What the module itself puts into memories and globals is there as after
    /// any instantiation.
    pub(super) fn new(code: &Code, image: &Image, context: Context) -> Result<Self, StartError> {
        let engine_error = |error: wasmtime::Error| StartError::Engine { reason: format!("{error:#}") };
        let missing = |what: &str| StartError::Engine { reason: format!("no export {what}") };
        let mut store = Store::new(code.pre.module().engine(), context);
        store.limiter(|context| context);
        // Start functions are blockers, so what instantiating runs is the engine's copying of data: it ends by itself.
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = with_files(&image.files(), || code.pre.instantiate(&mut store)).map_err(engine_error)?;
        let mut memories = Vec::new();
        for index in 0..code.shape.memories.len() {
            let name = Shape::memory_name(index);
            memories.push(instance.get_memory(&mut store, &name).ok_or_else(|| missing(&name))?);
        }
        let mut globals = Vec::new();
        for (index, _) in &code.shape.globals {
            let name = Shape::global_name(*index);
            globals.push(instance.get_global(&mut store, &name).ok_or_else(|| missing(&name))?);
        }
        let buffer = instance.get_typed_func(&mut store, "wayfare_buffer").map_err(engine_error)?;
        let handle = instance.get_typed_func(&mut store, "wayfare_handle").map_err(engine_error)?;
        let initialize = match instance.get_func(&mut store, "_initialize") {
            Some(function) => Some(function.typed(&store).map_err(engine_error)?),
            None => None,
        };
        let save = match instance.get_func(&mut store, SAVE) {
            Some(function) => Some(function.typed(&store).map_err(engine_error)?),
            None => None,
        };
        let load = match instance.get_func(&mut store, LOAD) {
            Some(function) => Some(function.typed(&store).map_err(engine_error)?),
            None => None,
        };
        Ok(Self { store, memories, globals, buffer, handle, initialize, save, load })
    }

    /// Makes an instance that *is* the image: sizes, bytes and globals.
    pub(super) fn over(code: &Code, image: &Image, context: Context) -> Result<Self, StartError> {
        let mut executor = Self::new(code, image, context)?;
        let store = &mut executor.store;
        let engine_error = |error: wasmtime::Error| StartError::Engine { reason: format!("{error:#}") };
        for (memory, (_, pages)) in executor.memories.iter().zip(&image.memories) {
            let more = pages.saturating_sub(memory.size(&*store));
            memory.grow(&mut *store, more).map_err(engine_error)?;
            discard(memory.data_mut(&mut *store)).map_err(StartError::Memory)?;
        }
        for (global, value) in executor.globals.iter().zip(&image.globals) {
            global.set(&mut *store, to_val(*value)).map_err(engine_error)?;
        }
        Ok(executor)
    }

    /// Begins a request: live, or played back.
    pub(super) fn begin(&mut self, recorded: Option<&RecordedInputs>) {
        let context = self.store.data_mut();
        context.tape.begin(recorded);
        context.silent = recorded.is_some();
    }

    /// Ends a request: what it read, or `None` if it did not read all that was recorded.
    pub(super) fn end(&mut self) -> Option<RecordedInputs> {
        self.store.data_mut().tape.end()
    }

    /// Runs `_initialize`, if there is one.
    pub(super) fn initialize(&mut self, time_max: Duration) -> Result<(), Fault> {
        self.guarded(time_max, |executor| match executor.initialize.take() {
            Some(initialize) => Ok(initialize.call(&mut executor.store, ())?),
            None => Ok(()),
        })
    }

    /// Runs a request through the ABI.
    pub(super) fn handle(&mut self, request: &[u8], limits: &Limits, time_max: Duration) -> Result<Vec<u8>, Fault> {
        self.guarded(time_max, |executor| executor.exchange(request, limits.response_bytes_max))
    }

    /// Has the service write its state out: what `wayfare_save` returns.
    pub(super) fn save(&mut self, time_max: Duration) -> Result<Vec<u8>, HandOverError> {
        let save = self.save.clone().ok_or(HandOverError::NoSave)?;
        let state = self.guarded(time_max, |executor| {
            let packed = save.call(&mut executor.store, ())?;
            let (at, len) = ((packed >> 32) as usize, (packed & u64::from(u32::MAX)) as usize);
            if packed == 0 {
                return Ok(None);
            }
            let memory = executor.memories.first().ok_or(Failure::Abi("no memory"))?;
            let state = memory.data(&executor.store).get(at..).and_then(|rest| rest.get(..len));
            Ok(Some(state.ok_or(Failure::Abi("a saved state outside of the memory"))?.to_vec()))
        });
        state.map_err(HandOverError::Failed)?.ok_or(HandOverError::NotSaved)
    }

    /// Has the service take a state: what `wayfare_load` makes of it.
    pub(super) fn load(&mut self, state: &[u8], time_max: Duration) -> Result<(), HandOverError> {
        let load = self.load.clone().ok_or(HandOverError::NoLoad)?;
        let answer = self.guarded(time_max, |executor| {
            let len = executor.put(state)?;
            Ok(load.call(&mut executor.store, len)?)
        });
        match answer.map_err(HandOverError::Failed)? {
            0 => Ok(()),
            code => Err(HandOverError::Refused { code }),
        }
    }

    /// Runs `body` under a time limit and says why it failed, if it did.
    fn guarded<T>(
        &mut self,
        time_max: Duration,
        body: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Fault> {
        let running = Running::begin().map_err(|what| Fault::HostLacks { what })?;
        // One more than the limit takes, for the tick that is under way.
        let ticks = time_max.as_millis().div_ceil(EPOCH_TICK.as_millis()) + 1;
        self.store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2));
        self.store.data_mut().refused = false;
        let result = body(self);
        drop(running);
        result.map_err(|failure| match failure {
            Failure::Abi(what) => Fault::BadResponse { what: what.to_owned() },
            Failure::Engine(error) => self.fault(&error, time_max),
        })
    }

    fn fault(&self, error: &wasmtime::Error, time_max: Duration) -> Fault {
        let context = self.store.data();
        if let Some(trap) = error.downcast_ref::<HostTrap>() {
            return match trap {
                HostTrap::Exit(code) => Fault::Exited { code: *code },
                HostTrap::Tape(TapeError::TooManyReads) => Fault::TooManyInputs,
                HostTrap::Tape(error) => Fault::HostLacks { what: error.to_string() },
                HostTrap::NoMemory => Fault::BadResponse { what: trap.to_string() },
            };
        }
        if error.is::<io::Error>() {
            return Fault::HostLacks { what: "memory".into() };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => {
                Fault::TimedOut { millis_max: u64::try_from(time_max.as_millis()).unwrap_or(u64::MAX) }
            }
            _ if context.refused => Fault::OutOfMemory { bytes_max: context.memory_bytes_max },
            Some(trap) => Fault::Trapped { what: cut(trap.to_string()) },
            None => Fault::Trapped { what: cut(format!("{error:#}")) },
        }
    }

    fn exchange(&mut self, request: &[u8], response_bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let len = self.put(request)?;
        let packed = self.handle.call(&mut self.store, len)?;
        let memory = self.memories.first().ok_or(Failure::Abi("no memory"))?;
        let (at, len) = ((packed >> 32) as usize, (packed & u64::from(u32::MAX)) as usize);
        if len > response_bytes_max {
            return Err(Failure::Abi("a response longer than the limit"));
        }
        let response = memory.data(&self.store).get(at..).and_then(|rest| rest.get(..len));
        let response = response.ok_or(Failure::Abi("a response outside of the memory"))?;
        if !response.starts_with(b"HTTP/1.1 ") {
            return Err(Failure::Abi("a response that does not start with HTTP/1.1"));
        }
        Ok(response.to_vec())
    }

    /// Puts bytes where the service wants them; returns how many.
    fn put(&mut self, bytes: &[u8]) -> Result<u32, Failure> {
        let len = u32::try_from(bytes.len()).map_err(|_| Failure::Abi("a request of 4 GiB"))?;
        let at = self.buffer.call(&mut self.store, len)?;
        let memory = self.memories.first().ok_or(Failure::Abi("no memory"))?;
        let buffer =
            memory.data_mut(&mut self.store).get_mut(at as usize..).and_then(|rest| rest.get_mut(..len as usize));
        let buffer = buffer.filter(|_| at != 0).ok_or(Failure::Abi("wayfare_buffer gave no room"))?;
        buffer.copy_from_slice(bytes);
        Ok(len)
    }

    /// Makes what the last request left the committed state. After a failure that is neither the old nor the new one.
    pub(super) fn commit(&mut self, image: &mut Image, mut capture: Option<&mut Capture>) -> Result<(), String> {
        let failed = |error: io::Error| format!("the state could not be kept: {error}");
        let map = PageMap::shared().map_err(failed)?;
        let mut written = Vec::new();
        for (index, (memory, (file, pages))) in self.memories.iter().zip(&mut image.memories).enumerate() {
            written.clear();
            let bytes = memory.data(&self.store);
            map.copies(bytes, &mut |range| written.push(range)).map_err(failed)?;
            for range in &written {
                file.write(range.start as u64, &bytes[range.clone()]).map_err(failed)?;
                if let Some(capture) = capture.as_deref_mut() {
                    (range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES))
                        .for_each(|page| capture.touched(index, page));
                }
            }
            *pages = memory.size(&self.store);
            let bytes = memory.data_mut(&mut self.store);
            for range in &written {
                discard(&mut bytes[range.clone()]).map_err(failed)?;
            }
        }
        for (global, value) in self.globals.iter().zip(&mut image.globals) {
            *value = to_value(&global.get(&mut self.store)).ok_or("a global that holds a reference")?;
        }
        image.monotonic_ns = self.store.data().tape.monotonic_last_ns();
        Ok(())
    }

    /// Makes an instance over the committed state in place of this one, which goes first: it may have grown the files.
    pub(super) fn roll_back(self, code: &Code, image: &Image) -> Result<Self, StartError> {
        let context = self.store.into_data().resumed(image.monotonic_ns);
        for (file, pages) in &image.memories {
            file.resize(pages * CHUNK_BYTES as u64).map_err(StartError::Memory)?;
        }
        Self::over(code, image, context)
    }
}

/// Why the ABI's steps failed.
enum Failure {
    Abi(&'static str),
    Engine(wasmtime::Error),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Engine(error)
    }
}

fn cut(mut text: String) -> String {
    let end = (0..=TRAP_TEXT_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

fn to_val(value: GlobalValue) -> Val {
    match value {
        GlobalValue::I32(bits) => Val::I32(bits.cast_signed()),
        GlobalValue::I64(bits) => Val::I64(bits.cast_signed()),
        GlobalValue::F32(bits) => Val::F32(bits),
        GlobalValue::F64(bits) => Val::F64(bits),
        GlobalValue::V128(bits) => Val::V128(bits.into()),
    }
}

fn to_value(value: &Val) -> Option<GlobalValue> {
    match value {
        Val::I32(value) => Some(GlobalValue::I32(value.cast_unsigned())),
        Val::I64(value) => Some(GlobalValue::I64(value.cast_unsigned())),
        Val::F32(bits) => Some(GlobalValue::F32(*bits)),
        Val::F64(bits) => Some(GlobalValue::F64(*bits)),
        Val::V128(value) => Some(GlobalValue::V128(value.as_u128())),
        _ => None,
    }
}
