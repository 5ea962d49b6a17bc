//! What reads bytes that somebody else made: it takes them and would write the same ones, or refuses them by name. It never
//! panics, and allocates no more than a small multiple of what it was given.

use std::fmt::Debug;

use wayfare_protocol::{
    advert::{Advert, Gossip},
    gateway::{IdempotencyKey, effect, messages::ClientFrame},
    host::{Entry, Host},
    ids::{ClientId, CloudId, Digest, HostId, MigrationId, Nonce, OwnerKey, PlacementKey, RegistryId},
    limits::RECORD_BYTES_MAX,
    manifest::Manifest,
    migration::messages::{
        Aborted, Cancel, Enrol, Lease, MigrateFrame, NoCloud, NoService, Outcome, Placement, Reclaim, Register,
        RegistryFrame, Released, Renew, Request, Response, Shown, Transfer, TransferAck, TransferComplete, VerifyCloud,
        VerifyService, YesCloud, YesService,
    },
    order::{Order, OrderDone, Tombstone},
    placement::Policy,
    reject::{Reject, Strict},
    session::Sessions,
    suite::{Dalek, Secret, Suite, digest},
    transfer::{Opener, RecordKind, SealedRecord, Sealer, StateFrame},
    trust::{Certificate, CoSigned, JoinToken, Message, Receiver, Role, Signed, join::JOIN_PREFIX},
    wire::{self, Frame, Wire},
};

use crate::{input::Input, quick::Quick};

/// Bytes that a decoder may hold at a time, beside [`BYTES_PER_BYTE`] for each byte that it was given: serde makes room for up
/// to 1 MiB of a list's elements before it has seen one, and no message has more than three lists.
const BYTES_FREE: u64 = 4 << 20;
/// A text of one kind or the other may claim this many times what is there, and small elements of long lists are larger in
/// memory than on the wire.
const BYTES_PER_BYTE: u64 = 256;

/// Runs `decode` on `bytes`, and checks what it allocates.
pub fn measured<'a, T>(bytes: &'a [u8], decode: impl FnOnce(&'a [u8]) -> T) -> T {
    let mut result = None;
    let taken = allocation_counter::measure(|| result = Some(decode(bytes)));
    let allowed = BYTES_FREE + BYTES_PER_BYTE * bytes.len() as u64;
    assert!(taken.bytes_max <= allowed, "{} bytes of memory for {} of input", taken.bytes_max, bytes.len());
    result.expect("it has run")
}

/// The codec's own rejections: it knows no others.
fn is_codecs(reject: Reject) -> bool {
    matches!(reject, Reject::FrameTooLarge | Reject::Malformed | Reject::WrongVersion | Reject::UnknownMessage)
}

fn frame<F: Frame + PartialEq + Debug>(bytes: &[u8]) {
    measured(bytes, |bytes| match F::from_bytes(bytes) {
        Ok(frame) => {
            assert!(bytes.len() <= F::BYTES_MAX);
            assert_eq!(frame.to_bytes(), bytes, "two encodings of one {}", frame.name());
            // What is signed inside is read by whoever logs it.
            assert!(!format!("{frame:?}").is_empty());
        }
        Err(reject) => assert!(is_codecs(reject), "{reject:?}"),
    });
}

fn plain<T: Wire + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    measured(bytes, |bytes| match wire::decode::<T>(bytes) {
        Ok(value) => {
            assert!(bytes.len() <= T::LIMIT);
            assert_eq!(wire::encode(&value), bytes);
            assert!(!format!("{value:?}").is_empty());
            Some(value)
        }
        Err(reject) => {
            assert!(is_codecs(reject), "{reject:?}");
            None
        }
    })
}

/// `/wayfare/registry/1`.
pub fn registry_frame(bytes: &[u8]) {
    frame::<RegistryFrame>(bytes);
}

/// `/wayfare/migrate/1`.
pub fn migrate_frame(bytes: &[u8]) {
    frame::<MigrateFrame>(bytes);
}

/// `/wayfare/state/1`.
pub fn state_frame(bytes: &[u8]) {
    frame::<StateFrame>(bytes);
}

/// `/wayfare/request/1`.
pub fn client_frame(bytes: &[u8]) {
    frame::<ClientFrame>(bytes);
}

/// What is gossiped.
pub fn gossip_frame(bytes: &[u8]) {
    frame::<Gossip>(bytes);
}

/// What a host journals.
pub fn host_entry(bytes: &[u8]) {
    if let Some(entry) = plain::<Entry>(bytes) {
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
    }
}

/// What a gateway journals.
pub fn gateway_entry(bytes: &[u8]) {
    plain::<effect::Entry>(bytes);
}

