//! The scopes: each a small world with its own faults, searched completely.
//!
//! Whatever was sent may arrive at any time, any number of times, in any order, or never: that needs no bound. Bounded is
//! how often clocks run out, parties crash, streams break and operators act.

use serde::Serialize;
use wayfare_protocol::{
    limits::{LEASE, LEASE_MAX},
    time::Micros,
};

use super::message::Party;

/// Who the attacker is. It hears every message, and sends what it can make, as itself and in the Registry's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Attacker {
    /// A cloud that has stolen the current placement key.
    StolenKey,
    /// The service's former host, which has kept its old placement key.
    OldHost,
    /// The cloud that the service is to move to.
    Target,
}

impl Attacker {
    /// The party that the attacker owns.
    pub(super) const fn party(self) -> Party {
        match self {
            Self::OldHost => 1,
            Self::StolenKey | Self::Target => 4,
        }
    }
}

/// A scope. The service starts at alpha, party 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Scope {
    /// For the command line.
    pub(super) name: &'static str,
    /// What it is about.
    pub(super) about: &'static str,
    /// Whether it takes more than a minute.
    pub(super) large: bool,
    /// Honest clouds: alpha, beta, gamma.
    pub(super) clouds: u8,
    /// The attacker, if there is one.
    pub(super) attacker: Option<Attacker>,
    /// Whether the service has moved from alpha to beta before.
    pub(super) moved_before: bool,
    /// Where operators move it, one after the other: from, to.
    pub(super) ways: &'static [(Party, Party)],
    /// How many of these moves they begin, each at any moment.
    pub(super) moves: u8,
    /// How often a host's clock may reach what it waits for, in all.
    pub(super) timeouts: u8,
    /// How many parties may crash, in all. With crashes, disks are slow, and what is not synced is lost or not.
    pub(super) crashes: u8,
    /// How often a stream between two clouds may break, in all.
    pub(super) losses: u8,
    /// The client's requests, one after the other.
    pub(super) requests: u8,
    /// How often one of them may arrive, anywhere, in all: a frozen service would queue any number.
    pub(super) calls: u8,
    /// The cloud that may be revoked, at any moment.
    pub(super) revoked: Option<Party>,
    /// How often ten seconds may pass for everybody.
    pub(super) passes: u8,
    /// How long a lease is.
    #[serde(skip)]
    pub(super) lease: Micros,
}

const ONE_WAY: &[(Party, Party)] = &[(1, 2)];
/// Longer than anything else here takes: renewals do not disturb.
const LONG: Micros = LEASE_MAX;

const PLAIN: Scope = Scope {
    name: "plain",
    about: "one move, and messages in any order",
    large: false,
    clouds: 2,
    attacker: None,
    moved_before: false,
    ways: ONE_WAY,
    moves: 1,
    timeouts: 0,
    crashes: 0,
    losses: 0,
    requests: 0,
    calls: 0,
    revoked: None,
    passes: 0,
    lease: LONG,
};

/// All scopes. The small ones take some seconds each.
pub(super) const SCOPES: &[Scope] = &[
    PLAIN,
    CHAOS,
    RIVALS,
    RETURN,
    CRASHES,
    CLIENTS,
    Scope { name: "revoked", about: "a target is revoked at any moment", timeouts: 4, revoked: Some(2), ..PLAIN },
    CURRENT_KEY,
    OLD_KEY,
    ROGUE_TARGET,
    LEASE_SCOPE,
    Scope { name: "chaos-large", large: true, timeouts: 10, losses: 4, ..CHAOS },
    Scope { name: "rivals-large", large: true, timeouts: 5, ..RIVALS },
    Scope { name: "return-large", large: true, timeouts: 3, ..RETURN },
    Scope { name: "current-key-large", large: true, timeouts: 6, ..CURRENT_KEY },
    Scope { name: "old-key-large", large: true, timeouts: 6, ..OLD_KEY },
];

const CHAOS: Scope = Scope {
    name: "chaos",
    about: "one move: messages lost, doubled, reordered and replayed; impatient parties, broken streams",
    timeouts: 6,
    losses: 2,
    ..PLAIN
};

