//! A service's code is updated, in memory, with all production machines: what stays, what is refused, and who crashes when.

use wayfare_protocol::{
    host::{Entry, ImageId},
    ids::{Digest, ServiceId},
    limits::{ADVERT_INTERVAL, CONFIRM_AFTER},
    manifest::{Durability, Manifest},
    migration::messages::RegistryFrame,
    order::{Action, OrderFrame, Outcome},
    reject::Reject,
    suite::Dalek,
    time::Micros,
    trust::{Receiver, Signed},
};

#[path = "common/seeded.rs"]
mod seeded;
#[path = "handover/world.rs"]
mod world;

use world::{CODE, HANGS, MISSING, Message, OWNER, REFUSES, World};

type Edit = fn(&mut Manifest);

const NEW: Digest = Digest([17; 32]);
const MOMENT: Micros = Micros::from_millis(100);

fn durable() -> (World, ServiceId) {
    let mut world = World::new();
    world.durability = Durability::Log;
    let service = world.deploy();
    (world, service)
}

/// An update to other code, with whatever else changes.
fn update(world: &World, service: ServiceId, keep: bool, edit: impl FnOnce(&mut Manifest)) -> OrderFrame {
    let mut manifest = world.manifest().unverified().expect("well-formed");
    (manifest.version, manifest.code) = (world.version + 1, NEW);
    edit(&mut manifest);
    let manifest = Signed::sign::<Dalek>(&OWNER, service.registry, Receiver::Anyone, &manifest);
    let from = world.nodes.keys().next().copied().expect("a node");
    let order = world.order(service, Action::Update { manifest: manifest.hash(), keep, from });
    OrderFrame { manifest: Some(manifest), ..order }
}

fn outcome(world: &mut World, frame: &OrderFrame) -> Option<Outcome> {
    world.submit(frame);
    world.said(frame).expect("R knows it").outcome.clone()
}

fn refused(name: &str) -> Option<Outcome> {
    Some(Outcome::Refused(name.to_owned()))
}

/// The hash of the manifest that the record names.
fn recorded(world: &World, service: ServiceId) -> Digest {
    world.registry.placement(service).expect("registered").manifest
}

#[test]
fn new_code_goes_on_with_the_state_and_the_clients_also_after_a_crash_and_a_move() {
    for durability in [Durability::Log, Durability::Memory] {
        let mut world = World::new();
        world.durability = durability;
        let service = world.deploy();
        let (home, alpha) = (world.named("home"), world.named("alpha"));
        assert_eq!(world.count(), "1");
        let frame = update(&world, service, true, |_| ());
        assert_eq!(outcome(&mut world, &frame), None);
        world.pass(MOMENT);
        assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
        assert_eq!(recorded(&world, service), frame.manifest.as_ref().unwrap().hash());
        assert_eq!(world.count(), "2");
        if durability == Durability::Log {
            let images: Vec<ImageId> = world.node(home).images.keys().copied().collect();
            assert!(matches!(images[..], [ImageId::Updated { .. }]), "{images:?}");
            world.crash(home);
            world.pass(Micros::from_secs(1));
            assert_eq!(world.node(home).restored, [NEW]);
            assert_eq!(world.count(), "3", "from the image, with the log behind it");
        }
        world.pass(ADVERT_INTERVAL);
        world.node(alpha).host.handle_module(NEW);
        let before = world.count();
        world.begin_move(service, home, alpha);
        world.pass(Micros::from_secs(1));
        assert_eq!(world.instances(), [alpha]);
        assert_eq!(world.count().parse::<u64>().unwrap(), before.parse::<u64>().unwrap() + 1);
        assert!(world.node(home).images.is_empty());
    }
}

#[test]
fn an_update_without_the_state_begins_anew() {
    let (mut world, service) = durable();
    assert_eq!([world.count(), world.count()], ["1", "2"]);
    let frame = update(&world, service, false, |_| ());
    world.submit(&frame);
    world.pass(MOMENT);
    assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
    assert_eq!(world.count(), "1");
}

#[test]
fn what_cannot_be_is_refused_by_name_and_the_old_code_goes_on() {
    let (mut world, service) = durable();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let before = recorded(&world, service);
    let cases: [(Edit, &str); 3] = [
        (|manifest| manifest.code = MISSING, "no_module: gone"),
        (|manifest| manifest.code = REFUSES, "state_refused: 1"),
        (|manifest| manifest.required.memory_bytes = 1 << 40, Reject::NoResources.name()),
    ];
    for (count, (edit, name)) in (2..).zip(cases) {
        let frame = update(&world, service, true, edit);
        world.submit(&frame);
        world.pass(MOMENT);
        assert_eq!(outcome(&mut world, &frame), refused(name));
        assert_eq!((recorded(&world, service), world.count()), (before, format!("{count}")));
    }
    world.crash(home);
    world.pass(Micros::from_secs(1));
    assert!(!world.node(home).images.keys().any(|image| matches!(image, ImageId::Updated { .. })));
    assert!(world.node(home).restored.iter().all(|code| *code == CODE));
    assert_eq!(world.count(), "5");
}

