//! One blocking thread per service: it owns the instance, and does to it what the host's machine decides, in order.

use std::{sync::Arc, thread};

use tokio::sync::mpsc;
use wayfare_protocol::{
    host::{CaptureJob, HeldJob, ImageId, RestoreJob, UpdateJob, hosted::Stay},
    ids::{ClientId, Digest},
    limits::RECORD_BYTES_MAX,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, Sealer, state_digest},
};

use super::{
    Happened,
    images::{ImageWriter, Images},
    restore::{self, Code},
    update,
};
use crate::{
    runtime::{Instance, Prepared, Quiesced, RecordedInputs, Salt, SinkClosed, state::KIND_PAGE},
    words::describe,
};

/// Commands that wait for one instance. The machine sends a request and an image at a time, so this is never reached.
const COMMANDS_MAX: usize = 16;

/// What to do to an instance.
pub(super) enum Task {
    Call {
        client: ClientId,
        sequence: u64,
        request: Vec<u8>,
    },
    Capture {
        job: Box<CaptureJob>,
        module: Option<Arc<[u8]>>,
        records: mpsc::Sender<SealedRecord>,
    },
    /// Save the instance as it is now.
    Save {
        upto: u64,
        belongings: Vec<u8>,
        images: Images,
    },
    /// Make an instance of other code beside this one, with its state.
    Update {
        job: Box<UpdateJob>,
        code: Box<Code>,
        images: Images,
    },
    /// Go on as what the last update made.
    Switch,
    Resume,
}

/// The way to an instance's thread. Dropped, the thread ends and the instance with it.
#[derive(Debug)]
pub(super) struct Worker {
    tasks: mpsc::Sender<Task>,
}

impl Worker {
    /// Starts a thread that makes a new instance (`_initialize` runs) and reports [`Happened::Started`].
    pub(super) fn start(stay: Stay, code: Code, happened: mpsc::Sender<Happened>) -> std::io::Result<Self> {
        Self::spawn(move |tasks| {
            let made = prepare(&code, &happened).and_then(|prepared| {
                code.driver.start(&prepared, code.launch.clone(), None).map_err(|error| describe(&error))
            });
            let (made, result) = apart(made.map(|(instance, inputs)| (instance, RecordedInputs::to_bytes(&inputs))));
            if happened.blocking_send(Happened::Started { stay, result }).is_ok() {
                serve(stay, code.digest, made, tasks, &happened);
            }
        })
    }

    /// Starts a thread that builds an instance again and reports [`Happened::Restored`].
    pub(super) fn restore(
        job: RestoreJob,
        code: Code,
        images: Images,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        Self::spawn(move |tasks| {
            let (stay, gone) = ((job.service, job.epoch), || tasks.is_closed());
            let made =
                prepare(&code, &happened).and_then(|prepared| restore::restore(&code, &prepared, &images, &job, &gone));
            drop(job);
            let (made, result) = apart(made);
            if happened.blocking_send(Happened::Restored { stay, result }).is_ok() {
                serve(stay, code.digest, made, tasks, &happened);
            }
        })
    }

    /// Starts a thread that makes a held state ready to run and reports [`Happened::HeldRestored`]. It does nothing more
    /// before its first task.
    pub(super) fn restore_held(
        job: &HeldJob,
        code: Code,
        images: Images,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        let (mig, stay) = (job.mig, (job.service, job.epoch));
        Self::spawn(move |tasks| {
            let made = prepare(&code, &happened)
                .and_then(|prepared| restore::load(&code, &prepared, &images, &ImageId::Held(mig)));
            let (made, result) = apart(made.map(|loaded| (loaded.instance, loaded.belongings)));
            if happened.blocking_send(Happened::HeldRestored { mig, result }).is_ok() {
                serve(stay, code.digest, made, tasks, &happened);
            }
        })
    }

