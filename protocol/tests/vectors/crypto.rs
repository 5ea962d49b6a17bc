//! Hashes, signatures, keys and sealed records of fixed inputs.

use wayfare_protocol::{
    advert::Advert,
    gateway::messages::{client_id, request_hash},
    ids::{CloudId, Digest, HostId, MigrationIds, Nonce, OwnerKey, PlacementKey, RegistryId},
    manifest::{Manifest, Resources, ServiceType, service_id},
    migration::{
        messages::*,
        target::{Target, TargetParty},
    },
    registry::audit::Checkpoint,
    reject::Strict,
    suite::{Dalek, Secret, Suite, digest},
    time::{Instant, Micros, Now, Timestamp},
    transfer::{Opener, RecordKind, Sealer, state_digest},
    trust::{
        Anchor, Certificate, CoSigned, JoinToken, Message, Receiver, Role, Signed, TrustBundle,
        certificate::{cloud_id, registry_id},
    },
    wire::{self, Wire},
};

use super::samples::*;

type Named = (String, Vec<u8>);

fn named(name: &str, bytes: impl AsRef<[u8]>) -> Named {
    (name.to_owned(), bytes.as_ref().to_vec())
}

/// The signature of one key over one body under a message's label, and what the body hashes to as that message.
fn labelled<T: Message>(name: &str) -> [Named; 2] {
    // No message looks like this: only the label differs from one line to the next.
    let empty = Signed::<T>::sign::<Dalek>(&secret(), REGISTRY, Receiver::Anyone, &decoded::<T>());
    let bytes = wire::encode(&empty);
    let signature = bytes[bytes.len() - 64..].to_vec();
    [named(&format!("label {name} signature"), signature), named(&format!("label {name} hash"), empty.hash().0)]
}

/// The value of all zeros: every message has one.
fn decoded<T: Wire>() -> T {
    (0..T::LIMIT).find_map(|len| wire::decode(&vec![0; len]).ok()).expect("some length of zeros is a value")
}

