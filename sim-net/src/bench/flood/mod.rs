//! What a flood does to those who have nothing to do with it: a mesh of real processes on one core, an attacker with the other
//! core to itself.
//!
//! A service moves to and fro between two clouds while a client uses it through a gateway, first undisturbed and then under one
//! kind of flood after the other. How much the victim can do of each kind is measured just before, on the victim itself, within
//! what any peer may have at once; a multiple of that is offered. Offered is what the attacker would send each second whatever
//! becomes of it: what finds its socket, its window or the victim's backlog full is offered all the same, and counts as not
//! taken. The attacker signs everything before, so its core has nothing to do but to send.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::sync::mpsc;
use wayfare_node::api::shapes;
use wayfare_registry::view::JoinTokenView;

use super::{Memory, Report, Row, quantile};
use crate::processes::{Joining, Kind as Part, Processes, Programs, REGISTRY, Setup, User, UserConfig, free_address};

mod attacker;
mod weapons;

pub(crate) use attacker::serve;
use attacker::{Kind, Order, Said, Victim};

/// The hidden command that [`serve`] is behind.
pub(crate) const COMMAND: &str = "flood-attacker";
const KV: &[u8] = include_bytes!("../../../../tests/guests/kv/kv.wasm");
const SERVICE: &str = "kv";
/// What is offered, as a multiple of what the victim can do: above the ten that is claimed, as generators fall behind.
const TIMES: f64 = 12.0;
/// The most memory that any process of the mesh may have had resident, MiB.
pub const MEMORY_CAP_MIB: f64 = 192.0;
/// How much longer the slowest hundredth of the moves may take under a flood.
pub const SLOWER_MAX: f64 = 5.0;
/// From the end of one move to the beginning of the next.
const PAUSE: Duration = Duration::from_millis(60);
/// How long buckets take to fill up again after a capacity was measured.
const REFILL: Duration = Duration::from_secs(6);
/// How long a flood lasts before its moves count.
const WARM_UP: Duration = Duration::from_millis(1500);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// Seconds that one move may take.
const MOVE_WITHIN_S: u64 = 30;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct FloodOptions {
    /// Few moves.
    pub quick: bool,
    /// Say how far it is.
    pub progress: bool,
}

/// Measures everything.
///
/// # Errors
/// What does not start; and a move that failed, a request that failed, or memory above [`MEMORY_CAP_MIB`]: then it says so after
/// it has printed the figures on stderr. Unless it is quick, also moves that are slower than [`SLOWER_MAX`].
pub async fn run(options: FloodOptions) -> anyhow::Result<Report> {
    let mut report = Report::begin("flood");
    let cores = pin_self()?;
    let mut bench = Bench::start(options, cores).await?;
    let played = bench.play(&mut report).await;
    let missed = match played {
        Ok(()) => bench.finish(&mut report).await,
        Err(error) => Err(error),
    };
    let report = report.finish();
    match missed {
        Ok(missed) if missed.is_empty() => Ok(report),
        Ok(missed) => anyhow::bail!("{report}{}", missed.join("; ")),
        Err(error) => Err(error.context(report.to_string())),
    }
}

/// The cores of the mesh and of the attacker.
#[derive(Clone, Copy, Debug)]
struct Cores {
    attacker: usize,
}

/// Puts this process, and so all that it starts, on one core.
fn pin_self() -> anyhow::Result<Cores> {
    let status = std::fs::read_to_string("/proc/self/status").context("the cores of this machine are not known")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let cores = parse_cores(list);
    let [mesh, attacker, ..] = cores[..] else {
        anyhow::bail!("the mesh and the attacker need a core each, and this process has {} only", cores.len());
    };
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-apc", &mesh.to_string(), &pid]).stdout(Stdio::null()).status();
    let pinned = pinned.context("`taskset` cannot be run: install util-linux")?;
    ensure!(pinned.success(), "`taskset` does not pin this process to core {mesh}");
    Ok(Cores { attacker })
}

/// `0-2,5` as the kernel writes it.
fn parse_cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// What a number of moves took, and what went wrong.
#[derive(Debug, Default)]
struct Moves {
    took_ms: Vec<f64>,
    failed: Vec<String>,
}

