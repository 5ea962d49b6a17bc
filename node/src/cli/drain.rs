//! `drain`: a line for each thing that happens, and what is left if not everything could leave.

use super::{
    Context, Failure, args,
    table::{bytes, millis},
};
use crate::api::shapes::{DrainLine, DrainRequest, Drained, StillHere};

pub(super) async fn drain(context: &Context, args: args::Drain) -> Result<(), Failure> {
    let request = DrainRequest { timeout_s: args.timeout, stay: args.stay };
    let mut lines = context.client().post_lines(&["drain"], &request).await?;
    while let Some(line) = lines.next::<DrainLine>().await? {
        context.print_line(&line, describe)?;
        if let DrainLine::Ended(drained) = line {
            return if drained.drained { Ok(()) } else { Err(failure(&drained)) };
        }
    }
    Err(Failure::other(
        "the node stopped before it was empty: its log says why\n  start it again and drain it again: it is cordoned",
    ))
}

fn describe(line: &DrainLine) -> String {
    match line {
        DrainLine::Started { services: 0 } => "This node has no services.\n".to_owned(),
        DrainLine::Started { services } => format!("This node takes no more services; {services} to move away.\n"),
        DrainLine::Moving { service, to, .. } => format!("  {service} -> {to}\n"),
        DrainLine::Moved { service, to, bytes: size, downtime_ms, .. } => {
            format!("  {service} is on {to}: {} of state, down for {}\n", bytes(*size), millis(*downtime_ms))
        }
        DrainLine::Refused { service, to, reason, .. } => format!("  {service} did not go to {to}: {reason}\n"),
        DrainLine::Waits(StillHere { service, reason, what_to_do, .. }) => {
            format!("  {service} waits: {reason}\n    {what_to_do}\n")
        }
        DrainLine::Ended(drained) => ended(drained),
    }
}

fn ended(drained: &Drained) -> String {
    let Drained { drained, leaves, moved, seconds, .. } = drained;
    let services = if *moved == 1 { "service" } else { "services" };
    match (drained, leaves) {
        (true, true) => {
            format!("Empty: {moved} {services} moved in {seconds:.1} s. The node leaves the mesh and stops.\n")
        }
        (true, false) => format!(
            "Empty: {moved} {services} moved in {seconds:.1} s. The node stays up, cordoned: `wayfare uncordon` ends that.\n"
        ),
        (false, _) => String::new(),
    }
}

fn failure(drained: &Drained) -> Failure {
    let left = drained.left.len();
    let services = if left == 1 { "service is" } else { "services are" };
    let why = drained.why.as_deref().unwrap_or("it was given up");
    let mut text = format!("not drained: {why}; {left} {services} still here, served as before");
    for StillHere { service, reason, what_to_do, .. } in &drained.left {
        text.push_str(&format!("\n  {service}: {reason}\n    {what_to_do}"));
    }
    text.push_str("\n  the node stays up and cordoned: drain it again, or `wayfare uncordon` it");
    Failure::other(text)
}
