//! Disks that say something else than what was written: whoever reads them starts, or says why not, and goes on from there.

use wayfare_protocol::{
    gateway::{self, Gateway},
    host::{Entry, Host},
    registry::Registry,
    reject::Strict,
    suite::Suite,
    time::{Micros, Now},
    wire,
};

use super::World;
use crate::{input::Input, spans::spans};

/// Effects of a start that are looked at.
const EFFECTS_MAX: usize = 1000;

/// Some fields of a `T`'s bytes, or any bytes of them, altered.
fn damaged<T: serde::de::DeserializeOwned>(input: &mut Input<'_>, bytes: &mut Vec<u8>) {
    let fields = spans::<T>(bytes);
    for _ in 0..1 + input.byte() % 3 {
        let Some(field) = input.pick(&fields).cloned() else { return };
        let how = input.byte();
        match bytes.get_mut(field) {
            Some(field) if how.is_multiple_of(4) => field.fill(how >> 2),
            Some(field) if !field.is_empty() => {
                let at = usize::from(how >> 2) % field.len();
                field[at] = input.byte();
            }
            _ => bytes.truncate(how.into()),
        }
    }
}

impl<S: Suite> World<S> {
    /// Starts a host, the gateway and the Registry from what is left of their disks.
    pub fn start_from_damage(&mut self, input: &mut Input<'_>) {
        let later = Micros::from_secs(input.byte().into());
        let later = Now { mono: self.now.mono + later, wall: self.now.wall + later };
        self.damaged_host(input, later);
        self.damaged_gateway(input, later);
        self.damaged_registry(input, later);
    }

    fn damaged_host(&mut self, input: &mut Input<'_>, later: Now) {
        let chosen = self.hosts[input.index(self.hosts.len())];
        let Some(node) = self.nodes.get(&chosen) else { return };
        let mut journal = node.journal.clone();
        let at = input.index(journal.len());
        if let Some((_, entry)) = journal.get_mut(at) {
            let mut bytes = wire::encode(entry);
            damaged::<Entry>(input, &mut bytes);
            if let Ok(other) = wire::decode(&bytes) {
                *entry = other;
            }
        }
        if input.byte().is_multiple_of(2) && !journal.is_empty() {
            journal.remove(input.index(journal.len()));
        }
        let (identity, config, bundle) = (node.identity.clone(), node.config.clone(), node.bundle.clone());
        let restored = Host::<S, Strict>::restore(identity, config, bundle, self.now, node.last(), journal);
        let Ok(mut host) = restored else { return };
        host.handle_timeout(later, &mut self.rng);
        host.compact_if(later, u64::MAX);
        assert!((0..EFFECTS_MAX).any(|_| host.poll_effect().is_none()), "a start does not end");
        let _ = (host.services(later), host.figures(later), host.drain_view(later));
    }

    fn damaged_gateway(&mut self, input: &mut Input<'_>, later: Now) {
        let mut journal = self.entrance.journal.clone();
        let at = input.index(journal.len());
        if let Some((_, entry)) = journal.get_mut(at) {
            let mut bytes = wire::encode(entry);
            damaged::<gateway::Entry>(input, &mut bytes);
            if let Ok(other) = wire::decode(&bytes) {
                *entry = other;
            }
        }
        let last = journal.last().map_or(0, |(seq, _)| *seq);
        let config = self.entrance.config.clone();
        let mut gateway = Gateway::<S, Strict>::new(config, &journal, last, &mut self.rng);
        gateway.handle_timeout(self.now);
        gateway.handle_timeout(later);
        gateway.compact_if(u64::MAX);
        assert!((0..EFFECTS_MAX).any(|_| gateway.poll_effect().is_none()), "a start does not end");
    }

    fn damaged_registry(&mut self, input: &mut Input<'_>, later: Now) {
        let mut rows: Vec<_> =
            self.store.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect();
        let at = input.index(rows.len());
        if let Some((_, key, value)) = rows.get_mut(at) {
            let bytes = if input.byte().is_multiple_of(8) { key } else { value };
            let place = input.index(bytes.len());
            match (input.byte() % 4, bytes.get_mut(place)) {
                (0, _) => bytes.truncate(place),
                (1, Some(byte)) => *byte = 0,
                (2, Some(byte)) => *byte = 0xff,
                (_, Some(byte)) => *byte ^= input.byte(),
                (_, None) => {}
            }
        }
        if input.byte().is_multiple_of(2) && !rows.is_empty() {
            rows.remove(input.index(rows.len()));
        }
        let Ok(mut registry) = Registry::<S, Strict>::restore(self.config.clone(), self.now, rows) else { return };
        registry.handle_timeout(later, &mut self.rng);
        let (placements, enrolled) = (registry.placements(later).count(), registry.enrolled().count());
        assert!(placements + enrolled <= registry.records().len());
        assert!((0..EFFECTS_MAX).any(|_| registry.poll_effect().is_none()), "a start does not end");
    }
}
