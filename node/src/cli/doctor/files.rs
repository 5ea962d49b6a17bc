//! What is in the node's directory.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use wayfare_protocol::{
    ids::HostId,
    reject::Strict,
    suite::{Dalek, Suite},
    time::Timestamp,
    trust::{Certificate, Role, TrustBundle, Verified},
};

use super::{Context, Finding};
use crate::{cli::failure::chain, clock::now, config::Config, state::Membership};

const ROLES: [Role; 3] = [Role::Cloud, Role::Home, Role::Gateway];
/// The last days of a certificate, of which people are warned.
const EXPIRY_WARNING_DAYS: u64 = 14;
const MICROS_A_DAY: u64 = 24 * 3600 * 1_000_000;

/// Whom the node trusts, and who it is.
pub(super) struct Identity {
    pub(super) bundle: TrustBundle,
}

pub(super) fn directory(context: &Context) -> Vec<Finding> {
    const CHECK: &str = "directory";
    let dir = context.dir.path();
    let name = dir.display();
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) => {
            let advice = "make a node with `wayfare init`, or name its directory with --dir or $WAYFARE_DIR";
            return vec![Finding::fail(CHECK, format!("{name}: {error}"), advice)];
        }
    };
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let found = format!("{name} belongs to user {}, and this is user {me}", metadata.uid());
        return vec![Finding::warn(CHECK, found, "look at the node as the user that it runs as")];
    }
    if metadata.mode() & 0o022 != 0 {
        let found = format!("others may write into {name}");
        return vec![Finding::fail(CHECK, found, format!("chmod 700 {name}"))];
    }
    vec![Finding::ok(CHECK, name.to_string())]
}

pub(super) fn config(context: &Context, findings: &mut Vec<Finding>) -> Option<Config> {
    const CHECK: &str = "config";
    let file = context.dir.config_file();
    match Config::load(&file) {
        Ok(config) => {
            findings.push(Finding::ok(CHECK, file.display().to_string()));
            Some(config)
        }
        Err(error) => {
            findings.push(Finding::fail(CHECK, chain(&error), format!("correct {}", file.display())));
            None
        }
    }
}

/// Key, trust and certificate, each and together.
pub(super) fn identity(context: &Context, findings: &mut Vec<Finding>) -> Option<Identity> {
    let put_right = "put that right; `wayfare run` refuses to start until then";
    let key = context.dir.key().map(|secret| HostId(Dalek::public_key(&secret)));
    findings.push(match &key {
        Ok(host) => Finding::ok("key", format!("this is host {host}")),
        Err(error) => Finding::fail("key", chain(error), put_right),
    });
    let bundle = match context.dir.trust() {
        Ok(bundle) => {
            let names: Vec<String> = bundle.anchors().iter().map(|anchor| format!("{:#}", anchor.id)).collect();
            findings.push(Finding::ok("trust", format!("registry {}", names.join(", "))));
            bundle
        }
        Err(error) => {
            findings.push(Finding::fail("trust", chain(&error), put_right));
            return None;
        }
    };
    match (context.dir.membership(), key) {
        (Ok(Membership::Join(token)), _) => {
            let found = format!("has not joined yet; its token makes it a {} of `{}`", token.role.name(), token.name);
            findings.push(Finding::ok("certificate", format!("{found}: it joins when it runs")));
        }
        (Ok(Membership::Enrolled(signed)), Ok(host)) => {
            let wall = now().wall;
            // What is wrong with its dates is told apart from what is wrong with it.
            let then = signed.unverified().map_or(wall, |claim| claim.not_before.max(wall.min(claim.expiry)));
            match bundle.verify_certificate::<Dalek, Strict>(&signed, host, &ROLES, then) {
                Ok((_, certificate)) => findings.extend(dates(context.dir.path(), &certificate, wall)),
                Err(reject) => {
                    findings.push(Finding::fail("certificate", reject.to_string(), new_token(context.dir.path())))
                }
            }
        }
        (Ok(Membership::Enrolled(_)), Err(_)) => {}
        (Err(error), _) => findings.push(Finding::fail("certificate", chain(&error), put_right)),
    }
    Some(Identity { bundle })
}

fn new_token(dir: &Path) -> String {
    format!("put a new join token into {}/join.token (chmod 600) and start the node again", dir.display())
}

fn dates(dir: &Path, certificate: &Verified<Certificate>, wall: Timestamp) -> Vec<Finding> {
    let (days, role) = (certificate.expiry.since(wall).0 / MICROS_A_DAY, certificate.role.name());
    let who = format!("{role} of `{}`", certificate.name);
    let early = certificate.not_before.since(wall);
    let mut findings = vec![if wall >= certificate.expiry {
        Finding::fail("certificate", format!("{who}: it has expired"), new_token(dir))
    } else if days < EXPIRY_WARNING_DAYS {
        Finding::warn("certificate", format!("{who}: it expires in {days} days"), new_token(dir))
    } else {
        Finding::ok("certificate", format!("{who}, valid for {days} days"))
    }];
    if early.0 > wayfare_protocol::limits::CLOCK_SKEW.0 {
        let found = format!("this clock is at least {:.0} s behind the registry's", early.as_secs_f64());
        findings.push(Finding::fail("clock", found, "set it: run an NTP service (chrony, systemd-timesyncd)"));
    }
    findings
}

pub(super) fn journal(context: &Context, running: bool, findings: &mut Vec<Finding>) {
    const CHECK: &str = "journal";
    let path = context.dir.path().join("journal");
    let finding = match wayfare_journal::check(&path) {
        Ok((entries, None)) => Finding::ok(CHECK, format!("{entries} entries, all readable")),
        // Its last entry is just being written.
        Ok((entries, Some(_))) if running => Finding::ok(CHECK, format!("{entries} entries, all readable")),
        Ok((entries, Some(torn))) => Finding::ok(
            CHECK,
            format!("{entries} entries, all readable; a crash cut off {} bytes that promised nothing", torn.bytes),
        ),
        Err(wayfare_journal::JournalError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(CHECK, "there is none yet")
        }
        Err(error) => {
            Finding::fail(CHECK, chain(&error), "the node does not start with it; see SECURITY.md and the README")
        }
    };
    findings.push(finding);
}
