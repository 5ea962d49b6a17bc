//! Where the service is, and whose word counts.

use super::*;
use crate::limits::CLOCK_SKEW;

fn moved(placement: &Signed<Placement>) -> Vec<u8> {
    ClientFrame::Moved(placement.clone()).to_bytes()
}

#[test]
fn when_the_service_moves_all_is_sent_again_in_order() {
    let world = World::new();
    let mut gateway = world.following(1);
    let tickets: Vec<Ticket> =
        (0..3).map(|_| gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap()).collect();
    settle(&mut gateway, at(0));
    gateway.handle_frame(at(1), host(1), &moved(&world.placement(at(1), 2, 2))).unwrap();
    gateway.handle_request(at(1), &world.lookup(), vec![], None).unwrap();
    let effects = settle(&mut gateway, at(1));
    assert!(effects.contains(&Effect::Connect { host: host(2), addresses: vec![] }));
    assert!(effects.contains(&Effect::Disconnect { host: host(1) }));
    gateway.handle_connected(at(2), host(2));
    let effects = settle(&mut gateway, at(2));
    assert_eq!(
        frames(&effects).iter().map(|(_, name)| *name).collect::<Vec<_>>(),
        ["Hello", "Open", "Call", "Call", "Call", "Call"]
    );
    assert_eq!(calls(&effects).iter().map(|(_, sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);

    // A reply of the former host counts no more, genuine or not: the new one has it too.
    gateway.handle_frame(at(3), host(1), &world.reply(&gateway, 1, b"old")).unwrap();
    assert_eq!(settle(&mut gateway, at(3)), []);
    assert_eq!(gateway.rejects().get(Reject::WrongPeer), 1);
    gateway.handle_frame(at(4), host(2), &world.reply(&gateway, 1, b"new")).unwrap();
    assert_eq!(settle(&mut gateway, at(4)), [Effect::Answer { ticket: tickets[0], response: b"new".to_vec() }]);
}

#[test]
fn a_service_that_comes_back_is_another_epoch_on_the_same_stream() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    gateway.handle_gossip_placement(at(1), &world.placement(at(1), 3, 1)).unwrap();
    assert_eq!(frames(&settle(&mut gateway, at(1))), [(host(1), "Open"), (host(1), "Call")]);
}

#[test]
fn a_lost_stream_is_made_again_and_all_is_sent_again() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    gateway.handle_disconnected(at(10), host(1));
    assert_eq!(lookups(&settle(&mut gateway, at(10))), 1, "perhaps it has moved");
    gateway.handle_timeout(at(109));
    assert_eq!(settle(&mut gateway, at(109)), []);
    gateway.handle_timeout(at(110));
    assert_eq!(
        settle(&mut gateway, at(110)),
        [Effect::Connect { host: host(1), addresses: vec!["/memory/1".to_owned()] }]
    );
    gateway.handle_disconnected(at(111), host(1));
    gateway.handle_timeout(at(310));
    assert_eq!(settle(&mut gateway, at(310)), [], "the second pause is longer");
    gateway.handle_timeout(at(311));
    assert_eq!(settle(&mut gateway, at(311)).len(), 1);
    gateway.handle_connected(at(312), host(1));
    assert_eq!(frames(&settle(&mut gateway, at(312))), [(host(1), "Hello"), (host(1), "Open"), (host(1), "Call")]);
    gateway.handle_connected(at(313), host(1));
    assert_eq!(settle(&mut gateway, at(313)), [], "connected is connected");
}

#[test]
fn an_expired_placement_is_not_used() {
    let world = World::new();
    let mut gateway = world.following(1);
    let ticket = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    let end = (LEASE.0 + CLOCK_SKEW.0) / 1000;
    gateway.handle_timeout(at(end));
    assert_eq!(lookups(&settle(&mut gateway, at(end))), 0);
    gateway.handle_frame(at(end + 1), host(1), &world.reply(&gateway, 1, b"late")).unwrap();
    let effects = settle(&mut gateway, at(end + 1));
    assert_eq!((effects.len(), lookups(&effects)), (1, 1));
    assert_eq!(gateway.rejects().get(Reject::Expired), 1);
    gateway.handle_request(at(end + 1), &world.lookup(), vec![], None).unwrap();
    assert_eq!(calls(&settle(&mut gateway, at(end + 1))), []);

    // Renewed: what was dropped is asked for again, and answered with the same bytes.
    let renewed = ClientFrame::Placement(world.placement(at(end + 2), 1, 1)).to_bytes();
    gateway.handle_frame(at(end + 2), host(1), &renewed).unwrap();
    let effects = settle(&mut gateway, at(end + 2));
    assert_eq!(calls(&effects), [(host(1), 1, 1), (host(1), 2, 1)]);
    gateway.handle_frame(at(end + 3), host(1), &world.reply(&gateway, 1, b"late")).unwrap();
    assert_eq!(settle(&mut gateway, at(end + 3)), [Effect::Answer { ticket, response: b"late".to_vec() }]);
}

