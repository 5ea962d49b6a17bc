//! Attacks on the Registry's machine.

use wayfare_protocol::{
    ids::{Digest, HostId, MigrationIds},
    limits::VERDICT_LIFETIME,
    migration::messages::*,
    registry::{Effect, Registry, RegistryConfig, RevokeTarget, StoreImage, mark_restored},
    reject::Reject,
    suite::{Dalek, Secret, Suite},
    time::{Micros, Now},
    trust::{Certificate, CoSigned, Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_tests::{
    guards::{Without, needs},
    hand::{Realm, Service, claim, entropy, nonce, now, placement_key},
    shot::{CoSigner, thief},
};

pub(super) type Sent = Vec<(HostId, RegistryFrame)>;

/// A Registry, a home (A) with a service, two clouds.
pub(super) struct World {
    pub(super) registry: Registry<Dalek, Without>,
    pub(super) realm: Realm,
    pub(super) now: Now,
    pub(super) home: Secret,
    pub(super) fjord: Secret,
    pub(super) delta: Secret,
    pub(super) certificate: Signed<Certificate>,
    pub(super) service: Service,
}

pub(super) fn host(secret: &Secret) -> HostId {
    HostId(Dalek::public_key(secret))
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(|_| ())
    }

    /// A world whose owner says something else of the service.
    fn of(edit: impl FnOnce(&mut wayfare_protocol::manifest::Manifest)) -> Self {
        let registry = Registry::new(RegistryConfig::new::<Dalek>(Secret::new([200; 32]), vec![]));
        let realm = Realm::new(registry.id(), Secret::new([200; 32]), registry.anchor());
        let [home, fjord, delta] = [1, 2, 3].map(|seed| Secret::new([seed; 32]));
        let mut service = Service::new(&realm, &home, "kv", Digest([7; 32]));
        edit(&mut service.manifest);
        service.signed_manifest = realm.signer(&service.owner, Receiver::Anyone).sign(&service.manifest);
        let certificate = realm.says(Receiver::Anyone).sign(&realm.certificate("fjord", host(&fjord), Role::Cloud));
        let mut world = Self { registry, realm, now: now(), home, fjord, delta, certificate, service };
        let members = [(1, "home", Role::Home), (2, "fjord", Role::Cloud), (3, "delta", Role::Cloud)];
        for (seed, name, role) in members {
            let answer = world.enrol(&Secret::new([seed; 32]), name, role);
            if name == "fjord" {
                world.certificate = answer;
            }
        }
        let register = world.service.to_registry().sign(&world.service.register());
        let manifest = world.service.signed_manifest.clone();
        let home = world.home.clone();
        world.say(&home, RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] }));
        world
    }

    pub(super) fn enrol(&mut self, secret: &Secret, name: &str, role: Role) -> Signed<Certificate> {
        let lifetime = Micros::from_secs(60);
        let token = self.registry.create_join_token(self.now, &mut entropy(), name, role, lifetime).unwrap();
        let enrol = self.realm.hears(secret).sign(&self.realm.enrol(secret, role, token.secret.hash()));
        match self.say(secret, RegistryFrame::Enrol(enrol)).pop() {
            Some((_, RegistryFrame::Enrolled(enrolled))) => enrolled.certificate,
            other => panic!("not enrolled: {other:?}"),
        }
    }

    /// What the Registry sends when `from` says this.
    pub(super) fn say(&mut self, from: &Secret, frame: RegistryFrame) -> Sent {
        // What it thinks of the frame shows in what it sends.
        let _ = self.registry.handle_frame(self.now, &mut entropy(), host(from), &frame.to_bytes());
        let mut sent = Vec::new();
        while let Some(effect) = self.registry.poll_effect() {
            match effect {
                Effect::Persist { seq, .. } => self.registry.handle_synced(seq),
                Effect::Reply { to, frame } | Effect::Ask { to, frame, .. } => sent.push((to, frame)),
                Effect::Event(_) => {}
            }
        }
        sent
    }

    fn pass(&mut self, length: Micros) {
        self.now = Now { mono: self.now.mono + length, wall: self.now.wall + length };
    }

    pub(super) fn two(&mut self) -> VerifyCloudFrame {
        let target = host(&self.fjord);
        let advert = self.realm.advert(target, &self.certificate, &[]);
        let advert = self.realm.signer(&self.fjord, Receiver::Anyone).sign(&advert);
        let two = self.service.two(claim(&self.certificate).cloud, target, advert.hash());
        VerifyCloudFrame { request: self.service.to_registry().sign(&two), advert }
    }

    pub(super) fn allowed(&mut self) -> MigrationIds {
        let (home, two) = (self.home.clone(), self.two());
        let sent = self.say(&home, RegistryFrame::VerifyCloud(two));
        self.service.allowed(&yes(&sent).expect("an honest 2"))
    }

    pub(super) fn five(&self, ids: MigrationIds, edit: impl FnOnce(&mut VerifyService)) -> RegistryFrame {
        let mut five = self.service.five(ids, &Secret::new([9; 32]));
        edit(&mut five);
        RegistryFrame::VerifyService(self.realm.hears(&self.fjord).sign(&five))
    }

    pub(super) fn pinned(&mut self) -> MigrationIds {
        let ids = self.allowed();
        let (fjord, five) = (self.fjord.clone(), self.five(ids, |_| ()));
        assert!(is_yes_service(&self.say(&fjord, five)), "an honest 5");
        ids
    }

    /// 10 of B, with a consent that may be anybody's.
    pub(super) fn ten(
        &self,
        ids: MigrationIds,
        consents: &CoSigner,
        edit: impl FnOnce(&mut Transfer),
    ) -> RegistryFrame {
        let new_key = Secret::new([9; 32]);
        let honest = self.service.consent(ids, &new_key);
        let mut transfer = honest.clone();
        edit(&mut transfer);
        let consent: CoSigned<Transfer> = consents.sign(&transfer);
        let completes = CoSigner {
            placement: new_key,
            host: self.fjord.clone(),
            registry: self.realm.id,
            receiver: Receiver::Registry(self.realm.id),
        };
        let complete = completes.sign(&self.service.ten(&honest, &consent));
        RegistryFrame::Complete(CompleteFrame { complete, consent })
    }

    /// RENEW under the placement of record.
    fn renew(&self) -> Renew {
        Renew { ids: self.registry.placement(self.service.id()).unwrap().ids(), nonce: nonce() }
    }

    pub(super) fn moves(&mut self, ten: RegistryFrame) -> bool {
        let fjord = self.fjord.clone();
        self.say(&fjord, ten);
        self.registry.placement(self.service.id()).is_some_and(|placement| placement.host == host(&self.fjord))
    }
}

