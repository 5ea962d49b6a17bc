//! Logs go to stderr, as text or as one JSON object on each line. What this workspace says is let out from `info` up, the rest from
//! `warn`; `RUST_LOG` says otherwise.
//!
//! `error`: an operator must act. `warn`: a result is doubtful. `info`: ownership or a lifecycle changed. `debug`: each step.
//! Lines stand in a span that says which node speaks, and in which role.

use std::io::{self, IsTerminal as _};

use serde::Deserialize;
use tracing::{Span, info_span};
use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "warn,wayfare=info,wayfare_node=info,wayfare_registry=info,wayfare_net=info,wayfare_protocol=info,\
                       wayfare_telemetry=info";

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: `{timestamp, level, fields: {message, …}, target, span: {name, node, role}}`.
    Json,
}

impl LogFormat {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    /// What words there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        [Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| "a log's format is text or json".to_owned())
    }
}

/// Installs the subscriber of this process; a second call changes nothing.
pub fn init(format: LogFormat) {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
        },
        Ok(_) | Err(_) => (EnvFilter::new(DEFAULT), None),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(format == LogFormat::Text && io::stderr().is_terminal());
    // A test, or a program that embeds this one, may have installed its own.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().with_span_list(false).try_init(),
    };
    if let Some(error) = complaint {
        tracing::warn!(%error, "RUST_LOG is not understood and not used");
    }
}

/// The span of everything that one node, or one Registry, has to say.
pub fn node_span(name: &str, role: &'static str) -> Span {
    info_span!("node", node = name, role)
}
