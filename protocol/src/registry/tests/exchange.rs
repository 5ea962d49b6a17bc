//! What goes right: whole moves, leases, repeats.

use super::harness::{World, granted, world};
use crate::{
    ids::Epoch,
    limits::{LEASE, TRANSFER_MAX, VERDICT_LIFETIME, lease_counted},
    migration::messages::{Aborted, Answer, Decision, Found, Lease, Lookup, Outcome, RegistryFrame},
    registry::{
        AbortCause, Effect, Event, MigrationState,
        audit::{Act, Noted},
    },
    reject::Reject,
    suite::{Dalek, Secret, Suite},
    time::Micros,
    trust::{Receiver, Role},
    wire::Frame,
};

#[test]
fn a_service_moves_from_home_to_a_cloud_and_on() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (first, _) = world.moved(&mut service, &home, &fjord);
    let placement = world.registry.placement(service.id).unwrap().clone();
    assert_eq!(
        (placement.epoch, placement.host, placement.previous),
        (Epoch { era: 2, hop: 0 }, fjord.host, home.host)
    );
    assert_eq!(placement.mig, first.ids.mig);
    assert_eq!(placement.key.0, Dalek::public_key(&service.key));
    assert!(world.ok(&home, &world.twelve(&first, |_| ())).is_empty());

    let (second, _) = world.moved(&mut service, &fjord, &delta);
    let placement = world.registry.placement(service.id).unwrap();
    assert_eq!(
        (placement.epoch, placement.host, placement.previous),
        (Epoch { era: 3, hop: 0 }, delta.host, fjord.host)
    );
    assert_eq!(placement.mig, second.ids.mig);
    assert!(world.registry.rejects().iter().next().is_none());
    let placed = world.events.iter().filter(|event| matches!(event, Event::Placed { .. })).count();
    assert_eq!(placed, 3);
}

#[test]
fn both_sides_get_the_placement() {
    let (mut world, mut service, home, fjord, _) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let sent = world.ok(&fjord, &world.ten(&attempt, |_| (), |_| ()));
    let [(first, RegistryFrame::Placement(to_b)), (second, RegistryFrame::Placement(to_a))] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!((*first, *second), (fjord.host, home.host));
    assert_eq!(to_a, to_b);
    assert_eq!(world.believe_placement(to_a), *world.registry.placement(service.id).unwrap());
}

#[test]
fn nothing_is_answered_before_it_is_on_disk() {
    let (mut world, mut service, home, fjord, _) = world();
    let frame = world.two(&mut service, &fjord, |_| ());
    world.registry.handle_frame(world.now, &mut world.rng, home.host, &frame.to_bytes()).unwrap();
    let Some(Effect::Persist { seq, batch, audit }) = world.registry.poll_effect() else { panic!("no batch") };
    assert_eq!(batch.len(), 3, "the target's addresses, the migration and the service's record");
    assert!(matches!(&audit[..], [Noted { act: Act::CloudAllowed { .. }, .. }]), "{audit:?}");
    assert_eq!(world.registry.poll_effect(), None);
    // A lookup changes nothing, but it may show what is not on disk yet: it waits too.
    let lookup = RegistryFrame::Lookup(Lookup::Id(service.id));
    world.registry.handle_frame(world.now, &mut world.rng, fjord.host, &lookup.to_bytes()).unwrap();
    assert_eq!(world.registry.poll_effect(), None);
    world.registry.handle_synced(seq - 1);
    assert_eq!(world.registry.poll_effect(), None);
    world.registry.handle_synced(seq);
    assert!(matches!(world.registry.poll_effect(), Some(Effect::Event(Event::Allowed { .. }))));
    assert!(matches!(world.registry.poll_effect(), Some(Effect::Reply { to, .. }) if to == home.host));
    assert!(matches!(world.registry.poll_effect(), Some(Effect::Reply { to, .. }) if to == fjord.host));
    assert_eq!(world.registry.poll_effect(), None);
}

