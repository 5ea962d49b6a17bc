//! The real binary, as tests run it.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

pub(crate) fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare-registry"));
    command.args(arguments).arg("--dir").arg(dir);
    command
}

pub(crate) fn execute(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

/// A registry that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Value,
}

impl Running {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = command(dir, &["run", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
