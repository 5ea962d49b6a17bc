//! People: those who ask the services through gateways, one question after the other, and those who want services moved.

use wayfare_protocol::{
    gateway::{Failure, IdempotencyKey, Refuse, Ticket},
    migration::messages::Lookup,
    reject::Guards,
    trust::Role,
};

use super::{
    check::End,
    event::Event,
    guest::{self, Name, Response},
    node::Machine,
    owner::Wish,
    world::World,
};

/// How somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// One question after the other.
    Patient,
    /// Several at a time.
    Eager,
    /// One after the other, each under a key, and again under the same key until its end is known.
    Keyed,
}

/// Somebody behind a gateway.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) gateway: usize,
    /// Numbers its questions.
    asked: u64,
    manner: Manner,
    /// How many answers it waits for.
    waits: usize,
    /// The question under a key whose end is not known yet.
    unfinished: Option<Question>,
}

/// What somebody asks.
#[derive(Clone, Debug)]
struct Question {
    name: Name,
    service: usize,
    request: Vec<u8>,
}

impl Client {
    pub(super) const fn new(gateway: usize, manner: Manner) -> Self {
        Self { gateway, asked: 0, manner, waits: 0, unfinished: None }
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.manner == Manner::Keyed
    }
}

/// Questions of an eager client that are open at a time.
const EAGER_MAX: usize = 8;

impl<G: Guards> World<G> {
    pub(super) fn handle_ask(&mut self, client: usize) {
        let Client { manner, waits, ref unfinished, .. } = self.clients[client];
        let again = unfinished.clone();
        if self.calm && again.is_none() {
            return;
        }
        let next = self.rng.wait(self.plan.think_us);
        self.queue.push(self.time + next, Event::Ask { client });
        if waits >= if manner == Manner::Eager { EAGER_MAX } else { 1 } {
            return;
        }
        if let Some(question) = again {
            self.put(client, &question);
            return;
        }
        let service = self.rng.index(self.check.services.len());
        self.ask(client, service);
    }

    /// `client` asks `service` something that it never asked before. False if its gateway does not take it.
    pub(super) fn ask(&mut self, client: usize, service: usize) -> bool {
        let gateway = self.clients[client].gateway;
        let name = Name((gateway as u64) << 48 | (client as u64) << 32 | self.clients[client].asked);
        let padding = if self.rng.one_in(8) { self.rng.index(300) } else { 0 };
        let request = guest::request(name, self.rng.below(16) as u8, self.rng.next(), padding);
        let question = Question { name, service, request };
        let taken = self.put(client, &question);
        if taken {
            self.clients[client].asked += 1;
            self.tally.requests += 1;
            if self.clients[client].manner == Manner::Keyed {
                self.clients[client].unfinished = Some(question);
            }
        }
        taken
    }

    /// Hands a question to the client's gateway.
    fn put(&mut self, client: usize, question: &Question) -> bool {
        let Question { name, service, ref request } = *question;
        let gateway = self.clients[client].gateway;
        let lookup = Lookup::Name(self.check.services[service].name.clone());
        let keyed = self.clients[client].manner == Manner::Keyed;
        let key = IdempotencyKey::try_from(name.to_string()).ok().filter(|_| keyed);
        let now = self.now(gateway);
        let Machine::Gateway(machine) = &mut self.nodes[gateway].machine else { return false };
        match machine.handle_request(now, &lookup, request.clone(), key) {
            Ok(ticket) => {
                self.clients[client].waits += 1;
                self.check.asked(gateway, ticket, name, service, client);
                self.tell(gateway, |_| format!("is asked {name}"));
                true
            }
            Err(refuse) => {
                self.refused(client, refuse);
                false
            }
        }
    }

    fn refused(&mut self, client: usize, refuse: Refuse) {
        match refuse {
            Refuse::OutcomeUnknown => self.clients[client].unfinished = None,
            Refuse::KeyReused => self.violate("a key stands for one request", || format!("client {client}")),
            Refuse::Full | Refuse::UnknownService | Refuse::TooLarge => {}
        }
    }

