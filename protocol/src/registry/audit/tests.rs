//! Every kind of tampering, and that it is found and named.

use super::*;
use crate::{
    ids::RegistryId,
    limits::AUDIT_BLOCK_ENTRIES_MAX,
    suite::{Dalek, Secret, Suite as _},
};

const REGISTRY: RegistryId = RegistryId([9; 32]);

fn secret() -> Secret {
    Secret::new([1; 32])
}

fn noted(n: u64) -> Noted {
    Noted { at: Timestamp(1_000 + n), act: Act::CloudRevoked { name: format!("cloud-{n}") } }
}

/// Blocks of 1, 3 and 2 entries: 1; 2, 3, 4; 5, 6.
fn log_by(secret: &Secret) -> Vec<Block> {
    let mut chain = Chain::new(REGISTRY, Head::NONE);
    let mut seal = |from, to| chain.seal::<Dalek>(secret, Timestamp(9_000), (from..=to).map(noted).collect());
    [seal(1, 1), seal(2, 4), seal(5, 6)].concat()
}

fn log() -> Vec<Block> {
    log_by(&secret())
}

fn walk() -> Walk {
    Walk::new(REGISTRY, Dalek::public_key(&secret()), Head::NONE)
}

fn check(blocks: &[Block]) -> Result<u64, Flaw> {
    let mut walk = walk();
    blocks.iter().try_for_each(|block| walk.block::<Dalek>(block))?;
    walk.end()?;
    Ok(walk.head().sequence)
}

#[test]
fn what_was_sealed_is_found_in_order() {
    assert_eq!(check(&log()), Ok(6));
    assert_eq!(check(&[]), Ok(0));
    // From the middle on, by whoever believes where it begins.
    let blocks = log();
    let mut later = Walk::new(REGISTRY, Dalek::public_key(&secret()), blocks[1].after);
    blocks[1..].iter().for_each(|block| later.block::<Dalek>(block).unwrap());
    assert_eq!(later.head().sequence, 6);
    assert_eq!(later.signed().unwrap().head, later.head());
}

#[test]
fn tampering_is_named() {
    let blocks = log();
    let changed = |change: fn(&mut Vec<Block>)| {
        let mut blocks = log();
        change(&mut blocks);
        check(&blocks).unwrap_err()
    };
    // Altered: what, when, and the signed point itself.
    let altered = Flaw::Altered { from: 2, to: 4 };
    assert_eq!(changed(|log| log[1].entries[1].act = Act::CloudRevoked { name: "another".to_owned() }), altered);
    assert_eq!(changed(|log| log[1].entries[2].at = Timestamp(0)), altered);
    // Removed: at the beginning of a block, within, at its end, the whole of it, the first of all.
    assert_eq!(changed(|log| drop(log[1].entries.remove(0))), Flaw::Missing { from: 2, to: 2 });
    assert_eq!(changed(|log| drop(log[1].entries.remove(1))), Flaw::Missing { from: 3, to: 3 });
    assert_eq!(changed(|log| drop(log[1].entries.pop())), Flaw::Missing { from: 4, to: 4 });
    assert_eq!(changed(|log| drop(log.remove(1))), Flaw::Missing { from: 2, to: 4 });
    assert_eq!(changed(|log| drop(log.remove(0))), Flaw::Missing { from: 1, to: 1 });
    assert_eq!(changed(|log| log[1].entries.clear()), Flaw::Empty { after: 1 });
    // Removed, and the rest numbered anew.
    let renumbered = changed(|log| {
        log[1].entries.remove(1);
        (2..).zip(&mut log[1].entries).for_each(|(n, entry)| entry.sequence = n);
    });
    assert_eq!(renumbered, Flaw::Missing { from: 4, to: 4 });
    // Swapped: entries, with and without their numbers, and blocks.
    assert_eq!(changed(|log| log[1].entries.swap(0, 1)), Flaw::Missing { from: 2, to: 2 });
    let swapped = changed(|log| {
        log[1].entries.swap(0, 1);
        (2..).zip(&mut log[1].entries).for_each(|(n, entry)| entry.sequence = n);
    });
    assert_eq!(swapped, altered);
    assert_eq!(changed(|log| log.swap(1, 2)), Flaw::Missing { from: 2, to: 4 });
    // Inserted: a copy, a forgery, an old block again.
    let copied = changed(|log| {
        let copy = log[1].entries[0].clone();
        log[1].entries.insert(1, copy);
    });
    assert_eq!(copied, Flaw::Misplaced { expected: 3, found: 2 });
    let forged = changed(|log| log[2].entries.push(Entry { sequence: 7, at: Timestamp(1), act: noted(7).act }));
    assert_eq!(forged, Flaw::Altered { from: 5, to: 7 });
    let repeated = changed(|log| log.push(log[1].clone()));
    assert_eq!(repeated, Flaw::Misplaced { expected: 7, found: 2 });
    // A checkpoint of another block.
    let moved = changed(|log| log[2].checkpoint = log[1].checkpoint.clone());
    assert_eq!(moved, Flaw::Altered { from: 5, to: 6 });
    let moved = changed(|log| log[1].checkpoint = log[2].checkpoint.clone());
    assert_eq!(moved, Flaw::Missing { from: 5, to: 6 });
    // Every flaw names the first entry that cannot be relied on.
    assert_eq!((altered.first(), forged.first(), repeated.first(), moved.first()), (2, 5, 7, 5));
    assert_eq!(check(&blocks), Ok(6));
}

