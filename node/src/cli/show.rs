//! What a running node says, and the commands that tell it something small.

use std::time::Duration;

use wayfare_protocol::{migration::trace::step_name, reject::Reject};

use super::{
    Context, Failure, args, out,
    table::{ago, bytes, millis, or_dash, short, table},
    why::decision,
};
use crate::{
    api::shapes::{Cloud, Cordoned, Counters, Logs, Migration, MoveRequest, Moved, Outcome, Rtt, Service, Side},
    clock::now,
};

/// How often a log is looked at again.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn clouds(context: &Context) -> Result<(), Failure> {
    let clouds: Vec<Cloud> = context.client().get(&["clouds"], "").await?;
    context.print(&clouds, |clouds| {
        if clouds.is_empty() {
            return "No cloud advertises to this node (yet).\n".to_owned();
        }
        let row = |cloud: &Cloud| {
            vec![
                cloud.name.clone(),
                short(&cloud.host),
                if cloud.region.is_empty() { "-".to_owned() } else { cloud.region.clone() },
                format!("{:.1}", f64::from(cloud.resources.cpu_millicores) / 1000.0),
                bytes(cloud.resources.memory_bytes),
                if cloud.cordoned { "cordoned" } else { "open" }.to_owned(),
                or_dash(cloud.addresses.first()),
            ]
        };
        let rows: Vec<_> = clouds.iter().map(row).collect();
        table(&["cloud", "host", "region", "cores free>", "memory free>", "state", "address"], &rows)
    })
}

pub(super) async fn rejects(context: &Context) -> Result<(), Failure> {
    let counters: Counters = context.client().get(&["rejects"], "").await?;
    context.print(&counters, |counters| {
        let text = |name: &str| {
            let known = Reject::ALL.iter().find(|reject| reject.name() == name);
            known.map_or_else(String::new, |reject| reject.text().to_owned())
        };
        let protocol = counters.rejects.iter().map(|(name, count)| (name, count, text(name)));
        let mesh =
            counters.net.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name, count, String::new()));
        let row = |(name, count, text): (&String, &u64, String)| vec![name.clone(), count.to_string(), text];
        let rows: Vec<_> = protocol.chain(mesh).map(row).collect();
        if rows.is_empty() {
            return "Nothing was refused or dropped.\n".to_owned();
        }
        let others = counters.incompatible.iter().map(|peer| format!("\n{}", peer.text));
        table(&["reason", "count>", "what it means"], &rows) + &others.map(|line| line + "\n").collect::<String>()
    })
}

pub(super) async fn services(context: &Context) -> Result<(), Failure> {
    let services: Vec<Service> = context.client().get(&["services"], "").await?;
    context.print(&services, |services| {
        if services.is_empty() {
            return "No service is on this node.\n".to_owned();
        }
        let at_gateway = services.iter().any(|service| service.listen.is_some());
        let row = |service: &Service| {
            let mut row = vec![
                service.name.clone(),
                service.id.as_deref().map_or_else(|| "-".to_owned(), short),
                or_dash(service.epoch.as_ref()),
                service.state.clone(),
                or_dash(service.cloud.as_ref()),
            ];
            if at_gateway {
                row.push(or_dash(service.listen.as_ref().map(|listen| format!("http://{listen}"))));
            } else {
                row.push(service.lease_s.map_or_else(|| "-".to_owned(), |lease| format!("{lease:.0} s")));
                row.push(or_dash(service.clients));
                row.push(or_dash(service.queued));
                row.push(or_dash(service.durability.as_ref()));
            }
            row
        };
        let rows: Vec<_> = services.iter().map(row).collect();
        if at_gateway {
            table(&["service", "id", "epoch", "state", "on", "reached at"], &rows)
        } else {
            let titles = ["service", "id", "epoch", "state", "on", "lease>", "clients>", "queued>", "durability"];
            table(&titles, &rows)
        }
    })
}

