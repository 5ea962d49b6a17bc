//! Showing a Registry that was restored from a backup what it has forgotten (PROTOCOL 4, rule 7): what this host has of its
//! services, and what it heard of those that have left.

use super::{
    Effect, Host,
    hosted::{Hosted, Run},
};
use crate::{
    ids::{MigrationIds, RegistryId},
    limits::{SHOW_INTERVAL, SHOWN_BYTES_MAX},
    manifest::Manifest,
    migration::messages::{Placement, Recovering, Refused, RegistryFrame, Shown, ShownFrame, ShownStay},
    reject::Guards,
    suite::Suite,
    time::Now,
    trust::{Receiver, Signed},
    wire,
};

/// What one part holds, and how many bytes that takes.
#[derive(Default)]
struct Part {
    stays: Vec<ShownStay>,
    held: Vec<MigrationIds>,
    elsewhere: Vec<Signed<Placement>>,
    manifests: Vec<Signed<Manifest>>,
    shown_bytes: usize,
    manifest_bytes: usize,
}

/// Parts of one showing: never none, so that a host with nothing can say so.
struct Parts(Vec<Part>);

impl Parts {
    /// The part that `shown_bytes` more, and a manifest of `manifest_bytes`, go into.
    fn with_room(&mut self, shown_bytes: usize, manifest_bytes: usize) -> &mut Part {
        let full = self.0.last().is_none_or(|part| {
            part.shown_bytes + shown_bytes > SHOWN_BYTES_MAX || part.manifest_bytes + manifest_bytes > SHOWN_BYTES_MAX
        });
        if full {
            self.0.push(Part::default());
        }
        let last = self.0.len() - 1;
        let part = &mut self.0[last];
        part.shown_bytes += shown_bytes;
        part.manifest_bytes += manifest_bytes;
        part
    }
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// RECOVERING: shows all that is here of `registry`'s services. What is shown is on disk first, as with every promise.
    pub(super) fn handle_recovering(&mut self, registry: RegistryId, recovering: &Recovering) {
        let Parts(parts) = self.parts(registry);
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (part, content) in (0..).zip(parts) {
            let Part { stays, held, elsewhere, manifests, .. } = content;
            let shown = Shown { nonce: recovering.nonce, part, parts: count, stays, held, elsewhere };
            let shown = Signed::sign::<S>(&self.identity.secret, registry, Receiver::Registry(registry), &shown);
            let frame = ShownFrame {
                shown,
                certificate: self.identity.certificate.signed().clone(),
                manifests,
                addresses: self.addresses.clone(),
            };
            self.outbox.promise(Effect::ToRegistry(registry, RegistryFrame::Shown(frame)));
        }
        // Behind it: a host that enrolled after the backup is known by now.
        for (_, tombstone) in self.removed.iter().filter(|(service, _)| service.registry == registry) {
            self.outbox.promise(Effect::ToRegistry(registry, RegistryFrame::Removed(tombstone.clone())));
        }
    }

    fn parts(&self, registry: RegistryId) -> Parts {
        let mut parts = Parts(vec![Part::default()]);
        for hosted in self.services.values() {
            // A sealed stay is no claim: who superseded it is in `departed`.
            if hosted.placement.service.registry != registry || hosted.run == Run::Sealed {
                continue;
            }
            let consented = hosted.attempt.as_ref().filter(|attempt| attempt.source.has_consented());
            let consent = consented.and_then(|attempt| attempt.source.ids());
            let stay = ShownStay { placement: hosted.placement.signed().clone(), consent };
            let manifest = hosted.manifest.signed().clone();
            let part = parts.with_room(wire::encode(&stay).len(), wire::encode(&manifest).len());
            part.stays.push(stay);
            part.manifests.push(manifest);
        }
        for arrival in self.arrivals.values() {
            let ids = arrival.target.ids();
            if ids.service.registry == registry && arrival.target.is_held() {
                parts.with_room(wire::encode(&ids).len(), 0).held.push(ids);
            }
        }
        for departed in &self.departed {
            let placement = &departed.placement;
            if departed.service.registry == registry {
                parts.with_room(wire::encode(placement).len(), 0).elsewhere.push(placement.clone());
            }
        }
        parts
    }

    /// Refused because the Registry recovers: what was asked is asked again, soon. Only a 2 is not worth waiting for: its
    /// attempt ends.
    pub(super) fn handle_recovers(&mut self, now: Now, refused: &Refused, rng: &mut dyn rand_core::Rng) {
        let about = refused.about;
        let asked = |hosted: &Hosted| hosted.attempt.as_ref().is_some_and(|attempt| attempt.asked == about);
        if self.services.values().any(asked) {
            self.handle_refused(now, about, &refused.reason, rng);
            return;
        }
        let soon = now.mono + SHOW_INTERVAL;
        let renewals = self.services.values_mut().filter_map(|hosted| hosted.lease.renewal.as_mut());
        for renewal in renewals.filter(|renewal| renewal.signed.hash() == about) {
            renewal.retry.at = renewal.retry.at.min(soon);
        }
    }
}
