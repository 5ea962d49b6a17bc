//! A soak: real processes, all of which are killed again and again while services move and clients write; at the end everything
//! is read back.
//!
//! [`run`] plays it, [`Summary`] says what came of it. `director` decides who dies when.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    processes::{Joining, Kind, Processes, Programs, REGISTRY, Setup, User, UserConfig, UserStats, free_address},
    rng::SplitMix64,
};

mod director;

use director::Director;

/// The service that the clients use.
const KV: &[u8] = include_bytes!("../../../tests/guests/kv/kv.wasm");
const HOME: &str = "home";
/// How many gateways carry the services.
const GATEWAYS: usize = 2;
/// Requests at a time for each service, half of them through each gateway.
const WORKERS: usize = 4;
/// Keys that each of them writes.
const KEYS: u64 = 16;
/// Between an answer and the next request.
const PACE: Duration = Duration::from_millis(50);
/// How long one try of a request may take; a gateway holds it for that long at most.
const TRY_WITHIN: Duration = Duration::from_secs(30);
/// Short, so that a host that is cut short does not keep its service from its clients.
const LEASE_S: u64 = 5;
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take until all is well once nobody dies any more.
const WELL_WITHIN: Duration = Duration::from_secs(180);
/// How the directories of soaks begin; then come the process's number and `-`.
const PREFIX: &str = "wayfare-soak-";
/// The most of everything.
const CLOUDS_MAX: usize = 64;
const SERVICES_MAX: usize = 16;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// For how long processes die and services move.
    pub length: Duration,
    /// Clouds.
    pub clouds: usize,
    /// Services, each with clients of its own.
    pub services: usize,
    /// Between two deaths.
    pub kill_every: Duration,
    /// Between two moves.
    pub move_every: Duration,
    /// Chooses who dies and what moves where.
    pub seed: u64,
    /// Print no progress.
    pub quiet: bool,
}

/// The moves of a soak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moves {
    /// Begun.
    pub begun: u64,
    /// Completed, as the Registry counts.
    pub completed: u64,
    /// Begun and not completed: the service stayed, and served on.
    pub failed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// How long it took, with the reading back.
    pub seconds: f64,
    /// What chose.
    pub seed: u64,
    /// Deaths, by role.
    pub kills: BTreeMap<&'static str, u64>,
    /// All of them.
    pub kills_total: u64,
    /// The moves.
    pub moves: Moves,
    /// Requests, each counted once however often it was tried.
    pub requests: u64,
    /// Those with an answer.
    pub answered: u64,
    /// Those without.
    pub failed: u64,
    /// Tries that were repeated, since a gateway had died or gave up.
    pub repeats: BTreeMap<String, u64>,
    /// Acknowledged writes that are not there.
    pub lost: u64,
    /// Writes that were executed twice.
    pub doubled: u64,
    /// Writes that were compared with what the services hold in the end.
    pub checked: u64,
    /// The longest time without any answer to one service's clients, milliseconds.
    pub longest_pause_ms: f64,
    /// The longest that one request took with all its tries, milliseconds.
    pub longest_request_ms: f64,
    /// What is not as it should be.
    pub findings: Vec<String>,
    /// Where the processes' files are, if they are of use to anybody.
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// Whether nothing was lost, doubled or left open.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.failed == 0 && self.findings.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<String> = self.kills.iter().map(|(role, count)| format!("{count} {role}")).collect();
        writeln!(f, "killed     {} processes: {}", self.kills_total, roles.join(", "))?;
        let Moves { begun, completed, failed } = self.moves;
        writeln!(f, "moves      {begun} begun, {completed} completed, {failed} given up")?;
        let repeats: u64 = self.repeats.values().sum();
        writeln!(
            f,
            "requests   {} sent, {} answered, {} failed; {repeats} tries were repeated",
            self.requests, self.answered, self.failed
        )?;
        writeln!(
            f,
            "pauses     {:.1} s without an answer at most, {:.1} s for one request at most",
            self.longest_pause_ms / 1e3,
            self.longest_request_ms / 1e3
        )?;
        write!(f, "read back  {} writes: {} lost, {} executed twice", self.checked, self.lost, self.doubled)?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "\nfiles      {}", kept.display())?;
        }
        write!(f, "\nin {:.0} s, seed {}", self.seconds, self.seed)
    }
}

