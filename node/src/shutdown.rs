//! Stopping: the operating system's signals cancel a token; tasks end by it and have a grace time to do so.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// How long tasks may take to end.
pub const GRACE: Duration = Duration::from_secs(10);
/// The exit code after a second signal: as a shell reports SIGINT.
const INTERRUPTED: i32 = 130;

/// A token that SIGINT and SIGTERM cancel. A second signal ends the process at once.
///
/// # Errors
/// If the process cannot watch for signals.
pub fn on_signals() -> io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if first {
                info!(signal = name, "stopping; a second signal stops at once");
                cancel.cancel();
            } else {
                warn!(signal = name, "stopped at once");
                std::process::exit(INTERRUPTED);
            }
        }
    });
    Ok(token)
}

/// Waits until every task of `tracker` has ended, for [`GRACE`] at most. Whether they have.
pub async fn finish(tracker: &TaskTracker) -> bool {
    tracker.close();
    let ended = tokio::time::timeout(GRACE, tracker.wait()).await.is_ok();
    if !ended {
        warn!(tasks = tracker.len(), "did not end in {} s: left alone", GRACE.as_secs());
    }
    ended
}
