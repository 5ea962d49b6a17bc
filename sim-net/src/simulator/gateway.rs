//! A gateway's process: the production machine and its journal, as `node/src/gateway/owner.rs` drives them.

use wayfare_protocol::{
    advert::Gossip,
    gateway::Effect,
    ids::HostId,
    migration::messages::RegistryFrame,
    reject::Guards,
    time::Micros,
    wire::{self, Frame as _},
};

use super::{
    coverage::Fault,
    disk::Change,
    event::Event,
    network::Kind,
    node::{Disk, Machine},
    world::World,
};

/// How often a gateway measures round trips, µs.
const PROBE_US: u64 = 2_000_000;

impl<G: Guards> World<G> {
    pub(super) fn gateway_frame(&mut self, node: usize, kind: Kind, from: usize, bytes: &[u8]) {
        let (now, peer, registry) = (self.now(node), self.nodes[from].host, self.bundle.anchors()[0].id);
        let Machine::Gateway(gateway) = &mut self.nodes[node].machine else { return };
        if kind == Kind::Registry {
            self.note_answer(bytes);
            let Machine::Gateway(gateway) = &mut self.nodes[node].machine else { return };
            // Whatever the Registry says, the stream stays.
            if let Ok(RegistryFrame::Found(found)) = RegistryFrame::from_bytes(bytes) {
                let _ = gateway.handle_found(now, registry, &found);
            }
            return;
        }
        if let Err(reject) = gateway.handle_frame(now, peer, bytes) {
            self.tell(node, |_| format!("refuses it: {reject}"));
            self.close(node, kind, from);
            self.gateway_disconnected(node, from);
        }
    }

    pub(super) fn gateway_connected(&mut self, node: usize, peer: usize) {
        let (now, host) = (self.now(node), self.nodes[peer].host);
        self.cover(node, "opened", Fault::None);
        if let Machine::Gateway(gateway) = &mut self.nodes[node].machine {
            gateway.handle_connected(now, host);
        }
    }

    pub(super) fn gateway_disconnected(&mut self, node: usize, peer: usize) {
        let (now, host) = (self.now(node), self.nodes[peer].host);
        if let Machine::Gateway(gateway) = &mut self.nodes[node].machine {
            gateway.handle_disconnected(now, host);
        }
    }

    pub(super) fn gateway_gossip(&mut self, node: usize, bytes: &[u8]) {
        let now = self.now(node);
        let Machine::Gateway(gateway) = &mut self.nodes[node].machine else { return };
        match Gossip::from_bytes(bytes) {
            Ok(Gossip::Advert(advert)) => drop(gateway.handle_gossip_advert(now, &advert)),
            Ok(Gossip::Placement(placement)) => drop(gateway.handle_gossip_placement(now, &placement)),
            Err(_) => {}
        }
    }

    /// Carries out the next effect. True if there is none.
    pub(super) fn gateway_effect(&mut self, node: usize) -> bool {
        let Machine::Gateway(gateway) = &mut self.nodes[node].machine else { return true };
        match gateway.poll_effect() {
            None => return true,
            Some(Effect::Persist { seq, entry }) => {
                if let Disk::Gateway(journal) = &mut self.nodes[node].disk {
                    journal.change(seq, Change::Append(wire::encode(&entry)));
                }
                self.sync(node);
            }
            Some(Effect::Compact { seq, keep, entry }) => {
                if let Disk::Gateway(journal) = &mut self.nodes[node].disk {
                    journal.change(seq, Change::Compact { snapshot: wire::encode(&entry), keep });
                }
                self.sync(node);
            }
            Some(Effect::Connect { host, .. }) => {
                if let Some(peer) = self.by_host.get(&host).copied() {
                    self.connect(node, Kind::Request, peer);
                }
            }
            Some(Effect::Disconnect { host }) => {
                if let Some(peer) = self.by_host.get(&host).copied() {
                    self.close(node, Kind::Request, peer);
                }
            }
            Some(Effect::Send { host, frame }) => {
                if let Some(peer) = self.by_host.get(&host).copied() {
                    self.send(node, Kind::Request, peer, false, frame.name(), frame.to_bytes());
                }
            }
            Some(Effect::Lookup { lookup, .. }) => {
                let (registry, frame) = (self.registry, RegistryFrame::Lookup(lookup));
                self.send(node, Kind::Registry, registry, true, frame.name(), frame.to_bytes());
            }
            Some(Effect::Answer { ticket, response }) => self.answered(node, ticket, &response),
            Some(Effect::Fail { ticket, reason }) => self.failed(node, ticket, &reason),
        }
        false
    }

    pub(super) fn handle_probe(&mut self, node: usize) {
        let (now, life) = (self.now(node), self.nodes[node].life);
        self.queue.push(self.time + PROBE_US, Event::Probe { node, life });
        let Machine::Gateway(gateway) = &self.nodes[node].machine else { return };
        for (host, _) in gateway.probe_targets(now) {
            let Some(peer) = self.by_host.get(&host).copied() else { continue };
            if !self.nodes[peer].is_up() {
                continue;
            }
            if let Some(rtt) = self.round_trip(node, peer) {
                self.queue.push(self.time + rtt, Event::Measured { node, life, host, rtt });
            }
        }
    }

    pub(super) fn handle_measured(&mut self, node: usize, host: HostId, rtt: u64) {
        let now = self.now(node);
        if let Machine::Gateway(gateway) = &mut self.nodes[node].machine {
            gateway.record_rtt(now, host, Micros(rtt));
        }
    }
}
