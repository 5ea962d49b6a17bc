//! A scope as Stateright searches it: states, what can happen in each, what must hold in all.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use stateright::{Model, Property};

use super::{
    memo::{EnvelopeId, InputId, LedgerId, Memo, NodeId, Step},
    message::{Body, Envelope, Guest, Note, Party, REGISTRY},
    promises::{Ledger, Promise},
    world::{Beginning, World},
};

/// How often what is bounded may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) moves: u8,
    pub(super) timeouts: u8,
    pub(super) crashes: u8,
    pub(super) losses: u8,
    pub(super) passes: u8,
    pub(super) revokes: u8,
    pub(super) calls: u8,
}

/// A state: each party, all that was ever sent, the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) nodes: Vec<NodeId>,
    /// Sorted.
    pub(super) sent: Vec<EnvelopeId>,
    pub(super) ledger: LedgerId,
    pub(super) left: Left,
}

/// Something that happens, to one party or (time) to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Action {
    pub(super) party: Party,
    pub(super) input: InputId,
}

/// A scope's model.
#[derive(Debug)]
pub(super) struct Scoped {
    pub(super) memo: Memo,
    pub(super) first: State,
    /// The client's requests to each cloud.
    calls: Vec<(u64, EnvelopeId)>,
    /// Conditions from which everything ends well.
    pub(super) ends_well: Mutex<HashSet<(Vec<NodeId>, LedgerId)>>,
}

impl Scoped {
    pub(super) fn new(world: Arc<World>, beginning: Beginning) -> Self {
        let memo = Memo::new(world);
        let scope = memo.world.scope;
        let mut ledger = Ledger::default();
        for note in &beginning.notes {
            judge(&memo, &mut ledger, REGISTRY, note, &[]);
        }
        let mut sent: Vec<EnvelopeId> =
            beginning.sent.into_iter().map(|envelope| memo.intern_envelope(envelope)).collect();
        sent.sort_unstable();
        let left = Left {
            moves: scope.moves,
            timeouts: scope.timeouts,
            crashes: scope.crashes,
            losses: scope.losses,
            passes: scope.passes,
            revokes: u8::from(scope.revoked.is_some()),
            calls: scope.calls,
        };
        let nodes = beginning.nodes.into_iter().map(|node| memo.intern_node(node)).collect();
        let first = State { nodes, sent, ledger: memo.intern_ledger(ledger), left };
        let call = |(to, sequence): (Party, u64)| {
            let body = Body::Call { sequence, acked_below: sequence };
            (sequence, memo.intern_envelope(Envelope { from: to, to, body }))
        };
        let clouds = 1..=scope.clouds;
        let calls = clouds.flat_map(|to| (0..u64::from(scope.requests)).map(move |sequence| (to, sequence)));
        let calls = calls.map(call).collect();
        Self { memo, first, calls, ends_well: Mutex::default() }
    }

    /// Lets `input` happen to `party`. `None`: nothing changes.
    pub(super) fn happen(&self, state: &State, party: Party, input: InputId) -> Option<State> {
        let before = *state.nodes.get(usize::from(party))?;
        let Step { next, sent, notes } = self.memo.step(before, party, input)?;
        let mut state = state.clone();
        *state.nodes.get_mut(usize::from(party))? = next;
        send(&mut state.sent, &sent);
        if let InputId::Revoke(revoked) = input {
            let mut ledger = (*self.memo.ledger(state.ledger)).clone();
            ledger.revoke(revoked);
            state.ledger = self.memo.intern_ledger(ledger);
        }
        state.ledger = self.noted(&state, party, &notes);
        Some(state)
    }

    /// The ledger of `state` with these notes.
    fn noted(&self, state: &State, party: Party, notes: &[Note]) -> LedgerId {
        if notes.is_empty() {
            return state.ledger;
        }
        let deletes = notes.iter().any(|note| matches!(note, Note::Discarded { .. }));
        let copies = if deletes { self.copies(state) } else { Vec::new() };
        let mut ledger = (*self.memo.ledger(state.ledger)).clone();
        notes.iter().for_each(|note| judge(&self.memo, &mut ledger, party, note, &copies));
        self.memo.intern_ledger(ledger)
    }

