//! Who may join, and who no longer belongs.

use super::harness::{Node, World, granted, world};
use crate::{
    limits::{ADDRESSES_MAX, JOIN_TOKENS_MAX, TEXT_BYTES_MAX},
    migration::messages::{Answer, Enrol, Lookup, NoReason, RegistryFrame},
    registry::{CommandError, Effect, RevokeTarget},
    reject::{Reject, Strict},
    suite::Dalek,
    time::Micros,
    trust::{Anchor, Role, TrustBundle, certificate::cloud_id, join::JoinToken},
};

#[test]
fn a_token_enrols_one_host_once() {
    let mut world = World::new();
    let (fjord, thief) = (Node::new(2, "fjord"), Node::new(3, "fjord"));
    let token = world.token("fjord", Role::Cloud);
    let frame = world.enrol_frame(&fjord, Role::Cloud, token);
    let answer = world.ask(&fjord, &frame);
    let RegistryFrame::Enrolled(enrolled) = &answer else { panic!("{answer:?}") };
    let anchor = Anchor { id: world.registry.id(), key: world.registry.host().0, addresses: Vec::new() };
    let (_, certificate) = TrustBundle::new(vec![anchor])
        .verify_certificate::<Dalek, Strict>(&enrolled.certificate, fjord.host, &[Role::Cloud], world.now.wall)
        .unwrap();
    assert_eq!((certificate.name.as_str(), certificate.region.as_str()), ("fjord", "eu-north"));
    assert_eq!(certificate.cloud, cloud_id(world.registry.id(), "fjord"));
    // The same bytes: the same answer. Anybody else: used.
    world.restart();
    assert_eq!(world.ask(&fjord, &frame), answer);
    let stolen = world.enrol_frame(&thief, Role::Cloud, token);
    world.refused(&thief, &stolen, Reject::BadToken);
    assert_eq!(world.registry.tokens().count(), 0);
}

#[test]
fn the_token_that_people_copy_is_the_one_that_the_registry_knows() {
    let mut world = World::new();
    let now = world.now;
    let token =
        world.registry.create_join_token(now, &mut world.rng, "fjord", Role::Cloud, Micros::from_secs(60)).unwrap();
    world.drain();
    let read = JoinToken::parse(&token.to_text()).unwrap();
    assert_eq!(read.anchor, world.registry.anchor());
    let fjord = Node::new(2, "fjord");
    let frame = world.enrol_frame(&fjord, read.role, read.secret.hash());
    world.ask(&fjord, &frame);
}

#[test]
fn enrolment_is_refused_without_a_good_token_and_proof() {
    let mut world = World::new();
    let (fjord, other) = (Node::new(2, "fjord"), Node::new(3, "other"));
    let token = world.token("fjord", Role::Cloud);

    let frame = world.enrol_frame(&fjord, Role::Gateway, token);
    world.refused(&fjord, &frame, Reject::WrongRole);
    // Proof of possession: the peer's own key has to sign, for itself.
    let frame = world.enrol_frame(&fjord, Role::Cloud, token);
    world.refused(&other, &frame, Reject::BadSignature);
    let nonce = world.nonce();
    let enrol = Enrol { host: other.host, role: Role::Cloud, region: String::new(), token, nonce };
    let frame = RegistryFrame::Enrol(world.to_registry(&fjord.secret, &enrol));
    world.refused(&fjord, &frame, Reject::WrongPeer);
    let enrol = Enrol { host: fjord.host, region: "r".repeat(TEXT_BYTES_MAX + 1), ..enrol };
    let frame = RegistryFrame::Enrol(world.to_registry(&fjord.secret, &enrol));
    world.refused(&fjord, &frame, Reject::FieldTooLong);
    world.pass(Micros::from_secs(3600));
    let frame = world.enrol_frame(&fjord, Role::Cloud, token);
    world.refused(&fjord, &frame, Reject::BadToken);
    assert_eq!(world.registry.enrolled().count(), 0);
    world.refused(&fjord, &RegistryFrame::Lookup(Lookup::Name("kv".to_owned())), Reject::NotEnrolled);
}

