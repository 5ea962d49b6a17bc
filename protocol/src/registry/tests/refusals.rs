//! What goes wrong: every guard of the Registry is provoked once, by name.

use super::harness::{Attempt, Node, World, required, world};
use crate::{
    ids::{Digest, Nonce, PlacementKey},
    limits::{ADVERT_LIFETIME_MAX, CLOCK_SKEW, FRAME_BYTES_MAX, TEXT_BYTES_MAX, VERDICT_LIFETIME},
    manifest::ServiceType,
    migration::messages::{CompleteFrame, Lookup, Mode, NoReason, Reclaim, Refused, RegistryFrame, VerifyCloudFrame},
    registry::{Effect, is_violation, unknown_hash},
    reject::Reject,
    suite::{Dalek, Secret, Suite},
    time::Micros,
    trust::{CoSigned, Receiver, Role},
    wire::{Frame, VERSIONS},
};

#[test]
fn bytes_that_are_no_frame() {
    let (mut world, _, home, ..) = world();
    let lookup = RegistryFrame::Lookup(Lookup::Name("kv".to_owned())).to_bytes();
    let mut send = |bytes: &[u8], reject: Reject| {
        let result = world.registry.handle_frame(world.now, &mut world.rng, home.host, bytes);
        assert_eq!(result, Err(reject));
        assert_eq!(world.registry.rejects().get(reject), 1, "{reject:?}");
        assert!(world.registry.poll_effect().is_none());
        world.registry = world.restored();
    };
    send(&[], Reject::Malformed);
    send(&[2, 48], Reject::WrongVersion);
    send(&vec![1; FRAME_BYTES_MAX + 1], Reject::FrameTooLarge);
    send(&lookup[..lookup.len() - 1], Reject::Malformed);
    send(&[&lookup[..], &[0]].concat(), Reject::Malformed);
}

/// A node that is newer than the Registry is told by name, and its stream stays: it may say what both know.
#[test]
fn a_message_of_an_unknown_kind_is_answered_by_name() {
    let (mut world, _, home, ..) = world();
    for version in VERSIONS {
        let unknown = [*version, 200, 1, 2, 3];
        let result = world.registry.handle_frame(world.now, &mut world.rng, home.host, &unknown);
        assert_eq!(result, Err(Reject::UnknownMessage));
        assert!(!is_violation(Reject::UnknownMessage));
        let refused = Refused { about: unknown_hash(&unknown), reason: "unknown_message".to_owned() };
        let frame = RegistryFrame::Refused(refused);
        assert_eq!(world.registry.poll_effect(), Some(Effect::Reply { to: home.host, frame }));
        assert_eq!(world.registry.poll_effect(), None);
    }
}

#[test]
fn frames_that_only_the_registry_sends() {
    let (mut world, mut service, home, fjord, _) = world();
    let two = world.two(&mut service, &fjord, |_| ());
    let three = world.ask(&home, &two);
    world.refused(&home, &three, Reject::UnexpectedMessage);
    let refused = Refused { about: Digest([0; 32]), reason: String::new() };
    world.refused(&home, &RegistryFrame::Refused(refused), Reject::UnexpectedMessage);
    let long = RegistryFrame::Lookup(Lookup::Name("n".repeat(TEXT_BYTES_MAX + 1)));
    world.refused(&home, &long, Reject::FieldTooLong);
}

fn no_reason(world: &World, sent: &[(crate::ids::HostId, RegistryFrame)]) -> NoReason {
    match &sent[0].1 {
        RegistryFrame::NoCloud(signed) => world.believe(sent[0].0, signed).reason,
        RegistryFrame::NoService(signed) => world.believe(sent[0].0, signed).reason,
        other => panic!("no verdict: {other:?}"),
    }
}

