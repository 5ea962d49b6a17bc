//! Evidence: what was found out about a platform, and whether that is enough for a baseline.

use std::collections::{BTreeMap, BTreeSet};

use super::{Baseline, ControlId};
use crate::{
    limits::CLOCK_SKEW,
    time::{Micros, Timestamp},
};

/// What an assessor found of one control, or of a part of one (OSCAL assessment results, "finding").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    /// The control.
    pub control: ControlId,
    /// The part of it that was looked at, as its objective or statement is named; `None`: all of it.
    pub part: Option<String>,
    /// Whether it is in place.
    pub satisfied: bool,
    /// When it was found.
    pub found: Timestamp,
    /// Until when it counts; `None`: for as long as the certifier lets findings count.
    pub expires: Option<Timestamp>,
}

/// Why a control does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lack {
    /// Nobody looked at it.
    NotAssessed,
    /// Only parts were looked at, such as this one.
    OnlyParts(String),
    /// It is not in place, or this part of it is not.
    NotSatisfied(Option<String>),
    /// What was found of it counted until then.
    Expired(Timestamp),
    /// What was found of it is dated in the future, at this time.
    NotYet(Timestamp),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAssessed => f.write_str("not assessed"),
            Self::OnlyParts(part) => {
                write!(f, "only parts were assessed, such as {part}: a finding of the whole is needed")
            }
            Self::NotSatisfied(None) => f.write_str("not satisfied"),
            Self::NotSatisfied(Some(part)) => write!(f, "not satisfied in {part}"),
            Self::Expired(_) => f.write_str("its finding is out of date: assess it again"),
            Self::NotYet(_) => f.write_str("its finding is dated in the future: look at the assessor's clock"),
        }
    }
}

/// Which controls of `baseline` these findings do not show to be in place, and why. Empty: all are.
///
/// Of findings of the same control and part, the latest that is in date counts. A control is in place if a finding of the
/// whole of it says so, and no finding that counts says of any part that it is not.
pub fn lacking(
    baseline: &Baseline,
    findings: &[Finding],
    now: Timestamp,
    max_age: Micros,
) -> BTreeMap<ControlId, Lack> {
    let mut of: BTreeMap<&ControlId, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        of.entry(&finding.control).or_default().push(finding);
    }
    let lack = |control: &ControlId| {
        let findings = of.get(control).map_or(&[][..], Vec::as_slice);
        Some((control.clone(), lack(findings, now, max_age)?))
    };
    baseline.controls.iter().filter_map(lack).collect()
}

