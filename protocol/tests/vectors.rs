//! The bytes of the wire and of the journals, pinned: the codec, a type or a label can be replaced, these cannot.
//!
//! `tests/vectors.txt` holds one line a vector, `name: hex`. A change there is a change of the protocol: it needs another
//! version. To write the file anew: `WAYFARE_WRITE_VECTORS=1 cargo test -p wayfare-protocol --test vectors`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use proptest::prelude::*;
use wayfare_protocol::{
    advert::Gossip,
    gateway::messages::ClientFrame,
    migration::messages::{MigrateFrame, RegistryFrame},
    reject::Reject,
    transfer::StateFrame,
    wire::{Frame, VERSION, VERSIONS},
};

#[path = "vectors/crypto.rs"]
mod crypto;
#[path = "vectors/released.rs"]
mod released;
#[path = "vectors/samples.rs"]
mod samples;
#[path = "vectors/table.rs"]
mod table;

use table::{Vector, vectors};

const WRITE: &str = "WAYFARE_WRITE_VECTORS";

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn computed() -> Vec<(String, Vec<u8>)> {
    let wire = vectors().into_iter().map(|vector| (vector.name, vector.bytes));
    wire.chain(crypto::vectors()).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "who runs the test says whether to write the file")]
fn the_bytes_are_the_pinned_ones() {
    let computed = computed();
    if std::env::var(WRITE).is_ok() {
        let head = "# Pinned bytes: see tests/vectors.rs. `name: hex`.\n".to_owned();
        let text = computed.iter().fold(head, |text, (name, bytes)| format!("{text}{name}: {}\n", hex(bytes)));
        std::fs::write(file(), text).unwrap();
    }
    let text = std::fs::read_to_string(file()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pinned: BTreeMap<&str, &str> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    for (name, bytes) in &computed {
        assert_eq!(pinned.get(name.as_str()).copied(), Some(hex(bytes).as_str()), "{name} (or: {WRITE}=1)");
    }
    assert_eq!(pinned.len(), computed.len(), "names are unique, and the file has no other lines");
}

#[test]
fn pinned_bytes_read_back() {
    for vector in vectors() {
        assert_eq!((vector.read)(&vector.bytes), Ok(true), "{}", vector.name);
        assert_eq!((vector.rewrite)(&vector.bytes).as_ref(), Ok(&vector.bytes), "{}", vector.name);
    }
}

/// Which kinds a stream knows.
fn kinds<F: Frame>() -> Vec<u8> {
    (0..=u8::MAX).filter(|kind| F::from_bytes(&[VERSION, *kind]).err() != Some(Reject::UnknownMessage)).collect()
}

#[test]
fn every_kind_of_frame_has_a_vector() {
    let streams = [
        ("registry", kinds::<RegistryFrame>()),
        ("migrate", kinds::<MigrateFrame>()),
        ("state", kinds::<StateFrame>()),
        ("client", kinds::<ClientFrame>()),
        ("gossip", kinds::<Gossip>()),
    ];
    let vectors = vectors();
    for (stream, kinds) in streams {
        for kind in kinds {
            let name = format!("{stream}/{kind} ");
            assert!(vectors.iter().any(|vector| vector.name.starts_with(&name)), "{name}has no vector");
        }
    }
}

#[test]
fn bytes_cut_off_anywhere_or_followed_by_more_are_malformed() {
    for vector in vectors() {
        for len in 0..vector.bytes.len() {
            assert_eq!((vector.read)(&vector.bytes[..len]), Err(Reject::Malformed), "{} cut at {len}", vector.name);
        }
        for more in [&[0][..], &[0xff], &[0; 9]] {
            let bytes = [&vector.bytes, more].concat();
            assert_eq!((vector.read)(&bytes), Err(Reject::Malformed), "{} and {more:?}", vector.name);
        }
    }
}

#[test]
fn frames_of_another_version_or_kind_are_refused_by_name() {
    for Vector { name, bytes, read, .. } in vectors().into_iter().filter(|vector| vector.is_frame) {
        for version in (0..=u8::MAX).filter(|version| *version != bytes[0]) {
            let other = [&[version], &bytes[1..]].concat();
            assert_eq!(read(&other), Err(Reject::WrongVersion), "{name}, version {version}");
        }
        for kind in [0, 13, 99, 200, 255] {
            for version in VERSIONS {
                let other = [&[*version, kind], &bytes[2..]].concat();
                assert_eq!(read(&other), Err(Reject::UnknownMessage), "{name}, kind {kind}");
            }
        }
    }
}

#[test]
fn what_is_longer_than_its_kind_allows_is_refused_unread() {
    for vector in vectors() {
        let mut long = vector.bytes.clone();
        long.resize(vector.bytes_max + 1, 0);
        assert_eq!((vector.read)(&long), Err(Reject::FrameTooLarge), "{}", vector.name);
    }
    // Most messages have a limit of their own, far below their stream's.
    for kind in kinds::<RegistryFrame>() {
        let since = VERSIONS
            .iter()
            .find(|since| RegistryFrame::from_bytes(&[**since, kind]).err() != Some(Reject::WrongVersion));
        let mut long = vec![*since.unwrap(), kind];
        long.resize(RegistryFrame::BYTES_MAX, 0);
        assert_eq!(RegistryFrame::from_bytes(&long).err(), Some(Reject::FrameTooLarge), "kind {kind}");
    }
}

#[test]
fn a_length_beyond_the_bytes_is_refused() {
    let mut last = String::new();
    for vector in vectors() {
        // One vector of each kind will do.
        let kind = vector.name.split(" (").next().unwrap_or_default().to_owned();
        if std::mem::replace(&mut last, kind.clone()) == kind {
            continue;
        }
        for at in 0..vector.bytes.len().saturating_sub(8) {
            for length in [u64::MAX, 1 << 27] {
                let mut bytes = vector.bytes.clone();
                bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
                check_canonical(&vector, &bytes);
            }
        }
        // Frames begin with a length wherever their first field is signed.
        if vector.is_frame && vector.bytes[6..10] == [0; 4] && vector.bytes[2..6] != [0; 4] {
            let mut bytes = vector.bytes.clone();
            bytes[2..10].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(matches!((vector.read)(&bytes), Ok(false) | Err(Reject::Malformed)), "{}", vector.name);
        }
    }
}

#[test]
fn tags_texts_and_flags_have_one_form() {
    let vector = |name: &str| vectors().into_iter().find(|vector| vector.name.starts_with(name)).unwrap();
    let refused = |name: &str, at: usize, byte: u8| {
        let vector = vector(name);
        let mut bytes = vector.bytes.clone();
        assert_ne!(bytes[at], byte);
        bytes[at] = byte;
        assert_eq!((vector.read)(&bytes), Err(Reject::Malformed), "{name}: {byte} at {at}");
    };
    // The variant of an enum, the tag of an option, a flag, the letters of a text.
    refused("registry/48 Lookup (by name)", 2, 2);
    let found = vector("registry/49 Found (nothing)").bytes.len();
    refused("registry/49 Found (nothing)", found - 9, 2);
    let placed = vector("host journal Placed").bytes.len();
    refused("host journal Placed", placed - 1, 2);
    let lookup = vector("registry/48 Lookup (by name)").bytes.len();
    refused("registry/48 Lookup (by name)", lookup - 1, 0xff);
}

/// Whatever the bytes: no panic, and what is taken is written as it was read.
fn check_canonical(vector: &Vector, bytes: &[u8]) {
    match (vector.rewrite)(bytes) {
        Ok(again) => assert_eq!(again, bytes, "{}: two encodings of one value", vector.name),
        Err(Reject::Malformed | Reject::WrongVersion | Reject::UnknownMessage | Reject::FrameTooLarge) => {}
        Err(other) => panic!("{}: {other:?} is no codec's rejection", vector.name),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        for vector in vectors() {
            check_canonical(&vector, &body);
            if vector.is_frame {
                check_canonical(&vector, &[&vector.bytes[..2], &body].concat());
            }
        }
    }

    #[test]
    fn changed_bytes_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for vector in vectors() {
            let mut bytes = vector.bytes.clone();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            check_canonical(&vector, &bytes);
            bytes.truncate(cut.index(vector.bytes.len()));
            check_canonical(&vector, &bytes);
        }
    }
}
