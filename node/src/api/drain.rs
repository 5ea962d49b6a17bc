//! `POST /v1/drain`: every service leaves this node, then the node leaves the mesh. The machine decides what goes where; this
//! tells who asked, line by line, and ends the drain when its time is up or nobody listens any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{body::Bytes, extract::State, response::Response};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};
use wayfare_protocol::{
    host::{DrainView, Event, Left, LeftView},
    ids::{HostId, ServiceId},
};

use super::{
    Api, Shared,
    error::Failure,
    lines::{Lines, lines},
    shapes::{DrainLine, DrainRequest, Drained, StillHere},
    show::last_attempt,
};
use crate::words::in_words;

/// How often what is left is looked at, if nothing happens.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node that leaves goes on after its farewell: gateways turn away from it, and the mesh passes its last word on.
const LINGER: Duration = Duration::from_secs(1);
/// The longest that a drain may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn drain(State(api): Api, body: Bytes) -> Result<Response, Failure> {
    let request: DrainRequest = match body.is_empty() {
        true => DrainRequest::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| Failure::bad_request(format!("the request: {error}"), "see the API's description"))?,
    };
    let host = api.host()?;
    let events = host.events().await.ok_or_else(Failure::stopping)?;
    api.ask(|host, _| host.start_drain()).await?;
    let (lines, response) = lines();
    let drain = Drain { names: BTreeMap::new(), said: BTreeMap::new(), moved: 0, begun: Instant::now(), lines, api };
    let tracker = drain.api.tracker.clone();
    tracker.spawn(drain.run(request, events));
    Ok(response)
}

/// A drain that somebody follows.
struct Drain {
    api: Arc<Shared>,
    lines: Lines,
    /// Of services that are or were here.
    names: BTreeMap<ServiceId, String>,
    /// What was last said of a service that waits.
    said: BTreeMap<ServiceId, String>,
    moved: usize,
    begun: Instant,
}

/// How a drain ends.
enum End {
    Empty,
    /// What is left cannot leave.
    Immovable,
    TimeUp,
    /// Somebody ended it: uncordoned.
    Ended,
    /// Nobody listens, or the node stops.
    Alone,
}

impl Drain {
    async fn run(mut self, request: DrainRequest, mut events: Receiver<Event>) {
        let deadline = Instant::now() + Duration::from_secs(request.timeout_s).min(TIMEOUT_MAX);
        let end = self.follow(deadline, &mut events).await.unwrap_or(End::Alone);
        let empty = matches!(end, End::Empty);
        let leaves = empty && !request.stay;
        if leaves {
            // A node that stops meanwhile leaves all the same.
            let _ = self.api.ask(|host, now| host.farewell(now)).await;
            tokio::time::sleep(LINGER).await;
        } else if !matches!(end, End::Ended) {
            let _ = self.api.ask(|host, _| host.stop_drain()).await;
        }
        let left = if empty { Vec::new() } else { self.left().await.unwrap_or_default() };
        let left = left.into_iter().map(|left| self.still_here(left)).collect();
        let why = match end {
            End::Empty | End::Alone => None,
            End::Immovable => Some("what is left cannot be moved".to_owned()),
            End::TimeUp => Some(format!("not done after {} s", request.timeout_s)),
            End::Ended => Some("it was ended by `wayfare uncordon`".to_owned()),
        };
        let seconds = self.begun.elapsed().as_secs_f64();
        let drained = Drained { drained: empty, leaves, moved: self.moved, seconds, why, left };
        self.lines.send(&DrainLine::Ended(drained)).await;
        if leaves {
            self.api.parts.leaving.cancel();
        }
    }