#[test]
fn another_key_or_another_registry_is_no_signature() {
    let other = Secret::new([2; 32]);
    assert_eq!(check(&log_by(&other)), Err(Flaw::BadSignature { at: 1 }));
    // The end written anew by somebody with another key.
    let mut forged = log();
    let (mut chain, mut blocks) = (Chain::new(REGISTRY, Head::NONE), log());
    blocks.truncate(2);
    chain.seal::<Dalek>(&secret(), Timestamp(9_000), vec![noted(1)]);
    chain.seal::<Dalek>(&secret(), Timestamp(9_000), (2..=4).map(noted).collect());
    forged[2] = chain.seal::<Dalek>(&other, Timestamp(9_000), vec![noted(8)]).swap_remove(0);
    assert_eq!(check(&forged), Err(Flaw::BadSignature { at: 5 }));
    // The same key for another registry, or for other words.
    let mut walk = Walk::new(RegistryId([8; 32]), Dalek::public_key(&secret()), Head::NONE);
    assert_eq!(walk.block::<Dalek>(&log()[0]), Err(Flaw::BadSignature { at: 1 }));
    assert_eq!(walk.head(), Head::NONE, "nothing changed");
}

#[test]
fn blocks_of_another_log_of_the_same_registry_do_not_follow() {
    // The same key, the same numbers, another past: a copy of the registry that went its own way.
    let mut chain = Chain::new(REGISTRY, Head::NONE);
    chain.seal::<Dalek>(&secret(), Timestamp(9_000), vec![noted(77)]);
    let foreign = chain.seal::<Dalek>(&secret(), Timestamp(9_000), (2..=4).map(noted).collect());
    let mut blocks = log();
    blocks[1] = foreign[0].clone();
    assert_eq!(check(&blocks), Err(Flaw::WrongLink { at: 2 }));
    // Also if it says that it follows what is there.
    blocks[1].after = blocks[0].checkpoint.unverified().unwrap().head;
    assert_eq!(check(&blocks), Err(Flaw::Altered { from: 2, to: 4 }));
}

#[test]
fn an_entry_may_be_withheld_and_not_replaced() {
    let entries: Vec<Entry> = log().into_iter().flat_map(|block| block.entries).collect();
    let last = log()[2].checkpoint.clone();
    let mut walk = walk();
    for entry in &entries {
        let link =
            if entry.sequence == 3 { Link::Shown(entry) } else { Link::Omitted(entry.sequence, entry.content()) };
        walk.step(link).unwrap();
    }
    assert_eq!(walk.end(), Err(Flaw::Unsigned { from: 1 }), "a walk without a signature proves nothing");
    walk.check::<Dalek>(&last).unwrap();
    assert_eq!(walk.end(), Ok(()));
    let mut forged = self::walk();
    for entry in &entries {
        let content = if entry.sequence == 4 { Digest([7; 32]) } else { entry.content() };
        forged.step(Link::Omitted(entry.sequence, content)).unwrap();
    }
    assert_eq!(forged.check::<Dalek>(&last), Err(Flaw::Altered { from: 1, to: 6 }));
}

#[test]
fn a_cut_end_is_as_good_as_the_last_checkpoint() {
    assert_eq!(check(&log()[..2]), Ok(4), "who knows no later head cannot tell");
    let mut walk = walk();
    walk.block::<Dalek>(&log()[0]).unwrap();
    walk.step(Link::Shown(&log()[1].entries[0])).unwrap();
    assert_eq!(walk.end(), Err(Flaw::Unsigned { from: 2 }));
}

#[test]
fn many_entries_take_several_blocks_that_fit() {
    let long = "x".repeat(crate::limits::TEXT_BYTES_MAX);
    let act = Act::CarriedOut {
        service: ServiceId { registry: REGISTRY, unique: [1; 16] },
        action: "update".to_owned(),
        outcome: Outcome::Refused(long),
    };
    let many = vec![Noted { at: Timestamp(1), act }; 2 * AUDIT_BLOCK_ENTRIES_MAX + 1];
    let blocks = Chain::new(REGISTRY, Head::NONE).seal::<Dalek>(&secret(), Timestamp(2), many);
    assert_eq!(blocks.len(), 3);
    assert_eq!(check(&blocks), Ok(2 * AUDIT_BLOCK_ENTRIES_MAX as u64 + 1));
    for block in &blocks {
        assert_eq!(wire::decode::<Block>(&wire::encode(block)).as_ref(), Ok(block));
    }
}

#[test]
fn every_kind_has_its_own_name() {
    let mut kinds = Act::KINDS.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), Act::KINDS.len());
}
