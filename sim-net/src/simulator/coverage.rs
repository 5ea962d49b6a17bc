//! What was tried: how often which event met a machine in which state, and which fault befell it there.

use std::collections::BTreeMap;

use serde::Serialize;
use wayfare_protocol::reject::Guards;

use super::{node::Machine, world::World};

/// What befell an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    None,
    /// The machine crashed just behind it.
    Crash,
    /// The frame never came.
    Loss,
    /// The frame came again.
    Dup,
    /// The frame was held up, or lost, by a partition.
    Partition,
}

impl Fault {
    const ALL: [Self; 5] = [Self::None, Self::Crash, Self::Loss, Self::Dup, Self::Partition];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crash => "crash",
            Self::Loss => "loss",
            Self::Dup => "dup",
            Self::Partition => "partition",
        }
    }
}

/// A machine's state, as far as the table tells states apart: role and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State(pub(super) &'static str, pub(super) &'static str);

/// Counts, by state, event and fault.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<(State, &'static str), [u64; 5]>);

/// One row, as JSON has it.
#[derive(Clone, Debug, Serialize)]
pub struct CoverageRow {
    /// Whose state.
    pub role: &'static str,
    /// The state.
    pub state: &'static str,
    /// The message or timer that met it.
    pub event: &'static str,
    /// How often, undisturbed.
    pub none: u64,
    /// The machine crashed just behind it.
    pub crash: u64,
    /// The message never came.
    pub loss: u64,
    /// It came again.
    pub dup: u64,
    /// A partition held it up, or lost it.
    pub partition: u64,
    /// Why the empty cells are empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<String>,
}

impl Coverage {
    pub(super) fn count(&mut self, state: State, event: &'static str, fault: Fault) {
        self.0.entry((state, event)).or_default()[fault as usize] += 1;
    }

    /// Adds another run's counts.
    pub(super) fn add(&mut self, other: &Self) {
        for (key, counts) in &other.0 {
            let sums = self.0.entry(*key).or_default();
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    /// The table.
    pub fn rows(&self) -> Vec<CoverageRow> {
        let row = |((state, event), counts): (&(State, &'static str), &[u64; 5])| {
            let empty = Fault::ALL.into_iter().filter(|fault| counts[*fault as usize] == 0);
            let empty = empty.map(|fault| format!("{}: {}", fault.name(), why_empty(*state, event, fault))).collect();
            let [none, crash, loss, dup, partition] = *counts;
            CoverageRow { role: state.0, state: state.1, event, none, crash, loss, dup, partition, empty }
        };
        self.0.iter().map(row).collect()
    }
}

/// Why a cell can be empty.
fn why_empty(state: State, event: &str, fault: Fault) -> &'static str {
    let local = matches!(event, "timer" | "synced" | "task" | "file" | "opened" | "closed" | "asked" | "probe");
    match fault {
        Fault::Loss | Fault::Dup | Fault::Partition if local => "no message: it happens within the node",
        Fault::None if matches!(event, "crash" | "restart") => "it is itself a fault",
        Fault::Crash if event == "crash" => "counted under what came before it",
        _ if state.1 == "down" => "nobody is there",
        Fault::None => "reached under faults only",
        Fault::Crash | Fault::Loss | Fault::Dup | Fault::Partition => "rare: not met in these seeds",
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = ["role", "state", "event", "none", "crash", "loss", "dup", "partition"];
        writeln!(
            f,
            "{:<9}{:<14}{:<17}{:>10}{:>10}{:>10}{:>10}{:>10}",
            head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]
        )?;
        let mut notes: BTreeMap<String, u32> = BTreeMap::new();
        for row in self.rows() {
            let counts = [row.none, row.crash, row.loss, row.dup, row.partition];
            write!(f, "{:<9}{:<14}{:<17}", row.role, row.state, row.event)?;
            for count in counts {
                if count == 0 { write!(f, "{:>10}", "-")? } else { write!(f, "{count:>10}")? }
            }
            writeln!(f)?;
            for note in row.empty {
                *notes.entry(note).or_default() += 1;
            }
        }
        writeln!(f, "\nempty cells:")?;
        notes.iter().try_for_each(|(note, count)| writeln!(f, "{count:>6}  {note}"))
    }
}

impl<G: Guards> World<G> {
    /// Counts an event at a node, in the state it is in.
    pub(super) fn cover(&mut self, node: usize, event: &'static str, fault: Fault) {
        match &self.nodes[node].machine {
            Machine::Host(_) => {
                let [source, target] = self.nodes[node].phases;
                self.coverage.count(State("source", source), event, fault);
                self.coverage.count(State("target", target), event, fault);
            }
            Machine::Gateway(gateway) => {
                let state = if gateway.pending() > 0 { "waiting" } else { "idle" };
                self.coverage.count(State("gateway", state), event, fault);
            }
            Machine::Registry(_) => self.coverage.count(State("registry", "up"), event, fault),
            Machine::Down => {}
        }
    }

    /// Counts a frame, for the side of a host that it is for.
    pub(super) fn cover_frame(&mut self, node: usize, name: &'static str, fault: Fault) {
        if !matches!(self.nodes[node].machine, Machine::Host(_)) {
            self.cover(node, name, fault);
            return;
        }
        let [source, target] = self.nodes[node].phases;
        let for_source =
            !matches!(name, "Request" | "YesService" | "NoService" | "Transfer" | "Abandon" | "Begin" | "Record");
        let for_target = !matches!(
            name,
            "YesCloud"
                | "NoCloud"
                | "Response"
                | "TransferAck"
                | "RecordsAcked"
                | "Hello"
                | "Open"
                | "Call"
                | "LatencyReport"
                | "Advert"
                | "GossipPlacement"
        );
        if for_source {
            self.coverage.count(State("source", source), name, fault);
        }
        if for_target {
            self.coverage.count(State("target", target), name, fault);
        }
    }
}