struct Bench {
    options: FloodOptions,
    cores: Cores,
    mesh: Processes,
    user: User,
    /// Where the service is, and where it goes next.
    at: [&'static str; 2],
    unloaded: Moves,
    failed: Vec<String>,
    slow: Vec<String>,
    retries: u64,
}

impl Bench {
    async fn start(options: FloodOptions, cores: Cores) -> anyhow::Result<Self> {
        let setup = Setup {
            programs: Programs::beside_this()?,
            lease_s: 30,
            step_timeout: Duration::from_secs(10),
            listen: free_address()?,
            announce: None,
            environment: Vec::new(),
            log: std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()),
            prefix: format!("wayfare-flood-{}-", std::process::id()),
        };
        let mut mesh = Processes::start(setup).await?;
        let entrance = free_address()?;
        let members = [("home", Part::Home), ("alpha", Part::Cloud), ("beta", Part::Cloud), ("edge", Part::Gateway)];
        for (name, kind) in members {
            let listen = if kind == Part::Gateway { None } else { Some(free_address()?) };
            let services = if kind == Part::Gateway { vec![(SERVICE.to_owned(), entrance)] } else { Vec::new() };
            let (name, environment) = (name.to_owned(), Vec::new());
            mesh.join(Joining { name, kind, listen, advertise: None, services, environment }).await?;
        }
        mesh.meet(PATIENCE).await?;
        let module = mesh.dir().join("kv.wasm");
        std::fs::write(&module, KV)?;
        mesh.deploy("home", &module, SERVICE).await?;
        let user = User::start(UserConfig {
            gateways: vec![entrance],
            tag: "flood".to_owned(),
            workers: 4,
            keys: 8,
            pace: Duration::from_millis(50),
            try_within: Duration::from_secs(30),
        });
        user.served(20, PATIENCE).await?;
        let mut bench = Self {
            options,
            cores,
            mesh,
            user,
            at: ["home", "alpha"],
            unloaded: Moves::default(),
            failed: Vec::new(),
            slow: Vec::new(),
            retries: 0,
        };
        bench.step().await.map_err(|error| anyhow::anyhow!("the service does not leave home: {error}"))?;
        bench.at = ["alpha", "beta"];
        Ok(bench)
    }

