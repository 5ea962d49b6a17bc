//! The newest advert of each host, bounded. It takes only what [`verify_advert`](super::verify_advert) proved.

use std::{collections::BTreeMap, sync::Arc};

use super::Advert;
use crate::{
    ids::{Digest, HostId},
    limits::{ADVERTS_MAX, CLOCK_SKEW},
    reject::{Guards, Reject, ensure},
    time::Timestamp,
    trust::{Certificate, Verified},
};

/// Whether an insertion told the store something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inserted {
    /// New, or newer than what was known: worth passing on.
    Fresh,
    /// These very bytes were known.
    Known,
}

/// A host's newest advert and the certificate in it. Shared: stores that live in one process hold it once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What the host says of itself.
    pub advert: Arc<Verified<Advert>>,
    /// What its Registry says of it.
    pub certificate: Arc<Verified<Certificate>>,
    /// The latest expiry of any advert of this host: until then an older one could be replayed, so the serial is kept.
    remember_until: Timestamp,
}

impl Entry {
    /// Whether the advert is in date, by the stated skew, and no farewell.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.is_in_date(now) && !self.advert.is_farewell()
    }

    fn is_in_date(&self, now: Timestamp) -> bool {
        now < self.advert.expiry + CLOCK_SKEW
    }
}

/// Adverts by host. At most [`ADVERTS_MAX`]; at the limit, the one that expires first makes room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdvertStore {
    hosts: BTreeMap<HostId, Entry>,
}

impl AdvertStore {
    /// Keeps `advert` if it is its host's newest. PROTOCOL 3, message 1: a replay is bounded by serial and expiry.
    ///
    /// # Errors
    /// Nothing changed: [`Reject::Expired`]; [`Reject::OldSerial`] below the known serial; [`Reject::Reused`] for other
    /// bytes under the same serial; [`Reject::WrongCloud`] if the certificate is another host's; [`Reject::Full`] if the
    /// store is full of adverts that expire later.
    pub fn insert<G: Guards>(
        &mut self,
        now: Timestamp,
        advert: impl Into<Arc<Verified<Advert>>>,
        certificate: impl Into<Arc<Verified<Certificate>>>,
    ) -> Result<Inserted, Reject> {
        let (advert, certificate) = (advert.into(), certificate.into());
        if certificate.host != advert.host {
            return Err(Reject::WrongCloud);
        }
        let mut entry = Entry { remember_until: advert.expiry, advert, certificate };
        if !entry.is_in_date(now) {
            return Err(Reject::Expired);
        }
        if let Some(known) = self.hosts.get(&entry.advert.host) {
            ensure::<G>(entry.advert.serial >= known.advert.serial, Reject::OldSerial)?;
            if entry.advert.signed() == known.advert.signed() {
                return Ok(Inserted::Known);
            }
            ensure::<G>(entry.advert.serial != known.advert.serial, Reject::Reused)?;
            entry.remember_until = entry.remember_until.max(known.remember_until);
        } else {
            self.make_room(now, entry.advert.expiry)?;
        }
        self.hosts.insert(entry.advert.host, entry);
        Ok(Inserted::Fresh)
    }

    fn make_room(&mut self, now: Timestamp, expiry: Timestamp) -> Result<(), Reject> {
        if self.hosts.len() < ADVERTS_MAX {
            return Ok(());
        }
        self.expire(now);
        if self.hosts.len() < ADVERTS_MAX {
            return Ok(());
        }
        let first = self.hosts.iter().min_by_key(|(host, entry)| (entry.advert.expiry, **host));
        match first.map(|(host, entry)| (*host, entry.advert.expiry)) {
            Some((host, earliest)) if earliest < expiry => {
                self.hosts.remove(&host);
                Ok(())
            }
            _ => Err(Reject::Full),
        }
    }

    /// Drops what can no longer matter: adverts past their expiry, once no older advert of their host could be replayed.
    pub fn expire(&mut self, now: Timestamp) {
        self.hosts.retain(|_, entry| now < entry.remember_until + CLOCK_SKEW);
    }

    /// Drops a host's advert, because the host was revoked.
    pub fn remove(&mut self, host: HostId) {
        self.hosts.remove(&host);
    }

