//! A Registry, hosts and gateways, each a process.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use wayfare_node::api::{
    client::{Client, ClientError},
    shapes,
};
use wayfare_registry::view::{JoinTokenView, ServiceView, StatsView};

use super::{Process, child::run_command};

/// The Registry's name among the processes.
pub const REGISTRY: &str = "registry";
/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long an answer of a control API may take: a process may be stopped.
const API_WITHIN: Duration = Duration::from_secs(10);
/// What each host has to offer: enough for any test.
const CPU_MILLICORES: &str = "64000";
const MEMORY_MIB: &str = "65536";

/// What runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `wayfare`.
    pub node: PathBuf,
    /// `wayfare-registry`.
    pub registry: PathBuf,
}

impl Programs {
    /// Those beside the program that runs now.
    ///
    /// # Errors
    /// They are not there.
    pub fn beside_this() -> anyhow::Result<Self> {
        let me = std::env::current_exe().context("where this program is cannot be found out")?;
        let programs = Self { node: me.with_file_name("wayfare"), registry: me.with_file_name("wayfare-registry") };
        for program in [&programs.node, &programs.registry] {
            ensure!(
                program.exists(),
                "{} is missing: build it with `cargo build --release`, which puts all programs side by side",
                program.display()
            );
        }
        Ok(programs)
    }
}

/// How a mesh begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What runs.
    pub programs: Programs,
    /// Seconds of a lease.
    pub lease_s: u64,
    /// How long hosts wait for each other's next message.
    pub step_timeout: Duration,
    /// Where the Registry listens.
    pub listen: SocketAddr,
    /// Where others reach it, if not there.
    pub announce: Option<SocketAddr>,
    /// What is in the Registry's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What the processes log, as in `RUST_LOG`.
    pub log: String,
    /// How the directory's name begins.
    pub prefix: String,
}

/// How services are on a mesh in which everybody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As they should be.
    Well,
    /// As they should be, but that the Registry waits for the end of a move of which no host knows any more: its source died, or
    /// gave up, before it had consented. The next move ends it.
    MoveForgotten,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The trust anchor.
    Registry,
    /// Where services start.
    Home,
    /// Where they go.
    Cloud,
    /// How clients reach them.
    Gateway,
}

impl Kind {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Home => "home",
            Self::Cloud => "cloud",
            Self::Gateway => "gateway",
        }
    }
}

/// A node that is to join.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its provider's name, and its own.
    pub name: String,
    /// What it may do.
    pub kind: Kind,
    /// Where it listens; a gateway may listen nowhere.
    pub listen: Option<SocketAddr>,
    /// Where others reach it, if not there.
    pub advertise: Option<SocketAddr>,
    /// What it carries, and where.
    pub services: Vec<(String, SocketAddr)>,
    /// What is in its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// A process and what it takes to start it again.
#[derive(Debug)]
struct Member {
    kind: Kind,
    dir: PathBuf,
    environment: Vec<(OsString, OsString)>,
    process: Option<Process>,
}

/// The mesh.
#[derive(Debug)]
pub struct Processes {
    setup: Setup,
    members: BTreeMap<String, Member>,
    dir: TempDir,
}

fn multiaddr(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => format!("/ip4/{}/tcp/{}", v4.ip(), v4.port()),
        SocketAddr::V6(v6) => format!("/ip6/{}/tcp/{}", v6.ip(), v6.port()),
    }
}

/// Changes a setting of a configuration file.
fn set(file: &Path, key: &str, value: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let start = format!("{key} = ");
    ensure!(text.lines().any(|line| line.starts_with(&start)), "{} has no `{key}`", file.display());
    let line = |line: &str| if line.starts_with(&start) { format!("{start}{value}\n") } else { format!("{line}\n") };
    std::fs::write(file, text.lines().map(line).collect::<String>())?;
    Ok(())
}

impl Processes {
    /// A Registry, running, and nobody else yet.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix(&setup.prefix).tempdir().context("no temporary directory")?;
        let registry = dir.path().join(REGISTRY);
        let mut init = Command::new(&setup.programs.registry);
        // By TCP only: proxies and gates stand in its way, and QUIC would go round them.
        init.args(["init", "--listen"]).arg(multiaddr(setup.listen)).arg("--dir").arg(&registry);
        run_command(init, Vec::new()).await?;
        let config = registry.join("registry.toml");
        set(&config, "lease_s", &setup.lease_s.to_string())?;
        if let Some(announce) = setup.announce {
            set(&config, "announce", &format!("[\"{}\"]", multiaddr(announce)))?;
        }
        let member =
            Member { kind: Kind::Registry, dir: registry, environment: setup.environment.clone(), process: None };
        let mut processes = Self { setup, members: BTreeMap::from([(REGISTRY.to_owned(), member)]), dir };
        processes.restart(REGISTRY).await?;
        Ok(processes)
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the directory for people to look at; where it is.
    pub fn keep(mut self) -> PathBuf {
        self.members.clear();
        self.dir.keep()
    }