/// Plays it.
///
/// # Errors
/// The options are not possible, the programs are not there, a process does not start, or this one was interrupted.
pub async fn run(options: SoakOptions) -> anyhow::Result<Summary> {
    let SoakOptions { clouds, services, .. } = options;
    ensure!((2..=CLOUDS_MAX).contains(&clouds), "{clouds} clouds are not possible: ask for 2 to {CLOUDS_MAX}");
    ensure!(
        (1..=SERVICES_MAX).contains(&services),
        "{services} services are not possible: ask for 1 to {SERVICES_MAX}"
    );
    let programs = Programs::beside_this()?;
    sweep(&std::env::temp_dir());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Everything ends with the future that it lives in: processes and files.
    tokio::select! {
        summary = play(options, programs) => summary,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("interrupted"),
    }
}

/// Removes what soaks have left behind that could not clean up: those whose process is gone.
fn sweep(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if pid.is_some_and(gone) {
            // Another may be faster.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

async fn play(options: SoakOptions, programs: Programs) -> anyhow::Result<Summary> {
    let begun = std::time::Instant::now();
    let say = |text: &str| {
        if !options.quiet {
            eprintln!("{:6.1} s  {text}", begun.elapsed().as_secs_f64());
        }
    };
    say("starting registry, home, clouds and gateways, each a process");
    let (mut mesh, ports) = start(&options, programs).await?;
    let names: Vec<String> = ports.keys().cloned().collect();
    let users: Vec<User> = ports.iter().map(|(name, gateways)| user(name, gateways.clone())).collect();
    for user in &users {
        user.served(1, WELL_WITHIN).await.context("the services do not answer")?;
    }
    say(&format!("{} services serve; now processes die", names.len()));
    let rng = SplitMix64::new(options.seed);
    let mut director = Director::new(&mut mesh, names.clone(), rng, options.kill_every, options.move_every);
    let progress = |director: &Director<'_>, left: Duration| {
        let stats = total(&users);
        let line = format!(
            "{:6.1} s  {} killed, {} moves begun, {} requests answered, {:.0} s to go",
            begun.elapsed().as_secs_f64(),
            director.kills.values().sum::<u64>(),
            director.begun,
            stats.answered,
            left.as_secs_f64()
        );
        show(options.quiet, &line);
    };
    director.direct(options.length, progress).await?;
    let (kills, moves_begun) = (director.kills.clone(), director.begun);
    if !options.quiet {
        eprintln!();
    }
    say("nobody dies any more; all is to become well, and is read back");
    let mut summary = Summary {
        seed: options.seed,
        kills_total: kills.values().sum(),
        kills,
        moves: Moves { begun: moves_begun, ..Moves::default() },
        ..Summary::default()
    };
    if let Err(error) = director.heal(WELL_WITHIN).await {
        summary.findings.push(format!("not all is well in the end: {error:#}"));
    }
    read_back(&users, &names, &mut summary).await;
    match mesh.stats().await {
        Ok(stats) => summary.moves.completed = stats.clouds.iter().map(|cloud| cloud.count).sum(),
        Err(error) => summary.findings.push(format!("{error:#}")),
    }
    summary.moves.failed = summary.moves.begun.saturating_sub(summary.moves.completed);
    summary.seconds = begun.elapsed().as_secs_f64();
    drop(users);
    if !summary.is_clean() {
        summary.kept = Some(keep(mesh));
    }
    Ok(summary)
}

/// What is left of the processes, where no other soak removes it.
fn keep(mesh: Processes) -> PathBuf {
    let dir = mesh.keep();
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace(PREFIX, "wayfare-kept-");
    let kept = dir.with_file_name(name);
    if fs::rename(&dir, &kept).is_ok() { kept } else { dir }
}

/// A line that the next one overwrites, where people look on.
fn show(quiet: bool, line: &str) {
    if quiet {
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let (before, after) = if stderr.is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    // Nobody may be reading.
    let _ = write!(stderr, "{before}{line}{after}").and_then(|()| stderr.flush());
}

/// The mesh, and the gateways' ports for each service.
async fn start(
    options: &SoakOptions,
    programs: Programs,
) -> anyhow::Result<(Processes, BTreeMap<String, Vec<std::net::SocketAddr>>)> {
    let setup = Setup {
        programs,
        lease_s: LEASE_S,
        step_timeout: STEP_TIMEOUT,
        listen: free_address()?,
        announce: None,
        environment: Vec::new(),
        log: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
        prefix: format!("{PREFIX}{}-", std::process::id()),
    };
    let mut mesh = Processes::start(setup).await?;
    let joining = |name: &str, kind, services: Vec<_>| -> anyhow::Result<Joining> {
        let listen = if kind == Kind::Gateway { None } else { Some(free_address()?) };
        Ok(Joining { name: name.to_owned(), kind, listen, advertise: None, services, environment: Vec::new() })
    };
    mesh.join(joining(HOME, Kind::Home, Vec::new())?).await?;
    for cloud in 1..=options.clouds {
        mesh.join(joining(&format!("cloud-{cloud}"), Kind::Cloud, Vec::new())?).await?;
    }
    let names: Vec<String> = (1..=options.services).map(|number| format!("kv-{number}")).collect();
    let mut ports: BTreeMap<String, Vec<std::net::SocketAddr>> = BTreeMap::new();
    for gateway in 1..=GATEWAYS {
        let mut carried = Vec::new();
        for name in &names {
            let address = free_address()?;
            ports.entry(name.clone()).or_default().push(address);
            carried.push((name.clone(), address));
        }
        mesh.join(joining(&format!("gateway-{gateway}"), Kind::Gateway, carried)?).await?;
    }
    let module = mesh.dir().join("kv.wasm");
    fs::write(&module, KV)?;
    for name in &names {
        mesh.deploy(HOME, &module, name).await?;
    }
    mesh.meet(WELL_WITHIN).await?;
    debug_assert!(mesh.all(Kind::Registry) == [REGISTRY]);
    Ok((mesh, ports))
}

fn user(service: &str, gateways: Vec<std::net::SocketAddr>) -> User {
    User::start(UserConfig {
        gateways,
        tag: service.to_owned(),
        workers: WORKERS,
        keys: KEYS,
        pace: PACE,
        try_within: TRY_WITHIN,
    })
}

fn total(users: &[User]) -> UserStats {
    let mut all = UserStats::default();
    for stats in users.iter().map(User::stats) {
        all.requests += stats.requests;
        all.answered += stats.answered;
        all.longest_request = all.longest_request.max(stats.longest_request);
        all.longest_pause = all.longest_pause.max(stats.longest_pause);
        for (reason, count) in stats.retries {
            *all.retries.entry(reason).or_default() += count;
        }
    }
    all
}

async fn read_back(users: &[User], names: &[String], summary: &mut Summary) {
    for (user, name) in users.iter().zip(names) {
        let read = async {
            user.pause(WELL_WITHIN).await?;
            user.audit(WELL_WITHIN).await
        };
        match read.await {
            Ok(audit) => {
                summary.lost += audit.lost;
                summary.doubled += audit.doubled;
                summary.checked += audit.checked;
                summary.findings.extend(audit.findings.into_iter().map(|finding| format!("{name}: {finding}")));
            }
            Err(error) => summary.findings.push(format!("{name}: {error:#}")),
        }
    }
    let stats = total(users);
    (summary.requests, summary.answered) = (stats.requests, stats.answered);
    summary.failed = stats.requests - stats.answered;
    summary.repeats = stats.retries;
    summary.longest_pause_ms = stats.longest_pause.as_secs_f64() * 1e3;
    summary.longest_request_ms = stats.longest_request.as_secs_f64() * 1e3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_have_left_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let mine = format!("{PREFIX}{}-x", std::process::id());
        // No process has this number: it is above the largest that Linux gives.
        let dead = format!("{PREFIX}4194305-x");
        for name in [&mine, &dead, &"wayfare-kept-4194305-x".to_owned(), &format!("{PREFIX}x")] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        sweep(temp.path());
        assert!(!temp.path().join(&dead).exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_summary_is_clean_only_without_loss_double_silence_or_finding() {
        assert!(Summary::default().is_clean());
        assert!(!Summary { lost: 1, ..Summary::default() }.is_clean());
        assert!(!Summary { doubled: 1, ..Summary::default() }.is_clean());
        assert!(!Summary { failed: 1, ..Summary::default() }.is_clean());
        assert!(!Summary { findings: vec![String::new()], ..Summary::default() }.is_clean());
    }
}
