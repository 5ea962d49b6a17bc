//! `why`, and what it shares with `move --dry-run`: a decision with all that led to it.

use wayfare_protocol::placement::{Change, Explanation};

use super::{
    Context, Failure,
    table::{ago, millis, table},
};
use crate::{
    api::shapes::{Decided, Migration, Outcome, Why},
    clock::now,
};

pub(super) async fn why(context: &Context, service: &str) -> Result<(), Failure> {
    let why: Why = context.client().get(&["services", service, "why"], "").await?;
    context.print(&why, |why| describe(why, now().wall.0))
}

/// A decision, and what would have to be different for another.
pub(super) fn decision(explanation: &Explanation, changes: &[Change]) -> String {
    let mut text = format!("{explanation}\n");
    let open: Vec<_> = changes.iter().filter_map(|change| Some((change, change.moves_if.as_ref()?))).collect();
    if changes.is_empty() {
        text.push_str("\nno other cloud advertises to this node: there is nowhere to move to\n");
    }
    if !open.is_empty() {
        text.push_str("\nit would move, all else as it is, if\n");
        let rows: Vec<_> =
            open.into_iter().map(|(change, moves_if)| vec![change.cloud.clone(), moves_if.clone()]).collect();
        text.push_str(&table(&["to", ""], &rows));
    }
    text
}

fn describe(why: &Why, now_us: u64) -> String {
    let Why { service, cloud, state, .. } = why;
    let mut text = format!("`{service}` is on {cloud}, {state}, for {}", lasting(why.since_us, now_us));
    let came = why.moves.iter().rfind(|moved| moved.outcome == Outcome::Moved && moved.to_host == why.host);
    if let Some(Migration { from, .. }) = came {
        text.push_str(&format!("; it came from {from}"));
    }
    match (why.draining, why.cordoned) {
        (true, _) => {
            text.push_str("\nthis node is being drained: the service leaves as soon as some cloud can take it")
        }
        (false, true) => text.push_str("\nthis node is cordoned: once it has left, the service cannot come back"),
        (false, false) => {}
    }
    text.push_str("\n\nas things stand now\n\n");
    text.push_str(&decision(&why.now, &why.changes));
    if !why.decisions.is_empty() {
        text.push_str("\nthe last decisions\n");
        let row = |Decided { first_us, last_us, times, explanation }: &Decided| {
            vec![ago(Some(*first_us), now_us), ago(Some(*last_us), now_us), times.to_string(), verdict(explanation)]
        };
        let rows: Vec<_> = why.decisions.iter().map(row).collect();
        text.push_str(&table(&["first>", "last>", "times>", "decision"], &rows));
    }
    if !why.moves.is_empty() {
        text.push_str("\nits last moves\n");
        let row = |moved: &Migration| {
            let reason = moved.failure.as_ref().unwrap_or(&moved.reason);
            vec![
                ago(moved.steps.first().map(|step| step.at_us), now_us),
                moved.from.clone(),
                moved.to.clone(),
                super::show::word(moved.outcome).to_owned(),
                millis(moved.downtime_ms),
                reason.clone(),
            ]
        };
        let rows: Vec<_> = why.moves.iter().map(row).collect();
        text.push_str(&table(&["begun>", "from", "to", "outcome", "downtime>", "reason"], &rows));
    }
    text
}

/// In a few words, with the numbers that decided.
fn verdict(explanation: &Explanation) -> String {
    let best = explanation.rows.iter().filter(|row| !row.here && row.ruled_out.is_none()).max_by_key(|row| row.gain_ms);
    match (explanation.chosen(), best) {
        (Some(to), _) => {
            let name = explanation.rows.iter().find(|row| row.host == to).map_or("", |row| &row.cloud);
            format!("move to {name}: {}", explanation.reason())
        }
        (None, Some(row)) => {
            let gain = row.gain_ms.map_or_else(|| "-".to_owned(), |gain| gain.to_string());
            format!("stay: {} (best: {}, {gain} ms nearer)", explanation.reason(), row.cloud)
        }
        (None, None) => format!("stay: {}", explanation.reason()),
    }
}

fn lasting(since_us: Option<u64>, now_us: u64) -> String {
    match since_us {
        Some(_) => ago(since_us, now_us).trim_end_matches(" ago").to_owned(),
        None => "an unknown time".to_owned(),
    }
}
