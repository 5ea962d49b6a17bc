//! One direction of a delayed connection: a bounded queue of pieces, each with the time at which it arrives.
//!
//! Pieces leave in the order in which they came, each no earlier than due, also when the delay has dropped between two
//! of them. The end, clean or not, is queued like a piece and so arrives last. A full lane makes the sender wait.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

/// The most bytes on their way in one direction of one connection; the sender waits beyond it. At an RTT of 40 ms this
/// bounds throughput to 400 MiB/s, at 300 ms to 53 MiB/s.
pub const LANE_BYTES_MAX: usize = 8 << 20;
/// The longest piece, in bytes.
pub(super) const PIECE_BYTES_MAX: usize = 64 << 10;
/// What a piece counts for beside its bytes, so that many small ones are bounded as well.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// How a direction ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The sender has finished.
    Closed,
    /// The connection has failed.
    Failed(Failure),
}

/// An `io::Error` that can be told more than once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    message: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}

/// What stands at the head of a lane.
#[derive(Debug)]
pub(super) enum Head {
    /// This has arrived and is taken out.
    Piece(Bytes),
    /// The next arrives then.
    Later(Instant),
    /// The end has arrived; it stays.
    End(End),
}

/// A queue between one sender and one receiver. The lock is held for queue operations only.
#[derive(Debug)]
pub(super) struct Lane(Mutex<State>);

#[derive(Debug)]
struct State {
    pieces: VecDeque<(Instant, Bytes)>,
    weight_bytes: usize,
    last_due: Instant,
    end: Option<(Instant, End)>,
    /// Why nothing can be delivered any more.
    broken: Option<Failure>,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

impl Lane {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            pieces: VecDeque::new(),
            weight_bytes: 0,
            last_due: now,
            end: None,
            broken: None,
            sender: None,
            receiver: None,
        }))
    }

    /// How many bytes the next piece may have, at least 1; waits while the lane is full.
    ///
    /// # Errors
    /// The lane is broken or has ended.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if let Some(failure) = &state.broken {
            return Poll::Ready(Err(failure.clone().into()));
        }
        if state.end.is_some() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the connection was shut down for writing",
            )));
        }
        let room_bytes = LANE_BYTES_MAX.saturating_sub(state.weight_bytes + PIECE_OVERHEAD_BYTES);
        if room_bytes == 0 {
            state.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room_bytes.min(PIECE_BYTES_MAX)))
    }

    /// Sends a piece that arrives at `due`, or with the piece before it if that is later.
    pub(super) fn send(&self, piece: Bytes, due: Instant) {
        let mut state = self.lock();
        state.last_due = state.last_due.max(due);
        state.weight_bytes += piece.len() + PIECE_OVERHEAD_BYTES;
        let due = state.last_due;
        state.pieces.push_back((due, piece));
        wake(state.receiver.take(), state);
    }

    /// Ends the lane behind all pieces. Only the first end counts.
    pub(super) fn finish(&self, end: End, due: Instant) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.last_due = state.last_due.max(due);
            state.end = Some((state.last_due, end));
            wake(state.receiver.take(), state);
        }
    }

    /// Tells the sender that nothing more arrives, and drops what is on its way.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.pieces.clear();
        state.weight_bytes = 0;
        state.broken = Some(failure);
        wake(state.sender.take(), state);
    }

    /// The head of the lane; waits while the lane is empty and has not ended.
    pub(super) fn poll_head(&self, now: Instant, cx: &mut Context<'_>) -> Poll<Head> {
        let mut state = self.lock();
        match state.pieces.front() {
            Some(&(due, _)) if due > now => return Poll::Ready(Head::Later(due)),
            Some(_) => {}
            None => {
                return match &state.end {
                    Some((due, _)) if *due > now => Poll::Ready(Head::Later(*due)),
                    Some((_, end)) => Poll::Ready(Head::End(end.clone())),
                    None => {
                        state.receiver = Some(cx.waker().clone());
                        Poll::Pending
                    }
                };
            }
        }
        let piece = state.pieces.pop_front().map(|(_, piece)| piece).unwrap_or_default();
        state.weight_bytes -= piece.len() + PIECE_OVERHEAD_BYTES;
        wake(state.sender.take(), state);
        Poll::Ready(Head::Piece(piece))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes outside of the lock.
fn wake(waker: Option<Waker>, state: MutexGuard<'_, State>) {
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn head(lane: &Lane, now: Instant) -> String {
        match lane.poll_head(now, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Head::Piece(piece)) => String::from_utf8(piece.to_vec()).unwrap(),
            Poll::Ready(Head::Later(due)) => format!("in {}", (due - now).as_millis()),
            Poll::Ready(Head::End(end)) => format!("{end:?}"),
            Poll::Pending => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_piece_never_overtakes_and_the_end_comes_last() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let lane = Lane::new(start);
        assert_eq!(head(&lane, start), "nothing");
        lane.send(Bytes::from_static(b"slow"), at(50));
        lane.send(Bytes::from_static(b"fast"), at(5));
        lane.finish(End::Closed, at(6));
        lane.finish(End::Failed(io::Error::other("late").into()), at(7));
        assert_eq!(head(&lane, at(10)), "in 40");
        assert_eq!([head(&lane, at(50)), head(&lane, at(50))], ["slow", "fast"]);
        assert_eq!([head(&lane, at(49)), head(&lane, at(50)), head(&lane, at(51))], ["in 1", "Closed", "Closed"]);
    }

    #[test]
    fn a_full_lane_waits_and_small_pieces_count() {
        let start = Instant::now();
        let lane = Lane::new(start);
        let room = || lane.poll_room(&mut Context::from_waker(Waker::noop()));
        let mut sent = 0;
        while let Poll::Ready(room_bytes) = room() {
            assert!((1..=PIECE_BYTES_MAX).contains(&room_bytes.unwrap()));
            lane.send(Bytes::from_static(b"x"), start);
            sent += 1;
        }
        assert_eq!(sent, LANE_BYTES_MAX.div_ceil(PIECE_OVERHEAD_BYTES + 1) - 1);
        assert_eq!(head(&lane, start), "x");
        assert!(room().is_ready());
        lane.fail(io::Error::new(io::ErrorKind::ConnectionReset, "gone").into());
        let Poll::Ready(Err(error)) = room() else { panic!("a broken lane has no room") };
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::ConnectionReset, "gone".to_owned()));
    }
}
