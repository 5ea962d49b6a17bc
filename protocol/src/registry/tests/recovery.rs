//! After a restore from a backup: what is refused, what is believed. With real hosts: `tests/recovery.rs`.

use super::harness::{Node, R, START, Sent, Service, World, config, world};
use crate::{
    ids::{Epoch, HostId, Nonce},
    limits::{ADDRESSES_MAX, RECOVERY_WINDOW, SHOWN_PARTS_MAX},
    manifest::Manifest,
    migration::messages::{Lookup, Placement, RegistryFrame, Shown, ShownFrame, ShownStay},
    registry::{
        CommandError, Effect, Event, Registry, RestoreError, RevokeTarget, StoreImage, StoreOp, Suspension, Table,
        mark_restored,
    },
    reject::Reject,
    suite::{Dalek, Secret},
    time::{Micros, Timestamp},
    trust::{Certificate, Receiver, Role, Signed},
};

fn rows(image: &StoreImage) -> impl Iterator<Item = (Table, Vec<u8>, Vec<u8>)> + '_ {
    image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()))
}

/// The registry comes back from `backup`.
fn restore(world: &mut World, backup: StoreImage) {
    world.image = backup;
    let marks = mark_restored(world.registry.id(), rows(&world.image), world.now.wall).unwrap();
    marks.iter().for_each(|op| op.apply(&mut world.image));
    world.restart();
}

fn asked(sent: &Sent) -> Option<Nonce> {
    sent.iter().find_map(|(_, frame)| match frame {
        RegistryFrame::Recovering(recovering) => Some(recovering.nonce),
        _ => None,
    })
}

/// What `host` has, to be edited.
struct Show {
    shown: Shown,
    frame: Box<dyn FnOnce(&mut ShownFrame)>,
    secret: Secret,
    certificate: Signed<Certificate>,
    manifests: Vec<Signed<Manifest>>,
}

fn show(world: &World, host: &Node, nonce: Nonce, certificate: Signed<Certificate>) -> Show {
    let shown = Shown { nonce, part: 0, parts: 1, stays: vec![], held: vec![], elsewhere: vec![] };
    let manifests = world.registry.tables.manifests.iter().map(|row| row.signed.clone()).collect();
    Show { shown, frame: Box::new(|_| ()), secret: host.secret.clone(), certificate, manifests }
}

impl Show {
    fn stay(mut self, placement: &Signed<Placement>) -> Self {
        self.shown.stays.push(ShownStay { placement: placement.clone(), consent: None });
        self
    }

    fn edit(mut self, edit: impl FnOnce(&mut Shown)) -> Self {
        edit(&mut self.shown);
        self
    }

    fn wrap(self, edit: impl FnOnce(&mut ShownFrame) + 'static) -> Self {
        Self { frame: Box::new(edit), ..self }
    }

    fn frame(self, world: &World) -> RegistryFrame {
        let shown = world.to_registry(&self.secret, &self.shown);
        let (certificate, manifests) = (self.certificate, self.manifests);
        let mut frame = ShownFrame { shown, certificate, manifests, addresses: vec!["/dns/here/tcp/1".to_owned()] };
        (self.frame)(&mut frame);
        RegistryFrame::Shown(frame)
    }
}

fn certificate(world: &World, node: &Node) -> Signed<Certificate> {
    world.registry.tables.hosts.get(node.host).unwrap().signed.clone()
}

fn placement(world: &World, service: &Service) -> Signed<Placement> {
    world.registry.tables.services.get(service.id).unwrap().signed.clone()
}

/// A service that moved from home to fjord after the backup; fjord has been asked what it has.
struct Moved {
    world: World,
    service: Service,
    home: Node,
    fjord: Node,
    delta: Node,
    /// At home, and at fjord.
    placements: [Signed<Placement>; 2],
    nonce: Nonce,
}

fn moved() -> Moved {
    let (mut world, mut service, home, fjord, delta) = world();
    let backup = world.image.clone();
    let first = placement(&world, &service);
    world.moved(&mut service, &home, &fjord);
    let second = placement(&world, &service);
    let renew = world.renew(&service, |_| ());
    restore(&mut world, backup);
    let sent = world.refused(&fjord, &renew, Reject::Recovering);
    assert_eq!(sent.len(), 2);
    let nonce = asked(&sent).unwrap();
    Moved { world, service, home, fjord, delta, placements: [first, second], nonce }
}

