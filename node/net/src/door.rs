//! Who may come in, and how much a stranger may cost: the one place that knows members from strangers.
//!
//! A key costs nothing to make, an address does. So until somebody vouches for a peer ([`Door::vouch`], once a certificate was
//! verified), it is a *stranger*, and all strangers behind one address are one party: they share handshakes, connections, bytes
//! read from their sockets, and whatever else is charged to [`Door::party`]. A member is a party of its own. What is refused here
//! is refused before anything is decrypted.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Clock};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use wayfare_protocol::ids::HostId;
use wayfare_protocol::quota::Quota;
use wayfare_protocol::time::Instant;

use crate::counters::Counters;
use crate::limits::{
    CALL_SHARES, GOSSIP_SHARES, HANDSHAKE_SHARES, HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE_MAX, MEMBERS_KNOWN_MAX,
    STRANGER_BYTE_SHARES, STREAM_SHARES,
};

/// An address as far as it tells parties apart: an IPv4 address, or a network of 64 bits, of which one customer has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()),
            v4 => Self(v4),
        }
    }
}

/// Whom something is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    /// Somebody has vouched for it.
    Member(HostId),
    /// All strangers behind one address.
    Strangers(Source),
    /// A peer that this node has dialled: it has chosen whom to talk to.
    Dialled(HostId),
}

/// The address and port of a multiaddr, TCP or UDP.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Part::Ip4(ip) => ip.into(),
        Part::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Part::Tcp(port) | Part::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// An inbound connection, established.
#[derive(Clone, Copy, Debug)]
struct Guest {
    host: HostId,
    socket: SocketAddr,
    /// When it came, in order.
    number: u64,
}

#[derive(Debug)]
struct Inner {
    members: BTreeSet<HostId>,
    /// The same, in the order in which they were vouched for.
    vouched: VecDeque<HostId>,
    handshakes: Quota<Source>,
    pending: HashMap<Source, usize>,
    pending_all: usize,
    bytes: Quota<Source>,
    streams: Quota<Party>,
    gossip: Quota<Party>,
    calls: Quota<Party>,
    /// Accepted sockets, and whether what they bring is unmetered.
    sockets: HashMap<SocketAddr, Arc<AtomicBool>>,
    guests: HashMap<ConnectionId, Guest>,
    next_number: u64,
}

/// Shared by the swarm's task, the sockets, and whoever vouches.
#[derive(Debug)]
pub(crate) struct Door {
    inner: Mutex<Inner>,
    strangers_max: usize,
    strangers_per_source_max: usize,
    counters: Arc<Counters>,
    began: Clock,
}

/// A handshake under way. Dropped, it has ended.
#[derive(Debug)]
pub(crate) struct Handshake {
    door: Arc<Door>,
    source: Source,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut inner = self.door.lock();
        inner.pending_all = inner.pending_all.saturating_sub(1);
        if let Some(count) = inner.pending.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.pending.remove(&self.source);
            }
        }
    }
}

/// Whether a connection that is established stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Stays,
    /// It stays, and another one goes: the oldest stranger of the most crowded source.
    InsteadOf(HostId, ConnectionId),
}

impl Door {
    pub(crate) fn new(connections_max: u32, counters: Arc<Counters>) -> Self {
        let connections = connections_max as usize;
        Self {
            inner: Mutex::new(Inner {
                members: BTreeSet::new(),
                vouched: VecDeque::new(),
                handshakes: Quota::new(HANDSHAKE_SHARES),
                pending: HashMap::new(),
                pending_all: 0,
                bytes: Quota::new(STRANGER_BYTE_SHARES),
                streams: Quota::new(STREAM_SHARES),
                gossip: Quota::new(GOSSIP_SHARES),
                calls: Quota::new(CALL_SHARES),
                sockets: HashMap::new(),
                guests: HashMap::new(),
                next_number: 0,
            }),
            strangers_max: (connections / 2).max(1),
            strangers_per_source_max: (connections / 4).max(1),
            counters,
            began: Clock::now(),
        }
    }

