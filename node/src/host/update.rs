//! Making an instance of other code, with the state of the one that runs (PROTOCOL 1, UPDATE).
//!
//! What is made is saved before it is reported. The instance that runs is afterwards as before: only
//! [`Task::Switch`](super::worker::Task::Switch) replaces it.

use wayfare_protocol::{host::UpdateJob, ids::Digest};

use super::{images::Images, restore::Code, worker::save};
use crate::{
    runtime::{Instance, Prepared, Salt, SinkClosed},
    words::describe,
};

/// Makes the instance of `job`, and saves it; its image's length. Refused with a name and what exactly is wrong.
pub(super) fn make(
    old: &mut dyn Instance,
    running: Digest,
    code: &Code,
    job: &UpdateJob,
    images: &Images,
) -> Result<(Box<dyn Instance>, u64), String> {
    let prepared = code.prepare().map_err(|reason| format!("bad_module: {reason}"))?;
    let new = match (job.keep, running == code.digest) {
        (false, _) => start(code, &prepared)?,
        (true, true) => copy(old, code, &prepared).map_err(|reason| format!("state_failed: {reason}"))?,
        (true, false) => {
            let state = old.hand_over().map_err(|error| describe(&error))?;
            let mut new = start(code, &prepared)?;
            new.take_over(&state).map_err(|error| describe(&error))?;
            new
        }
    };
    let bytes = match &job.image {
        Some(id) => {
            let saved = save(new.as_ref(), code.digest, id, &job.belongings, images);
            let finished = saved.and_then(|(image, state)| image.finish(&state).map_err(|error| describe(&error)));
            finished.map_err(|reason| format!("not_saved: {reason}"))?
        }
        None => 0,
    };
    Ok((new, bytes))
}

fn start(code: &Code, prepared: &Prepared) -> Result<Box<dyn Instance>, String> {
    let started = code.driver.start(prepared, code.launch.clone(), None);
    started.map(|(instance, _)| instance).map_err(|error| format!("bad_module: {}", describe(&error)))
}

/// The same code with the same state, in what the new manifest allows it.
fn copy(old: &dyn Instance, code: &Code, prepared: &Prepared) -> Result<Box<dyn Instance>, String> {
    let mut salt = Salt([0; 32]);
    getrandom::fill(&mut salt.0).map_err(|error| error.to_string())?;
    let incoming = code.driver.receive(prepared, code.launch.clone(), salt.clone());
    let mut incoming = incoming.map_err(|error| describe(&error))?;
    let mut failed = None;
    let mut sink = |kind: u8, payload: &[u8]| {
        incoming.apply(kind, payload).map_err(|error| {
            failed = Some(describe(&error));
            SinkClosed
        })
    };
    let saved = old.save(salt, &mut sink);
    if let Some(reason) = failed {
        return Err(reason);
    }
    let saved = saved.map_err(|error| describe(&error))?;
    incoming.activate(saved.digest).map_err(|error| describe(&error))
}
