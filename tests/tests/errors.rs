//! What the commands say when something is not as it should be: each names what is wrong, says what to do, and has the exit
//! code that programs go by. And what they say when all is well they say as JSON, too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use sim_net::processes::{Joining, Kind, Processes, Programs, REGISTRY, Setup, free_address};
use tokio::task::spawn_blocking;

const NODE: &str = env!("CARGO_BIN_EXE_wayfare-under-test");
const REGISTRY_PROGRAM: &str = env!("CARGO_BIN_EXE_wayfare-registry-under-test");
const SIM: &str = env!("CARGO_BIN_EXE_wayfare-sim-under-test");
const KV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/kv/kv.wasm");

/// Something to change first.
const SETUP: i32 = 2;
/// Anything else.
const OTHER: i32 = 1;

/// What a command is given, and what must come of it.
struct Case {
    program: &'static str,
    /// `{name}` stands for a directory or a file: see [`Places`].
    line: &'static str,
    code: i32,
    /// All that stderr says, line by line; `…` at the end of a line stands for the rest of it.
    says: &'static str,
}

const fn case(program: &'static str, line: &'static str, code: i32, says: &'static str) -> Case {
    Case { program, line, code, says }
}

/// Without a mesh.
const ALONE: &[Case] = &[
    case(
        NODE,
        "services --dir {none}",
        OTHER,
        "error: no node runs in {none}: start it with `wayfare run --dir {none}`, or name its directory with --dir",
    ),
    case(
        NODE,
        "run --dir {none}",
        SETUP,
        "error: cannot read {none}/node.toml: make a node with `wayfare init`, or name its directory with --dir: No such file…",
    ),
    case(
        NODE,
        "init --dir {none} --join nonsense",
        SETUP,
        "error: --join: not a join token: one starts with `wayfare-join-1:`; get one with `wayfare-registry join-token`",
    ),
    case(
        NODE,
        "init --dir {none} --join -",
        SETUP,
        "error: --join -: nothing came on stdin: pipe a join token into it, as by\n  \
         wayfare-registry join-token --cloud NAME | wayfare init --join -",
    ),
    case(NODE, "move", SETUP, "error: the following required arguments were not provided:\n  <SERVICE>…"),
    case(NODE, "swim", SETUP, "error: unrecognized subcommand 'swim'…"),
    case(
        NODE,
        "drian",
        SETUP,
        "error: unrecognized subcommand 'drian'\n\n  tip: a similar subcommand exists: 'drain'…",
    ),
    case(
        REGISTRY_PROGRAM,
        "run --dir {none}",
        SETUP,
        "wayfare-registry: {none} is no registry's directory: run `wayfare-registry init --dir {none}` first",
    ),
    case(
        REGISTRY_PROGRAM,
        "placements --dir {none}",
        SETUP,
        "wayfare-registry: no registry is running in {none}: start it with `wayfare-registry run --dir {none}`",
    ),
    case(
        SIM,
        "fuzz --break nothing",
        SETUP,
        "error: invalid value 'nothing' for '--break <NAME>': there is no such break; there are sync-gate, …",
    ),
    case(
        SIM,
        "attack --only swim",
        SETUP,
        "wayfare-sim: --only: there is no attack `swim`; there are forged-yes, impostor-service, …",
    ),
    case(
        SIM,
        "demo --matrix {none}",
        SETUP,
        "wayfare-sim: cannot read the latency matrix {none}: check that the file exists and may be read: No such file…",
    ),
];