    /// One move. How long it took, from the command to the news that it is done.
    async fn step(&mut self) -> Result<f64, String> {
        let [from, to] = self.at;
        let client = self.mesh.client(from).map_err(|error| error.to_string())?;
        let request =
            shapes::MoveRequest { to: Some(to.to_owned()), wait: true, dry_run: false, timeout_s: MOVE_WITHIN_S };
        let begun = Instant::now();
        let moved = client.post::<serde_json::Value>(&["services", SERVICE, "move"], &request).await;
        moved.map_err(|error| format!("{from} to {to}: {error}"))?;
        let took = begun.elapsed();
        self.at = [to, from];
        self.until_served(to).await?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// The source may know that the service has moved before its target does.
    async fn until_served(&self, host: &str) -> Result<(), String> {
        let served = async {
            loop {
                let services = self.mesh.services(host).await.unwrap_or_default();
                if services.iter().any(|service| service.name == SERVICE && service.state == "serving") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, served).await.map_err(|_| format!("{host} does not serve it"))
    }

    async fn moves(&mut self, count: usize) -> Moves {
        let mut moves = Moves::default();
        for _ in 0..count {
            match self.step().await {
                Ok(took) => moves.took_ms.push(took),
                Err(error) => moves.failed.push(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        moves
    }

    async fn play(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let count = if self.options.quick { 60 } else { 200 };
        self.say("undisturbed");
        self.moves(10).await;
        self.unloaded = self.moves(count).await;
        ensure!(self.unloaded.failed.is_empty(), "moves fail without any flood: {:?}", self.unloaded.failed);
        for kind in Kind::ALL {
            self.flood(report, kind, count).await.with_context(|| format!("{} flood", kind.name()))?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        if self.options.progress {
            eprintln!("  {what}");
        }
    }

    async fn flood(&mut self, report: &mut Report, kind: Kind, count: usize) -> anyhow::Result<()> {
        let mut attacker = Attacker::start(self.cores)?;
        let prepare = self.plan(kind).await?;
        ensure!(matches!(attacker.tell(&prepare).await?, Said::Ready), "the attacker is not ready");
        let Said::Capacity { per_s: capacity } = attacker.tell(&Order::Measure).await? else {
            anyhow::bail!("the attacker measures nothing");
        };
        tokio::time::sleep(REFILL).await;
        self.say(&format!("{}: {:.0}/s can be done, {:.0}/s are offered", kind.name(), capacity, capacity * TIMES));
        let before = self.counted().await?;
        let retries = self.failed_tries();
        attacker.order(&Order::Flood { per_s: capacity * TIMES })?;
        tokio::time::sleep(WARM_UP).await;
        let mut moves = self.moves(count).await;
        let Said::Flooded { offered, taken, seconds } = attacker.tell(&Order::Stop).await? else {
            anyhow::bail!("the attacker does not say what it threw");
        };
        let after = self.counted().await?;
        let name = |what: &str| format!("flood.{}.{what}", kind.name());
        let per_s = |count: u64| count as f64 / seconds;
        let mut row = Row::new(name("offered"), per_s(offered), "1/s").param("taken_per_s", per_s(taken).round());
        for (what, count) in &after {
            let more = count - before.get(what).copied().unwrap_or(0).min(*count);
            if more > 0 {
                row = row.param(what.clone(), more);
            }
        }
        report.push(row.beside(capacity, "what the victim can do"));
        for (what, at) in [("move_p50", 0.5), ("move_p99", 0.99)] {
            let value = quantile(&mut moves.took_ms, at).context("no move succeeded")?;
            let floor = quantile(&mut self.unloaded.took_ms, at).context("there were moves")?;
            let row = Row::new(name(what), value, "ms").param("moves", count as u64);
            report.push(row.param("failed", moves.failed.len() as u64).beside(floor, "undisturbed"));
            if at > 0.9 && value > SLOWER_MAX * floor {
                self.slow.push(format!("{}: moves take {value:.0} ms (p99), undisturbed {floor:.0}", kind.name()));
            }
        }
        let tries = self.failed_tries() - retries;
        report.push(Row::new(name("failed_requests"), tries as f64, ""));
        self.retries += tries;
        self.failed.append(&mut moves.failed);
        Ok(())
    }

    /// Tries of the client's requests that failed; each was followed by another.
    fn failed_tries(&self) -> u64 {
        self.user.stats().retries.values().sum()
    }

    async fn plan(&self, kind: Kind) -> anyhow::Result<Order> {
        let body = json!({ "cloud": format!("mallory-{}", kind.name()), "role": kind.role(), "ttl_s": 3600 });
        let token: JoinTokenView = self.mesh.client(REGISTRY)?.post(&["join-tokens"], &body).await?;
        let known = self.mesh.clouds("home").await?;
        let cloud = |name: &str| {
            let cloud = known.iter().find(|cloud| cloud.name == name).context("the clouds advertise")?;
            anyhow::Ok(Victim { host: cloud.host.clone(), addresses: cloud.addresses.clone() })
        };
        let anchor = wayfare_protocol::trust::JoinToken::parse(&token.token)?.anchor;
        let registry = Victim { host: anchor.host().to_string(), addresses: anchor.addresses };
        let victims = match kind {
            // The last is the cloud that is asked about.
            Kind::Verdicts => vec![registry, cloud("alpha")?],
            Kind::Calls => vec![cloud("alpha")?, cloud("beta")?],
            Kind::Handshakes => vec![cloud("alpha")?],
        };
        Ok(Order::Prepare { kind, token: token.token, victims, service: SERVICE.to_owned() })
    }

    /// What was refused or delayed anywhere, by name.
    async fn counted(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        let stats = self.mesh.stats().await?;
        let mut add = |who: &str, counts: &BTreeMap<String, u64>| {
            for (name, count) in counts {
                *all.entry(format!("{who}.{name}")).or_default() += count;
            }
        };
        add("registry", &stats.rejections);
        add("registry", &stats.net);
        for host in ["alpha", "beta"] {
            let counters: shapes::Counters = self.mesh.client(host)?.get(&["rejects"], "").await?;
            add(host, &counters.rejects);
            add(host, &counters.net);
        }
        Ok(all)
    }

    /// Memory, and what was missed.
    async fn finish(mut self, report: &mut Report) -> anyhow::Result<Vec<String>> {
        let mut missed = Vec::new();
        for name in [REGISTRY, "home", "alpha", "beta", "edge"] {
            let pid = self.mesh.process(name)?.id();
            let memory = Memory::of(pid).with_context(|| format!("{name} has ended"))?;
            let row = Row::new(format!("memory.{name}.peak"), memory.peak_mib, "MiB");
            report.push(row.beside(MEMORY_CAP_MIB, "the cap"));
            if memory.peak_mib > MEMORY_CAP_MIB {
                missed.push(format!("{name} had {:.0} MiB resident", memory.peak_mib));
            }
        }
        self.user.pause(PATIENCE).await?;
        let audit = self.user.audit(PATIENCE).await?;
        if !self.failed.is_empty() {
            missed.push(format!("{} moves failed: {}", self.failed.len(), self.failed.join(", ")));
        }
        if self.retries > 0 || audit.lost + audit.doubled > 0 {
            missed.push(format!("{} tries of requests failed: {:?}", self.retries, self.user.stats().retries));
        }
        if !self.options.quick {
            missed.append(&mut self.slow);
        }
        Ok(missed)
    }
}

/// The attacker's process. Dropped, it is killed.
struct Attacker {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Attacker {
    fn start(cores: Cores) -> anyhow::Result<Self> {
        let program: PathBuf = std::env::current_exe().context("this program's file is not known")?;
        let mut command = Command::new("taskset");
        command.args(["-c", &cores.attacker.to_string()]).arg(program).arg(COMMAND);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("it does not start")?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Self { child, stdin, lines: lines_of(stdout) })
    }

    fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        writeln!(self.stdin, "{}", serde_json::to_string(order)?)?;
        Ok(self.stdin.flush()?)
    }

    async fn tell(&mut self, order: &Order) -> anyhow::Result<Said> {
        self.order(order)?;
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await.context("the attacker says nothing")?;
        Ok(serde_json::from_str(&line.context("the attacker has ended")?)?)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread that ends with it.
fn lines_of(pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(pipe)).map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_as_the_kernel_lists_them() {
        assert_eq!(parse_cores("\t0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cores("3"), [3]);
        assert!(parse_cores("").is_empty() && parse_cores("x").is_empty());
    }
}
