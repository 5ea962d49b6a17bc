//! Owners' orders: what is taken, what is refused, what a removed service leaves. With real hosts: `tests/orders.rs`.

use super::harness::{Node, Sent, Service, World, world};
use crate::{
    ids::Epoch,
    limits::{CLOCK_SKEW, LEASE, ORDER_LIFETIME_MAX, REMOVED_ERA_GAP, TEXT_BYTES_MAX, lease_counted},
    manifest::{Durability, Manifest},
    migration::messages::{Found, Lookup, RegistryFrame},
    order::{Action, Order, OrderDone, OrderFrame, OrderState, Outcome},
    registry::{AbortCause, Event, mark_restored},
    reject::Reject,
    suite::Secret,
    time::{Micros, Timestamp},
    trust::Receiver,
};

const STOP: Action = Action::Stop;

fn order(world: &World, service: &Service, action: Action, edit: impl FnOnce(&mut Order)) -> OrderFrame {
    let expiry = world.now.wall + Micros::from_secs(600);
    let mut order = Order { service: service.id, action, sequence: world.now.wall.0, expiry };
    edit(&mut order);
    OrderFrame {
        order: world.to_registry(&service.owner, &order),
        manifest: None,
        addresses: vec!["/dns/x".to_owned()],
    }
}

fn frame(frame: &OrderFrame) -> RegistryFrame {
    RegistryFrame::Order(frame.clone())
}

fn update(
    world: &World,
    service: &Service,
    edit: impl FnOnce(&mut Manifest),
    edit_order: impl FnOnce(&mut Order),
) -> OrderFrame {
    let mut manifest = world.manifest(&service.owner, "kv");
    manifest.version = 2;
    edit(&mut manifest);
    let signed = world.sign(&service.owner, Receiver::Anyone, &manifest);
    let action = Action::Update { manifest: signed.hash(), keep: true, from: world.registry.host() };
    OrderFrame { manifest: Some(signed), ..order(world, service, action, edit_order) }
}

fn report(
    world: &World,
    service: &Service,
    of: &OrderFrame,
    outcome: Outcome,
    edit: impl FnOnce(&mut OrderDone),
) -> RegistryFrame {
    let ids = world.registry.tables.tombstones.get(service.id).and_then(|row| row.placement.clone());
    let ids = ids.as_ref().or_else(|| world.registry.placement(service.id)).unwrap().ids();
    let mut done = OrderDone { ids, order: of.order.hash(), outcome };
    edit(&mut done);
    RegistryFrame::OrderDone(world.to_registry(&service.key, &done))
}

fn state(sent: &Sent) -> &OrderState {
    let state = sent.iter().find_map(|(_, frame)| match frame {
        RegistryFrame::OrderState(state) => Some(state),
        _ => None,
    });
    state.unwrap()
}

fn told(sent: &Sent, to: &Node) -> bool {
    sent.iter().any(|(host, frame)| *host == to.host && matches!(frame, RegistryFrame::Order(_)))
}

#[test]
fn an_order_stands_until_its_host_reports_and_the_same_bytes_ask_what_became_of_it() {
    let (mut world, service, home, fjord, _) = world();
    let stop = order(&world, &service, STOP, |_| ());
    let sent = world.ok(&fjord, &frame(&stop));
    assert_eq!((state(&sent).outcome.clone(), told(&sent, &home)), (None, true));
    let renew = world.renew(&service, |_| ());
    assert!(told(&world.ok(&home, &renew), &home), "again with each lease");
    world.restart();
    let sent = world.ok(&fjord, &frame(&stop));
    assert_eq!((state(&sent).outcome.clone(), told(&sent, &home)), (None, false));
    let view = |world: &World| world.registry.placements(world.now).next().unwrap().order;
    assert_eq!((view(&world).stopped, view(&world).standing), (false, Some("stop")));
    let done = report(&world, &service, &stop, Outcome::Done, |_| ());
    world.ok(&home, &done);
    world.ok(&home, &done);
    assert_eq!((view(&world).stopped, view(&world).standing), (true, None));
    assert_eq!(state(&world.ok(&fjord, &frame(&stop))).outcome, Some(Outcome::Done));
    let renew = world.renew(&service, |_| ());
    assert!(!told(&world.ok(&home, &renew), &home));
    let reported = |event: &&Event| matches!(event, Event::CarriedOut { .. });
    assert_eq!(world.events.iter().filter(reported).count(), 1);
}

