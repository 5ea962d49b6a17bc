//! Attacks on the two sides of a move.

use wayfare_protocol::{
    advert::verify_advert,
    ids::{Digest, HostId, MigrationId},
    manifest::Manifest,
    migration::{
        messages::*,
        source::{Source, SourceParty},
        target::{Target, TargetParty},
    },
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite},
    time::{Micros, Now},
    trust::{Anchor, Certificate, Receiver, Role, Signed, TrustBundle, Verified, certificate::registry_id},
};
use wayfare_tests::{
    guards::{Without, needs},
    hand::{CAPACITY, Realm, Service, claim, entropy, now, placement_key},
    shot::thief,
};

/// A source, a target, and the Registry's key between them.
struct Pair {
    realm: Realm,
    bundle: TrustBundle,
    now: Now,
    service: Service,
    placement: Placement,
    manifest: Verified<Manifest>,
    target: Secret,
    certificate: Certificate,
    source: Source,
    two: VerifyCloud,
}

fn host(secret: &Secret) -> HostId {
    HostId(Dalek::public_key(secret))
}

impl Pair {
    /// 2 is out.
    fn new() -> Self {
        let (secret, target) = (Secret::new([200; 32]), Secret::new([2; 32]));
        let key = Dalek::public_key(&secret);
        let anchor = Anchor { id: registry_id(&key), key, addresses: vec![] };
        let realm = Realm::new(anchor.id, secret, anchor);
        let (bundle, now) = (realm.bundle(), now());
        let service = Service::new(&realm, &Secret::new([1; 32]), "kv", Digest([7; 32]));
        let certificate = realm.certificate("fjord", host(&target), Role::Cloud);
        let signed = realm.says(Receiver::Anyone).sign(&certificate);
        let advert = realm.signer(&target, Receiver::Anyone).sign(&realm.advert(host(&target), &signed, &[]));
        let (advert, _) = verify_advert::<Dalek, Strict>(&advert, &bundle, now.wall).unwrap();
        let owner = service.manifest.owner.0;
        let manifest = service.signed_manifest.verify::<Dalek, Strict>(&owner, realm.id, Receiver::Anyone).unwrap();
        let home = realm.certificate("home", service.host, Role::Home);
        let placement = Placement {
            service: service.id(),
            epoch: service.epoch,
            cloud: home.cloud,
            host: service.host,
            key: placement_key(&service.key),
            mig: MigrationId([8; 16]),
            previous: service.host,
            manifest: manifest.hash(),
            issued: now.wall,
            lease: Micros::from_secs(30),
        };
        let party = SourceParty {
            me: service.host,
            host_secret: &service.host_secret,
            bundle: &bundle,
            placement: &placement,
            placement_secret: &service.key,
            manifest: &manifest,
        };
        let (source, two) = Source::start::<Dalek>(&party, &advert, 1, &mut entropy());
        let two = claim(&two);
        Self { realm, bundle, now, service, placement, manifest, target, certificate, source, two }
    }