#[test]
fn the_same_bytes_get_the_same_answer_even_after_a_restart() {
    let (mut world, mut service, home, fjord, _) = world();
    let two = world.two(&mut service, &fjord, |_| ());
    let three = world.ask(&home, &two);
    assert_eq!(world.ask(&home, &two), three);
    world.restart();
    assert_eq!(world.ask(&home, &two), three);
    let RegistryFrame::YesCloud(signed) = three else { panic!("no") };
    let yes = world.believe(home.host, &signed);

    let mut ids = world.registry.migration(yes.mig).unwrap().ids;
    ids.mig = yes.mig;
    let attempt = super::harness::Attempt {
        ids,
        from: home.clone(),
        to: fjord.clone(),
        key: service.key.clone(),
        new_key: Secret::new([99; 32]),
    };
    let five = world.five(&attempt, |_| ());
    let six = world.ask(&fjord, &five);
    world.restart();
    assert_eq!(world.ask(&fjord, &five), six);

    let ten = world.ten(&attempt, |_| (), |_| ());
    let eleven = world.ok(&fjord, &ten).remove(0).1;
    assert_eq!(world.ask(&fjord, &ten), eleven);
    world.restart();
    assert_eq!(world.ask(&fjord, &ten), eleven);
    assert_eq!(world.registry.migrations().count(), 1);
    assert_eq!(world.registry.stats().next().unwrap().count(), 1, "a repeat is not counted");
}

#[test]
fn a_repeated_ten_learns_what_came_of_it_since() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (first, ten) = world.moved(&mut service, &home, &fjord);
    world.moved(&mut service, &fjord, &delta);
    let answer = granted(world.ask(&fjord, &ten));
    let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
    let outcome: Outcome = world.believe(fjord.host, signed);
    assert_eq!((outcome.ids, outcome.decision), (first.ids, Decision::Won));
    assert_eq!(outcome.placement, answer.placement.hash());
    assert_eq!(world.believe_placement(&answer.placement).host, delta.host);
}

#[test]
fn a_lease_is_renewed_and_counted_with_drift() {
    let (mut world, service, home, _, _) = world();
    world.pass(Micros::from_secs(10));
    let renew = world.renew(&service, |_| ());
    let first = granted(world.ask(&home, &renew));
    let Answer::Lease(signed) = &first.answer else { panic!("{first:?}") };
    let lease: Lease = world.believe(home.host, signed);
    let RegistryFrame::Renew(asked) = &renew else { unreachable!() };
    assert_eq!((lease.answers, lease.placement), (asked.hash(), first.placement.hash()));
    let placement = world.believe_placement(&first.placement);
    assert_eq!((placement.issued, placement.lease), (world.now.wall, LEASE));
    assert_eq!(world.registry.lease_until(service.id), Some(world.now.mono + lease_counted(LEASE)));

    // A repeat gets the same answer, and counts anew: the holder may count from the repeat.
    world.pass(Micros::from_secs(1));
    assert_eq!(granted(world.ask(&home, &renew)), first);
    assert_eq!(world.registry.lease_until(service.id), Some(world.now.mono + lease_counted(LEASE)));

    // After a restart every lease counts as just given.
    world.pass(Micros::from_secs(60));
    world.restart();
    assert_eq!(world.registry.lease_until(service.id), Some(world.now.mono + lease_counted(LEASE)));
}

#[test]
fn a_lease_is_as_long_as_configured() {
    let (mut world, service, home, _, _) = world();
    let short = Micros::from_secs(4);
    world.registry.config.lease = short;
    let renew = world.renew(&service, |_| ());
    let answer = granted(world.ask(&home, &renew));
    assert_eq!(world.believe_placement(&answer.placement).lease, short);
    let counted = world.now.mono + Micros::from_millis(4400);
    assert_eq!(world.registry.lease_until(service.id), Some(counted));
}