fn lack(findings: &[&Finding], now: Timestamp, max_age: Micros) -> Option<Lack> {
    let until = |finding: &Finding| {
        let oldest = finding.found + max_age;
        finding.expires.map_or(oldest, |expires| expires.min(oldest))
    };
    let latest_of = |parts: BTreeSet<&Option<String>>| -> Vec<&Finding> {
        let latest = |part: &Option<String>| {
            let same = findings.iter().filter(|finding| finding.part == *part);
            let counting = same.filter(|finding| finding.found <= now + CLOCK_SKEW && until(finding) > now);
            // Of two at the same time, the worse counts.
            counting.max_by_key(|finding| (finding.found, !finding.satisfied)).copied()
        };
        parts.into_iter().filter_map(latest).collect()
    };
    let counting = latest_of(findings.iter().map(|finding| &finding.part).collect());
    if let Some(bad) = counting.iter().find(|finding| !finding.satisfied) {
        return Some(Lack::NotSatisfied(bad.part.clone()));
    }
    if counting.iter().any(|finding| finding.part.is_none()) {
        return None;
    }
    let part = counting.iter().find_map(|finding| finding.part.clone());
    if let Some(part) = part {
        return Some(Lack::OnlyParts(part));
    }
    let early = findings.iter().filter(|finding| finding.found > now + CLOCK_SKEW).map(|finding| finding.found).min();
    let late = findings.iter().map(|finding| until(finding)).max();
    Some(early.map(Lack::NotYet).or(late.map(Lack::Expired)).unwrap_or(Lack::NotAssessed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Digest, trust::Assurance};

    const DAY: Micros = Micros::from_secs(86_400);

    fn day(day: u64) -> Timestamp {
        Timestamp(day * DAY.0)
    }

    fn baseline(controls: &[&str]) -> Baseline {
        Baseline {
            id: "low".to_owned(),
            title: "low".to_owned(),
            source: Digest([0; 32]),
            controls: controls.iter().map(|text| ControlId::parse(text).unwrap()).collect(),
            measurements: BTreeMap::new(),
            assurance: Assurance::Declared,
        }
    }

    fn finding(control: &str, satisfied: bool, found: u64) -> Finding {
        let control = ControlId::parse(control).unwrap();
        Finding { control, part: None, satisfied, found: day(found), expires: None }
    }

    /// What control `ac-1` lacks on day 100, if findings count for 90 days.
    fn of_ac_1(findings: &[Finding]) -> Option<Lack> {
        lacking(&baseline(&["ac-1"]), findings, day(100), DAY.times(90)).into_values().next()
    }

    #[test]
    fn a_control_counts_with_a_finding_in_date_that_says_so() {
        assert_eq!(of_ac_1(&[]), Some(Lack::NotAssessed));
        assert_eq!(of_ac_1(&[finding("ac-2", true, 99)]), Some(Lack::NotAssessed));
        assert_eq!(of_ac_1(&[finding("ac-1", true, 99)]), None);
        assert_eq!(of_ac_1(&[finding("ac-1", false, 99)]), Some(Lack::NotSatisfied(None)));
        assert_eq!(of_ac_1(&[finding("ac-1", true, 5)]), Some(Lack::Expired(day(95))));
        assert_eq!(of_ac_1(&[finding("ac-1", true, 101)]), Some(Lack::NotYet(day(101))));
        let short = Finding { expires: Some(day(100)), ..finding("ac-1", true, 99) };
        assert_eq!(of_ac_1(&[short]), Some(Lack::Expired(day(100))));
    }

    #[test]
    fn the_latest_finding_of_the_same_counts_and_an_outdated_one_no_more() {
        let (good, bad) = (finding("ac-1", true, 50), finding("ac-1", false, 60));
        assert_eq!(of_ac_1(&[good.clone(), bad.clone()]), Some(Lack::NotSatisfied(None)));
        assert_eq!(of_ac_1(&[bad.clone(), finding("ac-1", true, 61)]), None);
        assert_eq!(of_ac_1(&[bad, finding("ac-1", true, 60)]), Some(Lack::NotSatisfied(None)), "at the same time");
        assert_eq!(of_ac_1(&[finding("ac-1", false, 5), good]), None, "the bad one is out of date");
    }

    #[test]
    fn parts_can_spoil_a_control_and_cannot_make_it() {
        let part = |satisfied| Finding { part: Some("ac-1_obj.a".to_owned()), ..finding("ac-1", satisfied, 99) };
        assert_eq!(of_ac_1(&[part(true)]), Some(Lack::OnlyParts("ac-1_obj.a".to_owned())));
        assert_eq!(of_ac_1(&[part(true), finding("ac-1", true, 98)]), None);
        let spoilt = Some(Lack::NotSatisfied(Some("ac-1_obj.a".to_owned())));
        assert_eq!(of_ac_1(&[part(false), finding("ac-1", true, 98)]), spoilt);
    }

    #[test]
    fn every_control_that_is_missing_is_named() {
        let all = baseline(&["ac-1", "ac-2", "ac-3"]);
        let findings = [finding("ac-1", true, 99), finding("ac-3", false, 99)];
        let lacks = lacking(&all, &findings, day(100), DAY.times(90));
        let named: Vec<String> = lacks.iter().map(|(control, lack)| format!("{control}: {lack}")).collect();
        assert_eq!(named, ["ac-2: not assessed", "ac-3: not satisfied"]);
    }
}
