//! An update's driver, as `node/src/host/fetch.rs` and `update.rs` have it: the module comes from the node that the order names,
//! and the new code takes the old one's state over beside it, until the switch.

use wayfare_protocol::{
    host::{FetchJob, UpdateJob, hosted::Stay},
    reject::Guards,
};

use super::{
    event::Event,
    guest::Image,
    host::{ImageFor, Task},
    world::World,
};

/// How long a module takes to come and be compiled, on average, µs.
const FETCH_US: u64 = 30_000;
/// How long the new code takes to take the state over, on average, µs.
const HAND_OVER_US: u64 = 5_000;

impl<G: Guards> World<G> {
    pub(super) fn fetch(&mut self, node: usize, job: FetchJob) {
        let life = self.nodes[node].life;
        let at = self.time + self.rng.wait(FETCH_US);
        self.queue.push(at, Event::Fetched { node, life, job: Box::new(job) });
    }

    /// The module is here, or cannot be had.
    pub(super) fn handle_fetched(&mut self, node: usize, job: &FetchJob) {
        let now = self.now(node);
        let from = self.by_host.get(&job.from).copied().filter(|from| self.nodes[*from].is_up());
        let module = from.and_then(|from| self.nodes[from].host_disk()?.modules.get(&job.code).cloned());
        let result = module.map(|module| {
            if let Some(disk) = self.nodes[node].host_disk() {
                disk.modules.insert(job.code, module);
            }
        });
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        if result.is_some() {
            host.host.handle_module(job.code);
        }
        let result = result.ok_or_else(|| "module_unavailable".to_owned());
        host.host.handle_fetched(now, (job.service, job.epoch), job.order, result);
    }

    pub(super) fn update(&mut self, node: usize, job: UpdateJob) {
        self.task(node, (job.service, job.epoch), HAND_OVER_US, Task::Update(Box::new(job)));
    }

    /// The new code takes the state over, and what comes of it is saved; or it will not.
    pub(super) fn hand_over(&mut self, node: usize, stay: Stay, job: &UpdateJob) {
        let (now, refuses) = (self.now(node), self.rng.one_in(5));
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let Some(instance) = host.instances.get_mut(&stay) else { return };
        let Some(old) = instance.guest.as_ref().filter(|_| !refuses) else {
            let refused = Err("no_state_import: for the test".to_owned());
            host.host.handle_updated(now, stay, job.order, job.image, refused);
            return;
        };
        let guest = old.taken_over_by(job.code);
        instance.next = Some(guest.clone());
        match job.image {
            None => host.host.handle_updated(now, stay, job.order, None, Ok(0)),
            Some(image) => {
                let belongings = job.belongings.clone();
                let why = ImageFor::Update { stay, order: job.order, image };
                self.save(node, image, Image { guest, belongings }, why);
            }
        }
    }

    /// What the update made is the instance from now on.
    pub(super) fn switch(&mut self, node: usize, stay: Stay) {
        let Some(host) = self.nodes[node].as_host_mut() else { return };
        let next = host.instances.get_mut(&stay).and_then(|instance| instance.next.take());
        let result = next.map(|guest| {
            self.set_guest(node, stay, guest);
            Vec::new()
        });
        self.started(node, stay, result.ok_or_else(|| "the new instance is gone".to_owned()));
    }

    /// Code that an update replaced executes nothing once its host has said so, and no other than the owner's ever does.
    pub(super) fn check_code(&mut self, node: usize, stay: Stay) {
        let Some(known) = self.check.service(stay.0) else { return };
        let Some(code) = self.guest(node, stay).map(super::guest::Guest::code) else { return };
        if !known.codes[known.code_floor..].contains(&code) {
            let (id, name) = (known.id, self.nodes[node].name.clone());
            let what = if known.codes.contains(&code) { "code that was replaced" } else { "code that nobody signed" };
            self.violate("only the owner's code runs, after an update only the new", || {
                format!("{id} on {name}: {what}")
            });
        }
    }
}
