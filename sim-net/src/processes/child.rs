//! One process, which dies with this one.

use std::{
    fs::OpenOptions,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    sync::mpsc::{SyncSender, sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;
use tokio::sync::oneshot;

/// How long a process may take until it says that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often its end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Starts that wait for their turn.
const STARTS_MAX: usize = 16;
/// Characters of the log that go into an error.
const TAIL_CHARS: usize = 2000;

type Start = (Command, oneshot::Sender<io::Result<Child>>);

/// A process that runs, or has ended. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    ready: Option<Value>,
    first_line: Option<oneshot::Receiver<String>>,
}

/// All processes are started by one thread that never ends: a process dies with the *thread* that started it.
fn starter() -> &'static SyncSender<Start> {
    static STARTER: OnceLock<SyncSender<Start>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (sender, starts) = sync_channel::<Start>(STARTS_MAX);
        std::thread::spawn(move || {
            for (mut command, reply) in starts {
                // Whoever asked may have gone: then the process is dropped, and goes too.
                if let Err(Ok(mut orphan)) = reply.send(command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        });
        sender
    })
}

/// Makes the process die when the thread that starts it does.
#[expect(unsafe_code, reason = "there is no safe way between fork and exec")]
fn dies_with_parent(command: &mut Command) {
    let die = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and no lock may be taken: prctl is a system
    // call, and an errno becomes an `io::Error` without allocation.
    unsafe {
        command.pre_exec(die);
    }
}

impl Process {
    /// Starts a program whose first line on stdout, one JSON object, says that it is ready. What it says on stderr is appended
    /// to the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let to = OpenOptions::new().create(true).append(true).open(log);
        let to = to.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(to);
        dies_with_parent(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, started) = oneshot::channel();
        let starter = starter();
        // If it cannot be queued, there is no answer.
        tokio::task::spawn_blocking(move || drop(starter.send((command, reply)))).await?;
        let mut child = started.await?.with_context(|| format!("cannot start {program}"))?;
        let first_line = child.stdout.take().map(|stdout| {
            let (said, first_line) = oneshot::channel();
            std::thread::spawn(move || {
                let (mut reader, mut line) = (BufReader::new(stdout), String::new());
                // Without a line there is an end, which others notice.
                let _ = reader.read_line(&mut line);
                let _ = said.send(line);
                let _ = io::copy(&mut reader, &mut io::sink());
            });
            first_line
        });
        Ok(Self { child, log: log.to_owned(), ready: None, first_line })
    }

    /// Waits until it is ready; what it said then.
    ///
    /// # Errors
    /// It ended, or took too long.
    pub async fn ready(&mut self) -> anyhow::Result<&Value> {
        if let Some(first_line) = self.first_line.take() {
            let line = tokio::time::timeout(READY_WITHIN, first_line).await;
            let line = line.with_context(|| format!("not ready in time\n{}", self.tail()))?.unwrap_or_default();
            let ready = serde_json::from_str(&line);
            self.ready = Some(ready.with_context(|| format!("it did not start: {line:?}\n{}", self.tail()))?);
        }
        self.ready.as_ref().context("it did not start")
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Kills it (SIGKILL), unless it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill().context("it cannot be killed")?;
        self.ended(READY_WITHIN).await
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It goes on for longer than this.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() >= within {
                bail!("process {} goes on\n{}", self.child.id(), self.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether SIGKILL ended it.
    pub fn was_killed(status: ExitStatus) -> bool {
        status.signal() == Some(Signal::KILL.as_raw())
    }

    /// The end of what it said on stderr.
    pub fn tail(&self) -> String {
        let mut text = String::new();
        // Only for people, and only of use if it can be had.
        let _ = std::fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        let skip = text.chars().count().saturating_sub(TAIL_CHARS);
        text.chars().skip(skip).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, with something on its stdin; it must succeed. What it prints.
///
/// # Errors
/// What went wrong, with what it said about it.
pub async fn run_command(mut command: Command, stdin: Vec<u8>) -> anyhow::Result<String> {
    let line = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || -> io::Result<Output> {
        let mut child = command.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // Who reads no stdin closes it.
            let _ = io::Write::write_all(&mut pipe, &stdin);
        }
        child.wait_with_output()
    });
    let output = output.await?.with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
