//! `doctor`: looks at everything that a node needs, whether it runs or not, and says what to do about what is wrong. It
//! changes nothing but for a small file that it writes beside the journal, to time the disk, and removes again.
//!
//! Open next: `files` for what is in the directory, `machine` for what it runs on, `mesh` for who can be reached.

use serde::Serialize;

use super::{Context, Failure, args};
use crate::{
    api::{client::ClientError, shapes::NodeInfo},
    config::Config,
};

mod files;
mod machine;
mod mesh;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// All is well.
    Ok,
    /// The node works, but somebody should look at this.
    Warn,
    /// The node does not work, or will not.
    Fail,
}

/// `{check, status, found, what_to_do}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// How it came out.
    status: Status,
    /// What was found.
    found: String,
    /// What to do, unless all is well.
    what_to_do: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), what_to_do: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, found: found.into(), what_to_do: Some(what_to_do.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, found: found.into(), what_to_do: Some(what_to_do.into()) }
    }
}

/// `{status, running, findings}`.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst of all.
    status: Status,
    /// Whether the node runs.
    running: bool,
    /// One for each thing that was looked at.
    findings: Vec<Finding>,
}

pub(super) async fn doctor(context: &Context, args: args::Doctor) -> Result<(), Failure> {
    let mut findings = files::directory(context);
    let running = ask(context, &mut findings).await;
    let config = files::config(context, &mut findings);
    let identity = files::identity(context, &mut findings);
    files::journal(context, running.is_some(), &mut findings);
    machine::look(context, config.as_ref().unwrap_or(&Config::default()), &mut findings);
    if let Some(config) = &config {
        mesh::ports(config, running.is_some(), &mut findings);
    }
    if let Some(identity) = identity.filter(|_| !args.offline) {
        mesh::reach(&identity, running.as_ref(), &mut findings).await;
    }
    if let Some(info) = &running {
        mesh::peers(context, info, &mut findings).await;
    }
    let status = findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok);
    let report = Report { status, running: running.is_some(), findings };
    context.print(&report, describe)?;
    if status == Status::Fail { Err(Failure::silent()) } else { Ok(()) }
}

/// The running node's word on itself, if there is one.
async fn ask(context: &Context, findings: &mut Vec<Finding>) -> Option<NodeInfo> {
    const CHECK: &str = "node";
    let dir = context.dir.path().display();
    match context.client().get::<NodeInfo>(&["node"], "").await {
        Ok(info) => {
            let found = format!("{} node of `{}` runs, version {}", info.role, info.name, info.version);
            findings.push(if info.version == env!("CARGO_PKG_VERSION") {
                Finding::ok(CHECK, found)
            } else {
                let advice = format!("this program is {}: restart the node with it", env!("CARGO_PKG_VERSION"));
                Finding::warn(CHECK, found, advice)
            });
            if info.cordoned {
                let advice = "`wayfare uncordon` lets it take services again";
                findings.push(Finding::warn("cordon", "the node is cordoned and takes no services", advice));
            }
            Some(info)
        }
        Err(ClientError::NotRunning { .. }) if context.dir.socket().exists() => {
            let found = "the node does not run, and left its socket behind: it was killed, or has crashed";
            findings.push(Finding::warn(CHECK, found, format!("start it: wayfare run --dir {dir}")));
            None
        }
        Err(ClientError::NotRunning { .. }) => {
            findings.push(Finding::ok(CHECK, "does not run"));
            None
        }
        Err(error @ ClientError::NotAllowed { .. }) => {
            findings.push(Finding::fail(CHECK, error.to_string(), "run this as that user"));
            None
        }
        Err(error) => {
            findings.push(Finding::fail(CHECK, error.to_string(), "see the node's log, and restart it"));
            None
        }
    }
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    for Finding { check, status, found, what_to_do } in &report.findings {
        let word = match status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        text.push_str(&format!("{word:<5} {check:<12} {found}\n"));
        if let Some(advice) = what_to_do {
            text.push_str(&format!("{:19}{advice}\n", ""));
        }
    }
    let count = |status| report.findings.iter().filter(|finding| finding.status == status).count();
    match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => text.push_str("\nAll is well.\n"),
        (0, warnings) => text.push_str(&format!("\nIt works; {warnings} to look at.\n")),
        (failures, warnings) => text.push_str(&format!("\n{failures} to put right, {warnings} to look at.\n")),
    }
    text
}

#[cfg(test)]
mod tests;
