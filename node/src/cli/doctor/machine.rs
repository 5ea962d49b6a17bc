//! What the node runs on.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Resource;

use super::{Context, Finding};
use crate::{
    cli::table::bytes,
    config::Config,
    runtime::{Driver, wasm::WasmDriver},
};

const MIB: u64 = 1024 * 1024;
/// Fewer open files than this do not do for many clients and services.
const FILES_MIN: u64 = 1024;
/// Space on the disk that a node should have, and without which it takes nothing on.
const SPACE_LOW: u64 = 1024 * MIB;
const SPACE_NONE: u64 = 32 * MIB;
/// Syncs that are timed, and how long the median may take without a word.
const SYNCS: usize = 15;
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// What a synced write is made of.
const WRITE: [u8; 256] = [0; 256];

pub(super) fn look(context: &Context, config: &Config, findings: &mut Vec<Finding>) {
    findings.push(driver());
    findings.push(files());
    findings.extend(memory(config));
    let dir = context.dir.path();
    if dir.is_dir() {
        findings.push(space(dir));
        findings.push(sync(dir));
    }
}

fn driver() -> Finding {
    const CHECK: &str = "runtime";
    match WasmDriver::new().probe() {
        Ok(_) => Finding::ok(CHECK, "this machine can run services"),
        Err(error) => Finding::fail(CHECK, error.to_string(), "run the node on another machine, or as a gateway"),
    }
}

fn files() -> Finding {
    const CHECK: &str = "open files";
    match rustix::process::getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FILES_MIN => {
            Finding::warn(CHECK, format!("at most {limit}"), "raise it: ulimit -n 65536, or LimitNOFILE= of its unit")
        }
        Some(limit) => Finding::ok(CHECK, format!("at most {limit}")),
        None => Finding::ok(CHECK, "no limit"),
    }
}

fn memory(config: &Config) -> Option<Finding> {
    const CHECK: &str = "memory";
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()?.saturating_mul(1024);
    let offered = config.capacity.memory_mib.saturating_mul(MIB);
    let found = format!("{} in all, {} for services", bytes(total), bytes(offered));
    let advice = "lower [capacity] memory_mib in node.toml: services that it lets in could not all run";
    Some(if offered > total { Finding::warn(CHECK, found, advice) } else { Finding::ok(CHECK, found) })
}

fn space(dir: &Path) -> Finding {
    const CHECK: &str = "disk space";
    let Ok(disk) = rustix::fs::statvfs(dir) else {
        let advice = "look whether the disk is mounted and in order";
        return Finding::fail(CHECK, format!("{} cannot be looked at", dir.display()), advice);
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let found = format!("{} free", bytes(free));
    match free {
        0..SPACE_NONE => Finding::fail(CHECK, found, "make room: a node on a full disk takes nothing new on"),
        SPACE_NONE..SPACE_LOW => Finding::warn(CHECK, found, "make room before it is full"),
        _ => Finding::ok(CHECK, found),
    }
}

/// How long the disk takes for what every acknowledged request of a service with a log waits for.
fn sync(dir: &Path) -> Finding {
    const CHECK: &str = "disk sync";
    let path = dir.join(format!("doctor.{}", std::process::id()));
    let timed = time_syncs(&path);
    // If it cannot be removed, it could not be made either.
    let _ = fs::remove_file(&path);
    match timed {
        Ok(median) if median > SYNC_SLOW => {
            let found = format!("{:.1} ms for a small write", median.as_secs_f64() * 1e3);
            Finding::warn(CHECK, found, "services with a log wait for each: put the directory on a faster disk")
        }
        Ok(median) => Finding::ok(CHECK, format!("{:.1} ms for a small write", median.as_secs_f64() * 1e3)),
        Err(error) => {
            Finding::fail(CHECK, format!("{}: {error}", dir.display()), "the node must be able to write there")
        }
    }
}

fn time_syncs(path: &Path) -> std::io::Result<Duration> {
    let mut file = File::create_new(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&WRITE)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}