/// Decodes a `T`, signs it, and has it verified as it should be and as it should not.
fn signed<T: Message + PartialEq + Debug>(bytes: &[u8]) {
    let Some(message) = plain::<T>(bytes) else { return };
    let (secret, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
    let (key, thief) = (Dalek::public_key(&secret), Dalek::public_key(&other));
    let (registry, host) = (RegistryId([3; 32]), HostId([4; 32]));
    let receiver = Receiver::Host(host);
    let signed = Signed::sign::<Dalek>(&secret, registry, receiver, &message);
    let envelope = wire::encode(&signed);
    assert_eq!(plain::<Signed<T>>(&envelope).as_ref(), Some(&signed));
    let verified = signed.verify::<Dalek, Strict>(&key, registry, receiver);
    assert!(verified.is_ok_and(|verified| *verified == message), "what was signed does not verify");
    let refused = Err(Reject::BadSignature);
    let other_realm = RegistryId([5; 32]);
    for (key, registry, receiver) in
        [(thief, registry, receiver), (key, other_realm, receiver), (key, registry, Receiver::Anyone)]
    {
        assert_eq!(signed.verify::<Dalek, Strict>(&key, registry, receiver).map(|_| ()), refused);
    }
    // One bit of the bytes, or of the signature, at a place that depends on the input.
    let place = digest("place", &[bytes]).0;
    let bit =
        u64::from_le_bytes([place[0], place[1], place[2], place[3], 0, 0, 0, 0]) as usize % (8 * (envelope.len() - 8));
    let mut bent = envelope;
    bent[8 + bit / 8] ^= 1 << (bit % 8);
    let bent: Signed<T> = wire::decode(&bent).expect("an envelope is read whatever is in it");
    assert_eq!(bent.verify::<Dalek, Strict>(&key, registry, receiver).map(|_| ()), refused);
    assert_ne!(bent.hash(), signed.hash());
    let both = CoSigned::sign::<Dalek>(&secret, &other, registry, receiver, &message);
    assert!(both.verify::<Dalek, Strict>(&key, HostId(thief), registry, receiver).is_ok());
    let swapped = both.verify::<Dalek, Strict>(&thief, HostId(key), registry, receiver);
    assert_eq!(swapped.map(|_| ()), Err(Reject::BadCoSignature));
    let other_inner = both.verify::<Dalek, Strict>(&thief, HostId(thief), registry, receiver);
    assert_eq!(other_inner.map(|_| ()), refused);
}

macro_rules! messages {
    ($($message:ident,)*) => {
        /// Every signed message: its name, what decodes, signs and verifies it, and whether bytes are one.
        const MESSAGES: &[(&str, fn(&[u8]), fn(&[u8]) -> bool)] = &[
            $((stringify!($message), signed::<$message>, |bytes| wire::decode::<$message>(bytes).is_ok()),)*
        ];
    };
}

messages! {
    Advert, VerifyCloud, YesCloud, NoCloud, Request, VerifyService, YesService, NoService, Response, Transfer, TransferAck,
    TransferComplete, Placement, Released, Register, Renew, Reclaim, Cancel, Lease, Aborted, Outcome, Enrol, Shown, Certificate,
    Manifest, Order, OrderDone, Tombstone,
}

/// The names of all signed messages, in the order in which [`message`] numbers them.
pub fn messages() -> impl Iterator<Item = &'static str> {
    MESSAGES.iter().map(|(name, ..)| *name)
}

/// The numbers of the messages that these bytes can be.
pub fn fitting(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0..).zip(MESSAGES).filter(|(_, (_, _, fits))| fits(bytes)).map(|(number, _)| number)
}

/// A signed message: the first byte says which.
pub fn message(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if let Some((_, check, _)) = input.pick(MESSAGES) {
        check(input.rest());
    }
}

/// An owner's manifest, and whom it permits.
pub fn manifest(bytes: &[u8]) {
    let Some(manifest) = plain::<Manifest>(bytes) else { return };
    let certificate = Certificate {
        cloud: manifest.allowed_clouds.last().copied().unwrap_or(CloudId([1; 16])),
        name: "fjord".to_owned(),
        host: HostId([2; 32]),
        role: Role::Cloud,
        region: manifest.allowed_regions.last().cloned().unwrap_or_default(),
        not_before: wayfare_protocol::time::Timestamp(0),
        expiry: wayfare_protocol::time::Timestamp(1),
    };
    assert!(manifest.permits(&certificate), "it permits what it names");
    match manifest.check() {
        Ok(()) => assert!(!manifest.name.is_empty() && manifest.name.len() <= wayfare_protocol::limits::TEXT_BYTES_MAX),
        Err(reject) => assert!(matches!(reject, Reject::FieldTooLong | Reject::WrongService), "{reject:?}"),
    }
}

