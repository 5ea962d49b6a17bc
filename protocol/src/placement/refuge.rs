//! Where a service goes that cannot stay: the best place there is, even if it is farther from the users than this one.

use std::{cmp::Reverse, fmt};

use super::{Candidate, HostId, Micros, Now, Placer, RuledOut, Thousandths};

/// The best place but the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refuge {
    /// The host.
    pub host: HostId,
    /// Its round trip, the mean over the clients that measured it.
    pub rtt: Option<Micros>,
}

impl Refuge {
    /// Why the service goes there, in a line, for a log or a migration's trace.
    pub fn reason(&self) -> String {
        match self.rtt {
            Some(rtt) => {
                format!("drain: of those that can take it, nearest to its users ({} ms)", Thousandths::millis(rtt.0))
            }
            None => "drain: no round trip to its users is known, it has the most room".to_owned(),
        }
    }
}

/// Why no cloud can take a service: each rule, with how many clouds it rules out. None: no other cloud advertises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stranded(pub Vec<(RuledOut, usize)>);

impl Stranded {
    fn add(&mut self, rule: RuledOut) {
        let same = |(known, _): &&mut (RuledOut, usize)| std::mem::discriminant(known) == std::mem::discriminant(&rule);
        match self.0.iter_mut().find(same) {
            Some((known, count)) => {
                *count += 1;
                // Of several that failed, the one that may be tried first.
                if let (RuledOut::RecentlyFailed { retry_s: first }, RuledOut::RecentlyFailed { retry_s }) =
                    (known, rule)
                {
                    *first = (*first).min(retry_s);
                }
            }
            None => self.0.push((rule, 1)),
        }
    }

    /// What somebody can do about it.
    pub fn advice(&self) -> &'static str {
        let by = |rule: fn(&RuledOut) -> bool| self.0.iter().any(|(known, _)| rule(known));
        if by(|rule| matches!(rule, RuledOut::RecentlyFailed { .. })) {
            "`wayfare migrations` says why it failed; it is tried again"
        } else if by(|rule| *rule == RuledOut::NoResources) {
            "free resources on another cloud, raise [capacity] in its node.toml, or add a cloud"
        } else if by(|rule| *rule == RuledOut::Cordoned) {
            "`wayfare uncordon` another cloud, or add one"
        } else if by(|rule| *rule == RuledOut::NotPermitted) {
            "its owner must allow another cloud or region (--allow-cloud, --allow-region of a new manifest)"
        } else {
            "add a cloud, or look with `wayfare clouds` why the others are not heard"
        }
    }
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no other cloud advertises to this node");
        }
        for (at, (rule, count)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let clouds = if *count == 1 { "cloud" } else { "clouds" };
            write!(f, "{comma}{count} {clouds}: {rule}")?;
        }
        Ok(())
    }
}

impl Placer {
    /// The best host but `here`: of those that may take the service and have room, whose moves did not just fail, the one that
    /// keeps the promise to users, is nearest to them (ties aside), cheapest, and has the most memory free. Those whose round
    /// trip nobody knows come last.
    ///
    /// # Errors
    /// What rules out every one.
    pub fn refuge(&self, now: Now, here: HostId, candidates: &[Candidate]) -> Result<Refuge, Stranded> {
        let mut stranded = Stranded::default();
        let mut open = Vec::new();
        for candidate in candidates.iter().filter(|candidate| candidate.host != here) {
            let rule = if !candidate.permitted {
                Some(RuledOut::NotPermitted)
            } else if candidate.cordoned {
                Some(RuledOut::Cordoned)
            } else if !candidate.free.cover(&self.required) {
                Some(RuledOut::NoResources)
            } else {
                let rest = self.failed_for_refuge(now.mono, candidate.host);
                rest.map(|rest| RuledOut::RecentlyFailed { retry_s: Thousandths::secs(rest.0) })
            };
            match rule {
                Some(rule) => stranded.add(rule),
                None => open.push((candidate, self.weighed(now.mono, candidate.host).rtt)),
            }
        }
        let tie = self.config.tie.0.max(1);
        let rank = |(candidate, rtt): &(&Candidate, Option<Micros>)| {
            let over = self.max_rtt > Micros::ZERO && rtt.is_some_and(|rtt| rtt > self.max_rtt);
            let far = rtt.map(|rtt| rtt.0 / tie);
            let room = Reverse(candidate.free.memory_bytes);
            (over, far.is_none(), far, candidate.price_micros, room, candidate.host)
        };
        let best = open.into_iter().min_by_key(rank);
        best.map(|(candidate, rtt)| Refuge { host: candidate.host, rtt }).ok_or(stranded)
    }
}
