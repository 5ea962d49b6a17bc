//! What must hold whatever anybody does.

use wayfare_protocol::{
    gateway::Gateway,
    host::{Effect, Entry, Host},
    ids::{ClientId, ServiceId},
    limits::{ADVERTS_MAX, DEPARTED_MAX, FINISHED_MAX, HALF_OPEN_MAX, QUEUED_REQUESTS_MAX, SERVICES_MAX},
    migration::messages::RegistryFrame,
    registry::{Registry, StoreImage, Table},
    reject::{Reject, Strict},
    suite::Suite,
    time::Now,
    wire::Frame,
};

use super::{
    Node, Stream, World,
    node::{Instance, number_of},
};

/// A host that refuses a message is what it was, but for what it counts: the refusal, and a genuine advert that is of no use.
pub(super) fn host_unchanged<S: Suite>(
    mut before: Host<S, Strict>,
    after: &Host<S, Strict>,
    reject: Reject,
    _bytes: &[u8],
) {
    before.count_reject(reject);
    let mut after = after.clone();
    before.forget_pace();
    after.forget_pace();
    assert!(before == after, "{reject:?} has changed something at a host");
}

/// So is a gateway; but an expired placement of a higher epoch ends the use of the one known, and the Registry has answered even
/// if the placement is not new.
pub(super) fn gateway_unchanged<S: Suite>(
    mut before: Gateway<S, Strict>,
    after: &Gateway<S, Strict>,
    reject: Reject,
    stream: Stream,
) {
    before.count_reject(reject);
    let mut after = after.clone();
    before.forget_pace();
    after.forget_pace();
    let may = match stream {
        Stream::Registry => {
            matches!(reject, Reject::Expired | Reject::WrongEpoch | Reject::Conflict | Reject::NotYetValid)
        }
        _ => reject == Reject::Expired,
    };
    assert!(may || before == after, "{reject:?} on {stream:?} has changed something at the gateway");
}

/// So are a Registry's records; but a refused 2 counts, a migration to a host that was revoked ends, and after a restore the first
/// REGISTER of a service, said again, is heard whatever it is refused for.
pub(super) fn registry_unchanged<S: Suite>(
    before: &Registry<S, Strict>,
    after: &Registry<S, Strict>,
    reject: Reject,
    bytes: &[u8],
) {
    let restored = before.records().iter().any(|op| op.table == Table::Restored);
    let frame = RegistryFrame::from_bytes(bytes);
    let may = match &frame {
        Ok(RegistryFrame::VerifyCloud(_)) => true,
        Ok(RegistryFrame::Register(_)) => restored,
        _ => reject == Reject::Revoked,
    };
    let name = frame.map_or("no frame", |frame| frame.name());
    assert!(may || before.records() == after.records(), "{reject:?} to {name} has changed the Registry's records");
}

impl<S: Suite> World<S> {
    /// After every step: each service is served by one host at most, and tables keep to their limits.
    pub fn check(&mut self) {
        for service in self.services() {
            let honest = self.nodes.iter().filter(|(host, _)| **host != self.attacker.host);
            let serving = honest.filter(|(_, node)| node.host.may_answer(self.now, service)).count();
            assert!(serving <= 1, "{service:?} is served by {serving} hosts");
        }
        for node in self.nodes.values() {
            let sizes = node.host.sizes();
            assert!(sizes.arrivals <= HALF_OPEN_MAX && sizes.services <= SERVICES_MAX + sizes.arrivals);
            assert!(sizes.waiting <= QUEUED_REQUESTS_MAX && sizes.departed <= DEPARTED_MAX);
            assert!(sizes.finished <= FINISHED_MAX && node.host.adverts().len() <= ADVERTS_MAX);
        }
        assert!(self.entrance.machine.services().count() <= SERVICES_MAX);
    }

