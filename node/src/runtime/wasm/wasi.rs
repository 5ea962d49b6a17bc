//! WASI preview 1, the part that a service may use: clocks, random, arguments, environment, stdout and stderr.
//!
//! There are no files, so a file descriptor is 1 or 2 or bad. What a function answers depends only on its arguments, the
//! launch and the recorded inputs: nothing else of this host can reach a service's state.

use wasmtime::{Caller, Extern, Linker, Memory};

use super::executor::Context;
use crate::runtime::LogStream;
use crate::runtime::outside::TapeError;

/// The module name of all imports.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// A function that a service may import.
pub(super) struct Offered {
    pub(super) name: &'static str,
    /// Its type in letters, parameters and results: `i` for i32, `I` for i64.
    pub(super) ty: &'static str,
}

/// Everything that a service may import.
pub(super) const OFFERED: [Offered; 12] = [
    Offered { name: "args_get", ty: "ii:i" },
    Offered { name: "args_sizes_get", ty: "ii:i" },
    Offered { name: "clock_res_get", ty: "ii:i" },
    Offered { name: "clock_time_get", ty: "iIi:i" },
    Offered { name: "environ_get", ty: "ii:i" },
    Offered { name: "environ_sizes_get", ty: "ii:i" },
    Offered { name: "fd_close", ty: "i:i" },
    Offered { name: "fd_fdstat_get", ty: "ii:i" },
    Offered { name: "fd_seek", ty: "iIii:i" },
    Offered { name: "fd_write", ty: "iiii:i" },
    Offered { name: "proc_exit", ty: "i:" },
    Offered { name: "random_get", ty: "ii:i" },
];

/// `errno` values of preview 1.
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const SPIPE: i32 = 70;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_RESOLUTION_NS: u64 = 1;

const FILETYPE_CHARACTER_DEVICE: u8 = 2;
const FDFLAGS_APPEND: u16 = 1;
const RIGHTS_FD_WRITE: u64 = 1 << 6;

/// Pieces that one `fd_write` may gather, as for `writev` elsewhere.
const IOVECS_MAX: u32 = 1024;

/// Why a host function ends the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostTrap {
    #[error("exit with code {0}")]
    Exit(u32),
    #[error(transparent)]
    Tape(#[from] TapeError),
    #[error("the export `memory` is gone")]
    NoMemory,
}

type Host<'a> = Caller<'a, Context>;
type Answer = wasmtime::Result<i32>;

/// Defines [`OFFERED`].
pub(super) fn define(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "args_get", |mut host: Host<'_>, pointers: u32, bytes: u32| -> Answer {
        strings(&mut host, |context| &context.args, pointers, bytes)
    })?;
    linker.func_wrap(MODULE, "args_sizes_get", |mut host: Host<'_>, count: u32, size: u32| -> Answer {
        sizes(&mut host, |context| &context.args, count, size)
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut host: Host<'_>, pointers: u32, bytes: u32| -> Answer {
        strings(&mut host, |context| &context.env, pointers, bytes)
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |mut host: Host<'_>, count: u32, size: u32| -> Answer {
        sizes(&mut host, |context| &context.env, count, size)
    })?;
    linker.func_wrap(MODULE, "clock_res_get", |mut host: Host<'_>, clock: i32, out: u32| -> Answer {
        if !matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC) {
            return Ok(INVAL);
        }
        let (memory, _) = split(&mut host)?;
        Ok(put(memory, out, &CLOCK_RESOLUTION_NS.to_le_bytes()))
    })?;
    linker.func_wrap(MODULE, "clock_time_get", |mut host: Host<'_>, clock: i32, _: u64, out: u32| -> Answer {
        let (memory, context) = split(&mut host)?;
        let reading = match clock {
            CLOCK_REALTIME => context.tape.realtime(&*context.outside),
            CLOCK_MONOTONIC => context.tape.monotonic(&*context.outside),
            _ => return Ok(INVAL),
        };
        let now = reading.map_err(|error| wasmtime::Error::new(HostTrap::from(error)))?;
        Ok(put(memory, out, &now.to_le_bytes()))
    })?;
    linker.func_wrap(MODULE, "random_get", |mut host: Host<'_>, out: u32, len: u32| -> Answer {
        let (memory, context) = split(&mut host)?;
        let Some(out) = slice_mut(memory, out, len) else { return Ok(FAULT) };
        let filled = context.tape.random(&*context.outside, out);
        filled.map(|()| SUCCESS).map_err(|error| wasmtime::Error::new(HostTrap::from(error)))
    })?;
    linker.func_wrap(MODULE, "fd_write", |mut host: Host<'_>, fd: i32, vecs: u32, count: u32, out: u32| -> Answer {
        let (memory, context) = split(&mut host)?;
        Ok(write(memory, context, fd, vecs, count).map_or_else(|errno| errno, |n| put(memory, out, &n.to_le_bytes())))
    })?;
    linker.func_wrap(MODULE, "fd_close", |_: Host<'_>, fd: i32| -> i32 {
        // A service may say that it is done with stdout; what it writes later is kept all the same.
        if stream(fd).is_some() { SUCCESS } else { BADF }
    })?;
    linker.func_wrap(MODULE, "fd_seek", |_: Host<'_>, fd: i32, _: i64, _: i32, _: i32| -> i32 {
        if stream(fd).is_some() { SPIPE } else { BADF }
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut host: Host<'_>, fd: i32, out: u32| -> Answer {
        if stream(fd).is_none() {
            return Ok(BADF);
        }
        // struct fdstat: filetype u8, flags u16 at 2, base rights u64 at 8, inheriting rights u64 at 16.
        let mut stat = [0; 24];
        stat[0] = FILETYPE_CHARACTER_DEVICE;
        stat[2..4].copy_from_slice(&FDFLAGS_APPEND.to_le_bytes());
        stat[8..16].copy_from_slice(&RIGHTS_FD_WRITE.to_le_bytes());
        let (memory, _) = split(&mut host)?;
        Ok(put(memory, out, &stat))
    })?;
    linker.func_wrap(MODULE, "proc_exit", |_: Host<'_>, code: u32| -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(HostTrap::Exit(code)))
    })?;
    Ok(())
}