impl Moved {
    fn show(&self, host: &Node) -> Show {
        show(&self.world, host, self.nonce, certificate(&self.world, host))
    }
}

#[test]
fn every_decision_waits_and_says_so() {
    let (mut world, mut service, home, fjord, delta) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let backup = world.image.clone();
    restore(&mut world, backup);
    let manifest = world.manifest(&service.owner, "another");
    let frames = [
        (&home, world.two(&mut service, &delta, |_| ())),
        (&fjord, world.five(&attempt, |_| ())),
        (&fjord, world.ten(&attempt, |_| (), |_| ())),
        (&home, world.renew(&service, |_| ())),
        (&home, world.reclaim(&attempt)),
        (&home, world.cancel(&attempt)),
        (&home, world.register_frame(&home, &service.owner, &service.key, &manifest, |_| ())),
        (&home, RegistryFrame::Lookup(Lookup::Name("another".to_owned()))),
    ];
    for (peer, frame) in &frames {
        let sent = world.refused(peer, frame, Reject::Recovering);
        assert!(sent.iter().any(|(_, frame)| matches!(frame, RegistryFrame::Refused(_))), "{frame:?}");
        assert!(sent.iter().all(|(to, _)| *to == peer.host));
    }
    // Each is asked once in a while, not with every refusal.
    let again = world.refused(&home, &frames[3].1, Reject::Recovering);
    assert_eq!(asked(&again), None);
    world.pass(Micros::from_secs(5));
    let later = world.refused(&home, &frames[3].1, Reject::Recovering);
    assert!(asked(&later).is_some());
    // What is known is told, and not signed anew.
    let found = world.ask(&delta, &RegistryFrame::Lookup(Lookup::Id(service.id)));
    let RegistryFrame::Found(found) = found else { panic!("{found:?}") };
    assert_eq!(found.service.unwrap().0, placement(&world, &service));
}

#[test]
fn the_newest_placement_is_adopted_and_its_host_goes_on_after_the_window() {
    let Moved { mut world, service, fjord, placements: [_, second], nonce, .. } = moved();
    assert_eq!(world.registry.placement(service.id).unwrap().epoch, Epoch::FIRST);
    let shown = show(&world, &fjord, nonce, certificate(&world, &fjord)).stay(&second).frame(&world);
    assert_eq!(world.ok(&fjord, &shown), []);
    assert_eq!(world.ok(&fjord, &shown), [], "again: no change");
    assert_eq!(world.registry.placement(service.id).unwrap().epoch.era, 2);
    assert_eq!(world.events.iter().filter(|event| matches!(event, Event::Adopted { .. })).count(), 1);
    let view = world.registry.placements(world.now).next().unwrap().suspended;
    assert_eq!(view, Some(Suspension { window: true, waits_for: None }));
    let renew = world.renew(&service, |_| ());
    world.refused(&fjord, &renew, Reject::Recovering);
    world.pass(RECOVERY_WINDOW);
    assert!(matches!(world.ask(&fjord, &renew), RegistryFrame::Granted(_)));
    assert!(world.events.contains(&Event::WindowOver { services: 1, waiting: 0 }));
    // It is on disk that this is over.
    world.restart();
    assert_eq!(world.registry.recovery(world.now).unwrap().suspended, 0);
    let renew = world.renew(&service, |_| ());
    assert!(matches!(world.ask(&fjord, &renew), RegistryFrame::Granted(_)));
}

