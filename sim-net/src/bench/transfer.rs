//! How fast a large state moves from one cloud to another on this machine, beside what carries it: raw TCP, the same cipher
//! over raw TCP, and a stream of the mesh. Both ends of each are in this process, so the processor's time is that of both.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use wayfare_net::{CancellationToken, FrameError, FrameReader, FrameWriter, Net, NetConfig, Protocol};
use wayfare_protocol::{
    ids::Digest,
    manifest::Durability,
    placement::Policy,
    reject::Strict,
    suite::{Dalek, Secret},
    transfer::{Opener, RecordKind, SealedRecord, Sealer},
    trust::Role,
};

use super::{
    Report, Row,
    handshake::{meet, transfer},
};
use crate::{
    mesh::{Joining, Member, Mesh, Records},
    rng::SplitMix64,
};

const MIB: usize = 1 << 20;
/// Bytes of a record: a page of state.
const RECORD_BYTES: usize = 64 * 1024;
/// Largest frame of the mesh's stream.
const FRAME_BYTES_MAX: usize = RECORD_BYTES + 64;
/// Moves that are timed, after one that brings the module to where it was not.
const MOVES: usize = 3;
/// Memory that a cloud has for services, beyond the state.
const SPARE_MIB: usize = 512;
/// The largest state: what a WebAssembly memory may have, less what else a cloud needs.
pub const SIZE_MIB_MAX: usize = 3072;

/// Moves a service with each of these sizes, in MiB.
///
/// # Errors
/// A node that does not start, or a migration that fails.
pub async fn run(sizes_mib: &[usize], progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("transfer");
    for &size_mib in sizes_mib {
        if progress {
            eprintln!("  {size_mib} MiB");
        }
        let pages = pages(size_mib);
        let row = |what: &str, sample: &Sample| {
            Row::new(format!("transfer.{what}"), size_mib as f64 / sample.took.as_secs_f64(), "MiB/s")
                .param("size_mib", size_mib as u64)
                .param("cpu_s_per_gib", sample.cpu.as_secs_f64() / (size_mib as f64 / 1024.0))
        };
        let pages = std::sync::Arc::new(pages);
        let (raw, aead) = {
            let (first, second) = (std::sync::Arc::clone(&pages), std::sync::Arc::clone(&pages));
            tokio::task::spawn_blocking(move || anyhow::Ok((raw_tcp(&first)?, sealed_tcp(&second)?))).await??
        };
        let stream = mesh_stream(&pages).await?;
        drop(pages);
        let moved = wayfare(size_mib).await?;
        let carrier = size_mib as f64 / aead.took.as_secs_f64();
        report.push(row("wayfare", &moved).beside(carrier, "the same cipher over raw TCP"));
        report.push(row("raw_tcp", &raw));
        report.push(row("aead", &aead));
        report.push(row("libp2p_stream", &stream));
    }
    Ok(report.finish())
}

/// How long something took, and the time of the processor in it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    took: Duration,
    cpu: Duration,
}