/// B has won since the backup that the Registry was restored from; and B's RENEW, by which it learnt that.
fn restored() -> (World, Sent) {
    let mut world = World::new();
    let mut image = StoreImage::new();
    world.registry.records().iter().for_each(|op| op.apply(&mut image));
    let ids = world.pinned();
    let consents = world.service.consents(host(&world.fjord));
    let ten = world.ten(ids, &consents, |_| ());
    assert!(world.moves(ten), "an honest move");
    let rows = |image: &StoreImage| {
        let rows = image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        rows.collect::<Vec<_>>()
    };
    let marks = mark_restored(world.realm.id, rows(&image), world.now.wall).unwrap();
    marks.iter().for_each(|op| op.apply(&mut image));
    let config = RegistryConfig::new::<Dalek>(world.realm.secret.clone(), vec![]);
    world.registry = Registry::restore(config, world.now, rows(&image)).unwrap();
    let (fjord, mut renew) = (world.fjord.clone(), world.renew());
    renew.ids = MigrationIds { host: host(&fjord), epoch: renew.ids.epoch.next_era(), ..ids };
    let renew = world.realm.hears(&Secret::new([9; 32])).sign(&renew);
    let sent = world.say(&fjord, RegistryFrame::Renew(renew));
    (world, sent)
}

pub(super) fn yes(sent: &Sent) -> Option<YesCloud> {
    sent.iter().find_map(|(_, frame)| match frame {
        RegistryFrame::YesCloud(yes) => Some(claim(yes)),
        _ => None,
    })
}

