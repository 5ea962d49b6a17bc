//! Owners' orders in memory, with all production machines: what is stopped, started and removed, and what clients see.

use wayfare_protocol::{
    host::ImageId,
    ids::{Digest, Epoch, Nonce, ServiceId},
    limits::{ADVERT_INTERVAL, LEASE, lease_counted},
    manifest::Durability,
    migration::messages::{Recovering, RegistryFrame},
    order::{Action, Order, OrderFrame, Outcome, Tombstone},
    reject::Reject,
    suite::{Dalek, Secret},
    time::Micros,
    trust::{Receiver, Signed},
    wire::Frame,
};

#[path = "common/seeded.rs"]
mod seeded;
#[path = "handover/world.rs"]
mod world;

use world::{Message, World};

const STOPPED: &str = "failed: the service is stopped by its owner";
const GONE: &str = "failed: no such service is registered";

fn durable() -> World {
    let mut world = World::new();
    world.durability = Durability::Log;
    world
}

/// Gives an order and sees it carried out.
fn done(world: &mut World, service: wayfare_protocol::ids::ServiceId, action: Action) {
    let frame = world.order(service, action);
    world.submit(&frame);
    world.pass(Micros::from_millis(100));
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done), "{action:?}");
}

#[test]
fn a_stopped_service_executes_nothing_wherever_it_goes_and_whoever_crashes_until_it_is_started() {
    let mut world = durable();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    done(&mut world, service, Action::Stop);
    assert_eq!(world.count(), STOPPED);
    world.crash(home);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.count(), STOPPED, "it was on disk");
    world.pass(ADVERT_INTERVAL);
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    assert_eq!((world.instances(), world.count()), (vec![alpha], STOPPED.to_owned()), "it moves by hand");
    world.crash(alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.count(), STOPPED, "it came along in the image");
    done(&mut world, service, Action::Start);
    assert_eq!(world.count(), "2", "nothing was lost, nothing executed");
    world.crash(alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.count(), "3");
}

#[test]
fn a_drain_takes_stopped_services_along() {
    let mut world = durable();
    let service = world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    assert_eq!(world.count(), "1");
    done(&mut world, service, Action::Stop);
    let mut at = home;
    for to in [alpha, beta] {
        let other = if to == alpha { beta } else { alpha };
        world.node(other).host.set_cordoned(true);
        world.node(to).host.set_cordoned(false);
        world.pass(ADVERT_INTERVAL);
        // Also one that a restart has just taken up again.
        world.crash(at);
        world.node(at).host.start_drain();
        world.pass(Micros::from_secs(5));
        let now = world.now;
        assert_eq!(world.node(at).host.drain_view(now).left, []);
        assert_eq!((world.instances(), world.count()), (vec![to], STOPPED.to_owned()));
        at = to;
    }
    done(&mut world, service, Action::Start);
    assert_eq!(world.count(), "2");
}

#[test]
fn what_was_taken_on_before_a_stop_is_answered_and_an_answer_is_repeated_after_it() {
    let mut world = World::new();
    let service = world.deploy();
    assert_eq!(world.count(), "1");
    // The host's lease ends, so that a request waits there when the order comes.
    world.loses = Box::new(|message| matches!(message, Message::Registry { frame: RegistryFrame::Renew(_), .. }));
    world.pass(LEASE);
    let home = world.named("home");
    let now = world.now;
    assert!(!world.node(home).host.may_answer(now, service));
    let before = world.ask();
    world.pass(Micros::from_millis(100));
    let frame = world.order(service, Action::Stop);
    world.submit(&frame);
    let after = world.ask();
    world.pass(Micros::from_millis(200));
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, None, "the first is not answered yet");
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(20));
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done));
    assert_eq!([before, after].map(|ticket| world.answers[&ticket].clone()), ["2", STOPPED]);
    assert_eq!(world.count(), STOPPED);
}

#[test]
fn an_order_that_its_host_did_not_hear_is_told_again_with_the_lease() {
    let mut world = World::new();
    let service = world.deploy();
    assert_eq!(world.count(), "1");
    for lost in ["Order", "OrderDone"] {
        let (action, expected) = if lost == "Order" { (Action::Stop, STOPPED) } else { (Action::Start, "2") };
        let to = world.registry.host();
        world.loses = Box::new(move |message| match message {
            Message::Registry { from, frame, .. } => frame.name() == lost && (lost == "OrderDone" || *from == to),
            _ => false,
        });
        let frame = world.order(service, action);
        world.submit(&frame);
        world.pass(Micros::from_secs(1));
        assert_eq!(world.said(&frame).unwrap().outcome, None);
        world.loses = Box::new(|_| false);
        world.pass(LEASE);
        world.submit(&frame);
        assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done), "{lost}");
        assert_eq!(world.count(), expected);
    }
}

