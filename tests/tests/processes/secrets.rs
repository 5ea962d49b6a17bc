//! What real processes tell of their secrets, at the most talkative: nothing. And what they do when a file that holds one is
//! open to others.

use std::{fs, os::unix::fs::PermissionsExt as _};

use wayfare_protocol::host::Entry;

use super::*;

/// Starts a process that logs all there is to say.
fn talkative(program: &str, dir: &Path, log: &Path) -> Running {
    let mut command = Command::new(program);
    command.args(["run", "--json", "--dir"]).arg(dir).env("RUST_LOG", "trace").stderr(fs::File::create(log).unwrap());
    Running::of(&mut command, dir)
}

fn init(registry: &Path, dir: &Path, role: &str, more: &[&str]) -> String {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let token = text(REGISTRY, registry, &["join-token", "--cloud", name, "--role", role]);
    text(NODE, dir, &[&["init", "--join", token.trim()], more].concat());
    token.trim().to_owned()
}

/// The secrets in a host's journal: a key for each placement that it had or prepared.
fn placement_keys(dir: &Path) -> Vec<Vec<u8>> {
    fn collect(entry: &Entry, keys: &mut Vec<Vec<u8>>) {
        match entry {
            Entry::Placed { secret, .. } | Entry::Registering { secret, .. } | Entry::KeyMade { secret, .. } => {
                keys.push(secret.expose().to_vec());
            }
            Entry::Snapshot(entries) => entries.iter().for_each(|entry| collect(entry, keys)),
            _ => {}
        }
    }
    let mut keys = Vec::new();
    for (_, bytes) in wayfare_journal::read(&dir.join("journal")).unwrap() {
        collect(&Entry::from_bytes(&bytes).unwrap(), &mut keys);
    }
    keys
}

fn key_file(path: &Path) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(fs::read_to_string(path).unwrap().trim().as_bytes()).unwrap()
}

/// Every form in which a log might have the bytes.
fn forms(secret: &[u8]) -> [String; 5] {
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    [
        data_encoding::HEXLOWER.encode(secret)[..24].to_owned(),
        data_encoding::HEXUPPER.encode(secret)[..24].to_owned(),
        data_encoding::BASE64.encode(secret)[..20].to_owned(),
        bs58::encode(secret).into_string(),
        list(&secret[..8]),
    ]
}

#[test]
fn no_log_tells_a_secret_at_any_level() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let log = |name: &str| root.path().join(format!("{name}.log"));
    let registry = at("registry");
    text(REGISTRY, &registry, &["init", "--listen", "127.0.0.1:0"]);
    let mut running = vec![talkative(REGISTRY, &registry, &log("registry"))];
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut tokens = Vec::new();
    for (name, role) in [("home", "home"), ("alpha", "cloud"), ("beta", "cloud")] {
        tokens.push(init(&registry, &at(name), role, &listen));
        running.push(talkative(NODE, &at(name), &log(name)));
    }
    let known = |from: &str, cloud: &str| {
        let clouds = json(NODE, &at(from), &["clouds"]);
        clouds.to_string().contains(cloud).then_some(())
    };
    until("alpha", || known("home", "alpha"));
    text(NODE, &at("home"), &["deploy", KV, "--name", "kv"]);
    text(NODE, &at("home"), &["move", "kv", "--to", "alpha"]);
    until("beta", || known("alpha", "beta"));
    // The end of the first move may not have reached alpha.
    until("a move", || execute(NODE, &at("alpha"), &["move", "kv", "--to", "beta"]).status.success().then_some(()));
    text(NODE, &at("home"), &["stop", "kv"]);
    let mut secrets = vec![key_file(&registry.join("registry.key")), key_file(&at("home").join("owner.key"))];
    for name in ["home", "alpha", "beta"] {
        secrets.push(key_file(&at(name).join("node.key")));
        let keys = placement_keys(&at(name));
        assert!(!keys.is_empty(), "{name} has had no placement");
        secrets.extend(keys);
    }
    drop(running);
    let mut bytes = 0;
    for name in ["registry", "home", "alpha", "beta"] {
        let said = String::from_utf8_lossy(&fs::read(log(name)).unwrap()).into_owned();
        assert!(said.contains("TRACE") || said.contains("DEBUG"), "{name} has not said much");
        bytes += said.len();
        for secret in &secrets {
            let form = forms(secret).into_iter().find(|form| said.contains(form));
            assert_eq!(form, None, "{name} told a secret");
        }
        for token in &tokens {
            assert!(!said.contains(&token[30..60]), "{name} told a join token");
        }
    }
    assert!(bytes > 100_000, "{bytes} bytes of logs: is this trace level?");
    // What a log says of public keys, it would say of secret ones: the search finds those.
    let home = String::from_utf8_lossy(&fs::read(log("home")).unwrap()).into_owned();
    let key = json(REGISTRY, &registry, &["audit", "verify"]);
    assert_eq!(key["intact"], true);
    let trust: Value = serde_json::from_str(&fs::read_to_string(at("home").join("trust.json")).unwrap()).unwrap();
    let public = bs58::decode(trust["registries"][0]["key"].as_str().unwrap()).into_vec().unwrap();
    assert!(forms(&public).iter().any(|form| home.contains(form)), "not even the registry's public key is in it");
}