#[test]
fn only_the_owner_orders_once_in_time_and_at_its_registry() {
    let (mut world, service, home, fjord, _) = world();
    let thief = Service { owner: Secret::new([66; 32]), ..service.clone() };
    world.refused(&fjord, &frame(&order(&world, &thief, STOP, |_| ())), Reject::WrongOwner);
    let old = order(&world, &service, STOP, |order| order.expiry = Timestamp(world.now.wall.0 - CLOCK_SKEW.0 - 1));
    world.refused(&fjord, &frame(&old), Reject::Expired);
    let far = world.now.wall + ORDER_LIFETIME_MAX + CLOCK_SKEW + Micros(1);
    world.refused(&fjord, &frame(&order(&world, &service, STOP, |order| order.expiry = far)), Reject::NotYetValid);
    let foreign = order(&world, &service, STOP, |order| order.service.registry.0[0] ^= 1);
    world.refused(&fjord, &frame(&foreign), Reject::UnknownRegistry);
    let unknown = order(&world, &service, STOP, |order| order.service.unique[0] ^= 1);
    world.refused(&fjord, &frame(&unknown), Reject::UnknownService);
    let mut long = order(&world, &service, STOP, |_| ());
    long.addresses = vec!["x".repeat(TEXT_BYTES_MAX + 1)];
    world.refused(&fjord, &frame(&long), Reject::FieldTooLong);
    let first = order(&world, &service, STOP, |order| order.sequence = 7);
    world.ok(&fjord, &frame(&first));
    for sequence in [6, 7] {
        let lower = order(&world, &service, Action::Start, |order| order.sequence = sequence);
        world.refused(&fjord, &frame(&lower), Reject::OldCounter);
    }
    let start = order(&world, &service, Action::Start, |order| order.sequence = 8);
    world.ok(&fjord, &frame(&start));
    world.refused(&fjord, &frame(&first), Reject::OldCounter);
    // And only its host reports, of the order that stands.
    let done = report(&world, &service, &first, Outcome::Done, |_| ());
    world.refused(&home, &done, Reject::Conflict);
    let done = report(&world, &service, &start, Outcome::Done, |_| ());
    world.refused(&fjord, &done, Reject::NotHostOfRecord);
    let forged =
        report(&world, &Service { key: Secret::new([9; 32]), ..service.clone() }, &start, Outcome::Done, |_| ());
    world.refused(&home, &forged, Reject::BadSignature);
    let long = report(&world, &service, &start, Outcome::Refused("x".repeat(TEXT_BYTES_MAX + 1)), |_| ());
    world.refused(&home, &long, Reject::FieldTooLong);
    let other = report(&world, &service, &start, Outcome::Done, |done| done.ids.mig.0[0] ^= 1);
    world.refused(&home, &other, Reject::WrongMigration);
    let later = report(&world, &service, &start, Outcome::Done, |done| done.ids.epoch.era += 1);
    world.refused(&home, &later, Reject::WrongEpoch);
}

#[test]
fn an_update_changes_the_record_when_its_host_says_that_it_serves_it() {
    let (mut world, mut service, home, fjord, _) = world();
    let before = world.registry.placement(service.id).unwrap().clone();
    let new = update(&world, &service, |manifest| manifest.code.0[0] ^= 1, |_| ());
    let digest = new.manifest.as_ref().unwrap().hash();
    world.ok(&fjord, &frame(&new));
    assert_eq!(world.registry.placement(service.id), Some(&before), "not yet");
    let stop = order(&world, &service, STOP, |order| order.sequence += 1);
    world.refused(&fjord, &frame(&stop), Reject::Conflict);
    // A move that was allowed and not consented to is off.
    world.allowed(&mut service, &home, &fjord);
    world.ok(&home, &report(&world, &service, &new, Outcome::Done, |_| ()));
    let after = world.registry.placement(service.id).unwrap().clone();
    assert_eq!((after.manifest, after.epoch, after.key), (digest, before.epoch, before.key));
    assert!(world.events.iter().any(|event| matches!(event, Event::Aborted { cause: AbortCause::Superseded, .. })));
    let found = world.ask(&fjord, &RegistryFrame::Lookup(Lookup::Id(service.id)));
    let RegistryFrame::Found(Found { service: Some((placement, manifest)), .. }) = found else { panic!() };
    assert_eq!((manifest.hash(), placement.unverified().unwrap().manifest), (digest, digest));
    world.restart();
    world.moved(&mut service, &home, &fjord);
    assert_eq!(world.registry.placement(service.id).unwrap().manifest, digest);
    world.ok(&fjord, &frame(&order(&world, &service, STOP, |order| order.sequence += 1)));
}

