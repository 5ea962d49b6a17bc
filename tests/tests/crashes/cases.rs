//! Who fails, when, and how: the table, and every case of it.

use std::fmt;

use wayfare_tests::failpoint::{Action, Moment, Point};

/// The process that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    /// The host that the service leaves, or is on.
    Source,
    /// The host that it goes to.
    Target,
    /// The Registry.
    Registry,
    /// The gateway of the clients.
    Gateway,
    /// The host on which a new service starts.
    Home,
}

impl Victim {
    pub(crate) const ALL: [Self; 5] = [Self::Source, Self::Target, Self::Registry, Self::Gateway, Self::Home];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Registry => "registry",
            Self::Gateway => "gateway",
            Self::Home => "home",
        }
    }
}

/// What goes on when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Clients are served, nothing moves.
    Serving,
    /// The service moves.
    Move,
    /// The service moves, with so much state that the target acknowledges a part before the end.
    LargeMove,
    /// The target dies before it has answered (7): the source gives the move up.
    TargetDies,
    /// The source dies as it begins to send its state: the target gives up.
    SourceDies,
    /// The target dies when it holds the state and has told nobody: the source asks for its service back.
    Reclaimed,
    /// As before; then the target returns, and learns that it came too late.
    TargetReturns,
    /// The target dies when it has made the new key; it returns, and knows that nothing will come of it.
    TargetForgets,
    /// The source dies with its consent on disk, and returns when the service has moved.
    SourceReturns,
    /// The gateway dies and returns.
    GatewayReturns,
    /// The host of the service dies and returns.
    HostReturns,
    /// The Registry dies and returns.
    RegistryReturns,
    /// A new service is deployed.
    Deploy,
    /// The owner stops the service, and starts it again.
    Orders,
    /// A new service is deployed, and removed.
    Removal,
    /// The owner updates the service to other code, which takes its state over.
    Update,
    /// The host of the service is drained, and stays.
    Drain,
}

impl Scene {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Move => "move",
            Self::LargeMove => "move of megabytes",
            Self::TargetDies => "move whose target dies",
            Self::SourceDies => "move whose source dies",
            Self::Reclaimed => "move that is reclaimed",
            Self::TargetReturns => "return of a target that was too late",
            Self::TargetForgets => "return of a target that held nothing",
            Self::SourceReturns => "return of a source that consented",
            Self::GatewayReturns => "return of a gateway",
            Self::HostReturns => "return of a host",
            Self::RegistryReturns => "return of a registry",
            Self::Deploy => "deployment",
            Self::Orders => "stop and start",
            Self::Removal => "removal",
            Self::Update => "update",
            Self::Drain => "drain",
        }
    }
}

/// A message that somebody sends in a scene, or an entry that he journals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Message(&'static str),
    Entry(&'static str),
}

use What::{Entry, Message};

/// A step of the protocol, as one party takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) victim: Victim,
    pub(crate) scene: Scene,
    /// Its number in the protocol, or its name there.
    pub(crate) number: &'static str,
    pub(crate) what: What,
}

const fn step(victim: Victim, scene: Scene, number: &'static str, what: What) -> Step {
    Step { victim, scene, number, what }
}