    /// Starts a thread for an instance that has moved here. It reports nothing, and does nothing before its first task.
    pub(super) fn adopt(
        stay: Stay,
        code: Digest,
        instance: Box<dyn Instance>,
        happened: mpsc::Sender<Happened>,
    ) -> std::io::Result<Self> {
        Self::spawn(move |tasks| serve(stay, code, Some(instance), tasks, &happened))
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

/// Compiles the code, unless it is, and hands it to the owner for the next one who needs it.
fn prepare(code: &Code, happened: &mpsc::Sender<Happened>) -> Result<Prepared, String> {
    let prepared = code.prepare()?;
    if code.prepared.is_none() {
        // An owner that has gone needs nothing any more.
        let _ = happened.blocking_send(Happened::Prepared(prepared.clone()));
    }
    Ok(prepared)
}

/// What is kept, and what is told.
fn apart<T>(made: Result<(Box<dyn Instance>, T), String>) -> (Option<Box<dyn Instance>>, Result<T, String>) {
    match made {
        Ok((instance, told)) => (Some(instance), Ok(told)),
        Err(reason) => (None, Err(reason)),
    }
}

fn serve(
    stay: Stay,
    mut code: Digest,
    instance: Option<Box<dyn Instance>>,
    mut tasks: mpsc::Receiver<Task>,
    happened: &mpsc::Sender<Happened>,
) {
    let Some(mut instance) = instance else { return };
    let mut frozen: Option<Quiesced> = None;
    let mut next: Option<(Digest, Box<dyn Instance>)> = None;
    while let Some(task) = tasks.blocking_recv() {
        let event = match task {
            Task::Call { client, sequence, request } => match instance.call(&request) {
                Ok(outcome) => {
                    let inputs = outcome.inputs.to_bytes();
                    Happened::Executed { stay, client, sequence, response: outcome.response, inputs }
                }
                Err(error) => Happened::Started { stay, result: Err(describe(&error)) },
            },
            Task::Capture { job, module, records } => {
                let mig = job.ids.mig;
                let result = capture(instance.as_mut(), &mut frozen, &job, module.as_deref(), &records);
                Happened::Captured { mig, result }
            }
            Task::Save { upto, belongings, images } => {
                let (service, epoch) = stay;
                let id = ImageId::Taken { service, epoch, upto };
                let written = save(instance.as_ref(), code, &id, &belongings, &images);
                let finished = written.and_then(|(image, state)| sync(stay, upto, image, state, happened));
                match finished {
                    Ok(()) => continue,
                    Err(reason) => Happened::Saved { stay, upto, result: Err(reason) },
                }
            }
            Task::Update { job, code: new, images } => {
                let made = update::make(instance.as_mut(), code, &new, &job, &images);
                let (made, result) = apart(made);
                next = made.map(|made| (job.code, made));
                Happened::Updated { stay, order: job.order, image: job.image, result }
            }
            Task::Switch => {
                let result = match next.take() {
                    Some(made) => {
                        (code, instance) = made;
                        Ok(Vec::new())
                    }
                    None => Err("the new instance is gone".to_owned()),
                };
                Happened::Started { stay, result }
            }
            Task::Resume => {
                if let Some(quiesced) = frozen.take() {
                    instance.abort(quiesced);
                }
                Happened::Started { stay, result: Ok(Vec::new()) }
            }
        };
        if happened.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Writes an image of the instance, which stands still meanwhile, but does not wait for the disk. Returns it with `h(state)`.
pub(super) fn save(
    instance: &dyn Instance,
    code: Digest,
    id: &ImageId,
    belongings: &[u8],
    images: &Images,
) -> Result<(ImageWriter, Digest), String> {
    let mut salt = Salt([0; 32]);
    getrandom::fill(&mut salt.0).map_err(|error| error.to_string())?;
    let mut image = images.begin(id, &salt, &code).map_err(|error| describe(&error))?;
    let saved = instance.save(salt, &mut image);
    if let Some(error) = image.failure() {
        return Err(describe(&error));
    }
    let saved = saved.map_err(|error| describe(&error))?;
    image.belongings(belongings);
    Ok((image, saved.digest))
}

/// Waits for the disk on a thread of its own, so that the service goes on, and reports.
fn sync(
    stay: Stay,
    upto: u64,
    image: ImageWriter,
    state: Digest,
    happened: &mpsc::Sender<Happened>,
) -> Result<(), String> {
    let happened = happened.clone();
    let finish = move || {
        let result = image.finish(&state).map_err(|error| describe(&error));
        // An owner that has gone needs no image.
        let _ = happened.blocking_send(Happened::Saved { stay, upto, result });
    };
    let started = thread::Builder::new().name("wayfare-image".to_owned()).spawn(finish);
    started.map(|_| ()).map_err(|error| format!("no thread for the image: {error}"))
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
