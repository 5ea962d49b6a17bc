//! What would have to be different for a service to move: a decision, turned round.

use serde::{Deserialize, Serialize};

use super::{Explanation, Policy, Row, RuledOut, Thousandths, explain::host_text};
use crate::ids::HostId;

/// What would move a service to one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The candidate.
    #[serde(with = "host_text")]
    pub host: HostId,
    /// Its provider's name.
    pub cloud: String,
    /// `null`: nothing, it is the one that the service moves to.
    pub moves_if: Option<String>,
}

impl Explanation {
    /// For each candidate, what would have to be different for the service to move there, if all else stayed the same.
    pub fn changes(&self) -> Vec<Change> {
        let candidates = self.rows.iter().filter(|row| !row.here);
        candidates
            .map(|row| Change { host: row.host, cloud: row.cloud.clone(), moves_if: self.moves_if(row) })
            .collect()
    }

    fn moves_if(&self, row: &Row) -> Option<String> {
        if self.chosen() == Some(row.host) {
            return None;
        }
        if let Some(rule) = &row.ruled_out {
            return Some(self.without(rule));
        }
        if self.policy == Policy::Never {
            return Some("the policy is sardis or nearest: see [placement] in node.toml".to_owned());
        }
        let Some(gain) = row.gain_ms else {
            return Some("clients measure both it and the present host".to_owned());
        };
        if gain <= self.tie_ms {
            return Some(format!("it is more than {} ms nearer than the present host: now {gain} ms", self.tie_ms));
        }
        if self.policy == Policy::Sardis && row.score_ms_s.is_none_or(|score| score.0 <= 0) {
            return Some(format!(
                "it is {} ms nearer (now {gain} ms), or expected to stay the nearest for {} s (now {} s)",
                ratio(self.cost_ms_s, self.remaining_s),
                ratio(self.cost_ms_s, gain),
                self.remaining_s
            ));
        }
        Some("no other candidate is better".to_owned())
    }

    /// What takes this rule away.
    fn without(&self, rule: &RuledOut) -> String {
        match rule {
            RuledOut::NotPermitted => {
                "the owner's manifest allows it (--allow-cloud, --allow-region at its deployment)".to_owned()
            }
            RuledOut::Cordoned => "its operator has it take services again (`wayfare uncordon` there)".to_owned(),
            RuledOut::NoResources => "as much is free there as the manifest asks for".to_owned(),
            RuledOut::RttUnknown if self.clients == 0 => {
                "a gateway carries requests to the service, and measures".to_owned()
            }
            RuledOut::RttUnknown => "the service's gateways can reach it, and measure".to_owned(),
            RuledOut::RttPartial { percent } => {
                format!("gateways with nearly all of the traffic have measured it: now {percent} %")
            }
            RuledOut::OverSla => "its round trip is within what users are promised".to_owned(),
            RuledOut::RecentlyFailed { retry_s } => {
                format!("{retry_s} s pass: a move there failed (`wayfare migrations`)")
            }
        }
    }
}

/// `a / b` to the next thousandth above; as much as can be if `b` is nothing.
fn ratio(a: Thousandths, b: Thousandths) -> Thousandths {
    let quotient = i128::from(a.0).saturating_mul(1000).checked_div(i128::from(b.0));
    Thousandths(quotient.and_then(|quotient| i64::try_from(quotient + 1).ok()).unwrap_or(i64::MAX))
}