/// Of a directory that was made for `run`, with something wrong in it.
const STOPPED: &[Case] = &[
    case(
        NODE,
        "init --dir {made} --join {token}",
        SETUP,
        "error: {made}/node.key exists already and is not overwritten: choose another --dir, or remove the old node yourself",
    ),
    case(
        NODE,
        "run --dir {exposed}",
        SETUP,
        "error: {exposed}/node.key can be read by others: take it from them with `chmod 600 {exposed}/node.key`, and replace \
         the key if they may have it",
    ),
    case(
        NODE,
        "run --dir {misspelt}",
        SETUP,
        "error: {misspelt}/node.toml cannot be used: correct or remove this setting\n…",
    ),
    case(
        NODE,
        "run --dir {made} --role home",
        SETUP,
        "error: this node joined as cloud, not as home: leave --role out, or name another --dir",
    ),
    case(
        NODE,
        "run --dir {taken}",
        SETUP,
        "error: {taken}/node.toml: node.listen: {address} is already in use: stop the other process or choose another port",
    ),
    case(
        NODE,
        "run --dir {used}",
        SETUP,
        "error: this node has not joined: the registry refuses this node: the join token is unknown, used or expired \
         (bad_token); …",
    ),
    case(
        NODE,
        "run --dir {corrupt}",
        SETUP,
        "error: the journal in {corrupt} cannot be used: {corrupt}/journal is not a journal: give another data folder",
    ),
];

/// Of nodes that run: a cloud with the service `kv`, and a gateway.
const RUNNING: &[Case] = &[
    case(
        NODE,
        "run --dir {alpha}",
        SETUP,
        "error: a node runs in {alpha} already: stop it first, or choose another --dir",
    ),
    case(
        NODE,
        "deploy {none} --name x --dir {alpha}",
        SETUP,
        "error: cannot read {none}: No such file or directory (os error 2): MODULE is the file of a WebAssembly module",
    ),
    case(
        NODE,
        "deploy {alpha}/node.toml --name x --dir {alpha}",
        OTHER,
        "error: `x` is not deployed: the module cannot be a service: not WebAssembly: the file does not start with \\0asm; \
         deploy a .wasm module\n  a service is a WebAssembly module with the ABI wayfare:request/1; see the README",
    ),
    case(
        NODE,
        "deploy {kv} --name kv --dir {alpha}",
        OTHER,
        "error: `kv` is not deployed: another request holds this place (conflict)\n  it is here already, or a move of it is \
         under way: see `wayfare services`, `wayfare migrations`",
    ),
    case(
        NODE,
        "deploy {kv} --name x --memory 100000000 --dir {alpha}",
        OTHER,
        "error: `x` is not deployed: the resources asked for are not there (no_resources)\n  ask for less (--memory, --cpu), \
         or raise [capacity] in the node's node.toml",
    ),
    case(
        NODE,
        "deploy {kv} --name x --owner-key {none} --dir {alpha}",
        SETUP,
        "error: {none} is missing: --owner-key names an existing key",
    ),
    case(
        NODE,
        "why kvv --dir {alpha}",
        OTHER,
        "error: no service `kvv` is on this node\n  did you mean `kv`? `wayfare services` lists those that are; \
         `wayfare-registry placements` says where each service is",
    ),
    case(
        NODE,
        "move kv --to nowhere --dir {alpha}",
        OTHER,
        "error: no cloud `nowhere` advertises to this node\n  `wayfare clouds` lists the clouds that advertise",
    ),
    case(
        NODE,
        "move kv --to alpha --dir {alpha}",
        OTHER,
        "error: the service is there already (self_move)\n  nothing: it is there",
    ),
    case(
        NODE,
        "move kv --dir {alpha}",
        OTHER,
        "error: `kv` is where it should be: the policy is never to move\n  name a cloud with --to, or see why with --dry-run",
    ),
    case(NODE, "trace last --dir {alpha}", OTHER, "error: no migration yet\n  move a service, or wait for one to move"),
    case(
        NODE,
        "drain --timeout 1 --dir {alpha}",
        OTHER,
        "error: not drained: not done after 1 s; 1 service is still here, served as before\n  kv: no cloud can take it: no \
         other cloud advertises to this node\n    add a cloud, or look with `wayfare clouds` why the others are not heard\n  \
         the node stays up and cordoned: drain it again, or `wayfare uncordon` it",
    ),
    case(
        NODE,
        "drain --dir {edge}",
        OTHER,
        "error: this node is a gateway and hosts no services\n  name the --dir of the cloud or home node that does",
    ),
    case(
        REGISTRY_PROGRAM,
        "revoke nobody --dir {registry}",
        OTHER,
        "wayfare-registry: no enrolled host or cloud is called `nobody`: `wayfare-registry enrolled` lists them",
    ),
    case(
        REGISTRY_PROGRAM,
        "run --dir {registry}",
        SETUP,
        "wayfare-registry: {registry}/registry.journal is in use: a registry is running on it already; stop that one first",
    ),
    case(
        REGISTRY_PROGRAM,
        "init --dir {registry}",
        SETUP,
        "wayfare-registry: {registry} holds a registry already: choose another directory, or remove that one with its key",
    ),
];

