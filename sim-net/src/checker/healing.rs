//! Whether everything can still end well: from a state on, no fault happens any more, all that was on its way is lost,
//! messages arrive in order, and clocks run. The promise is that the service then runs where its record says.
//!
//! That is more than that an end can be reached: it is reached by the parties' own repeats alone, on the one path that an
//! honest network takes.

use std::{collections::VecDeque, sync::PoisonError};

use super::{
    memo::{EnvelopeId, InputId, LedgerId, NodeId, Step},
    message::{Party, REGISTRY},
    model::{Scoped, State},
};

/// Rounds of timeouts until a scope must have come to rest.
const ROUNDS_MAX: usize = 60;

/// Parties, and what is on its way between them.
struct Healing {
    nodes: Vec<NodeId>,
    queue: VecDeque<EnvelopeId>,
}

impl Scoped {
    /// See the [module](self).
    pub(super) fn can_end(&self, state: &State) -> bool {
        let mut healing = Healing { nodes: state.nodes.clone(), queue: VecDeque::new() };
        let mut met: Vec<(Vec<NodeId>, LedgerId)> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            self.run_down(&mut healing);
            let key = (healing.nodes.clone(), state.ledger);
            if self.is_known_to_end(&key) || self.has_ended(&healing.nodes, state.ledger) {
                met.push(key);
                self.ends_well.lock().unwrap_or_else(PoisonError::into_inner).extend(met);
                return true;
            }
            met.push(key);
            // Time passes for each party; where leases count, for all of them equally.
            let input = if self.memo.world.scope.passes > 0 { InputId::Pass } else { InputId::Timeout };
            let parties = 0..u8::try_from(healing.nodes.len()).unwrap_or(u8::MAX);
            // Each of them takes its turn.
            let went_on = parties.filter(|party| self.heal(&mut healing, *party, input)).count();
            if went_on == 0 {
                return false;
            }
        }
        false
    }

    /// Everything that was written is on disk, everything that was sent arrives.
    fn run_down(&self, healing: &mut Healing) {
        loop {
            let parties = 0..u8::try_from(healing.nodes.len()).unwrap_or(u8::MAX);
            for party in parties {
                self.heal(healing, party, InputId::Sync);
            }
            let Some(envelope) = healing.queue.pop_front() else { return };
            let to = self.memo.envelope(envelope).to;
            if Some(to) != self.memo.world.attacking() {
                self.heal(healing, to, InputId::Deliver(envelope));
            }
        }
    }

    /// One step. Whether it changed anything.
    fn heal(&self, healing: &mut Healing, party: Party, input: InputId) -> bool {
        let Some(node) = healing.nodes.get_mut(usize::from(party)) else { return false };
        let Some(Step { next, sent, .. }) = self.memo.step(*node, party, input) else { return false };
        *node = next;
        healing.queue.extend(sent.iter());
        true
    }

    /// Whether the service runs where its record says, with all that was acknowledged, and nobody else has any of it; or the
    /// attacker has it, by right, and nobody else.
    fn has_ended(&self, nodes: &[NodeId], ledger: LedgerId) -> bool {
        let Some(registry) = nodes.get(usize::from(REGISTRY)) else { return false };
        let Some((epoch, host, _)) = self.memo.facts(*registry).record else { return false };
        let answered = &self.memo.ledger(ledger).answered;
        nodes.iter().zip(0..).all(|(node, party)| {
            let facts = self.memo.facts(*node);
            if party != host || Some(party) == self.memo.world.attacking() {
                return facts.empty;
            }
            let has_all = |(running, guest): &(_, super::message::Guest)| {
                *running == epoch && answered.iter().all(|sequence| guest.0.contains(sequence))
            };
            facts.serves == Some(epoch) && facts.settled && facts.running.iter().any(has_all)
        })
    }
}