fn is_yes_service(sent: &Sent) -> bool {
    sent.iter().any(|(_, frame)| matches!(frame, RegistryFrame::YesService(_)))
}

#[test]
pub(crate) fn a_two_without_the_placement_key() {
    needs("2 with anybody's signature", &[Reject::BadSignature], || {
        let mut world = World::new();
        let (home, honest) = (world.home.clone(), world.two());
        let request = world.realm.hears(&thief()).sign(&claim(&honest.request));
        yes(&world.say(&home, RegistryFrame::VerifyCloud(VerifyCloudFrame { request, ..honest }))).is_some()
    });
    needs("2 under a key of the host's own", &[Reject::WrongPlacementKey], || {
        let mut world = World::new();
        let (home, honest) = (world.home.clone(), world.two());
        let two = VerifyCloud { key: placement_key(&thief()), ..claim(&honest.request) };
        let request = world.realm.hears(&thief()).sign(&two);
        yes(&world.say(&home, RegistryFrame::VerifyCloud(VerifyCloudFrame { request, ..honest }))).is_some()
    });
}

#[test]
pub(crate) fn a_two_without_the_host_of_record() {
    needs("2 with a stolen placement key", &[Reject::NotHostOfRecord], || {
        let mut world = World::new();
        let (delta, two) = (world.delta.clone(), world.two());
        yes(&world.say(&delta, RegistryFrame::VerifyCloud(two))).is_some()
    });
}

#[test]
pub(crate) fn a_two_that_is_replayed() {
    needs("an old 2", &[Reject::OldCounter], || {
        let mut world = World::new();
        let (home, first, second) = (world.home.clone(), world.two(), world.two());
        world.say(&home, RegistryFrame::VerifyCloud(first.clone()));
        world.say(&home, RegistryFrame::VerifyCloud(second));
        yes(&world.say(&home, RegistryFrame::VerifyCloud(first))).is_some()
    });
}

#[test]
pub(crate) fn a_move_to_where_it_must_not_go() {
    needs("a move to a revoked cloud", &[Reject::Revoked], || {
        let mut world = World::new();
        world.registry.revoke(world.now, &RevokeTarget::Cloud("fjord".to_owned())).unwrap();
        let (home, two) = (world.home.clone(), world.two());
        yes(&world.say(&home, RegistryFrame::VerifyCloud(two))).is_some()
    });
    needs("a move that the owner forbids", &[Reject::PolicyForbids], || {
        let mut world = World::of(|manifest| {
            // Only the home may have it.
            let realm = RegistryConfig::new::<Dalek>(Secret::new([200; 32]), vec![]).id;
            manifest.allowed_clouds = vec![wayfare_protocol::trust::certificate::cloud_id(realm, "home")];
        });
        let (home, two) = (world.home.clone(), world.two());
        yes(&world.say(&home, RegistryFrame::VerifyCloud(two))).is_some()
    });
    needs("a move on an advert of another cloud's", &[Reject::WrongHash], || {
        let mut world = World::new();
        let (home, honest) = (world.home.clone(), world.two());
        let two = VerifyCloud { advert: Digest([1; 32]), ..claim(&honest.request) };
        let request = world.service.to_registry().sign(&two);
        yes(&world.say(&home, RegistryFrame::VerifyCloud(VerifyCloudFrame { request, ..honest }))).is_some()
    });
}

#[test]
pub(crate) fn a_five_for_another_session() {
    // Attack 2: a verdict must not serve a session that carries the intruder's key.
    needs("5 with the intruder's key", &[Reject::WrongPlacementKey], || {
        let mut world = World::new();
        let ids = world.allowed();
        let (fjord, five) = (world.fjord.clone(), world.five(ids, |five| five.key = placement_key(&thief())));
        is_yes_service(&world.say(&fjord, five))
    });
    needs("5 after its time", &[Reject::Expired], || {
        let mut world = World::new();
        let ids = world.allowed();
        world.pass(VERDICT_LIFETIME);
        let (fjord, five) = (world.fjord.clone(), world.five(ids, |_| ()));
        is_yes_service(&world.say(&fjord, five))
    });
    needs("5 with the old placement key", &[Reject::Reused], || {
        let mut world = World::new();
        let ids = world.allowed();
        let old = placement_key(&world.service.key);
        let (fjord, five) = (world.fjord.clone(), world.five(ids, |five| five.new_key = old));
        is_yes_service(&world.say(&fjord, five))
    });
}