pub(super) async fn rtt(context: &Context) -> Result<(), Failure> {
    let rtts: Vec<Rtt> = context.client().get(&["rtt"], "").await?;
    context.print(&rtts, |rtts| {
        if rtts.is_empty() {
            return "No round trip was measured in the last five minutes: gateways measure while they carry a service, \
                    clouds measure each other.\n"
                .to_owned();
        }
        let row = |rtt: &Rtt| {
            vec![
                if rtt.service.is_empty() { "-".to_owned() } else { rtt.service.clone() },
                rtt.from.clone(),
                rtt.cloud.clone(),
                short(&rtt.host),
                millis(Some(rtt.rtt_ms)),
                rtt.age_s.map_or_else(|| "-".to_owned(), |age| format!("{age:.1} s")),
                or_dash(rtt.samples),
                or_dash(loss(rtt)),
                match (rtt.here, rtt.stale) {
                    (true, true) => "here, stale",
                    (true, false) => "here",
                    (false, true) => "stale",
                    (false, false) => "",
                }
                .to_owned(),
            ]
        };
        let rows: Vec<_> = rtts.iter().map(row).collect();
        table(&["service", "from", "to", "host", "round trip>", "age>", "samples>", "lost>", ""], &rows)
    })
}

/// Of the pings to a host, how many were lost.
fn loss(rtt: &Rtt) -> Option<String> {
    let (samples, lost) = (rtt.samples?, rtt.lost?);
    let all = samples.saturating_add(lost).max(1);
    Some(format!("{:.1} %", 100.0 * lost as f64 / all as f64))
}

pub(super) const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Moved => "moved",
        Outcome::Failed => "failed",
    }
}

pub(super) async fn migrations(context: &Context) -> Result<(), Failure> {
    let migrations: Vec<Migration> = context.client().get(&["migrations"], "").await?;
    context.print(&migrations, |migrations| {
        if migrations.is_empty() {
            return "This node has taken part in no migration since its start.\n".to_owned();
        }
        let now_us = now().wall.0;
        let row = |migration: &Migration| {
            vec![
                migration.id.as_deref().map_or_else(|| "-".to_owned(), short),
                migration.service.clone(),
                migration.from.clone(),
                migration.to.clone(),
                word(migration.outcome).to_owned(),
                ago(migration.steps.first().map(|step| step.at_us), now_us),
                bytes(migration.bytes),
                millis(migration.downtime_ms),
                migration.failure.clone().unwrap_or_else(|| migration.reason.clone()),
            ]
        };
        let rows: Vec<_> = migrations.iter().map(row).collect();
        table(&["id", "service", "from", "to", "outcome", "begun>", "state>", "downtime>", "reason"], &rows)
    })
}

pub(super) async fn trace(context: &Context, id: &str) -> Result<(), Failure> {
    let migration: Migration = context.client().get(&["migrations", id], "").await?;
    context.print(&migration, describe)
}

/// A migration, step by step.
fn describe(migration: &Migration) -> String {
    let Migration { service, from, to, steps, .. } = migration;
    let mut text = format!(
        "migration {}\n`{service}` from {from} to {to}: {}",
        or_dash(migration.id.as_ref()),
        word(migration.outcome)
    );
    if let Some(failure) = &migration.failure {
        text.push_str(&format!(" ({failure})"));
    }
    if migration.bytes > 0 {
        text.push_str(&format!(", {} of state", bytes(migration.bytes)));
    }
    if migration.downtime_ms.is_some() {
        text.push_str(&format!(", down for {}", millis(migration.downtime_ms)));
    }
    if !migration.reason.is_empty() {
        text.push_str(&format!("\nwhy: {}", migration.reason));
    }
    let (side, other) = match migration.side {
        Side::Source => ("source", to),
        Side::Target => ("target", from),
    };
    text.push_str(&format!("\nas the {side} saw it; times from its first message\n\n"));
    // The advert may have come long before.
    let messages = steps.iter().filter(|step| step.step > 1);
    let first = messages.map(|step| step.at_us).min().unwrap_or(0) as f64;
    let row = |number: u8| {
        let seen = steps.iter().find(|step| step.step == number);
        let (time, note) = match seen {
            Some(step) => (millis(Some((step.at_us as f64 - first) / 1e3)), String::new()),
            None if migration.outcome == Outcome::Moved => ("-".to_owned(), format!("seen by {other}")),
            None => ("-".to_owned(), "not reached, or not seen here".to_owned()),
        };
        vec![number.to_string(), step_name(number).to_owned(), time, note]
    };
    let rows: Vec<_> = (1..=12).map(row).collect();
    text + &table(&["step>", "name", "after>", ""], &rows)
}

