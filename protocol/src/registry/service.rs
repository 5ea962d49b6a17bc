//! A service's life at the Registry: REGISTER, RENEW, lookups.

use super::{
    AbortCause, Call, Event, LeaseState, OrderView, Refusal, Registry,
    records::{ManifestRecord, ServiceRecord},
};
use crate::{
    ids::{HostId, MigrationId, ServiceId},
    limits::{ADDRESSES_MAX, CLOCK_SKEW, REGISTERED_MAX, TRANSFER_MAX, VERDICT_LIFETIME, lease_counted},
    manifest::Manifest,
    migration::messages::{
        Answer, Decision, Found, Granted, Lease, Lookup, Placement, Register, RegisterFrame, RegistryFrame, Renew,
    },
    order::Tombstone,
    reject::{Guards, Reject, ensure},
    suite::{Suite, fresh16},
    time::{Instant, Micros, Now},
    trust::{Receiver, Role, Signed, Verified, certificate::text_fits},
};

/// A service's whereabouts, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementView<'a> {
    /// The service's name.
    pub name: &'a str,
    /// The provider's name, if its host is still known.
    pub cloud: Option<&'a str>,
    /// The record.
    pub placement: &'a Placement,
    /// How much longer the holder may serve, as the Registry counts.
    pub lease_left: Micros,
    /// Whether a migration is under way.
    pub moving: bool,
    /// What its owner ordered.
    pub order: OrderView,
    /// If nothing is decided about the service.
    pub suspended: Option<Suspension>,
}

