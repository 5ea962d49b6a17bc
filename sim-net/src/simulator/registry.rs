//! The Registry's process: the production machine and its store, as `registry/src/driver.rs` drives them.

use wayfare_protocol::{
    advert::Gossip,
    registry::{Effect, Event as Told, is_violation},
    reject::Guards,
    wire::Frame as _,
};

use super::{
    network::Kind,
    node::{Disk, Machine},
    world::World,
};

impl<G: Guards> World<G> {
    pub(super) fn registry_frame(&mut self, node: usize, from: usize, bytes: &[u8]) {
        let (now, peer) = (self.now(node), self.nodes[from].host);
        let Self { nodes, rng, .. } = self;
        let Machine::Registry(registry) = &mut nodes[node].machine else { return };
        if let Err(reject) = registry.handle_frame(now, rng, peer, bytes) {
            self.tell(node, |_| format!("refuses it: {reject}"));
            if is_violation(reject) {
                self.close(node, Kind::Registry, from);
            }
        }
    }

    pub(super) fn registry_gossip(&mut self, node: usize, bytes: &[u8]) {
        let now = self.now(node);
        let Machine::Registry(registry) = &mut self.nodes[node].machine else { return };
        if let Ok(Gossip::Advert(advert)) = Gossip::from_bytes(bytes) {
            // Whether it is any good shows when it is needed.
            let _ = registry.handle_advert(now, &advert);
        }
    }

    /// Carries out the next effect. True if there is none.
    pub(super) fn registry_effect(&mut self, node: usize) -> bool {
        let Machine::Registry(registry) = &mut self.nodes[node].machine else { return true };
        match registry.poll_effect() {
            None => return true,
            Some(Effect::Persist { seq, batch, .. }) => {
                if let Disk::Registry(store) = &mut self.nodes[node].disk {
                    store.change(seq, batch);
                }
                self.sync(node);
            }
            Some(Effect::Reply { to, frame }) => {
                if let Some(peer) = self.by_host.get(&to).copied() {
                    self.send(node, Kind::Registry, peer, false, frame.name(), frame.to_bytes());
                }
            }
            Some(Effect::Ask { to, addresses, frame }) => {
                if let Some(peer) = self.by_host.get(&to).copied() {
                    self.send(node, Kind::Registry, peer, !addresses.is_empty(), frame.name(), frame.to_bytes());
                }
            }
            Some(Effect::Event(event)) => self.registry_told(node, &event),
        }
        false
    }

    /// Something is decided, and on disk.
    fn registry_told(&mut self, node: usize, event: &Told) {
        match event {
            Told::Placed { placement } => {
                let Ok(placement) = placement.unverified() else { return };
                if placement.previous != placement.host {
                    self.tally.completed += 1;
                    self.check.decided(placement.mig, true);
                }
                self.tell(node, |world| {
                    let host = world.by_host.get(&placement.host).map_or("?", |host| world.nodes[*host].name.as_str());
                    format!("places {} on {host}, epoch {}", placement.service, placement.epoch)
                });
            }
            Told::Aborted { ids, cause } => {
                self.tally.aborted += 1;
                self.check.decided(ids.mig, false);
                let (mig, cause) = (ids.mig, cause.name());
                self.tell(node, |_| format!("aborts {mig}: {cause}"));
            }
            Told::Removed { service, .. } => {
                let name = self.check.service(*service).map(|known| known.name.clone());
                self.tell(node, |_| format!("removes {}", name.unwrap_or_default()));
                self.look_at_tombstones();
            }
            other => self.tell(node, |_| format!("{other:?}").chars().take(120).collect()),
        }
    }
}
