//! Five processes and their clients, with a hand on each process's failpoints and network.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use sim_net::processes::{
    Health, Joining, Kind, Process, Processes, Programs, REGISTRY, Setup, User, UserConfig, free_address, run_command,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wayfare_tests::{
    failpoint::{Action, DIR_VARIABLE, Files, Point},
    gate::Proxy,
};

pub(crate) const HOME: &str = "home";
pub(crate) const GATEWAY: &str = "edge";
const CLOUDS: [&str; 2] = ["alpha", "beta"];
pub(crate) const SERVICE: &str = "kv";
pub(crate) const KV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/kv/kv.wasm");

const LEASE_S: u64 = 3;
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a process hangs or is cut off: longer than any lease, and than anybody waits for the next message.
const AWAY: Duration = Duration::from_millis(4500);
/// How long a dead process stays dead.
const DEAD: Duration = Duration::from_millis(200);
/// How long a process may take to reach its point.
const FIRES_WITHIN: Duration = Duration::from_secs(40);
/// How long it may take until all is well again, once everybody is back.
const WELL_WITHIN: Duration = Duration::from_secs(60);
/// How long one request may take, whatever happens meanwhile.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// For how long a move is in nobody's mind but the Registry's before it counts as forgotten.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// Megabytes of a large service: in more records than a target takes without a word.
const BALLAST: usize = 6;
/// Requests at a time.
const WORKERS: u64 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The mesh under test.
pub(crate) struct World {
    pub(crate) processes: Processes,
    points: BTreeMap<String, Files>,
    points_dir: TempDir,
    proxies: BTreeMap<String, Proxy>,
    /// Ports of services that are not deployed yet.
    spare: Vec<(String, SocketAddr)>,
    pub(crate) deployed: Vec<(String, SocketAddr)>,
    pub(crate) user: Option<User>,
    /// Moves that ended only with the next one.
    pub(crate) forgotten: usize,
    /// Where the service's clients come in.
    ingress: SocketAddr,
    ballast: usize,
}

