//! What must hold (PROTOCOL 4 and 7), and the ledger of what was done so far, by which a step is judged.

use std::collections::{BTreeMap, BTreeSet};

use wayfare_protocol::ids::{Digest, Epoch, MigrationId};

use super::message::{Guest, Note, Party};

/// A promise. Its number is its bit in a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Promise {
    /// PROTOCOL 4, and 4.1, 4.2, 4.6.
    DeletesByRight,
    /// PROTOCOL 7.
    StartsWhatWasSent,
    /// PROTOCOL 7.
    BothProofs,
    /// PROTOCOL 4.
    DecidedOnce,
    /// PROTOCOL 5.
    ExecutedOnce,
    /// PROTOCOL 7.
    RevokedRefused,
}

/// What was done so far, as far as a promise asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ledger {
    /// Consents: who gave up which epoch of the service under which attempt, and the state's hash.
    consents: BTreeMap<MigrationId, (Party, Epoch, Digest)>,
    captured: BTreeMap<MigrationId, Guest>,
    held: BTreeMap<MigrationId, (Party, Digest)>,
    activated: BTreeSet<MigrationId>,
    /// What the Registry said of attempts: won or not.
    decided: BTreeMap<MigrationId, bool>,
    /// Whom it gave which epoch, under which attempt.
    epochs: BTreeMap<Epoch, (Party, MigrationId)>,
    revoked: Option<Party>,
    /// Requests whose responses have left.
    pub(super) answered: BTreeSet<u64>,
    broken: BTreeSet<Promise>,
}

impl Ledger {
    /// Whether this promise was kept.
    pub(super) fn keeps(&self, promise: Promise) -> bool {
        !self.broken.contains(&promise)
    }

    /// Whether the Registry has decided an attempt in this way.
    pub(super) fn has_decided(&self, won: bool) -> bool {
        // The first placement is under an attempt of its own that nobody made.
        self.decided.iter().any(|(mig, decision)| *decision == won && (!won || self.consents.contains_key(mig)))
    }

    /// This party is revoked from now on.
    pub(super) fn revoke(&mut self, party: Party) {
        self.revoked = Some(party);
    }

    /// Takes note. `copies` are those of the state that there are now, `to` is whom a placement names, `rogue` who keeps no
    /// promise.
    pub(super) fn note(
        &mut self,
        party: Party,
        note: &Note,
        copies: &[Guest],
        to: Option<Party>,
        rogue: Option<Party>,
    ) {
        match note {
            Note::Consented { mig, epoch, state } => {
                self.consents.insert(*mig, (party, *epoch, *state));
            }
            Note::Captured { mig, guest } => {
                self.captured.insert(*mig, guest.clone());
            }
            Note::Held { mig, state } => {
                self.held.insert(*mig, (party, *state));
            }
            Note::Activated { mig, guest } => {
                let sent = self.captured.get(mig) == Some(guest);
                let first = self.activated.insert(*mig);
                self.judge(sent && first, Promise::StartsWhatWasSent);
            }
            Note::Discarded { epoch, guest } => {
                let right = self.consents.iter().any(|(mig, consent)| {
                    let won = self.decided.get(mig) == Some(&true);
                    let to_rogue = self.epochs.values().any(|(host, by)| by == mig && Some(*host) == rogue);
                    (consent.0, consent.1) == (party, *epoch) && won && (to_rogue || self.is_held(*mig, consent.2))
                });
                let to_rogue = self.epochs.values().any(|(host, _)| Some(*host) == rogue);
                let kept = to_rogue || copies.iter().any(|copy| copy.continues(guest));
                self.judge(right && kept, Promise::DeletesByRight);
            }
            Note::Placed { placement, .. } => {
                let Some(to) = to else { return };
                let first = placement.previous == placement.host;
                let consent = self.consents.get(&placement.mig).copied();
                let proved = consent.is_some_and(|(source, epoch, state)| {
                    let holds = Some(to) == rogue || self.is_held(placement.mig, state);
                    source != to && epoch.next_era() == placement.epoch && holds
                });
                self.judge(first || proved, Promise::BothProofs);
                // What was decided before is only said again.
                let again = self.epochs.contains_key(&placement.epoch);
                self.judge(again || self.revoked != Some(to), Promise::RevokedRefused);
                let given = *self.epochs.entry(placement.epoch).or_insert((to, placement.mig));
                self.judge(given == (to, placement.mig), Promise::DecidedOnce);
                self.decide(placement.mig, true);
            }
            Note::Aborted { mig } => self.decide(*mig, false),
            Note::Twice { .. } => self.judge(false, Promise::ExecutedOnce),
            Note::Answered { sequence } => {
                self.answered.insert(*sequence);
            }
        }
    }

    fn is_held(&self, mig: MigrationId, consented: Digest) -> bool {
        self.held.get(&mig).is_some_and(|(_, state)| *state == consented)
    }

    fn decide(&mut self, mig: MigrationId, won: bool) {
        let decision = *self.decided.entry(mig).or_insert(won);
        self.judge(decision == won, Promise::DecidedOnce);
    }

    fn judge(&mut self, kept: bool, promise: Promise) {
        if !kept {
            self.broken.insert(promise);
        }
    }
}
