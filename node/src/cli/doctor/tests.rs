use std::{net::TcpListener, os::unix::fs::PermissionsExt, path::Path};

use wayfare_protocol::{
    ids::RegistryId,
    trust::{Anchor, JoinSecret, JoinToken, Role},
};

use super::*;
use crate::{clock::entropy, state::StateDir};

/// A node that has not joined, of a registry at this port.
fn made(dir: &Path, registry: u16, listen: u16) -> Context {
    let addresses = vec![format!("/ip4/127.0.0.1/tcp/{registry}")];
    let anchor = Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses };
    let secret = JoinSecret::fresh(&mut entropy());
    let token = JoinToken { anchor, name: "fjord".to_owned(), role: Role::Cloud, secret };
    let mut config = Config::default();
    config.node.listen = vec![format!("/ip4/127.0.0.1/tcp/{listen}")];
    let dir = StateDir::new(dir.join("node"));
    dir.init(&token, &config).unwrap();
    Context { dir, json: false }
}

fn free_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn examined(context: &Context) -> (bool, Vec<Finding>) {
    let mut findings = files::directory(context);
    ask(context, &mut findings).await;
    let config = files::config(context, &mut findings);
    let identity = files::identity(context, &mut findings);
    files::journal(context, false, &mut findings);
    if let Some(config) = &config {
        mesh::ports(config, false, &mut findings);
    }
    if let Some(identity) = &identity {
        mesh::reach(identity, None, &mut findings).await;
    }
    (findings.iter().any(|finding| finding.status == Status::Fail), findings)
}

fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

#[tokio::test]
async fn what_is_wrong_is_found_and_what_to_do_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let (holder, port) = free_port();
    // Nobody answers there.
    let (closed, registry) = free_port();
    drop(closed);
    let context = made(temp.path(), registry, port);
    let (failed, findings) = examined(&context).await;
    assert!(failed);
    let ports = of(&findings, "ports");
    assert!(ports.status == Status::Fail && ports.found.contains("taken by another process"), "{ports:?}");
    assert_eq!(of(&findings, "registry").status, Status::Fail);
    for check in ["directory", "node", "config", "key", "trust", "certificate", "journal"] {
        assert_eq!(of(&findings, check).status, Status::Ok, "{check}: {findings:?}");
    }
    drop(holder);
    let (_, findings) = examined(&context).await;
    assert_eq!(of(&findings, "ports").status, Status::Ok);

    let dir = context.dir.path();
    std::fs::set_permissions(dir.join("node.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(dir.join("journal"), "no journal at all, but for its name, and long enough").unwrap();
    std::fs::write(dir.join("node.toml"), "[nod]\n").unwrap();
    let (_, findings) = examined(&context).await;
    for (check, text) in
        [("key", "chmod 600"), ("directory", "others may write"), ("journal", "not a journal"), ("config", "nod")]
    {
        let finding = of(&findings, check);
        assert!(finding.status == Status::Fail && finding.found.contains(text), "{finding:?}");
        assert!(finding.what_to_do.is_some());
    }
}

#[tokio::test]
async fn a_stranger_at_the_registrys_address_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let stranger = wayfare_net::NetConfig::local([7; 32]);
    let (net, _events) = wayfare_net::Net::start(stranger, shutdown.clone()).await.unwrap();
    let address = net.listen_addresses().remove(0);
    let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).unwrap();
    let context = made(temp.path(), port, 0);
    let (failed, findings) = examined(&context).await;
    let registry = of(&findings, "registry");
    assert!(failed && registry.found.contains("not with the registry's"), "{registry:?}");
    shutdown.cancel();
    net.stopped().await;
}

#[test]
fn the_machine_is_looked_at_and_nothing_is_left_behind() {
    let temp = tempfile::tempdir().unwrap();
    let context = made(temp.path(), 1, 0);
    let names =
        || std::fs::read_dir(context.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    let mut findings = Vec::new();
    let mut config = Config::default();
    config.capacity.memory_mib = 1 << 30;
    machine::look(&context, &config, &mut findings);
    for check in ["runtime", "open files", "disk space", "disk sync"] {
        of(&findings, check);
    }
    assert_eq!(of(&findings, "memory").status, Status::Warn, "a pebibyte");
    assert_eq!(names(), before);
}

#[test]
fn a_report_reads_in_lines() {
    let findings = vec![Finding::ok("key", "this is host x"), Finding::fail("ports", "taken", "choose another")];
    let text = describe(&Report { status: Status::Fail, running: false, findings });
    assert_eq!(
        text,
        "ok    key          this is host x\nFAIL  ports        taken\n                   choose another\n\n1 to put right, 0 to look at.\n"
    );
}
