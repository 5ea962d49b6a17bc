//! Who crashes comes back with what is on its disk.

use wayfare_protocol::{
    gateway::Gateway,
    ids::HostId,
    registry::{self, Registry},
    suite::Suite,
};

use super::World;

impl<S: Suite> World<S> {
    /// A host crashes and comes back.
    pub fn crash(&mut self, host: HostId) {
        let now = self.now;
        self.wires.retain(|message| message.from != host && message.to != host);
        if let Some(node) = self.nodes.get_mut(&host) {
            node.crash(now);
        }
        self.entrance.machine.handle_disconnected(now, host);
        self.run();
    }

    /// The Registry crashes and comes back; with a backup instead of its records, if it is told to.
    pub fn crash_registry(&mut self, restored: bool) {
        let (registry, now) = (self.registry.host(), self.now);
        self.wires.retain(|message| message.from != registry && message.to != registry);
        if restored {
            self.store = self.backup.clone();
            let rows = self.store.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
            let marks = registry::mark_restored(self.config.id, rows, now.wall).expect("its own records");
            marks.iter().for_each(|op| op.apply(&mut self.store));
        }
        let rows = self.store.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        self.registry = Registry::restore(self.config.clone(), now, rows).expect("it reads its own records");
        if restored {
            // What was decided since the backup is for the hosts to tell.
            self.placed.clear();
        }
        self.run();
    }

    /// Keeps the Registry's records, to come back with.
    pub fn back_up(&mut self) {
        self.backup = self.store.clone();
    }

    /// The gateway crashes and comes back.
    pub fn crash_gateway(&mut self) {
        let gateway = self.gateway;
        self.wires.retain(|message| message.from != gateway && message.to != gateway);
        self.nodes.values_mut().for_each(|node| node.host.handle_gateway_lost(gateway));
        self.told.clear();
        self.asked_of.clear();
        let Self { entrance, rng, .. } = self;
        let last = entrance.journal.last().map_or(0, |(seq, _)| *seq);
        entrance.machine = Gateway::new(entrance.config.clone(), &entrance.journal, last, rng);
        self.carry_services();
        self.run();
    }
}
