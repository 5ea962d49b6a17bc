//! Results, for people and, with `--json`, for programs: then stdout has exactly one JSON object, on one line.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use crate::{
    api::{RevokeRequest, Status},
    config::StateDir,
    view::{BackupView, DurationView, HostView, JoinTokenView, RecoveryView, RestoredView, ServiceView, StatsView},
};

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to stdout")
}

pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string(value).context("cannot make JSON")?)
}

/// What completes the words of `command` in a shell.
pub(super) fn completions(shell: clap_complete::Shell, command: &mut clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "wayfare-registry", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

/// Columns as wide as their widest cell, two spaces apart, the last one ragged.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// The first characters of an identifier: enough for people.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

pub(super) fn initialised(dir: &StateDir, status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        let files = json!({
            "config": dir.config(), "key": dir.key(), "trust": dir.trust(), "records": dir.store(),
            "audit": dir.audit(), "socket": dir.socket(),
        });
        return print_json(&json!({
            "dir": dir.path(), "name": status.name, "id": status.id, "key": status.key, "files": files,
        }));
    }
    print(&format!(
        "registry `{}` made in {dir}\n  id    {}\n  key   {}\n  keep {} secret and backed up; {} is for nodes\n\
         next: wayfare-registry run --dir {dir}",
        status.name,
        status.id,
        status.key,
        dir.key().display(),
        dir.trust().display(),
        dir = dir.path().display(),
    ))
}

pub(super) fn ready(status: &Status, metrics: Option<SocketAddr>, json: bool) -> anyhow::Result<()> {
    if json {
        let Status { name, id, key, addresses } = status;
        return print_json(&json!({
            "name": name, "id": id, "key": key, "addresses": addresses, "metrics": metrics,
        }));
    }
    let addresses: Vec<String> = status.addresses.iter().map(|address| format!("  {address}")).collect();
    let metrics = metrics.map_or_else(String::new, |address| format!("\nmetrics on http://{address}/metrics"));
    print(&format!("registry `{}` ({}) is ready at\n{}{metrics}", status.name, short(&status.id), addresses.join("\n")))
}

pub(super) fn join_token(token: &JoinTokenView, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(token);
    }
    // Only the token on stdout: scripts take it from there.
    eprintln!(
        "lets one node join as {} `{}`, once, within {} s; it is a secret:",
        token.role, token.cloud, token.ttl_s
    );
    print(&token.token)
}

pub(super) fn enrolled(hosts: &[HostView], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&json!({ "hosts": hosts }));
    }
    if hosts.is_empty() {
        return print("nobody has enrolled yet: make a token with `wayfare-registry join-token --cloud NAME`");
    }
    let rows: Vec<Vec<String>> = hosts
        .iter()
        .map(|host| {
            let state = if host.revoked { "revoked" } else { "enrolled" };
            vec![host.cloud.clone(), host.role.clone(), state.to_owned(), host.region.clone(), host.host.clone()]
        })
        .collect();
    print(&table(&["CLOUD", "ROLE", "STATE", "REGION", "HOST"], &rows))
}

pub(super) fn revoked(revoked: &RevokeRequest, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&json!({ "revoked": revoked.target }));
    }
    print(&format!("`{}` is revoked: what runs there stops within a lease, and may move away", revoked.target))
}

pub(super) fn backed_up(made: &BackupView, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(made);
    }
    let BackupView { file, bytes, services, hosts } = made;
    print(&format!("{file}: {services} services, {hosts} hosts, {bytes} bytes; the key is not in it"))
}

pub(super) fn restored(restored: &RestoredView, dir: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(restored);
    }
    let kept = restored.kept.as_ref().map(|kept| format!("  the replaced records are kept as {kept}\n"));
    print(&format!(
        "{} services restored from {}\n{}next: wayfare-registry run --dir {}",
        restored.services,
        restored.file,
        kept.unwrap_or_default(),
        dir.display()
    ))
}

/// What an operator should know after a restore.
fn recovery_note(services: &[ServiceView], recovery: &RecoveryView) -> Option<String> {
    let RecoveryView { services: known, resumed, suspended, window_left_ms, .. } = recovery;
    if *window_left_ms > 0.0 {
        let seconds = (window_left_ms / 1e3).ceil();
        return Some(format!(
            "restored from a backup: nothing is decided for {seconds} s, until the longest lease has ended"
        ));
    }
    if *suspended == 0 {
        return None;
    }
    let mut text = format!("restored from a backup: {known} services, {resumed} resumed, {suspended} wait");
    for service in services.iter().filter(|service| service.state == "waiting") {
        let host = service.waits_for.as_deref().unwrap_or("the registry");
        text.push_str(&format!("\n  {} waits for host {host} to show what it has", service.name));
    }
    text.push_str(
        "\n  a host that comes back is heard at any time; for one that is gone for ever only the owner's order to recover or to\n  \
         deregister the service could help, and this version has no such orders yet",
    );
    Some(text)
}

pub(super) fn placements(services: &[ServiceView], recovery: Option<&RecoveryView>, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&json!({ "services": services, "recovery": recovery }));
    }
    let note = recovery.and_then(|recovery| recovery_note(services, recovery));
    if services.is_empty() {
        let none = "no service is registered yet: a home node does that with `wayfare deploy`";
        return print(note.as_deref().unwrap_or(none));
    }
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|service| {
            let lease = format!("{:.0} s", service.lease_left_ms / 1e3);
            let moving = if service.moving { "yes" } else { "no" };
            let host = short(&service.host);
            let (name, epoch, cloud) = (service.name.clone(), service.epoch.clone(), service.cloud.clone());
            vec![name, epoch, cloud, host, lease, moving.to_owned(), service.state.clone()]
        })
        .collect();
    print(&table(&["SERVICE", "EPOCH", "CLOUD", "HOST", "LEASE", "MOVING", "STATE"], &rows))?;
    note.map_or(Ok(()), |note| print(&note))
}

pub(super) fn stats(stats: &StatsView, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(stats);
    }
    let millis = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let both = |durations: &DurationView| format!("{} / {}", millis(durations.mean), millis(durations.p99));
    let rows: Vec<Vec<String>> = stats
        .clouds
        .iter()
        .map(|cloud| {
            let doubt = if cloud.flagged { "its figures and the sources' disagree" } else { "" };
            vec![
                cloud.name.clone(),
                cloud.count.to_string(),
                cloud.failures.to_string(),
                both(&cloud.response_ms),
                both(&cloud.transfer_ms),
                doubt.to_owned(),
            ]
        })
        .collect();
    print(&table(&["CLOUD", "MOVES", "FAILED", "RESPONSE ms, mean / p99", "TRANSFER ms, mean / p99", ""], &rows))?;
    for (name, count) in &stats.rejections {
        print(&format!("rejected {count} x {name}"))?;
    }
    for (name, count) in stats.net.iter().filter(|(_, count)| **count > 0) {
        print(&format!("network {count} x {name}"))?;
    }
    Ok(())
}
