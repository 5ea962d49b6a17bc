//! How long a migration of a tiny service takes on open connections over loopback, beside what the protocol demands; and
//! what an idle node takes of memory.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use tokio::sync::broadcast;
use wayfare_protocol::{
    host::Event, ids::ServiceId, manifest::Durability, migration::trace::step_name, placement::Policy, trust::Role,
};

use super::{
    Report, Row,
    floor::{COUNTS, Floor},
    quantile,
};
use crate::{
    mesh::{Joining, Member, Mesh, Records, migrations},
    moves::Move,
};

/// The service that moves: one page of memory, almost all of it zero.
const TINY: &[u8] = include_bytes!("../../../tests/guests/tiny/tiny.wasm");
/// Migrations before those that count.
const WARM_UP: usize = 10;
/// How often each primitive of the floor is timed.
const FLOOR_ROUNDS: usize = 301;
/// How long one migration may take.
const MOVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long adverts may take to arrive.
const MEET_TIMEOUT: Duration = Duration::from_secs(20);

/// Times `rounds` migrations to and fro between two clouds: from the decision to move until the service runs there.
///
/// # Errors
/// A node that does not start, or a migration that fails.
pub async fn run(rounds: usize, progress: bool) -> anyhow::Result<Report> {
    let mut report = Report::begin("handshake");
    let mesh = Mesh::start(None, 0, Records::Disk).await?;
    let names = [("home", Role::Home), ("alpha", Role::Cloud), ("beta", Role::Cloud)];
    let members = try_join_all(names.map(|(name, role)| {
        let mut joining = Joining::new(name, role, 0);
        joining.policy = Policy::Never;
        mesh.join(joining)
    }))
    .await?;
    let measured = measure(&mesh, &members, rounds, progress).await;
    let moves = migrations(&members).await;
    mesh.stop(members).await;
    let (mut times, before, after) = measured?;
    // Primitives are timed before and after: the machine may have been busier at one end.
    let floor = before.smaller(&after);
    for (name, at) in [("handshake.p50", 0.5), ("handshake.p99", 0.99)] {
        let value = quantile(&mut times, at).context("there were migrations")?;
        let row = Row::new(name, value, "us").param("rounds", rounds as u64).floor(floor.total_us());
        report.push(floor_params(row, &floor));
    }
    for row in step_rows(&moves?) {
        report.push(row);
    }
    for row in super::mesh::idle_rows().await? {
        report.push(row);
    }
    Ok(report.finish())
}

fn floor_params(row: Row, floor: &Floor) -> Row {
    row.param("floor.sign_us", floor.sign_us)
        .param("signatures", COUNTS.signatures)
        .param("floor.verify_us", floor.verify_us)
        .param("verifications", COUNTS.verifications)
        .param("floor.keygen_us", floor.keygen_us)
        .param("key_generations", COUNTS.key_generations)
        .param("floor.dh_us", floor.dh_us)
        .param("agreements", COUNTS.agreements)
        .param("floor.round_trip_us", floor.round_trip_us)
        .param("round_trips", COUNTS.round_trips)
        .param("floor.sync_us", floor.sync_us)
        .param("syncs", COUNTS.syncs)
}

async fn measure(
    mesh: &Mesh,
    members: &[Member],
    rounds: usize,
    progress: bool,
) -> anyhow::Result<(Vec<f64>, Floor, Floor)> {
    let [home, alpha, beta] = members else { bail!("three members") };
    for (from, to) in [(home, alpha), (alpha, beta), (beta, alpha)] {
        meet(from, to).await?;
    }
    let service = mesh.deploy(home, "tiny", TINY.to_vec(), Durability::Memory).await?;
    transfer(home, alpha, service).await?;
    let before = Floor::measure(mesh.dir(), &alpha.node.net, &beta.node.net, FLOOR_ROUNDS).await?;
    let mut times = Vec::with_capacity(rounds);
    let (mut from, mut to) = (alpha, beta);
    for round in 0..WARM_UP + rounds {
        let took = transfer(from, to, service).await?;
        if round >= WARM_UP {
            times.push(took.as_secs_f64() * 1e6);
        }
        if progress && round % 50 == 49 {
            eprintln!("  {} of {} migrations", round + 1, WARM_UP + rounds);
        }
        std::mem::swap(&mut from, &mut to);
    }
    let after = Floor::measure(mesh.dir(), &alpha.node.net, &beta.node.net, FLOOR_ROUNDS).await?;
    Ok((times, before, after))
}

/// Waits until `from` knows `to` by its advert.
pub(super) async fn meet(from: &Member, to: &Member) -> anyhow::Result<()> {
    let (host, wanted) = (from.host()?.clone(), to.host_id());
    let met = async {
        loop {
            let known = host.with(move |host, now, _| host.find_cloud(now, &wanted.to_string())).await.flatten();
            if known.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(MEET_TIMEOUT, met).await.with_context(|| format!("{} does not hear of {}", from.name, to.name))
}

/// One migration: from the decision until the target runs the service. It waits for the source to have let go, so that
/// the next one begins at rest.
pub(super) async fn transfer(from: &Member, to: &Member, service: ServiceId) -> anyhow::Result<Duration> {
    let (source, target, wanted) = (from.host()?, to.host()?, to.host_id());
    let mut left = source.events().await.context("the source is stopping")?;
    let mut arrived = target.events().await.context("the target is stopping")?;
    let begun = Instant::now();
    let started = source.with(move |host, now, rng| host.begin_move(now, service, wanted, "bench", rng)).await;
    started.context("the source is stopping")??;
    let running = next(&mut arrived, |event| matches!(event, Event::Serving(served, _) if *served == service));
    tokio::time::timeout(MOVE_TIMEOUT, running).await.context("the service does not arrive")??;
    let took = begun.elapsed();
    let gone = next(&mut left, |event| matches!(event, Event::MovedAway(moved, _) if *moved == service));
    tokio::time::timeout(MOVE_TIMEOUT, gone).await.context("the source does not let go")??;
    Ok(took)
}

async fn next(events: &mut broadcast::Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
    loop {
        let event = events.recv().await?;
        if let Event::MoveFailed(_, _, reason) = &event {
            bail!("a migration failed: {reason}");
        }
        if wanted(&event) {
            return Ok(());
        }
    }
}

/// When each step was done, from asking the Registry (step 2) on: the median over the migrations still remembered.
fn step_rows(moves: &[Move]) -> Vec<Row> {
    let mut at: BTreeMap<u8, Vec<f64>> = BTreeMap::new();
    for done in moves.iter().filter(|done| done.succeeded()).skip(1 + WARM_UP) {
        let begun = done.steps.iter().find(|step| step.step == 2).map_or(0, |step| step.t_us);
        for step in done.steps.iter().filter(|step| step.step > 2) {
            at.entry(step.step).or_default().push(step.t_us.saturating_sub(begun) as f64);
        }
    }
    let row = |(step, mut times): (u8, Vec<f64>)| {
        let median = quantile(&mut times, 0.5)?;
        Some(Row::new(format!("step.{step:02}"), median, "us").param("name", step_name(step)))
    };
    at.into_iter().filter_map(row).collect()
}
