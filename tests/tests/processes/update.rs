//! An owner updates a running service: what clients see of it, what is refused, and what stays.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use super::{KV, NODE, REGISTRY, Running, ask, count, execute, json, mesh, text, until};

/// The module with `old` replaced by `new`, of the same length: code of another version.
fn altered(root: &Path, name: &str, old: &[u8], new: &[u8]) -> PathBuf {
    let mut module = std::fs::read(KV).unwrap();
    let at: Vec<usize> = (0..module.len() - old.len()).filter(|at| module[*at..].starts_with(old)).collect();
    assert!(at.len() == 1 && old.len() == new.len(), "{name}: {at:?}");
    module[at[0]..at[0] + new.len()].copy_from_slice(new);
    let path = root.join(name);
    std::fs::write(&path, module).unwrap();
    path
}

fn version(address: &str) -> String {
    ask(address, "GET /version").unwrap().1
}

/// A user who counts until told to stop. Every answer must be the next number.
fn user(address: &str, stop: &Arc<AtomicBool>, counted: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let (address, stop, counted) = (address.to_owned(), Arc::clone(stop), Arc::clone(counted));
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let next = counted.load(Ordering::Relaxed) + 1;
            assert_eq!(count(&address), Some(next), "no request fails, none runs twice");
            counted.store(next, Ordering::Relaxed);
        }
    })
}

/// What a command says that must fail with this code.
fn refused(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = execute(NODE, dir, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_service_is_updated_while_clients_use_it_and_a_refused_update_leaves_it_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (registry, home, alpha, beta, edge, address) = mesh(root);
    let key = home.dir.join("owner.key");
    let key = key.to_str().unwrap();
    let second = altered(root, "second.wasm", b"kv version 1\n", b"kv version 2\n");
    let third = altered(root, "third.wasm", b"kv version 1\n", b"kv version 3\n");
    let deaf = altered(root, "deaf.wasm", b"wayfare_load", b"wayfare_lond");
    let [second, third, deaf] = [&second, &third, &deaf].map(|path| path.to_str().unwrap());
    until("the clouds to meet", || json(NODE, &home.dir, &["clouds"]).to_string().contains("alpha").then_some(()));
    text(NODE, &home.dir, &["move", "kv", "--to", "alpha"]);

    let (stop, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)));
    let using = user(&address, &stop, &counted);
    // Passed on by a node that neither has the service nor its owner's key: the host fetches the module from there.
    let updated = json(NODE, &beta.dir, &["update", "kv", second, "--owner-key", key]);
    assert_eq!((updated["action"].as_str(), updated["outcome"].as_str()), (Some("update"), Some("done")));
    assert_eq!(version(&address), "kv version 2");
    let error = refused(&beta.dir, &["update", "kv", deaf, "--owner-key", key], 1);
    assert!(error.contains("no_state_import") && error.contains("nothing has changed"), "{error}");
    let error = refused(&edge.dir, &["update", "kv", third, "--owner-key", key], 1);
    assert!(error.contains("gateway") && error.contains("pass the update on by a cloud or home"), "{error}");
    let error = refused(&beta.dir, &["update", "kv", third], 2);
    assert!(error.contains("--owner-key"), "{error}");
    let error = refused(&home.dir, &["update", "kv", second], 2);
    assert!(error.contains("--fresh"), "{error}");
    assert_eq!(version(&address), "kv version 2");
    let before = counted.load(Ordering::Relaxed);
    until("the user to go on", || (counted.load(Ordering::Relaxed) > before + 5).then_some(()));
    stop.store(true, Ordering::Relaxed);
    using.join().unwrap();
    let counted = counted.load(Ordering::Relaxed);

    // What was switched to is on disk, and moves like any other.
    let dir = alpha.dir.clone();
    drop(alpha);
    let alpha = Running::start(NODE, &dir);
    assert_eq!((count(&address), version(&address)), (Some(counted + 1), "kv version 2".to_owned()));
    until("the clouds to meet", || json(NODE, &alpha.dir, &["clouds"]).to_string().contains("beta").then_some(()));
    text(NODE, &alpha.dir, &["move", "kv", "--to", "beta"]);
    assert_eq!((count(&address), version(&address)), (Some(counted + 2), "kv version 2".to_owned()));

    // Other terms, the same code: the state stays; and an empty one, on demand.
    text(NODE, &home.dir, &["update", "kv", "--memory", "80"]);
    assert_eq!((count(&address), version(&address)), (Some(counted + 3), "kv version 2".to_owned()));
    text(NODE, &home.dir, &["update", "kv", third, "--fresh"]);
    assert_eq!((count(&address), version(&address)), (Some(1), "kv version 3".to_owned()));
    let placements = json(REGISTRY, &registry.dir, &["placements"])["services"].to_string();
    assert!(placements.contains("\"placed\""), "{placements}");
    for process in [edge, home, alpha, beta, registry] {
        process.stop();
    }
}
