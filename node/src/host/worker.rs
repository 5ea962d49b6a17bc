//! One blocking thread per service: it owns the instance, and does to it what the host's machine decides, in order.

use std::{sync::Arc, thread};

use tokio::sync::mpsc;
use wayfare_protocol::{
    host::{CaptureJob, hosted::Stay},
    ids::{ClientId, Digest},
    limits::RECORD_BYTES_MAX,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, Sealer, state_digest},
};

use super::Happened;
use crate::runtime::{Driver, Incoming, Instance, Launch, Prepared, Quiesced, Salt, SinkClosed, state::KIND_PAGE};

/// Commands that wait for one instance. The machine sends one at a time, so this is never reached.
const COMMANDS_MAX: usize = 16;

/// How an instance comes to be.
pub(super) enum Origin {
    /// New: `_initialize` runs.
    Fresh(Prepared, Launch),
    /// Moved here: it goes on.
    Moved(Box<dyn Incoming>, Digest),
}

/// What to do to an instance.
pub(super) enum Task {
    Call { client: ClientId, sequence: u64, request: Vec<u8> },
    Capture { job: Box<CaptureJob>, module: Option<Arc<[u8]>>, records: mpsc::Sender<SealedRecord> },
    Resume,
}

/// The way to an instance's thread. Dropped, the thread ends and the instance with it.
#[derive(Debug)]
pub(super) struct Worker {
    tasks: mpsc::Sender<Task>,
}

impl Worker {
    /// Starts a thread that makes the instance and reports [`Happened::Started`].
    pub(super) fn spawn(
        stay: Stay,
        driver: Arc<dyn Driver>,
        origin: Origin,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = mpsc::channel(COMMANDS_MAX);
        thread::Builder::new().name("wayfare-service".to_owned()).spawn(move || {
            let made = match origin {
                Origin::Fresh(prepared, launch) => driver.start(&prepared, launch, None).map(|(instance, _)| instance),
                Origin::Moved(incoming, expected) => incoming.activate(expected),
            };
            match made {
                Ok(instance) => {
                    let result = happened.blocking_send(Happened::Started { stay, result: Ok(()) });
                    if result.is_ok() {
                        serve(stay, instance, queue, &happened);
                    }
                }
                Err(error) => {
                    let _ = happened.blocking_send(Happened::Started { stay, result: Err(describe(&error)) });
                }
            }
        })?;
        Ok(Self { tasks })
    }

    /// Hands a task over. False if the thread has ended.
    pub(super) fn send(&self, task: Task) -> bool {
        self.tasks.try_send(task).is_ok()
    }
}

/// An error with its causes, on one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn serve(
    stay: Stay,
    mut instance: Box<dyn Instance>,
    mut tasks: mpsc::Receiver<Task>,
    happened: &mpsc::Sender<Happened>,
) {
    let mut frozen: Option<Quiesced> = None;
    while let Some(task) = tasks.blocking_recv() {
        let event = match task {
            Task::Call { client, sequence, request } => match instance.call(&request) {
                Ok(outcome) => Happened::Executed { stay, client, sequence, response: outcome.response },
                Err(error) => Happened::Started { stay, result: Err(describe(&error)) },
            },
            Task::Capture { job, module, records } => {
                let mig = job.ids.mig;
                let result = capture(instance.as_mut(), &mut frozen, &job, module.as_deref(), &records);
                Happened::Captured { mig, result }
            }
            Task::Resume => {
                if let Some(quiesced) = frozen.take() {
                    instance.abort(quiesced);
                }
                Happened::Started { stay, result: Ok(()) }
            }
        };
        if happened.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Freezes the instance and sends everything sealed: module if asked for, pages, globals, client table, end.
/// Returns `h(state)` and the number of plaintext bytes.
fn capture(
    instance: &mut dyn Instance,
    frozen: &mut Option<Quiesced>,
    job: &CaptureJob,
    module: Option<&[u8]>,
    records: &mpsc::Sender<SealedRecord>,
) -> Result<(Digest, u64), String> {
    let mut out = Out { sealer: Sealer::new(job.key.clone(), job.transcript), records, bytes: 0 };
    let salt = out.sealer.salt();
    if job.send_module {
        let module = module.ok_or("the module is not at hand")?;
        for piece in module.chunks(RECORD_BYTES_MAX) {
            out.send(RecordKind::Module, piece).map_err(|SinkClosed| GONE)?;
        }
    }
    instance.arm(Salt(salt.0)).map_err(|error| describe(&error))?;
    let quiesced = match frozen.take() {
        Some(quiesced) => quiesced,
        None => instance.quiesce().map_err(|blockers| {
            let names: Vec<String> = blockers.iter().map(ToString::to_string).collect();
            names.join("; ")
        })?,
    };
    let mut sink = |kind: u8, payload: &[u8]| {
        out.send(if kind == KIND_PAGE { RecordKind::Page } else { RecordKind::Globals }, payload)
    };
    let finished = instance.finish(&quiesced, &mut sink);
    *frozen = Some(quiesced);
    let finished = finished.map_err(|error| describe(&error))?;
    for piece in job.sessions.chunks(RECORD_BYTES_MAX) {
        out.send(RecordKind::Sessions, piece).map_err(|SinkClosed| GONE)?;
    }
    out.send(RecordKind::End, &[]).map_err(|SinkClosed| GONE)?;
    Ok((state_digest(&salt, &job.code, &finished.digest, &job.sessions), out.bytes))
}

const GONE: &str = "the stream to the target ended";

struct Out<'a> {
    sealer: Sealer,
    records: &'a mpsc::Sender<SealedRecord>,
    bytes: u64,
}

impl Out<'_> {
    fn send(&mut self, kind: RecordKind, plaintext: &[u8]) -> Result<(), SinkClosed> {
        self.bytes += plaintext.len() as u64;
        let record = self.sealer.seal::<Dalek>(kind, plaintext).map_err(|_| SinkClosed)?;
        self.records.blocking_send(record).map_err(|_| SinkClosed)
    }
}