    fn party(&self) -> SourceParty<'_> {
        SourceParty {
            me: self.service.host,
            host_secret: &self.service.host_secret,
            bundle: &self.bundle,
            placement: &self.placement,
            placement_secret: &self.service.key,
            manifest: &self.manifest,
        }
    }

    fn target_party(&self) -> TargetParty<'_> {
        TargetParty {
            me: host(&self.target),
            host_secret: &self.target,
            certificate: &self.certificate,
            bundle: &self.bundle,
        }
    }

    fn yes(&self) -> YesCloud {
        YesCloud {
            request: self.two.clone(),
            resources: CAPACITY,
            manifest: self.manifest.hash(),
            mig: MigrationId([9; 16]),
            expiry: self.now.wall + Micros::from_secs(60),
        }
    }

    /// 3: 4, if the source believes it.
    fn handle_yes(&mut self, yes: &Signed<YesCloud>) -> Option<RequestFrame> {
        let mut source = self.source.clone();
        let made = source.handle_yes::<Dalek, Without>(&self.party(), self.now, yes, &mut entropy()).ok();
        self.source = source;
        made
    }

    fn four(&mut self) -> RequestFrame {
        let yes = self.realm.says(Receiver::Host(self.service.host)).sign(&self.yes());
        self.handle_yes(&yes).expect("an honest 3")
    }

    /// 4 from `peer`: 5, if the target takes it.
    fn start(&self, peer: HostId, four: &RequestFrame) -> Option<(Target, VerifyService)> {
        let party = self.target_party();
        let started = Target::start::<Dalek, Without>(&party, self.now, peer, four, |_| true, &mut entropy());
        started.ok().map(|(target, five)| (target, claim(&five)))
    }

    fn six(&self, five: &VerifyService) -> Signed<YesService> {
        let six = YesService {
            request: five.clone(),
            manifest: self.manifest.hash(),
            tos: self.service.manifest.tos,
            expiry: self.now.wall + Micros::from_secs(60),
        };
        self.realm.says(Receiver::Host(host(&self.target))).sign(&six)
    }

    /// 4 to 7; the target awaits records.
    fn answered(&mut self) -> (Target, ResponseFrame) {
        let four = self.four();
        let (mut target, five) = self.start(self.service.host, &four).expect("an honest 4");
        let (six, party) = (self.six(&five), self.target_party());
        let answer = target.handle_yes::<Dalek, Without>(&party, self.now, &six, CAPACITY, false, &mut entropy());
        (target, answer.expect("an honest 6").0)
    }

    /// 7: whether the source agrees.
    fn handle_response(&mut self, seven: &ResponseFrame) -> bool {
        let mut source = self.source.clone();
        let agreed = source.handle_response::<Dalek, Without>(&self.party(), self.now, seven).is_ok();
        self.source = source;
        agreed
    }

    /// 4 to 8: the target, and the consent.
    fn consented(&mut self) -> (Target, wayfare_protocol::trust::CoSigned<Transfer>) {
        let (target, seven) = self.answered();
        assert!(self.handle_response(&seven), "an honest 7");
        let mut source = self.source.clone();
        let consented = source.consent::<Dalek>(&self.party(), Digest([3; 32])).unwrap();
        self.source = source;
        (target, consented.consent)
    }
}

#[test]
pub(crate) fn a_three_that_is_not_for_this_request() {
    // Attack 1: anybody can answer.
    needs("3 by anybody", &[Reject::BadSignature], || {
        let mut pair = Pair::new();
        let mut anybody = pair.realm.says(Receiver::Host(pair.service.host));
        anybody.secret = thief();
        let forged = anybody.sign(&pair.yes());
        pair.handle_yes(&forged).is_some()
    });
    // Attack 3: an old answer.
    needs("3 to an earlier 2", &[Reject::WrongNonce, Reject::WrongVerdict], || {
        let mut pair = Pair::new();
        let mut old = pair.yes();
        old.request.nonce.0[0] ^= 1;
        let old = pair.realm.says(Receiver::Host(pair.service.host)).sign(&old);
        pair.handle_yes(&old).is_some()
    });
    needs("3 about another cloud", &[Reject::WrongVerdict], || {
        let mut pair = Pair::new();
        let mut other = pair.yes();
        other.request.host = host(&thief());
        let other = pair.realm.says(Receiver::Host(pair.service.host)).sign(&other);
        pair.handle_yes(&other).is_some()
    });
    needs("3 after its time", &[Reject::Expired], || {
        let mut pair = Pair::new();
        pair.now.wall = pair.now.wall + Micros::from_secs(3600);
        let late = YesCloud { expiry: now().wall, ..pair.yes() };
        let late = pair.realm.says(Receiver::Host(pair.service.host)).sign(&late);
        pair.handle_yes(&late).is_some()
    });
}

