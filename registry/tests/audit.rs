//! The audit log of the real binary: checked while it runs, after SIGKILL, after a restore, by a third party; and whatever is
//! done to it is found.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use common::{Running, command, execute};
use serde_json::Value;

fn text(dir: &Path, arguments: &[&str]) -> String {
    let output = execute(dir, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// One that says where it listens.
fn started(dir: &Path) -> Running {
    let running = Running::start(dir);
    assert!(running.ready["addresses"].is_array(), "{}", running.ready);
    running
}

impl Running {
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct World {
    root: tempfile::TempDir,
    dir: PathBuf,
    key: String,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let made: Value = serde_json::from_str(&text(&dir, &["init", "--listen", "127.0.0.1:0", "--json"])).unwrap();
        Self { key: made["key"].as_str().unwrap().to_owned(), dir, root }
    }

    fn invite(&self, cloud: &str) {
        text(&self.dir, &["join-token", "--cloud", cloud]);
    }

    /// Exit code, and what was found.
    fn verify(&self, arguments: &[&str]) -> (i32, Value) {
        let output = execute(&self.dir, &[&["audit", "verify", "--json"], arguments].concat());
        let found = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), found)
    }

    /// All is well with the log of the directory: this many entries.
    fn entries(&self) -> u64 {
        let (code, found) = self.verify(&[]);
        assert_eq!((code, &found["intact"]), (0, &true.into()), "{found}");
        assert_eq!(found["compared_with_records"], true);
        found["entries"].as_u64().unwrap()
    }

    fn export(&self, arguments: &[&str]) -> Vec<String> {
        text(&self.dir, &[&["audit", "export"], arguments].concat()).lines().map(ToOwned::to_owned).collect()
    }

    /// What a third party says of these lines.
    fn judge(&self, lines: &[String]) -> (i32, Value) {
        let path = self.root.path().join("export.jsonl");
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        // Of the registry it has nothing but the key.
        let nowhere = self.root.path().join("nowhere");
        let arguments = ["audit", "verify", path.to_str().unwrap(), "--key", &self.key, "--json"];
        let output = execute(&nowhere, &arguments);
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }

    fn file(&self) -> PathBuf {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.dir.join("registry.audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.pop().unwrap()
    }
}

#[test]
fn what_an_operator_does_is_logged_and_checked_while_it_runs_and_elsewhere() {
    let world = World::new();
    assert_eq!(world.verify(&[]).0, 2, "there is no log yet");
    let running = started(&world.dir);
    world.invite("fjord");
    world.invite("sardis");
    text(&world.dir, &["revoke", "fjord"]);
    assert_eq!(world.entries(), 5);
    running.kill();
    assert_eq!(world.entries(), 5);
    let lines = world.export(&[]);
    let kinds: Vec<Value> =
        lines[1..6].iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["begun", "started", "token_created", "token_created", "cloud_revoked"]);
    assert!(lines[5].contains(r#""name":"fjord""#) && !lines[5].contains("sardis"), "{}", lines[5]);
    assert_eq!(world.judge(&lines).0, 0);
    // Of one cloud: the others' entries are withheld, and the whole can still be checked.
    let some = world.export(&["--cloud", "sardis", "--from", "2"]);
    let shown: Vec<&String> = some.iter().filter(|line| line.contains("kind")).collect();
    assert!(shown.len() == 1 && shown[0].contains("sardis"), "{some:?}");
    let (code, found) = world.judge(&some);
    assert_eq!((code, &found["omitted"], &found["intact"]), (0, &0.into(), &true.into()), "{found}");
    let wide = world.export(&["--kind", "begun", "--kind", "cloud_revoked", "--to", "2126-01-01"]);
    let (code, found) = world.judge(&wide);
    assert_eq!((code, &found["entries"], &found["omitted"]), (0, &5.into(), &3.into()), "{found}");
    // The files themselves, by key, and by the trust bundle; not by another key.
    let folder = world.dir.join("registry.audit");
    let (folder, trust) = (folder.to_str().unwrap(), world.dir.join("trust.json"));
    assert_eq!(world.verify(&[folder, "--key", &world.key]).0, 0);
    assert_eq!(world.verify(&[world.file().to_str().unwrap(), "--trust", trust.to_str().unwrap()]).0, 0);
    let other = World::new();
    assert_eq!(world.verify(&[folder, "--key", &other.key]).0, 1);
    assert_eq!(world.verify(&["/nonexistent", "--key", &world.key]).0, 2);
    assert_eq!(execute(&world.dir, &["audit", "export", "--service", "nobody"]).status.code(), Some(1));
}

#[test]
fn killed_in_the_middle_of_decisions_it_verifies_each_time() {
    let world = World::new();
    let mut least = 0;
    for round in 0..5 {
        let running = started(&world.dir);
        let askers: Vec<Child> = (0..6)
            .map(|n| {
                let cloud = format!("cloud-{round}-{n}");
                let mut ask = command(&world.dir, &["join-token", "--cloud", &cloud]);
                ask.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let mut askers = askers.into_iter();
        // The first has its answer, the others are somewhere between.
        let first = askers.next().unwrap().wait().unwrap();
        running.kill();
        let answered = askers.filter_map(|mut asker| asker.wait().ok()).filter(std::process::ExitStatus::success);
        least += 1 + u64::from(first.success()) + answered.count() as u64;
        let entries = world.entries();
        assert!(entries > least, "{entries} entries, and {least} were acknowledged");
    }
}

#[test]
fn tampering_with_an_export_is_found_and_named() {
    let world = World::new();
    let running = started(&world.dir);
    ["a", "b", "c"].iter().for_each(|cloud| world.invite(cloud));
    running.kill();
    let lines = world.export(&[]);
    let found = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        let (code, found) = world.judge(&lines);
        assert_eq!((code, &found["intact"]), (1, &false.into()), "{found}");
        let flaw = &found["flaws"][0];
        (flaw["entry"].as_u64().unwrap(), flaw["what"].as_str().unwrap().to_owned())
    };
    let is = |(entry, what): (u64, String), expected: u64, word: &str| {
        assert!(entry == expected && what.contains(word), "entry {entry}: {what}");
    };
    // Lines 1 to 5 are the entries.
    is(found(&|lines| lines[3] = lines[3].replace("\"a\"", "\"x\"")), 3, "altered");
    is(found(&|lines| lines[3] = lines[3].replace("cloud", "cloux")), 3, "altered");
    is(found(&|lines| lines[3] = lines[3].replace('{', "{ ")), 3, "altered");
    is(found(&|lines| drop(lines.remove(3))), 3, "missing");
    is(found(&|lines| lines.swap(3, 4)), 3, "missing");
    is(found(&|lines| lines.insert(4, lines[3].clone())), 4, "put in");
    is(found(&|lines| drop(lines.pop())), 1, "cut off");
    is(found(&|lines| lines.truncate(3)), 1, "cut off");
    is(found(&|lines| lines.push(lines[5].clone())), 6, "added");
    is(found(&|lines| lines[0] = lines[0].replace("\"after\":0", "\"after\":3")), 4, "put in");
    is(found(&|lines| drop(lines.remove(0))), 1, "no export");
    // An entry with other content, in words and in bytes: it is the signature that does not fit.
    let other = World::new();
    let running = started(&other.dir);
    other.invite("a");
    running.kill();
    let theirs = other.export(&[]);
    is(found(&|lines| lines[3] = theirs[3].clone()), 1, "altered");
    // Signed by another key.
    is(found(&|lines| *lines.last_mut().unwrap() = theirs[4].clone()), 3, "not signed by this registry");
    is(found(&|lines| lines.clone_from(&theirs)), 1, "not of the one with this key");
}

#[test]
fn tampering_with_the_files_is_found_and_the_registry_says_so_and_goes_on() {
    let world = World::new();
    let running = started(&world.dir);
    ["a", "b", "c"].iter().for_each(|cloud| world.invite(cloud));
    running.kill();
    let (path, whole) = (world.file(), fs::read(world.file()).unwrap());
    let flaw = |world: &World| {
        let (code, found) = world.verify(&[]);
        assert_eq!(code, 1, "{found}");
        found["flaws"][0]["what"].as_str().unwrap().to_owned()
    };
    let mut altered = whole.clone();
    altered[300] ^= 1;
    fs::write(&path, &altered).unwrap();
    flaw(&world);
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert!(flaw(&world).contains("no block"));
    // What is cut off the end is in the records still, for a while.
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert_eq!(world.entries(), 5);
    // As long as the records have what was altered, the file is made good.
    fs::write(&path, &altered).unwrap();
    let running = started(&world.dir);
    world.invite("d");
    running.kill();
    assert_eq!(world.entries(), 7);
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"more"].concat()).unwrap();
    let running = started(&world.dir);
    world.invite("e");
    running.kill();
    assert!(flaw(&world).contains("no block"));
    let output = execute(&world.dir, &["audit", "export"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect();
    assert_eq!(world.judge(&lines).0, 0, "what follows the flaw is good");
    assert!(lines.iter().any(|line| line.contains(r#""reason":"files_damaged""#)), "{lines:?}");
}

#[test]
fn after_a_restore_it_goes_on_where_it_was_and_names_the_restore() {
    let world = World::new();
    let backup = world.root.path().join("backup");
    let backup = backup.to_str().unwrap();
    let running = started(&world.dir);
    world.invite("a");
    text(&world.dir, &["backup", backup]);
    world.invite("b");
    running.kill();
    text(&world.dir, &["restore", backup, "--force"]);
    assert_eq!(world.entries(), 4);
    let running = started(&world.dir);
    assert_eq!(world.entries(), 6);
    let lines = world.export(&["--kind", "continued"]);
    let line = lines.iter().find(|line| line.contains("continued")).unwrap();
    assert!(line.contains(r#""reason":"restored""#) && line.contains(r#""records":3"#), "{line}");
    running.kill();
    // On another machine: only the key and the backup.
    fs::remove_dir_all(world.dir.join("registry.audit")).unwrap();
    fs::remove_file(world.dir.join("registry.journal")).unwrap();
    text(&world.dir, &["restore", backup]);
    let running = started(&world.dir);
    let (code, found) = world.verify(&[]);
    assert_eq!((code, &found["first"], &found["last"]), (0, &4.into(), &5.into()), "{found}");
    running.kill();
    // An old copy of the records, put in place by hand, is told from a restored one.
    let (old, records) = (world.root.path().join("old"), world.dir.join("registry.journal"));
    fs::copy(&records, &old).unwrap();
    let running = started(&world.dir);
    world.invite("c");
    running.kill();
    fs::copy(&old, &records).unwrap();
    assert!(world.verify(&[]).1["flaws"][0]["what"].as_str().unwrap().contains("older than the log"));
    let running = started(&world.dir);
    let lines = world.export(&["--kind", "continued"]);
    assert!(lines.iter().any(|line| line.contains("records_old")), "{lines:?}");
    running.kill();
}
