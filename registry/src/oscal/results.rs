//! What assessment results say of which control.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wayfare_protocol::{
    ids::Digest,
    time::Timestamp,
    trust::{ControlId, Finding},
};

use super::{Metadata, OscalError, check_version, read};

/// What the parts of a control are named by, behind the control's own name.
const PARTS: [&str; 4] = ["_obj", "_smt", "_asm", "_gdn"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    assessment_results: Results,
}

#[derive(Debug, Deserialize)]
struct Results {
    metadata: Metadata,
    results: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    start: String,
    end: Option<String>,
    #[serde(default)]
    observations: Vec<Observation>,
    #[serde(default)]
    findings: Vec<Found>,
}

#[derive(Debug, Deserialize)]
struct Observation {
    uuid: String,
    collected: String,
    expires: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Found {
    target: Target,
    #[serde(default)]
    related_observations: Vec<Related>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Target {
    target_id: String,
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Status {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Satisfied,
    NotSatisfied,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Related {
    observation_uuid: String,
}

/// The findings in this file, and BLAKE3 of its bytes. A finding was found when the last of its observations was collected (or
/// else when its run ended), and counts until the first of them expires.
///
/// # Errors
/// [`OscalError`]: the file, its form, its version, a control's name or a time.
pub fn read_results(path: &Path) -> Result<(Digest, Vec<Finding>), OscalError> {
    let (source, document): (_, Document) = read(path, "assessment-results")?;
    let results = document.assessment_results;
    check_version(path, &results.metadata)?;
    let mut findings = Vec::new();
    for run in &results.results {
        let ended = timestamp(path, run.end.as_ref().unwrap_or(&run.start))?;
        let observations: BTreeMap<&str, &Observation> =
            run.observations.iter().map(|observation| (observation.uuid.as_str(), observation)).collect();
        for found in &run.findings {
            findings.push(finding(path, found, ended, &observations)?);
        }
    }
    if findings.is_empty() {
        return Err(OscalError::Empty {
            path: path.to_owned(),
            what: "has no findings: nothing is known to be in place",
        });
    }
    Ok((source, findings))
}

fn finding(
    path: &Path,
    found: &Found,
    ended: Timestamp,
    observations: &BTreeMap<&str, &Observation>,
) -> Result<Finding, OscalError> {
    let Target { target_id, status } = &found.target;
    let (control, part) = split(target_id);
    let control = ControlId::parse(control).ok_or_else(|| OscalError::BadControl {
        path: path.to_owned(),
        control: target_id.chars().take(80).collect(),
        why: "a finding's target is a control, or an objective or statement of one",
    })?;
    let (mut collected, mut expires) = (None, None);
    for related in &found.related_observations {
        let Some(observation) = observations.get(related.observation_uuid.as_str()) else { continue };
        let at = timestamp(path, &observation.collected)?;
        collected = collected.max(Some(at));
        if let Some(until) = &observation.expires {
            let until = timestamp(path, until)?;
            expires = Some(expires.map_or(until, |before: Timestamp| before.min(until)));
        }
    }
    let satisfied = status.state == State::Satisfied;
    Ok(Finding { control, part: part.map(str::to_owned), satisfied, found: collected.unwrap_or(ended), expires })
}

/// `ac-1_obj.a-1` is a part of `ac-1`; `ac-1_obj` and `ac-1_smt` are all of it.
fn split(target: &str) -> (&str, Option<&str>) {
    for mark in PARTS {
        if let Some((control, rest)) = target.split_once(mark) {
            return (control, Some(target).filter(|_| !rest.is_empty()));
        }
    }
    (target, None)
}

fn timestamp(path: &Path, text: &str) -> Result<Timestamp, OscalError> {
    let bad = || OscalError::BadTime { path: path.to_owned(), text: text.chars().take(80).collect() };
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
    u64::try_from(at.unix_timestamp_nanos() / 1000).map(Timestamp).map_err(|_| bad())
}
