//! Building an instance again after a restart: from its first start or an image, and then from its log (PROTOCOL 5).
//!
//! What comes out is, byte for byte, what was acknowledged: each request of the log is executed again with what it read of
//! the outside then. Where that does not lead to the same, nothing is answered from the instance.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::info;
use wayfare_protocol::{
    host::{Base, Host, ImageId, Logged, RestoreJob, Restored},
    ids::Digest,
    suite::Dalek,
};

use super::{
    bulk::SESSIONS_BYTES_MAX,
    images::{Images, Record},
};
use crate::{
    runtime::{Driver, Instance, Launch, Prepared, RecordedInputs},
    words::describe,
};

/// How often a long log says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// The code of an instance that is to be made.
pub(super) struct Code {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) digest: Digest,
    /// Compiled, if it was lately.
    pub(super) prepared: Option<Prepared>,
    /// The module, if it is at hand.
    pub(super) module: Option<Arc<[u8]>>,
    /// Where modules are kept.
    pub(super) modules: PathBuf,
    pub(super) launch: Launch,
}

impl Code {
    /// Compiles it, unless it is. May take seconds.
    pub(super) fn prepare(&self) -> Result<Prepared, String> {
        if let Some(prepared) = &self.prepared {
            return Ok(prepared.clone());
        }
        let Some(module) = &self.module else {
            let (digest, modules) = (self.digest, self.modules.display());
            return Err(format!(
                "the module {digest}.wasm is missing in {modules}: put it there and restart this node"
            ));
        };
        self.driver.prepare(module, self.launch.limits.memory_bytes_max).map_err(|error| describe(&error))
    }
}

/// Builds the instance of `job`. Ends early if nobody wants it any more, as `gone` says.
pub(super) fn restore(
    code: &Code,
    prepared: &Prepared,
    images: &Images,
    job: &RestoreJob,
    gone: &dyn Fn() -> bool,
) -> Result<(Box<dyn Instance>, Restored), String> {
    let (mut instance, belongings, image_bytes) = match &job.base {
        Base::Fresh { inputs } => {
            let inputs = RecordedInputs::from_bytes(inputs).map_err(|error| describe(&error))?;
            let started = code.driver.start(prepared, code.launch.clone(), Some(&inputs));
            let (instance, _) = started.map_err(|error| describe(&error))?;
            (instance, None, 0)
        }
        Base::Image(id) => {
            let loaded = load(code, prepared, images, id)?;
            (loaded.instance, Some(loaded.belongings), loaded.bytes)
        }
    };
    let responses = replay(instance.as_mut(), job, gone)?;
    Ok((instance, Restored { belongings, responses, image_bytes }))
}

/// Executes the log again, in its order.
fn replay(instance: &mut dyn Instance, job: &RestoreJob, gone: &dyn Fn() -> bool) -> Result<Vec<Vec<u8>>, String> {
    let (began, total) = (Instant::now(), job.log.len());
    let mut said = began;
    let mut responses = Vec::with_capacity(total);
    for (done, logged) in job.log.iter().enumerate() {
        if gone() {
            return Err("it is not wanted any more".to_owned());
        }
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            info!(service = %job.service, epoch = %job.epoch, done, total, "executing the log again");
        }
        let Logged { client, sequence, request, inputs, .. } = logged;
        let replayed = RecordedInputs::from_bytes(inputs)
            .map_err(|error| describe(&error))
            .and_then(|inputs| instance.replay(request, &inputs).map_err(|error| describe(&error)));
        let outcome = replayed.map_err(|reason| {
            let place = done + 1;
            format!("request {place} of {total} in the log, number {sequence} of client {client:#}: {reason}")
        })?;
        responses.push(outcome.response);
    }
    if total > 0 {
        let seconds = began.elapsed().as_secs_f64();
        info!(service = %job.service, epoch = %job.epoch, requests = total, seconds, "the log was executed again");
    }
    Ok(responses)
}

/// An instance out of an image. Nothing of it has run.
pub(super) struct Loaded {
    pub(super) instance: Box<dyn Instance>,
    pub(super) belongings: Vec<u8>,
    bytes: u64,
}

/// Makes an instance of an image, ready to run.
pub(super) fn load(code: &Code, prepared: &Prepared, images: &Images, id: &ImageId) -> Result<Loaded, String> {
    let mut image = images.read(id).map_err(|error| describe(&error))?;
    if image.code() != code.digest {
        return Err(format!("the image {id} is of another module ({}) than the manifest names", image.code()));
    }
    let incoming = code.driver.receive(prepared, code.launch.clone(), image.salt().clone());
    let mut incoming = incoming.map_err(|error| describe(&error))?;
    let mut belongings = Vec::new();
    loop {
        match image.next().map_err(|error| describe(&error))? {
            Record::State { kind, payload } => incoming.apply(kind, payload).map_err(|error| describe(&error))?,
            Record::Belongings(piece) if belongings.len() + piece.len() <= SESSIONS_BYTES_MAX => {
                belongings.extend_from_slice(piece);
            }
            Record::Belongings(_) => return Err(format!("the image {id} has a client table that no host writes")),
            Record::End(state) => {
                let instance = incoming.activate(state).map_err(|error| describe(&error))?;
                Host::<Dalek>::check_belongings(&belongings)
                    .map_err(|reject| format!("the client table in image {id}: {reject}"))?;
                return Ok(Loaded { instance, belongings, bytes: image.bytes() });
            }
        }
    }
}
