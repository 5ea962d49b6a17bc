use std::{fs, os::unix::fs::PermissionsExt};

use wayfare_protocol::{
    ids::RegistryId,
    trust::{Anchor, JoinSecret, Role},
};

use super::*;

fn token() -> JoinToken {
    let anchor = Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] };
    JoinToken { anchor, name: "fjord".to_owned(), role: Role::Cloud, secret: JoinSecret::fresh(&mut entropy()) }
}

fn made() -> (tempfile::TempDir, StateDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::new(temp.path().join("node"));
    dir.init(&token(), &Config::default()).unwrap();
    (temp, dir)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_node_has_its_files_and_secrets_are_private() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::new(temp.path().join("a/node"));
    let token = token();
    let host = dir.init(&token, &Config::default()).unwrap();
    assert_eq!(HostId(Dalek::public_key(&dir.key().unwrap())), host);
    assert_eq!(dir.trust().unwrap().anchors(), std::slice::from_ref(&token.anchor));
    assert_eq!(dir.membership().unwrap(), Membership::Join(token));
    assert_eq!(Config::load(&dir.config_file()).unwrap(), Config::default());
    for name in ["node.key", "join.token"] {
        assert_eq!(mode(&dir.file(name)), 0o600, "{name}");
    }
    assert_eq!(mode(dir.path()), 0o700);
}

#[test]
fn nothing_is_overwritten() {
    let (_temp, dir) = made();
    let key = fs::read(dir.file("node.key")).unwrap();
    assert!(matches!(dir.init(&token(), &Config::default()), Err(StateError::Exists { .. })));
    fs::remove_file(dir.file("node.key")).unwrap();
    assert!(matches!(dir.init(&token(), &Config::default()), Err(StateError::Exists { .. })));
    assert!(!dir.file("node.key").exists() && key.len() == 65);
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let (_temp, dir) = made();
    for (name, bits) in [("node.key", 0o640), ("node.key", 0o604), ("join.token", 0o644)] {
        let path = dir.file(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        let error = dir.key().err().or_else(|| dir.membership().err()).unwrap().to_string();
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(dir.key().is_ok() && dir.membership().is_ok());
}

#[test]
fn damaged_and_missing_files_are_named() {
    let (_temp, dir) = made();
    fs::write(dir.file("node.key"), "00ff").unwrap();
    assert!(dir.key().unwrap_err().to_string().contains("64 hexadecimal digits"));
    fs::write(dir.file("trust.json"), "{}").unwrap();
    assert!(dir.trust().unwrap_err().to_string().contains("registries"));
    fs::write(dir.file("join.token"), "wayfare-join-1:xyz").unwrap();
    assert!(matches!(dir.membership(), Err(StateError::Token { .. })));
    fs::remove_file(dir.file("join.token")).unwrap();
    assert!(matches!(dir.membership(), Err(StateError::NotJoined { .. })));
    fs::write(dir.file("certificate"), "not base64!").unwrap();
    assert!(dir.membership().unwrap_err().to_string().contains("certificate is damaged"));
    let nowhere = StateDir::new(dir.path().join("nowhere"));
    assert!(nowhere.key().unwrap_err().to_string().contains("wayfare init"));
}

#[test]
fn one_node_uses_a_directory() {
    let (_temp, dir) = made();
    let lock = dir.lock().unwrap();
    assert!(matches!(dir.lock(), Err(StateError::InUse { .. })));
    drop(lock);
    assert!(dir.lock().is_ok());
}
