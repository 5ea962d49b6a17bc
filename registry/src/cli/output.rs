//! Results, for people and, with `--json`, for programs: then stdout has exactly one JSON object, on one line.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use crate::{
    api::{RevokeRequest, Status},
    config::StateDir,
    view::{DurationView, HostView, JoinTokenView, ServiceView, StatsView},
};

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to stdout")
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string(value).context("cannot make JSON")?)
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
            "socket": dir.socket(),
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

pub(super) fn ready(status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(status);
    }
    let addresses: Vec<String> = status.addresses.iter().map(|address| format!("  {address}")).collect();
    print(&format!("registry `{}` ({}) is ready at\n{}", status.name, short(&status.id), addresses.join("\n")))
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

pub(super) fn placements(services: &[ServiceView], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&json!({ "services": services }));
    }
    if services.is_empty() {
        return print("no service is registered yet: a home node does that with `wayfare deploy`");
    }
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|service| {
            let lease = format!("{:.0} s", service.lease_left_ms / 1e3);
            let moving = if service.moving { "yes" } else { "no" };
            let host = short(&service.host);
            vec![service.name.clone(), service.epoch.clone(), service.cloud.clone(), host, lease, moving.to_owned()]
        })
        .collect();
    print(&table(&["SERVICE", "EPOCH", "CLOUD", "HOST", "LEASE", "MOVING"], &rows))
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
    Ok(())
}
