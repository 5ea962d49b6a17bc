//! Making the chain, and walking along it.

use super::{Block, Checkpoint, Entry, Head, Noted};
use crate::{
    ids::{Digest, RegistryId},
    limits::AUDIT_BLOCK_ENTRIES_MAX,
    reject::Strict,
    suite::{PublicKey, Secret, Suite, digest},
    time::Timestamp,
    trust::{Receiver, Signed},
};

/// What is wrong with a log. Everything before the entry that it names is as it was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A checkpoint is not the Registry's.
    #[error("the checkpoint at entry {at} is not signed by this registry's key")]
    BadSignature {
        /// The entry that it claims to be at.
        at: u64,
    },
    /// The chain jumps ahead.
    #[error("entries {from} to {to} are missing")]
    Missing {
        /// The first one missing.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// The chain jumps back.
    #[error("entry {found} stands where entry {expected} must: it was moved, put in, or is from an older file")]
    Misplaced {
        /// What must come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// What comes next was made to follow something else.
    #[error("entry {at} does not follow the entry before it: that one, or all from here on, is from another log")]
    WrongLink {
        /// The entry that does not follow.
        at: u64,
    },
    /// The content and the signed hash differ.
    #[error("entries {from} to {to} are not what was signed: one of them at least was altered")]
    Altered {
        /// The first that one signature covers.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Nothing signed comes after this entry.
    #[error("nothing signs entry {from} and what follows: the end was cut off")]
    Unsigned {
        /// The first entry that no checkpoint covers.
        from: u64,
    },
    /// A block of nothing.
    #[error("a block without entries after entry {after}")]
    Empty {
        /// The last entry before it.
        after: u64,
    },
}

impl Flaw {
    /// The first entry that cannot be relied on.
    pub const fn first(&self) -> u64 {
        match *self {
            Self::BadSignature { at } | Self::WrongLink { at } => at,
            Self::Missing { from, .. } | Self::Altered { from, .. } | Self::Unsigned { from } => from,
            Self::Misplaced { expected, .. } => expected,
            Self::Empty { after } => after.saturating_add(1),
        }
    }
}

/// The hash of the entry with this content that follows `before`.
fn link(before: &Digest, content: &Digest) -> Digest {
    digest("wayfare/1 audit link", &[&before.0, &content.0])
}

/// The end of a log that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    registry: RegistryId,
    head: Head,
}

impl Chain {
    /// The chain of this Registry that ends at `head`; [`Head::NONE`] if nothing was written yet.
    pub const fn new(registry: RegistryId, head: Head) -> Self {
        Self { registry, head }
    }

    /// The last entry.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Adds what was decided, in order: signed blocks of [`AUDIT_BLOCK_ENTRIES_MAX`] entries at most.
    pub fn seal<S: Suite>(&mut self, secret: &Secret, now: Timestamp, noted: Vec<Noted>) -> Vec<Block> {
        let mut blocks = Vec::with_capacity(noted.len().div_ceil(AUDIT_BLOCK_ENTRIES_MAX));
        let mut noted = noted.into_iter().peekable();
        while noted.peek().is_some() {
            let after = self.head;
            let mut entries = Vec::new();
            for Noted { at, act } in noted.by_ref().take(AUDIT_BLOCK_ENTRIES_MAX) {
                let entry = Entry { sequence: self.head.sequence.saturating_add(1), at, act };
                self.head = Head { sequence: entry.sequence, hash: link(&self.head.hash, &entry.content()) };
                entries.push(entry);
            }
            let checkpoint = Checkpoint { head: self.head, at: now };
            let checkpoint = Signed::sign::<S>(secret, self.registry, Receiver::Anyone, &checkpoint);
            blocks.push(Block { after, entries, checkpoint });
        }
        blocks
    }
}

/// An entry, or what is left of one that is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// The entry.
    Shown(&'a Entry),
    /// Its number, and [`Entry::content`].
    Omitted(u64, Digest),
}

impl Link<'_> {
    /// The entry's number.
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Shown(entry) => entry.sequence,
            Self::Omitted(sequence, _) => *sequence,
        }
    }
}

/// A walk along a log, by somebody who has the Registry's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    registry: RegistryId,
    key: PublicKey,
    head: Head,
    /// Up to here, a checkpoint covers it.
    covered: u64,
    signed: Option<Checkpoint>,
}

impl Walk {
    /// A walk that begins behind `after`, which is believed: [`Head::NONE`] for a whole log.
    pub const fn new(registry: RegistryId, key: PublicKey, after: Head) -> Self {
        Self { registry, key, head: after, covered: after.sequence, signed: None }
    }

    /// How far it has come.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The last checkpoint.
    pub const fn signed(&self) -> Option<&Checkpoint> {
        self.signed.as_ref()
    }

    /// One entry further.
    ///
    /// # Errors
    /// [`Flaw`], by its number; nothing changed.
    pub fn step(&mut self, link_to: Link<'_>) -> Result<(), Flaw> {
        let (expected, found) = (self.head.sequence.saturating_add(1), link_to.sequence());
        if found > expected {
            return Err(Flaw::Missing { from: expected, to: found - 1 });
        }
        if found < expected {
            return Err(Flaw::Misplaced { expected, found });
        }
        let content = match link_to {
            Link::Shown(entry) => entry.content(),
            Link::Omitted(_, content) => content,
        };
        self.head = Head { sequence: found, hash: link(&self.head.hash, &content) };
        Ok(())
    }

    /// The Registry's word on all since the last checkpoint.
    ///
    /// # Errors
    /// [`Flaw::BadSignature`], [`Flaw::Altered`] or [`Flaw::Missing`]; nothing changed.
    pub fn check<S: Suite>(&mut self, signed: &Signed<Checkpoint>) -> Result<(), Flaw> {
        let at = signed.unverified().map_or(self.head.sequence, |checkpoint| checkpoint.head.sequence);
        let verified = signed.verify::<S, Strict>(&self.key, self.registry, Receiver::Anyone);
        let checkpoint = verified.map_err(|_| Flaw::BadSignature { at })?;
        if checkpoint.head.sequence > self.head.sequence {
            return Err(Flaw::Missing { from: self.head.sequence.saturating_add(1), to: checkpoint.head.sequence });
        }
        if checkpoint.head != self.head {
            let from = self.covered.saturating_add(1).min(self.head.sequence);
            return Err(Flaw::Altered { from, to: self.head.sequence });
        }
        (self.covered, self.signed) = (self.head.sequence, Some((*checkpoint).clone()));
        Ok(())
    }

    /// A whole block further.
    ///
    /// # Errors
    /// [`Flaw`]; nothing changed.
    pub fn block<S: Suite>(&mut self, block: &Block) -> Result<(), Flaw> {
        let first = block.entries.first().ok_or(Flaw::Empty { after: self.head.sequence })?;
        let mut next = self.clone();
        // By the numbers first: they tell what is missing. Then whether it was made to follow what stands before it.
        let expected = self.head.sequence.saturating_add(1);
        if first.sequence == expected && block.after != self.head {
            return Err(Flaw::WrongLink { at: expected });
        }
        for entry in &block.entries {
            next.step(Link::Shown(entry))?;
        }
        next.check::<S>(&block.checkpoint)?;
        *self = next;
        Ok(())
    }

    /// That nothing follows.
    ///
    /// # Errors
    /// [`Flaw::Unsigned`] if entries came after the last checkpoint.
    pub fn end(&self) -> Result<(), Flaw> {
        let from = self.covered.saturating_add(1);
        if from <= self.head.sequence { Err(Flaw::Unsigned { from }) } else { Ok(()) }
    }
}
