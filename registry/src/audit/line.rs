//! The log as people read it: JSON lines, which can be checked as the files can.
//!
//! The first line says whose log it is and what comes before; then one line an entry; the last line is the Registry's
//! signature. An entry's line has its fields in words and, as `entry`, the very bytes that were signed: the line must be what
//! these bytes read as, character for character, so nothing in it can be changed. An entry that was not asked for leaves a
//! line with its number and its hash, so that the chain stays whole. Without its last line an export proves nothing: that is
//! how a cut one is found out.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wayfare_protocol::{
    ids::{Digest, HostId, MigrationIds, RegistryId},
    order::Outcome,
    registry::audit::{Act, Checkpoint, Entry, Flaw, Head, Link, Placed, Walk},
    suite::{Dalek, PublicKey},
    time::Timestamp,
    trust::{Signed, certificate::registry_id},
    wire,
};

use super::{
    limits::LINE_BYTES_MAX,
    walk::{Fault, Report},
};

/// The version of these lines.
const VERSION: u32 = 1;

/// A point in time as people write it, in UTC.
pub(crate) fn time_text(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "out of range".to_owned())
}

/// Reads such a time, or a day alone, which means its beginning.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let at = OffsetDateTime::parse(&whole, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1000).ok().map(Timestamp)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadLine {
    wayfare_audit: u32,
    registry: String,
    key: String,
    /// Number and hash of the entry before the first one here.
    after: u64,
    after_hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OmittedLine {
    sequence: u64,
    omitted: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: u64,
    hash: String,
    signed_at: String,
    checkpoint: String,
}

/// What an entry says, in words. Which fields there are depends on its kind.
#[derive(Default, Serialize)]
struct EntryLine {
    sequence: u64,
    at: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    migration: Option<String>,
    /// Where the service is, was to go, or who it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u64>,
    /// The last entry by the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    entry: String,
}

impl EntryLine {
    fn of(entry: &Entry) -> Self {
        let mut line = Self {
            sequence: entry.sequence,
            at: time_text(entry.at),
            kind: entry.act.kind(),
            entry: BASE64.encode(&wire::encode(entry)),
            ..Self::default()
        };
        line.tell(&entry.act);
        line
    }

    fn tell(&mut self, act: &Act) {
        let text = |id: &dyn ToString| Some(id.to_string());
        match act {
            Act::Begun { key } => self.host = text(key),
            Act::Started { version } => self.version = Some(version.clone()),
            Act::Continued { cause, records } => {
                (self.reason, self.records) = (Some(cause.name().to_owned()), Some(records.sequence));
            }
            Act::TokenCreated { name, role } => (self.name, self.role) = (Some(name.clone()), Some(role.name())),
            Act::Enrolled { host, name, role } => {
                (self.host, self.name, self.role) = (text(host), Some(name.clone()), Some(role.name()));
            }
            Act::HostRevoked { host } => self.host = text(host),
            Act::CloudRevoked { name } => self.name = Some(name.clone()),
            Act::Registered { service, name, host } => {
                (self.service, self.name, self.host) = (text(service), Some(name.clone()), text(host));
            }
            Act::CloudAllowed { ids, source } => {
                self.migration(ids);
                (self.decision, self.source) = (Some("yes"), text(source));
            }
            Act::CloudDenied { service, epoch, host, by, reason } => {
                (self.service, self.epoch, self.host, self.by) = (text(service), text(epoch), text(host), text(by));
                (self.decision, self.reason) = (Some("no"), Some(reason.name().to_owned()));
            }
            Act::ServiceAllowed { ids } => {
                self.migration(ids);
                self.decision = Some("yes");
            }
            Act::ServiceDenied { ids, by, reason } => {
                self.migration(ids);
                (self.decision, self.by) = (Some("no"), text(by));
                self.reason = Some(reason.name().to_owned());
            }
            Act::Placed(placed) | Act::Adopted(placed) => self.placed(placed),
            Act::Aborted { ids, cause } => {
                self.migration(ids);
                self.reason = Some(cause.name().to_owned());
            }
            Act::Released { ids } => self.migration(ids),
            Act::Resumed { service, epoch, host } => {
                (self.service, self.epoch, self.host) = (text(service), text(epoch), text(host));
            }
            Act::WindowOver { services, waiting } => (self.services, self.waiting) = (Some(*services), Some(*waiting)),
            Act::Contradicted { shown, by } => {
                self.placed(shown);
                self.by = text(by);
            }
            Act::Ordered { service, action, by } => {
                (self.service, self.action, self.by) = (text(service), Some(action.clone()), text(by));
            }
            Act::CarriedOut { service, action, outcome } => {
                (self.service, self.action) = (text(service), Some(action.clone()));
                match outcome {
                    Outcome::Done => self.decision = Some("done"),
                    Outcome::Refused(reason) => {
                        (self.decision, self.reason) = (Some("refused"), Some(reason.clone()));
                    }
                }
            }
            Act::Removed { service, host } => {
                (self.service, self.host) = (text(service), host.map(|host| host.to_string()));
            }
        }
    }