#[test]
fn the_expiry_is_a_timer() {
    let world = World::new();
    let mut gateway = world.following(1);
    let mut asked = None;
    while asked.is_none() {
        let due = gateway.poll_timeout().unwrap();
        let now = at(due.0.div_ceil(1000));
        gateway.handle_timeout(now);
        asked = (lookups(&settle(&mut gateway, now)) > 0).then_some(now.mono);
    }
    assert_eq!(asked, Some(at(35_001).mono));
}

#[test]
fn placements_that_do_not_count() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_gossip_placement(at(1), &world.placement(at(1), 5, 2)).unwrap();
    settle(&mut gateway, at(1));
    let late = at(1_000);
    let other = |change: &dyn Fn(&mut Placement)| {
        let mut placement = world.placement(late, 5, 2).unverified().unwrap();
        change(&mut placement);
        Signed::sign::<Dalek>(&secret(REGISTRY), placement.service.registry, Receiver::Anyone, &placement)
    };
    let unknown = ServiceId { unique: [0; 16], ..world.service };
    let elsewhere = other(&|placement| placement.service = unknown);
    assert_eq!(gateway.handle_gossip_placement(late, &elsewhere), Ok(()), "worth passing on");
    let elsewhere_expired = other(&|placement| (placement.service, placement.issued) = (unknown, Timestamp(0)));
    let elsewhere_forged = elsewhere.unverified().unwrap();
    let elsewhere_forged = Signed::sign::<Dalek>(&secret(OWNER), world.id, Receiver::Anyone, &elsewhere_forged);
    for (placement, reject) in [
        (world.placement(late, 4, 1), Reject::WrongEpoch),
        (world.placement_by(OWNER, late, 6, 3), Reject::BadSignature),
        (other(&|placement| placement.host = host(3)), Reject::Conflict),
        (other(&|placement| placement.key = PlacementKey([0; 32])), Reject::Conflict),
        (elsewhere_forged, Reject::BadSignature),
        (elsewhere_expired, Reject::Expired),
        (world.placement(at(60_000), 6, 3), Reject::NotYetValid),
    ] {
        let count = gateway.rejects().get(reject);
        assert_eq!(gateway.handle_gossip_placement(late, &placement), Err(reject));
        assert_eq!(gateway.rejects().get(reject), count + 1);
        assert_eq!(gateway.placement(world.service).unwrap().host, host(2));
        assert_eq!(gateway.poll_effect(), None);
    }
    // The same again, or one issued earlier, is no news and no fault.
    gateway.handle_gossip_placement(late, &world.placement(at(1), 5, 2)).unwrap();
    gateway.handle_gossip_placement(late, &world.placement(at(0), 5, 2)).unwrap();
    assert_eq!(gateway.poll_effect(), None);
    // From a host, old news does not end the stream; a forgery does.
    gateway.handle_connected(late, host(2));
    settle(&mut gateway, late);
    assert_eq!(gateway.handle_frame(late, host(2), &moved(&world.placement(late, 4, 1))), Ok(()));
    let forged = world.placement_by(OWNER, late, 6, 3);
    assert_eq!(gateway.handle_frame(late, host(2), &moved(&forged)), Err(Reject::BadSignature));
}

#[test]
fn an_expired_placement_of_a_higher_epoch_ends_the_use_of_the_one_known() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    let now = at(20_000);
    let mut old = world.placement(at(0), 2, 2).unverified().unwrap();
    old.issued = Timestamp(now.wall.0 - 40_000_000);
    let old = Signed::sign::<Dalek>(&secret(REGISTRY), world.id, Receiver::Anyone, &old);
    assert_eq!(gateway.handle_gossip_placement(now, &old), Err(Reject::Expired));
    assert_eq!(gateway.placement(world.service), None);
    assert_eq!(lookups(&settle(&mut gateway, now)), 1);
    gateway.handle_frame(now, host(1), &world.reply(&gateway, 1, b"stale")).unwrap();
    assert_eq!(settle(&mut gateway, now), []);
    assert_eq!(gateway.handle_gossip_placement(now, &world.placement(now, 1, 1)), Err(Reject::WrongEpoch));
}

#[test]
fn a_host_that_does_not_have_it_yet_is_asked_again_soon() {
    let world = World::new();
    let gone = ClientFrame::Gone(Gone { service: world.service }).to_bytes();
    let old_move = moved(&world.placement(at(0), 1, 1));
    let mut gateway = world.following(1);
    let unknown = world.refusal(&gateway, 1, Reject::UnknownService);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    for (round, bytes) in [gone, old_move, unknown].into_iter().enumerate() {
        let start = round as u64 * 20_000 / 3;
        gateway.handle_frame(at(start + 1), host(1), &bytes).unwrap();
        assert_eq!(lookups(&settle(&mut gateway, at(start + 1))), 1, "round {round}");
        gateway
            .handle_found(
                at(start + 2),
                world.id,
                &Found {
                    lookup: Lookup::Id(world.service),
                    service: Some((world.placement(at(0), 1, 1), world.manifest.clone())),
                    addresses: vec![],
                },
            )
            .unwrap();
        gateway.handle_timeout(at(start + 250));
        let names: Vec<&str> = frames(&settle(&mut gateway, at(start + 250))).iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["Open", "Call"], "round {round}");
        // Whoever else says so is not asked.
        gateway.handle_frame(at(start + 260), host(7), &bytes).unwrap();
        assert_eq!(settle(&mut gateway, at(start + 260)), []);
    }
}