    /// A node joins and runs.
    ///
    /// # Errors
    /// It does not start.
    pub async fn join(&mut self, joining: Joining) -> anyhow::Result<()> {
        let Joining { name, kind, listen, advertise, services, environment } = joining;
        let body = json!({ "cloud": name, "role": kind.name(), "ttl_s": 3600 });
        let token: JoinTokenView = self.client(REGISTRY)?.post(&["join-tokens"], &body).await?;
        let dir = self.dir.path().join(&name);
        let mut init = Command::new(&self.setup.programs.node);
        init.args(["init", "--join", "-", "--policy", "never", "--cpu", CPU_MILLICORES, "--memory", MEMORY_MIB]);
        for (option, address) in [("--listen", listen), ("--advertise", advertise)] {
            if let Some(address) = address {
                init.args([option, &multiaddr(address)]);
            }
        }
        for (service, address) in services {
            init.arg("--service").arg(format!("{service}={address}"));
        }
        init.arg("--dir").arg(&dir);
        run_command(init, token.token.into_bytes()).await.with_context(|| format!("{name} cannot be made"))?;
        if kind != Kind::Gateway {
            let timeout = self.setup.step_timeout.as_millis().to_string();
            set(&dir.join("node.toml"), "step_timeout_ms", &timeout)?;
        }
        self.members.insert(name.clone(), Member { kind, dir, environment, process: None });
        self.restart(&name).await
    }

    fn member(&self, name: &str) -> anyhow::Result<&Member> {
        self.members.get(name).with_context(|| format!("there is no `{name}`"))
    }

    fn member_mut(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        self.members.get_mut(name).with_context(|| format!("there is no `{name}`"))
    }

    /// Everybody of a kind, by name.
    pub fn all(&self, kind: Kind) -> Vec<String> {
        self.members.iter().filter(|(_, member)| member.kind == kind).map(|(name, _)| name.clone()).collect()
    }

    /// Everybody who may have services.
    pub fn hosts(&self) -> Vec<String> {
        [self.all(Kind::Home), self.all(Kind::Cloud)].concat()
    }

