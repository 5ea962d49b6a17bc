//! Images of instances on a host's disk, and what a host that starts again makes of them and of its log.

use wayfare_protocol::{
    host::{Base, ImageId, Restored, hosted::Stay},
    ids::MigrationId,
    reject::Guards,
};

use super::{
    coverage::Fault,
    event::Event,
    guest::{Guest, Image},
    host::{ImageFor, Instance, Task},
    node::Machine,
    transfer::Landing,
    world::World,
};

impl<G: Guards> World<G> {
    /// Writes an image under its name, and says when it is synced.
    pub(super) fn save(&mut self, node: usize, id: ImageId, image: Image, why: ImageFor) {
        let Some(disk) = self.nodes[node].host_disk() else { return };
        disk.images.write(id, image);
        let life = self.nodes[node].life;
        let at = self.time + self.disk_delay();
        self.queue.push(at, Event::Saved { node, life, image: why });
    }

    pub(super) fn handle_saved(&mut self, node: usize, why: ImageFor) {
        self.cover(node, "file", Fault::None);
        let now = self.now(node);
        match why {
            ImageFor::Log { stay, upto } => {
                let (service, epoch) = stay;
                let Some(disk) = self.nodes[node].host_disk() else { return };
                disk.images.synced(&ImageId::Taken { service, epoch, upto });
                if let Some(host) = self.nodes[node].as_host_mut() {
                    host.host.handle_saved(now, stay, upto, Ok(1000));
                }
            }
            ImageFor::Arrival(mig) => {
                let there = self.nodes[node].host_disk().is_some_and(|disk| disk.images.synced(&ImageId::Held(mig)));
                if there {
                    self.received(node, mig);
                }
            }
        }
    }

    pub(super) fn restore_instance(&mut self, node: usize, job: wayfare_protocol::host::RestoreJob) {
        let stay = (job.service, job.epoch);
        let (image, started) = match job.base {
            Base::Fresh { inputs } => (None, inputs),
            Base::Image(image) => (Some(image), Vec::new()),
        };
        let takes = 1_000 + 20 * job.log.len() as u64;
        let log = job.log.into_iter().map(|logged| (logged.request, logged.inputs)).collect();
        let (id, busy_until) = (self.next_instance(), self.time);
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        host.instances.insert(stay, Instance { id, guest: None, busy_until });
        self.task(node, stay, takes, Task::Restore { image, started, log });
    }

    pub(super) fn replay_log(
        &mut self,
        node: usize,
        stay: Stay,
        image: Option<ImageId>,
        started: &[u8],
        log: &[(Vec<u8>, Vec<u8>)],
    ) {
        let result = self.rebuild(node, image, started, log).map(|(guest, restored)| {
            self.set_guest(node, stay, guest);
            restored
        });
        if let Err(reason) = &result {
            let reason = reason.clone();
            self.violate("what a host promised to keep can be read again", || reason);
        }
        let now = self.now(node);
        let Self { nodes, rng, .. } = self;
        if let Machine::Host(host) = &mut nodes[node].machine {
            host.host.handle_restored(now, stay, result, rng);
        }
    }

    fn rebuild(
        &mut self,
        node: usize,
        image: Option<ImageId>,
        started: &[u8],
        log: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(Guest, Restored), String> {
        let disk = self.nodes[node].host_disk().ok_or("no disk")?;
        let (mut guest, belongings) = match image {
            Some(id) => {
                let image = disk.images.get(&id).cloned().ok_or_else(|| format!("the image {id} is not there"))?;
                (image.guest, Some(image.belongings))
            }
            None => (Guest::start(Guest::outside(started).ok_or("the start was not recorded")?), None),
        };
        let mut responses = Vec::new();
        for (request, inputs) in log {
            let outside = Guest::outside(inputs).ok_or("what a call read was not recorded")?;
            responses.push(guest.call(request, outside).ok_or("the log has what is no request")?);
        }
        let image_bytes = if image.is_some() { 1000 } else { 0 };
        Ok((guest, Restored { belongings, responses, image_bytes }))
    }

    pub(super) fn handle_held_again(&mut self, node: usize, mig: MigrationId) {
        let now = self.now(node);
        let Some(disk) = self.nodes[node].host_disk() else { return };
        let Some(Image { guest, belongings }) = disk.images.get(&ImageId::Held(mig)).cloned() else {
            self.violate("what a host promised to keep can be read again", || format!("the image held-{mig}"));
            return;
        };
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        host.landing.insert(mig, Landing::again(guest, belongings.clone()));
        host.host.handle_held_restored(now, mig, Ok(belongings));
    }
}