    fn migration(&mut self, ids: &MigrationIds) {
        (self.service, self.epoch) = (Some(ids.service.to_string()), Some(ids.epoch.to_string()));
        (self.migration, self.host) = (Some(ids.mig.to_string()), Some(ids.host.to_string()));
    }

    fn placed(&mut self, placed: &Placed) {
        (self.service, self.epoch) = (Some(placed.service.to_string()), Some(placed.epoch.to_string()));
        (self.migration, self.host) = (Some(placed.mig.to_string()), Some(placed.host.to_string()));
        self.source = Some(placed.previous.to_string()).filter(|_| placed.previous != placed.host);
    }
}

/// Which entries somebody wants to see. What is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) from: Option<Point>,
    pub(crate) to: Option<Point>,
    /// A service's name, or its identifier.
    pub(crate) service: Option<String>,
    /// A cloud's name, or a host's key.
    pub(crate) cloud: Option<String>,
    pub(crate) kinds: Vec<String>,
    /// What the two names stand for: services registered, and hosts enrolled, under them.
    pub(crate) services: BTreeSet<String>,
    pub(crate) hosts: BTreeSet<String>,
}

/// A point of the log: an entry, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Sequence(u64),
    Time(Timestamp),
}

impl Point {
    /// A number, a time, or a day.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let time = || parse_time(text).map(Self::Time);
        text.parse().ok().map(Self::Sequence).or_else(time).ok_or_else(|| {
            format!("`{text}` is no point of a log: give an entry's number, a day such as 2026-01-31, or 2026-01-31T09:30:00Z")
        })
    }
}

impl Wanted {
    /// Notes what names stand for, before [`takes`](Self::takes) is asked.
    pub(crate) fn learn(&mut self, entry: &Entry) {
        match &entry.act {
            Act::Registered { service, name, .. } if self.service.as_ref() == Some(name) => {
                self.services.insert(service.to_string());
            }
            Act::Enrolled { host, name, .. } if self.cloud.as_ref() == Some(name) => {
                self.hosts.insert(host.to_string());
            }
            _ => {}
        }
    }

    pub(crate) fn takes(&self, entry: &Entry) -> bool {
        let after = |from: &Point| match from {
            Point::Sequence(from) => entry.sequence >= *from,
            Point::Time(from) => entry.at >= *from,
        };
        let before = |to: &Point| match to {
            Point::Sequence(to) => entry.sequence <= *to,
            Point::Time(to) => entry.at <= *to,
        };
        let kind = entry.act.kind();
        let in_range = self.from.as_ref().is_none_or(after) && self.to.as_ref().is_none_or(before);
        if !in_range || !(self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind)) {
            return false;
        }
        if self.service.is_none() && self.cloud.is_none() {
            return true;
        }
        let line = EntryLine::of(entry);
        let service = |wanted: &String| {
            let id = line.service.as_ref();
            id.is_some_and(|id| id == wanted || self.services.contains(id))
        };
        let cloud = |wanted: &String| {
            let mut hosts = [&line.host, &line.source, &line.by].into_iter().flatten();
            let named = line.service.is_none() && line.name.as_ref() == Some(wanted);
            named || hosts.any(|host| host == wanted || self.hosts.contains(host))
        };
        self.service.as_ref().is_none_or(service) && self.cloud.as_ref().is_none_or(cloud)
    }
}

fn json(value: &impl Serialize) -> String {
    // These have string keys and finite numbers: they are always JSON.
    serde_json::to_string(value).unwrap_or_default()
}

/// The first line.
pub(crate) fn head_line(key: &PublicKey, after: Head) -> String {
    json(&HeadLine {
        wayfare_audit: VERSION,
        registry: registry_id(key).to_string(),
        key: HostId(*key).to_string(),
        after: after.sequence,
        after_hash: after.hash.to_string(),
    })
}

/// The line of an entry.
pub(crate) fn entry_line(entry: &Entry) -> String {
    json(&EntryLine::of(entry))
}

/// The line that stands for an entry.
pub(crate) fn omitted_line(entry: &Entry) -> String {
    json(&OmittedLine { sequence: entry.sequence, omitted: entry.content().to_string() })
}

/// The last line.
pub(crate) fn end_line(signed: &Signed<Checkpoint>) -> Option<String> {
    let checkpoint = signed.unverified().ok()?;
    Some(json(&EndLine {
        end: checkpoint.head.sequence,
        hash: checkpoint.head.hash.to_string(),
        signed_at: time_text(checkpoint.at),
        checkpoint: BASE64.encode(&wire::encode(signed)),
    }))
}

