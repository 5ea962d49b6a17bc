//! What earlier releases sent, signed and kept on disk is still understood as what it was.
//!
//! `released/VERSION.txt` holds the vectors of a release, frozen: the file never changes, and the next release adds its own. So a
//! mesh can be upgraded node by node, and a node in place.

use std::{collections::BTreeSet, path::PathBuf};

use wayfare_protocol::{ids::Digest, reject::Reject, suite::digest};

use super::{crypto, hex, table::vectors};

/// A release: its name, the newest version of the protocol that it spoke, and the hash of its file.
const RELEASES: &[(&str, u8, &str)] =
    &[("0.1.0", 1, "4e0b9bd7d1ee515116fb2832cafe6896dd2003e90c8477cbce2d10436f7ea0bb")];

/// What is no longer understood: the release, the vector's name, and the name of the refusal.
const REFUSED: &[(&str, &str, Reject)] = &[];

fn text_of(release: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/released/{release}.txt"));
    std::fs::read_to_string(path).unwrap()
}

/// Names and bytes of a release's file.
fn released(release: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let text = text_of(release);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap()).map(|(name, text)| (name.to_owned(), bytes(text))).collect()
}

#[test]
fn the_files_are_the_released_ones() {
    for (release, _, hash) in RELEASES {
        let Digest(found) = digest("released vectors", &[text_of(release).as_bytes()]);
        assert_eq!(hex(&found), *hash, "the vectors of release {release} were changed: a release cannot be taken back");
    }
}

#[test]
fn what_was_released_is_read_as_the_same_value_or_refused_by_name() {
    let (wire, crypto) = (vectors(), crypto::vectors());
    for (release, ..) in RELEASES {
        let mut seen = 0;
        for (name, bytes) in released(release) {
            seen += 1;
            let refused = REFUSED.iter().find(|(since, of, _)| since == release && *of == name).map(|(_, _, why)| *why);
            if let Some(vector) = wire.iter().find(|vector| vector.name == name) {
                match refused {
                    Some(reject) => assert_eq!((vector.read)(&bytes), Err(reject), "{release}: {name}"),
                    None => {
                        assert_eq!((vector.read)(&bytes), Ok(true), "{release}: {name} is read as something else");
                        assert_eq!((vector.rewrite)(&bytes).as_ref(), Ok(&bytes), "{release}: {name}");
                    }
                }
                continue;
            }
            let today = crypto.iter().find(|(other, _)| *other == name);
            let today = today.unwrap_or_else(|| panic!("{release}: no vector is called {name:?} any more"));
            assert_eq!(hex(&today.1), hex(&bytes), "{release}: {name} is computed otherwise now");
        }
        assert!(seen > 100, "{release}: the file has {seen} vectors");
    }
}

/// Kind and version of each vector that is a frame, by stream: `registry/2`.
fn frames(vectors: impl Iterator<Item = (String, Vec<u8>)>) -> BTreeSet<(String, u8)> {
    let stream_and_kind =
        |name: &str| name.split_once(' ').filter(|(kind, _)| kind.contains('/')).map(|(kind, _)| kind.to_owned());
    vectors.filter_map(|(name, bytes)| stream_and_kind(&name).map(|kind| (kind, bytes[0]))).collect()
}

/// A node of that release is never sent what it does not know: see `wire`.
#[test]
fn every_kind_that_a_release_did_not_have_needs_a_later_version() {
    let today =
        frames(vectors().into_iter().filter(|vector| vector.is_frame).map(|vector| (vector.name, vector.bytes)));
    for (release, newest, _) in RELEASES {
        let then = frames(released(release).into_iter());
        assert!(then.len() > 30 && then.iter().all(|(_, version)| version <= newest), "{release}: {then:?}");
        for (kind, version) in &today {
            let known = then.iter().any(|(old, _)| old == kind);
            assert!(
                known || version > newest,
                "{kind} came after {release}, which speaks version {newest}: write `since {}` behind it in `frames!`",
                newest + 1
            );
        }
    }
}
