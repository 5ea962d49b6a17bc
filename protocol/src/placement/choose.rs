//! The rule itself, over what a [`Placer`] knows; it changes nothing.

use super::{Candidate, Explanation, Instant, Micros, Now, Placer, Policy, Row, RuledOut, Stay, Thousandths, Verdict};
use crate::ids::HostId;

/// A host as the clients see it, weighted by their traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    /// Over those who measured it.
    pub(super) rtt: Option<Micros>,
    /// Share of the traffic that measured it, ppm.
    coverage_ppm: u32,
    /// Whether that is enough.
    enough: bool,
}

impl Measured {
    /// The round trip, if enough of the traffic measured it.
    pub(super) fn counted(self) -> Option<Micros> {
        self.rtt.filter(|_| self.enough)
    }
}

/// `sum / count` of microseconds by weight.
fn mean(sum: i128, weight: u64) -> Option<i64> {
    i64::try_from(sum.checked_div(i128::from(weight))?).ok()
}

impl Placer {
    /// The round trip to `host`: mean over clients by traffic, of fresh measurements only.
    pub(super) fn weighed(&self, now: Instant, host: HostId) -> Measured {
        let (mut sum, mut weight, mut total) = (0i128, 0u64, 0u64);
        for client in self.clients.values().filter(|client| client.is_fresh(now)) {
            total = total.saturating_add(client.weight);
            if let Some(rtt) = client.rtt(now, host) {
                weight = weight.saturating_add(client.weight);
                sum += i128::from(rtt.0) * i128::from(client.weight);
            }
        }
        let coverage = u128::from(weight) * 1_000_000 / u128::from(total.max(1));
        let coverage_ppm = u32::try_from(coverage).unwrap_or(1_000_000);
        let rtt = mean(sum, weight).and_then(|mean| u64::try_from(mean).ok()).map(Micros);
        Measured { rtt, coverage_ppm, enough: coverage_ppm >= self.config.coverage_ppm }
    }

    /// `rtt_here − rtt_there` in microseconds, over the clients that measured both.
    fn gain(&self, now: Instant, here: HostId, there: HostId) -> Option<i64> {
        let (mut sum, mut weight) = (0i128, 0u64);
        for client in self.clients.values().filter(|client| client.is_fresh(now)) {
            if let (Some(near), Some(far)) = (client.rtt(now, there), client.rtt(now, here)) {
                weight = weight.saturating_add(client.weight);
                sum += (i128::from(far.0) - i128::from(near.0)) * i128::from(client.weight);
            }
        }
        mean(sum, weight)
    }

    fn rule_out(
        &self,
        now: Instant,
        candidate: &Candidate,
        measured: Measured,
        here_rtt: Option<Micros>,
    ) -> Option<RuledOut> {
        let over = |rtt: Micros| self.max_rtt > Micros::ZERO && rtt > self.max_rtt;
        if !candidate.permitted {
            return Some(RuledOut::NotPermitted);
        }
        if candidate.cordoned {
            return Some(RuledOut::Cordoned);
        }
        if !candidate.free.cover(&self.required) {
            return Some(RuledOut::NoResources);
        }
        let Some(rtt) = measured.rtt else { return Some(RuledOut::RttUnknown) };
        if !measured.enough {
            let percent = u8::try_from(measured.coverage_ppm / 10_000).unwrap_or(100);
            return Some(RuledOut::RttPartial { percent });
        }
        // Where the present host breaks the promise too, one that breaks it less is welcome.
        if over(rtt) && here_rtt.is_some_and(|here| !over(here)) {
            return Some(RuledOut::OverSla);
        }
        let rest = self.failed_for(now, candidate.host)?;
        Some(RuledOut::RecentlyFailed { retry_s: Thousandths::secs(rest.0) })
    }

