//! Speaking to the mesh: this cloud's adverts out, other clouds' adverts and placements in.

use std::sync::Arc;

use super::{Effect, Host};
use crate::{
    advert::{Advert, AdvertStore, Gossip, verify_advert},
    ids::{Digest, HostId},
    latency::Coordinate,
    limits::{ADVERT_INTERVAL, ADVERT_LIFETIME_MAX, CLOCK_SKEW},
    manifest::ServiceType,
    reject::{Guards, Reject, ensure},
    suite::Suite,
    time::{Instant, Micros, Now, Timestamp},
    trust::{Certificate, Receiver, Role, Signed, Verified},
    wire::Frame,
};

/// How soon a newcomer on the mesh hears of this host.
const GREETING: Micros = Micros::from_millis(200);

impl<S: Suite, G: Guards> Host<S, G> {
    /// This host is reached at these multiaddrs; a cloud advertises them.
    pub fn set_addresses(&mut self, addresses: Vec<String>) {
        self.addresses = addresses;
        self.advertise_at = Instant::default();
    }

    /// A peer joined the mesh: it should hear of this host soon.
    pub fn handle_peer_connected(&mut self, now: Now) {
        self.advertise_at = self.advertise_at.min(now.mono + GREETING);
    }

    /// A gossiped message: an advert is kept; a placement concerns gateways, and is only checked.
    ///
    /// # Errors
    /// A named rejection, counted: the mesh does not pass the message on.
    pub fn handle_gossip(&mut self, now: Now, bytes: &[u8]) -> Result<(), Reject> {
        let result = self.gossip(now, bytes);
        self.counted(result)
    }

    fn gossip(&mut self, now: Now, bytes: &[u8]) -> Result<(), Reject> {
        match Gossip::from_bytes(bytes)? {
            Gossip::Advert(signed) => {
                let (advert, certificate) = verify_advert::<S, G>(&signed, &self.bundle, now.wall)?;
                self.pace.admit::<G>(now.mono, advert.host)?;
                self.keep_advert(now, advert.into(), certificate.into())?;
            }
            Gossip::Placement(signed) => {
                let registry = signed.unverified()?.service.registry;
                let placement = self.bundle.verify::<S, G, _>(&signed, registry, Receiver::Anyone)?;
                ensure::<G>(placement.is_current(now.wall), Reject::Expired)?;
            }
        }
        Ok(())
    }

    /// An advert that was verified for another host in this process, under the same bundle: it is not verified again.
    ///
    /// # Errors
    /// As of [`Host::handle_gossip`].
    pub fn handle_verified_advert(
        &mut self,
        now: Now,
        advert: &Arc<Verified<Advert>>,
        certificate: &Arc<Verified<Certificate>>,
    ) -> Result<(), Reject> {
        let result = self.keep_advert(now, Arc::clone(advert), Arc::clone(certificate));
        self.counted(result)
    }

    fn keep_advert(
        &mut self,
        now: Now,
        advert: Arc<Verified<Advert>>,
        certificate: Arc<Verified<Certificate>>,
    ) -> Result<(), Reject> {
        if advert.host != self.me() {
            self.adverts.insert::<G>(now.wall, advert, certificate)?;
        }
        Ok(())
    }

    /// Whose round trip to measure next: any cloud that advertises, so that this host finds its place among them.
    pub fn probe_target(&self, now: Now, rng: &mut dyn rand_core::Rng) -> Option<(HostId, Vec<String>)> {
        let live = self.adverts.live(now.wall).count();
        let choice = rng.next_u64().checked_rem(live as u64)?;
        let known = self.adverts.live(now.wall).nth(choice as usize)?;
        Some((known.advert.host, known.advert.addresses.clone()))
    }

    /// Takes a measured round trip to `host`. What that host says of itself counts only as far as Vivaldi goes.
    pub fn record_rtt(&mut self, now: Now, host: HostId, rtt: Micros) {
        self.measurements.record(now.mono, host, rtt);
        if let Some(known) = self.adverts.get(now.wall, host) {
            // An advert with an impossible coordinate is of no use here, and does no harm.
            let _ = self.vivaldi.update(host, &known.advert.coordinate, rtt);
        }
    }

    /// A measurement of `host` failed: it did not answer.
    pub fn record_loss(&mut self, now: Now, host: HostId) {
        self.measurements.record_loss(now.mono, host);
    }

    /// Where this host is in latency space.
    pub fn coordinate(&self) -> Coordinate {
        self.vivaldi.coordinate()
    }

    /// The adverts known.
    pub const fn adverts(&self) -> &AdvertStore {
        &self.adverts
    }

    pub(super) fn advert_timeout(&self) -> Option<Instant> {
        let advertises = self.role() == Role::Cloud && !self.addresses.is_empty() && !self.gone;
        advertises.then_some(self.advertise_at)
    }

    /// This host is about to leave the mesh: its last advert, a farewell, ends those before it at once.
    pub fn farewell(&mut self, now: Now) {
        if self.advert_timeout().is_some() {
            self.advertise(now, now.wall);
        }
        self.gone = true;
    }

    pub(super) fn advertise_if_due(&mut self, now: Now) {
        if self.advert_timeout().is_none_or(|at| at > now.mono) {
            return;
        }
        self.advertise_at = now.mono + ADVERT_INTERVAL;
        self.advertise(now, now.wall + ADVERT_LIFETIME_MAX);
    }

    fn advertise(&mut self, now: Now, expiry: Timestamp) {
        let advert = Advert {
            registry: self.identity.registry,
            cloud: self.identity.certificate.cloud,
            host: self.me(),
            tos: ServiceType::Cloud,
            resources: self.free(),
            cordoned: self.cordoned || self.full,
            price_micros: self.config.price_micros,
            addresses: self.addresses.clone(),
            coordinate: self.vivaldi.coordinate(),
            certificate: self.identity.certificate.signed().clone(),
            serial: now.wall.0,
            expiry,
        };
        let signed = Signed::sign::<S>(&self.identity.secret, advert.registry, Receiver::Anyone, &advert);
        self.own_adverts.retain(|(_, expiry)| now.wall < *expiry + CLOCK_SKEW);
        self.own_adverts.push_back((signed.hash(), expiry));
        self.outbox.now(Effect::Gossip(Gossip::Advert(signed)));
    }

    pub(super) fn is_own_advert(&self, now: Now, hash: &Digest) -> bool {
        self.own_adverts.iter().any(|(own, expiry)| own == hash && now.wall < *expiry + CLOCK_SKEW)
    }
}