/// Every step at which a party can fail.
pub(crate) const STEPS: &[Step] = &[
    // The host of the service, while it serves.
    step(Victim::Source, Scene::Serving, "RENEW", Message("Renew")),
    step(Victim::Source, Scene::Serving, "log", Entry("Executed")),
    step(Victim::Source, Scene::Serving, "reply", Message("Reply")),
    step(Victim::Source, Scene::GatewayReturns, "session", Message("Opened")),
    step(Victim::Source, Scene::HostReturns, "RENEW", Message("Renew")),
    // The source of a move.
    step(Victim::Source, Scene::Move, "2", Message("VerifyCloud")),
    step(Victim::Source, Scene::Move, "4", Message("Request")),
    step(Victim::Source, Scene::Move, "8, records", Message("Records")),
    step(Victim::Source, Scene::Move, "8, consent", Entry("Consented")),
    step(Victim::Source, Scene::Move, "8, consent", Message("Transfer")),
    step(Victim::Source, Scene::Move, "12", Entry("Released")),
    step(Victim::Source, Scene::Move, "12", Message("Released")),
    step(Victim::Source, Scene::Move, "MOVED", Message("Moved")),
    step(Victim::Source, Scene::TargetDies, "CANCEL", Message("Cancel")),
    step(Victim::Source, Scene::TargetDies, "abandon", Message("Abandon")),
    step(Victim::Source, Scene::Reclaimed, "RECLAIM", Message("Reclaim")),
    step(Victim::Source, Scene::Reclaimed, "ABORTED", Entry("Aborted")),
    step(Victim::Source, Scene::SourceReturns, "RECLAIM", Message("Reclaim")),
    step(Victim::Source, Scene::SourceReturns, "12", Entry("Released")),
    step(Victim::Source, Scene::Drain, "cordon", Entry("Cordoned")),
    // The target of a move.
    step(Victim::Target, Scene::Move, "5", Entry("KeyMade")),
    step(Victim::Target, Scene::Move, "5", Message("VerifyService")),
    step(Victim::Target, Scene::Move, "7", Message("Response")),
    step(Victim::Target, Scene::LargeMove, "8, records", Message("RecordsAcked")),
    step(Victim::Target, Scene::Move, "9 and 10", Entry("Held")),
    step(Victim::Target, Scene::Move, "9", Message("TransferAck")),
    step(Victim::Target, Scene::Move, "10", Message("Complete")),
    step(Victim::Target, Scene::Move, "11", Entry("Placed")),
    step(Victim::Target, Scene::SourceDies, "refusal", Message("Refused")),
    step(Victim::Target, Scene::SourceDies, "refusal", Entry("Dropped")),
    step(Victim::Target, Scene::TargetReturns, "10, again", Message("Complete")),
    step(Victim::Target, Scene::TargetReturns, "ABORTED", Entry("Aborted")),
    step(Victim::Target, Scene::TargetForgets, "5, given up", Entry("Dropped")),
    // The Registry.
    step(Victim::Registry, Scene::Serving, "LEASE", Message("Lease")),
    step(Victim::Registry, Scene::Move, "3", Entry("Allowed")),
    step(Victim::Registry, Scene::Move, "3", Message("YesCloud")),
    step(Victim::Registry, Scene::Move, "6", Entry("Pinned")),
    step(Victim::Registry, Scene::Move, "6", Message("YesService")),
    step(Victim::Registry, Scene::Move, "11", Entry("Placed")),
    step(Victim::Registry, Scene::Move, "11", Message("Placement")),
    step(Victim::Registry, Scene::Move, "12", Entry("Released")),
    step(Victim::Registry, Scene::TargetDies, "ABORTED, to CANCEL", Entry("Aborted")),
    step(Victim::Registry, Scene::TargetDies, "ABORTED, to CANCEL", Message("Aborted")),
    step(Victim::Registry, Scene::Reclaimed, "ABORTED, to RECLAIM", Entry("Aborted")),
    step(Victim::Registry, Scene::Reclaimed, "ABORTED, to RECLAIM", Message("Aborted")),
    step(Victim::Registry, Scene::TargetReturns, "OUTCOME aborted", Message("Outcome")),
    step(Victim::Registry, Scene::SourceReturns, "OUTCOME won", Message("Outcome")),
    step(Victim::Registry, Scene::GatewayReturns, "lookup", Message("Found")),
    step(Victim::Registry, Scene::RegistryReturns, "LEASE", Message("Lease")),
    step(Victim::Registry, Scene::Deploy, "REGISTER", Entry("Registered")),
    // The gateway.
    step(Victim::Gateway, Scene::Serving, "call", Message("Call")),
    step(Victim::Gateway, Scene::Serving, "key", Entry("Keyed")),
    step(Victim::Gateway, Scene::Serving, "answer", Entry("Answered")),
    step(Victim::Gateway, Scene::Serving, "answer", Message("Answer")),
    step(Victim::Gateway, Scene::Serving, "report", Message("LatencyReport")),
    step(Victim::Gateway, Scene::Move, "11", Entry("Seen")),
    step(Victim::Gateway, Scene::Move, "session", Message("Open")),
    step(Victim::Gateway, Scene::HostReturns, "session", Message("Hello")),
    step(Victim::Gateway, Scene::GatewayReturns, "lookup", Message("Lookup")),
    step(Victim::Gateway, Scene::GatewayReturns, "session", Message("Hello")),
    step(Victim::Gateway, Scene::GatewayReturns, "numbers", Entry("Reserved")),
    // The home of a new service.
    step(Victim::Home, Scene::Deploy, "REGISTER", Entry("Registering")),
    step(Victim::Home, Scene::Deploy, "REGISTER", Message("Register")),
    step(Victim::Home, Scene::Deploy, "11", Entry("Placed")),
    step(Victim::Home, Scene::Deploy, "start", Entry("Started")),
    // Owners' orders.
    step(Victim::Registry, Scene::Orders, "ORDER", Entry("Ordered")),
    step(Victim::Registry, Scene::Orders, "ORDER", Message("Order")),
    step(Victim::Registry, Scene::Orders, "ORDER, its state", Message("OrderState")),
    step(Victim::Source, Scene::Orders, "ORDER_DONE", Entry("Ordered")),
    step(Victim::Source, Scene::Orders, "ORDER_DONE", Message("OrderDone")),
    step(Victim::Registry, Scene::Orders, "ORDER_DONE", Entry("CarriedOut")),
    step(Victim::Registry, Scene::Removal, "REMOVE", Entry("Removed")),
    step(Victim::Registry, Scene::Removal, "tombstone", Message("Removed")),
    step(Victim::Home, Scene::Removal, "ORDER_DONE of a removal", Entry("Removed")),
    step(Victim::Home, Scene::Removal, "ORDER_DONE of a removal", Message("OrderDone")),
    step(Victim::Source, Scene::Update, "module of an update", Message("Module")),
    step(Victim::Registry, Scene::Update, "ORDER of an update", Message("Order")),
    step(Victim::Source, Scene::Update, "ORDER_DONE of an update", Entry("Updated")),
    step(Victim::Source, Scene::Update, "ORDER_DONE of an update", Message("OrderDone")),
    step(Victim::Registry, Scene::Update, "ORDER_DONE of an update", Entry("CarriedOut")),
];