#[test]
fn an_update_that_is_refused_changes_nothing_but_a_host_that_succeeds_after_all_counts() {
    let (mut world, service, home, fjord, _) = world();
    let before = world.registry.placement(service.id).unwrap().clone();
    let new = update(&world, &service, |_| (), |_| ());
    world.ok(&fjord, &frame(&new));
    let refused = Outcome::Refused("state_refused".to_owned());
    world.ok(&home, &report(&world, &service, &new, refused.clone(), |_| ()));
    assert_eq!(state(&world.ok(&fjord, &frame(&new))).outcome, Some(refused.clone()));
    assert_eq!(world.registry.placement(service.id), Some(&before));
    world.ok(&home, &report(&world, &service, &new, Outcome::Done, |_| ()));
    assert_ne!(world.registry.placement(service.id), Some(&before));
    world.ok(&home, &report(&world, &service, &new, refused, |_| ()));
    assert_eq!(state(&world.ok(&fjord, &frame(&new))).outcome, Some(Outcome::Done), "it has happened");
}

#[test]
fn an_update_needs_a_newer_manifest_of_the_same_service_that_allows_its_host() {
    let (mut world, service, _, fjord, _) = world();
    let mut refuse = |edit: &dyn Fn(&mut Manifest), reject| {
        let new = update(&world, &service, edit, |_| ());
        world.refused(&fjord, &frame(&new), reject);
    };
    refuse(&|manifest| manifest.version = 1, Reject::OldVersion);
    refuse(&|manifest| manifest.allowed_regions = vec!["nowhere".to_owned()], Reject::PolicyForbids);
    refuse(&|manifest| manifest.durability = Durability::Memory, Reject::WrongManifest);
    refuse(&|manifest| manifest.name = "other".to_owned(), Reject::WrongManifest);
    let mut without = update(&world, &service, |_| (), |_| ());
    let signed = without.manifest.take();
    world.refused(&fjord, &frame(&without), Reject::WrongManifest);
    let forger = Service { owner: Secret::new([66; 32]), ..service.clone() };
    let forged = update(&world, &forger, |_| (), |_| ()).manifest;
    world.refused(&fjord, &frame(&OrderFrame { manifest: forged, ..without.clone() }), Reject::WrongManifest);
    world.ok(&fjord, &frame(&OrderFrame { manifest: signed, ..without }));
}

/// A service that moved to fjord and was removed; the order.
fn removed() -> (World, Service, Node, Node, OrderFrame) {
    let (mut world, mut service, home, fjord, _) = world();
    world.moved(&mut service, &home, &fjord);
    let remove = order(&world, &service, Action::Remove, |_| ());
    let sent = world.ok(&home, &frame(&remove));
    assert_eq!(state(&sent).outcome, None);
    assert!(sent.iter().any(|(to, frame)| *to == fjord.host && matches!(frame, RegistryFrame::Removed(_))));
    (world, service, home, fjord, remove)
}

fn again(world: &mut World, service: &Service, host: &Node, version: u32) -> RegistryFrame {
    let mut manifest = world.manifest(&service.owner, "kv");
    manifest.version = version;
    world.register_frame(host, &service.owner, &Secret::new([202; 32]), &manifest, |_| ())
}