    /// Questions under keys whose end is not known, to services that are to run and were not lost.
    pub(super) fn unfinished(&self) -> usize {
        let open = self.clients.iter().filter_map(|client| client.unfinished.as_ref());
        let waits = |service: usize| !self.check.services[service].excused && self.owners[service].wish == Wish::Runs;
        open.filter(|question| waits(question.service)).count()
    }

    pub(super) fn answered(&mut self, gateway: usize, ticket: Ticket, response: &[u8]) {
        let Some((name, service, client)) = self.check.close(gateway, ticket, End::Answered, false) else {
            self.violate("a client is answered once", || format!("{ticket:?} again"));
            return;
        };
        self.clients[client].waits -= 1;
        self.clients[client].unfinished = None;
        self.tell(gateway, |_| format!("answers {name}"));
        match Response::read(response) {
            Some(response) => self.acknowledged(service, name, response),
            None => self.violate("a response is the guest's", || format!("{name}: {} bytes", response.len())),
        }
    }

    pub(super) fn failed(&mut self, gateway: usize, ticket: Ticket, reason: &Failure) {
        let (service, client) = self.check.which(gateway, ticket).unwrap_or_default();
        let keyed = self.clients[client].is_keyed();
        let explained = self.owners[service].explains(reason);
        let end = match reason {
            // Under a key it may have been sent before: only the service knows, once it is started.
            Failure::Stopped if keyed => End::Unknown,
            // By one that was removed, perhaps.
            Failure::NoSuchService if self.owners[service].has_removed() => End::Unknown,
            Failure::NotExecuted(_) | Failure::NoSuchService | Failure::Stopped => End::Refused,
            Failure::Timeout | Failure::SessionLost | Failure::StillTrying | Failure::Refused(_) => End::Unknown,
        };
        let Some((name, _, client)) = self.check.close(gateway, ticket, end, explained) else {
            self.violate("a client is answered once", || format!("{ticket:?} again"));
            return;
        };
        self.clients[client].waits -= 1;
        if let Failure::Refused(refuse) = reason {
            self.refused(client, *refuse);
        }
        let reason = reason.to_string();
        self.tell(gateway, |_| format!("fails {name}: {reason}"));
    }

    /// A gateway's process is gone, and with it the streams of its clients.
    pub(super) fn hung_up(&mut self, gateway: usize) {
        self.check.hung_up(gateway);
        for client in self.clients.iter_mut().filter(|client| client.gateway == gateway) {
            client.waits = 0;
        }
    }

    /// Somebody wants a service elsewhere.
    pub(super) fn handle_move(&mut self, service: usize) {
        if self.calm {
            return;
        }
        let next = self.rng.wait(self.plan.move_us);
        self.queue.push(self.time + next, Event::Move { service });
        let id = self.check.services[service].id;
        let Some(record) = self.check.services[service].record else { return };
        let Some(node) = self.by_host.get(&record.host).copied() else { return };
        let clouds: Vec<usize> = (0..self.nodes.len())
            .filter(|cloud| self.nodes[*cloud].role == Some(Role::Cloud) && *cloud != node)
            .collect();
        // Back where it came from, often: old and new stays of a service must not be mistaken for each other.
        let back = self.by_host.get(&record.previous).copied().filter(|back| clouds.contains(back));
        let to = match back.filter(|_| self.rng.chance(self.plan.back_ppm)) {
            Some(back) => back,
            None => match self.rng.pick(&clouds) {
                Some(cloud) => *cloud,
                None => return,
            },
        };
        let (now, host) = (self.now(node), self.nodes[to].host);
        if self.nodes[node].busy_until > self.time {
            return;
        }
        let Self { nodes, rng, .. } = self;
        let Machine::Host(machine) = &mut nodes[node].machine else { return };
        let begun = machine.host.begin_move(now, id, host, "asked", rng);
        self.tell(node, |world| format!("is asked to move {id} to {}: {begun:?}", world.nodes[to].name));
        self.settle(node);
    }
}