    /// What machines tell of themselves fits together.
    pub fn check_views(&mut self) {
        let now = self.now;
        for node in self.nodes.values() {
            let host = &node.host;
            let services = host.services(now);
            assert!(host.sizes().services >= services.len());
            for service in services.iter().filter_map(|view| host.find_service(&view.name)) {
                let _ = (host.explain(now, service), host.decisions(service), host.since(service));
            }
            let (_, _, _) = (host.clouds(now), host.drain_view(now), host.figures(now));
        }
        let _ = self.entrance.machine.figures(now);
        for view in self.registry.placements(now) {
            assert!(self.registry.host_name(view.placement.host).is_some(), "a service is with a stranger");
        }
    }

    /// The record of a service moves only with the consent of the host that had it, if that is honest; and ends only when its
    /// owner says so.
    pub(super) fn check_record(&mut self) {
        for service in [0, 1, 2].map(|number| self.service(number)) {
            if self.is_honest(service) && self.registry.tombstone(service).is_some() {
                assert!(self.removed.contains(&service), "removed, and not by its owner");
            }
            let Some(placement) = self.registry.placement(service) else {
                self.placed.remove(&service);
                continue;
            };
            let (host, epoch, mig) = (placement.host, placement.epoch, placement.mig);
            if host == self.attacker.host {
                self.tainted.insert(service);
            }
            let Some((before, last)) = self.placed.insert(service, (host, epoch)) else { continue };
            assert!(epoch >= last, "the record of {service:?} went back");
            if host != before && before != self.attacker.host {
                assert!(epoch > last && self.consents.contains(&mig), "{service:?} moved without its host's consent");
            }
        }
    }

    /// A request of an honest user is executed once, by an instance that knows of everything acknowledged.
    pub(super) fn check_executed(
        &mut self,
        service: ServiceId,
        client: ClientId,
        request: &[u8],
        known: &Instance,
        fresh: bool,
    ) {
        if self.tainted.contains(&service) || !self.clients.contains(&client) {
            return;
        }
        assert!(fresh, "request {} is executed twice", number_of(request));
        if self.is_logged(service)
            && let Some(acknowledged) = self.acknowledged.get(&service)
        {
            assert!(acknowledged.is_subset(&known.0), "what was acknowledged is lost");
        }
    }

    /// Every disk says what its machine would say: a journal and its compaction make the same host or gateway, and the
    /// Registry's store has the Registry's records.
    pub fn check_disks(&mut self) {
        let now = self.now;
        self.nodes.values().for_each(|node| check_journal(node, now));
        let image: StoreImage =
            self.registry.records().into_iter().filter_map(|op| Some(((op.table, op.key), op.value?))).collect();
        assert!(image == self.store, "the store has not what the Registry knows");
        let rows = || self.store.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let again = Registry::<S, Strict>::restore(self.config.clone(), now, rows()).expect("it reads its own records");
        let records: Vec<_> = again.records().into_iter().map(|op| ((op.table, op.key), op.value)).collect();
        assert!(records.len() >= image.len(), "a restart forgets records");
    }
}

/// A journal makes the same host again and again; so does what is left of it when it is compacted.
fn check_journal<S: Suite>(node: &Node<S>, now: Now) {
    let mut journal = node.journal.clone();
    // What a restart writes down itself comes first.
    let mut restarted = node.restored(now, journal.clone());
    while let Some(effect) = restarted.poll_effect() {
        if let Effect::Persist { seq, entry } = effect {
            journal.push((seq, entry));
        }
    }
    let last = journal.last().map_or(0, |(seq, _)| *seq);
    let host = node.restored_at(now, last, journal.clone());
    let mut live = node.restored_at(now, last, journal.clone());
    assert!(host == live, "a journal made two hosts");
    live.compact_if(now, u64::MAX);
    while let Some(effect) = live.poll_effect() {
        if let Effect::Compact { snapshot, keep_after, .. } = effect {
            journal.retain(|(seq, entry)| entry.survives(*seq, &keep_after));
            journal.push((last + 1, Entry::from_bytes(&snapshot.to_bytes()).expect("it is read back")));
            // Under another number, but that says nothing.
            assert!(host == node.restored_at(now, last, journal.clone()), "a compacted journal made another host");
        }
    }
}