#[test]
fn requests_wait_for_the_switch_to_be_on_disk_and_a_crash_before_it_leaves_the_old_code() {
    for crash in [false, true] {
        let (mut world, service) = durable();
        let home = world.named("home");
        assert_eq!(world.count(), "1");
        world.node(home).slow_disk = true;
        let frame = update(&world, service, true, |_| ());
        world.submit(&frame);
        world.pass(MOMENT);
        let waiting = world.ask();
        world.pass(MOMENT);
        assert_eq!(world.answers.get(&waiting), None);
        assert_eq!(outcome(&mut world, &frame), None, "it is not on disk");
        if !crash {
            continue;
        }
        world.crash(home);
        world.pass(Micros::from_secs(1));
        assert_eq!(world.node(home).restored, [CODE]);
        // R tells it again with the lease.
        world.pass(Micros::from_secs(30));
        assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
        assert_eq!((world.answers[&waiting].clone(), world.count()), ("2".to_owned(), "3".to_owned()));
    }
}

#[test]
fn no_move_begins_before_the_registry_has_heard_and_it_is_told_until_it_has() {
    let (mut world, service) = durable();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    world.loses = Box::new(|message| match message {
        Message::Registry { frame, .. } => matches!(frame, RegistryFrame::OrderDone(_)),
        _ => false,
    });
    let frame = update(&world, service, true, |_| ());
    world.submit(&frame);
    world.pass(Micros::from_secs(40));
    assert_eq!(outcome(&mut world, &frame), None);
    assert_eq!(world.count(), "2", "its lease goes on under the manifest that R knows");
    let now = world.now;
    let mut rng = seeded::Seeded(7);
    let refused = world.node(home).host.begin_move(now, service, alpha, "asked", &mut rng);
    assert_eq!(refused, Err(Reject::Conflict));
    world.crash(home);
    world.loses = Box::new(|_| false);
    world.pass(CONFIRM_AFTER.times(5));
    assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done), "it was on disk");
    world.pass(ADVERT_INTERVAL);
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!((world.instances(), world.count().as_str()), (vec![alpha], "3"));
}

#[test]
fn an_update_during_a_move_is_carried_out_where_the_service_is_then() {
    let (mut world, service) = durable();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    world.loses = Box::new(|message| {
        matches!(message, Message::Registry { frame: RegistryFrame::Complete(_) | RegistryFrame::Reclaim(_), .. })
    });
    world.begin_move(service, home, alpha);
    world.pass(MOMENT);
    let frame = update(&world, service, true, |_| ());
    world.submit(&frame);
    world.pass(Micros::from_secs(1));
    assert_eq!(outcome(&mut world, &frame), None, "it is frozen");
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(20));
    assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
    assert_eq!((world.instances(), world.count().as_str()), (vec![alpha], "2"));
}

#[test]
fn a_stopped_service_stays_stopped_and_a_removal_ends_an_update() {
    let (mut world, service) = durable();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let stop = world.order(service, Action::Stop);
    world.submit(&stop);
    world.pass(MOMENT);
    let frame = update(&world, service, true, |_| ());
    world.submit(&frame);
    world.pass(MOMENT);
    assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
    assert!(world.node(home).host.is_stopped(service));
    world.crash(home);
    world.pass(Micros::from_secs(1));
    assert!(world.node(home).host.is_stopped(service));
    world.version += 1;
    let second = update(&world, service, true, |manifest| manifest.code = HANGS);
    world.submit(&second);
    world.pass(MOMENT);
    let job = world.node(home).hanging.take().expect("the new instance is being made");
    let remove = world.order(service, Action::Remove);
    world.submit(&remove);
    world.pass(MOMENT);
    assert_eq!((world.instances(), outcome(&mut world, &remove)), (vec![], Some(Outcome::Done)));
    let (now, image) = (world.now, job.image.expect("it has a log"));
    world.node(home).images.insert(image, (world::Counter(0), job.belongings));
    world.node(home).host.handle_updated(now, (service, job.epoch), job.order, Some(image), Ok(8));
    world.pass(MOMENT);
    assert!(world.node(home).images.is_empty(), "what came too late is deleted");
}

/// What travelled with the service said so, and the update's entry does not.
#[test]
fn a_service_that_came_stopped_stays_so_over_an_update_and_a_crash() {
    let (mut world, service) = durable();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    let stop = world.order(service, Action::Stop);
    world.submit(&stop);
    world.pass(MOMENT);
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.instances(), [alpha]);
    let frame = update(&world, service, true, |_| ());
    world.submit(&frame);
    world.pass(Micros::from_secs(1));
    assert_eq!(outcome(&mut world, &frame), Some(Outcome::Done));
    assert!(world.node(alpha).host.is_stopped(service));
    world.crash(alpha);
    world.pass(Micros::from_secs(1));
    assert!(world.node(alpha).host.is_stopped(service));
}

#[test]
fn an_update_survives_the_compaction_of_the_journal() {
    let (mut world, service) = durable();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let frame = update(&world, service, true, |_| ());
    world.submit(&frame);
    world.pass(MOMENT);
    assert_eq!(world.count(), "2");
    let now = world.now;
    world.node(home).host.compact_if(now, u64::MAX);
    world.pass(MOMENT);
    assert!(world.node(home).journal.iter().any(|(_, entry)| matches!(entry, Entry::Snapshot(_))));
    world.crash(home);
    world.pass(Micros::from_secs(1));
    assert_eq!((world.node(home).restored.clone(), world.count()), (vec![NEW], "3".to_owned()));
}