#[test]
fn an_order_given_during_a_move_is_carried_out_by_whoever_has_the_service_then() {
    for won in [true, false] {
        let mut world = World::new();
        let service = world.deploy();
        let (home, alpha) = (world.named("home"), world.named("alpha"));
        assert_eq!(world.count(), "1");
        // Frozen, until 10 arrives or the source asks.
        world.loses = Box::new(move |message| match message {
            Message::Registry { frame: RegistryFrame::Complete(_), .. } => true,
            Message::Registry { frame: RegistryFrame::Reclaim(_), .. } => won,
            _ => false,
        });
        world.begin_move(service, home, alpha);
        world.pass(Micros::from_millis(100));
        let frame = world.order(service, Action::Stop);
        world.submit(&frame);
        world.pass(Micros::from_secs(1));
        world.submit(&frame);
        assert_eq!(world.said(&frame).unwrap().outcome, None, "it is frozen");
        if won {
            world.loses = Box::new(|_| false);
        }
        world.pass(Micros::from_secs(10));
        world.loses = Box::new(|_| false);
        world.pass(Micros::from_secs(15));
        world.submit(&frame);
        assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done), "won: {won}");
        assert_eq!(world.count(), STOPPED);
        assert_eq!(world.instances(), [if won { alpha } else { home }]);
    }
}

#[test]
fn a_removed_service_leaves_nothing_and_its_name_begins_anew_behind_its_last_epoch() {
    let mut world = durable();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.count(), "1");
    assert!(!world.node(alpha).images.is_empty());
    done(&mut world, service, Action::Remove);
    assert!(world.instances().is_empty() && world.node(alpha).images.is_empty());
    assert_eq!(world.count(), GONE);
    world.crash(alpha);
    world.pass(Micros::from_secs(1));
    assert!(world.instances().is_empty(), "it does not come back");
    // The name is free at once: its host has said that it deleted it.
    world.version = 2;
    assert_eq!(world.deploy(), service);
    assert_eq!(world.count(), "1", "from the beginning, followed by the same gateway");
    assert_eq!(world.registry.placement(service).unwrap().epoch, Epoch { era: 3, hop: 0 });
    assert_eq!(world.instances(), [home]);
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    assert_eq!(world.count(), "2", "also back to where it was removed");
}

#[test]
fn a_host_that_was_away_learns_of_the_removal_when_it_comes_back_and_the_name_waits_for_its_lease() {
    let mut world = durable();
    let service = world.deploy();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let away = home;
    world.loses = Box::new(move |message| match message {
        Message::Registry { from, to, .. } | Message::Client { from, to, .. } => *from == away || *to == away,
        _ => false,
    });
    let frame = world.order(service, Action::Remove);
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, None, "its host may serve until its lease ends");
    world.pass(LEASE);
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, None);
    world.pass(lease_counted(LEASE));
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done), "whether or not the host comes back");
    assert_eq!(world.instances(), [home], "it has not heard of it");
    let now = world.now;
    assert!(!world.node(home).host.may_answer(now, service));
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(20));
    assert!(world.instances().is_empty(), "it was shown the tombstone when it asked for a lease");
    world.crash(home);
    world.pass(Micros::from_secs(1));
    assert!(world.instances().is_empty());
}

#[test]
fn a_restored_registry_is_shown_tombstones_also_after_a_crash() {
    use std::{cell::RefCell, rc::Rc};
    let mut world = durable();
    let service = world.deploy();
    let (home, registry) = (world.named("home"), world.registry.host());
    done(&mut world, service, Action::Remove);
    let epoch = world.registry.tombstone(service).unwrap().epoch;
    for crashes in [false, true] {
        if crashes {
            world.crash(home);
        }
        let shown = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&shown);
        world.loses = Box::new(move |message| {
            let Message::Registry { to, frame, .. } = message else { return false };
            if let RegistryFrame::Removed(tombstone) = frame {
                heard.borrow_mut().push(tombstone.unverified().unwrap());
            }
            *to == registry
        });
        let frame = RegistryFrame::Recovering(Recovering { nonce: Nonce([1; 16]) });
        world.deliver(Message::Registry { from: registry, to: home, frame });
        world.settle();
        let shown: Vec<_> = shown.borrow().iter().map(|tombstone| (tombstone.service, tombstone.epoch)).collect();
        assert_eq!(shown, [(service, epoch)]);
    }
}