#[test]
fn a_superseded_holder_hears_which_migration_did_it() {
    let (mut world, mut service, home, fjord, _) = world();
    let renew = world.renew(&service, |_| ());
    let (attempt, _) = world.moved(&mut service, &home, &fjord);
    let answer = granted(world.ask(&home, &renew));
    let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
    let outcome: Outcome = world.believe(home.host, signed);
    assert_eq!((outcome.ids, outcome.decision), (attempt.ids, Decision::Won));
    assert_eq!(world.believe_placement(&answer.placement).host, fjord.host);
    world.refused(&fjord, &renew, Reject::NotHostOfRecord);
}

#[test]
fn cancel_and_reclaim_give_the_service_back_under_a_fresh_lease() {
    let (mut world, mut service, home, fjord, _) = world();
    for reclaim in [false, true] {
        let attempt = world.pinned(&mut service, &home, &fjord);
        world.pass(Micros::from_secs(5));
        let frame = if reclaim { world.reclaim(&attempt) } else { world.cancel(&attempt) };
        let answer = granted(world.ask(&home, &frame));
        let Answer::Aborted(signed) = &answer.answer else { panic!("{answer:?}") };
        let aborted: Aborted = world.believe(home.host, signed);
        assert_eq!((aborted.ids, aborted.placement), (attempt.ids, answer.placement.hash()));
        let placement = world.believe_placement(&answer.placement);
        assert_eq!((placement.epoch, placement.issued, placement.lease), (service.epoch, world.now.wall, LEASE));
        assert_eq!(world.registry.lease_until(service.id), Some(world.now.mono + lease_counted(LEASE)));
        // The same bytes: the same answer, also after a restart. Another nonce: another fresh lease.
        world.restart();
        assert_eq!(granted(world.ask(&home, &frame)), answer);
        world.pass(Micros::from_secs(1));
        let again = world.reclaim(&attempt);
        let fresh = granted(world.ask(&home, &again));
        assert_eq!(world.believe_placement(&fresh.placement).issued, world.now.wall);
    }
    assert_eq!(world.registry.stats().next().unwrap().failures, 2);
}

#[test]
fn a_newer_request_ends_the_older_migration() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (unused, _) = world.allowed(&mut service, &home, &fjord);
    let pinned = world.pinned(&mut service, &home, &fjord);
    let newest = world.pinned(&mut service, &home, &delta);
    for older in [&unused, &pinned] {
        let state = &world.registry.migration(older.ids.mig).unwrap().state;
        assert!(matches!(state, MigrationState::Aborted { .. }));
        assert!(world.events.contains(&Event::Aborted { ids: older.ids, cause: AbortCause::Superseded }));
    }
    // A verdict asked for ahead of need is no failure of the cloud; one that it had answered is.
    assert_eq!(world.registry.stats().next().unwrap().failures, 1);
    world.refused(&fjord, &world.five(&unused, |_| ()), Reject::Finished);
    let answer = granted(world.ask(&fjord, &world.ten(&pinned, |_| (), |_| ())));
    let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
    assert_eq!(world.believe::<Outcome>(fjord.host, signed).decision, Decision::Aborted);
    assert_eq!(world.ok(&delta, &world.ten(&newest, |_| (), |_| ())).len(), 2);
}

