//! The real binary.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Running, execute};
use serde_json::Value;
use wayfare_protocol::trust::{JoinToken, Role};

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = execute(dir, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Must fail with this exit code and a message that contains all of `hints`.
fn fails(dir: &Path, arguments: &[&str], code: i32, hints: &[&str]) {
    let output = execute(dir, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for hint in hints {
        assert!(message.contains(hint), "`{hint}` is not in: {message}");
    }
    assert!(output.stdout.is_empty());
}

impl Running {
    fn terminate(mut self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert!(self.child.wait().unwrap().success());
    }
}

fn initialised() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("state");
    let made = json(&dir, &["init", "--name", "test", "--listen", "127.0.0.1:0"]);
    assert_eq!(made["name"], "test");
    (root, dir)
}

#[test]
fn from_init_to_join_tokens_and_back() {
    let (_root, dir) = initialised();
    let running = Running::start(&dir);
    let addresses: Vec<String> = serde_json::from_value(running.ready["addresses"].clone()).unwrap();
    let address = &addresses[0];
    assert!(address.starts_with("/ip4/127.0.0.1/tcp/") && !address.ends_with("/0"), "{address}");
    assert_eq!(fs::metadata(dir.join("registry.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(dir.join("trust.json")).unwrap().contains(address));

    let output = execute(&dir, &["join-token", "--cloud", "fjord", "--role", "gateway", "--ttl", "10m"]);
    assert!(output.status.success());
    let token = JoinToken::parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
    assert_eq!((token.name.as_str(), token.role, &token.anchor.addresses), ("fjord", Role::Gateway, &addresses));
    assert_eq!(token.anchor.id.to_string(), running.ready["id"].as_str().unwrap());

    let token = json(&dir, &["join-token", "--cloud", "fjord"]);
    assert_eq!((&token["cloud"], &token["role"], &token["ttl_s"]), (&"fjord".into(), &"cloud".into(), &3600.into()));
    assert_eq!(json(&dir, &["enrolled"])["hosts"], Value::Array(Vec::new()));
    assert_eq!(json(&dir, &["placements"])["services"], Value::Array(Vec::new()));
    assert_eq!(json(&dir, &["stats"])["clouds"], Value::Array(Vec::new()));
    for readable in ["enrolled", "placements", "stats"] {
        assert!(execute(&dir, &[readable]).status.success());
    }

    fails(&dir, &["revoke", "nobody"], 1, &["nobody", "wayfare-registry enrolled"]);
    fails(&dir, &["join-token", "--cloud", "two words"], 1, &["two words"]);
    fails(&dir, &["join-token", "--cloud", "x", "--ttl", "99d"], 1, &["31 days"]);
    fails(&dir, &["join-token", "--cloud", "x", "--role", "king"], 2, &["king", "gateway"]);
    // The invited, not yet enrolled, cloud can be revoked.
    assert_eq!(json(&dir, &["revoke", "fjord"])["revoked"], "fjord");
    fails(&dir, &["join-token", "--cloud", "fjord"], 1, &["revoked"]);

    fails(&dir, &["run"], 2, &["stop that one first"]);
    running.terminate();
    assert!(!dir.join("registry.sock").exists());
    fails(&dir, &["join-token", "--cloud", "fjord"], 2, &["no registry is running", "wayfare-registry run --dir"]);

    // What was decided is remembered.
    let running = Running::start(&dir);
    fails(&dir, &["join-token", "--cloud", "fjord"], 1, &["revoked"]);
    running.terminate();
}

#[test]
fn a_crashed_registry_starts_again() {
    let (_root, dir) = initialised();
    let mut running = Running::start(&dir);
    json(&dir, &["join-token", "--cloud", "fjord"]);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(dir.join("registry.sock").exists());
    fails(&dir, &["stats"], 2, &["no registry is running"]);
    let running = Running::start(&dir);
    json(&dir, &["stats"]);
    running.terminate();
}

#[test]
fn what_cannot_begin_says_why_and_exits_2() {
    let (root, dir) = initialised();
    fails(&root.path().join("nowhere"), &["run"], 2, &["wayfare-registry init --dir"]);
    fails(&root.path().join("nowhere"), &["stats"], 2, &["no registry is running"]);
    fails(&dir, &["init"], 2, &["holds a registry already"]);
    fails(&dir, &["init", "--listen", "localhost"], 2, &["127.0.0.1:4730"]);
    fails(&dir, &["dance"], 2, &["dance"]);

    let config = fs::read_to_string(dir.join("registry.toml")).unwrap();
    fs::write(dir.join("registry.toml"), format!("{config}\nmagic = 1\n")).unwrap();
    fails(&dir, &["run"], 2, &["registry.toml", "magic"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(dir.join("registry.toml"), config.replace("/tcp/0", &format!("/tcp/{port}"))).unwrap();
    fails(&dir, &["run"], 2, &["in use", &port.to_string()]);
    fs::write(dir.join("registry.toml"), config.replace("/tcp/0", "/udp/0")).unwrap();
    fails(&dir, &["run"], 2, &["/udp/0"]);
    fs::write(dir.join("registry.toml"), [0xff, 0xfe]).unwrap();
    fails(&dir, &["run"], 2, &["cannot read", "registry.toml"]);
    fs::write(dir.join("registry.toml"), &config).unwrap();

    fs::set_permissions(dir.join("registry.key"), fs::Permissions::from_mode(0o644)).unwrap();
    fails(&dir, &["run"], 2, &["registry.key", "chmod 600"]);
    fs::set_permissions(dir.join("registry.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.join("registry.journal"), vec![0x5a; 4096]).unwrap();
    fails(&dir, &["run"], 2, &["registry.journal", "backup"]);
}

#[test]
fn a_backup_is_made_at_any_time_and_restored_with_care() {
    let (root, dir) = initialised();
    let file = root.path().join("backup");
    let file = file.to_str().unwrap();
    fails(&dir, &["backup", file], 2, &["no records yet"]);
    let running = Running::start(&dir);
    json(&dir, &["join-token", "--cloud", "fjord"]);
    assert_eq!(json(&dir, &["revoke", "fjord"])["revoked"], "fjord");
    let made = json(&dir, &["backup", file]);
    assert_eq!((&made["file"], &made["services"], &made["hosts"]), (&file.into(), &0.into(), &0.into()));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    fails(&dir, &["backup", file], 1, &["exists already", "--force"]);
    json(&dir, &["backup", file, "--force"]);
    fails(&dir, &["restore", file], 2, &["a registry is running", "stop that one first"]);
    fails(&dir, &["restore", file, "--force"], 2, &["a registry is running"]);
    assert_eq!(json(&dir, &["placements"])["recovery"], Value::Null);
    json(&dir, &["join-token", "--cloud", "later"]);
    running.terminate();

    // Of a registry that does not run: the same.
    let second = root.path().join("second");
    let second = second.to_str().unwrap();
    json(&dir, &["backup", second]);
    assert!(execute(&dir, &["backup", second, "--force"]).status.success());

    fails(&dir, &["restore", file], 1, &["holds records", "--force", "registry.journal.replaced"]);
    fails(&dir, &["restore", root.path().join("none").to_str().unwrap(), "--force"], 2, &["cannot read", "none"]);
    fails(&dir, &["restore", dir.join("registry.toml").to_str().unwrap(), "--force"], 2, &["no backup of a registry"]);
    let elsewhere = root.path().join("elsewhere");
    fails(&elsewhere, &["restore", file], 2, &["wayfare-registry init --dir"]);
    let restored = json(&dir, &["restore", file, "--force"]);
    assert_eq!(restored["services"], 0);
    assert!(Path::new(restored["kept"].as_str().unwrap()).exists());
    assert!(!dir.join("registry.journal.restoring").exists());

    let running = Running::start(&dir);
    let recovery = &json(&dir, &["placements"])["recovery"];
    assert!(recovery["window_left_ms"].as_f64().unwrap() > 10_000.0, "{recovery}");
    let text = String::from_utf8(execute(&dir, &["placements"]).stdout).unwrap();
    assert!(text.contains("nothing is decided for 3"), "{text}");
    // What the backup knew is known again.
    fails(&dir, &["join-token", "--cloud", "fjord"], 1, &["revoked"]);
    running.terminate();

    // Lost records: nothing to replace, nothing to force.
    fs::remove_file(dir.join("registry.journal")).unwrap();
    let text = String::from_utf8(execute(&dir, &["restore", second]).stdout).unwrap();
    assert!(text.contains("next: wayfare-registry run --dir"), "{text}");
}

#[test]
fn help_has_examples() {
    for sub in ["init", "run", "join-token", "enrolled", "revoke", "placements", "stats", "backup", "restore"] {
        let output = Command::new(env!("CARGO_BIN_EXE_wayfare-registry")).args([sub, "--help"]).output().unwrap();
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains("--json"), "{help}");
    }
}

#[test]
fn the_product_has_no_failpoints() {
    let product = fs::read(env!("CARGO_BIN_EXE_wayfare-registry")).unwrap();
    // The variable by which the test binaries are told theirs: `tests/src/failpoint.rs`.
    assert!(!String::from_utf8_lossy(&product).contains("WAYFARE_FAILPOINTS"));
}
