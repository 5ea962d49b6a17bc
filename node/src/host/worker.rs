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
use crate::{
    runtime::{Driver, Instance, Launch, Prepared, Quiesced, Salt, SinkClosed, state::KIND_PAGE},
    words::describe,
};

/// Commands that wait for one instance. The machine sends one at a time, so this is never reached.
const COMMANDS_MAX: usize = 16;

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
    /// Starts a thread that makes a new instance (`_initialize` runs) and reports [`Happened::Started`].
    pub(super) fn start(
        stay: Stay,
        driver: Arc<dyn Driver>,
        prepared: Prepared,
        launch: Launch,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        Self::spawn(move |tasks| {
            let made = driver.start(&prepared, launch, None);
            let result = made.as_ref().map(|_| ()).map_err(|error| describe(error));
            let reported = happened.blocking_send(Happened::Started { stay, result });
            if let (Ok((instance, _)), Ok(())) = (made, reported) {
                serve(stay, instance, tasks, &happened);
            }
        })
    }

    /// Starts a thread for an instance that has moved here. It reports nothing, and does nothing before its first task.
    pub(super) fn adopt(
        stay: Stay,
        instance: Box<dyn Instance>,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        Self::spawn(move |tasks| serve(stay, instance, tasks, &happened))
    }

    fn spawn(body: impl FnOnce(mpsc::Receiver<Task>) + Send + 'static) -> std::io::Result<Self> {
        let (tasks, queue) = mpsc::channel(COMMANDS_MAX);
        thread::Builder::new().name("wayfare-service".to_owned()).spawn(move || body(queue))?;
        Ok(Self { tasks })
    }

    /// Hands a task over. False if the thread has ended.
    pub(super) fn send(&self, task: Task) -> bool {
        self.tasks.try_send(task).is_ok()
    }
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