#[test]
fn the_registry_is_asked_with_back_off_until_it_answers() {
    let world = World::new();
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    let mut asked = vec![];
    for tick in 0..600 {
        gateway.handle_timeout(at(tick * 100));
        let count = lookups(&settle(&mut gateway, at(tick * 100)));
        asked.extend(std::iter::repeat_n(tick * 100, count));
    }
    assert_eq!(asked, [0, 500, 1500, 3500, 7500, 15_500, 30_500, 45_500]);
    gateway.handle_found(at(60_000), world.id, &world.found(at(60_000), 1, 1)).unwrap();
    assert_eq!(gateway.resolve(&world.lookup()), Some(world.service));
    assert_eq!(gateway.services().collect::<Vec<_>>(), [world.service]);
}

#[test]
fn answers_that_do_not_count() {
    let world = World::new();
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    settle(&mut gateway, at(0));
    let honest = world.found(at(1), 1, 1);
    let other_name = World::manifest_of(world.id, OwnerKey(Dalek::public_key(&secret(OWNER))), "other");
    let other_name = Signed::sign::<Dalek>(&secret(OWNER), world.id, Receiver::Anyone, &other_name);
    let not_owner = world.manifest.unverified().unwrap();
    let not_owner = Signed::sign::<Dalek>(&secret(GATEWAY), world.id, Receiver::Anyone, &not_owner);
    let mut version = world.manifest.unverified().unwrap();
    version.version = 2;
    let version = Signed::sign::<Dalek>(&secret(OWNER), world.id, Receiver::Anyone, &version);
    let with = |manifest: &Signed<Manifest>| Found {
        service: Some((world.placement(at(1), 1, 1), manifest.clone())),
        ..honest.clone()
    };
    let forged =
        Found { service: Some((world.placement_by(OWNER, at(1), 1, 1), world.manifest.clone())), ..honest.clone() };
    let unasked = Found { lookup: Lookup::Name("else".to_owned()), ..honest.clone() };
    for (registry, found, reject) in [
        (RegistryId([0; 32]), &honest, Reject::WrongPeer),
        (world.id, &unasked, Reject::UnexpectedMessage),
        (world.id, &with(&other_name), Reject::WrongService),
        (world.id, &with(&not_owner), Reject::BadSignature),
        (world.id, &with(&version), Reject::WrongManifest),
        (world.id, &forged, Reject::BadSignature),
    ] {
        let count = gateway.rejects().get(reject);
        assert_eq!(gateway.handle_found(at(1), registry, found), Err(reject));
        assert_eq!(gateway.rejects().get(reject), count + 1);
        assert_eq!(gateway.placement(world.service), None);
    }
    gateway.handle_found(at(2), world.id, &honest).unwrap();
    assert!(gateway.placement(world.service).is_some());
}

#[test]
fn a_service_that_does_not_exist_fails_what_waits_for_it() {
    let world = World::new();
    let nothing = |lookup| Found { lookup, service: None, addresses: vec![] };
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    let ticket = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    gateway.handle_found(at(1), world.id, &nothing(world.lookup())).unwrap();
    assert_eq!(failures(&settle(&mut gateway, at(1))), [(ticket, Failure::NoSuchService)]);
    assert_eq!(Failure::NoSuchService.status(), 404);
    // It may be registered later: a request asks again.
    gateway.handle_request(at(1000), &world.lookup(), vec![], None).unwrap();
    assert_eq!(lookups(&settle(&mut gateway, at(1000))), 1);

    let mut gateway = world.following(1);
    let ticket = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    gateway.handle_found(at(1), world.id, &nothing(Lookup::Id(world.service))).unwrap();
    let effects = settle(&mut gateway, at(1));
    assert_eq!(failures(&effects), [(ticket, Failure::NoSuchService)]);
    assert!(effects.contains(&Effect::Disconnect { host: host(1) }));
    assert_eq!(gateway.resolve(&world.lookup()), None);
}

#[test]
fn a_name_and_an_identifier_share_one_numbering() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.add_service(at(0), &Lookup::Id(world.service)).unwrap();
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    gateway.handle_request(at(0), &Lookup::Id(world.service), vec![], None).unwrap();
    assert_eq!(calls(&settle(&mut gateway, at(0))), [(host(1), 1, 1), (host(1), 2, 1)]);
}
