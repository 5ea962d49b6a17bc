//! A connection with delay: the stream that the dialler holds, and the two tasks that carry its lanes to and from TCP.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Link;
use super::lane::{End, Head, Lane, PIECE_BYTES_MAX};
use super::timer::{Sleep, Timer};

/// The dialler's end of a delayed connection.
///
/// Dropping it closes the connection as TCP would: what was written still arrives, in its time.
#[derive(Debug)]
pub struct Delayed {
    link: Link,
    timer: Timer,
    outward: Arc<Lane>,
    inward: Arc<Lane>,
    /// The rest of a piece that has arrived and was not read in full.
    arrived: Bytes,
    sleep: Option<Sleep>,
    /// Stops the reading task; the writing task ends by itself.
    _reading: DropGuard,
}

impl Delayed {
    pub(super) fn spawn(
        tcp: TcpStream,
        link: Link,
        timer: Timer,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let (outward, inward) = (Arc::new(Lane::new(now)), Arc::new(Lane::new(now)));
        let (read_half, write_half) = tcp.into_split();
        let reading = shutdown.child_token();
        let read = carry_in(read_half, link.clone(), Arc::clone(&inward));
        tracker.spawn(reading.clone().run_until_cancelled_owned(read));
        let write = carry_out(write_half, link.clone(), timer.clone(), Arc::clone(&outward));
        tracker.spawn(shutdown.clone().run_until_cancelled_owned(write));
        Self { link, timer, outward, inward, arrived: Bytes::new(), sleep: None, _reading: reading.drop_guard() }
    }

    /// Waits until something has arrived; `None` at the end.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match ready!(self.inward.poll_head(Instant::now(), cx)) {
                Head::Piece(piece) => {
                    self.arrived = piece;
                    return Poll::Ready(Ok(true));
                }
                Head::Later(due) => {
                    let sleep = match self.sleep.take() {
                        Some(sleep) if sleep.deadline() == due => sleep,
                        _ => self.timer.sleep_until(due),
                    };
                    ready!(Pin::new(self.sleep.insert(sleep)).poll(cx));
                    self.sleep = None;
                }
                Head::End(End::Closed) => return Poll::Ready(Ok(false)),
                Head::End(End::Failed(failure)) => return Poll::Ready(Err(failure.into())),
            }
        }
    }
}

impl AsyncRead for Delayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut any = false;
        while buf.remaining() > 0 {
            if self.arrived.is_empty() {
                match self.poll_arrived(cx) {
                    Poll::Ready(Ok(true)) => continue,
                    // What was read so far is handed out first; the next read finds the same again.
                    Poll::Ready(_) | Poll::Pending if any => break,
                    Poll::Ready(Ok(false)) => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let count = self.arrived.len().min(buf.remaining());
            buf.put_slice(&self.arrived[..count]);
            self.arrived.advance(count);
            any = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.outward.poll_room(cx))?.min(buf.len());
        let due = Instant::now() + self.link.one_way()?;
        self.outward.send(Bytes::copy_from_slice(&buf[..count]), due);
        Poll::Ready(Ok(count))
    }

    /// At once: what is written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Delayed {
    fn finish(&self) {
        let one_way = self.link.one_way().unwrap_or_default();
        self.outward.finish(End::Closed, Instant::now() + one_way);
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Takes what TCP delivers, stamps it and sends it down the lane, until the end.
async fn carry_in(tcp: OwnedReadHalf, link: Link, lane: Arc<Lane>) {
    let end = loop {
        let step = async {
            let room_bytes = poll_fn(|cx| lane.poll_room(cx)).await?;
            tcp.readable().await?;
            let piece = try_read(&tcp, room_bytes)?;
            Ok::<_, io::Error>((piece, link.one_way()?))
        };
        match step.await {
            Ok((Some(piece), _)) if piece.is_empty() => break End::Closed,
            Ok((Some(piece), one_way)) => lane.send(piece, Instant::now() + one_way),
            Ok((None, _)) => {}
            Err(error) => break End::Failed(error.into()),
        }
    };
    lane.finish(end, Instant::now() + link.one_way().unwrap_or_default());
}

/// What is there to read, `None` if nothing after all, empty at the end. A buffer exists only while it is being filled.
fn try_read(tcp: &OwnedReadHalf, room_bytes: usize) -> io::Result<Option<Bytes>> {
    let mut buffer = [0; PIECE_BYTES_MAX];
    match tcp.try_read(&mut buffer[..room_bytes.min(PIECE_BYTES_MAX)]) {
        Ok(count) => Ok(Some(Bytes::copy_from_slice(&buffer[..count]))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hands each piece of the lane to TCP when it is due, until the end. The dialler hears of a failure one way later.
async fn carry_out(mut tcp: OwnedWriteHalf, link: Link, timer: Timer, lane: Arc<Lane>) {
    let result = loop {
        match poll_fn(|cx| lane.poll_head(Instant::now(), cx)).await {
            Head::Piece(piece) => {
                if let Err(error) = tcp.write_all(&piece).await {
                    break Err(error);
                }
            }
            Head::Later(due) => timer.sleep_until(due).await,
            Head::End(_) => break tcp.shutdown().await,
        }
    };
    if let Err(error) = result {
        timer.sleep_until(Instant::now() + link.one_way().unwrap_or_default()).await;
        lane.fail(error.into());
    }
}