    /// Everything that can be said without changing anybody is said: an answer that a repeated or forged question brings
    /// from a party that stays as it is. Who has heard more can do no less, so nothing is lost by saying it at once, and the
    /// states in which it was said or not need not be told apart.
    fn say_what_can_be_said(&self, mut state: State) -> State {
        let mut asked = 0;
        while asked != state.sent.len() {
            asked = state.sent.len();
            let forged = self.memo.forged(&state.sent);
            let questions: Vec<EnvelopeId> = state.sent.iter().chain(forged.iter()).copied().collect();
            for envelope in questions {
                let to = self.memo.envelope(envelope).to;
                let Some(node) = state.nodes.get(usize::from(to)).copied() else { continue };
                let Some(step) = self.memo.step(node, to, InputId::Deliver(envelope)) else { continue };
                if step.next == node && self.noted(&state, to, &step.notes) == state.ledger {
                    send(&mut state.sent, &step.sent);
                }
            }
        }
        state
    }

    /// Every copy of the service's state that there is.
    fn copies(&self, state: &State) -> Vec<Guest> {
        state.nodes.iter().flat_map(|node| self.memo.facts(*node).copies.clone()).collect()
    }

    /// Ten seconds for everybody, the Registry first.
    fn pass(&self, state: &State) -> State {
        let parties = 0..u8::try_from(state.nodes.len()).unwrap_or(u8::MAX);
        parties.fold(state.clone(), |state, party| self.happen(&state, party, InputId::Pass).unwrap_or(state))
    }

    fn everybody_forgets_disks(&self, state: State) -> State {
        let parties = 0..u8::try_from(state.nodes.len()).unwrap_or(u8::MAX);
        parties.fold(state, |state, party| self.happen(&state, party, InputId::ForgetDisk).unwrap_or(state))
    }

    /// Who would execute a request, and under which epoch.
    pub(super) fn serving(&self, state: &State) -> Vec<(Party, wayfare_protocol::ids::Epoch)> {
        let facts = state.nodes.iter().zip(0..).map(|(node, party)| (party, self.memo.facts(*node)));
        facts.filter_map(|(party, facts)| Some((party, facts.serves?))).collect()
    }

    fn keeps(&self, state: &State, promise: Promise) -> bool {
        self.memo.ledger(state.ledger).keeps(promise)
    }

    fn deliveries(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &self.memo.world;
        let forged = self.memo.forged(&state.sent);
        for envelope in state.sent.iter().chain(forged.iter()) {
            let to = self.memo.envelope(*envelope).to;
            if Some(to) != world.attacking() {
                actions.push(Action { party: to, input: InputId::Deliver(*envelope) });
            }
        }
        if state.left.calls > 0 {
            let ledger = self.memo.ledger(state.ledger);
            // A client sends its next request, with its mark, when it has the response to the last.
            let sends = |sequence: u64| sequence == 0 || ledger.answered.contains(&(sequence - 1));
            for (_, envelope) in self.calls.iter().filter(|(sequence, _)| sends(*sequence)) {
                actions.push(Action { party: self.memo.envelope(*envelope).to, input: InputId::Deliver(*envelope) });
            }
        }
    }
}

/// Adds to what was sent.
fn send(sent: &mut Vec<EnvelopeId>, more: &[EnvelopeId]) {
    for envelope in more {
        if let Err(place) = sent.binary_search(envelope) {
            sent.insert(place, *envelope);
        }
    }
}

fn judge(memo: &Memo, ledger: &mut Ledger, party: Party, note: &Note, copies: &[Guest]) {
    let to = match note {
        Note::Placed { host, .. } => memo.world.party(*host),
        _ => None,
    };
    ledger.note(party, note, copies, to, memo.world.attacking());
}

