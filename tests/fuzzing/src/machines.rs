//! Machines: an input is a story of what happens to a mesh in memory. After every step it is checked what must hold.

use std::{cell::OnceCell, thread_local};

use wayfare_protocol::{ids::HostId, registry::RevokeTarget, suite::Suite, time::Micros};

use crate::{
    input::Input,
    quick::Quick,
    world::{
        Content, Message, Stream, World,
        stages::{Victim, stages},
    },
};

/// Steps of one story, at most.
const STEPS_MAX: usize = 96;

thread_local! {
    static STAGES: OnceCell<Vec<World<Quick>>> = const { OnceCell::new() };
}

fn play(victim: Victim, bytes: &[u8]) {
    STAGES.with(|all| story(all.get_or_init(stages), victim, bytes));
}

/// A host that a service moves away from.
pub fn source(bytes: &[u8]) {
    play(Victim::Source, bytes);
}

/// A host that a service moves to.
pub fn target(bytes: &[u8]) {
    play(Victim::Target, bytes);
}

/// A host with nothing to do.
pub fn bystander(bytes: &[u8]) {
    play(Victim::Bystander, bytes);
}

/// The gateway.
pub fn gateway(bytes: &[u8]) {
    play(Victim::Gateway, bytes);
}

/// The Registry.
pub fn registry(bytes: &[u8]) {
    play(Victim::Registry, bytes);
}

/// All of them, by turns.
pub fn mesh(bytes: &[u8]) {
    play(Victim::Anybody, bytes);
}

/// Whoever starts from a damaged disk.
pub fn restart(bytes: &[u8]) {
    STAGES.with(|all| {
        let mut input = Input::new(bytes);
        if let Some(stage) = input.pick(all.get_or_init(stages)) {
            stage.clone().start_from_damage(&mut input);
        }
    });
}

/// Tells the story that `bytes` are, from one of `stages`.
pub fn story<S: Suite>(stages: &[World<S>], victim: Victim, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(stage) = input.pick(stages) else { return };
    let mut world = stage.clone();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut world, victim, &mut input);
        world.run();
        world.check();
    }
    world.nodes.values_mut().for_each(wake);
    world.run();
    world.check_views();
    world.check_disks();
}

/// In place of each message that is under way in each of `stages`, and before it, a forged one arrives, made of what `bytes`
/// says; then everything goes on.
pub fn sweep<S: Suite>(stages: &[World<S>], mut bytes: impl FnMut() -> [u8; 16]) {
    for stage in stages {
        for message in &stage.wires {
            let choices = bytes();
            let mut world = stage.clone();
            let mut input = Input::new(&choices);
            let forged = world.forge(&mut input, message.clone(), message.to);
            let _ = world.deliver(forged);
            world.check();
            world.settle(64);
            world.pass(Micros::from_secs(1));
            world.check();
        }
    }
}

fn wake<S: Suite>(node: &mut crate::world::Node<S>) {
    node.slow = false;
    node.sync();
}

fn attacked<S: Suite>(world: &World<S>, victim: Victim, input: &mut Input<'_>) -> HostId {
    let everybody: Vec<HostId> = world.hosts.iter().copied().chain([world.gateway, world.registry.host()]).collect();
    match victim {
        Victim::Source => everybody[0],
        Victim::Target => everybody[1],
        Victim::Bystander => everybody[2],
        Victim::Gateway => world.gateway,
        Victim::Registry => world.registry.host(),
        Victim::Anybody => *input.pick(&everybody).unwrap_or(&world.gateway),
    }
}

/// One of what is said, or was.
fn any<S: Suite>(world: &World<S>, input: &mut Input<'_>) -> Option<Message> {
    let all: Vec<&Message> = world.wires.iter().chain(&world.past).collect();
    input.pick(&all).map(|message| (*message).clone())
}

/// One of those that can be said to `to`.
fn fitting<S: Suite>(world: &World<S>, to: HostId, input: &mut Input<'_>) -> Option<Message> {
    let all: Vec<&Message> = world.wires.iter().chain(&world.past).filter(|message| message.to == to).collect();
    input.pick(&all).map(|message| (*message).clone())
}