    /// The adverts in date, by host.
    pub fn live(&self, now: Timestamp) -> impl Iterator<Item = &Entry> + '_ {
        self.hosts.values().filter(move |entry| entry.is_live(now))
    }

    /// A host's advert, if it is in date.
    pub fn get(&self, now: Timestamp, host: HostId) -> Option<&Entry> {
        self.hosts.get(&host).filter(|entry| entry.is_live(now))
    }

    /// The adverts in date of the provider enrolled as `cloud`, by host: one provider may run many.
    pub fn by_cloud_name<'a>(&'a self, now: Timestamp, cloud: &'a str) -> impl Iterator<Item = &'a Entry> + 'a {
        self.live(now).filter(move |entry| entry.certificate.name == cloud)
    }

    /// The advert with this hash, h(1) of PROTOCOL 3, if it is in date and still its host's newest.
    pub fn by_hash(&self, now: Timestamp, hash: Digest) -> Option<&Entry> {
        self.live(now).find(|entry| entry.advert.hash() == hash)
    }

    /// Entries, those past their expiry included.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        advert::{ServiceType, verify_advert},
        ids::RegistryId,
        latency::Coordinate,
        limits::ADVERT_LIFETIME_MAX,
        manifest::Resources,
        reject::Strict,
        suite::{Dalek, Secret, Suite},
        time::Micros,
        trust::{
            Anchor, Receiver, Role, Signed, TrustBundle,
            certificate::{cloud_id, registry_id},
        },
    };

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    struct World {
        registry: Secret,
        id: RegistryId,
        bundle: TrustBundle,
    }

    fn world() -> World {
        let registry = Secret::new([9; 32]);
        let key = Dalek::public_key(&registry);
        let id = registry_id(&key);
        World { registry, id, bundle: TrustBundle::new(vec![Anchor { id, key, addresses: vec![] }]) }
    }

    fn secret(number: usize) -> Secret {
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Secret::new(seed)
    }

    impl World {
        fn advert(&self, number: usize, serial: u64, lifetime: Micros) -> (Verified<Advert>, Verified<Certificate>) {
            let secret = secret(number);
            let host = HostId(Dalek::public_key(&secret));
            let name = format!("cloud-{}", number % 2);
            let certificate = Certificate {
                cloud: cloud_id(self.id, &name),
                name,
                host,
                role: Role::Cloud,
                region: "eu".to_owned(),
                not_before: Timestamp(0),
                expiry: Timestamp(u64::MAX / 2),
            };
            let advert = Advert {
                registry: self.id,
                cloud: certificate.cloud,
                host,
                tos: ServiceType::Cloud,
                resources: Resources::default(),
                price_micros: lifetime.0,
                addresses: vec![],
                coordinate: Coordinate::default(),
                certificate: Signed::sign::<Dalek>(&self.registry, self.id, Receiver::Anyone, &certificate),
                cordoned: false,
                serial,
                expiry: NOW + lifetime,
            };
            let signed = Signed::sign::<Dalek>(&secret, self.id, Receiver::Anyone, &advert);
            verify_advert::<Dalek, Strict>(&signed, &self.bundle, NOW).unwrap()
        }
    }

    fn insert(
        store: &mut AdvertStore,
        now: Timestamp,
        (advert, certificate): (Verified<Advert>, Verified<Certificate>),
    ) -> Result<Inserted, Reject> {
        store.insert::<Strict>(now, advert, certificate)
    }

    const SHORT: Micros = Micros::from_secs(10);
    const LONG: Micros = Micros::from_secs(50);

    #[test]
    fn the_newest_is_kept() {
        let (world, mut store) = (world(), AdvertStore::default());
        assert_eq!(insert(&mut store, NOW, world.advert(0, 5, SHORT)), Ok(Inserted::Fresh));
        assert_eq!(insert(&mut store, NOW, world.advert(0, 5, SHORT)), Ok(Inserted::Known));
        assert_eq!(insert(&mut store, NOW, world.advert(0, 5, LONG)), Err(Reject::Reused));
        assert_eq!(insert(&mut store, NOW, world.advert(0, 4, LONG)), Err(Reject::OldSerial));
        let host = world.advert(0, 5, SHORT).0.host;
        assert_eq!(store.get(NOW, host).unwrap().advert.serial, 5);
        assert_eq!(insert(&mut store, NOW, world.advert(0, 6, LONG)), Ok(Inserted::Fresh));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_farewell_ends_what_was_said_before_and_no_replay_undoes_it() {
        let (world, mut store) = (world(), AdvertStore::default());
        let host = world.advert(0, 5, LONG).0.host;
        assert_eq!(insert(&mut store, NOW, world.advert(0, 5, LONG)), Ok(Inserted::Fresh));
        assert_eq!(store.live(NOW).count(), 1);
        // Made now, and over now.
        assert_eq!(
            insert(&mut store, NOW, world.advert(0, NOW.0, Micros::ZERO)),
            Ok(Inserted::Fresh),
            "it is passed on"
        );
        assert_eq!((store.live(NOW).count(), store.get(NOW, host)), (0, None));
        store.expire(NOW + SHORT);
        assert_eq!(insert(&mut store, NOW + SHORT, world.advert(0, 5, LONG)), Err(Reject::OldSerial));
        // It comes back.
        assert_eq!(insert(&mut store, NOW + SHORT, world.advert(0, NOW.0 + 1, LONG)), Ok(Inserted::Fresh));
        assert_eq!(store.live(NOW + SHORT).count(), 1);
    }

    #[test]
    fn found_by_host_name_and_hash_while_in_date() {
        let (world, mut store) = (world(), AdvertStore::default());
        for number in 0..3 {
            insert(&mut store, NOW, world.advert(number, 1, if number == 0 { SHORT } else { LONG })).unwrap();
        }
        let (first, _) = world.advert(0, 1, SHORT);
        assert_eq!(store.by_hash(NOW, first.hash()).map(|entry| entry.advert.host), Some(first.host));
        assert_eq!(store.by_cloud_name(NOW, "cloud-0").count(), 2);
        assert_eq!(store.by_cloud_name(NOW, "cloud-2").count(), 0);
        let later = NOW + SHORT + CLOCK_SKEW;
        assert!(store.get(later, first.host).is_none() && store.by_hash(later, first.hash()).is_none());
        assert_eq!(store.live(later).count(), 2);
        store.expire(later);
        assert_eq!(store.len(), 2);
        let (second, _) = world.advert(1, 1, LONG);
        store.remove(second.host);
        assert!(store.get(NOW, second.host).is_none());
        store.expire(NOW + ADVERT_LIFETIME_MAX + CLOCK_SKEW);
        assert!(store.is_empty());
    }

    #[test]
    fn an_expired_advert_is_not_taken() {
        let (world, mut store) = (world(), AdvertStore::default());
        let advert = world.advert(0, 1, SHORT);
        assert_eq!(insert(&mut store, NOW + SHORT + CLOCK_SKEW, advert), Err(Reject::Expired));
    }

    #[test]
    fn a_certificate_of_another_host_is_not_taken() {
        let (world, mut store) = (world(), AdvertStore::default());
        let (advert, certificate) = (world.advert(0, 1, SHORT).0, world.advert(1, 1, SHORT).1);
        assert_eq!(store.insert::<Strict>(NOW, advert, certificate), Err(Reject::WrongCloud));
    }

    #[test]
    fn a_longer_lived_predecessor_cannot_be_replayed() {
        let (world, mut store) = (world(), AdvertStore::default());
        insert(&mut store, NOW, world.advert(0, 1, LONG)).unwrap();
        insert(&mut store, NOW, world.advert(0, 2, SHORT)).unwrap();
        let later = NOW + SHORT + CLOCK_SKEW;
        store.expire(later);
        assert_eq!(store.live(later).count(), 0);
        assert_eq!(insert(&mut store, later, world.advert(0, 1, LONG)), Err(Reject::OldSerial));
    }

    #[test]
    fn at_the_limit_the_one_that_expires_first_makes_room() {
        let (world, mut store) = (world(), AdvertStore::default());
        for number in 0..ADVERTS_MAX {
            let lifetime = if number == 7 { SHORT } else { LONG };
            insert(&mut store, NOW, world.advert(number, 1, lifetime)).unwrap();
        }
        let shortest = world.advert(ADVERTS_MAX, 1, Micros::from_secs(1));
        assert_eq!(insert(&mut store, NOW, shortest), Err(Reject::Full));
        assert_eq!(insert(&mut store, NOW, world.advert(ADVERTS_MAX, 1, LONG)), Ok(Inserted::Fresh));
        assert!(store.get(NOW, world.advert(7, 1, SHORT).0.host).is_none());
        assert_eq!(store.len(), ADVERTS_MAX);
    }
}