#[test]
fn a_host_obeys_the_owner_alone_once_and_deletes_at_its_registrys_word_only() {
    let mut world = durable();
    let service = world.deploy();
    let (home, now, id) = (world.named("home"), world.now, service.registry);
    done(&mut world, service, Action::Stop);
    let old = world.order(service, Action::Start).order.unverified().unwrap();
    done_later(&mut world, service);
    let (owner, thief) = (&world::OWNER, Secret::new([66; 32]));
    let order = Order { sequence: now.wall.0 + 60_000_000, ..old.clone() };
    let to = Receiver::Registry(id);
    let elsewhere = Order { service: ServiceId { unique: [5; 16], ..service }, ..order.clone() };
    let tombstone =
        Tombstone { service, epoch: Epoch { era: 9, hop: 0 }, version: 9, order: Digest([1; 32]), at: now.wall };
    let orders = [
        ("another owner's key", Signed::sign::<Dalek>(&thief, id, to, &order), Reject::BadSignature),
        ("for a host", Signed::sign::<Dalek>(owner, id, Receiver::Host(home), &order), Reject::BadSignature),
        ("of another service", Signed::sign::<Dalek>(owner, id, to, &elsewhere), Reject::UnknownService),
    ];
    let mut frames: Vec<_> =
        orders.into_iter().map(|(what, signed, reject)| (what, RegistryFrame::Order(framed(signed)), reject)).collect();
    let forged = Signed::sign::<Dalek>(&thief, id, Receiver::Anyone, &tombstone);
    frames.push(("a thief's tombstone", RegistryFrame::Removed(forged), Reject::BadSignature));
    let by_owner = Signed::sign::<Dalek>(owner, id, Receiver::Anyone, &tombstone);
    frames.push(("the owner's own tombstone", RegistryFrame::Removed(by_owner), Reject::BadSignature));
    for (what, frame, reject) in frames {
        let mut rng = seeded::Seeded(3);
        let host = &mut world.node(home).host;
        assert_eq!(host.handle_registry_frame(now, id, &frame.to_bytes(), &mut rng), Err(reject), "{what}");
        assert!(world.instances() == [home] && world.node(home).host.is_stopped(service), "{what}");
    }
    // An old one of the owner's own: answered, and not carried out.
    let frame = RegistryFrame::Order(framed(Signed::sign::<Dalek>(owner, id, to, &old)));
    let host = &mut world.node(home).host;
    assert_eq!(host.handle_registry_frame(now, id, &frame.to_bytes(), &mut seeded::Seeded(3)), Ok(()));
    assert!(world.node(home).host.is_stopped(service));
}

fn framed(order: Signed<Order>) -> OrderFrame {
    OrderFrame { order, manifest: None, addresses: Vec::new() }
}

/// Stops it a second time, later.
fn done_later(world: &mut World, service: ServiceId) {
    world.pass(Micros::from_secs(1));
    done(world, service, Action::Stop);
}

#[test]
fn a_removal_ends_a_move_on_both_sides() {
    let mut world = durable();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    world.loses = Box::new(|message| match message {
        Message::Registry { frame, .. } => matches!(frame.name(), "Complete" | "Reclaim" | "Removed"),
        _ => false,
    });
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    let mig = world.node(home).host.attempt_of(service).unwrap().mig;
    assert!(world.node(alpha).images.contains_key(&ImageId::Held(mig)));
    // Nobody hears of it at once: the one is frozen, the other holds the state. Both ask, by and by.
    let frame = world.order(service, Action::Remove);
    world.submit(&frame);
    world.pass(Micros::from_secs(1));
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(40));
    assert!(world.instances().is_empty());
    for host in [home, alpha] {
        assert!(world.node(host).images.is_empty() && !world.node(host).host.is_moving());
        world.crash(host);
    }
    world.pass(Micros::from_secs(1));
    assert!(world.instances().is_empty());
    world.submit(&frame);
    assert_eq!(world.said(&frame).unwrap().outcome, Some(Outcome::Done));
}
