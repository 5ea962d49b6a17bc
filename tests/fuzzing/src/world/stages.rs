//! Where stories begin: an honest mesh, at every step of a move.

use wayfare_protocol::{suite::Suite, time::Micros};

use super::World;

/// Who is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The host that a service moves away from.
    Source,
    /// The host that it moves to.
    Target,
    /// A host that has nothing to do with it.
    Bystander,
    /// The users' gateway.
    Gateway,
    /// The Registry.
    Registry,
    /// Whoever comes.
    Anybody,
}

/// Stages of one move, at most: it takes fewer messages.
const STEPS_MAX: usize = 40;

/// Every beginning: with nothing; with services; and after each message of a move from home to alpha, of one from Mallory's cloud
/// to alpha, and of one from home to Mallory's cloud.
pub fn stages<S: Suite>() -> Vec<World<S>> {
    let mut world = World::<S>::new();
    let mut stages = vec![world.clone()];
    for number in 0..3 {
        world.deploy(number);
    }
    calm(&mut world);
    world.back_up();
    for number in 0..3 {
        world.ask(number, number == 1);
    }
    calm(&mut world);
    assert_eq!(world.services().len(), 3, "three services run");
    stages.push(world.clone());
    for (number, to) in [(0, 1), (2, 1), (1, 3)] {
        world.begin_move(number, to);
        world.ask(number, false);
        // Its owner says something, too, that changes nothing: START.
        world.order(number, 1);
        for _ in 0..STEPS_MAX {
            let Some(message) = world.wires.pop_front() else { break };
            let _ = world.deliver(message);
            stages.push(world.clone());
        }
        calm(&mut world);
        let (host, _) = world.placed[&world.service(number)];
        assert_eq!(host, world.hosts[to], "it has moved");
        stages.push(world.clone());
    }
    stages
}

/// Everything arrives, and adverts are made anew.
fn calm<S: Suite>(world: &mut World<S>) {
    for _ in 0..4 {
        world.settle(256);
        world.pass(Micros::from_secs(1));
    }
    world.settle(256);
}
