//! Attacks on the Registry's machine by those who were let in: former hosts, members with tokens, owners of other services.

use sim_net::attack::sign::unsigned;
use wayfare_protocol::{
    ids::MigrationId,
    migration::messages::*,
    order::{Action, Order, OrderFrame},
    registry::{Registry, RegistryConfig, StoreImage},
    reject::Reject,
    suite::{Dalek, Secret},
    time::Micros,
    trust::{Receiver, Role},
};
use wayfare_tests::{
    guards::{Without, needs, without},
    hand::{claim, entropy},
    shot::thief,
};

use super::machines::{Sent, World, host, yes};

#[test]
pub(crate) fn a_former_host_that_goes_on() {
    // Attack 8: the service has moved, and whoever had it has kept the key.
    let guards = [Reject::NotHostOfRecord, Reject::WrongEpoch, Reject::WrongPlacementKey];
    needs("2 by a former host", &guards, || {
        let mut world = World::new();
        let old = world.service.clone();
        let ids = world.pinned();
        let consents = world.service.consents(host(&world.fjord));
        let ten = world.ten(ids, &consents, |_| ());
        assert!(world.moves(ten), "an honest move");
        // To the third of them, which needs an advert of its own.
        let delta = host(&world.delta);
        let certificate =
            world.realm.says(Receiver::Anyone).sign(&world.realm.certificate("delta", delta, Role::Cloud));
        let advert =
            world.realm.signer(&world.delta, Receiver::Anyone).sign(&world.realm.advert(delta, &certificate, &[]));
        let mut former = old;
        let two = former.two(claim(&certificate).cloud, delta, advert.hash());
        let two = VerifyCloudFrame { request: former.to_registry().sign(&two), advert };
        let home = world.home.clone();
        yes(&world.say(&home, RegistryFrame::VerifyCloud(two))).is_some()
    });
}

#[test]
pub(crate) fn a_consent_to_another_migration() {
    needs("10 with the consent to another attempt", &[Reject::WrongMigration], || {
        let mut world = World::new();
        let ids = world.pinned();
        let consents = world.service.consents(host(&world.fjord));
        let ten = world.ten(ids, &consents, |transfer| transfer.ids.mig = MigrationId([1; 16]));
        world.moves(ten)
    });
}

/// What the Registry stands on, as after a crash.
fn restarted(world: &mut World) {
    let mut image = StoreImage::new();
    world.registry.records().iter().for_each(|op| op.apply(&mut image));
    let rows = image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
    let config = RegistryConfig::new::<Dalek>(world.realm.secret.clone(), vec![]);
    world.registry = Registry::<Dalek, Without>::restore(config, world.now, rows.collect::<Vec<_>>()).unwrap();
}

#[test]
pub(crate) fn an_old_question_to_a_restarted_registry() {
    needs("an old 2 after a restart", &[Reject::OldCounter], || {
        let mut world = World::new();
        let (home, first, second) = (world.home.clone(), world.two(), world.two());
        world.say(&home, RegistryFrame::VerifyCloud(first.clone()));
        world.say(&home, RegistryFrame::VerifyCloud(second));
        restarted(&mut world);
        yes(&world.say(&home, RegistryFrame::VerifyCloud(first))).is_some()
    });
}

fn joined(sent: &Sent) -> bool {
    sent.iter().any(|(_, frame)| matches!(frame, RegistryFrame::Enrolled(_)))
}

#[test]
pub(crate) fn a_token_that_is_not_used_up() {
    // What makes a token single-use is that the Registry forgets it: one that still has it lets the second in.
    without(&[], || {
        let mut world = World::new();
        let lifetime = Micros::from_secs(60);
        let token = world.registry.create_join_token(world.now, &mut entropy(), "new", Role::Cloud, lifetime).unwrap();
        let unused = world.registry.clone();
        let hash = token.secret.hash();
        let join = |world: &mut World, secret: &Secret| {
            let enrol = world.realm.hears(secret).sign(&world.realm.enrol(secret, Role::Cloud, hash));
            joined(&world.say(secret, RegistryFrame::Enrol(enrol)))
        };
        assert!(join(&mut world, &Secret::new([51; 32])), "an honest join");
        assert!(!join(&mut world, &Secret::new([52; 32])), "the second is let in");
        world.registry = unused;
        assert!(join(&mut world, &Secret::new([52; 32])), "something else stops it");
    });
}