    /// Until the drain is over. `None` if the node stops.
    async fn follow(&mut self, deadline: Instant, events: &mut Receiver<Event>) -> Option<End> {
        let first = self.view().await?;
        let mut listened = self.lines.send(&DrainLine::Started { services: first.left.len() }).await;
        let mut look = tokio::time::interval(LOOK);
        while listened {
            let view = self.view().await?;
            if view.left.is_empty() {
                return Some(End::Empty);
            }
            if !view.draining {
                return Some(End::Ended);
            }
            if view.left.iter().all(|left| matches!(left.why, Left::Immovable(_))) {
                return Some(End::Immovable);
            }
            listened = self.say_what_waits(view.left).await;
            tokio::select! {
                biased;
                () = self.api.shutdown.cancelled() => return None,
                () = self.lines.closed() => return Some(End::Alone),
                event = events.recv() => match event {
                    Ok(event) => listened = self.say(event).await?,
                    // The next look shows what was missed.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
                () = tokio::time::sleep_until(deadline) => return Some(End::TimeUp),
                _ = look.tick() => {}
            }
        }
        Some(End::Alone)
    }

    async fn view(&mut self) -> Option<DrainView> {
        let view = self.api.ask(|host, now| host.drain_view(now)).await.ok()?;
        self.names.extend(view.left.iter().map(|left| (left.service, left.name.clone())));
        Some(view)
    }

    async fn left(&mut self) -> Option<Vec<LeftView>> {
        Some(self.view().await?.left)
    }

    fn name(&self, service: ServiceId) -> String {
        self.names.get(&service).cloned().unwrap_or_else(|| self.api.names.of(service))
    }

    fn still_here(&self, LeftView { service, name, why }: LeftView) -> StillHere {
        let (reason, what_to_do) = match why {
            Left::Leaving(to) => (format!("on its way to {to:#}"), "`wayfare migrations` shows how it ends".to_owned()),
            Left::Waiting => ("others go first".to_owned(), "drain again, with a longer --timeout".to_owned()),
            Left::NotServing => {
                let advice = "`wayfare services` shows what it does; drain again when it serves";
                ("it does not serve now".to_owned(), advice.to_owned())
            }
            Left::Stranded(stranded) => (format!("no cloud can take it: {stranded}"), stranded.advice().to_owned()),
            Left::Immovable(run) => {
                let advice = "it cannot be moved, nor does it serve: stop this node as it is, or start it again with \
                              `wayfare run --forget-lost` if its state is lost";
                (format!("it is {}", run.name()), advice.to_owned())
            }
        };
        StillHere { service: name, id: service.to_string(), reason, what_to_do }
    }

    /// Says once what keeps a service here, and again when that changes.
    async fn say_what_waits(&mut self, left: Vec<LeftView>) -> bool {
        for one in left {
            let service = one.service;
            let telling = match &one.why {
                Left::Stranded(stranded) => kinds(&stranded.to_string()),
                Left::Immovable(run) => run.name().to_owned(),
                Left::Leaving(_) | Left::Waiting | Left::NotServing => continue,
            };
            if self.said.insert(service, telling.clone()).as_ref() == Some(&telling) {
                continue;
            }
            let here = self.still_here(one);
            if !self.lines.send(&DrainLine::Waits(here)).await {
                return false;
            }
        }
        true
    }

    /// Tells of a move. `None` if the node stops.
    async fn say(&mut self, event: Event) -> Option<bool> {
        let line = match event {
            Event::MoveStarted(service, to, reason) => DrainLine::Moving {
                service: self.name(service),
                id: service.to_string(),
                to: self.host(to).await?,
                reason,
            },
            Event::MovedAway(service, to) => {
                self.moved += 1;
                let migration = last_attempt(&self.api, service, to).await.ok()?;
                DrainLine::Moved {
                    service: self.name(service),
                    id: service.to_string(),
                    to: self.host(to).await?,
                    bytes: migration.as_ref().map_or(0, |migration| migration.bytes),
                    downtime_ms: migration.and_then(|migration| migration.downtime_ms),
                }
            }
            Event::MoveFailed(service, to, reason) => {
                let (service, id) = (self.name(service), service.to_string());
                DrainLine::Refused { service, id, to: self.host(to).await?, reason: in_words(&reason) }
            }
            _ => return Some(true),
        };
        Some(self.lines.send(&line).await)
    }

    async fn host(&self, host: HostId) -> Option<String> {
        self.api.ask(move |machine, now| machine.host_name(now, host)).await.ok()
    }
}

/// A reason without its numbers, which change all the time.
fn kinds(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit()).collect()
}
