//! Every party, message and ledger that a search meets, once, under a number; and every step of a party, taken once.
//!
//! A party's step depends on nothing but itself and its input, and the same few thousand parties meet in millions of
//! states. So the machines run once for each (party, input), and a state is a handful of numbers. Values are told apart by
//! 128 bits of BLAKE3 over all that their `Hash` covers.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wayfare_protocol::{ids::Epoch, time::Micros};

use super::{
    guards::without,
    message::{Envelope, Guest, Note, Party},
    party::{Input, Node},
    promises::Ledger,
    world::World,
};

/// The number of a party in one of its conditions.
pub(super) type NodeId = u32;
/// The number of a message.
pub(super) type EnvelopeId = u32;
/// The number of a ledger.
pub(super) type LedgerId = u32;

/// An [`Input`] by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum InputId {
    Deliver(EnvelopeId),
    Timeout,
    /// Ten seconds.
    Pass,
    Sync,
    Crash(u8),
    Move(Party),
    PeerLost(Party),
    Revoke(Party),
    ForgetDisk,
}

/// How long a [`InputId::Pass`] is.
pub(super) const PASS: Micros = Micros::from_secs(10);

/// A step that was taken.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) next: NodeId,
    pub(super) sent: Arc<[EnvelopeId]>,
    pub(super) notes: Arc<[Note]>,
}

/// What can be seen of a party.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Under which epoch it would execute a request now.
    pub(super) serves: Option<Epoch>,
    /// Every copy of the state that it has, running, held or on disk.
    pub(super) copies: Vec<Guest>,
    /// The instances that exist.
    pub(super) running: Vec<(Epoch, Guest)>,
    /// Whether it has nothing of the service: no stay, no arrival.
    pub(super) empty: bool,
    /// Whether it neither sends nor receives a service.
    pub(super) settled: bool,
    /// Of the Registry: the record's epoch and host, and how much longer the lease counts.
    pub(super) record: Option<(Epoch, Party, Micros)>,
}

