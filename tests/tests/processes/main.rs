//! The product as people start it: a Registry, a home, two clouds and a gateway, each a process of its own, with the command
//! line in between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

mod logs;
mod metrics;
mod secrets;
mod update;

const NODE: &str = env!("CARGO_BIN_EXE_wayfare-under-test");
const REGISTRY: &str = env!("CARGO_BIN_EXE_wayfare-registry-under-test");
const SIM: &str = env!("CARGO_BIN_EXE_wayfare-sim-under-test");
const KV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/kv/kv.wasm");
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
fn until<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn execute(program: &str, dir: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).arg("--dir").arg(dir).output().unwrap()
}

/// What a command prints; it must succeed.
fn text(program: &str, dir: &Path, arguments: &[&str]) -> String {
    let output = execute(program, dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(program: &str, dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(program, dir, &[arguments, &["--json"]].concat())).unwrap()
}

/// A process that runs until it is dropped.
struct Running {
    child: Child,
    dir: PathBuf,
    ready: Value,
}

impl Running {
    fn start(program: &str, dir: &Path) -> Self {
        let arguments = ["run", "--json", "--dir"];
        let mut command = Command::new(program);
        Self::of(command.args(arguments).arg(dir).stderr(Stdio::null()), dir)
    }

    /// A command that says on its first line that it runs.
    fn of(command: &mut Command, dir: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command:?} did not start: {line:?}"));
        Self { child, dir: dir.to_owned(), ready }
    }

    /// Asks it to stop, which it must do, and well.
    fn stop(mut self) {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(told.success());
        assert!(self.child.wait().unwrap().success(), "{} stopped badly", self.dir.display());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins and runs a node.
fn node(registry: &Path, root: &Path, name: &str, role: &str, more: &[&str]) -> Running {
    let dir = root.join(name);
    let token = text(REGISTRY, registry, &["join-token", "--cloud", name, "--role", role]);
    let mut command = Command::new(NODE);
    command.args(["init", "--join", "-"]).args(more).arg("--dir").arg(&dir);
    let mut init = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    init.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    assert!(init.wait().unwrap().success(), "{name} cannot be made");
    Running::start(NODE, &dir)
}

/// The status and body that a request gets, once there is an answer.
fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let head = format!("{request} HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let status = response.split(' ').nth(1)?.parse().ok()?;
    Some((status, response.split_once("\r\n\r\n")?.1.trim().to_owned()))
}

/// `POST /count` as any HTTP client sends it; the count, once there is one.
fn count(address: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"POST /count HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n")?.1.trim().parse().ok()
}

/// Where the Registry says that the service is.
fn placed(registry: &Path) -> (String, u64) {
    let placements = json(REGISTRY, registry, &["placements"]);
    let service = &placements["services"][0];
    (service["cloud"].as_str().unwrap().to_owned(), service["era"].as_u64().unwrap())
}

#[test]
fn a_service_moves_from_process_to_process_and_counts_on() {
    let root = tempfile::tempdir().unwrap();
    let (registry, home, alpha, beta, edge, address) = mesh(root.path());
    let knows = |dir: &Path, cloud: &str| json(NODE, dir, &["clouds"]).to_string().contains(cloud).then_some(());
    for (from, to, expected) in [(&home, "alpha", 2), (&alpha, "beta", 3), (&beta, "alpha", 4)] {
        until("the clouds to meet", || knows(&from.dir, to));
        text(NODE, &from.dir, &["move", "kv", "--to", to]);
        assert_eq!(count(&address), Some(expected), "after the move to {to}");
        assert_eq!(placed(&registry.dir), (to.to_owned(), expected));
    }
    // A service that is not here cannot be moved from here, and the command says so.
    let elsewhere = execute(NODE, &home.dir, &["move", "kv", "--to", "beta"]);
    assert!(!elsewhere.status.success());
    for process in [edge, home, alpha, beta, registry] {
        process.stop();
    }
}

/// A Registry, a home, two clouds and a gateway with a service `kv` at home, and the gateway's port.
fn mesh(root: &Path) -> (Running, Running, Running, Running, Running, String) {
    let registry_dir = root.join("registry");
    text(REGISTRY, &registry_dir, &["init", "--listen", "127.0.0.1:0"]);
    let registry = Running::start(REGISTRY, &registry_dir);
    let here = ["--listen", "/ip4/127.0.0.1/tcp/0", "--policy", "never"];
    let home = node(&registry_dir, root, "home", "home", &here);
    let alpha = node(&registry_dir, root, "alpha", "cloud", &here);
    let beta = node(&registry_dir, root, "beta", "cloud", &here);
    let edge = node(&registry_dir, root, "edge", "gateway", &["--service", "kv=127.0.0.1:0"]);
    let gateway = edge.ready["gateway"].to_string();
    let address = gateway.split('"').find(|part| part.starts_with("127.0.0.1:")).unwrap_or_else(|| panic!("{gateway}"));
    let address = address.to_owned();
    text(NODE, &home.dir, &["deploy", KV, "--name", "kv"]);
    assert_eq!(count(&address), Some(1));
    (registry, home, alpha, beta, edge, address)
}

#[test]
fn an_owner_stops_starts_removes_and_deploys_again() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (registry, home, alpha, beta, edge, address) = mesh(root);
    let key = home.dir.join("owner.key");
    let key = key.to_str().unwrap();
    until("the clouds to meet", || json(NODE, &home.dir, &["clouds"]).to_string().contains("alpha").then_some(()));
    text(NODE, &home.dir, &["move", "kv", "--to", "alpha"]);

    // Through any node, with the owner's key and no other.
    let stranger = execute(NODE, &beta.dir, &["stop", "kv"]);
    let error = String::from_utf8(stranger.stderr).unwrap();
    assert!(
        stranger.status.code() == Some(2) && error.contains("owner.key") && error.contains("--owner-key"),
        "{error}"
    );
    text(NODE, &beta.dir, &["deploy", KV, "--name", "other"]);
    let stranger = execute(NODE, &beta.dir, &["stop", "kv"]);
    let error = String::from_utf8(stranger.stderr).unwrap();
    let owner = json(NODE, &home.dir, &["stop", "kv", "--no-wait"]);
    assert_eq!((owner["service"].as_str(), owner["action"].as_str()), (Some("kv"), Some("stop")));
    assert!(stranger.status.code() == Some(2) && error.contains("and the owner of `kv` is"), "{error}");

    let stopped = json(NODE, &edge.dir, &["stop", "kv", "--owner-key", key]);
    assert_eq!(stopped["outcome"], "done");
    let state = |wanted: &str| {
        let services = json(REGISTRY, &registry.dir, &["placements"])["services"].to_string();
        services.contains(&format!("\"state\":\"{wanted}\"")).then_some(())
    };
    until("the registry to show it stopped", || state("stopped"));
    assert!(json(NODE, &alpha.dir, &["services"]).to_string().contains("\"stopped\""));
    let begun = Instant::now();
    let (status, body) = ask(&address, "POST /count").unwrap();
    assert_eq!((status, body.as_str()), (503, "`kv`: the service is stopped by its owner"));
    assert!(begun.elapsed() < Duration::from_secs(10), "at once");
    until("beta to be known", || json(NODE, &alpha.dir, &["clouds"]).to_string().contains("beta").then_some(()));
    text(NODE, &alpha.dir, &["move", "kv", "--to", "beta"]);
    assert_eq!(ask(&address, "POST /count").unwrap().0, 503, "it stays stopped where it goes");
    text(NODE, &home.dir, &["start", "kv"]);
    assert_eq!(count(&address), Some(2));

    let removed = json(NODE, &home.dir, &["remove", "kv"]);
    assert_eq!(removed["outcome"], "done");
    let (status, body) = until("the gateway to hear of it", || ask(&address, "POST /count").filter(|(s, _)| *s == 404));
    assert!(status == 404 && body.contains("`kv`"), "{body}");
    let again = execute(NODE, &home.dir, &["remove", "kv"]);
    assert!(again.status.code() == Some(1) && String::from_utf8(again.stderr).unwrap().contains("no service `kv`"));
    assert!(std::fs::read_dir(beta.dir.join("images")).unwrap().next().is_none_or(|entry| {
        let name = entry.unwrap().file_name();
        panic!("an image is left: {}", name.display())
    }));
    text(NODE, &alpha.dir, &["deploy", KV, "--name", "kv", "--owner-key", key]);
    assert_eq!(until("the gateway to follow", || count(&address)), 1, "a new service, from the beginning");
    for process in [edge, home, alpha, beta, registry] {
        process.stop();
    }
}

#[test]
fn the_binaries_know_their_versions() {
    for program in [NODE, REGISTRY, SIM] {
        let output = Command::new(program).arg("--version").output().unwrap();
        assert!(output.status.success(), "{program}");
        assert!(String::from_utf8(output.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")), "{program}");
    }
}