fn decode<T: wire::Wire>(text: &str) -> Option<T> {
    BASE64.decode(text.as_bytes()).ok().and_then(|bytes| wire::decode(&bytes).ok())
}

/// Checks an export of the Registry with this key. What is read is what [`entry_line`] and the like have made, or a fault.
pub(crate) fn check(lines: impl Iterator<Item = std::io::Result<String>>, key: PublicKey) -> std::io::Result<Report> {
    let mut report = Report::begin(Head::NONE);
    let mut walk: Option<Walk> = None;
    let mut ended = false;
    let mut count = 0;
    for (n, line) in (1..).zip(lines) {
        let line = line?;
        count = n;
        let result = match &mut walk {
            None => begin(&line, &key).map(|begun| {
                report = Report::begin(begun.head());
                walk = Some(begun);
            }),
            Some(_) if ended => Err("something follows the signature: it was added".into()),
            Some(walk) => step(walk, &line, &mut report).map(|end| ended = end),
        };
        if let Err(Bad { entry, reason }) = result {
            let next = walk.as_ref().map_or(0, |walk| walk.head().sequence).saturating_add(1);
            report.flaws.push(Fault::Line { line: n, entry: entry.unwrap_or(next), reason });
            // What comes after a fault cannot be told from what was made up.
            return Ok(report);
        }
    }
    if !ended {
        let reason = "the signature is missing: the end was cut off".to_owned();
        report.flaws.push(Fault::Line { line: count + 1, entry: report.after.sequence.saturating_add(1), reason });
    }
    Ok(report)
}

/// What is wrong with a line: the first entry that cannot be relied on, if it is not the one that must come there.
struct Bad {
    entry: Option<u64>,
    reason: String,
}

impl<T: Into<String>> From<T> for Bad {
    fn from(reason: T) -> Self {
        Self { entry: None, reason: reason.into() }
    }
}

fn begin(line: &str, key: &PublicKey) -> Result<Walk, Bad> {
    let head: HeadLine = parse(line, "no export of an audit log")?;
    if head.wayfare_audit != VERSION {
        return Err(format!("an export of version {}, this program reads {VERSION}", head.wayfare_audit).into());
    }
    let ours =
        RegistryId::parse(&head.registry) == Some(registry_id(key)) && HostId::parse(&head.key) == Some(HostId(*key));
    if !ours {
        return Err(format!("the export of registry {}, not of the one with this key", head.registry).into());
    }
    let hash = Digest::parse(&head.after_hash).ok_or("the hash of what comes before is none")?;
    let after = Head { sequence: head.after, hash };
    if head_line(key, after) != line {
        return Err("not as it was exported".into());
    }
    Ok(Walk::new(registry_id(key), *key, after))
}

fn parse<T: for<'de> Deserialize<'de>>(line: &str, otherwise: &str) -> Result<T, Bad> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("longer than {LINE_BYTES_MAX} bytes").into());
    }
    serde_json::from_str(line).map_err(|_| otherwise.into())
}

#[derive(Deserialize)]
struct AnyLine {
    entry: Option<String>,
    omitted: Option<String>,
    checkpoint: Option<String>,
}

/// One line further. True if it was the last one.
fn step(walk: &mut Walk, line: &str, report: &mut Report) -> Result<bool, Bad> {
    let any: AnyLine = parse(line, "no entry of an audit log")?;
    let text = |flaw: Flaw| Bad { entry: Some(flaw.first()), reason: flaw.to_string() };
    let changed = || Bad::from("does not say what was signed: it was altered");
    if let Some(entry) = any.entry {
        let entry: Entry = decode(&entry).ok_or_else(changed)?;
        if entry_line(&entry) != line {
            return Err(changed());
        }
        walk.step(Link::Shown(&entry)).map_err(text)?;
        report.from = report.from.or(Some(entry.at));
        report.entries += 1;
    } else if let Some(omitted) = any.omitted {
        let read: OmittedLine = parse(line, "no entry of an audit log")?;
        let content = Digest::parse(&omitted).ok_or_else(changed)?;
        walk.step(Link::Omitted(read.sequence, content)).map_err(text)?;
        report.entries += 1;
        report.omitted += 1;
    } else {
        let signed: Signed<Checkpoint> = any.checkpoint.as_deref().and_then(decode).ok_or_else(changed)?;
        if end_line(&signed).as_deref() != Some(line) {
            return Err(changed());
        }
        walk.check::<Dalek>(&signed).map_err(text)?;
        walk.end().map_err(text)?;
        report.to = walk.signed().map(|checkpoint| checkpoint.at);
        report.last = walk.head();
        return Ok(true);
    }
    Ok(false)
}
