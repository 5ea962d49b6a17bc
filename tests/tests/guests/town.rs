//! A Registry, a home, two clouds and a gateway, each a process, and one HTTP request at a time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use sim_net::processes::{Joining, Kind, Processes, Programs, Setup, free_address, run_command};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wayfare_node::api::shapes::Outcome;

pub(crate) const HOME: &str = "home";
pub(crate) const ALPHA: &str = "alpha";
pub(crate) const BETA: &str = "beta";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The mesh, and where each service's clients come in.
pub(crate) struct Town {
    pub(crate) processes: Processes,
    ingress: BTreeMap<String, SocketAddr>,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One request, as any HTTP client sends it.
pub(crate) async fn http(address: SocketAddr, line: &str, headers: &str, body: &[u8]) -> anyhow::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: town\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        let text = String::from_utf8(text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP response")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    };
    tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("no answer to {line}"))?
}

impl Town {
    /// Everybody runs, and knows everybody. The gateway carries these services, which nobody has deployed.
    pub(crate) async fn start(services: &[&str]) -> anyhow::Result<Self> {
        let setup = Setup {
            programs: Programs {
                node: PathBuf::from(env!("CARGO_BIN_EXE_wayfare-under-test")),
                registry: PathBuf::from(env!("CARGO_BIN_EXE_wayfare-registry-under-test")),
            },
            lease_s: 5,
            step_timeout: Duration::from_secs(20),
            listen: free_address()?,
            announce: None,
            environment: Vec::new(),
            log: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            prefix: "wayfare-guests-".to_owned(),
        };
        let mut processes = Processes::start(setup).await?;
        let ingress = services.iter().map(|name| Ok(((*name).to_owned(), free_address()?)));
        let ingress = ingress.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        for (name, kind) in [(HOME, Kind::Home), (ALPHA, Kind::Cloud), (BETA, Kind::Cloud), ("edge", Kind::Gateway)] {
            let gateway = kind == Kind::Gateway;
            let joining = Joining {
                name: name.to_owned(),
                kind,
                listen: if gateway { None } else { Some(free_address()?) },
                advertise: None,
                services: if gateway { ingress.clone().into_iter().collect() } else { Vec::new() },
                environment: Vec::new(),
            };
            processes.join(joining).await?;
        }
        processes.meet(PATIENCE).await?;
        Ok(Self { processes, ingress })
    }

    /// Deploys `tests/guests/GUEST/GUEST.wasm` at home, with so much memory.
    pub(crate) async fn deploy(&self, guest: &str, name: &str, memory_mib: u64) -> anyhow::Result<()> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guests/{guest}/{guest}.wasm"));
        let mut command = self.processes.deploy_command(HOME, &module, name)?;
        command.args(["--memory", &memory_mib.to_string()]);
        run_command(command, Vec::new()).await?;
        Ok(())
    }

    /// Where a service's clients come in.
    pub(crate) fn address(&self, service: &str) -> SocketAddr {
        self.ingress[service]
    }

    /// Asks a service, through the gateway.
    pub(crate) async fn ask(&self, service: &str, line: &str, headers: &str, body: &str) -> anyhow::Result<Answer> {
        http(self.address(service), line, headers, body.as_bytes()).await
    }

    /// The host that serves it, by the Registry's record.
    pub(crate) async fn place_of(&self, service: &str) -> anyhow::Result<String> {
        let placements = self.processes.placements().await?;
        let record = placements.into_iter().find(|view| view.name == service).context("no record of the service")?;
        Ok(record.cloud)
    }

    /// Moves a service, and waits until it is served there. An attempt that fails is made again.
    pub(crate) async fn go(&self, service: &str, to: &str) -> anyhow::Result<()> {
        let from = self.place_of(service).await?;
        let begun = Instant::now();
        let mut refused = None;
        while self.place_of(service).await? != to || !self.serves(to, service).await? {
            let history = self.processes.migrations(&from).await?;
            let under_way = history.iter().any(|attempt| attempt.outcome == Outcome::Running);
            ensure!(
                begun.elapsed() < PATIENCE,
                "{service} does not get from {from} to {to}: {refused:?}, {:?}",
                history.first()
            );
            if !under_way && self.place_of(service).await? == from {
                refused = self.processes.begin_move(&from, service, to).await.err();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn serves(&self, host: &str, service: &str) -> anyhow::Result<bool> {
        let services = self.processes.services(host).await?;
        Ok(services.iter().any(|view| view.name == service && view.state == "serving"))
    }

    /// Kills a host, and starts it again.
    pub(crate) async fn crash(&mut self, name: &str) -> anyhow::Result<()> {
        self.processes.process(name)?.kill().await?;
        self.processes.restart(name).await
    }
}
