//! State on the wire: numbered records, each sealed once under the migration's key (PROTOCOL 3, message 8).
//!
//! [`Sealer`] and [`Opener`] are the two ends; the records' contents are made and understood by the runtime. `h(state)`
//! is salted with the migration's key, so that it tells an onlooker (the Registry included) nothing of the state.

use serde::{Deserialize, Serialize};

use crate::{
    ids::Digest,
    limits::{RECORD_BYTES_MAX, STATE_FRAME_BYTES_MAX},
    migration::messages::MigrationRef,
    reject::{Guards, Reject, Rule},
    suite::{Secret, Suite, digest},
    wire::{Wire, frames},
};

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKind {
    /// A piece of the module, in order.
    Module,
    /// A piece of memory with its address.
    Page,
    /// Sizes, globals and what else the runtime keeps beside memory.
    Globals,
    /// The client table and the placement history: captured after the freeze.
    Sessions,
    /// A piece of the service's request log.
    Log,
    /// Nothing follows.
    End,
}

/// One sealed record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedRecord {
    /// From 0, without gaps.
    pub number: u64,
    /// Authenticated, not secret.
    pub kind: RecordKind,
    /// Ciphertext and tag.
    #[serde(with = "crate::wire::bytes")]
    pub sealed: Vec<u8>,
}

impl Wire for SealedRecord {
    const LIMIT: usize = STATE_FRAME_BYTES_MAX - 2;
}

frames! {
    /// `/wayfare/state/1`, source to target only.
    StateFrame, max STATE_FRAME_BYTES_MAX, {
        70 Begin(MigrationRef),
        71 Record(SealedRecord),
    }
}

fn associated(transcript: &Digest, number: u64, kind: RecordKind) -> [u8; 41] {
    let mut ad = [0; 41];
    ad[..32].copy_from_slice(&transcript.0);
    ad[32..40].copy_from_slice(&number.to_le_bytes());
    ad[40] = kind as u8;
    ad
}

/// Seals records: one key, one direction, one counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sealer {
    key: Secret,
    transcript: Digest,
    next: u64,
}

impl Sealer {
    /// The sealing end of a migration with this key and transcript hash.
    pub const fn new(key: Secret, transcript: Digest) -> Self {
        Self { key, transcript, next: 0 }
    }

    /// Seals the next record. `plaintext` is at most [`RECORD_BYTES_MAX`] bytes long.
    ///
    /// # Errors
    /// [`Reject::FieldTooLong`] beyond that.
    pub fn seal<S: Suite>(&mut self, kind: RecordKind, plaintext: &[u8]) -> Result<SealedRecord, Reject> {
        if plaintext.len() > RECORD_BYTES_MAX {
            return Err(Reject::FieldTooLong);
        }
        let number = self.next;
        self.next += 1;
        let sealed = S::seal(&self.key, number, &associated(&self.transcript, number, kind), plaintext);
        Ok(SealedRecord { number, kind, sealed })
    }

    /// See [`salt`].
    pub fn salt(&self) -> Digest {
        salt(&self.key)
    }
}

/// Opens records in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opener {
    key: Secret,
    transcript: Digest,
    next: u64,
    ended: bool,
}

impl Opener {
    /// The opening end of a migration with this key and transcript hash.
    pub const fn new(key: Secret, transcript: Digest) -> Self {
        Self { key, transcript, next: 0, ended: false }
    }

    /// Opens the next record.
    ///
    /// # Errors
    /// [`Reject::RecordOutOfOrder`] for a gap, a repeat or a record after the end; [`Reject::RecordForged`] if it was not
    /// sealed under this key for this place.
    pub fn open<S: Suite, G: Guards>(&mut self, record: &SealedRecord) -> Result<Vec<u8>, Reject> {
        let again = record.number < self.next && !G::keeps(Rule::RecordOnce);
        if (record.number != self.next || self.ended) && !again {
            return Err(Reject::RecordOutOfOrder);
        }
        let ad = associated(&self.transcript, record.number, record.kind);
        let plaintext = S::open(&self.key, record.number, &ad, &record.sealed).ok_or(Reject::RecordForged)?;
        if again {
            return Ok(plaintext);
        }
        self.next += 1;
        self.ended = record.kind == RecordKind::End;
        Ok(plaintext)
    }

    /// The number of the record expected next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// See [`salt`].
    pub fn salt(&self) -> Digest {
        salt(&self.key)
    }
}

/// The salt of `h(state)`: known to the two ends only.
fn salt(key: &Secret) -> Digest {
    digest("wayfare/1 state salt", &[key.expose()])
}

/// `h(state)`: the instance's own salted digest (which covers the code's), and the client table.
pub fn state_digest(salt: &Digest, code: &Digest, instance: &Digest, sessions: &[u8]) -> Digest {
    digest("wayfare/1 state", &[&salt.0, &code.0, &instance.0, sessions])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reject::Strict, suite::Dalek};

    fn ends() -> (Sealer, Opener) {
        let (key, transcript) = (Secret::new([1; 32]), Digest([2; 32]));
        (Sealer::new(key.clone(), transcript), Opener::new(key, transcript))
    }

    #[test]
    fn records_open_in_order_only() {
        let (mut sealer, mut opener) = ends();
        let first = sealer.seal::<Dalek>(RecordKind::Page, b"one").expect("short");
        let second = sealer.seal::<Dalek>(RecordKind::End, b"").expect("short");
        assert_eq!(opener.open::<Dalek, Strict>(&second), Err(Reject::RecordOutOfOrder));
        assert_eq!(opener.open::<Dalek, Strict>(&first).as_deref(), Ok(&b"one"[..]));
        assert_eq!(opener.open::<Dalek, Strict>(&first), Err(Reject::RecordOutOfOrder));
        assert_eq!(opener.open::<Dalek, Strict>(&second).as_deref(), Ok(&b""[..]));
        let third = sealer.seal::<Dalek>(RecordKind::Page, b"late").expect("short");
        assert_eq!(opener.open::<Dalek, Strict>(&third), Err(Reject::RecordOutOfOrder));
    }

    #[test]
    fn a_changed_record_is_refused_and_harms_nothing() {
        let (mut sealer, mut opener) = ends();
        let record = sealer.seal::<Dalek>(RecordKind::Page, b"one").expect("short");
        let mut bent = record.clone();
        bent.kind = RecordKind::Globals;
        assert_eq!(opener.open::<Dalek, Strict>(&bent), Err(Reject::RecordForged));
        let mut bent = record.clone();
        bent.sealed[0] ^= 1;
        assert_eq!(opener.open::<Dalek, Strict>(&bent), Err(Reject::RecordForged));
        assert!(opener.open::<Dalek, Strict>(&record).is_ok());
    }

    #[test]
    fn an_oversized_record_is_not_sealed() {
        let (mut sealer, _) = ends();
        let long = vec![0; RECORD_BYTES_MAX + 1];
        assert_eq!(sealer.seal::<Dalek>(RecordKind::Page, &long), Err(Reject::FieldTooLong));
    }
}