const RIVALS: Scope = Scope {
    name: "rivals",
    about: "two attempts, to two rival targets",
    clouds: 3,
    ways: &[(1, 2), (1, 3)],
    moves: 2,
    timeouts: 3,
    ..PLAIN
};

const RETURN: Scope = Scope {
    name: "return",
    about: "the service comes back while its first host still waits for an old answer",
    ways: &[(1, 2), (2, 1)],
    moves: 2,
    timeouts: 2,
    ..PLAIN
};

const CRASHES: Scope =
    Scope { name: "crashes", about: "one move, slow disks, a crash of anybody at any moment", crashes: 1, ..PLAIN };

const CLIENTS: Scope = Scope {
    name: "clients",
    about: "two requests arrive anywhere, again and again, while the service moves and hosts crash",
    crashes: 1,
    requests: 2,
    calls: 3,
    ..PLAIN
};

const CURRENT_KEY: Scope = Scope {
    name: "current-key",
    about: "an enrolled cloud has stolen the current placement key",
    attacker: Some(Attacker::StolenKey),
    timeouts: 3,
    ..PLAIN
};

const OLD_KEY: Scope = Scope {
    name: "old-key",
    about: "the former host has kept the old placement key and its own",
    clouds: 3,
    attacker: Some(Attacker::OldHost),
    moved_before: true,
    ways: &[(2, 3)],
    timeouts: 3,
    ..PLAIN
};

const ROGUE_TARGET: Scope = Scope {
    name: "rogue-target",
    about: "the target is the attacker: it takes only what was consented to",
    clouds: 1,
    attacker: Some(Attacker::Target),
    ways: &[(1, 4), (1, 4)],
    moves: 2,
    timeouts: 3,
    ..PLAIN
};

const LEASE_SCOPE: Scope = Scope {
    name: "lease",
    about: "time passes: who serves does so under a lease that the Registry counts",
    clouds: 1,
    moves: 0,
    passes: 5,
    lease: LEASE,
    ..PLAIN
};

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Moves,
    Timeouts,
    Crashes,
    Losses,
    Requests,
    Calls,
    Passes,
}

impl Bound {
    /// Every bound.
    pub(super) const ALL: [Self; 7] =
        [Self::Moves, Self::Timeouts, Self::Crashes, Self::Losses, Self::Requests, Self::Calls, Self::Passes];

    /// For the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Moves => "moves",
            Self::Timeouts => "timeouts",
            Self::Crashes => "crashes",
            Self::Losses => "losses",
            Self::Requests => "requests",
            Self::Calls => "calls",
            Self::Passes => "passes",
        }
    }
}

impl Scope {
    /// The scope with other bounds.
    pub(super) fn bounded(mut self, bounds: &[(Bound, u8)]) -> Self {
        for (bound, number) in bounds {
            match bound {
                Bound::Moves => self.moves = *number,
                Bound::Timeouts => self.timeouts = *number,
                Bound::Crashes => self.crashes = *number,
                Bound::Losses => self.losses = *number,
                Bound::Requests => self.requests = *number,
                Bound::Calls => self.calls = *number,
                Bound::Passes => self.passes = *number,
            }
        }
        self
    }

    /// The scope of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        SCOPES.iter().find(|scope| scope.name == name).copied()
    }

    /// The bounds, for people.
    pub(super) fn bounds(&self) -> String {
        let numbers = [
            (self.moves, "moves"),
            (self.timeouts, "timeouts"),
            (self.crashes, "crashes"),
            (self.losses, "broken streams"),
            (self.requests, "requests"),
            (self.calls, "arrivals of them"),
            (self.passes, "times ten seconds"),
        ];
        let numbers = numbers.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
        let clouds = std::iter::once(format!("{} honest clouds", self.clouds));
        let attacker = self.attacker.map(|_| "an attacker".to_owned());
        clouds.chain(attacker).chain(numbers).collect::<Vec<_>>().join(", ")
    }

    /// The clouds, the attacker's included.
    pub(super) fn parties(&self) -> impl Iterator<Item = Party> + use<> {
        let rogue = self.attacker.map(Attacker::party).filter(|party| *party > self.clouds);
        (1..=self.clouds).chain(rogue)
    }
}
