//! Length-prefixed frames (PROTOCOL 2): a `u32`, little endian, then that many bytes.
//!
//! Both halves keep their partial state in themselves, so that every method may be used in `select!`.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::limits::{FRAME_COLLECT_BYTES, FRAME_RESERVE_BYTES};

/// Bytes of the length before each frame.
pub const FRAME_HEADER_BYTES: usize = 4;

/// Why a frame could not be read or written. Every variant but a writer's `TooLarge` ends the stream.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is longer than allowed. A reader has reserved nothing for it and cannot go on; a writer has queued
    /// nothing and can.
    #[error("a frame of {len} bytes exceeds the limit of {cap}")]
    TooLarge {
        /// Bytes of the frame.
        len: usize,
        /// Bytes allowed.
        cap: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The stream ended between two frames: the regular end.
    #[error("the stream was closed")]
    Closed,
    /// The peer took no byte for as long as [`FrameWriter::with_stall`] allows.
    #[error("the peer takes no bytes")]
    Stalled,
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] io::Error),
}

/// Reads frames of at most `cap` bytes.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    cap: usize,
    header: [u8; FRAME_HEADER_BYTES],
    header_len: usize,
    /// Set once the header is complete and within the cap: bytes of the frame, and what has arrived of it.
    body: Option<(usize, BytesMut)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that refuses frames longer than `cap` bytes.
    pub fn new(inner: R, cap: usize) -> Self {
        Self { inner, cap, header: [0; FRAME_HEADER_BYTES], header_len: 0, body: None }
    }

    /// Changes the cap for the frames whose length has not been read yet.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// The stream; what was read of an unfinished frame is lost.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next frame. Cancel safe: what was read stays in `self`, and the next call goes on from there.
    ///
    /// # Errors
    /// `Closed` at the regular end, `Truncated` at an end within a frame, `TooLarge` before anything is reserved.
    pub async fn read(&mut self) -> Result<Bytes, FrameError> {
        loop {
            match self.body.take() {
                Some((len, body)) if body.len() == len => {
                    self.header_len = 0;
                    return Ok(body.freeze());
                }
                Some((len, body)) => {
                    let (_, body) = self.body.insert((len, body));
                    Self::read_body(&mut self.inner, len, body).await?;
                }
                None => self.read_header().await?,
            }
        }
    }

    async fn read_header(&mut self) -> Result<(), FrameError> {
        while let Some(rest) = self.header.get_mut(self.header_len..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest).await? {
                0 if self.header_len == 0 => return Err(FrameError::Closed),
                0 => return Err(FrameError::Truncated),
                read => self.header_len += read,
            }
        }
        let len = usize::try_from(u32::from_le_bytes(self.header)).unwrap_or(usize::MAX);
        if len > self.cap {
            return Err(FrameError::TooLarge { len, cap: self.cap });
        }
        self.body = Some((len, BytesMut::with_capacity(len.min(FRAME_RESERVE_BYTES))));
        Ok(())
    }

    async fn read_body(inner: &mut R, len: usize, body: &mut BytesMut) -> Result<(), FrameError> {
        let missing = len - body.len();
        if body.len() == body.capacity() {
            body.reserve(missing.min(body.len()));
        }
        // `read_buf` either has read nothing when it is dropped, or has put what it read into `body`.
        match inner.read_buf(&mut body.limit(missing)).await? {
            0 => Err(FrameError::Truncated),
            _ => Ok(()),
        }
    }
}

/// Writes frames of at most `cap` bytes.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    cap: usize,
    collected: BytesMut,
    stall: Option<Duration>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer that refuses frames longer than `cap` bytes, so that the peer's reader never has to.
    pub fn new(inner: W, cap: usize) -> Self {
        Self { inner, cap: cap.min(u32::MAX as usize), collected: BytesMut::new(), stall: None }
    }

    /// Gives up once the peer has taken no byte for `stall`, with [`FrameError::Stalled`]. A peer that is slow, but takes
    /// some, is never given up: without progress in each step, a large frame over a slow link would fail for ever.
    pub fn with_stall(self, stall: Duration) -> Self {
        Self { stall: Some(stall), ..self }
    }

    /// Adds a frame to what the next [`flush`](Self::flush) sends; writes on its own once much is collected.
    ///
    /// Cancel safe: if it is dropped, the whole frame is queued.
    ///
    /// # Errors
    /// `TooLarge`, when nothing is queued and the writer stays usable; `Io` or `Stalled`.
    pub async fn feed(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        let len = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= self.cap);
        let Some(len) = len else { return Err(FrameError::TooLarge { len: frame.len(), cap: self.cap }) };
        self.collected.reserve(FRAME_HEADER_BYTES + frame.len());
        self.collected.put_u32_le(len);
        self.collected.put_slice(frame);
        if self.collected.len() >= FRAME_COLLECT_BYTES { self.drain().await } else { Ok(()) }
    }

    /// Sends everything that was fed. Cancel safe: a later call goes on from where it stopped.
    ///
    /// # Errors
    /// `Io` or `Stalled`.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        self.drain().await?;
        in_time(self.stall, self.inner.flush()).await
    }

    /// [`feed`](Self::feed) and [`flush`](Self::flush). If it is dropped, the frame is queued or sent, never lost.
    ///
    /// # Errors
    /// As for `feed`.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Flushes and ends the stream; the peer's reader then reports `Closed`.
    ///
    /// # Errors
    /// `Io` or `Stalled`.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        self.drain().await?;
        in_time(self.stall, self.inner.shutdown()).await
    }

    /// The stream; what was fed and not flushed is lost.
    pub fn into_inner(self) -> W {
        self.inner
    }

    async fn drain(&mut self) -> Result<(), FrameError> {
        while self.collected.has_remaining() {
            // `write_buf` either has written nothing when it is dropped, or has taken what it wrote out of `collected`.
            if in_time(self.stall, self.inner.write_buf(&mut self.collected)).await? == 0 {
                return Err(FrameError::Io(io::ErrorKind::WriteZero.into()));
            }
        }
        if self.collected.capacity() > 2 * FRAME_COLLECT_BYTES {
            self.collected = BytesMut::new();
        }
        Ok(())
    }
}

/// One step of writing, within `stall`.
async fn in_time<T>(stall: Option<Duration>, step: impl Future<Output = io::Result<T>>) -> Result<T, FrameError> {
    let done = match stall {
        Some(stall) => tokio::time::timeout(stall, step).await.map_err(|_| FrameError::Stalled)?,
        None => step.await,
    };
    Ok(done?)
}
