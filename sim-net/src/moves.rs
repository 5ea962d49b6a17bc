//! Migrations as both sides saw them, put together. In one process both sides read the same clock, so that their times can
//! be compared; between machines they could not.

use std::collections::BTreeMap;

use serde::Serialize;
use wayfare_protocol::{
    ids::HostId,
    migration::trace::{Ending, Side, Trace, step_name},
};

/// One step of Algorithm 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// 1 to 12.
    pub step: u8,
    /// Its name.
    pub name: &'static str,
    /// When it was done, µs from the advertisement (step 1) on.
    pub t_us: u64,
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// The migration's identifier, base58.
    pub id: String,
    /// Where the service was.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Bytes of state, before sealing.
    pub bytes: u64,
    /// From the freeze at the source to the first instruction at the target.
    pub downtime_ms: Option<f64>,
    /// From asking the Registry (step 2) to the last step.
    pub total_ms: f64,
    /// All steps, in order.
    pub steps: Vec<Step>,
    /// `moved`, or why not.
    pub outcome: String,
}

impl Move {
    /// Whether the service moved.
    pub fn succeeded(&self) -> bool {
        self.outcome == "moved"
    }
}

/// Joins the sources' traces with the targets', oldest first. Attempts that are still running are left out.
pub fn collect(traces: &[(HostId, Trace)], name: impl Fn(HostId) -> String) -> Vec<Move> {
    let targets: BTreeMap<_, _> = traces
        .iter()
        .filter(|(_, trace)| trace.side == Side::Target)
        .filter_map(|(_, trace)| Some((trace.mig?, trace)))
        .collect();
    let mut moves: Vec<(u64, Move)> = traces
        .iter()
        .filter(|(_, trace)| trace.side == Side::Source && trace.ending != Ending::Running)
        .map(|(host, source)| {
            let target = source.mig.and_then(|mig| targets.get(&mig).copied());
            (begun(source), join(name(*host), name(source.other), source, target))
        })
        .collect();
    moves.sort_by_key(|(begun, _)| *begun);
    moves.into_iter().map(|(_, joined)| joined).collect()
}

fn begun(trace: &Trace) -> u64 {
    trace.steps.iter().find(|(step, _)| *step == 2).map_or(0, |(_, at)| at.0)
}

fn join(from: String, to: String, source: &Trace, target: Option<&Trace>) -> Move {
    // Where both sides saw a step, who does it tells when: 5, 6, 7, 9 and 10 are the target's, 11 takes effect there.
    let mut at: BTreeMap<u8, u64> = source.steps.iter().map(|(step, at)| (*step, at.0)).collect();
    for (step, time) in target.iter().flat_map(|trace| &trace.steps) {
        if matches!(step, 5 | 6 | 7 | 9 | 10 | 11) {
            at.insert(*step, time.0);
        }
    }
    let first = at.get(&1).copied().unwrap_or_else(|| begun(source));
    let last = at.values().max().copied().unwrap_or(first);
    let steps = at
        .iter()
        .map(|(step, at)| Step { step: *step, name: step_name(*step), t_us: at.saturating_sub(first) })
        .collect();
    let stopped = source.switched.map(|at| at.0);
    let started = target.and_then(|trace| trace.switched).map(|at| at.0);
    Move {
        id: source.mig.map_or_else(String::new, |mig| mig.to_string()),
        from,
        to,
        reason: source.reason.clone(),
        bytes: source.bytes,
        downtime_ms: stopped.zip(started).map(|(stopped, started)| started.saturating_sub(stopped) as f64 / 1e3),
        total_ms: last.saturating_sub(begun(source)) as f64 / 1e3,
        steps,
        outcome: match &source.ending {
            Ending::Moved => "moved".to_owned(),
            Ending::Failed(reason) => reason.clone(),
            Ending::Running => "running".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::{
        ids::{Epoch, MigrationId, RegistryId, ServiceId},
        time::Timestamp,
    };

    use super::*;

    fn trace(side: Side, steps: &[(u8, u64)], switched: u64) -> Trace {
        let service = ServiceId { registry: RegistryId([0; 32]), unique: [0; 16] };
        let mut trace = Trace::new(service, "kv".to_owned(), Epoch::FIRST, HostId([2; 32]), side, "why".to_owned());
        trace.mig = Some(MigrationId([1; 16]));
        trace.steps = steps.iter().map(|(step, at)| (*step, Timestamp(*at))).collect();
        trace.switched = Some(Timestamp(switched));
        trace.ending = Ending::Moved;
        trace
    }

    #[test]
    fn both_sides_make_one_move_with_every_step() {
        let source = trace(
            Side::Source,
            &[(1, 100), (2, 1_100), (3, 1_200), (4, 1_200), (7, 1_500), (8, 1_600), (12, 3_100)],
            1_500,
        );
        let target = trace(
            Side::Target,
            &[(4, 1_250), (5, 1_260), (6, 1_400), (7, 1_450), (9, 1_700), (10, 1_700), (11, 1_900)],
            2_500,
        );
        let traces = [(HostId([1; 32]), source), (HostId([2; 32]), target)];
        let moves = collect(&traces, |host| format!("{}", host.0[0]));
        assert_eq!(moves.len(), 1);
        let joined = &moves[0];
        assert_eq!((joined.from.as_str(), joined.to.as_str()), ("1", "2"));
        assert_eq!(joined.steps.iter().map(|step| step.step).collect::<Vec<_>>(), (1..=12).collect::<Vec<u8>>());
        assert_eq!(joined.steps[6].t_us, 1_350, "7 is the target's");
        assert_eq!(joined.downtime_ms, Some(1.0));
        assert_eq!(joined.total_ms, 2.0);
        assert!(joined.succeeded());
    }
}