#[test]
fn what_is_shown_falsely_is_refused_and_changes_nothing() {
    let moved = moved();
    let [first, second] = moved.placements.clone();
    let Moved { home, fjord, delta, service, .. } = &moved;
    let consent = || {
        let mut ids = second.unverified().unwrap().ids();
        ids.host = delta.host;
        ids
    };
    let other = Secret::new([251; 32]);
    let forged = Signed::sign::<Dalek>(&other, service.id.registry, Receiver::Anyone, &second.unverified().unwrap());
    let with = |consent| ShownStay { placement: second.clone(), consent: Some(consent) };
    let mut elsewhere = consent();
    elsewhere.service.unique = [9; 16];
    let mut older = consent();
    older.epoch = Epoch::FIRST;
    let mut foreign = consent();
    (foreign.service.registry.0, foreign.host) = ([9; 32], fjord.host);
    let good = || moved.show(fjord).stay(&second);
    let long = vec!["a".to_owned(); ADDRESSES_MAX + 1];
    let manifest = moved.world.manifest(&other, "kv");
    let unsigned = moved.world.sign(&fjord.secret, Receiver::Anyone, &manifest);
    let cases = [
        ("another's signature", Show { secret: home.secret.clone(), ..good() }, Reject::BadSignature),
        ("another nonce", good().edit(|shown| shown.nonce = Nonce([0; 16])), Reject::WrongNonce),
        ("no such part", good().edit(|shown| shown.part = 1), Reject::FieldTooLong),
        ("no parts", good().edit(|shown| shown.parts = 0), Reject::FieldTooLong),
        ("too many parts", good().edit(|shown| shown.parts = SHOWN_PARTS_MAX + 1), Reject::FieldTooLong),
        ("the second part first", good().edit(|shown| (shown.part, shown.parts) = (1, 2)), Reject::UnexpectedMessage),
        ("a forged placement", moved.show(fjord).stay(&forged), Reject::BadSignature),
        ("a forged one elsewhere", good().edit(|shown| shown.elsewhere.push(forged.clone())), Reject::BadSignature),
        ("another's placement", moved.show(fjord).stay(&first), Reject::WrongPeer),
        (
            "a consent for another service",
            moved.show(fjord).edit(|shown| shown.stays.push(with(elsewhere))),
            Reject::WrongService,
        ),
        (
            "a consent for another epoch",
            moved.show(fjord).edit(|shown| shown.stays.push(with(older))),
            Reject::WrongEpoch,
        ),
        ("a state that another holds", good().edit(|shown| shown.held.push(consent())), Reject::WrongPeer),
        (
            "a state of another registry's service",
            good().edit(|shown| shown.held.push(foreign)),
            Reject::UnknownRegistry,
        ),
        ("addresses without end", good().wrap(move |frame| frame.addresses = long), Reject::FieldTooLong),
        (
            "a manifest that its owner did not sign",
            good().wrap(|frame| frame.manifests = vec![unsigned]),
            Reject::BadSignature,
        ),
    ];
    for (what, show, reject) in cases {
        let mut world = moved.world.clone();
        let before = world.registry.tables.clone();
        let frame = show.frame(&world);
        let (result, _) = world.send(fjord.host, &frame);
        assert_eq!(result, Err(reject), "{what}");
        assert_eq!(world.registry.tables, before, "{what}");
    }
}

#[test]
fn nobody_shows_anything_to_a_registry_that_was_not_restored() {
    let (mut world, service, home, ..) = world();
    let frame = show(&world, &home, Nonce([0; 16]), certificate(&world, &home));
    let frame = frame.stay(&placement(&world, &service)).frame(&world);
    world.refused(&home, &frame, Reject::UnexpectedMessage);
    assert_eq!(world.registry.poll_timeout(), None);
    assert_eq!(world.registry.recovery(world.now), None);
}

#[test]
fn much_is_shown_in_parts_and_counts_when_it_is_whole() {
    let moved = moved();
    let [_, second] = &moved.placements;
    let part = |part: u32, stay: bool| {
        let show = moved.show(&moved.fjord).edit(|shown| (shown.part, shown.parts) = (part, 3));
        if stay { show.stay(second) } else { show }
    };
    let mut world = moved.world.clone();
    for (number, stay) in [(0, false), (1, true)] {
        world.ok(&moved.fjord, &part(number, stay).frame(&moved.world));
    }
    let waits = |world: &World| world.registry.placements(world.now).next().unwrap().suspended.unwrap().waits_for;
    assert_eq!(waits(&world), Some(moved.fjord.host));
    let skipped = part(1, false).frame(&moved.world);
    world.refused(&moved.fjord, &skipped, Reject::UnexpectedMessage);
    world.ok(&moved.fjord, &part(2, false).frame(&moved.world));
    assert_eq!(waits(&world), None);
}

#[test]
fn silent_hosts_are_asked_wherever_they_are() {
    let Moved { mut world, home, .. } = moved();
    let mut asked: Vec<(HostId, Vec<String>)> = Vec::new();
    for _ in 0..60 {
        world.registry.handle_timeout(world.now, &mut world.rng);
        while let Some(effect) = world.registry.poll_effect() {
            match effect {
                Effect::Ask { to, addresses, .. } => asked.push((to, addresses)),
                Effect::Persist { seq, batch, .. } => {
                    batch.iter().for_each(|op| op.apply(&mut world.image));
                    world.registry.handle_synced(seq);
                }
                Effect::Reply { .. } | Effect::Event(_) => {}
            }
        }
        world.pass(Micros::from_secs(1));
    }
    assert!(asked.iter().all(|ask| *ask == (home.host, vec!["/dns/home/tcp/1".to_owned()])), "{asked:?}");
    assert!((8..=10).contains(&asked.len()), "every 5 s, and after the window every minute: {}", asked.len());
}

