//! A running WebAssembly service: committed state, and the engine's instance that works on it.

use std::sync::Arc;

use super::code::Code;
use super::executor::{Context, Executor};
use super::image::{Capture, Image};
use crate::runtime::limits::PATIENCE;
use crate::runtime::{
    Blocker, CallError, CallOutcome, CaptureError, Fault, FinalState, HandOverError, Instance, Launch, Limits,
    Quiesced, RecordedInputs, RoundStats, Salt, Sink, StartError, Usage,
};

/// A running service.
pub(super) struct WasmInstance {
    code: Arc<Code>,
    limits: Limits,
    image: Image,
    /// `None` once a commit or a rollback has failed: the committed state is then not to be relied on.
    executor: Option<Executor>,
    capture: Option<Capture>,
    frozen: bool,
}

impl WasmInstance {
    /// A new service: see [`Driver::start`](crate::runtime::Driver::start).
    pub(super) fn start(
        code: Arc<Code>,
        launch: Launch,
        recorded: Option<&RecordedInputs>,
    ) -> Result<(Self, RecordedInputs), StartError> {
        let mut image = code.empty_image().map_err(StartError::Memory)?;
        let limits = launch.limits;
        let mut executor = Executor::new(&code, &image, Context::new(launch, 0))?;
        executor.begin(recorded);
        let initialized = executor.initialize(limits.call_time_max.saturating_mul(PATIENCE));
        let inputs = executor.end();
        initialized.map_err(StartError::Initialize)?;
        let inputs = inputs.ok_or_else(|| StartError::Diverged("it read less of the outside".into()))?;
        executor.commit(&mut image, None).map_err(|reason| StartError::Engine { reason })?;
        Ok((Self { code, limits, image, executor: Some(executor), capture: None, frozen: false }, inputs))
    }

    /// A service that goes on from `image`.
    pub(super) fn over(code: Arc<Code>, launch: Launch, image: Image) -> Result<Self, StartError> {
        let limits = launch.limits;
        let executor = Executor::over(&code, &image, Context::new(launch, image.monotonic_ns))?;
        Ok(Self { code, limits, image, executor: Some(executor), capture: None, frozen: false })
    }

    fn run(&mut self, request: &[u8], recorded: Option<&RecordedInputs>) -> Result<CallOutcome, CallError> {
        if self.frozen {
            return Err(CallError::Frozen);
        }
        let Some(executor) = self.executor.as_mut() else { return Err(CallError::Lost("an earlier failure".into())) };
        if let Some(fault) = recorded.and_then(RecordedInputs::cut) {
            return Ok(failed(fault.clone()));
        }
        if request.len() > self.limits.request_bytes_max {
            return Ok(failed(Fault::RequestTooLong { bytes_max: self.limits.request_bytes_max as u64 }));
        }
        executor.begin(recorded);
        let patience = if recorded.is_some() { PATIENCE } else { 1 };
        let time_max = self.limits.call_time_max.saturating_mul(patience);
        let result = executor.handle(request, &self.limits, time_max);
        let inputs = executor.end();
        match (result, inputs) {
            (Ok(response), Some(inputs)) => {
                if let Err(what) = executor.commit(&mut self.image, self.capture.as_mut()) {
                    self.executor = None;
                    return Err(CallError::Lost(what));
                }
                Ok(CallOutcome { response, inputs, rolled_back: None })
            }
            (Ok(_), None) => {
                self.roll_back()?;
                Err(CallError::Diverged("it read less of the outside".into()))
            }
            (Err(fault), _) => {
                self.roll_back()?;
                if recorded.is_some() { Err(CallError::Diverged(fault.to_string())) } else { Ok(failed(fault)) }
            }
        }
    }

    /// Forgets what the last request did.
    fn roll_back(&mut self) -> Result<(), CallError> {
        let lost = |error: &dyn std::error::Error| CallError::Lost(format!("rolling back failed: {error}"));
        let executor = self.executor.take().ok_or_else(|| CallError::Lost("no instance".into()))?;
        self.executor = Some(executor.roll_back(&self.code, &self.image).map_err(|error| lost(&error))?);
        Ok(())
    }

    /// The committed state, if it can be relied on.
    fn state(&self) -> Result<&Image, CaptureError> {
        if self.executor.is_some() { Ok(&self.image) } else { Err(CaptureError::Lost) }
    }

    fn armed(&mut self) -> Result<(&mut Capture, &Image), CaptureError> {
        self.state()?;
        Ok((self.capture.as_mut().ok_or(CaptureError::NotArmed)?, &self.image))
    }
}

fn lost(what: String) -> HandOverError {
    HandOverError::Lost(CallError::Lost(what))
}

fn failed(fault: Fault) -> CallOutcome {
    let inputs = RecordedInputs { cut: Some(fault.clone()), ..RecordedInputs::default() };
    CallOutcome { response: fault.response(), inputs, rolled_back: Some(fault) }
}

impl Instance for WasmInstance {
    fn call(&mut self, request: &[u8]) -> Result<CallOutcome, CallError> {
        self.run(request, None)
    }

    fn replay(&mut self, request: &[u8], recorded: &RecordedInputs) -> Result<CallOutcome, CallError> {
        self.run(request, Some(recorded))
    }

    fn arm(&mut self, salt: Salt) -> Result<(), CaptureError> {
        let rounds = self.capture.take().map_or(0, |capture| capture.rounds());
        self.capture = Some(Capture::new(self.state()?, salt, rounds)?);
        Ok(())
    }

    fn round(&mut self, pages_max: usize, sink: &mut dyn Sink) -> Result<RoundStats, CaptureError> {
        let (capture, image) = self.armed()?;
        capture.round(image, pages_max, sink)
    }

    fn quiesce(&mut self) -> Result<Quiesced, Vec<Blocker>> {
        // Between requests an instance of what `prepare` has passed holds nothing that a capture would miss.
        self.frozen = true;
        Ok(Quiesced(()))
    }

    fn finish(&mut self, _: &Quiesced, sink: &mut dyn Sink) -> Result<FinalState, CaptureError> {
        let (capture, image) = self.armed()?;
        capture.finish(image, sink)
    }

    fn abort(&mut self, Quiesced(()): Quiesced) {
        self.frozen = false;
        self.capture = None;
    }

    fn save(&self, salt: Salt, sink: &mut dyn Sink) -> Result<FinalState, CaptureError> {
        self.state()?.save(salt, sink)
    }

    fn hand_over(&mut self) -> Result<Vec<u8>, HandOverError> {
        let time_max = self.limits.call_time_max.saturating_mul(PATIENCE);
        let executor = self.executor.as_mut().ok_or_else(|| lost("an earlier failure".to_owned()))?;
        executor.begin(None);
        let state = executor.save(time_max);
        executor.end();
        self.roll_back().map_err(|error| lost(error.to_string()))?;
        state
    }

    fn take_over(&mut self, state: &[u8]) -> Result<(), HandOverError> {
        let time_max = self.limits.call_time_max.saturating_mul(PATIENCE);
        let executor = self.executor.as_mut().ok_or_else(|| lost("an earlier failure".to_owned()))?;
        executor.begin(None);
        let taken = executor.load(state, time_max);
        executor.end();
        if let Err(error) = taken {
            self.roll_back().map_err(|error| lost(error.to_string()))?;
            return Err(error);
        }
        executor.commit(&mut self.image, self.capture.as_mut()).map_err(|what| {
            self.executor = None;
            lost(what)
        })
    }

    fn usage(&self) -> Usage {
        Usage { memory_bytes: self.image.bytes() }
    }
}