    /// A process's directory.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn dir_of(&self, name: &str) -> anyhow::Result<&Path> {
        Ok(&self.member(name)?.dir)
    }

    /// Whether a process runs.
    pub fn is_running(&mut self, name: &str) -> bool {
        self.process(name).is_ok_and(Process::is_running)
    }

    /// A process, if it was started.
    ///
    /// # Errors
    /// There is none of this name, or it is down.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.member_mut(name)?.process.as_mut().with_context(|| format!("{name} does not run"))
    }

    /// Starts a process, again or for the first time, and does not wait until it is ready.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn launch(&mut self, name: &str) -> anyhow::Result<()> {
        let (programs, log) = (self.setup.programs.clone(), self.setup.log.clone());
        let file = self.dir.path().join(format!("{name}.log"));
        let member = self.member_mut(name)?;
        member.process = None;
        let program = if member.kind == Kind::Registry { &programs.registry } else { &programs.node };
        let mut command = Command::new(program);
        command.args(["run", "--json", "--dir"]).arg(&member.dir).env("RUST_LOG", log);
        command.envs(member.environment.iter().cloned());
        let process = Process::start(command, &file).await.with_context(|| format!("{name} does not start"))?;
        self.member_mut(name)?.process = Some(process);
        Ok(())
    }

    /// Starts a process and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        self.launch(name).await?;
        self.process(name)?.ready().await.with_context(|| format!("{name} is not ready"))?;
        Ok(())
    }

    /// What to talk to a process by.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn client(&self, name: &str) -> anyhow::Result<Client> {
        let member = self.member(name)?;
        let socket = if member.kind == Kind::Registry { "registry.sock" } else { "api.sock" };
        Ok(Client::new(member.dir.join(socket)))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, name: &str, path: &[&str]) -> anyhow::Result<T> {
        let client = self.client(name)?;
        let answer = tokio::time::timeout(API_WITHIN, client.get(path, "")).await;
        answer.with_context(|| format!("{name} does not answer"))?.with_context(|| format!("{name} cannot be asked"))
    }

    /// Where the Registry says that services are.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn placements(&self) -> anyhow::Result<Vec<ServiceView>> {
        self.ask(REGISTRY, &["placements"]).await
    }

    /// The services that a host says it has.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn services(&self, host: &str) -> anyhow::Result<Vec<shapes::Service>> {
        self.ask(host, &["services"]).await
    }

    /// The attempts that a host says it took part in.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn migrations(&self, host: &str) -> anyhow::Result<Vec<shapes::Migration>> {
        self.ask(host, &["migrations"]).await
    }

    /// The clouds that a host knows.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn clouds(&self, host: &str) -> anyhow::Result<Vec<shapes::Cloud>> {
        self.ask(host, &["clouds"]).await
    }

    /// Whether each of `services` is served by one host and no other has it, the record names that host, and no host has an
    /// attempt that is not decided.
    ///
    /// # Errors
    /// What is not so, or who does not answer.
    pub async fn health(&self, services: &[&str]) -> anyhow::Result<Health> {
        let placements = self.placements().await?;
        let (mut found, mut forgotten) = (Vec::new(), false);
        for host in self.hosts() {
            for service in self.services(&host).await? {
                found.push((service.name, host.clone(), service.state, service.epoch));
            }
            let migrations = self.migrations(&host).await?;
            if let Some(open) = migrations.iter().find(|migration| migration.outcome == shapes::Outcome::Running) {
                bail!("{host} has a migration that is not decided: {open:?}");
            }
        }
        for name in services {
            let record = placements.iter().find(|view| view.name == *name);
            let record = record.with_context(|| format!("there is no record of {name}"))?;
            forgotten |= record.moving;
            let on: Vec<_> = found.iter().filter(|(service, ..)| service == name).collect();
            let [(_, host, state, epoch)] = on[..] else { bail!("{name} is on {} hosts: {on:?}", on.len()) };
            ensure!(*host == record.cloud, "{name} is on {host}, the record says {}", record.cloud);
            ensure!(state == "serving", "{name} on {host} is {state}");
            ensure!(epoch.as_ref() == Some(&record.epoch), "{name} has epoch {epoch:?}, the record {}", record.epoch);
        }
        Ok(if forgotten { Health::MoveForgotten } else { Health::Well })
    }

    /// Every cloud's record as a target of moves.
    ///
    /// # Errors
    /// The Registry does not answer.
    pub async fn stats(&self) -> anyhow::Result<StatsView> {
        self.ask(REGISTRY, &["stats"]).await
    }

    /// Asks `host` to move a service away, through its control API, and does not wait for the end.
    ///
    /// # Errors
    /// What it says against it.
    pub async fn begin_move(&self, host: &str, service: &str, to: &str) -> Result<(), ClientError> {
        let broken = |error: anyhow::Error| ClientError::Broken(error.to_string());
        let client = self.client(host).map_err(broken)?;
        let request = shapes::MoveRequest { to: Some(to.to_owned()), wait: false, ..shapes::MoveRequest::default() };
        let path = ["services", service, "move"];
        let answer = tokio::time::timeout(API_WITHIN, client.post::<Value>(&path, &request)).await;
        match answer {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(ClientError::Broken(format!("{host} does not answer"))),
        }
    }

    /// The command that deploys a service on `host`, whose acknowledged writes are durable.
    ///
    /// # Errors
    /// There is no such host.
    pub fn deploy_command(&self, host: &str, module: &Path, service: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.setup.programs.node);
        command.arg("deploy").arg(module).args(["--name", service, "--durability", "log", "--dir"]);
        command.arg(self.dir_of(host)?);
        Ok(command)
    }

    /// Deploys a service on `host` and waits until it runs.
    ///
    /// # Errors
    /// It does not.
    pub async fn deploy(&self, host: &str, module: &Path, service: &str) -> anyhow::Result<()> {
        run_command(self.deploy_command(host, module, service)?, Vec::new()).await?;
        Ok(())
    }

    /// Waits until every cloud is known to every host.
    ///
    /// # Errors
    /// They do not meet in time.
    pub async fn meet(&self, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let clouds = self.all(Kind::Cloud);
        for host in self.hosts() {
            loop {
                let known = self.clouds(&host).await.unwrap_or_default();
                let knows = |cloud: &String| *cloud == host || known.iter().any(|known| known.name == *cloud);
                if clouds.iter().all(knows) {
                    break;
                }
                if begun.elapsed() > within {
                    bail!("{host} knows only {:?}", known.iter().map(|cloud| &cloud.name).collect::<Vec<_>>());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}