/// Why nothing is decided about a service since the Registry was restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// The longest lease may not have ended.
    pub window: bool,
    /// The host that has to show what it has.
    pub waits_for: Option<HostId>,
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// Every registered service.
    pub fn placements(&self, now: Now) -> impl Iterator<Item = PlacementView<'_>> {
        self.tables.services.iter().filter_map(move |record| self.view(record, now))
    }

    fn view<'a>(&'a self, record: &'a ServiceRecord, now: Now) -> Option<PlacementView<'a>> {
        let placement = &record.placement;
        let until = self.leases.get(&placement.service).map_or(Instant(0), |lease| lease.until);
        Some(PlacementView {
            name: &self.tables.manifests.get(placement.service)?.name,
            cloud: self.tables.hosts.get(placement.host).map(|host| host.certificate.name.as_str()),
            placement,
            lease_left: until.since(now.mono),
            moving: record.live.is_some(),
            order: self.order_view(placement.service),
            suspended: self
                .is_suspended(placement.service)
                .then(|| Suspension { window: self.is_collecting(), waits_for: self.waits_for(placement.service) }),
        })
    }

    /// The name of a registered service.
    pub fn service_name(&self, service: ServiceId) -> Option<&str> {
        self.tables.manifests.get(service).map(|record| record.name.as_str())
    }

    /// The provider's name of an enrolled host.
    pub fn host_name(&self, host: HostId) -> Option<&str> {
        self.tables.hosts.get(host).map(|record| record.certificate.name.as_str())
    }

    /// The record of one service.
    pub fn placement(&self, service: ServiceId) -> Option<&Placement> {
        self.tables.services.get(service).map(|record| &record.placement)
    }

    /// What a service that was removed has left.
    pub fn tombstone(&self, service: ServiceId) -> Option<&Tombstone> {
        self.tables.tombstones.get(service).map(|row| &row.tombstone)
    }

    /// When the holder's lease has certainly ended.
    pub fn lease_until(&self, service: ServiceId) -> Option<Instant> {
        self.leases.get(&service).map(|lease| lease.until)
    }

    /// REGISTER: the owner's word, the first placement key, and the peer as host.
    pub(super) fn register(&mut self, call: &mut Call<'_>, frame: &RegisterFrame) -> Result<(), Refusal> {
        let (register, manifest) = self.check_register(call, frame)?;
        let certificate = self.in_good_standing(call.peer)?;
        if let Some(record) = self.tables.services.get(register.service) {
            // The same bytes before the first move: the same answer. Other bytes: the service exists already.
            let (request, granted) = record.registered.clone().ok_or(Reject::Conflict)?;
            ensure::<G>(request == register.hash(), Reject::Conflict)?;
            self.prolong(call.now, register.service);
            self.reply(call.peer, RegistryFrame::Granted(granted));
            return Ok(());
        }
        let epoch = self.check_name(call.now, &manifest)?;
        ensure::<G>(self.tables.services.len() < REGISTERED_MAX, Reject::Full)?;
        let may_host = matches!(certificate.role, Role::Cloud | Role::Home);
        ensure::<G>(may_host, Reject::WrongRole)?;
        ensure::<G>(manifest.permits(certificate), Reject::PolicyForbids)?;
        let placement = Placement {
            service: register.service,
            epoch,
            cloud: certificate.cloud,
            host: call.peer,
            key: register.key,
            mig: MigrationId(fresh16(call.rng)),
            previous: call.peer,
            manifest: register.manifest,
            issued: call.now.wall,
            lease: self.config.lease,
        };
        let signed = self.sign(Receiver::Anyone, &placement);
        let granted = self.lease(call, register.hash(), &signed);
        let registered = Some((register.hash(), granted.clone()));
        self.tables.put_manifest(ManifestRecord {
            service: register.service,
            name: manifest.name.clone(),
            signed: frame.manifest.clone(),
        });
        self.place(call.now, placement, &signed, registered);
        let serial = self.tables.hosts.get(call.peer).map_or(0, |host| host.serial);
        self.learn_addresses(call.peer, &frame.addresses, serial);
        self.event(Event::Registered { service: register.service, name: manifest.name.clone(), host: call.peer });
        self.event(Event::Placed { placement: signed });
        self.reply(call.peer, RegistryFrame::Granted(granted));
        Ok(())
    }

    fn check_register(
        &self,
        call: &Call<'_>,
        frame: &RegisterFrame,
    ) -> Result<(Verified<Register>, Verified<Manifest>), Reject> {
        let fits = frame.addresses.len() <= ADDRESSES_MAX && frame.addresses.iter().all(|text| text_fits(text));
        ensure::<G>(fits, Reject::FieldTooLong)?;
        let claim = frame.register.unverified()?;
        ensure::<G>(claim.service.registry == self.id(), Reject::UnknownRegistry)?;
        let register = frame.register.verify::<S, G>(&claim.key.0, self.id(), self.me())?;
        ensure::<G>(register.host == call.peer, Reject::WrongPeer)?;
        ensure::<G>(register.manifest == frame.manifest.hash(), Reject::WrongManifest)?;
        let owner = frame.manifest.unverified()?.owner;
        let manifest = frame.manifest.verify::<S, G>(&owner.0, self.id(), Receiver::Anyone)?;
        ensure::<G>(register.service == manifest.service, Reject::WrongService)?;
        manifest.check()?;
        Ok((register, manifest))
    }

    /// Makes `placement` the record, under a lease that counts from now.
    pub(super) fn place(
        &mut self,
        now: Now,
        placement: Placement,
        signed: &Signed<Placement>,
        registered: Option<(crate::ids::Digest, Granted)>,
    ) {
        let until = now.mono + lease_counted(self.config.lease);
        self.leases.insert(placement.service, LeaseState { until, issued: signed.clone(), renewed: None });
        let signed = signed.clone();
        self.tables.put_service(ServiceRecord { placement, signed, live: None, verdict: None, registered });
    }

    fn lease(&self, call: &Call<'_>, answers: crate::ids::Digest, placement: &Signed<Placement>) -> Granted {
        let lease = Lease { answers, placement: placement.hash() };
        Granted { answer: Answer::Lease(self.sign(Receiver::Host(call.peer), &lease)), placement: placement.clone() }
    }

    /// RENEW: another lease for the holder; whoever was superseded hears by which migration.
    pub(super) fn renew(&mut self, call: &mut Call<'_>, signed: &Signed<Renew>) -> Result<(), Refusal> {
        let claim = signed.unverified()?;
        ensure::<G>(claim.ids.service.registry == self.id(), Reject::UnknownRegistry)?;
        let placement = self.service(claim.ids.service)?.placement.clone();
        if claim.ids.epoch < placement.epoch {
            return self.renew_superseded(call, signed);
        }
        ensure::<G>(call.peer == placement.host, Reject::NotHostOfRecord)?;
        let renew = signed.verify::<S, G>(&placement.key.0, self.id(), self.me())?;
        crate::migration::source::check_ids::<G>(&renew.ids, &placement.ids())?;
        ensure::<G>(!self.is_revoked(call.peer), Reject::Revoked)?;
        self.end_abandoned(call, placement.service);
        let last = self.leases.get(&placement.service).and_then(|lease| lease.renewed.clone());
        let granted = match last {
            Some((request, granted)) if request == signed.hash() => {
                self.prolong(call.now, placement.service);
                granted
            }
            _ => {
                let issued = self.reissue(call.now, &placement);
                let granted = self.lease(call, signed.hash(), &issued);
                if let Some(lease) = self.leases.get_mut(&placement.service) {
                    lease.renewed = Some((signed.hash(), granted.clone()));
                }
                granted
            }
        };
        self.reply(call.peer, RegistryFrame::Granted(granted));
        self.tell_order(renew.ids.service);
        Ok(())
    }

    /// Aborts the service's undecided migration if nobody can go on with it any more: a source that forgot it in a crash
    /// says nothing of it, but renews its lease, which it would not after consent. Aborting is always safe: whoever was
    /// late hears so.
    fn end_abandoned(&mut self, call: &Call<'_>, service: ServiceId) {
        let Some(record) = self.tables.services.get(service) else { return };
        let Some(migration) = record.live.and_then(|mig| self.tables.migrations.get(mig)) else { return };
        // Without 6 nothing can follow once 3 has expired; with it, the records may take their time.
        let last = match migration.pinned {
            None => migration.expiry,
            Some(_) => migration.expiry + VERDICT_LIFETIME + TRANSFER_MAX,
        };
        if call.now.wall > last + CLOCK_SKEW + CLOCK_SKEW {
            let (mig, record) = (migration.ids.mig, ServiceRecord { live: None, ..record.clone() });
            self.abort(mig, AbortCause::Abandoned);
            self.tables.put_service(record);
        }
    }

    /// The epoch has ended: the former holder learns by which migration (PROTOCOL 4.6). A forgotten one is no answer.
    fn renew_superseded(&mut self, call: &Call<'_>, signed: &Signed<Renew>) -> Result<(), Refusal> {
        let claim = signed.unverified()?;
        let winner = self.tables.winner(claim.ids.service, claim.ids.epoch).ok_or(Reject::WrongEpoch)?;
        let (ids, source, key) = (winner.ids, winner.source, winner.key);
        ensure::<G>(call.peer == source, Reject::NotHostOfRecord)?;
        signed.verify::<S, G>(&key.0, self.id(), self.me())?;
        let answer = self.outcome(call.peer, ids, signed.hash(), Decision::Won)?;
        self.reply(call.peer, answer);
        Ok(())
    }

    /// Where is this service?
    pub(super) fn lookup(&mut self, call: &Call<'_>, lookup: &Lookup) -> Result<(), Refusal> {
        ensure::<G>(!self.is_revoked(call.peer), Reject::Revoked)?;
        let service = match lookup {
            Lookup::Id(service) => Some(*service),
            Lookup::Name(name) => {
                ensure::<G>(text_fits(name), Reject::FieldTooLong)?;
                self.tables.named(name)
            }
        };
        let record = service.and_then(|service| self.tables.services.get(service));
        // It may have been registered after the backup: that there is none is not known yet.
        ensure::<G>(record.is_some() || !self.is_collecting(), Reject::Recovering)?;
        let host = record.and_then(|record| self.tables.hosts.get(record.placement.host));
        let addresses = host.map(|host| host.addresses.clone()).unwrap_or_default();
        let service = record.and_then(|record| {
            let manifest = self.tables.manifests.get(record.placement.service)?.signed.clone();
            Some((self.issued(record), manifest))
        });
        self.reply(call.peer, RegistryFrame::Found(Found { lookup: lookup.clone(), service, addresses }));
        Ok(())
    }
}