#[test]
fn who_enrolled_after_the_backup_is_readmitted_by_its_certificate() {
    let (mut world, ..) = world();
    let backup = world.image.clone();
    let gamma = world.enrol(4, "gamma", Role::Cloud);
    let mut service = world.register(&gamma, "new", |_| ());
    let placed = placement(&world, &service);
    let (paper, manifest) =
        (certificate(&world, &gamma), world.registry.tables.manifests.get(service.id).unwrap().signed.clone());
    let renew = world.renew(&service, |_| ());
    restore(&mut world, backup);
    let nonce = asked(&world.refused(&gamma, &renew, Reject::NotEnrolled)).unwrap();
    let good = |world: &World| {
        let show = show(world, &gamma, nonce, paper.clone()).stay(&placed);
        Show { manifests: vec![manifest.clone()], ..show }
    };
    // Another's certificate, a forged one, one of a revoked provider, an old one.
    let refuse = |edit: &dyn Fn(&mut World), paper: Option<Signed<Certificate>>, reject: Reject| {
        let mut world = world.clone();
        edit(&mut world);
        let good = good(&world);
        let frame = Show { certificate: paper.unwrap_or(good.certificate.clone()), ..good }.frame(&world);
        world.refused(&gamma, &frame, reject);
        assert!(world.registry.tables.hosts.get(gamma.host).is_none());
    };
    let mut claim = paper.unverified().unwrap();
    claim.name = "fjord".to_owned();
    let forged = Signed::sign::<Dalek>(&gamma.secret, service.id.registry, Receiver::Anyone, &claim);
    refuse(&|_| (), Some(forged), Reject::BadCertificate);
    refuse(&|world| world.pass(config().certificate_lifetime.times(2)), None, Reject::CertificateExpired);
    let gone = |world: &mut World| {
        world.token("gamma", Role::Cloud);
        world.registry.revoke(world.now, &RevokeTarget::Cloud("gamma".to_owned())).unwrap();
        world.drain();
    };
    refuse(&gone, None, Reject::Revoked);

    let frame = good(&world).frame(&world);
    world.ok(&gamma, &frame);
    assert_eq!(world.registry.placement(service.id).unwrap().host, gamma.host);
    world.pass(RECOVERY_WINDOW);
    assert!(matches!(world.ask(&gamma, &renew), RegistryFrame::Granted(_)));
    let fjord = Node::new(2, "fjord");
    world.moved(&mut service, &gamma, &fjord);
}

#[test]
fn a_name_given_away_since_stays_given_away() {
    let (mut world, _, home, ..) = world();
    let backup = world.image.clone();
    let service = world.register(&home, "new", |_| ());
    let placed = placement(&world, &service);
    let manifest = world.registry.tables.manifests.get(service.id).unwrap().signed.clone();
    restore(&mut world, backup);
    world.pass(RECOVERY_WINDOW);
    // Its host is silent; after the window another owner takes the name.
    let (owner, key) = (Secret::new([210; 32]), Secret::new([211; 32]));
    let taken = world.manifest(&owner, "new");
    let frame = world.register_frame(&home, &owner, &key, &taken, |_| ());
    world.ask(&home, &frame);
    let renew = {
        let ids = placed.unverified().unwrap().ids();
        let renew = crate::migration::messages::Renew { ids, nonce: Nonce([3; 16]) };
        RegistryFrame::Renew(world.to_registry(&service.key, &renew))
    };
    let nonce = asked(&world.refused(&home, &renew, Reject::UnknownService)).unwrap();
    let good = show(&world, &home, nonce, certificate(&world, &home)).stay(&placed);
    let frame = Show { manifests: vec![manifest], ..good }.frame(&world);
    world.ok(&home, &frame);
    assert_eq!(world.registry.placement(service.id), None);
    assert!(world.registry.placement(taken.service).is_some());
}