#[test]
fn a_two_that_is_not_of_record() {
    let (mut world, mut service, home, fjord, delta) = world();
    let two = world.two(&mut service, &fjord, |_| ());
    // vkS alone is worth nothing: the host of record has to be the peer.
    let sent = world.refused(&delta, &two, Reject::NotHostOfRecord);
    assert_eq!(no_reason(&world, &sent), NoReason::NotOfRecord);
    let two = world.two(&mut service, &fjord, |request| request.epoch.era += 1);
    let sent = world.refused(&home, &two, Reject::WrongEpoch);
    assert_eq!(no_reason(&world, &sent), NoReason::NotOfRecord);
    // The host alone is worth nothing either.
    let thief = Secret::new([66; 32]);
    let mut stolen = service.clone();
    stolen.key = thief;
    let two = world.two(&mut stolen, &fjord, |_| ());
    world.refused(&home, &two, Reject::WrongPlacementKey);
    let two = world.two(&mut service, &fjord, |request| request.key.0 = [9; 32]);
    world.refused(&home, &two, Reject::BadSignature);
    let two = world.two(&mut service, &fjord, |request| request.service.unique[0] ^= 1);
    world.refused(&home, &two, Reject::UnknownService);
    let two = world.two(&mut service, &fjord, |request| request.service.registry.0[0] ^= 1);
    world.refused(&home, &two, Reject::UnknownRegistry);
    assert_eq!(world.registry.migrations().count(), 0);
}

#[test]
fn a_two_that_was_used() {
    let (mut world, mut service, home, fjord, _) = world();
    let first = world.two(&mut service, &fjord, |_| ());
    world.ask(&home, &first);
    service.counter = 0;
    let same_counter = world.two(&mut service, &fjord, |_| ());
    world.refused(&home, &same_counter, Reject::Reused);
    let second = world.two(&mut service, &fjord, |request| request.nonce = Nonce([42; 16]));
    world.ask(&home, &second);
    world.refused(&home, &first, Reject::OldCounter);
    let same_nonce = world.two(&mut service, &fjord, |request| request.nonce = Nonce([42; 16]));
    world.refused(&home, &same_nonce, Reject::Reused);
    assert_eq!(world.registry.migrations().count(), 2);
}

#[test]
fn an_advert_that_does_not_hold() {
    let (mut world, mut service, home, fjord, delta) = world();
    let mut case = |reject: Reject, reason: Option<NoReason>, make: &dyn Fn(&World) -> VerifyAdvert| {
        let made = make(&world);
        let two = world.two_with(&mut service, &fjord, made.advert.clone(), |request| (made.edit)(request));
        let sent = world.refused(&home, &two, reject);
        match reason {
            Some(reason) => {
                assert_eq!(no_reason(&world, &sent), reason, "{reject:?}");
                // The same bytes get the same no, without another judgement.
                assert_eq!(world.ok(&home, &two), sent);
            }
            None => assert!(sent.is_empty()),
        }
    };
    let plain = |advert| VerifyAdvert { advert, edit: |_| () };
    case(Reject::WrongHash, None, &|world| VerifyAdvert {
        advert: world.advert(&fjord, |_| ()),
        edit: |request| request.advert.0[0] ^= 1,
    });
    case(Reject::WrongCloud, None, &|world| plain(world.advert(&delta, |_| ())));
    case(Reject::WrongCloud, None, &|world| VerifyAdvert {
        advert: world.advert(&fjord, |_| ()),
        edit: |request| request.cloud.0[0] ^= 1,
    });
    case(Reject::NotEnrolled, Some(NoReason::NotEnrolled), &|world| VerifyAdvert {
        advert: world.advert(&fjord, |_| ()),
        edit: |request| request.host = Node::new(77, "").host,
    });
    case(Reject::BadSignature, None, &|world| {
        let mut advert = world.advert(&fjord, |_| ()).unverified().unwrap();
        advert.serial = 9;
        plain(world.sign(&delta.secret, Receiver::Anyone, &advert))
    });
    case(Reject::WrongTos, None, &|world| plain(world.advert(&fjord, |advert| advert.tos = ServiceType::Request)));
    case(Reject::Expired, Some(NoReason::BadAdvert), &|world| {
        plain(world.advert(&fjord, |advert| advert.expiry.0 = world.now.wall.0 - CLOCK_SKEW.0))
    });
    case(Reject::NotYetValid, Some(NoReason::BadAdvert), &|world| {
        let late = world.now.wall + ADVERT_LIFETIME_MAX + CLOCK_SKEW + Micros(1);
        plain(world.advert(&fjord, |advert| advert.expiry = late))
    });
    case(Reject::Cordoned, Some(NoReason::NoResources), &|world| {
        plain(world.advert(&fjord, |advert| advert.cordoned = true))
    });
    case(Reject::NoResources, Some(NoReason::NoResources), &|world| {
        plain(world.advert(&fjord, |advert| advert.resources.memory_bytes = required().memory_bytes - 1))
    });
}

