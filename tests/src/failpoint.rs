//! Points at which a process under test ends, stops or is cut off: for the test binaries only.
//!
//! The harness names a directory in the environment variable [`DIR_VARIABLE`] and writes a [`Point`] into its file `arm`. The
//! process takes it over by renaming the file to `armed`: a file that is there when it starts before anything else happens, a
//! later one within milliseconds. When the point is reached, once, it writes `fired`, and then
//!
//! - `kill`: dies of SIGKILL;
//! - `hang`: stops itself by SIGSTOP; the harness lets it go on by SIGCONT;
//! - `cut`: waits for the file `cut`, which says that nobody reaches this process any more, and lets nothing in or out of what it
//!   has dialled for as long as that file is there.
//!
//! The machine stands still from the point on until the process has acted: what was sent before leaves, what comes is not looked
//! at.

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, getpid, kill_process};
use wayfare_net::{Connector, DirectConnector, Witness};

use crate::gate::{Gate, GatedConnector};

/// Names the directory between harness and process.
pub const DIR_VARIABLE: &str = "WAYFARE_FAILPOINTS";
/// How often the directory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// How long bytes on their way out are given to leave.
const LEAVE: Duration = Duration::from_millis(40);
/// How long the harness may take to cut a process off.
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A message is about to be sent.
    BeforeSend,
    /// An entry is on disk, what rests on it was not done.
    AfterSync,
    /// A message has left.
    AfterSend,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Hang,
    /// The network is gone for a while.
    Cut,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BeforeSend, Self::AfterSync, Self::AfterSend];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeSend => "before_send",
            Self::AfterSync => "after_sync",
            Self::AfterSend => "after_send",
        }
    }
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Hang, Self::Cut];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Cut => "cut",
        }
    }
}

/// A failpoint: `moment:name:action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// When.
    pub moment: Moment,
    /// Of which message or journal entry.
    pub name: String,
    /// What happens.
    pub action: Action,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.moment.name(), self.name, self.action.name())
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [moment, name, action] = parts[..] else { return Err(format!("`{text}` is not moment:name:action")) };
        let moment = Moment::ALL.into_iter().find(|known| known.name() == moment);
        let action = Action::ALL.into_iter().find(|known| known.name() == action);
        let (Some(moment), Some(action)) = (moment, action) else { return Err(format!("`{text}` is no failpoint")) };
        Ok(Self { moment, name: name.to_owned(), action })
    }
}

/// What both sides know of their directory.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A point for the process to take over.
    pub fn arm(&self) -> PathBuf {
        self.0.join("arm")
    }

    /// The point that the process has taken over.
    pub fn armed(&self) -> PathBuf {
        self.0.join("armed")
    }

    /// It was reached.
    pub fn fired(&self) -> PathBuf {
        self.0.join("fired")
    }

    /// The process is cut off for as long as this is there.
    pub fn cut(&self) -> PathBuf {
        self.0.join("cut")
    }

    /// Writes a file that is whole as soon as it is there.
    pub fn put(&self, path: &Path, text: &str) {
        let draft = path.with_extension("draft");
        fs::File::create(&draft).and_then(|mut file| file.write_all(text.as_bytes())).unwrap();
        fs::rename(&draft, path).unwrap();
    }
}

/// What a thin test binary gives the product: how it dials, and who watches it.
pub fn from_environment() -> (Arc<dyn Connector>, Option<Arc<dyn Witness>>) {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return (Arc::new(DirectConnector), None) };
    let (files, gate) = (Files::new(dir), Gate::default());
    let watcher = Arc::new(Watcher { files: files.clone(), gate: gate.clone(), armed: Mutex::new(None) });
    watcher.take_over();
    let looking = Arc::clone(&watcher);
    thread::spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
            looking.take_over();
        }
    });
    (Arc::new(GatedConnector::new(gate)), Some(watcher))
}

/// The witness of a process under test.
struct Watcher {
    files: Files,
    gate: Gate,
    armed: Mutex<Option<Point>>,
}

impl Watcher {
    fn take_over(&self) {
        let Ok(text) = fs::read_to_string(self.files.arm()) else { return };
        let point = text.parse().ok();
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = point;
        fs::rename(self.files.arm(), self.files.armed()).unwrap();
    }

    /// Acts if this is the point. The task that calls stands still meanwhile; others, which write what it has sent, do not.
    fn reached(&self, moment: Moment, name: &'static str) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(point) = armed.take_if(|point| point.moment == moment && point.name == name) else { return };
        drop(armed);
        tokio::task::block_in_place(|| self.act(&point));
    }

    fn act(&self, point: &Point) {
        if point.moment == Moment::AfterSend {
            thread::sleep(LEAVE);
        }
        self.files.put(&self.files.fired(), &point.to_string());
        match point.action {
            Action::Kill => kill_process(getpid(), Signal::KILL).unwrap(),
            Action::Hang => kill_process(getpid(), Signal::STOP).unwrap(),
            Action::Cut => self.cut_off(),
        }
    }

    fn cut_off(&self) {
        let begun = Instant::now();
        while !self.files.cut().exists() {
            assert!(begun.elapsed() < CUT_WITHIN, "nobody cuts this process off");
            thread::sleep(Duration::from_millis(1));
        }
        self.gate.close();
        let (gate, cut) = (self.gate.clone(), self.files.cut());
        thread::spawn(move || {
            while cut.exists() {
                thread::sleep(LOOK_EVERY);
            }
            gate.open();
        });
    }
}

impl Witness for Watcher {
    fn before_send(&self, message: &'static str) {
        self.reached(Moment::BeforeSend, message);
    }

    fn after_send(&self, message: &'static str) {
        self.reached(Moment::AfterSend, message);
    }

    fn after_sync(&self, entry: &'static str) {
        self.reached(Moment::AfterSync, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_what_it_is_written_as() {
        for moment in Moment::ALL {
            for action in Action::ALL {
                let point = Point { moment, name: "Consented".to_owned(), action };
                assert_eq!(point.to_string().parse(), Ok(point));
            }
        }
        for bad in ["", "after_sync:Consented", "after_sync:Consented:die", "later:Consented:kill", "a:b:c:d"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }
}