struct Stopwatch(Instant, Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), cpu_time())
    }

    fn stop(&self) -> Sample {
        Sample { took: self.0.elapsed(), cpu: cpu_time().saturating_sub(self.1) }
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Random records of this many MiB altogether: one MiB, again and again, for nothing here compresses.
fn pages(size_mib: usize) -> Vec<Vec<u8>> {
    let mut rng = SplitMix64::new(1);
    let mut page = || (0..RECORD_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect::<Vec<u8>>();
    let one: Vec<Vec<u8>> = (0..MIB / RECORD_BYTES).map(|_| page()).collect();
    one.into_iter().cycle().take(size_mib * MIB / RECORD_BYTES).collect()
}

/// A module whose memory is `size_mib` MiB and one page, filled with pseudo-random numbers when it is first started.
fn guest(size_mib: usize) -> anyhow::Result<Vec<u8>> {
    let pages = size_mib * MIB / RECORD_BYTES + 1;
    let response = "HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok";
    let text = format!(
        r#"(module
            (memory (export "memory") {pages} {pages})
            (data (i32.const 16) "{response}")
            (func (export "_initialize") (local $at i32) (local $x i64)
                (local.set $at (i32.const {RECORD_BYTES}))
                (local.set $x (i64.const 0x9e3779b97f4a7c15))
                (loop $fill
                    (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
                    (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
                    (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
                    (i64.store (local.get $at) (local.get $x))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $fill (i32.lt_u (local.get $at) (i32.const {end})))))
            (func (export "wayfare_buffer") (param i32) (result i32) (i32.const 1024))
            (func (export "wayfare_handle") (param i32) (result i64)
                (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const {length}))))"#,
        end = pages * RECORD_BYTES,
        length = response.replace("\\r", "\r").replace("\\n", "\n").len(),
    );
    Ok(wat::parse_str(text)?)
}

/// The whole migration, from the decision until the target serves: the median of [`MOVES`].
async fn wayfare(size_mib: usize) -> anyhow::Result<Sample> {
    let mesh = Mesh::start(None, 0, Records::Disk).await?;
    let names = [("home", Role::Home), ("alpha", Role::Cloud), ("beta", Role::Cloud)];
    let members = try_join_all(names.map(|(name, role)| {
        let mut joining = Joining::new(name, role, 0);
        joining.policy = Policy::Never;
        joining.memory_mib = (size_mib + SPARE_MIB) as u64;
        mesh.join(joining)
    }))
    .await?;
    let samples = moves(&mesh, &members, size_mib).await;
    mesh.stop(members).await;
    let mut samples = samples?;
    samples.sort_by_key(|sample| sample.took);
    samples.get(MOVES / 2).copied().context("it has moved")
}

async fn moves(mesh: &Mesh, members: &[Member], size_mib: usize) -> anyhow::Result<Vec<Sample>> {
    let [home, alpha, beta] = members else { bail!("three members") };
    for (from, to) in [(home, alpha), (alpha, beta), (beta, alpha)] {
        meet(from, to).await?;
    }
    let memory_bytes = ((size_mib + 1) * MIB) as u64;
    let service = mesh.deploy_with(home, "large", guest(size_mib)?, Durability::Memory, memory_bytes).await?;
    transfer(home, alpha, service).await?;
    transfer(alpha, beta, service).await?;
    let (mut from, mut to) = (beta, alpha);
    let mut samples = Vec::new();
    for _ in 0..MOVES {
        let watch = Stopwatch::start();
        let took = transfer(from, to, service).await?;
        // The processor also clears away what the source had.
        samples.push(Sample { took, ..watch.stop() });
        std::mem::swap(&mut from, &mut to);
    }
    Ok(samples)
}

/// Two ends of a connection over loopback.
fn connection() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = TcpStream::connect(listener.local_addr()?)?;
    let (from, _) = listener.accept()?;
    Ok((to, from))
}

/// One thread writes, this one reads.
fn raw_tcp(pages: &[Vec<u8>]) -> anyhow::Result<Sample> {
    let (mut to, mut from) = connection()?;
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || pages.iter().try_for_each(|page| to.write_all(page)));
        let (mut buffer, mut left) = (vec![0; RECORD_BYTES], pages.len() * RECORD_BYTES);
        while left > 0 {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                bail!("the connection ended early");
            }
            left -= read;
        }
        let sample = watch.stop();
        writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(sample)
    })
}

/// One thread seals and writes, this one reads and opens.
fn sealed_tcp(pages: &[Vec<u8>]) -> anyhow::Result<Sample> {
    let (mut to, mut from) = connection()?;
    let (key, transcript) = (Secret::new([5; 32]), Digest([6; 32]));
    let (mut sealer, mut opener) = (Sealer::new(key.clone(), transcript), Opener::new(key, transcript));
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            for page in pages {
                let record = sealer.seal::<Dalek>(RecordKind::Page, page)?;
                to.write_all(&record.sealed)?;
            }
            anyhow::Ok(())
        });
        for number in 0..pages.len() as u64 {
            let mut sealed = vec![0; RECORD_BYTES + 16];
            from.read_exact(&mut sealed)?;
            opener.open::<Dalek, Strict>(&SealedRecord { number, kind: RecordKind::Page, sealed })?;
        }
        let sample = watch.stop();
        writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(sample)
    })
}

/// Frames of one page each on a stream between two nodes.
async fn mesh_stream(pages: &[Vec<u8>]) -> anyhow::Result<Sample> {
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let (sender, _sender_events) = Net::start(NetConfig::local([1; 32]), shutdown.clone()).await?;
    let (receiver, _receiver_events) = Net::start(NetConfig::local([2; 32]), shutdown.clone()).await?;
    let mut incoming = receiver.accept(Protocol::State)?;
    let stream = sender.open(receiver.host_id(), &receiver.listen_addresses(), Protocol::State).await?;
    let mut writer = FrameWriter::new(stream, FRAME_BYTES_MAX);
    let reading = tokio::spawn(async move {
        let (_, stream) = incoming.recv().await.context("a stream comes")?;
        let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX);
        let mut bytes = 0;
        loop {
            match reader.read().await {
                Ok(frame) => bytes += frame.len(),
                Err(FrameError::Closed) => return anyhow::Ok(bytes),
                Err(error) => return Err(error.into()),
            }
        }
    });
    let watch = Stopwatch::start();
    for page in pages {
        writer.feed(page).await?;
    }
    writer.finish().await?;
    let bytes = reading.await??;
    let sample = watch.stop();
    if bytes != pages.len() * RECORD_BYTES {
        bail!("{bytes} bytes of {} arrived", pages.len() * RECORD_BYTES);
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_state_moves_every_way() {
        let report = run(&[1], false).await.unwrap();
        let names: Vec<&str> = report.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["transfer.wayfare", "transfer.raw_tcp", "transfer.aead", "transfer.libp2p_stream"]);
        for row in &report.rows {
            assert!(row.value > 0.0 && row.params["size_mib"] == 1, "{row:?}");
            assert!(row.params["cpu_s_per_gib"].as_f64().unwrap() > 0.0, "{row:?}");
        }
        assert!(report.rows[0].ratio.is_some());
    }
}
