//! Everything that is fuzzed, without a fuzzer: seeds, what was found before, and random changes of both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{collections::BTreeSet, fs, path::Path};

use proptest::prelude::*;
use rand_core::TryRng;
use wayfare_fuzzing::{
    TARGETS, Target, machines,
    quick::Quick,
    world::{
        Seeded,
        stages::{Victim, stages},
    },
};
use wayfare_protocol::suite::Dalek;

/// How often each message of a move is forged.
const ROUNDS: usize = 30;
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Inputs that once made the target panic, or take too long: `regressions/TARGET/` has a file for each.
fn regressions(target: &Target) -> Vec<Vec<u8>> {
    let Ok(dir) = fs::read_dir(Path::new(ROOT).join("regressions").join(target.name)) else { return Vec::new() };
    dir.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Number(prop::sample::Index, u64),
    Splice(prop::sample::Index, prop::sample::Index),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let len = bytes.len();
        match self {
            Self::Set(at, byte) if len > 0 => bytes[at.index(len)] = *byte,
            Self::Cut(at) => bytes.truncate(at.index(len + 1)),
            Self::Insert(at, more) => {
                let at = at.index(len + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Number(at, number) if len >= 8 => {
                let at = at.index(len - 7);
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            Self::Splice(at, other) => {
                bytes.truncate(at.index(len + 1));
                let other = other.get(others);
                bytes.extend_from_slice(&other[at.index(other.len() + 1)..]);
            }
            Self::Set(..) | Self::Number(..) => {}
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<prop::sample::Index>;
    let numbers = prop_oneof![any::<u64>(), 0u64..64, Just(u64::MAX), Just(1 << 27)];
    let change = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => at().prop_map(Change::Cut),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..24)).prop_map(|(at, more)| Change::Insert(at, more)),
        2 => (at(), numbers).prop_map(|(at, number)| Change::Number(at, number)),
        1 => (at(), at()).prop_map(|(at, other)| Change::Splice(at, other)),
    ];
    prop::collection::vec(change, 1..12)
}

fn replay(name: &str, cases: u32) {
    let target = wayfare_fuzzing::target(name).unwrap();
    let mut seeds = (target.seeds)();
    seeds.extend(regressions(target));
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds.iter().for_each(|seed| (target.run)(seed));
    let config = ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() };
    proptest!(config, |(seed in 0..seeds.len(), changes in changes())| {
        let mut bytes = seeds[seed].clone();
        changes.iter().for_each(|change| change.make(&mut bytes, &seeds));
        (target.run)(&bytes);
    });
}

macro_rules! replays {
    ($($name:ident $cases:literal;)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), $cases);
        })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($name)),*]);
            assert_eq!(replayed, TARGETS.iter().map(|target| target.name).collect());
        }
    };
}

replays! {
    registry_frame 2000;
    migrate_frame 2000;
    state_frame 2000;
    client_frame 2000;
    gossip_frame 2000;
    message 400;
    manifest 2000;
    join_token 200;
    text 1000;
    client_table 2000;
    belongings 2000;
    state_records 2000;
    host_entry 2000;
    gateway_entry 2000;
    journal_file 2000;
    source 150;
    target 150;
    bystander 150;
    gateway 150;
    registry 150;
    mesh 150;
    restart 600;
}

#[test]
fn a_forged_message_in_place_of_each_changes_nothing_that_must_hold() {
    let (stages, mut rng) = (stages::<Quick>(), Seeded(7));
    let mut random = || {
        let mut bytes = [0; 16];
        rng.try_fill_bytes(&mut bytes).unwrap();
        // Fields are altered, and the whole signed anew.
        bytes[0] = 1;
        bytes
    };
    for _ in 0..ROUNDS {
        machines::sweep(&stages, &mut random);
    }
}

#[test]
fn stories_hold_under_the_real_cryptography() {
    let stages = stages::<Dalek>();
    let told = (wayfare_fuzzing::target("mesh").unwrap().seeds)();
    told.iter().for_each(|story| machines::story(&stages, Victim::Anybody, story));
}

#[test]
fn every_target_has_its_file_for_the_fuzzer() {
    let fuzz = Path::new(ROOT).join("../fuzz");
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let files = fs::read_dir(fuzz.join("fuzz_targets")).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, files.iter().map(String::as_str).collect());
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names {
        let code = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(code.contains(&format!("::{name}(")), "{name}.rs runs something else");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in tests/fuzz/Cargo.toml");
    }
}