#[derive(Debug, Default)]
struct Tables {
    nodes: Vec<Arc<Node>>,
    node_ids: HashMap<u128, NodeId>,
    facts: HashMap<NodeId, Arc<Facts>>,
    envelopes: Vec<Arc<Envelope>>,
    envelope_ids: HashMap<u128, EnvelopeId>,
    ledgers: Vec<Arc<Ledger>>,
    ledger_ids: HashMap<u128, LedgerId>,
    steps: HashMap<(NodeId, Party, InputId), Option<Step>>,
    forged: HashMap<Vec<EnvelopeId>, Arc<[EnvelopeId]>>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Memo {
    pub(super) world: Arc<World>,
    tables: Mutex<Tables>,
}

/// Hashes with BLAKE3.
struct Blake(blake3::Hasher);

impl Hasher for Blake {
    fn finish(&self) -> u64 {
        u64::from_le_bytes(*self.0.finalize().as_bytes().first_chunk().unwrap_or(&[0; 8]))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn fingerprint(value: &impl Hash) -> u128 {
    let mut hasher = Blake(blake3::Hasher::new());
    value.hash(&mut hasher);
    u128::from_le_bytes(*hasher.0.finalize().as_bytes().first_chunk().unwrap_or(&[0; 16]))
}

/// The number of `value`, a new one if it was never met.
fn intern<T: Hash>(values: &mut Vec<Arc<T>>, ids: &mut HashMap<u128, u32>, value: T) -> u32 {
    *ids.entry(fingerprint(&value)).or_insert_with(|| {
        values.push(Arc::new(value));
        u32::try_from(values.len() - 1).unwrap_or(u32::MAX)
    })
}

impl Memo {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn intern_node(&self, node: Node) -> NodeId {
        let Tables { nodes, node_ids, .. } = &mut *self.tables();
        intern(nodes, node_ids, node)
    }

    pub(super) fn intern_envelope(&self, envelope: Envelope) -> EnvelopeId {
        let Tables { envelopes, envelope_ids, .. } = &mut *self.tables();
        intern(envelopes, envelope_ids, envelope)
    }

    pub(super) fn intern_ledger(&self, ledger: Ledger) -> LedgerId {
        let Tables { ledgers, ledger_ids, .. } = &mut *self.tables();
        intern(ledgers, ledger_ids, ledger)
    }

    pub(super) fn node(&self, id: NodeId) -> Arc<Node> {
        Arc::clone(&self.tables().nodes[id as usize])
    }

    pub(super) fn envelope(&self, id: EnvelopeId) -> Arc<Envelope> {
        Arc::clone(&self.tables().envelopes[id as usize])
    }

    pub(super) fn ledger(&self, id: LedgerId) -> Arc<Ledger> {
        Arc::clone(&self.tables().ledgers[id as usize])
    }

    /// How many parties, messages and steps there are.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let tables = self.tables();
        (tables.nodes.len(), tables.envelopes.len(), tables.steps.len())
    }

    fn input(&self, id: InputId) -> Option<Input> {
        Some(match id {
            InputId::Deliver(envelope) => Input::Deliver((*self.envelope(envelope)).clone()),
            InputId::Timeout => Input::Timeout,
            InputId::Pass => Input::Pass(PASS),
            InputId::Sync => Input::Sync,
            InputId::Crash(kept) => Input::Crash { kept: usize::from(kept) },
            InputId::Move(to) => Input::Move(self.world.host(to)?),
            InputId::PeerLost(peer) => Input::PeerLost(self.world.host(peer)?),
            InputId::Revoke(party) => Input::Revoke(self.world.host(party)?),
            InputId::ForgetDisk => Input::ForgetDisk,
        })
    }

    /// What `input` makes of this party; `None`: nothing.
    pub(super) fn step(&self, node: NodeId, party: Party, input: InputId) -> Option<Step> {
        if let Some(step) = self.tables().steps.get(&(node, party, input)) {
            return step.clone();
        }
        let step = self.input(input).and_then(|input| {
            let before = self.node(node);
            let (next, output) = without(self.world.off, || before.step(&self.world, party, &input))?;
            let next = self.intern_node(next);
            let sent = output.sent.into_iter().map(|envelope| self.intern_envelope(envelope)).collect();
            Some(Step { next, sent, notes: output.notes.into() })
        });
        self.tables().steps.insert((node, party, input), step.clone());
        step
    }

    /// What can be seen of a party.
    pub(super) fn facts(&self, id: NodeId) -> Arc<Facts> {
        if let Some(facts) = self.tables().facts.get(&id) {
            return Arc::clone(facts);
        }
        let node = self.node(id);
        let facts = Arc::new(without(self.world.off, || Facts::of(&self.world, &node)));
        self.tables().facts.insert(id, Arc::clone(&facts));
        facts
    }

    /// What the attacker can say, having heard these.
    pub(super) fn forged(&self, heard: &[EnvelopeId]) -> Arc<[EnvelopeId]> {
        let Some(attacker) = &self.world.attacker else { return Arc::new([]) };
        if let Some(forged) = self.tables().forged.get(heard) {
            return Arc::clone(forged);
        }
        let envelopes: Vec<Arc<Envelope>> = heard.iter().map(|id| self.envelope(*id)).collect();
        let mut forged: Vec<EnvelopeId> = Vec::new();
        for envelope in attacker.messages(&self.world, &envelopes) {
            let id = self.intern_envelope(envelope);
            if !forged.contains(&id) && !heard.contains(&id) {
                forged.push(id);
            }
        }
        let forged: Arc<[EnvelopeId]> = forged.into();
        self.tables().forged.insert(heard.to_vec(), Arc::clone(&forged));
        forged
    }
}

impl Facts {
    fn of(world: &World, node: &Node) -> Self {
        match node {
            Node::Attacker => Self { empty: true, settled: true, ..Self::default() },
            Node::Registry(registry) => {
                let record = registry.machine.placement(world.service).and_then(|placement| {
                    let until = registry.machine.lease_until(world.service)?;
                    Some((placement.epoch, world.party(placement.host)?, until.since(registry.now.mono)))
                });
                Self { record, empty: true, settled: true, ..Self::default() }
            }
            Node::Host(host) => {
                let running = host.running.iter().map(|((_, epoch), guest)| (*epoch, guest.clone())).collect();
                let images = host.disk.iter().flat_map(|disk| disk.images.values().map(|(guest, _)| guest));
                let incoming = host.incoming.values().filter_map(|incoming| incoming.guest.as_ref());
                let sizes = host.machine.sizes();
                Self {
                    serves: host.would_execute(world).map(|(_, epoch)| epoch),
                    copies: host.running.values().chain(images).chain(incoming).cloned().collect(),
                    running,
                    empty: sizes.services == 0,
                    settled: sizes.arrivals == 0 && host.machine.attempt_of(world.service).is_none(),
                    record: None,
                }
            }
        }
    }
}