/// What stands for what.
type Places = Vec<(&'static str, String)>;

fn fill(text: &str, places: &Places) -> String {
    places.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn execute(program: &str, arguments: &[String]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_remove("WAYFARE_DIR").env("RUST_LOG", "off");
    command.output().unwrap()
}

fn matches(said: &str, expected: &str) -> bool {
    match expected.strip_suffix('…') {
        Some(begins) => said.starts_with(begins),
        None => said.trim_end() == expected,
    }
}

/// Plays the cases, and shows all that are wrong.
fn play(cases: &[Case], places: &Places) {
    let mut wrong = String::new();
    for Case { program, line, code, says } in cases {
        let arguments: Vec<String> = line.split(' ').map(|word| fill(word, places)).collect();
        let output = execute(program, &arguments);
        let (said, expected) = (String::from_utf8_lossy(&output.stderr).into_owned(), fill(says, places));
        if output.status.code() != Some(*code) || !matches(&said, &expected) {
            wrong.push_str(&format!("{line}: {}\n  said     {said:?}\n  expected {expected:?}\n", output.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn place(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn without_a_mesh_every_error_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    play(ALONE, &vec![("none", place(&temp.path().join("none")))]);
}

async fn mesh() -> Processes {
    let programs = Programs { node: PathBuf::from(NODE), registry: PathBuf::from(REGISTRY_PROGRAM) };
    let setup = Setup {
        programs,
        lease_s: 30,
        step_timeout: Duration::from_secs(5),
        listen: free_address().unwrap(),
        announce: None,
        environment: Vec::new(),
        log: "warn".to_owned(),
        prefix: "wayfare-errors-".to_owned(),
    };
    let mut mesh = Processes::start(setup).await.unwrap();
    for (name, kind) in [("alpha", Kind::Cloud), ("edge", Kind::Gateway)] {
        let services =
            if kind == Kind::Gateway { vec![("kv".to_owned(), free_address().unwrap())] } else { Vec::new() };
        let listen = (kind == Kind::Cloud).then(|| free_address().unwrap());
        let joining =
            Joining { name: name.to_owned(), kind, listen, advertise: None, services, environment: Vec::new() };
        mesh.join(joining).await.unwrap();
    }
    mesh.deploy("alpha", Path::new(KV), "kv").await.unwrap();
    mesh
}

fn token(registry: &str, cloud: &str) -> String {
    let line = ["join-token", "--cloud", cloud, "--dir", registry];
    let output = execute(REGISTRY_PROGRAM, &line.map(str::to_owned));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A node's directory, made with this token, to listen there.
fn make(dir: &Path, token: &str, listen: &str) -> String {
    let line = ["init", "--join", token, "--listen", listen, "--dir", dir.to_str().unwrap()];
    let output = execute(NODE, &line.map(str::to_owned));
    assert!(output.status.success(), "{output:?}");
    place(dir)
}

/// Directories in which something is wrong; what holds the port that one of them wants.
fn stopped(root: &Path, registry: &str, alpha: &Path) -> (Places, TcpListener) {
    let fresh = |name: &str, listen: &str| make(&root.join(name), &token(registry, name), listen);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let [made, exposed, misspelt, corrupt] =
        ["made", "exposed", "misspelt", "corrupt"].map(|name| fresh(name, "127.0.0.1:0"));
    let taken = fresh("taken", &address.to_string());
    std::fs::set_permissions(format!("{exposed}/node.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut config = std::fs::OpenOptions::new().append(true).open(format!("{misspelt}/node.toml")).unwrap();
    config.write_all(b"[nod]\n").unwrap();
    std::fs::write(format!("{corrupt}/journal"), "this is no journal, and long enough to be none").unwrap();
    std::fs::set_permissions(format!("{corrupt}/journal"), std::fs::Permissions::from_mode(0o600)).unwrap();
    // One token, shown by two nodes.
    let twice = token(registry, "twice");
    let used = make(&root.join("used"), &twice, "127.0.0.1:0");
    let first = make(&root.join("first"), &twice, "127.0.0.1:0");
    join(&first);
    let address = format!("/ip4/127.0.0.1/tcp/{}", address.port());
    let places = vec![
        ("made", made),
        ("exposed", exposed),
        ("misspelt", misspelt),
        ("corrupt", corrupt),
        ("taken", taken),
        ("used", used),
        ("token", token(registry, "other")),
        ("address", address),
        ("alpha", place(alpha)),
    ];
    (places, holder)
}

/// Runs a node until it has joined.
fn join(dir: &str) {
    let mut child = Command::new(NODE)
        .args(["run", "--json", "--dir", dir])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("\"host\""), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_mesh_every_error_says_what_to_do_and_every_result_is_also_json() {
    let mesh = mesh().await;
    let dir = |name: &str| mesh.dir_of(name).unwrap().to_owned();
    let (registry, alpha, edge) = (dir(REGISTRY), dir("alpha"), dir("edge"));
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_owned();
    spawn_blocking(move || {
        let running = vec![
            ("none", place(&root.join("none"))),
            ("kv", KV.to_owned()),
            ("registry", place(&registry)),
            ("alpha", place(&alpha)),
            ("edge", place(&edge)),
        ];
        play(RUNNING, &running);
        every_result_is_also_json(&alpha, &registry);
        let (places, _holder) = stopped(&root, registry.to_str().unwrap(), &alpha);
        play(STOPPED, &places);
    })
    .await
    .unwrap();
}

fn every_result_is_also_json(alpha: &Path, registry: &Path) {
    let commands = [
        (NODE, alpha, "clouds"),
        (NODE, alpha, "services"),
        (NODE, alpha, "rtt"),
        (NODE, alpha, "rejects"),
        (NODE, alpha, "migrations"),
        (NODE, alpha, "logs kv"),
        (NODE, alpha, "why kv"),
        (NODE, alpha, "move kv --dry-run"),
        (NODE, alpha, "cordon"),
        (NODE, alpha, "uncordon"),
        (NODE, alpha, "doctor"),
        (REGISTRY_PROGRAM, registry, "enrolled"),
        (REGISTRY_PROGRAM, registry, "placements"),
        (REGISTRY_PROGRAM, registry, "stats"),
        (REGISTRY_PROGRAM, registry, "join-token --cloud x"),
    ];
    for (program, dir, line) in commands {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let with = |more: &[&str]| {
            let arguments: Vec<String> =
                arguments.iter().cloned().chain(more.iter().map(|&word| word.to_owned())).collect();
            let output = execute(program, &arguments);
            assert!(output.status.success(), "{line}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let dir = dir.to_str().unwrap();
        let (text, json) = (with(&["--dir", dir]), with(&["--dir", dir, "--json"]));
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{line}: {json}");
        let is_json = |text: &str| text.starts_with(['{', '[']);
        assert!(!is_json(&text), "{line}: {text}");
    }
    for program in [NODE, REGISTRY_PROGRAM, SIM] {
        for shell in ["bash", "zsh", "fish"] {
            let script = execute(program, &["completions".to_owned(), shell.to_owned()]);
            assert!(script.status.success() && script.stdout.len() > 1000, "{program} {shell}");
        }
    }
}
