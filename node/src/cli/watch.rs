//! `migrations --watch`: a line for each thing that happens.

use super::{
    Context, Failure,
    table::{bytes, clock, millis, short},
};
use crate::api::shapes::{Happening, Migration, MigrationEvent, Outcome, Side};

pub(super) async fn watch(context: &Context) -> Result<(), Failure> {
    let mut lines = context.client().get_lines(&["migrations", "events"]).await?;
    if !context.json {
        eprintln!("Migrations as this node sees them; Ctrl-C ends this.");
    }
    while let Some(event) = lines.next::<MigrationEvent>().await? {
        context.print_line(&event, describe)?;
    }
    Err(Failure::other("the node has stopped: start it again with `wayfare run`"))
}

fn describe(event: &MigrationEvent) -> String {
    let MigrationEvent { at_us, event, step, migration } = event;
    let Migration { service, from, to, side, .. } = migration;
    let what = match (event, step) {
        (Happening::Started, _) if *side == Side::Source => format!("{from} -> {to}: {}", migration.reason),
        (Happening::Started, _) => format!("{from} -> {to}: arrives here"),
        (Happening::Step, Some(step)) => {
            // The advert may have come long before.
            let first = migration.steps.iter().filter(|step| step.step > 1).map(|step| step.at_us).min();
            let after = step.at_us as f64 - first.unwrap_or(step.at_us) as f64;
            format!("{:>4}  {:<18}{:>12}", step.step, step.name, millis(Some(after / 1e3)))
        }
        (Happening::Step, None) => "a step".to_owned(),
        (Happening::Ended, _) => ended(migration),
    };
    let id = migration.id.as_deref().map_or_else(|| "-".to_owned(), short);
    format!("{}  {id:<8}  {service}  {what}\n", clock(*at_us))
}

fn ended(migration: &Migration) -> String {
    let Migration { from, to, side, outcome, failure, .. } = migration;
    let down = match (side, migration.downtime_ms) {
        (Side::Source, Some(_)) => format!(", down for {}", millis(migration.downtime_ms)),
        _ => String::new(),
    };
    match outcome {
        Outcome::Moved => format!("moved from {from} to {to}: {} of state{down}", bytes(migration.bytes)),
        _ => format!("not moved to {to}{down}: {}", failure.as_deref().unwrap_or("no reason is known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::shapes::Step;

    #[test]
    fn a_migration_is_told_in_lines() {
        let step = Step { step: 3, name: "yes cloud".into(), at_us: 3_725_004_200 };
        let migration = Migration {
            id: Some("5HqTn2abcdef".into()),
            service: "kv".into(),
            service_id: "s".into(),
            from: "home".into(),
            to: "delta".into(),
            from_host: "h".into(),
            to_host: "d".into(),
            side: Side::Source,
            reason: "asked for".into(),
            outcome: Outcome::Moved,
            failure: None,
            bytes: 2048,
            downtime_ms: Some(12.5),
            steps: vec![Step { step: 2, at_us: 3_725_000_000, ..step.clone() }, step.clone()],
        };
        let told =
            |event, step| describe(&MigrationEvent { at_us: 3_725_004_200, event, step, migration: migration.clone() });
        assert_eq!(told(Happening::Started, None), "01:02:05.004  5HqTn2ab  kv  home -> delta: asked for\n");
        assert_eq!(
            told(Happening::Step, Some(step)),
            "01:02:05.004  5HqTn2ab  kv     3  yes cloud               4.2 ms\n"
        );
        let end = "01:02:05.004  5HqTn2ab  kv  moved from home to delta: 2.0 KiB of state, down for 12.5 ms\n";
        assert_eq!(told(Happening::Ended, None), end);
    }
}