#[test]
fn another_token_renews_a_certificate_but_changes_nobody() {
    let (mut world, ..) = world();
    let fjord = Node::new(2, "fjord");
    world.pass(Micros::from_secs(100));
    let token = world.token("fjord", Role::Cloud);
    let frame = world.enrol_frame(&fjord, Role::Cloud, token);
    let RegistryFrame::Enrolled(enrolled) = world.ask(&fjord, &frame) else { panic!("not enrolled") };
    assert_eq!(enrolled.certificate.unverified().unwrap().not_before, world.now.wall);
    for (name, role) in [("delta", Role::Cloud), ("fjord", Role::Home)] {
        let token = world.token(name, role);
        let frame = world.enrol_frame(&fjord, role, token);
        world.refused(&fjord, &frame, Reject::Conflict);
    }
    world.registry.revoke(world.now, &RevokeTarget::Host(fjord.host)).unwrap();
    world.drain();
    let token = world.token("fjord", Role::Cloud);
    let frame = world.enrol_frame(&fjord, Role::Cloud, token);
    world.refused(&fjord, &frame, Reject::Revoked);
}

#[test]
fn commands_are_refused_with_what_to_do() {
    let mut world = World::new();
    let now = world.now;
    let hour = Micros::from_secs(3600);
    for name in ["", "a b", "a\nb", &"n".repeat(TEXT_BYTES_MAX + 1)] {
        let refused = world.registry.create_join_token(now, &mut world.rng, name, Role::Cloud, hour);
        assert!(matches!(refused, Err(CommandError::BadName(_))), "{name:?}");
    }
    let unknown = RevokeTarget::Cloud("nobody".to_owned());
    assert!(matches!(world.registry.revoke(now, &unknown), Err(CommandError::Unknown(_))));
    let unknown = RevokeTarget::Host(Node::new(9, "").host);
    assert!(matches!(world.registry.revoke(now, &unknown), Err(CommandError::Unknown(_))));
    world.token("fjord", Role::Cloud);
    world.registry.revoke(now, &RevokeTarget::Cloud("fjord".to_owned())).unwrap();
    world.drain();
    assert_eq!(world.registry.tokens().count(), 0, "invitations of a revoked cloud are void");
    let refused = world.registry.create_join_token(now, &mut world.rng, "fjord", Role::Cloud, hour);
    assert!(matches!(refused, Err(CommandError::NameRevoked(_))));
}

#[test]
fn outstanding_tokens_are_bounded_and_expired_ones_make_room() {
    let mut world = World::new();
    let now = world.now;
    for _ in 0..JOIN_TOKENS_MAX {
        let lifetime = Micros::from_secs(60);
        world.registry.create_join_token(now, &mut world.rng, "fjord", Role::Cloud, lifetime).unwrap();
    }
    // All of them are on disk before anything is let out.
    while let Some(effect) = world.registry.poll_effect() {
        if let Effect::Persist { seq, batch, .. } = effect {
            batch.iter().for_each(|op| op.apply(&mut world.image));
            world.registry.handle_synced(seq);
        }
    }
    let lifetime = Micros::from_secs(60);
    let refused = world.registry.create_join_token(now, &mut world.rng, "fjord", Role::Cloud, lifetime);
    assert_eq!(refused, Err(CommandError::TooManyTokens));
    world.drain();
    world.pass(lifetime);
    world.token("fjord", Role::Cloud);
    assert_eq!(world.registry.tokens().count(), 1);
}

#[test]
fn a_revoked_cloud_gets_no_service_and_no_lease_but_its_services_may_leave() {
    let (mut world, mut service, home, fjord, delta) = world();
    world.moved(&mut service, &home, &fjord);
    world.registry.revoke(world.now, &RevokeTarget::Cloud("fjord".to_owned())).unwrap();
    world.drain();
    assert_eq!(world.registry.enrolled().filter(|host| host.revoked).count(), 1);

    let renew = world.renew(&service, |_| ());
    world.refused(&fjord, &renew, Reject::Revoked);
    world.refused(&fjord, &RegistryFrame::Lookup(Lookup::Id(service.id)), Reject::Revoked);
    // What it gets back after an aborted move carries no time to serve in.
    let attempt = world.pinned(&mut service, &fjord, &delta);
    let reclaim = world.reclaim(&attempt);
    let back = granted(world.ask(&fjord, &reclaim));
    assert!(matches!(back.answer, Answer::Aborted(_)));
    assert_eq!(world.believe_placement(&back.placement).lease, Micros::ZERO);
    world.moved(&mut service, &fjord, &delta);

    let frame = world.two(&mut service, &fjord, |_| ());
    let sent = world.refused(&delta, &frame, Reject::Revoked);
    let RegistryFrame::NoCloud(signed) = &sent[0].1 else { panic!("{sent:?}") };
    assert_eq!(world.believe(delta.host, signed).reason, NoReason::Revoked);
}

