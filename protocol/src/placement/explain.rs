//! A decision as people and programs read it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Policy;
use crate::ids::HostId;

/// A number with three decimals, exact and hashable; a plain number in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(pub i64);

impl Thousandths {
    /// The number.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// From a length of time in microseconds: the number of milliseconds.
    pub fn millis(micros: u64) -> Self {
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// From a length of time in microseconds: the number of seconds.
    pub fn secs(micros: u64) -> Self {
        Self::millis(micros / 1000)
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1}", self.as_f64()))
    }
}

impl Serialize for Thousandths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A float to integer cast saturates.
        f64::deserialize(deserializer).map(|number| Self((number * 1e3).round() as i64))
    }
}

/// Hosts as base58 text.
pub(super) mod host_text {
    use super::{Deserialize, Deserializer, HostId, Serializer};

    pub(in crate::placement) fn serialize<S: Serializer>(host: &HostId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(host)
    }

    pub(in crate::placement) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HostId, D::Error> {
        let text = String::deserialize(deserializer)?;
        HostId::parse(&text).ok_or_else(|| serde::de::Error::custom("not a host identifier"))
    }
}

/// Why a candidate is out of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum RuledOut {
    /// The owner's manifest forbids it.
    NotPermitted,
    /// It takes no services now.
    Cordoned,
    /// It does not have free what the service needs.
    NoResources,
    /// No client has a fresh round trip to it.
    RttUnknown,
    /// Clients with this share of the traffic, in percent, have measured it: too few to speak for all.
    RttPartial {
        /// Percent of the traffic.
        percent: u8,
    },
    /// Its round trip exceeds the one promised, which the present host keeps.
    OverSla,
    /// A move to it failed a short while ago.
    RecentlyFailed {
        /// When it may be tried again, seconds from now.
        retry_s: Thousandths,
    },
}

impl fmt::Display for RuledOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => f.write_str("the owner's manifest forbids it"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::NoResources => f.write_str("lacks free resources"),
            Self::RttUnknown => f.write_str("no fresh round trip"),
            Self::RttPartial { percent } => write!(f, "measured for only {percent} % of the traffic"),
            Self::OverSla => f.write_str("slower than promised to users"),
            Self::RecentlyFailed { retry_s } => write!(f, "a move there failed, next try in {retry_s} s"),
        }
    }
}

/// Why a service stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stay {
    /// The policy is never.
    Never,
    /// No client has reported lately.
    NoReport,
    /// No fresh round trip to the present host, so no gain can be told.
    HereUnknown,
    /// Every candidate is ruled out, or there is none.
    NoCandidate,
    /// No candidate is nearer by more than the tie.
    Nearest,
    /// The expected gain does not repay the cost of moving.
    NotWorth,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "the policy is never to move",
            Self::NoReport => "no client has reported round trips lately",
            Self::HereUnknown => "the round trip to the present host is not known",
            Self::NoCandidate => "no candidate is left",
            Self::Nearest => "no candidate is nearer by more than the tie",
            Self::NotWorth => "the expected gain does not repay the cost of moving",
        })
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing, for this reason.
    Stay(Stay),
    /// Move to this host.
    Move(#[serde(with = "host_text")] HostId),
}

/// One candidate, or the present host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// The host.
    #[serde(with = "host_text")]
    pub host: HostId,
    /// The provider's enrolled name; empty for a present host that does not advertise.
    pub cloud: String,
    /// Whether the service is there now.
    pub here: bool,
    /// Round trip, the mean over clients by traffic, from fresh measurements, ms.
    pub rtt_ms: Option<Thousandths>,
    /// Price in the mesh's unit of account, millionths per core and hour.
    pub price_micros: u64,
    /// What ruled it out.
    pub ruled_out: Option<RuledOut>,
    /// Round trip saved by moving there, ms; negative if it is farther.
    pub gain_ms: Option<Thousandths>,
    /// `gain × expected remaining dwell − cost`, ms·s.
    pub score_ms_s: Option<Thousandths>,
}

/// A decision with all that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Explanation {
    /// The policy in force.
    pub policy: Policy,
    /// Where the service is.
    #[serde(with = "host_text")]
    pub here: HostId,
    /// Clients with fresh measurements.
    pub clients: u32,
    /// How long the nearest cloud has been the same, s.
    pub dwell_s: Thousandths,
    /// How much longer it is expected to be, s.
    pub remaining_s: Thousandths,
    /// The expected downtime of a move, ms.
    pub downtime_ms: Thousandths,
    /// Whether that was measured, or is the default.
    pub downtime_measured: bool,
    /// What the move costs, ms·s.
    pub cost_ms_s: Thousandths,
    /// Round trips that differ by less are equal, ms.
    #[serde(default)]
    pub tie_ms: Thousandths,
    /// The present host first, then the candidates, nearest first, those without a round trip last.
    pub rows: Vec<Row>,
    /// The decision.
    pub verdict: Verdict,
}

impl Explanation {
    /// Where to move, if anywhere.
    pub const fn chosen(&self) -> Option<HostId> {
        match self.verdict {
            Verdict::Move(host) => Some(host),
            Verdict::Stay(_) => None,
        }
    }

    /// The verdict's reason in one line, for a log or a migration's trace.
    pub fn reason(&self) -> String {
        let to = match &self.verdict {
            Verdict::Stay(reason) => return reason.to_string(),
            Verdict::Move(to) => to,
        };
        let gain = self.rows.iter().find(|row| row.host == *to).and_then(|row| row.gain_ms);
        match gain {
            Some(gain) => {
                format!("{}: {gain} ms nearer, for {} s more as expected", self.policy.name(), self.remaining_s)
            }
            None => self.policy.name().to_owned(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |row: &Row| if row.cloud.is_empty() { format!("{:#}", row.host) } else { row.cloud.clone() };
        let number = |value: Option<Thousandths>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:>8}  {:>8}  {:>10}  remarks", "cloud", "rtt ms", "gain ms", "score ms·s")?;
        for row in &self.rows {
            let (rtt, gain, score) = (number(row.rtt_ms), number(row.gain_ms), number(row.score_ms_s));
            write!(f, "{:width$}  {rtt:>8}  {gain:>8}  {score:>10}", name(row))?;
            match (row.here, &row.ruled_out) {
                (true, _) => writeln!(f, "  here")?,
                (false, Some(rule)) => writeln!(f, "  out: {rule}")?,
                (false, None) => writeln!(f)?,
            }
        }
        let origin = if self.downtime_measured { "measured" } else { "assumed" };
        writeln!(
            f,
            "policy {}; {} clients; dwell {} s so far, {} s more expected; a move costs {} ms·s ({} ms of downtime, {origin})",
            self.policy.name(),
            self.clients,
            self.dwell_s,
            self.remaining_s,
            self.cost_ms_s,
            self.downtime_ms,
        )?;
        match &self.verdict {
            Verdict::Stay(reason) => write!(f, "stay: {reason}"),
            Verdict::Move(host) => match self.rows.iter().find(|row| row.host == *host) {
                Some(row) => write!(f, "move to {}", name(row)),
                None => write!(f, "move to {host:#}"),
            },
        }
    }
}
