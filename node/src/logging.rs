//! Logs go to stderr: what this workspace says from `info` up, the rest from `warn`. `RUST_LOG` says otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "warn,wayfare=info,wayfare_node=info,wayfare_net=info,wayfare_protocol=info";

/// Installs the subscriber of this process; a second call changes nothing.
pub(crate) fn init() {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
        },
        Ok(_) | Err(_) => (EnvFilter::new(DEFAULT), None),
    };
    // A test, or a program that embeds this one, may have installed its own.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if let Some(error) = complaint {
        tracing::warn!(%error, "RUST_LOG is not understood and not used");
    }
}
