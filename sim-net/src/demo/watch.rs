//! What people see while the demo runs: a line a second, and a few for each migration.

use std::{fmt::Write as _, time::Instant};

use anyhow::Context as _;
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};
use wayfare_node::gateway::GatewayHandle;
use wayfare_protocol::{host::Event, ids::HostId, migration::messages::Lookup};

use super::{DemoOptions, SERVICE};
use crate::{
    client::Live,
    journey::Itinerary,
    layout::Layout,
    matrix::LatencyMatrix,
    mesh::{Member, migrations},
    moves::Move,
};

/// Events of all nodes that wait to be printed.
const EVENTS_MAX: usize = 256;

/// The provider of the cloud on this row. Two rows may have one label, two providers may not.
pub(super) fn cloud_name(matrix: &LatencyMatrix, row: usize) -> String {
    let label: String =
        matrix.name(row).chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    if label.is_empty() || label == format!("row-{row}") {
        format!("cloud-{row}")
    } else {
        format!("cloud-{row}-{label}")
    }
}

/// Where progress is printed, if anywhere: stderr, so that stdout is the result's.
pub(super) struct View {
    quiet: bool,
    begun: Instant,
}

impl View {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, begun: Instant::now() }
    }

    fn print(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// A line with the time since the start.
    pub(super) fn note(&self, text: &str) {
        self.print(&format!("{:7.2} s  {text}", self.begun.elapsed().as_secs_f64()));
    }

    pub(super) fn header(&self, matrix: &LatencyMatrix, layout: &Layout, itinerary: &Itinerary, options: &DemoOptions) {
        let names = |rows: &[usize]| rows.iter().map(|row| matrix.name(*row).to_owned()).collect::<Vec<_>>().join(", ");
        self.print(&format!(
            "Wayfare: a service follows its user. {} rows of {}; real nodes, real TCP, emulated distance.",
            matrix.rows(),
            matrix.file(),
        ));
        self.print(&format!("  clouds   on {}", names(&layout.cloud_rows)));
        self.print(&format!("  registry on {}, home on {}", matrix.name(layout.registry), matrix.name(layout.home)));
        let mut path = String::new();
        for stop in itinerary.stops() {
            let far = matrix.rtt_us(stop.row, layout.home).map_or(f64::NAN, |rtt| f64::from(rtt) / 1e3);
            let _ = write!(
                path,
                "{}{} ({far:.0} ms from home)",
                if path.is_empty() { "" } else { " → " },
                matrix.name(stop.row)
            );
        }
        self.print(&format!(
            "  the user goes {path}, {:.0} s each, {} requests a second",
            options.dwell.as_secs_f64(),
            options.rate
        ));
    }
}

/// Prints what happens until it is dropped.
pub(super) async fn follow(
    view: &View,
    members: &[Member],
    gateway: Option<GatewayHandle>,
    mut live: watch::Receiver<Live>,
    mut places: watch::Receiver<usize>,
) -> anyhow::Result<()> {
    let gateway = gateway.context("the user has a gateway")?;
    let mut events = all_events(members).await?;
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    ticks.tick().await;
    let mut shown = 0;
    loop {
        tokio::select! {
            biased;
            Some((name, event)) = events.recv() => {
                if let Event::MovedAway(..) | Event::Serving(..) | Event::MoveFailed(..) = event {
                    shown = print_moves(view, members, shown).await?;
                }
                print_event(view, members, &name, &event);
            }
            Ok(()) = places.changed() => {
                let row = *places.borrow_and_update();
                view.note(&format!("the user is now on row {row}"));
            }
            _ = ticks.tick() => {
                let live = live.borrow_and_update().clone();
                let service = placement(&gateway, members).await;
                let second = &live.last_second;
                view.note(&format!(
                    "service on {service}; {} sent, {} answered, {} failed, {} waiting; last second p50 {} ms",
                    live.sent, live.ok, live.failed, live.in_flight,
                    format_args!("{:.1}", second.p50_ms),
                ));
            }
        }
    }
}