struct VerifyAdvert {
    advert: crate::trust::Signed<crate::advert::Advert>,
    edit: fn(&mut crate::migration::messages::VerifyCloud),
}

#[test]
fn a_move_that_the_owner_forbids_or_that_leads_nowhere() {
    let (mut world, _, home, fjord, _) = world();
    let picky = |world: &mut World| {
        let only = crate::trust::certificate::cloud_id(world.registry.id(), "home");
        world.register(&home, "picky", |manifest| manifest.allowed_clouds = vec![only])
    };
    let mut service = picky(&mut world);
    let two = world.two(&mut service, &fjord, |_| ());
    let sent = world.refused(&home, &two, Reject::PolicyForbids);
    assert_eq!(no_reason(&world, &sent), NoReason::PolicyForbids);

    let mut service = world.register(&fjord, "local", |_| ());
    let two = world.two(&mut service, &fjord, |_| ());
    let sent = world.refused(&fjord, &two, Reject::SelfMove);
    assert_eq!(no_reason(&world, &sent), NoReason::PolicyForbids);

    let other_home = world.enrol(8, "cabin", Role::Home);
    let two = world.two(&mut service, &other_home, |_| ());
    let sent = world.refused(&fjord, &two, Reject::WrongRole);
    assert_eq!(no_reason(&world, &sent), NoReason::NotEnrolled);
}

#[test]
fn a_five_that_does_not_match() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (attempt, _) = world.allowed(&mut service, &home, &fjord);
    let mut case = |peer: &Node, reject: Reject, edit: &dyn Fn(&mut crate::migration::messages::VerifyService)| {
        let five = world.five(&attempt, edit);
        world.refused(peer, &five, reject)
    };
    case(&delta, Reject::BadSignature, &|_| ());
    case(&fjord, Reject::WrongPeer, &|request| request.ids.host = delta.host);
    case(&fjord, Reject::WrongCloud, &|request| request.ids.cloud.0[0] ^= 1);
    case(&fjord, Reject::WrongService, &|request| request.ids.service.unique[0] ^= 1);
    case(&fjord, Reject::WrongEpoch, &|request| request.ids.epoch.era += 1);
    case(&fjord, Reject::WrongPlacementKey, &|request| request.key.0[0] ^= 1);
    let sent = case(&fjord, Reject::UnknownMigration, &|request| request.ids.mig.0[0] ^= 1);
    assert!(matches!(&sent[0].1, RegistryFrame::NoService(_)));
    // A placement key serves one epoch.
    let old = PlacementKey(Dalek::public_key(&service.key));
    case(&fjord, Reject::Reused, &|request| request.new_key = old);
    assert!(world.registry.migration(attempt.ids.mig).unwrap().pinned.is_none());
}

#[test]
fn a_second_session_for_one_migration() {
    let (mut world, mut service, home, fjord, _) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let pinned = world.registry.migration(attempt.ids.mig).cloned();
    for edit in [
        (|request| request.new_key.0[0] ^= 1) as fn(&mut crate::migration::messages::VerifyService),
        |request| request.nonce.0[0] ^= 1,
        |request| request.request.0[0] ^= 1,
    ] {
        let five = world.five(&attempt, edit);
        world.refused(&fjord, &five, Reject::Reused);
    }
    assert_eq!(world.registry.migration(attempt.ids.mig).cloned(), pinned);
}

#[test]
fn verdicts_expire_but_decide_nothing() {
    let (mut world, mut service, home, fjord, _) = world();
    let (late, _) = world.allowed(&mut service, &home, &fjord);
    world.pass(VERDICT_LIFETIME);
    let five = world.five(&late, |_| ());
    world.refused(&fjord, &five, Reject::Expired);
    let attempt = world.pinned(&mut service, &home, &fjord);
    world.pass(VERDICT_LIFETIME.times(10));
    assert_eq!(world.ok(&fjord, &world.ten(&attempt, |_| (), |_| ())).len(), 2);
}

