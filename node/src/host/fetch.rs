//! Modules on their way to a host that is to update a service: one stream each, from the node that passed the order on.
//!
//! The host says which module, and who it is; the answer is a length, zero if the module is not there, and as many bytes.
//! What has not the hash that the owner's manifest names is never compiled.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use wayfare_net::{FrameError, FrameReader, FrameWriter, Net, Protocol, Stream};
use wayfare_protocol::{
    host::FetchJob,
    ids::HostId,
    limits::{MODULE_BYTES_MAX, RECORD_BYTES_MAX},
    order::ModuleRequest,
    reject::{Reject, Strict},
    suite::Dalek,
    trust::{Certificate, Role, Signed, TrustBundle},
    wire::{self, Wire},
};

use super::{modules, restore::Code};
use crate::{clock::now, runtime::Prepared, words::describe};

/// Modules that are sent at a time. More: the stream is dropped, and the host asks again.
pub(super) const SERVED_MAX: usize = 4;
/// A stream that moves no byte for so long has failed.
const STALL: Duration = Duration::from_secs(10);
/// For how long a module is asked for, again and again, before the update is refused.
const FETCH_TIME: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The module of `job`, from here or from the node that has it, checked, compiled and on disk.
pub(super) async fn bring(
    code: Code,
    job: FetchJob,
    net: Net,
    certificate: Signed<Certificate>,
) -> Result<(Vec<u8>, Prepared), String> {
    let (dir, digest) = (code.modules.clone(), job.code);
    let here = match &code.module {
        Some(module) => Some(module.to_vec()),
        None => blocking(move || modules::read(&dir, digest)).await?,
    };
    let module = match here {
        Some(module) => module,
        None => fetch(&net, &job, certificate).await?,
    };
    blocking(move || {
        let prepared = code.driver.prepare(&module, job.memory_bytes);
        let prepared = prepared.map_err(|error| format!("bad_module: {}", describe(&error)))?;
        modules::store(&code.modules, &module).map_err(|error| format!("not_saved: {error}"))?;
        Ok((module, prepared))
    })
    .await?
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// Asks until the module is here, or the time is up, or the node says that it has none.
async fn fetch(net: &Net, job: &FetchJob, certificate: Signed<Certificate>) -> Result<Vec<u8>, String> {
    let (until, from) = (Instant::now() + FETCH_TIME, job.from);
    let refused = |why: &str| format!("no_module: the node {from:#}, which passed the update on, {why}");
    if from == net.host_id() {
        return Err(format!("no_module: the module {} is not kept here", job.code));
    }
    let request = wire::encode(&ModuleRequest { code: job.code, certificate });
    loop {
        let error = match attempt(net, job, &request).await {
            Ok(Some(module)) if modules::module_digest(&module) == job.code => return Ok(module),
            Ok(Some(_)) => return Err(refused("sent another module than the manifest names")),
            Ok(None) => return Err(refused("does not have the module any more")),
            Err(error) => error,
        };
        if Instant::now() + PAUSE >= until {
            return Err(refused(&format!("cannot be reached: {error}")));
        }
        sleep(PAUSE).await;
    }
}

/// Asks once. `None`: the node has no such module.
async fn attempt(net: &Net, job: &FetchJob, request: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let stream = net.open(job.from, &job.addresses, Protocol::Module).await.map_err(|error| describe(&error))?;
    let (reading, writing) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(writing, ModuleRequest::LIMIT).with_stall(STALL);
    writer.send(request).await.map_err(|error| describe(&error))?;
    let mut reader = FrameReader::new(reading, RECORD_BYTES_MAX);
    let length = read(&mut reader).await?;
    let length: [u8; 8] = length.as_ref().try_into().map_err(|_| "an answer without a length")?;
    let length = u64::from_le_bytes(length);
    if length > MODULE_BYTES_MAX {
        return Err(format!("a module of {length} bytes, longer than a module may be"));
    }
    let (length, mut module) = (usize::try_from(length).map_err(|error| error.to_string())?, Vec::new());
    while module.len() < length {
        let piece = read(&mut reader).await?;
        if piece.is_empty() || module.len() + piece.len() > length {
            return Err("an answer of another length than it said".to_owned());
        }
        module.extend_from_slice(&piece);
    }
    Ok((length > 0).then_some(module))
}

async fn read<R: tokio::io::AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<bytes::Bytes, String> {
    let frame = timeout(STALL, reader.read()).await.map_err(|_| "it sends nothing")?;
    frame.map_err(|error| describe(&error))
}

/// Answers a host that asks for a module of `dir`.
///
/// # Errors
/// Why the asker gets nothing. A stream that fails is nobody's fault.
pub(super) async fn send(peer: HostId, stream: Stream, bundle: &TrustBundle, dir: PathBuf) -> Result<(), Reject> {
    let (reading, writing) = tokio::io::split(stream);
    let request = match timeout(STALL, FrameReader::new(reading, ModuleRequest::LIMIT).read()).await {
        Ok(Ok(request)) => request,
        Ok(Err(FrameError::TooLarge { .. })) => return Err(Reject::FrameTooLarge),
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    let ModuleRequest { code, certificate } = wire::decode(&request)?;
    bundle.verify_certificate::<Dalek, Strict>(&certificate, peer, &[Role::Cloud, Role::Home], now().wall)?;
    let module = blocking(move || modules::read(&dir, code)).await.ok().flatten().unwrap_or_default();
    let mut writer = FrameWriter::new(writing, RECORD_BYTES_MAX).with_stall(STALL);
    // Who goes away asks again.
    let _ = write(&mut writer, &module).await;
    Ok(())
}

async fn write<W: tokio::io::AsyncWrite + Unpin>(writer: &mut FrameWriter<W>, module: &[u8]) -> Result<(), FrameError> {
    writer.feed(&(module.len() as u64).to_le_bytes()).await?;
    for piece in module.chunks(RECORD_BYTES_MAX) {
        writer.feed(piece).await?;
    }
    writer.finish().await
}