#[test]
pub(crate) fn a_ten_without_consent() {
    // Attack 4: the record must not move on one party's word.
    needs("10 with a forged consent", &[Reject::BadCoSignature, Reject::BadSignature], || {
        let mut world = World::new();
        let ids = world.pinned();
        let honest = world.service.consents(host(&world.fjord));
        let forged = CoSigner { placement: thief(), host: thief(), ..honest };
        let ten = world.ten(ids, &forged, |_| ());
        world.moves(ten)
    });
    needs("10 with a consent of the placement key alone", &[Reject::BadCoSignature], || {
        let mut world = World::new();
        let ids = world.pinned();
        let forged = CoSigner { host: thief(), ..world.service.consents(host(&world.fjord)) };
        let ten = world.ten(ids, &forged, |_| ());
        world.moves(ten)
    });
    needs("10 with a consent to another state", &[Reject::WrongState], || {
        let mut world = World::new();
        let ids = world.pinned();
        let consents = world.service.consents(host(&world.fjord));
        let ten = world.ten(ids, &consents, |transfer| transfer.state = Digest([1; 32]));
        world.moves(ten)
    });
    needs("10 with a consent to another session", &[Reject::WrongHash], || {
        let mut world = World::new();
        let ids = world.pinned();
        let consents = world.service.consents(host(&world.fjord));
        let ten = world.ten(ids, &consents, |transfer| transfer.transcript = Digest([1; 32]));
        world.moves(ten)
    });
    needs("10 with a consent for tokens", &[Reject::WrongMode], || {
        let mut world = World::new();
        let ids = world.pinned();
        let consents = world.service.consents(host(&world.fjord));
        let ten = world.ten(ids, &consents, |transfer| transfer.mode = Mode::Token);
        world.moves(ten)
    });
}

#[test]
pub(crate) fn the_honest_way_goes_through() {
    let mut world = World::new();
    let ids = world.pinned();
    let consents = world.service.consents(host(&world.fjord));
    let ten = world.ten(ids, &consents, |_| ());
    assert!(world.moves(ten));
}

#[test]
pub(crate) fn a_restored_registry_that_believes_too_much() {
    // The home has released the service, and B serves it by a decision that the Registry has forgotten.
    needs("a lease for the host of record of the backup", &[Reject::Recovering], || {
        let (mut world, _) = restored();
        let (home, renew) = (world.home.clone(), world.service.to_registry().sign(&world.renew()));
        let sent = world.say(&home, RegistryFrame::Renew(renew));
        let lease = |frame| matches!(frame, RegistryFrame::Granted(Granted { answer: Answer::Lease(_), .. }));
        sent.into_iter().any(|(_, frame)| lease(frame))
    });
    needs("SHOWN with a placement that was never decided", &[Reject::BadSignature], || {
        let (mut world, sent) = restored();
        let asked = sent.into_iter().find_map(|(_, frame)| match frame {
            RegistryFrame::Recovering(Recovering { nonce }) => Some(nonce),
            _ => None,
        });
        let delta = world.delta.clone();
        let mut placement = world.registry.placement(world.service.id()).unwrap().clone();
        (placement.host, placement.epoch) = (host(&delta), placement.epoch.next_era());
        let placement = world.realm.signer(&thief(), Receiver::Anyone).sign(&placement);
        let stays = vec![ShownStay { placement, consent: None }];
        let nonce = asked.expect("who came by itself is asked");
        let shown = Shown { nonce, part: 0, parts: 1, stays, held: vec![], elsewhere: vec![] };
        let (shown, certificate) = (world.realm.hears(&delta).sign(&shown), world.certificate.clone());
        let frame = ShownFrame { shown, certificate, manifests: vec![], addresses: vec![] };
        world.say(&delta, RegistryFrame::Shown(frame));
        world.registry.placement(world.service.id()).unwrap().host == host(&delta)
    });
}