    /// What [`Placer::decide`] would say now, without taking note of anything: a dry run.
    pub fn explain(&self, now: Now, here: HostId, candidates: &[Candidate]) -> Explanation {
        let remaining = self.dwells.expected_remaining(now.mono, self.config.slot);
        let downtime = self.expected_downtime();
        // µs × (ms·s per s) / 10⁶ is ms·s; / 10³ leaves thousandths of it.
        let cost = i64::try_from(u128::from(downtime.0) * u128::from(self.config.downtime_weight_ms_s) / 1000)
            .unwrap_or(i64::MAX);
        let here_measured = self.weighed(now.mono, here).rtt;
        let mut rows: Vec<Row> = candidates
            .iter()
            .filter(|candidate| candidate.host != here)
            .map(|candidate| self.row(now.mono, here, candidate, here_measured, remaining, cost))
            .collect();
        rows.sort_by_key(|row| (row.rtt_ms.is_none(), row.rtt_ms, row.host));
        let own = candidates.iter().find(|candidate| candidate.host == here);
        rows.insert(
            0,
            Row {
                host: here,
                cloud: own.map(|own| own.cloud.clone()).unwrap_or_default(),
                here: true,
                rtt_ms: here_measured.map(|rtt| Thousandths::millis(rtt.0)),
                price_micros: own.map_or(0, |own| own.price_micros),
                ruled_out: None,
                gain_ms: None,
                score_ms_s: None,
            },
        );
        let clients = self.clients.values().filter(|client| client.is_fresh(now.mono)).count();
        let verdict = self.verdict(&rows, clients, here_measured);
        Explanation {
            policy: self.config.policy,
            here,
            clients: u32::try_from(clients).unwrap_or(u32::MAX),
            dwell_s: Thousandths::secs(self.dwells.elapsed(now.mono).0),
            remaining_s: Thousandths::secs(remaining.0),
            downtime_ms: Thousandths::millis(downtime.0),
            downtime_measured: self.downtime.is_some(),
            cost_ms_s: Thousandths(cost),
            tie_ms: Thousandths::millis(self.config.tie.0),
            rows,
            verdict,
        }
    }

    fn row(
        &self,
        now: Instant,
        here: HostId,
        candidate: &Candidate,
        here_rtt: Option<Micros>,
        remaining: Micros,
        cost: i64,
    ) -> Row {
        let measured = self.weighed(now, candidate.host);
        let gain = self.gain(now, here, candidate.host);
        // µs × µs / 10⁶ is thousandths of ms·s.
        let worth = |gain: i64| i64::try_from(i128::from(gain) * i128::from(remaining.0) / 1_000_000);
        Row {
            host: candidate.host,
            cloud: candidate.cloud.clone(),
            here: false,
            rtt_ms: measured.rtt.map(|rtt| Thousandths::millis(rtt.0)),
            price_micros: candidate.price_micros,
            ruled_out: self.rule_out(now, candidate, measured, here_rtt),
            gain_ms: gain.map(Thousandths),
            score_ms_s: gain.and_then(|gain| worth(gain).ok()).map(|worth| Thousandths(worth.saturating_sub(cost))),
        }
    }

    fn verdict(&self, rows: &[Row], clients: usize, here_rtt: Option<Micros>) -> Verdict {
        if self.config.policy == Policy::Never {
            return Verdict::Stay(Stay::Never);
        }
        if clients == 0 {
            return Verdict::Stay(Stay::NoReport);
        }
        if here_rtt.is_none() {
            return Verdict::Stay(Stay::HereUnknown);
        }
        let tie = i64::try_from(self.config.tie.0).unwrap_or(i64::MAX);
        let open: Vec<(&Row, i64)> = rows
            .iter()
            .filter(|row| !row.here && row.ruled_out.is_none())
            .filter_map(|row| Some((row, row.gain_ms?.0)))
            .collect();
        let Some(most) = open.iter().map(|(_, gain)| *gain).max() else {
            return Verdict::Stay(Stay::NoCandidate);
        };
        if most <= tie {
            return Verdict::Stay(Stay::Nearest);
        }
        // Among those as good as the best, ties aside, the cheapest; then the nearest; then any, but always the same.
        let best = open
            .iter()
            .filter(|(_, gain)| *gain > tie && most - *gain <= tie)
            .min_by_key(|(row, gain)| (row.price_micros, -gain, row.host));
        match (best, self.config.policy) {
            (None, _) => Verdict::Stay(Stay::NoCandidate),
            (Some((row, _)), Policy::Nearest) => Verdict::Move(row.host),
            (Some((row, _)), _) if row.score_ms_s.is_some_and(|score| score.0 > 0) => Verdict::Move(row.host),
            (Some(_), _) => Verdict::Stay(Stay::NotWorth),
        }
    }
}