/// The service's memory 0 and the host's data, apart.
fn split<'a>(host: &'a mut Host<'_>) -> wasmtime::Result<(&'a mut [u8], &'a mut Context)> {
    let memory: Option<Memory> = host.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| wasmtime::Error::new(HostTrap::NoMemory))?;
    Ok(memory.data_and_store_mut(host))
}

fn slice(memory: &[u8], at: u32, len: u32) -> Option<&[u8]> {
    memory.get(at as usize..)?.get(..len as usize)
}

fn slice_mut(memory: &mut [u8], at: u32, len: u32) -> Option<&mut [u8]> {
    memory.get_mut(at as usize..)?.get_mut(..len as usize)
}

fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> i32 {
    let Some(out) = memory.get_mut(at as usize..).and_then(|rest| rest.get_mut(..bytes.len())) else { return FAULT };
    out.copy_from_slice(bytes);
    SUCCESS
}

fn stream(fd: i32) -> Option<LogStream> {
    match fd {
        1 => Some(LogStream::Stdout),
        2 => Some(LogStream::Stderr),
        _ => None,
    }
}

/// The number of bytes written, or an errno.
fn write(memory: &[u8], context: &Context, fd: i32, vecs: u32, count: u32) -> Result<u32, i32> {
    let stream = stream(fd).ok_or(BADF)?;
    if count > IOVECS_MAX {
        return Err(INVAL);
    }
    let vecs = slice(memory, vecs, count * 8).ok_or(FAULT)?;
    let mut written = 0u32;
    for &[a, b, c, d, e, f, g, h] in vecs.as_chunks::<8>().0 {
        let (at, len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let bytes = slice(memory, at, len).ok_or(FAULT)?;
        written = written.checked_add(len).ok_or(INVAL)?;
        context.log(stream, bytes);
    }
    Ok(written)
}

/// Writes NUL-terminated strings to `bytes` and the pointers to them to `pointers`.
fn strings(host: &mut Host<'_>, list: fn(&Context) -> &[Vec<u8>], mut pointers: u32, mut bytes: u32) -> Answer {
    let (memory, context) = split(host)?;
    for string in list(context) {
        if put(memory, pointers, &bytes.to_le_bytes()) != SUCCESS || put(memory, bytes, string) != SUCCESS {
            return Ok(FAULT);
        }
        let len = u32::try_from(string.len()).unwrap_or(u32::MAX);
        (pointers, bytes) = (pointers.saturating_add(4), bytes.saturating_add(len));
    }
    Ok(SUCCESS)
}

/// Writes how many strings there are, and how many bytes they take.
fn sizes(host: &mut Host<'_>, list: fn(&Context) -> &[Vec<u8>], count: u32, size: u32) -> Answer {
    let (memory, context) = split(host)?;
    let strings = list(context);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let bytes = strings.iter().map(Vec::len).sum();
    let first = put(memory, count, &number(strings.len()));
    Ok(if first == SUCCESS { put(memory, size, &number(bytes)) } else { first })
}