impl Model for Scoped {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.say_what_can_be_said(self.first.clone())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let scope = &self.memo.world.scope;
        self.deliveries(state, actions);
        let parties = 0..u8::try_from(state.nodes.len()).unwrap_or(u8::MAX);
        let mut act = |party, input| actions.push(Action { party, input });
        let moved = usize::from(scope.moves - state.left.moves);
        if let Some((from, to)) = scope.ways.get(moved).filter(|_| state.left.moves > 0) {
            act(*from, InputId::Move(*to));
        }
        if let Some(revoked) = scope.revoked.filter(|_| state.left.revokes > 0) {
            act(REGISTRY, InputId::Revoke(revoked));
        }
        if state.left.passes > 0 {
            act(REGISTRY, InputId::Pass);
        }
        for party in parties {
            if state.left.timeouts > 0 {
                act(party, InputId::Timeout);
            }
            if state.left.losses > 0 {
                (1..=scope.clouds).filter(|peer| *peer != party).for_each(|peer| act(party, InputId::PeerLost(peer)));
            }
            if scope.crashes > 0 {
                act(party, InputId::Sync);
            }
            if state.left.crashes > 0 {
                let Some(node) = state.nodes.get(usize::from(party)) else { continue };
                let unsynced = self.memo.node(*node).unsynced();
                (0..=unsynced)
                    .filter_map(|kept| u8::try_from(kept).ok())
                    .for_each(|kept| act(party, InputId::Crash(kept)));
            }
        }
    }

    fn next_state(&self, state: &State, Action { party, input }: Action) -> Option<State> {
        if input == InputId::Pass {
            let mut next = self.pass(state);
            next.left.passes -= 1;
            return Some(self.say_what_can_be_said(next));
        }
        let mut next = self.happen(state, party, input)?;
        let left = &mut next.left;
        match input {
            InputId::Move(_) => left.moves -= 1,
            InputId::Timeout => left.timeouts -= 1,
            InputId::PeerLost(_) => left.losses -= 1,
            InputId::Revoke(_) => left.revokes -= 1,
            InputId::Crash(_) => {
                left.crashes -= 1;
                if left.crashes == 0 {
                    next = self.everybody_forgets_disks(next);
                }
            }
            InputId::Deliver(envelope) if self.calls.iter().any(|(_, call)| *call == envelope) => left.calls -= 1,
            InputId::Deliver(_) | InputId::Sync | InputId::Pass | InputId::ForgetDisk => {}
        }
        let next = self.say_what_can_be_said(next);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("at most one instance serves", |model: &Self, state: &State| {
                model.serving(state).len() <= 1
            }),
            Property::always("who serves is the host of record, under its epoch", |model: &Self, state: &State| {
                let record = model.memo.facts(state.nodes[usize::from(REGISTRY)]).record;
                let fits = |(party, epoch)| record.is_some_and(|(at, host, _)| (at, host) == (epoch, party));
                model.serving(state).into_iter().all(fits)
            }),
            Property::always("who serves has a lease that the Registry still counts", |model: &Self, state: &State| {
                let record = model.memo.facts(state.nodes[usize::from(REGISTRY)]).record;
                let counted = record.is_some_and(|(.., left)| left > wayfare_protocol::time::Micros::ZERO);
                counted || model.serving(state).is_empty()
            }),
            Property::always(
                "a source deletes only what it gave up, lost, and its target holds",
                |model: &Self, state: &State| model.keeps(state, Promise::DeletesByRight),
            ),
            Property::always("a target starts only what the source sent, once", |model: &Self, state: &State| {
                model.keeps(state, Promise::StartsWhatWasSent)
            }),
            Property::always("the record moves only with both parties' proof", |model: &Self, state: &State| {
                model.keeps(state, Promise::BothProofs)
            }),
            Property::always("what is decided stays decided", |model: &Self, state: &State| {
                model.keeps(state, Promise::DecidedOnce)
            }),
            Property::always("no request is executed twice", |model: &Self, state: &State| {
                model.keeps(state, Promise::ExecutedOnce)
            }),
            Property::always("a revoked cloud gets nothing", |model: &Self, state: &State| {
                model.keeps(state, Promise::RevokedRefused)
            }),
            Property::always(
                "once faults stop, the service runs where its record says, with all it acknowledged",
                |model: &Self, state: &State| model.can_end(state),
            ),
        ];
        if self.memo.world.scope.moves > 0 {
            properties.push(Property::sometimes("a move completes", |model: &Self, state: &State| {
                model.memo.ledger(state.ledger).has_decided(true)
            }));
        }
        if self.memo.world.scope.timeouts > 0 && self.memo.world.scope.moves > 0 {
            properties.push(Property::sometimes("an attempt is aborted", |model: &Self, state: &State| {
                model.memo.ledger(state.ledger).has_decided(false)
            }));
        }
        properties
    }
}

impl Scoped {
    /// Whether these conditions are known to end well.
    pub(super) fn is_known_to_end(&self, key: &(Vec<NodeId>, LedgerId)) -> bool {
        self.ends_well.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}