#[test]
fn lookups_find_by_name_and_identifier_with_addresses() {
    let (mut world, mut service, home, fjord, _) = world();
    let gateway = world.enrol(9, "gate", Role::Gateway);
    let find = |world: &mut World, lookup: Lookup| -> Found {
        match world.ask(&gateway, &RegistryFrame::Lookup(lookup)) {
            RegistryFrame::Found(found) => found,
            other => panic!("{other:?}"),
        }
    };
    let found = find(&mut world, Lookup::Name("kv".to_owned()));
    let (placement, manifest) = found.service.clone().unwrap();
    assert_eq!(world.believe_placement(&placement).host, home.host);
    let owner = Dalek::public_key(&service.owner);
    assert!(manifest.verify::<Dalek, crate::reject::Strict>(&owner, world.registry.id(), Receiver::Anyone).is_ok());
    assert_eq!(found.addresses, ["/dns/home/tcp/1"], "a home does not advertise: it says so itself");
    assert_eq!(find(&mut world, Lookup::Name("nobody".to_owned())).service, None);

    world.moved(&mut service, &home, &fjord);
    world.restart();
    let found = find(&mut world, Lookup::Id(service.id));
    assert_eq!(world.believe_placement(&found.service.unwrap().0).host, fjord.host);
    assert_eq!(found.addresses, ["/dns/fjord/tcp/1"]);
    // A renewed placement is found as renewed.
    world.pass(Micros::from_secs(10));
    let renew = world.renew(&service, |_| ());
    let renewed = granted(world.ask(&fjord, &renew));
    assert_eq!(find(&mut world, Lookup::Id(service.id)).service.unwrap().0, renewed.placement);
}

#[test]
fn statistics_come_from_ten_and_twelve() {
    let (mut world, mut service, home, fjord, _) = world();
    let (attempt, _) = world.moved(&mut service, &home, &fjord);
    let twelve = world.twelve(&attempt, |_| ());
    assert!(world.ok(&home, &twelve).is_empty());
    assert!(world.ok(&home, &twelve).is_empty(), "the same bytes again change nothing");
    world.refused(&home, &world.twelve(&attempt, |released| released.response = Micros(1)), Reject::Reused);
    let stats = world.registry.stats().next().unwrap();
    assert_eq!((stats.name.as_str(), stats.count(), stats.failures), ("fjord", 1, 0));
    assert_eq!(stats.response.mean(), Some(Micros::from_millis(40)));
    assert_eq!(stats.transfer.mean(), Some(Micros::from_millis(60)));
    assert_eq!(stats.response_by_source.mean(), Some(Micros::from_millis(60)));
    assert_eq!(stats.transfer_by_source.mean(), Some(Micros::from_millis(62)));
    assert!(!stats.is_flagged());
}

#[test]
fn a_cloud_whose_figures_disagree_with_the_sources_is_flagged() {
    let (mut world, mut service, home, fjord, _) = world();
    let (attempt, _) = world.moved(&mut service, &home, &fjord);
    world.ok(&home, &world.twelve(&attempt, |released| released.transfer = Micros::from_secs(9)));
    assert!(world.registry.stats().next().unwrap().is_flagged());
}

#[test]
fn a_migration_that_nobody_goes_on_with_ends_with_a_renewal() {
    for pinned in [false, true] {
        let (mut world, mut service, home, fjord, _) = world();
        let attempt = if pinned {
            world.pinned(&mut service, &home, &fjord)
        } else {
            world.allowed(&mut service, &home, &fjord).0
        };
        let live = |world: &World| world.registry.migration(attempt.ids.mig).unwrap().decision();
        // The source has crashed, and has forgotten it; its service runs on.
        world.pass(VERDICT_LIFETIME);
        let renew = world.renew(&service, |_| ());
        world.ask(&home, &renew);
        assert_eq!(live(&world), None, "it may still be on its way");
        if pinned {
            world.pass(VERDICT_LIFETIME);
            world.pass(TRANSFER_MAX);
        }
        world.pass(Micros::from_secs(11));
        let renew = world.renew(&service, |_| ());
        world.ask(&home, &renew);
        assert_eq!(live(&world), Some(Decision::Aborted));
        let abandoned = |event: &Event| matches!(event, Event::Aborted { cause: AbortCause::Abandoned, .. });
        assert!(world.events.iter().any(abandoned));
        if pinned {
            // Whoever is late after all hears of it.
            let late = world.ten(&attempt, |_| (), |_| ());
            let RegistryFrame::Granted(answer) = world.ask(&fjord, &late) else { panic!("no answer") };
            assert!(matches!(answer.answer, Answer::Outcome(_)));
        }
    }
}
