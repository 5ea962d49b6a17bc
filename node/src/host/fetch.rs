//! Modules on their way to a host that is to update a service: one stream each, from the node that passed the order on.
//!
//! The host says which module, and who it is; the answer is a length, zero if the module is not there, and as many bytes.
//! What has not the hash that the owner's manifest names is never compiled.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use wayfare_net::{FrameError, FrameReader, FrameWriter, Net, Protocol, Stream};
use wayfare_protocol::{
    host::FetchJob,
    limits::{MODULE_BYTES_MAX, RECORD_BYTES_MAX},
    order::ModuleRequest,
    reject::{Reject, Strict},
    suite::Dalek,
    trust::{Certificate, Role, Signed, TrustBundle},
    wire::{self, Wire},
};

use super::{beginning::Turn, modules, restore::Code};
use crate::{clock::now, runtime::Prepared, words::describe};

/// Modules that are sent at a time, to hosts that have shown a certificate. More: the stream is dropped, and the host asks
/// again.
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
/// Why the asker gets nothing. A stream that fails is nobody's fault; where too many are answered, the asker asks again.
pub(super) async fn send(
    turn: Turn,
    stream: Stream,
    bundle: &TrustBundle,
    dir: PathBuf,
    serving: &Semaphore,
    net: &Net,
) -> Result<(), Reject> {
    let (reading, writing) = tokio::io::split(stream);
    let request = match timeout(STALL, FrameReader::new(reading, ModuleRequest::LIMIT).read()).await {
        Ok(Ok(request)) => request,
        Ok(Err(FrameError::TooLarge { .. })) => return Err(Reject::FrameTooLarge),
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    let ModuleRequest { code, certificate } = wire::decode(&request)?;
    let peer = turn.peer();
    bundle.verify_certificate::<Dalek, Strict>(&certificate, peer, &[Role::Cloud, Role::Home], now().wall)?;
    net.vouch(peer);
    drop(turn);
    let Ok(_permit) = serving.try_acquire() else { return Ok(()) };
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

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use tokio_util::sync::CancellationToken;
    use wayfare_net::NetConfig;
    use wayfare_protocol::{
        ids::{CloudId, Digest, Epoch, HostId, RegistryId, ServiceId},
        suite::{Secret, Suite},
        time::{Micros, Timestamp},
        trust::{Anchor, Receiver},
    };

    use super::*;
    use crate::host::beginning::Beginning;
    use crate::runtime::{Driver, Launch, wasm::WasmDriver};

    const REGISTRY: RegistryId = RegistryId([3; 32]);
    const AUTHORITY: Secret = Secret::new([4; 32]);
    const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");

    fn bundle() -> TrustBundle {
        TrustBundle::new(vec![Anchor { id: REGISTRY, key: Dalek::public_key(&AUTHORITY), addresses: Vec::new() }])
    }

    fn certificate(host: HostId, role: Role) -> Signed<Certificate> {
        let certificate = Certificate {
            cloud: CloudId([5; 16]),
            name: "fjord".to_owned(),
            host,
            role,
            region: String::new(),
            not_before: Timestamp(0),
            expiry: now().wall + Micros::from_secs(3600),
        };
        Signed::sign::<Dalek>(&AUTHORITY, REGISTRY, Receiver::Anyone, &certificate)
    }

    /// What a node answers on the stream, by itself, whatever it is asked.
    type Lie = Option<Vec<u8>>;

    /// What becomes of `code`, asked of a node with the modules in `dir` by one with a certificate of this role; and what the
    /// node refused it for.
    async fn ask(
        dir: &std::path::Path,
        code: Digest,
        role: Option<Role>,
        lie: Lie,
    ) -> (Result<Option<Vec<u8>>, String>, Result<(), Reject>) {
        let stop = CancellationToken::new();
        let (asking, _events) = Net::start(NetConfig::local([1; 32]), stop.clone()).await.unwrap();
        let (having, _more) = Net::start(NetConfig::local([2; 32]), stop.clone()).await.unwrap();
        let mut streams = having.accept(Protocol::Module).unwrap();
        let (dir, net) = (dir.to_owned(), having.clone());
        let answering = tokio::spawn(async move {
            let (peer, mut stream) = streams.recv().await.unwrap();
            match lie {
                Some(bytes) => {
                    tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
                    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
                    Ok(())
                }
                None => {
                    let turn = Beginning::default().enter(peer).unwrap();
                    send(turn, stream, &bundle(), dir, &Semaphore::new(SERVED_MAX), &net).await
                }
            }
        });
        let shown = role.map_or(HostId([9; 32]), |_| asking.host_id());
        let request =
            wire::encode(&ModuleRequest { code, certificate: certificate(shown, role.unwrap_or(Role::Cloud)) });
        let job = FetchJob {
            service: ServiceId { registry: REGISTRY, unique: [6; 16] },
            epoch: Epoch::FIRST,
            order: Digest([7; 32]),
            code,
            memory_bytes: 1 << 26,
            from: having.host_id(),
            addresses: having.listen_addresses(),
        };
        let got = attempt(&asking, &job, &request).await;
        let answered = answering.await.unwrap();
        stop.cancel();
        (got, answered)
    }

    #[tokio::test]
    async fn hosts_get_the_module_that_is_there_and_nobody_else_gets_any() {
        let temp = tempfile::tempdir().unwrap();
        modules::store(temp.path(), KV).unwrap();
        let code = modules::module_digest(KV);
        let (got, answered) = ask(temp.path(), code, Some(Role::Home), None).await;
        assert_eq!((got.unwrap().as_deref(), answered), (Some(KV), Ok(())));
        assert_eq!(ask(temp.path(), Digest([0; 32]), Some(Role::Cloud), None).await.0, Ok(None));
        for (role, reject) in [(Some(Role::Gateway), Reject::WrongRole), (None, Reject::BadCertificate)] {
            let (got, answered) = ask(temp.path(), code, role, None).await;
            assert!(got.is_err() && answered == Err(reject), "{answered:?}");
        }
        fs::write(temp.path().join(format!("{code}.wasm")), b"changed").unwrap();
        assert_eq!(ask(temp.path(), code, Some(Role::Cloud), None).await.0, Ok(None), "a damaged one is not sent");
    }

    #[tokio::test]
    async fn a_node_that_answers_more_or_less_than_it_said_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        let framed = |frames: &[&[u8]]| -> Vec<u8> {
            let frame = |bytes: &&[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
            frames.iter().flat_map(frame).collect()
        };
        let length = |length: u64| length.to_le_bytes();
        let lies: [(Vec<u8>, &str); 5] = [
            (framed(&[&length(MODULE_BYTES_MAX + 1)]), "longer than a module may be"),
            (framed(&[b"short"]), "without a length"),
            (framed(&[&length(3), b"four"]), "another length"),
            (framed(&[&length(3), b""]), "another length"),
            (framed(&[&length(3), b"12"]), "closed"),
        ];
        for (lie, name) in lies {
            let (got, _) = ask(temp.path(), Digest([0; 32]), Some(Role::Cloud), Some(lie)).await;
            assert!(got.as_ref().is_err_and(|error| error.contains(name)), "{name}: {got:?}");
        }
    }

    #[tokio::test]
    async fn what_has_another_hash_is_neither_kept_nor_compiled() {
        let (temp, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let (asking, _events) = Net::start(NetConfig::local([1; 32]), stop.clone()).await.unwrap();
        let (having, _more) = Net::start(NetConfig::local([2; 32]), stop.clone()).await.unwrap();
        let mut streams = having.accept(Protocol::Module).unwrap();
        let answering = tokio::spawn(async move {
            let (_, stream) = streams.recv().await.unwrap();
            write(&mut FrameWriter::new(stream, RECORD_BYTES_MAX), KV).await.unwrap();
        });
        let driver: Arc<dyn Driver> = Arc::new(WasmDriver::new());
        let modules = temp.path().to_owned();
        let digest = Digest([8; 32]);
        let code = Code { driver, digest, prepared: None, module: None, modules, launch: Launch::default() };
        let job = FetchJob {
            service: ServiceId { registry: REGISTRY, unique: [6; 16] },
            epoch: Epoch::FIRST,
            order: Digest([7; 32]),
            code: digest,
            memory_bytes: 1 << 26,
            from: having.host_id(),
            addresses: having.listen_addresses(),
        };
        let shown = certificate(asking.host_id(), Role::Cloud);
        let error = bring(code, job, asking, shown).await.map(|_| ()).unwrap_err();
        assert!(error.starts_with("no_module: ") && error.contains("another module"), "{error}");
        answering.await.unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
        stop.cancel();
    }
}
