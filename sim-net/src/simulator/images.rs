//! Images of instances on a host's disk, and what a host that starts again makes of them and of its log.

use wayfare_protocol::{
    host::{Base, HeldJob, ImageId, Logged, RestoreJob, Restored, hosted::Stay},
    reject::Guards,
};

use super::{
    coverage::Fault,
    event::Event,
    guest::{Guest, Image},
    host::{ImageFor, Task},
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
            ImageFor::Update { stay, order, image } => {
                let Some(disk) = self.nodes[node].host_disk() else { return };
                disk.images.synced(&image);
                if let Some(host) = self.nodes[node].as_host_mut() {
                    host.host.handle_updated(now, stay, order, Some(image), Ok(1000));
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

    pub(super) fn restore_instance(&mut self, node: usize, job: RestoreJob) {
        let stay = (job.service, job.epoch);
        let takes = 1_000 + 20 * job.log.len() as u64;
        if self.instance(node, stay, None) {
            self.task(node, stay, takes, Task::Restore(Box::new(job)));
        }
    }

    pub(super) fn replay_log(&mut self, node: usize, stay: Stay, job: &RestoreJob) {
        let result = self.rebuild(node, job).map(|(guest, restored)| {
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

    fn rebuild(&mut self, node: usize, job: &RestoreJob) -> Result<(Guest, Restored), String> {
        let disk = self.nodes[node].host_disk().ok_or("no disk")?;
        let (mut guest, belongings, image_bytes) = match &job.base {
            Base::Image(id) => {
                let image = disk.images.get(id).cloned().ok_or_else(|| format!("the image {id} is not there"))?;
                (image.guest, Some(image.belongings), 1000)
            }
            Base::Fresh { inputs } => {
                let started = Guest::outside(inputs).ok_or("the start was not recorded")?;
                (Guest::start(job.code, started), None, 0)
            }
        };
        if guest.code() != job.code {
            return Err("the image is of other code".to_owned());
        }
        let mut responses = Vec::new();
        for Logged { request, inputs, .. } in &job.log {
            let outside = Guest::outside(inputs).ok_or("what a call read was not recorded")?;
            responses.push(guest.call(request, outside).ok_or("the log has what is no request")?);
        }
        Ok((guest, Restored { belongings, responses, image_bytes }))
    }

    pub(super) fn handle_held_again(&mut self, node: usize, job: &HeldJob) {
        let (now, mig) = (self.now(node), job.mig);
        let Some(disk) = self.nodes[node].host_disk() else { return };
        let Some(Image { guest, belongings }) =
            disk.images.get(&ImageId::Held(mig)).filter(|image| image.guest.code() == job.code).cloned()
        else {
            self.violate("what a host promised to keep can be read again", || format!("the image held-{mig}"));
            return;
        };
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        host.landing.insert(mig, Landing::again(guest, belongings.clone()));
        host.host.handle_held_restored(now, mig, Ok(belongings));
    }
}