#[test]
fn a_host_that_lies_gives_an_old_placement_life_only_while_the_newer_host_is_silent() {
    let Moved { mut world, service, home, fjord, placements: [first, second], nonce, .. } = moved();
    // Home has deleted its copy, and says that it serves.
    let lie = show(&world, &home, nonce, certificate(&world, &home)).stay(&first).frame(&world);
    world.ok(&home, &lie);
    world.pass(RECOVERY_WINDOW);
    world.registry.handle_timeout(world.now, &mut world.rng);
    world.drain();
    assert_eq!(world.registry.recovery(world.now).unwrap().suspended, 0);
    let truth = show(&world, &fjord, nonce, certificate(&world, &fjord)).stay(&second).frame(&world);
    world.ok(&fjord, &truth);
    assert_eq!(world.registry.placement(service.id).unwrap().epoch, Epoch::FIRST, "it was decided about since");
    assert!(world.events.contains(&Event::Contradicted { placement: second, by: fjord.host }));
}

#[test]
fn a_backup_of_another_registry_is_refused_and_tokens_of_a_backup_are_void() {
    let (mut world, ..) = world();
    world.token("later", Role::Cloud);
    let other = Registry::<Dalek, crate::reject::Strict>::new(crate::registry::RegistryConfig::new::<Dalek>(
        Secret::new([249; 32]),
        Vec::new(),
    ));
    let marked = mark_restored(other.id(), rows(&world.image), Timestamp(0));
    assert_eq!(marked, Err(RestoreError::OtherRegistry));
    let image = world.image.clone();
    restore(&mut world, image);
    assert_eq!(world.registry.tokens().count(), 0);
    let nothing: Result<(), CommandError> = Ok(());
    assert_eq!(world.registry.revoke(world.now, &RevokeTarget::Cloud("fjord".to_owned())), nothing);
    world.drain();
}

#[test]
fn records_are_all_that_is_stored() {
    let (world, ..) = world();
    let mut image = StoreImage::new();
    world.registry.records().iter().for_each(|op: &StoreOp| op.apply(&mut image));
    assert_eq!(image, world.image);
    let again = R::restore(config(), START, rows(&image)).unwrap();
    assert_eq!(again.tables, world.registry.tables);
}

#[test]
fn a_cloud_that_joined_after_the_backup_is_known_again_by_its_advert() {
    let (mut world, ..) = world();
    let rows = world.image.clone();
    // An advert says nothing to a Registry that remembers everybody.
    let late = world.enrol(77, "late", Role::Cloud);
    let advert = world.advert(&late, |_| ());
    world.registry.handle_advert(world.now, &advert).unwrap();
    assert!(world.registry.enrolled().any(|host| host.certificate.host == late.host));
    restore(&mut world, rows);
    assert!(!world.registry.enrolled().any(|host| host.certificate.host == late.host));
    world.registry.handle_advert(world.now, &advert).unwrap();
    world.drain();
    assert!(world.registry.enrolled().any(|host| host.certificate.host == late.host));
    assert_eq!(world.restored().enrolled().count(), world.registry.enrolled().count(), "it is on disk");
    let mut forged = advert.unverified().unwrap();
    forged.certificate = world.sign(&Secret::new([9; 32]), Receiver::Anyone, &forged.certificate.unverified().unwrap());
    let forged = world.sign(&late.secret, Receiver::Anyone, &forged);
    assert_eq!(world.registry.handle_advert(world.now, &forged), Err(Reject::BadCertificate));
}

#[test]
fn a_host_that_never_heard_of_its_registration_hears_of_it_after_the_window() {
    let (mut world, _, home, fjord, _) = world();
    let (owner, key) = (Secret::new([210; 32]), Secret::new([211; 32]));
    let manifest = world.manifest(&owner, "new");
    let frame = world.register_frame(&home, &owner, &key, &manifest, |_| ());
    let first = world.ask(&home, &frame);
    let backup = world.image.clone();
    restore(&mut world, backup);
    world.refused(&home, &frame, Reject::Recovering);
    world.pass(RECOVERY_WINDOW);
    let other = world.register_frame(&home, &owner, &key, &manifest, |_| ());
    world.refused(&home, &other, Reject::Recovering);
    world.send(fjord.host, &frame).0.unwrap_err();
    assert_eq!(world.ask(&home, &frame), first, "the very same REGISTER, and so the same answer");
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, Event::Resumed { service, .. } if *service == manifest.service))
    );
}
