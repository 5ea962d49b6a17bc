//! How commands fail: a message for people, and an exit code for programs.

use std::{error::Error, process::ExitCode};

use crate::{api::client::ClientError, node::NodeError, state::StateError};

/// Something must be changed first: the command line, a file, a port, a join token.
const SETUP: u8 = 2;
const OTHER: u8 = 1;

/// A command that did not do what it should.
#[derive(Debug)]
pub(super) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// The command line, or a file, must be changed first.
    pub(super) fn setup(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: SETUP }
    }

    /// Anything else.
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: OTHER }
    }

    /// Nobody reads what this prints any more.
    pub(super) const fn silent() -> Self {
        Self { text: String::new(), code: OTHER }
    }

    /// Prints it.
    pub(super) fn report(self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("error: {}", super::table::printable(&self.text));
        }
        ExitCode::from(self.code)
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (&str, u8) {
        (&self.text, self.code)
    }
}

/// An error and what led to it, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors pass their source's words on as their own.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let code = if matches!(error, StateError::Write { .. }) { OTHER } else { SETUP };
        Self { text: chain(&error), code }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self { text: chain(&error), code: if error.is_setup() { SETUP } else { OTHER } }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::other(chain(&error))
    }
}