#[test]
fn a_removed_service_is_known_to_nobody_and_its_name_is_free_when_its_host_says_so() {
    let (mut world, service, home, fjord, remove) = removed();
    for lookup in [Lookup::Id(service.id), Lookup::Name("kv".to_owned())] {
        let found = world.ask(&home, &RegistryFrame::Lookup(lookup));
        assert!(matches!(found, RegistryFrame::Found(Found { service: None, .. })));
    }
    let register = again(&mut world, &service, &home, 2);
    world.refused(&home, &register, Reject::NotFree);
    world.restart();
    world.refused(&home, &register, Reject::NotFree);
    let stolen = report(&world, &service, &remove, Outcome::Done, |done| done.order.0[0] ^= 1);
    world.refused(&fjord, &stolen, Reject::Conflict);
    let done = report(&world, &service, &remove, Outcome::Done, |_| ());
    world.refused(&home, &done, Reject::NotHostOfRecord);
    world.ok(&fjord, &done);
    assert_eq!(state(&world.ok(&home, &frame(&remove))).outcome, Some(Outcome::Done));
    let old = again(&mut world, &service, &home, 1);
    world.refused(&home, &old, Reject::Removed);
    world.ok(&home, &register);
    assert_eq!(world.registry.placement(service.id).unwrap().epoch, Epoch { era: 3, hop: 0 });
    // What was said of the service before is not said of this one.
    let stop = order(&world, &service, STOP, |order| order.sequence -= 1);
    world.refused(&home, &frame(&stop), Reject::OldCounter);
    world.ok(&fjord, &done);
    assert!(world.registry.lease_until(service.id).is_some());
    world.restart();
    assert_eq!(state(&world.ok(&home, &frame(&remove))).outcome, Some(Outcome::Done));
}

#[test]
fn a_name_is_free_when_the_lease_has_ended_though_its_host_is_gone_for_ever() {
    let (mut world, service, home, _, remove) = removed();
    let register = again(&mut world, &service, &home, 2);
    world.pass(Micros(lease_counted(LEASE).0 - 1));
    world.refused(&home, &register, Reject::NotFree);
    // Another owner's service has to wait, too.
    let (owner, key) = (Secret::new([90; 32]), Secret::new([91; 32]));
    let manifest = world.manifest(&owner, "kv");
    let other = world.register_frame(&home, &owner, &key, &manifest, |_| ());
    world.refused(&home, &other, Reject::NotFree);
    world.pass(Micros(1));
    assert_eq!(state(&world.ok(&home, &frame(&remove))).outcome, Some(Outcome::Done));
    world.ok(&home, &other);
    world.refused(&home, &register, Reject::NameTaken);
    world.refused(&home, &frame(&order(&world, &service, STOP, |order| order.sequence += 1)), Reject::Removed);
}

#[test]
fn whoever_has_something_of_a_removed_service_is_shown_its_tombstone() {
    let (mut world, mut service, home, fjord, delta) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let renew = world.renew(&service, |_| ());
    world.ok(&delta, &frame(&order(&world, &service, Action::Remove, |_| ())));
    let undecided = world.registry.migration(attempt.ids.mig).unwrap().decision();
    assert_eq!(undecided, Some(crate::migration::messages::Decision::Aborted));
    let frames = [
        (&fjord, world.ten(&attempt, |_| (), |_| ())),
        (&fjord, world.five(&attempt, |_| ())),
        (&home, world.reclaim(&attempt)),
        (&home, world.cancel(&attempt)),
        (&home, renew),
        (&home, world.two(&mut service, &fjord, |_| ())),
    ];
    for (peer, frame) in frames {
        let sent = world.refused(peer, &frame, Reject::Removed);
        let shown = |(to, frame): &(crate::ids::HostId, RegistryFrame)| {
            *to == peer.host && matches!(frame, RegistryFrame::Removed(_))
        };
        assert!(sent.iter().any(shown), "{frame:?}");
    }
}

#[test]
fn a_service_that_waits_for_a_host_since_a_restore_can_be_removed_once_no_lease_holds() {
    let (mut world, service, home, fjord, _) = world();
    let rows = world.image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
    let marks = mark_restored(world.registry.id(), rows, world.now.wall).unwrap();
    marks.iter().for_each(|op| op.apply(&mut world.image));
    world.restart();
    let remove = order(&world, &service, Action::Remove, |order| order.sequence += 1);
    world.refused(&fjord, &frame(&remove), Reject::Recovering);
    world.pass(crate::limits::RECOVERY_WINDOW);
    let stop = order(&world, &service, STOP, |_| ());
    world.refused(&fjord, &frame(&stop), Reject::Recovering);
    let remove = order(&world, &service, Action::Remove, |_| ());
    assert_eq!(state(&world.ok(&fjord, &frame(&remove))).outcome, Some(Outcome::Done));
    assert_eq!(world.registry.recovery(world.now).unwrap().suspended, 0);
    // It may have moved any number of times since the backup.
    let register = again(&mut world, &service, &home, 2);
    world.ok(&home, &register);
    assert_eq!(world.registry.placement(service.id).unwrap().epoch.era, 2 + REMOVED_ERA_GAP);
}