#[test]
fn a_ten_that_does_not_match() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (unpinned, _) = world.allowed(&mut service, &home, &fjord);
    world.refused(&fjord, &world.ten(&unpinned, |_| (), |_| ()), Reject::UnexpectedMessage);
    let attempt = world.pinned(&mut service, &home, &fjord);
    let cases: &[(Reject, RegistryFrame)] = &[
        (Reject::WrongService, world.ten(&attempt, |_| (), |complete| complete.ids.service.unique[0] ^= 1)),
        (Reject::WrongCloud, world.ten(&attempt, |_| (), |complete| complete.ids.cloud.0[0] ^= 1)),
        (Reject::WrongEpoch, world.ten(&attempt, |_| (), |complete| complete.ids.epoch.era += 1)),
        (Reject::WrongTos, world.ten(&attempt, |_| (), |complete| complete.tos = ServiceType::Cloud)),
        (Reject::WrongPlacementKey, world.ten(&attempt, |_| (), |complete| complete.new_key.0[0] ^= 1)),
        (Reject::WrongConsent, world.ten(&attempt, |_| (), |complete| complete.consent.0[0] ^= 1)),
        (Reject::WrongHash, world.ten(&attempt, |_| (), |complete| complete.transcript.0[0] ^= 1)),
        (Reject::WrongState, world.ten(&attempt, |_| (), |complete| complete.state.0[0] ^= 1)),
        (Reject::WrongMode, world.ten(&attempt, |consent| consent.mode = Mode::Token, |_| ())),
        (Reject::WrongPlacementKey, world.ten(&attempt, |consent| consent.new_key.0[0] ^= 1, |_| ())),
        (Reject::WrongMigration, world.ten(&attempt, |consent| consent.ids.mig.0[0] ^= 1, |_| ())),
        (Reject::WrongEpoch, world.ten(&attempt, |consent| consent.ids.epoch.era += 1, |_| ())),
        (Reject::WrongHash, world.ten(&attempt, |consent| consent.transcript.0[0] ^= 1, |_| ())),
        (Reject::WrongState, world.ten(&attempt, |consent| consent.state.0[0] ^= 1, |_| ())),
    ];
    for (reject, frame) in cases {
        world.refused(&fjord, frame, *reject);
    }
    world.refused(&delta, &world.ten(&attempt, |_| (), |_| ()), Reject::WrongPeer);
    let mut elsewhere = attempt.clone();
    elsewhere.ids.service.registry.0[0] ^= 1;
    world.refused(&fjord, &world.ten(&elsewhere, |_| (), |_| ()), Reject::UnknownRegistry);
    assert_eq!(world.ok(&fjord, &world.ten(&attempt, |_| (), |_| ())).len(), 2, "the honest one still wins");
}

#[test]
fn a_ten_without_both_parties_keys() {
    let (mut world, mut service, home, fjord, delta) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    // Attack 4: B alone, without A's consent.
    let forged = |key: &Secret, host: &Node| Attempt { key: key.clone(), from: host.clone(), ..attempt.clone() };
    let consent = world.consent(&forged(&Secret::new([66; 32]), &home), |_| ());
    world.refused(&fjord, &world.ten_with(&attempt, consent, |_| ()), Reject::BadSignature);
    let consent = world.consent(&forged(&attempt.key, &fjord), |_| ());
    world.refused(&fjord, &world.ten_with(&attempt, consent, |_| ()), Reject::BadCoSignature);
    // A consent that was given to another host.
    let other = Attempt { to: delta.clone(), ..attempt.clone() };
    let consent = world.consent(&other, |_| ());
    world.refused(&fjord, &world.ten_with(&attempt, consent, |_| ()), Reject::BadCoSignature);
    // Not under the pinned key, or not under the host's.
    let other = Attempt { new_key: Secret::new([66; 32]), ..attempt.clone() };
    let (honest, odd) = (world.ten(&attempt, |_| (), |_| ()), world.ten(&other, |_| (), |_| ()));
    let (RegistryFrame::Complete(honest), RegistryFrame::Complete(odd)) = (honest, odd) else { unreachable!() };
    let frame = RegistryFrame::Complete(CompleteFrame { complete: odd.complete, consent: honest.consent.clone() });
    world.refused(&fjord, &frame, Reject::BadSignature);
    let message = honest.complete.unverified().unwrap();
    let (id, me) = (world.registry.id(), Receiver::Registry(world.registry.id()));
    let complete = CoSigned::sign::<Dalek>(&attempt.new_key, &delta.secret, id, me, &message);
    let frame = RegistryFrame::Complete(CompleteFrame { complete, consent: honest.consent });
    world.refused(&fjord, &frame, Reject::BadCoSignature);
}