#[test]
fn a_cloud_revoked_between_three_and_five_is_told_no() {
    let (mut world, mut service, home, fjord, _) = world();
    let (attempt, _) = world.allowed(&mut service, &home, &fjord);
    world.registry.revoke(world.now, &RevokeTarget::Host(fjord.host)).unwrap();
    world.drain();
    let sent = world.refused(&fjord, &world.five(&attempt, |_| ()), Reject::Revoked);
    let RegistryFrame::NoService(signed) = &sent[0].1 else { panic!("{sent:?}") };
    assert_eq!(world.believe(fjord.host, signed).reason, NoReason::Revoked);
}

#[test]
fn a_service_is_registered_once_by_a_host_that_may() {
    let (mut world, service, home, fjord, _) = world();
    let gateway = world.enrol(9, "gate", Role::Gateway);
    let (owner, key) = (crate::suite::Secret::new([210; 32]), crate::suite::Secret::new([211; 32]));
    let manifest = world.manifest(&owner, "blog");
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |_| ());
    let answer = world.ask(&fjord, &frame);
    assert_eq!(world.ask(&fjord, &frame), answer, "the same bytes get the same answer");
    world.restart();
    assert_eq!(world.ask(&fjord, &frame), answer);

    let again = world.register_frame(&fjord, &owner, &key, &manifest, |_| ());
    world.refused(&fjord, &again, Reject::Conflict);
    let taken = world.manifest(&owner, "kv");
    let frame = world.register_frame(&fjord, &owner, &key, &taken, |_| ());
    world.refused(&fjord, &frame, Reject::NameTaken);

    let manifest = world.manifest(&owner, "wiki");
    let frame = world.register_frame(&gateway, &owner, &key, &manifest, |_| ());
    world.refused(&gateway, &frame, Reject::WrongRole);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |_| ());
    world.refused(&home, &frame, Reject::WrongPeer);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |register| register.service = service.id);
    world.refused(&fjord, &frame, Reject::WrongService);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |register| register.manifest.0[0] ^= 1);
    world.refused(&fjord, &frame, Reject::WrongManifest);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |register| register.service.registry.0[0] ^= 1);
    world.refused(&fjord, &frame, Reject::UnknownRegistry);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |register| register.key.0[0] ^= 1);
    world.refused(&fjord, &frame, Reject::BadSignature);
    let frame = world.register_frame(&fjord, &key, &key, &manifest, |_| ());
    world.refused(&fjord, &frame, Reject::BadSignature);

    let mut forbidden = manifest.clone();
    forbidden.allowed_clouds = vec![cloud_id(world.registry.id(), "delta")];
    let frame = world.register_frame(&fjord, &owner, &key, &forbidden, |_| ());
    world.refused(&fjord, &frame, Reject::PolicyForbids);
    let frame = world.register_frame(&fjord, &owner, &key, &manifest, |_| ());
    let RegistryFrame::Register(mut far) = frame else { unreachable!() };
    far.addresses = vec![String::new(); ADDRESSES_MAX + 1];
    world.refused(&fjord, &RegistryFrame::Register(far), Reject::FieldTooLong);
    let mut long = manifest.clone();
    long.name = "n".repeat(TEXT_BYTES_MAX + 1);
    let frame = world.register_frame(&fjord, &owner, &key, &long, |_| ());
    world.refused(&fjord, &frame, Reject::FieldTooLong);
    assert_eq!(world.registry.placements(world.now).count(), 2);
}