/// A join token's text; and the same bytes as a token's, under a checksum that is right.
pub fn join_token(bytes: &[u8]) {
    let check = |text: &str| {
        if let Ok(token) = measured(text.as_bytes(), |_| JoinToken::parse(text)) {
            assert_eq!(JoinToken::parse(&token.to_text()), Ok(token));
        }
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(text);
        check(&format!("{JOIN_PREFIX}{text}"));
    }
    if bytes.len() <= 2048 {
        let sum = digest("wayfare/1 join token check", &[bytes]).0;
        let body = bs58(&[bytes, &sum[..4]].concat());
        check(&format!("{JOIN_PREFIX}{body}"));
    }
}

/// The bytes in a token's text, without their checksum.
pub fn token_bytes(text: &[u8]) -> Option<Vec<u8>> {
    let token = JoinToken::parse(std::str::from_utf8(text).ok()?).ok()?;
    Some(wire::encode(&token))
}

/// Base58, slowly: the other way round is what is looked at.
fn bs58(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).map(|_| '1');
    zeros.chain(digits.iter().rev().map(|digit| char::from(LETTERS[usize::from(*digit)]))).collect()
}

/// Identifiers and words as people type them.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    macro_rules! ids {
        ($($id:ident)*) => {
            $(if let Some(id) = measured(bytes, |_| $id::parse(text)) {
                assert_eq!(id.to_string(), text, "two texts of one {}", stringify!($id));
                assert!(text.starts_with(&format!("{id:#}")));
            })*
        };
    }
    // Base58 takes quadratic time: who reads a longer line has refused it before.
    if text.len() <= 256 {
        ids!(RegistryId CloudId HostId MigrationId ClientId Digest PlacementKey OwnerKey Nonce);
    }
    if let Some(role) = Role::parse(text) {
        assert_eq!(role.name(), text);
    }
    if let Some(policy) = Policy::parse(text) {
        assert_eq!(policy.name(), text);
    }
    if let Ok(key) = IdempotencyKey::try_from(text.to_owned()) {
        assert!(key.as_str() == text && (1..=128).contains(&text.len()) && text.is_ascii());
    }
}

/// A captured client table.
pub fn client_table(bytes: &[u8]) {
    match measured(bytes, Sessions::from_bytes) {
        Ok(mut table) => {
            assert_eq!(table.to_bytes(), bytes, "two encodings of one table");
            assert_eq!(table.running(), 0);
            for client in table.clients() {
                table.touch(client);
                table.acknowledge(client, u64::MAX);
            }
            let shorter = table.to_bytes();
            assert!(shorter.len() <= bytes.len());
            assert_eq!(Sessions::from_bytes(&shorter).map(|table| table.to_bytes()), Ok(shorter));
        }
        Err(reject) => assert!(is_codecs(reject) || reject == Reject::Full, "{reject:?}"),
    }
}

/// What travels beside a service's memory.
pub fn belongings(bytes: &[u8]) {
    if let Err(reject) = measured(bytes, Host::<Dalek, Strict>::check_belongings) {
        assert!(is_codecs(reject) || reject == Reject::Full, "{reject:?}");
    }
}

const KINDS: [RecordKind; 6] =
    [RecordKind::Module, RecordKind::Page, RecordKind::Globals, RecordKind::Sessions, RecordKind::Log, RecordKind::End];

/// A state stream: honest records, of which some are altered, left out, repeated or made up. What opens is what was sealed,
/// in order, once.
pub fn state_records(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (key, transcript) = (Secret::new([1; 32]), Digest([2; 32]));
    let mut sealer = Sealer::new(key.clone(), transcript);
    let mut opener = Opener::new(key, transcript);
    let mut sealed: Vec<(SealedRecord, Vec<u8>)> = Vec::new();
    let mut ended = false;
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let honest = input.pick(&KINDS).map(|kind| {
            let plaintext = input.some(64).to_vec();
            (sealer.seal::<Quick>(*kind, &plaintext).expect("it is short"), plaintext)
        });
        sealed.extend(honest);
        let Some((record, plaintext)) = input.pick(&sealed).cloned() else { break };
        let mut sent = record.clone();
        match what % 8 {
            0 => sent.number = input.number(),
            1 => sent.kind = *input.pick(&KINDS).unwrap_or(&record.kind),
            2 => {
                let at = input.index(sent.sealed.len());
                sent.sealed[at] ^= input.byte();
            }
            3 => sent.sealed.truncate(input.index(sent.sealed.len())),
            4 => sent.sealed = input.some(255).to_vec(),
            _ => {}
        }
        let next = opener.next();
        let expected = if sent.number != next || ended {
            Err(Reject::RecordOutOfOrder)
        } else if sent == record {
            Ok(plaintext)
        } else {
            Err(Reject::RecordForged)
        };
        let opened = opener.open::<Quick, Strict>(&sent);
        assert_eq!(opened, expected, "{sent:?} for {record:?} at {next}");
        assert_eq!(opener.next(), next + u64::from(opened.is_ok()));
        ended |= opened.is_ok() && sent.kind == RecordKind::End;
    }
    const { assert!(RECORD_BYTES_MAX > 255) };
}