fn labels() -> Vec<Named> {
    [
        labelled::<Advert>("1 ADV"),
        labelled::<VerifyCloud>("2 VERIFY_CLOUD"),
        labelled::<YesCloud>("3 YES_CLOUD"),
        labelled::<NoCloud>("3 NO_CLOUD"),
        labelled::<Request>("4 REQUEST"),
        labelled::<VerifyService>("5 VERIFY_SERVICE"),
        labelled::<YesService>("6 YES_SERVICE"),
        labelled::<NoService>("6 NO_SERVICE"),
        labelled::<Response>("7 RESPONSE"),
        labelled::<Transfer>("8 TRANSFER"),
        labelled::<TransferAck>("9 TRANSFER_ACK"),
        labelled::<TransferComplete>("10 TRANSFER_COMPLETE"),
        labelled::<Placement>("11 PLACEMENT"),
        labelled::<Released>("12 RELEASED"),
        labelled::<Register>("REGISTER"),
        labelled::<Renew>("RENEW"),
        labelled::<Reclaim>("RECLAIM"),
        labelled::<Cancel>("CANCEL"),
        labelled::<Lease>("LEASE"),
        labelled::<Aborted>("ABORTED"),
        labelled::<Outcome>("OUTCOME"),
        labelled::<Enrol>("ENROL"),
        labelled::<Shown>("SHOWN"),
        labelled::<Certificate>("CERTIFICATE"),
        labelled::<Manifest>("MANIFEST"),
        labelled::<Checkpoint>("AUDIT CHECKPOINT"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn keys_and_hashes() -> Vec<Named> {
    let (a, b) = (Secret::new(count(1)), Secret::new(count(2)));
    let agreed = Dalek::agree(&a, &Dalek::dh_public(&b), &Digest(count(3))).expect("the share is not zero");
    let consent: CoSigned<Transfer> = co_signed(&transfer(Mode::Registry));
    let token = JoinToken {
        anchor: Anchor { id: REGISTRY, key: count(4), addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] },
        name: "fjord".to_owned(),
        role: Role::Cloud,
        secret: wire::decode::<JoinToken>(&token_bytes()).expect("these are a token's bytes").secret,
    };
    vec![
        named("public key", Dalek::public_key(&a)),
        named("key share", Dalek::dh_public(&a)),
        named("agreed key", agreed.expose()),
        named("digest", digest("label", &[b"part", b""]).0),
        named("registry id", registry_id(&count(1)).0),
        named("cloud id", cloud_id(REGISTRY, "fjord").0),
        named("service id", wire::encode(&service_id(REGISTRY, OwnerKey(count(1)), "kv"))),
        named("client id", client_id(HostId(count(1)), 7).0),
        named("request hash", request_hash(b"GET / HTTP/1.1\r\n\r\n").0),
        named("co-signed hash", consent.hash().0),
        named("state digest", state_digest(&Digest(count(1)), &Digest(count(2)), &Digest(count(3)), b"sessions").0),
        named("join token (text)", token.to_text()),
        named("join token's hash", token.secret.hash().0),
    ]
}

/// A token's canonical bytes: its secret can be made in no other way.
fn token_bytes() -> Vec<u8> {
    let mut bytes = wire::encode(&Anchor { id: RegistryId([0; 32]), key: [0; 32], addresses: vec![] });
    bytes.extend_from_slice(&wire::encode(&"n".to_owned()));
    bytes.extend_from_slice(&wire::encode(&Role::Cloud));
    bytes.extend_from_slice(&count::<16>(0x77));
    bytes
}

fn records() -> Vec<Named> {
    let mut sealer = Sealer::new(Secret::new(count(9)), Digest(count(8)));
    let first = sealer.seal::<Dalek>(RecordKind::Page, b"a page").expect("short");
    let last = sealer.seal::<Dalek>(RecordKind::End, b"").expect("short");
    let mut opener = Opener::new(Secret::new(count(9)), Digest(count(8)));
    assert_eq!(opener.open::<Dalek, Strict>(&first).as_deref(), Ok(&b"a page"[..]));
    vec![
        named("sealed record 0", wire::encode(&first)),
        named("sealed record 1", wire::encode(&last)),
        named("state salt", sealer.salt().0),
    ]
}

/// Counts up: what a target draws is then fixed.
struct Counting(u8);

impl rand_core::TryRng for Counting {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

/// th, and the key that rests on it: from a 4 and a 7 that a target made.
fn transcript() -> Vec<Named> {
    let (registry, host, source, owner) =
        (Secret::new([1; 32]), Secret::new([2; 32]), HostId([3; 32]), Secret::new([4; 32]));
    let key = Dalek::public_key(&registry);
    let id = registry_id(&key);
    let (me, placement) = (HostId(Dalek::public_key(&host)), Secret::new([5; 32]));
    let cloud: CloudId = cloud_id(id, "fjord");
    let bundle = TrustBundle::new(vec![Anchor { id, key, addresses: vec![] }]);
    let now = Now { mono: Instant(1), wall: Timestamp(1_800_000_000_000_000) };
    let expiry = now.wall + Micros::from_secs(60);
    let certificate = Certificate { cloud, host: me, ..certificate() };
    let owner_key = OwnerKey(Dalek::public_key(&owner));
    let service = service_id(id, owner_key, "kv");
    let required = Resources::default();
    let manifest = Manifest { service, owner: owner_key, required, ..plain_manifest() };
    let manifest = Signed::sign::<Dalek>(&owner, id, Receiver::Anyone, &manifest);
    let key = PlacementKey(Dalek::public_key(&placement));
    let asked = VerifyCloud { service, key, cloud, host: me, ..verify_cloud() };
    let yes = YesCloud { request: asked, manifest: manifest.hash(), expiry, ..yes_cloud() };
    let verdict = Signed::sign::<Dalek>(&registry, id, Receiver::Host(source), &yes);
    let ids = MigrationIds { service, cloud, host: me, ..ids() };
    let share = Dalek::dh_public(&Secret::new([6; 32]));
    let four = Request {
        ids,
        key,
        tos: ServiceType::Cloud,
        share,
        verdict: verdict.hash(),
        asked: now.wall,
        required,
        manifest: manifest.hash(),
        ..request()
    };
    let four = Signed::sign::<Dalek>(&placement, id, Receiver::Host(me), &four);
    let frame = RequestFrame { request: four, verdict, manifest };
    let party = TargetParty { me, host_secret: &host, certificate: &certificate, bundle: &bundle };
    let rng = &mut Counting(0);
    let (mut target, five) =
        Target::start::<Dalek, Strict>(&party, now, source, &frame, |_| true, rng).expect("an honest 4");
    let asked = five.unverified().expect("an honest 5");
    let six = YesService { request: asked, manifest: frame.manifest.hash(), tos: ServiceType::Cloud, expiry };
    let six = Signed::sign::<Dalek>(&registry, id, Receiver::Host(me), &six);
    let (seven, agreement) =
        target.handle_yes::<Dalek, Strict>(&party, now, &six, required, false, rng).expect("an honest 6");
    let by_hand = digest("wayfare/1 transcript", &[&frame.request.hash().0, &seven.response.hash().0]);
    assert_eq!(agreement.transcript, by_hand, "th is h(4 ‖ 7)");
    let source_key = Dalek::agree(&Secret::new([6; 32]), &seven.response.unverified().expect("7").share_b, &by_hand);
    assert_eq!(source_key.as_ref(), Some(&agreement.key), "both ends agree");
    vec![
        named("h(4)", frame.request.hash().0),
        named("h(7)", seven.response.hash().0),
        named("transcript", agreement.transcript.0),
        named("migration key", agreement.key.expose()),
    ]
}

pub(crate) fn vectors() -> Vec<Named> {
    [labels(), keys_and_hashes(), records(), transcript()].into_iter().flatten().collect()
}

#[test]
fn every_label_and_every_receiver_has_its_own_signature() {
    let mut seen = std::collections::BTreeSet::new();
    for (name, bytes) in labels() {
        assert!(seen.insert(bytes), "{name} is another label's");
    }
    let message = renew();
    let sign = |registry, receiver| {
        let bytes = wire::encode(&Signed::sign::<Dalek>(&secret(), registry, receiver, &message));
        bytes[bytes.len() - 64..].to_vec()
    };
    let other = RegistryId([1; 32]);
    let receivers = [
        Receiver::Anyone,
        Receiver::Host(HostId([1; 32])),
        Receiver::Host(HostId([2; 32])),
        Receiver::Registry(REGISTRY),
    ];
    for receiver in receivers {
        for registry in [REGISTRY, other] {
            assert!(seen.insert(sign(registry, receiver)), "{registry:?} {receiver:?}");
        }
    }
    // Renew, Reclaim and Cancel have the same fields: only their labels tell them apart.
    let same = Reclaim { ids: message.ids, nonce: Nonce(message.nonce.0) };
    assert_eq!(wire::encode(&same), wire::encode(&message));
    let bytes = wire::encode(&Signed::sign::<Dalek>(&secret(), REGISTRY, receivers[0], &same));
    assert!(seen.insert(bytes[bytes.len() - 64..].to_vec()));
}