/// Looks until something is so.
pub(crate) async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !so() {
        ensure!(begun.elapsed() < within, "waited {within:.0?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

impl World {
    /// Everybody runs, the service is on a cloud, and has clients. `spare` more services can be deployed.
    pub(crate) async fn start(spare: usize) -> anyhow::Result<Self> {
        let points_dir = tempfile::tempdir()?;
        let (listen, front) = (free_address()?, free_address()?);
        let mut points = BTreeMap::new();
        let mut environment = |name: &str| -> anyhow::Result<_> {
            let dir = points_dir.path().join(name);
            fs::create_dir_all(&dir)?;
            points.insert(name.to_owned(), Files::new(&dir));
            Ok(vec![(DIR_VARIABLE.into(), dir.into_os_string())])
        };
        let mut proxies = BTreeMap::from([(REGISTRY.to_owned(), Proxy::start(front, listen).await?)]);
        let setup = Setup {
            programs: Programs {
                node: PathBuf::from(env!("CARGO_BIN_EXE_wayfare-under-test")),
                registry: PathBuf::from(env!("CARGO_BIN_EXE_wayfare-registry-under-test")),
            },
            lease_s: LEASE_S,
            step_timeout: STEP_TIMEOUT,
            listen,
            announce: Some(front),
            environment: environment(REGISTRY)?,
            log: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            prefix: "wayfare-crashes-".to_owned(),
        };
        let mut processes = Processes::start(setup).await?;
        let home = (HOME, Kind::Home);
        for (name, kind) in CLOUDS.iter().map(|name| (*name, Kind::Cloud)).chain([home]) {
            let (listen, front) = (free_address()?, free_address()?);
            proxies.insert(name.to_owned(), Proxy::start(front, listen).await?);
            let joining = Joining {
                name: name.to_owned(),
                kind,
                listen: Some(listen),
                advertise: Some(front),
                services: Vec::new(),
                environment: environment(name)?,
            };
            processes.join(joining).await?;
        }
        let ingress = free_address()?;
        let spare = (0..spare).map(|number| Ok((format!("spare-{number}"), free_address()?)));
        let spare = spare.collect::<anyhow::Result<Vec<_>>>()?;
        let mut services = vec![(SERVICE.to_owned(), ingress)];
        services.extend(spare.clone());
        let joining = Joining {
            name: GATEWAY.to_owned(),
            kind: Kind::Gateway,
            listen: None,
            advertise: None,
            services,
            environment: environment(GATEWAY)?,
        };
        processes.join(joining).await?;
        processes.deploy(HOME, Path::new(KV), SERVICE).await?;
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let user = User::start(UserConfig {
            gateways: vec![ingress],
            tag: format!("w{}", WORLDS.fetch_add(1, Ordering::Relaxed)),
            workers: WORKERS as usize,
            keys: 8,
            pace: Duration::from_millis(40),
            try_within: Duration::from_secs(15),
        });
        let mut world = Self {
            processes,
            points,
            points_dir,
            proxies,
            spare,
            deployed: Vec::new(),
            user: Some(user),
            forgotten: 0,
            ingress,
            ballast: 0,
        };
        world.processes.meet(WELL_WITHIN).await?;
        world.move_on(HOME, CLOUDS[0]).await?;
        world.well().await?;
        Ok(world)
    }

    /// Its clients.
    pub(crate) fn user(&self) -> anyhow::Result<&User> {
        self.user.as_ref().context("nobody uses the service")
    }

    /// The host that has the service, and the cloud that it can go to.
    pub(crate) async fn source_and_target(&self) -> anyhow::Result<(String, String)> {
        let placements = self.processes.placements().await?;
        let record = placements.iter().find(|view| view.name == SERVICE).context("no record of the service")?;
        let other = CLOUDS.into_iter().find(|cloud| *cloud != record.cloud).context("nowhere to go")?;
        Ok((record.cloud.clone(), other.to_owned()))
    }

    fn points(&self, name: &str) -> anyhow::Result<&Files> {
        self.points.get(name).with_context(|| format!("{name} has no failpoints"))
    }

    /// Sets a process's failpoint; one that runs has taken it over when this returns.
    pub(crate) async fn arm(&mut self, name: &str, point: &Point) -> anyhow::Result<()> {
        let files = self.points(name)?.clone();
        for file in [files.armed(), files.fired(), files.cut()] {
            let _ = fs::remove_file(file);
        }
        files.put(&files.arm(), &point.to_string());
        if self.processes.process(name).is_ok_and(Process::is_running) {
            until("the failpoint to be armed", FIRES_WITHIN, || files.armed().exists()).await?;
        }
        Ok(())
    }

    /// Waits until a process has reached its point.
    pub(crate) async fn fired(&self, name: &str) -> anyhow::Result<()> {
        let fired = self.points(name)?.fired();
        until(&format!("{name} to reach its failpoint"), FIRES_WITHIN, || fired.exists()).await
    }

    /// Whether a process has reached its point.
    pub(crate) fn has_fired(&self, name: &str) -> bool {
        self.points(name).is_ok_and(|files| files.fired().exists())
    }

    /// Waits until a process is dead that its failpoint kills.
    pub(crate) async fn died(&mut self, name: &str) -> anyhow::Result<()> {
        self.fired(name).await?;
        let status = self.processes.process(name)?.ended(FIRES_WITHIN).await?;
        ensure!(Process::was_killed(status), "{name} ended by itself: {status}");
        Ok(())
    }

    /// Brings a process back that has reached its failpoint.
    pub(crate) async fn recover(&mut self, name: &str, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Kill => {
                self.died(name).await?;
                tokio::time::sleep(DEAD).await;
                self.processes.restart(name).await?;
            }
            Action::Hang => {
                tokio::time::sleep(AWAY).await;
                self.processes.process(name)?.signal(Signal::CONT)?;
            }
            Action::Cut => {
                let files = self.points(name)?.clone();
                let proxy = self.proxies.get(name);
                proxy.inspect(|proxy| proxy.gate().close());
                files.put(&files.cut(), "");
                tokio::time::sleep(AWAY).await;
                fs::remove_file(files.cut())?;
                proxy.inspect(|proxy| proxy.gate().open());
            }
        }
        self.processes.process(name)?.ready().await?;
        Ok(())
    }

    /// Asks for a move, and again should it fail, until something is so.
    pub(crate) async fn move_until(&self, from: &str, to: &str, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let since = Instant::now();
        let mut said = None;
        while !so(self) {
            ensure!(since.elapsed() < FIRES_WITHIN, "{from} was asked to move the service for long; it said {said:?}");
            // The host may hang while it is asked. It also says no while it moves the service.
            tokio::select! {
                answer = self.processes.begin_move(from, SERVICE, to) => said = answer.err().or(said),
                () = async { while !so(self) { tokio::time::sleep(LOOK_EVERY).await } } => {}
            }
            let pause = tokio::time::sleep(LOOK_EVERY * 20);
            tokio::select! {
                () = async { while !so(self) { tokio::time::sleep(LOOK_EVERY).await } } => {}
                () = pause => {}
            }
        }
        Ok(())
    }

    /// Moves the service, to the end.
    async fn move_on(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            // It may be on its way already, or be there.
            let answer = self.processes.begin_move(from, SERVICE, to).await;
            let placements = self.processes.placements().await?;
            if placements.iter().any(|view| view.name == SERVICE && view.cloud == to) {
                return Ok(());
            }
            ensure!(since.elapsed() < WELL_WITHIN, "{from} does not move the service: {answer:?}");
            tokio::time::sleep(LOOK_EVERY * 20).await;
        }
    }

    /// Makes the service's state several megabytes large, once.
    pub(crate) async fn enlarge(&mut self) -> anyhow::Result<()> {
        for number in self.ballast..BALLAST {
            let answer = self.ask(&format!("PUT /k/ballast-{number}"), &vec![b'a' + number as u8; 1 << 20]).await?;
            ensure!(answer.starts_with("HTTP/1.1 2"), "the service does not take its ballast: {answer}");
            self.ballast = number + 1;
        }
        Ok(())
    }

    /// What the service answers, head and body.
    async fn ask(&self, line: &str, body: &[u8]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.ingress).await?;
        let head =
            format!("{line} HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// What the service says that its code is.
    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let answer = self.ask("GET /version", &[]).await?;
            if let Some((head, body)) = answer.split_once("\r\n\r\n")
                && head.starts_with("HTTP/1.1 200")
            {
                return Ok(body.to_owned());
            }
            ensure!(begun.elapsed() < ANSWER_WITHIN, "the service does not say its version: {answer}");
        }
    }

    /// A module of other code than what runs, and what it says its version is.
    pub(crate) async fn next_version(&self) -> anyhow::Result<(PathBuf, String)> {
        const NAME: &str = "kv version 1\n";
        let wanted = if self.version().await? == NAME { NAME.replace('1', "2") } else { NAME.to_owned() };
        let mut module = fs::read(KV)?;
        let at =
            module.windows(NAME.len()).position(|part| part == NAME.as_bytes()).context("the module has no version")?;
        module[at..at + NAME.len()].copy_from_slice(wanted.as_bytes());
        let path = self.points_dir.path().join("next.wasm");
        fs::write(&path, module)?;
        Ok((path, wanted))
    }

    /// What updates the service, by way of the home.
    pub(crate) fn update_command(&self, module: &Path) -> anyhow::Result<Command> {
        let mut command = self.order_command("update", SERVICE)?;
        command.arg(module);
        Ok(command)
    }

    /// What gives an order of the owner, by way of the home.
    pub(crate) fn order_command(&self, action: &str, service: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare-under-test"));
        command.args([action, service, "--timeout", "30", "--dir"]).arg(self.processes.dir_of(HOME)?);
        Ok(command)
    }

    /// Gives an order until it is done.
    pub(crate) async fn order(&self, action: &str, service: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Err(error) = run_command(self.order_command(action, service)?, Vec::new()).await {
            ensure!(begun.elapsed() < WELL_WITHIN, "{action} of `{service}` is never done: {error:#}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Removes a service until the Registry does not know it, and waits until its host has nothing of it.
    pub(crate) async fn until_removed(&mut self, service: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let known = self.processes.placements().await.map(|all| all.iter().any(|known| known.name == service));
            let here = self.processes.services(HOME).await.map(|all| all.iter().any(|here| here.name == service));
            if matches!((&known, &here), (Ok(false), Ok(false))) {
                break;
            }
            if matches!(known, Ok(true)) {
                // Its outcome is looked at above.
                drop(run_command(self.order_command("remove", service)?, Vec::new()).await);
            }
            ensure!(begun.elapsed() < WELL_WITHIN, "`{service}` is never gone: {known:?}, {here:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.deployed.retain(|(name, _)| name != service);
        Ok(())
    }

    /// A service to deploy.
    pub(crate) fn next_spare(&mut self) -> anyhow::Result<String> {
        let spare = self.spare.pop().context("no spare service is left")?;
        self.deployed.push(spare.clone());
        Ok(spare.0)
    }

    /// Waits until all is as it should be: each service on one host, which the record names, nothing undecided, clients served.
    pub(crate) async fn well(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut forgotten_since = None;
        loop {
            match self.is_well().await {
                Ok(Health::Well) => break,
                Ok(Health::MoveForgotten) => {
                    let since = *forgotten_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > FORGOTTEN {
                        self.forgotten += 1;
                        forgotten_since = None;
                        let (source, target) = self.source_and_target().await?;
                        self.move_on(&source, &target).await.context("a move that was forgotten is in the way")?;
                    }
                }
                Err(error) if begun.elapsed() > WELL_WITHIN => {
                    return Err(error.context(format!("not well after {:.0?}", begun.elapsed())));
                }
                Err(_) => forgotten_since = None,
            }
            tokio::time::sleep(LOOK_EVERY * 5).await;
        }
        self.user()?.served(2 * WORKERS, WELL_WITHIN).await?;
        self.check_log().await
    }

    /// The Registry's audit log is whole, and has what the records say, however often it was killed.
    async fn check_log(&self) -> anyhow::Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare-registry-under-test"));
        command.args(["audit", "verify", "--dir"]).arg(self.processes.dir_of(REGISTRY)?);
        run_command(command, Vec::new()).await.context("the audit log").map(drop)
    }

    async fn is_well(&self) -> anyhow::Result<Health> {
        let deployed = self.deployed.iter().map(|(name, _)| name.as_str());
        let services: Vec<&str> = std::iter::once(SERVICE).chain(deployed).collect();
        self.processes.health(&services).await
    }

    /// Ends it and keeps what it left on disk, for people.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.user = None;
        self.processes.keep()
    }
}
