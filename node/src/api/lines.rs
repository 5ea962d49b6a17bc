//! Answers that go on: one JSON object on each line, for as long as something happens and somebody reads.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::mpsc;

/// Lines that a slow reader may fall behind: then the sender waits.
const LINES_MAX: usize = 64;

/// The writing end. Dropped, it ends the answer.
#[derive(Clone, Debug)]
pub(super) struct Lines(mpsc::Sender<Bytes>);

impl Lines {
    /// Sends a line. False if nobody reads any more.
    pub(super) async fn send(&self, line: &impl Serialize) -> bool {
        // What cannot be JSON is a defect of this program: the reader sees the answer end.
        let Ok(mut text) = serde_json::to_vec(line) else { return false };
        text.push(b'\n');
        self.0.send(text.into()).await.is_ok()
    }

    /// Returns once nobody reads any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// An answer, and where its lines are written.
pub(super) fn lines() -> (Lines, Response) {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    let next = |mut receiver: mpsc::Receiver<Bytes>| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    };
    let body = Body::from_stream(futures::stream::unfold(receiver, next));
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    (Lines(sender), (headers, body).into_response())
}
