//! A service's log: what it wrote to stdout and stderr, the newest part of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::{LOG_BYTES_MAX, LOG_LINE_BYTES_MAX};

/// Which of the two streams a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// One line of a service's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Counts the service's lines on this host from 0; a gap means that lines were dropped.
    pub number: u64,
    /// When its first byte was written: nanoseconds since the Unix epoch by the host's clock.
    pub at_ns: u64,
    /// Where it was written to.
    pub stream: LogStream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// A handle to one service's log, to write and to read. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LogTail(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next: u64,
    /// What was written to each stream since its last line end, and when that began.
    partial: [(u64, Vec<u8>); 2],
}

impl LogTail {
    /// The kept lines from number `first` on, oldest first.
    pub fn since(&self, first: u64) -> Vec<LogLine> {
        self.lock().lines.iter().filter(|line| line.number >= first).cloned().collect()
    }

    /// Appends what the service wrote; `at_ns` is the host's time.
    pub(crate) fn write(&self, stream: LogStream, at_ns: u64, bytes: &[u8]) {
        let mut ring = self.lock();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece.chunks(LOG_LINE_BYTES_MAX) {
                ring.write(stream, at_ns, part);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Takes at most a line: `part` has no line end but its last byte.
    fn write(&mut self, stream: LogStream, at_ns: u64, part: &[u8]) {
        let (began_ns, partial) = &mut self.partial[stream as usize];
        if partial.is_empty() {
            *began_ns = at_ns;
        }
        let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
        partial.extend_from_slice(text);
        if !ended && partial.len() < LOG_LINE_BYTES_MAX {
            return;
        }
        let at_ns = *began_ns;
        let bytes = std::mem::take(partial);
        for line in bytes.chunks(LOG_LINE_BYTES_MAX) {
            self.push(stream, at_ns, String::from_utf8_lossy(line).into_owned());
        }
        if bytes.is_empty() {
            self.push(stream, at_ns, String::new());
        }
    }

    fn push(&mut self, stream: LogStream, at_ns: u64, text: String) {
        self.bytes += text.len() + size_of::<LogLine>();
        self.lines.push_back(LogLine { number: self.next, at_ns, stream, text });
        self.next += 1;
        while self.bytes > LOG_BYTES_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len() + size_of::<LogLine>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &LogTail) -> Vec<String> {
        log.since(0).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_joined_over_writes_and_kept_apart_by_stream() {
        let log = LogTail::default();
        log.write(LogStream::Stdout, 1, b"one ");
        log.write(LogStream::Stderr, 2, b"error\n\n");
        log.write(LogStream::Stdout, 3, b"line\nnext");
        assert_eq!(texts(&log), ["error", "", "one line"]);
        let last = log.since(2);
        assert_eq!((last[0].at_ns, last[0].stream), (1, LogStream::Stdout));
    }

    #[test]
    fn a_long_line_is_broken_and_old_lines_go() {
        let log = LogTail::default();
        log.write(LogStream::Stdout, 0, &vec![b'x'; LOG_LINE_BYTES_MAX + 1]);
        log.write(LogStream::Stdout, 0, b"\n");
        assert_eq!(texts(&log).iter().map(String::len).collect::<Vec<_>>(), [LOG_LINE_BYTES_MAX, 1]);
        for _ in 0..LOG_BYTES_MAX {
            log.write(LogStream::Stdout, 0, b"0123456789\n");
        }
        let kept = log.since(0);
        assert!(kept.len() * (10 + size_of::<LogLine>()) <= LOG_BYTES_MAX);
        assert_eq!(kept.last().map(|line| line.number), Some(LOG_BYTES_MAX as u64 + 1));
    }
}