#[test]
fn files_that_hold_secrets_are_refused_while_others_can_read_them() {
    let root = tempfile::tempdir().unwrap();
    let (registry, home) = (root.path().join("registry"), root.path().join("home"));
    text(REGISTRY, &registry, &["init", "--listen", "127.0.0.1:0"]);
    let running = Running::start(REGISTRY, &registry);
    init(&registry, &home, "home", &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |program: &str, dir: &Path, path: &Path, arguments: &[&str]| {
        assert_eq!(mode(path), 0o600, "{}", path.display());
        for open in [0o640, 0o604, 0o620] {
            set(path, open);
            let output = execute(program, dir, arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let named = said.contains(path.to_str().unwrap()) && said.contains("chmod 600");
            assert!(output.status.code() == Some(2) && named, "{}: {:?} {said}", path.display(), output.status);
        }
        set(path, 0o600);
    };
    refused(NODE, &home, &home.join("node.key"), &["run"]);
    refused(NODE, &home, &home.join("join.token"), &["run"]);
    // Once it has run, there are a journal and, once it has deployed, an owner.
    let node = Running::start(NODE, &home);
    text(NODE, &home, &["deploy", KV, "--name", "kv"]);
    refused(NODE, &home, &home.join("owner.key"), &["stop", "kv"]);
    assert_eq!(core_limit(&node), "0", "its memory would be in a core dump");
    node.stop();
    refused(NODE, &home, &home.join("journal"), &["run"]);
    assert_eq!((mode(&home), mode(&registry)), (0o700, 0o700));
    assert_eq!(core_limit(&running), "0");
    running.stop();
    refused(REGISTRY, &registry, &registry.join("registry.key"), &["run"]);
    refused(REGISTRY, &registry, &registry.join("registry.journal"), &["run"]);
    let allowed = Command::new(REGISTRY).args(["run", "--json", "--allow-dumps", "--dir"]).arg(&registry).spawn_ready();
    assert_eq!(core_limit(&allowed), core_limit_of("self"), "it is as it was");
    allowed.stop();
}

trait SpawnReady {
    fn spawn_ready(&mut self) -> Running;
}

impl SpawnReady for Command {
    fn spawn_ready(&mut self) -> Running {
        Running::of(self.stderr(Stdio::null()), Path::new("."))
    }
}

/// The most that a core dump may have, by the system.
fn core_limit(running: &Running) -> String {
    core_limit_of(&running.child.id().to_string())
}

fn core_limit_of(process: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().nth(5).unwrap().to_owned()
}