fn step<S: Suite>(world: &mut World<S>, victim: Victim, input: &mut Input<'_>) {
    let what = input.byte();
    match what {
        0..=59 => {
            if let Some(message) = world.wires.pop_front() {
                let _ = world.deliver(message);
            }
        }
        60..=79 => {
            let at = input.index(world.wires.len());
            if let Some(message) = world.wires.remove(at) {
                let _ = world.deliver(message);
            }
        }
        80..=89 => world.settle(32),
        90..=94 => drop(world.wires.pop_front()),
        95..=119 => {
            // Instead of the next, or as well as it.
            if let Some(message) = world.wires.front().cloned() {
                let to = message.to;
                let forged = world.forge(input, message, to);
                let _ = world.deliver(forged);
            }
        }
        120..=149 => {
            let to = attacked(world, victim, input);
            if let Some(message) = fitting(world, to, input) {
                let forged = world.forge(input, message, to);
                let _ = world.deliver(forged);
            }
        }
        150..=164 => {
            let to = attacked(world, victim, input);
            if let Some(message) = any(world, input) {
                let forged = world.forge(input, message, to);
                let _ = world.deliver(forged);
            }
        }
        165..=174 => {
            // Said once more, as it was.
            if let Some(message) = any(world, input) {
                let _ = world.deliver(message);
            }
        }
        175..=184 => {
            const LENGTHS: [u64; 8] = [1, 100, 700, 3_000, 11_000, 29_000, 35_000, 700_000];
            let millis = input.pick(&LENGTHS).copied().unwrap_or(1);
            world.pass(Micros::from_millis(millis));
        }
        185..=189 => {
            let to = attacked(world, victim, input);
            let stream = [Stream::Registry, Stream::Migrate, Stream::Client, Stream::Gossip][input.index(4)];
            let content = Content::Frame(stream, input.some(255).to_vec());
            let message = Message { from: world.attacker.host, to, content };
            let _ = world.deliver(message);
        }
        190..=194 => {
            let to = attacked(world, victim, input);
            world.intrude(input, to);
        }
        195..=207 => world.ask(input.index(3), what.is_multiple_of(2)),
        208..=214 => world.begin_move(input.index(3), input.index(4)),
        215..=219 => world.order(input.index(3), input.byte()),
        _ => disturb(world, what, input),
    }
}

/// What happens to machines rather than messages.
fn disturb<S: Suite>(world: &mut World<S>, what: u8, input: &mut Input<'_>) {
    let host = world.hosts[input.index(world.hosts.len())];
    let now = world.now;
    match what {
        220..=223 => world.crash(host),
        224 | 225 => world.crash_registry(false),
        226 => world.crash_registry(true),
        227 => world.back_up(),
        228..=230 => world.crash_gateway(),
        231..=233 => {
            if let Some(node) = world.nodes.get_mut(&host) {
                node.slow = true;
            }
        }
        234..=237 => {
            if let Some(node) = world.nodes.get_mut(&host) {
                wake(node);
            }
        }
        238 => world.deploy(input.index(3)),
        239 => {
            let target = RevokeTarget::Host(host);
            let _ = world.registry.revoke(now, &target);
        }
        _ => {
            let (number, other) = (input.byte(), world.hosts[input.index(world.hosts.len())]);
            let World { rng, nodes, entrance, gateway, .. } = world;
            let Some(node) = nodes.get_mut(&host) else { return };
            let machine = &mut node.host;
            match what {
                240 => machine.set_cordoned(number.is_multiple_of(2)),
                241 if number.is_multiple_of(2) => machine.start_drain(),
                241 => machine.stop_drain(),
                242 => machine.set_full(number.is_multiple_of(2)),
                243 => machine.handle_peer_lost(now, other, "gone", rng),
                244 => machine.handle_gateway_lost(*gateway),
                245 => machine.record_rtt(now, other, Micros(u64::from(number) << (number % 32))),
                246 => machine.record_loss(now, other),
                247 => machine.handle_peer_connected(now),
                248 => machine.farewell(now),
                249 => machine.forget_lost(),
                250 => machine.compact_if(now, u64::from(number) * 64),
                251 => entrance.machine.handle_disconnected(now, host),
                252 => entrance.machine.handle_connected(now, host),
                253 => entrance.machine.compact_if(u64::from(number) << 20),
                254 => entrance.machine.set_full(number.is_multiple_of(2)),
                _ => entrance.machine.record_rtt(now, other, Micros(u64::from(number) << (number % 32))),
            }
        }
    }
}
