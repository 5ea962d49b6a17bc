//! A mesh in memory: production machines, and drivers that do what they are asked. Nothing happens by itself: whoever plays
//! with it lets messages arrive, time pass, disks sync and parties crash.
//!
//! Mallory is a cloud like the others, whose key the attacker has; so has he the key of a gateway, of an owner, of a Registry that
//! everybody trusts beside the real one, and of every placement. [`attack`] is what he does with them, [`check`] what
//! must hold all the same.

pub mod attack;
pub mod check;
mod crashes;
mod damage;
mod driver;
mod node;
mod setup;
pub mod stages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::{TryRng, utils};
use wayfare_protocol::{
    gateway::{self, Gateway, GatewayConfig, Ticket},
    ids::{ClientId, Digest, HostId, MigrationId, ServiceId},
    registry::{Registry, RegistryConfig, StoreImage},
    reject::Strict,
    suite::{Secret, Suite},
    time::{Micros, Now},
    transfer::SealedRecord,
    trust::{Certificate, Signed},
};

pub use node::Node;

/// A repeatable source of bytes.
#[derive(Clone, Debug)]
pub struct Seeded(pub u64);

impl TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        utils::fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

/// On which stream something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `/wayfare/registry/1`.
    Registry,
    /// `/wayfare/migrate/1`.
    Migrate,
    /// `/wayfare/request/1`.
    Client,
    /// To one of those who hear it.
    Gossip,
}

/// What is on its way.
#[derive(Clone, Debug)]
pub enum Content {
    /// A frame.
    Frame(Stream, Vec<u8>),
    /// A state stream.
    State(MigrationId, Vec<SealedRecord>),
}

/// Something on its way. The transport vouches for `from`.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who says it.
    pub from: HostId,
    /// To whom.
    pub to: HostId,
    /// What.
    pub content: Content,
}

/// The gateway, and what is on its disk.
#[derive(Clone, Debug)]
pub struct Entrance<S: Suite> {
    /// The machine.
    pub machine: Gateway<S, Strict>,
    config: GatewayConfig,
    journal: Vec<(u64, gateway::Entry)>,
}

/// What the attacker has.
#[derive(Clone, Debug)]
pub struct Attacker {
    /// His cloud.
    pub host: HostId,
    /// His gateway, as which he speaks himself.
    pub gateway: HostId,
    gateway_certificate: Signed<Certificate>,
    /// His Registry.
    pub registry: RegistryConfig,
    /// Every key that he signs with.
    pub keys: Vec<Secret>,
    /// The key of the owner that he is.
    pub owner: Secret,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct World<S: Suite> {
    /// Both clocks, of everybody.
    pub now: Now,
    /// All randomness.
    pub rng: Seeded,
    /// The Registry.
    pub registry: Registry<S, Strict>,
    config: RegistryConfig,
    /// On the Registry's disk.
    store: StoreImage,
    backup: StoreImage,
    /// Home, two clouds, and Mallory, by key.
    pub nodes: BTreeMap<HostId, Node<S>>,
    /// The same, in the order in which they enrolled.
    pub hosts: Vec<HostId>,
    /// The users'.
    pub entrance: Entrance<S>,
    /// Its key.
    pub gateway: HostId,
    /// The attacker.
    pub attacker: Attacker,
    /// The honest owner's key.
    owner: Secret,
    /// On their way.
    pub wires: VecDeque<Message>,
    /// What was said before, to be said again.
    pub past: VecDeque<Message>,
    /// Identifiers and hashes that have been heard.
    pub words: Vec<Vec<u8>>,
    /// What users were told.
    told: BTreeMap<Ticket, ()>,
    /// Which service each request is for, and its number.
    asked_of: BTreeMap<Ticket, (ServiceId, u64)>,
    /// Requests of honest users, each with a number of its own.
    asked: u64,
    /// Those that were answered, by service.
    acknowledged: BTreeMap<ServiceId, BTreeSet<u64>>,
    /// Services of honest owners of which nothing can be said any more: Mallory has had them, or their owner let go of their state.
    tainted: BTreeSet<ServiceId>,
    /// Clients that the users' gateway was.
    clients: BTreeSet<ClientId>,
    /// Attempts that an honest host has consented to.
    consents: BTreeSet<MigrationId>,
    /// Services that their owner has ordered to be removed.
    removed: BTreeSet<ServiceId>,
    /// Where services are, as the Registry last recorded it.
    placed: BTreeMap<ServiceId, (HostId, wayfare_protocol::ids::Epoch)>,
    versions: u32,
}

/// Messages that are kept to be said again.
const PAST_MAX: usize = 64;
/// Words that are kept.
const WORDS_MAX: usize = 128;
/// Messages under way at a time: more are lost.
const WIRES_MAX: usize = 512;

/// The module that services are made of, and another.
pub const CODES: [Digest; 2] = [Digest([7; 32]), Digest([8; 32])];

impl<S: Suite> World<S> {
    /// Puts something on its way.
    pub fn send(&mut self, from: HostId, to: HostId, content: Content) {
        if self.wires.len() < WIRES_MAX {
            self.wires.push_back(Message { from, to, content });
        }
    }

    /// Remembers an identifier, or a hash, to put it where another belongs.
    pub fn learn(&mut self, word: &[u8]) {
        if !self.words.iter().any(|known| known == word) {
            if self.words.len() >= WORDS_MAX {
                self.words.remove(0);
            }
            self.words.push(word.to_vec());
        }
    }

    /// Lets time pass, and what is due be done.
    pub fn pass(&mut self, length: Micros) {
        self.now.mono = self.now.mono + length;
        self.now.wall = self.now.wall + length;
        for host in self.hosts.clone() {
            self.ring(host);
        }
        if self.registry.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.registry.handle_timeout(self.now, &mut self.rng);
        }
        if self.entrance.machine.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.entrance.machine.handle_timeout(self.now);
            let next = self.entrance.machine.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now.mono), "the gateway's timer does not move on: {next:?}");
        }
        self.run();
    }

    fn ring(&mut self, host: HostId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&host) else { return };
        if node.host.poll_timeout() > now.mono {
            return;
        }
        node.host.handle_timeout(now, &mut self.rng);
        let next = node.host.poll_timeout();
        assert!(next > now.mono, "a host's timer does not move on: {next:?} at {:?}", now.mono);
    }

    /// The services that are or were anywhere.
    pub fn services(&self) -> Vec<ServiceId> {
        self.placed.keys().copied().collect()
    }

    /// Delivers everything as it is, up to `max` messages.
    pub fn settle(&mut self, max: usize) {
        for _ in 0..max {
            let Some(message) = self.wires.pop_front() else { return };
            let _ = self.deliver(message);
        }
    }
}