pub(super) async fn move_service(context: &Context, args: args::Move) -> Result<(), Failure> {
    let request = MoveRequest { to: args.to, dry_run: args.dry_run, wait: !args.no_wait, timeout_s: args.timeout };
    let moved: Moved = context.client().post(&["services", &args.service, "move"], &request).await?;
    context.print(&moved, |moved| {
        let (service, from) = (&moved.service, &moved.from);
        let to = or_dash(moved.to.as_ref());
        match (moved.outcome, &moved.migration) {
            (None, _) => {
                let text = decision(&moved.explanation, &moved.explanation.changes());
                let asked = format!("\nasked for: `{service}` would move from {from} to {to}\n");
                if request.to.is_some() { text + &asked } else { text }
            }
            (Some(Outcome::Moved), Some(migration)) => format!(
                "`{service}` moved from {from} to {to}: {} of state, down for {}\n",
                bytes(migration.bytes),
                millis(migration.downtime_ms)
            ),
            (Some(outcome), _) => format!("`{service}` from {from} to {to}: {}\n", word(outcome)),
        }
    })
}

pub(super) async fn logs(context: &Context, service: &str, follow: bool) -> Result<(), Failure> {
    let (client, mut since) = (context.client(), 0);
    loop {
        let logs: Logs = client.get(&["services", service, "logs"], &format!("since={since}")).await?;
        if context.json && !follow {
            return context.print(&logs, |_| String::new());
        }
        for line in &logs.lines {
            let missed = line.number.saturating_sub(since);
            if missed > 0 && !context.json {
                out(&format!("({missed} lines are no longer kept)\n"))?;
            }
            since = line.number.saturating_add(1);
            let text = if context.json {
                serde_json::to_string(line).map_err(|error| Failure::other(error.to_string()))?
            } else {
                line.text.clone()
            };
            out(&(text + "\n"))?;
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

pub(super) async fn cordon(context: &Context, cordoned: bool) -> Result<(), Failure> {
    let path = if cordoned { "cordon" } else { "uncordon" };
    let now: Cordoned = context.client().post(&[path], &()).await?;
    context.print(&now, |now| {
        if now.cordoned { "This node takes no more services.\n" } else { "This node takes services.\n" }.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::shapes::Step;

    #[test]
    fn a_trace_names_all_twelve_steps_with_relative_times() {
        let step = |step: u8, at_us| Step { step, name: step_name(step).to_owned(), at_us };
        let migration = Migration {
            id: Some("5HqTn2abc".into()),
            service: "kv".into(),
            service_id: "x".into(),
            from: "home".into(),
            to: "delta".into(),
            from_host: "h".into(),
            to_host: "d".into(),
            side: Side::Source,
            reason: "sardis: 40 ms nearer".into(),
            outcome: Outcome::Moved,
            failure: None,
            bytes: 2048,
            downtime_ms: Some(12.5),
            steps: vec![step(1, 750_000), step(2, 1_000_000), step(3, 1_004_200), step(12, 1_090_000)],
        };
        let text = describe(&migration);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "`kv` from home to delta: moved, 2.0 KiB of state, down for 12.5 ms");
        assert_eq!(lines[5], "step  name                   after");
        assert_eq!(lines[6], "   1  advertisement      -250.0 ms");
        assert_eq!(lines[8], "   3  yes cloud             4.2 ms");
        assert_eq!(lines[10], "   5  verify service             -  seen by delta");
        assert_eq!(lines[17], "  12  released             90.0 ms");
    }
}