#[test]
pub(crate) fn one_key_under_two_names() {
    needs("a host's key under a second name", &[Reject::Conflict], || {
        let mut world = World::new();
        let (fjord, lifetime) = (world.fjord.clone(), Micros::from_secs(60));
        let token = world.registry.create_join_token(world.now, &mut entropy(), "second", Role::Cloud, lifetime);
        let enrol = world.realm.enrol(&fjord, Role::Cloud, token.unwrap().secret.hash());
        let enrol = world.realm.hears(&fjord).sign(&enrol);
        joined(&world.say(&fjord, RegistryFrame::Enrol(enrol)))
    });
}

#[test]
pub(crate) fn what_was_said_to_another_registry() {
    needs("ENROL that was signed for another registry", &[Reject::BadSignature], || {
        let mut world = World::new();
        let (new, lifetime) = (Secret::new([53; 32]), Micros::from_secs(60));
        let token = world.registry.create_join_token(world.now, &mut entropy(), "new", Role::Cloud, lifetime);
        let enrol = world.realm.enrol(&new, Role::Cloud, token.unwrap().secret.hash());
        let mut elsewhere = world.realm.hears(&new);
        elsewhere.registry = wayfare_protocol::ids::RegistryId([0xee; 32]);
        elsewhere.receiver = Receiver::Registry(elsewhere.registry);
        joined(&world.say(&new, RegistryFrame::Enrol(elsewhere.sign(&enrol))))
    });
}

/// An order about the home's service.
fn order(world: &World, sequence: u64, action: Action) -> Order {
    Order { service: world.service.id(), action, sequence, expiry: world.now.wall + Micros::from_secs(60) }
}

fn frame(order: wayfare_protocol::trust::Signed<Order>) -> OrderFrame {
    OrderFrame { order, manifest: None, addresses: vec![] }
}

/// Whether the Registry takes an order that `delta` passes on.
fn takes(world: &mut World, order: &OrderFrame) -> bool {
    let delta = world.delta.clone();
    let sent = world.say(&delta, RegistryFrame::Order(order.clone()));
    sent.iter().any(|(_, frame)| matches!(frame, RegistryFrame::OrderState(_)))
}

#[test]
pub(crate) fn an_order_that_is_not_the_owners() {
    // Called wrong_owner by the machine, as the node that passes it on is not to blame.
    needs("STOP by somebody else", &[Reject::BadSignature], || {
        let mut world = World::new();
        let stop = order(&world, 1, Action::Stop);
        let stop = world.realm.signer(&thief(), Receiver::Registry(world.realm.id)).sign(&stop);
        takes(&mut world, &frame(stop))
    });
    needs("STOP made into REMOVE", &[Reject::BadSignature], || {
        let mut world = World::new();
        let owner = world.realm.signer(&world.service.owner, Receiver::Registry(world.realm.id));
        let stop = owner.sign(&order(&world, 1, Action::Stop));
        let removes = unsigned(&stop, &order(&world, 1, Action::Remove)).unwrap();
        takes(&mut world, &frame(removes)) && world.registry.placement(world.service.id()).is_none()
    });
}

#[test]
pub(crate) fn an_order_that_is_replayed() {
    needs("an old STOP", &[Reject::OldCounter], || {
        let mut world = World::new();
        let owner = world.realm.signer(&world.service.owner, Receiver::Registry(world.realm.id));
        let stop = frame(owner.sign(&order(&world, 1, Action::Stop)));
        let start = frame(owner.sign(&order(&world, 2, Action::Start)));
        assert!(takes(&mut world, &stop) && takes(&mut world, &start), "honest orders");
        takes(&mut world, &stop)
    });
}

#[test]
pub(crate) fn an_order_for_what_was_removed() {
    // It is the record that is missing: while it was there, the same bytes were taken.
    without(&[], || {
        let mut world = World::new();
        let owner = world.realm.signer(&world.service.owner, Receiver::Registry(world.realm.id));
        let start = frame(owner.sign(&order(&world, 2, Action::Start)));
        let remove = frame(owner.sign(&order(&world, 1, Action::Remove)));
        let before = world.registry.clone();
        assert!(takes(&mut world, &remove), "an honest removal");
        assert!(!takes(&mut world, &start), "what was removed is started");
        world.registry = before;
        assert!(takes(&mut world, &start), "something else stops it");
    });
}