#[test]
pub(crate) fn a_four_that_is_not_this_sources() {
    needs("3 shown by another source", &[Reject::BadSignature], || {
        let mut pair = Pair::new();
        let four = pair.four();
        pair.start(host(&thief()), &four).is_some()
    });
    needs("4 with another code than the registry knows", &[Reject::WrongManifest], || {
        let mut pair = Pair::new();
        let mut four = pair.four();
        let other = Manifest { code: Digest([66; 32]), ..pair.service.manifest.clone() };
        four.manifest = pair.realm.signer(&pair.service.owner, Receiver::Anyone).sign(&other);
        pair.start(pair.service.host, &four).is_some()
    });
    needs("4 for another migration than 3 allows", &[Reject::WrongMigration], || {
        let mut pair = Pair::new();
        let mut four = pair.four();
        let mut request = claim(&four.request);
        request.ids.mig = MigrationId([1; 16]);
        let to_target = pair.realm.signer(&pair.service.key, Receiver::Host(host(&pair.target)));
        four.request = to_target.sign(&request);
        pair.start(pair.service.host, &four).is_some()
    });
}

#[test]
pub(crate) fn a_seven_that_is_not_what_the_registry_confirmed() {
    needs("7 with another placement key than 6 pins", &[Reject::WrongPlacementKey], || {
        let mut pair = Pair::new();
        let (_, mut seven) = pair.answered();
        let other = Response { new_key: placement_key(&thief()), ..claim(&seven.response) };
        let to_source = pair.realm.signer(&pair.target, Receiver::Host(pair.service.host));
        seven.response = to_source.sign(&other);
        pair.handle_response(&seven)
    });
    needs("7 with 6 for another session", &[Reject::WrongHash], || {
        let mut pair = Pair::new();
        let (_, mut seven) = pair.answered();
        let mut six = claim(&seven.verdict);
        six.request.request = Digest([1; 32]);
        seven.verdict = pair.realm.says(Receiver::Host(host(&pair.target))).sign(&six);
        pair.handle_response(&seven)
    });
    needs("7 that repeats another nonce", &[Reject::WrongNonce], || {
        let mut pair = Pair::new();
        let (_, mut seven) = pair.answered();
        let mut other = claim(&seven.response);
        other.nonce_a.0[0] ^= 1;
        seven.response = pair.realm.signer(&pair.target, Receiver::Host(pair.service.host)).sign(&other);
        pair.handle_response(&seven)
    });
}

#[test]
pub(crate) fn an_end_that_is_not_this_attempts() {
    // PROTOCOL 4, 2: a later epoch alone is no answer, the source would delete what nobody has.
    needs("11 of another migration", &[Reject::WrongMigration], || {
        let mut pair = Pair::new();
        pair.consented();
        let consented = pair.source.consented().unwrap().new_key;
        let eleven = Placement {
            epoch: pair.placement.epoch.next_era(),
            cloud: pair.certificate.cloud,
            host: host(&pair.target),
            key: consented,
            mig: MigrationId([1; 16]),
            ..pair.placement.clone()
        };
        let eleven = pair.realm.says(Receiver::Anyone).sign(&eleven);
        let mut source = pair.source.clone();
        source.handle_placement::<Dalek, Without>(&pair.party(), pair.now, &eleven).is_ok()
    });
    needs("a state that was not consented to", &[Reject::WrongState], || {
        let mut pair = Pair::new();
        let (mut target, consent) = pair.consented();
        let party = pair.target_party();
        target.handle_consent::<Dalek, Without>(&party, &consent).unwrap();
        target.handle_received(Digest([66; 32])).unwrap();
        target.hold::<Dalek, Without>(&party, pair.now).is_ok_and(|held| held.is_some())
    });
    needs("a consent of the placement key alone", &[Reject::BadCoSignature], || {
        let mut pair = Pair::new();
        let (mut target, consent) = pair.consented();
        let mut consents = pair.service.consents(host(&pair.target));
        consents.host = thief();
        let forged = consents.sign(&consent.unverified().unwrap());
        target.handle_consent::<Dalek, Without>(&pair.target_party(), &forged).is_ok()
    });
}
