//! `GET /v1/migrations/events`: what becomes of migrations, as it happens. The machine says that something has happened to a
//! service; what it was is the difference between the history now and before, so nothing is missed by who falls behind.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use wayfare_protocol::{host::Event, limits::HISTORY_MAX};

use super::{
    Api, Shared,
    error::Failure,
    lines::{Lines, lines},
    shapes::{Happening, Migration, MigrationEvent, Outcome, Side},
    show::history,
};
use crate::clock::now;

/// Attempts whose steps are remembered: more than the machine remembers itself.
const SEEN_MAX: usize = 2 * HISTORY_MAX;

pub(super) async fn events(State(api): Api) -> Result<Response, Failure> {
    let host = api.host()?;
    let events = host.events().await.ok_or_else(Failure::stopping)?;
    // What has ended before is not told.
    let mut watch = Watch { seen: BTreeMap::new() };
    for migration in history(&api).await? {
        if migration.outcome != Outcome::Running {
            watch.news(&migration);
        }
    }
    let (lines, response) = lines();
    let tracker = api.tracker.clone();
    tracker.spawn(watch.run(api, lines, events));
    Ok(response)
}

/// An attempt: service, other host, side, when it was begun.
type Key = (String, String, bool, u64);

/// What was told so far.
struct Watch {
    /// For each attempt its number of steps, and whether it had ended.
    seen: BTreeMap<Key, (usize, bool)>,
}

impl Watch {
    async fn run(mut self, api: Arc<Shared>, lines: Lines, mut events: Receiver<Event>) {
        let mut concerned = None;
        loop {
            let Ok(all) = history(&api).await else { return };
            let of = |migration: &&Migration| concerned.as_ref().is_none_or(|id| *id == migration.service_id);
            for migration in all.iter().filter(of) {
                for event in self.news(migration) {
                    if !lines.send(&event).await {
                        return;
                    }
                }
            }
            self.forget(&all);
            concerned = loop {
                tokio::select! {
                    biased;
                    () = api.shutdown.cancelled() => return,
                    () = lines.closed() => return,
                    event = events.recv() => match event {
                        Ok(Event::Progress(service)) => break Some(service.to_string()),
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break None,
                        Err(RecvError::Closed) => return,
                    },
                }
            };
        }
    }

    /// What has happened to an attempt since it was last seen.
    fn news(&mut self, migration: &Migration) -> Vec<MigrationEvent> {
        let (told, ended) = self.seen.get(&key(migration)).copied().unwrap_or_default();
        let event = |event, step| MigrationEvent { at_us: now().wall.0, event, step, migration: migration.clone() };
        let mut news = Vec::new();
        if !self.seen.contains_key(&key(migration)) {
            news.push(event(Happening::Started, None));
        }
        let steps = migration.steps.iter().skip(told).cloned();
        news.extend(steps.map(|step| MigrationEvent { at_us: step.at_us, ..event(Happening::Step, Some(step)) }));
        let ends = migration.outcome != Outcome::Running;
        if ends && !ended {
            news.push(event(Happening::Ended, None));
        }
        self.seen.insert(key(migration), (migration.steps.len(), ends));
        news
    }

    /// What the machine has forgotten is forgotten here.
    fn forget(&mut self, all: &[Migration]) {
        if self.seen.len() > SEEN_MAX {
            let known: std::collections::BTreeSet<Key> = all.iter().map(key).collect();
            self.seen.retain(|key, _| known.contains(key));
        }
    }
}

fn key(migration: &Migration) -> Key {
    let source = migration.side == Side::Source;
    let first = migration.steps.iter().find(|step| step.step == if source { 2 } else { 4 });
    let other = if source { &migration.to_host } else { &migration.from_host };
    (migration.service_id.clone(), other.clone(), source, first.map_or(0, |step| step.at_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::shapes::Step;

    #[test]
    fn every_step_is_told_once_and_so_is_the_end() {
        let step = |step: u8| Step { step, name: step.to_string(), at_us: u64::from(step) };
        let mut migration = Migration {
            id: None,
            service: "kv".into(),
            service_id: "s".into(),
            from: "home".into(),
            to: "delta".into(),
            from_host: "h".into(),
            to_host: "d".into(),
            side: Side::Source,
            reason: String::new(),
            outcome: Outcome::Running,
            failure: None,
            bytes: 0,
            downtime_ms: None,
            steps: vec![step(1), step(2)],
        };
        let mut watch = Watch { seen: BTreeMap::new() };
        let told = |watch: &mut Watch, migration: &Migration| {
            let word = |event: MigrationEvent| (event.event, event.step.map_or(0, |step| step.step));
            watch.news(migration).into_iter().map(word).collect::<Vec<_>>()
        };
        let expected = [(Happening::Started, 0), (Happening::Step, 1), (Happening::Step, 2)];
        assert_eq!(told(&mut watch, &migration), expected);
        assert_eq!(told(&mut watch, &migration), []);
        migration.id = Some("m".into());
        migration.steps.push(step(3));
        assert_eq!(told(&mut watch, &migration), [(Happening::Step, 3)]);
        migration.outcome = Outcome::Failed;
        assert_eq!(told(&mut watch, &migration), [(Happening::Ended, 0)]);
        assert_eq!(told(&mut watch, &migration), []);
        let again = Migration { steps: vec![step(9), Step { step: 2, ..step(9) }], ..migration };
        assert_eq!(told(&mut watch, &again).len(), 4, "another attempt");
    }
}