#[test]
fn a_renewal_that_is_not_the_holders() {
    let (mut world, service, home, fjord, _) = world();
    let mut case = |peer: &Node, reject: Reject, edit: &dyn Fn(&mut crate::migration::messages::Renew)| {
        let renew = world.renew(&service, edit);
        world.refused(peer, &renew, reject);
    };
    case(&fjord, Reject::NotHostOfRecord, &|_| ());
    case(&home, Reject::WrongMigration, &|renew| renew.ids.mig.0[0] ^= 1);
    case(&home, Reject::WrongCloud, &|renew| renew.ids.cloud.0[0] ^= 1);
    case(&home, Reject::WrongEpoch, &|renew| renew.ids.epoch.era += 1);
    case(&home, Reject::WrongEpoch, &|renew| renew.ids.epoch.era -= 1);
    case(&home, Reject::UnknownService, &|renew| renew.ids.service.unique[0] ^= 1);
    case(&home, Reject::UnknownRegistry, &|renew| renew.ids.service.registry.0[0] ^= 1);
    let mut stolen = service.clone();
    stolen.key = Secret::new([66; 32]);
    let renew = world.renew(&stolen, |_| ());
    world.refused(&home, &renew, Reject::BadSignature);
}

#[test]
fn a_reclaim_that_is_not_the_sources() {
    let (mut world, mut service, home, fjord, _) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let reclaim = world.reclaim(&attempt);
    // Attack 8 and its like: the placement key without the host, the host without the placement key.
    world.refused(&fjord, &reclaim, Reject::NotHostOfRecord);
    let odd = Attempt { key: Secret::new([66; 32]), ..attempt.clone() };
    let forged = world.reclaim(&odd);
    world.refused(&home, &forged, Reject::BadSignature);
    let wrong_epoch =
        Attempt { ids: crate::ids::MigrationIds { epoch: service.epoch.next_era(), ..attempt.ids }, ..attempt.clone() };
    let frame = world.cancel(&wrong_epoch);
    world.refused(&home, &frame, Reject::WrongEpoch);
    let wrong_host = Attempt { ids: crate::ids::MigrationIds { host: home.host, ..attempt.ids }, ..attempt.clone() };
    let frame = world.cancel(&wrong_host);
    world.refused(&home, &frame, Reject::WrongCloud);

    let nonce = Nonce([42; 16]);
    let first = world.to_registry(&attempt.key, &Reclaim { ids: attempt.ids, nonce });
    world.ask(&home, &RegistryFrame::Reclaim(first));
    let second = world.to_registry(&attempt.key, &crate::migration::messages::Cancel { ids: attempt.ids, nonce });
    world.refused(&home, &RegistryFrame::Cancel(second), Reject::Reused);
}

#[test]
fn a_twelve_that_is_not_the_sources_or_comes_early() {
    let (mut world, mut service, home, fjord, _) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    world.refused(&home, &world.twelve(&attempt, |_| ()), Reject::UnexpectedMessage);
    world.ok(&fjord, &world.ten(&attempt, |_| (), |_| ()));
    world.refused(&fjord, &world.twelve(&attempt, |_| ()), Reject::BadSignature);
    let odd = Attempt { from: fjord.clone(), ..attempt.clone() };
    world.refused(&fjord, &world.twelve(&odd, |_| ()), Reject::NotHostOfRecord);
    world.refused(&home, &world.twelve(&attempt, |released| released.ids.mig.0[0] ^= 1), Reject::UnknownMigration);
    world.refused(&home, &world.twelve(&attempt, |released| released.ids.epoch.era += 1), Reject::WrongEpoch);
    assert!(world.ok(&home, &world.twelve(&attempt, |_| ())).is_empty());
}

#[test]
fn refusals_name_what_they_are_about() {
    let (mut world, _, home, fjord, _) = world();
    let mut service = world.register(&home, "other", |_| ());
    service.id.unique[0] ^= 1;
    let two = world.two(&mut service, &fjord, |_| ());
    let RegistryFrame::VerifyCloud(VerifyCloudFrame { request, .. }) = &two else { unreachable!() };
    let sent = world.refused(&home, &two, Reject::UnknownService);
    let expected = Refused { about: request.hash(), reason: "unknown_service".to_owned() };
    assert_eq!(sent, [(home.host, RegistryFrame::Refused(expected))]);
}