/// Steps that are not in the table, and why.
pub(crate) const LEFT_OUT: &[(&str, &str)] = &[
    ("1 (advertisement)", "gossip: it promises nothing, is journaled nowhere and is repeated every few seconds"),
    (
        "3 or 6, NO",
        "nothing is decided by it: the registry journals no migration, and the hosts give up as after a timeout",
    ),
    ("superseded without consent", "no honest host can be: the attack tests provoke it"),
    ("home as a target", "a home takes no services"),
    ("images and compaction", "no step of the protocol waits for them: the node's own tests end it there"),
    ("a registry restored from a backup", "its tests have a window of half a minute to wait for"),
];

/// One way to fail at one step.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) step: Step,
    pub(crate) point: Point,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { victim, scene, number, .. } = self.step;
        write!(f, "{} {} ({number}, {})", victim.name(), self.point, scene.name())
    }
}

/// All of them, in an order that has every kind of case in each part of it.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for step in STEPS {
        let (name, moments) = match step.what {
            Message(name) => (name, &[Moment::BeforeSend, Moment::AfterSend][..]),
            Entry(name) => (name, &[Moment::AfterSync][..]),
        };
        for &moment in moments {
            for action in Action::ALL {
                cases.push(Case { step: *step, point: Point { moment, name: name.to_owned(), action } });
            }
        }
    }
    cases
}

/// The few that every `cargo test` runs.
const FEW: [(Victim, Scene, &str); 13] = [
    (Victim::Source, Scene::Serving, "after_sync:Executed:kill"),
    (Victim::Source, Scene::Move, "after_sync:Consented:kill"),
    (Victim::Source, Scene::Reclaimed, "before_send:Reclaim:hang"),
    (Victim::Target, Scene::Move, "after_sync:Held:kill"),
    (Victim::Target, Scene::Move, "after_sync:Placed:kill"),
    (Victim::Target, Scene::Move, "before_send:TransferAck:cut"),
    (Victim::Registry, Scene::Move, "after_sync:Placed:kill"),
    (Victim::Registry, Scene::Serving, "before_send:Lease:hang"),
    (Victim::Gateway, Scene::Serving, "before_send:Answer:kill"),
    (Victim::Home, Scene::Deploy, "after_sync:Registering:kill"),
    (Victim::Source, Scene::Orders, "after_sync:Ordered:kill"),
    (Victim::Home, Scene::Removal, "after_sync:Removed:kill"),
    (Victim::Source, Scene::Update, "after_sync:Updated:kill"),
];

fn is_one_of_the_few(case: &Case) -> bool {
    let is = |(victim, scene, point): &(Victim, Scene, &str)| {
        *victim == case.step.victim && *scene == case.step.scene && case.point.to_string() == *point
    };
    FEW.iter().any(is)
}

/// The cases to run, and what to call them. `share` is `all`, `quarter` (which one, the day says), `few`, or a part of the name
/// of those wanted.
pub(crate) fn share(share: &str, day: u64) -> (String, Vec<Case>) {
    let (all, quarter) = (all(), day % 4);
    let total = all.len();
    let (name, chosen): (_, Vec<Case>) = match share {
        "all" => ("all".to_owned(), all),
        "quarter" => {
            let mine = |(index, case)| (index as u64 % 4 == quarter).then_some(case);
            (
                format!("quarter {} of 4, by day {day}", quarter + 1),
                all.into_iter().enumerate().filter_map(mine).collect(),
            )
        }
        "few" => ("the few of every run".to_owned(), all.into_iter().filter(is_one_of_the_few).collect()),
        text => {
            (format!("those with `{text}`"), all.into_iter().filter(|case| case.to_string().contains(text)).collect())
        }
    };
    (format!("{name}: {} of {total} cases", chosen.len()), chosen)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn four_days_run_every_case_once_and_every_day_every_kind() {
        let mut seen = BTreeSet::new();
        for day in 20_000..20_004 {
            let (_, cases) = share("quarter", day);
            for victim in Victim::ALL {
                for action in Action::ALL {
                    let wanted = |case: &&Case| case.step.victim == victim && case.point.action == action;
                    assert!(cases.iter().any(|case| wanted(&case)), "{day}: {} {}", victim.name(), action.name());
                }
            }
            seen.extend(cases.iter().map(ToString::to_string));
        }
        assert_eq!(seen.len(), all().len());
        assert_eq!(share("few", 0).1.len(), FEW.len());
    }
}
