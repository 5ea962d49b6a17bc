//! What must hold at the end, when everything is well again: the whole history of each service, and nothing left over.

use wayfare_protocol::{host::ImageId, reject::Guards};

use super::{check::Whereabouts, node::Disk, world::World};

impl<G: Guards> World<G> {
    /// At the end, when everything is well again: the whole history of each service.
    pub(super) fn check_end(&mut self) {
        for at in 0..self.check.services.len() {
            self.check_history(at);
        }
    }

    /// What is kept, anywhere, for an attempt or a stay that is over.
    pub(super) fn leftovers(&self) -> Option<String> {
        (0..self.nodes.len()).find_map(|node| self.leftovers_at(node))
    }

    fn check_history(&mut self, at: usize) {
        let service = &self.check.services[at];
        let Some(record) = service.record.filter(|_| !service.excused) else { return };
        let Some(node) = self.by_host.get(&record.host).copied() else { return };
        let instance = self.nodes[node].as_host().and_then(|host| host.instances.get(&(service.id, record.epoch)));
        let Some(guest) = instance.and_then(|instance| instance.guest.as_ref()) else { return };
        let missing = service.acked.iter().find(|(index, (name, chain))| {
            guest.list().get(**index as usize).is_none_or(|done| (done.name, done.chain) != (*name, *chain))
        });
        let refused = self.check.refused.iter().find(|(of, name)| *of == at && guest.has(*name)).copied();
        if let Some((index, (name, _))) = missing {
            let (index, name) = (*index, *name);
            self.violate("no acknowledged write is lost", || format!("{name}, number {index}, at the end"));
        } else if let Some((_, name)) = refused {
            self.violate("what is said not to be executed is not", || format!("{name}"));
        }
    }

    fn leftovers_at(&self, node: usize) -> Option<String> {
        let (name, me) = (&self.nodes[node].name, self.nodes[node].host);
        let host = self.nodes[node].as_host()?;
        let mut left = self.plan.capacity;
        for stay in host.instances.keys() {
            let service = self.check.service(stay.0)?;
            left = left.minus(&service.required).unwrap_or_default();
            let at_home = service.record.is_some_and(|record| record.host == me && record.epoch == stay.1);
            if !at_home && !service.excused && !self.check.sealed.contains(&(node, *stay)) {
                return Some(format!("{name} has an instance of {} of epoch {}", stay.0, stay.1));
            }
        }
        if self.check.old_disks.contains(&node) {
            return None;
        }
        let Disk::Host(disk) = &self.nodes[node].disk else { return None };
        let records = self.check.services.iter().filter_map(|service| service.record);
        let here: Vec<Whereabouts> = records.filter(|record| record.host == me).collect();
        let used = |image: &ImageId| match image {
            ImageId::Held(mig) => here.iter().any(|record| record.mig == *mig),
            ImageId::Taken { service, epoch, .. } | ImageId::Updated { service, epoch, .. } => {
                host.instances.contains_key(&(*service, *epoch))
            }
        };
        if let Some(image) = disk.images.keys().find(|image| !used(image)) {
            return Some(format!("{name} has the image {image}"));
        }
        if host.instances.len() < disk.images.len() {
            return Some(format!("{name} has {} images of {} services", disk.images.len(), host.instances.len()));
        }
        let excused = self.check.services.iter().any(|service| service.excused);
        let free = self.check.free.get(&node).filter(|free| **free != left && !excused)?;
        Some(format!("{name} says that {free:?} are free, {left:?} should be"))
    }
}
