//! People: those who ask the services through gateways, one question after the other, and those who want services moved.

use wayfare_protocol::{
    gateway::{Failure, Ticket},
    migration::messages::Lookup,
    reject::Guards,
    trust::Role,
};

use super::{
    check::End,
    guest::{self, Name, Response},
    world::{Event, Machine, World},
};

/// Somebody behind a gateway.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) gateway: usize,
    /// Numbers its questions.
    asked: u64,
    /// Whether it asks on without waiting for the answer.
    eager: bool,
    /// What it waits for.
    waits: usize,
}

impl Client {
    pub(super) const fn new(gateway: usize, eager: bool) -> Self {
        Self { gateway, asked: 0, eager, waits: 0 }
    }
}

/// Questions of an eager client that are open at a time.
const EAGER_MAX: usize = 8;

impl<G: Guards> World<G> {
    pub(super) fn handle_ask(&mut self, client: usize) {
        if self.calm {
            return;
        }
        let next = self.rng.wait(self.plan.think_us);
        let Client { eager, waits, .. } = self.clients[client];
        let may_ask = if eager { waits < EAGER_MAX } else { waits == 0 };
        if may_ask {
            let service = self.rng.index(self.check.services.len());
            self.ask(client, service);
        }
        // A patient client is woken by its answer as well: it asks when it is free.
        self.queue.push(self.time + next, Event::Ask { client });
    }

    /// `client` asks `service` something that it never asked before. False if its gateway does not take it.
    pub(super) fn ask(&mut self, client: usize, service: usize) -> bool {
        let gateway = self.clients[client].gateway;
        let number = self.clients[client].asked;
        let name = Name((gateway as u64) << 48 | (client as u64) << 32 | number);
        let padding = if self.rng.one_in(8) { self.rng.index(300) } else { 0 };
        let request = guest::request(name, self.rng.below(16) as u8, self.rng.next(), padding);
        let lookup = Lookup::Name(self.check.services[service].name.clone());
        let now = self.now(gateway);
        let Machine::Gateway(machine) = &mut self.nodes[gateway].machine else { return false };
        let Ok(ticket) = machine.handle_request(now, &lookup, request) else { return false };
        self.clients[client].asked += 1;
        self.clients[client].waits += 1;
        self.tally.requests += 1;
        self.check.asked(gateway, ticket, name, service, client);
        self.tell(gateway, |_| format!("is asked {name}"));
        true
    }

    pub(super) fn answered(&mut self, gateway: usize, ticket: Ticket, response: &[u8]) {
        let Some((name, service, client)) = self.check.close(gateway, ticket, End::Answered) else {
            self.violate("a client is answered once", || format!("{ticket:?} again"));
            return;
        };
        self.clients[client].waits -= 1;
        self.tell(gateway, |_| format!("answers {name}"));
        match Response::read(response) {
            Some(response) => self.acknowledged(service, name, response),
            None => self.violate("a response is the guest's", || format!("{name}: {} bytes", response.len())),
        }
    }

    pub(super) fn failed(&mut self, gateway: usize, ticket: Ticket, reason: &Failure) {
        let end = match reason {
            Failure::NotExecuted(_) | Failure::NoSuchService => End::Refused,
            Failure::Timeout | Failure::SessionLost => End::Unknown,
        };
        let Some((name, _, client)) = self.check.close(gateway, ticket, end) else {
            self.violate("a client is answered once", || format!("{ticket:?} again"));
            return;
        };
        self.clients[client].waits -= 1;
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