    /// The time by the clock of all that is charged here.
    pub(crate) fn now(&self) -> Instant {
        Instant(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX / 2000))
    }

    /// Somebody connects: whether the handshake may begin. One that may not costs an `accept` and a `close`.
    pub(crate) fn enter(self: &Arc<Self>, from: &Multiaddr) -> Option<Handshake> {
        let source = Source::of(socket_of(from)?.ip());
        let now = self.now();
        let mut inner = self.lock();
        let pending = inner.pending.get(&source).copied().unwrap_or(0);
        let room = pending < HANDSHAKES_PER_SOURCE_MAX && inner.pending_all < HANDSHAKES_MAX;
        if !room || !inner.handshakes.take(now, &source, 1) {
            drop(inner);
            self.counters.handshakes_refused.add_one();
            return None;
        }
        *inner.pending.entry(source).or_default() += 1;
        inner.pending_all += 1;
        Some(Handshake { door: Arc::clone(self), source })
    }

    /// A socket was accepted: what it brings is metered until its peer is a member.
    pub(crate) fn meter(self: &Arc<Self>, socket: SocketAddr) -> Meter {
        let lifted = Arc::new(AtomicBool::new(false));
        self.lock().sockets.insert(socket, Arc::clone(&lifted));
        Meter { door: Arc::clone(self), socket, source: Source::of(socket.ip()), lifted }
    }

    /// An inbound connection is established.
    pub(crate) fn arrived(&self, id: ConnectionId, host: HostId, from: &Multiaddr) -> Admission {
        let Some(socket) = socket_of(from) else { return Admission::Stays };
        let mut inner = self.lock();
        let number = inner.next_number;
        inner.next_number += 1;
        inner.guests.insert(id, Guest { host, socket, number });
        if inner.members.contains(&host) {
            inner.lift(socket);
            return Admission::Stays;
        }
        let mut crowd: HashMap<Source, (usize, u64, ConnectionId, HostId)> = HashMap::new();
        let mut all = 0;
        for (id, guest) in inner.guests.iter().filter(|(_, guest)| !inner.members.contains(&guest.host)) {
            all += 1;
            let entry = crowd.entry(Source::of(guest.socket.ip())).or_insert((0, guest.number, *id, guest.host));
            entry.0 += 1;
            if guest.number < entry.1 {
                (entry.1, entry.2, entry.3) = (guest.number, *id, guest.host);
            }
        }
        let mine = crowd.get(&Source::of(socket.ip())).filter(|(count, ..)| *count > self.strangers_per_source_max);
        let crowded = match mine {
            Some(mine) => Some(mine),
            None if all > self.strangers_max => crowd.values().max_by_key(|(count, number, ..)| (*count, *number)),
            None => None,
        };
        let Some((_, _, oldest, its_host)) = crowded.copied() else { return Admission::Stays };
        inner.guests.remove(&oldest);
        drop(inner);
        self.counters.strangers_closed.add_one();
        Admission::InsteadOf(its_host, oldest)
    }

    /// A connection ended.
    pub(crate) fn left(&self, id: ConnectionId) {
        self.lock().guests.remove(&id);
    }

    /// `host` has shown a certificate: from now on it is a party of its own, and what it sends is not metered.
    pub(crate) fn vouch(&self, host: HostId) {
        let mut inner = self.lock();
        if !inner.members.insert(host) {
            return;
        }
        inner.vouched.push_back(host);
        if inner.vouched.len() > MEMBERS_KNOWN_MAX
            && let Some(oldest) = inner.vouched.pop_front()
        {
            inner.members.remove(&oldest);
        }
        let sockets: Vec<SocketAddr> =
            inner.guests.values().filter(|guest| guest.host == host).map(|guest| guest.socket).collect();
        sockets.into_iter().for_each(|socket| inner.lift(socket));
    }

    /// Whom to charge for what `host` does.
    pub(crate) fn party(&self, host: HostId) -> Party {
        self.lock().party(host)
    }

    /// Whether `host` may open another stream.
    pub(crate) fn may_open(&self, host: HostId) -> bool {
        let (now, mut inner) = (self.now(), self.lock());
        let party = inner.party(host);
        inner.streams.take(now, &party, 1)
    }

    /// Whether another gossiped message of `host` is looked at.
    pub(crate) fn may_gossip(&self, host: HostId) -> bool {
        let (now, mut inner) = (self.now(), self.lock());
        let party = inner.party(host);
        inner.gossip.take(now, &party, 1)
    }

    /// Whether another call of gossipsub by `host` is looked at. An honest node is far from where it is not.
    pub(crate) fn may_call(&self, host: HostId) -> bool {
        let (now, mut inner) = (self.now(), self.lock());
        let party = inner.party(host);
        inner.calls.take(now, &party, 1)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn party(&self, host: HostId) -> Party {
        if self.members.contains(&host) {
            return Party::Member(host);
        }
        let guest = self.guests.values().find(|guest| guest.host == host);
        guest.map_or(Party::Dialled(host), |guest| Party::Strangers(Source::of(guest.socket.ip())))
    }

    fn lift(&mut self, socket: SocketAddr) {
        if let Some(lifted) = self.sockets.get(&socket) {
            lifted.store(true, Ordering::Relaxed);
        }
    }
}

/// What one accepted socket may bring.
#[derive(Debug)]
pub(crate) struct Meter {
    door: Arc<Door>,
    socket: SocketAddr,
    source: Source,
    lifted: Arc<AtomicBool>,
}

impl Meter {
    /// `bytes` were read: how long to wait before more is.
    pub(crate) fn read(&self, bytes: usize) -> Duration {
        if bytes == 0 || self.lifted.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let (now, cost) = (self.door.now(), u32::try_from(bytes).unwrap_or(u32::MAX));
        let ready = self.door.lock().bytes.charge(now, &self.source, cost);
        let wait = Duration::from_micros(ready.since(now).0);
        if !wait.is_zero() {
            self.door.counters.reads_delayed.add_one();
        }
        wait
    }

    /// Whether its peer is a member now.
    pub(crate) fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut inner = self.door.lock();
        // The port may be another connection's already.
        if inner.sockets.get(&self.socket).is_some_and(|lifted| Arc::ptr_eq(lifted, &self.lifted)) {
            inner.sockets.remove(&self.socket);
        }
    }
}