async fn all_events(members: &[Member]) -> anyhow::Result<mpsc::Receiver<(String, Event)>> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    for member in members {
        let mut events = member.host()?.events().await.context("a node is stopping")?;
        let (sender, name) = (sender.clone(), member.name.clone());
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if sender.send((name.clone(), event)).await.is_err() {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }
    Ok(receiver)
}

fn name_of(members: &[Member], host: HostId) -> String {
    let known = members.iter().find(|member| member.host_id() == host);
    known.map_or_else(|| format!("{host:#}"), |member| member.name.clone())
}

fn print_event(view: &View, members: &[Member], at: &str, event: &Event) {
    match event {
        Event::MoveStarted(_, to, reason) => {
            view.note(&format!("{at}: moving the service to {} ({reason})", name_of(members, *to)));
        }
        Event::MoveFailed(_, to, reason) => {
            view.note(&format!("{at}: not moved to {}: {reason}", name_of(members, *to)));
        }
        Event::Undecided(..) => view.note(&format!("{at}: frozen, waiting for the registry")),
        Event::LeaseEnded(_) => view.note(&format!("{at}: the lease ended, requests wait")),
        Event::Superseded(..) => view.note(&format!("{at}: superseded without consent")),
        Event::Broken(_, reason) => view.note(&format!("{at}: the instance cannot run: {reason}")),
        Event::NotSaved(_, reason) => view.note(&format!("{at}: no image could be saved: {reason}")),
        Event::Removed(..) => view.note(&format!("{at}: its owner removed the service")),
        Event::Ordered(_, action) => view.note(&format!("{at}: its owner ordered: {}", action.name())),
        Event::OrderRefused(_, action, reason) => {
            view.note(&format!("{at}: its owner's {} is refused: {reason}", action.name()));
        }
        Event::Lost(..) => view.note(&format!("{at}: a restart lost the service")),
        Event::Serving(..)
        | Event::Progress(..)
        | Event::MovedAway(..)
        | Event::AttemptEnded(..)
        | Event::DeployFailed(..)
        | Event::Restoring(..)
        | Event::Restored(..) => {}
    }
}

async fn print_moves(view: &View, members: &[Member], shown: usize) -> anyhow::Result<usize> {
    let moves: Vec<Move> = migrations(members).await?.into_iter().filter(Move::succeeded).collect();
    // The source may know of the move before the target has started the instance.
    let complete = moves.iter().take_while(|done| done.downtime_ms.is_some()).count();
    for done in moves.iter().take(complete).skip(shown) {
        let downtime = done.downtime_ms.unwrap_or_default();
        view.note(&format!(
            "moved from {} to {}: {} bytes, stopped for {downtime:.0} ms, {:.0} ms in all",
            done.from, done.to, done.bytes, done.total_ms,
        ));
        let begun = done.steps.iter().find(|step| step.step == 2).map_or(0, |step| step.t_us);
        let steps: Vec<String> = done
            .steps
            .iter()
            .filter(|step| step.step > 1)
            .map(|step| format!("{} {} +{:.0}", step.step, step.name, step.t_us.saturating_sub(begun) as f64 / 1e3))
            .collect();
        view.note(&format!("  steps, ms: {}", steps.join(", ")));
    }
    Ok(complete.max(shown))
}

/// Where the gateway believes the service to be, and how far that is.
async fn placement(gateway: &GatewayHandle, members: &[Member]) -> String {
    let found = gateway
        .with(|gateway, now| {
            let service = gateway.resolve(&Lookup::Name(SERVICE.to_owned()))?;
            let host = gateway.placement(service)?.host;
            Some((host, gateway.rtt(now, host)))
        })
        .await
        .flatten();
    match found {
        Some((host, Some(rtt))) => format!("{}, {:.0} ms away", name_of(members, host), rtt.as_millis_f64()),
        Some((host, None)) => name_of(members, host),
        None => "nowhere known".to_owned(),
    }
}
