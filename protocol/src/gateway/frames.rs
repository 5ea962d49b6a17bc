//! What hosts say on their request streams.

use super::{
    effect::{Effect, Failure, Ticket},
    keyed::End,
    machine::Gateway,
    messages::{ClientFrame, NotExecuted, Reply},
    route::Pending,
};
use crate::{
    ids::{ClientId, HostId, ServiceId},
    migration::messages::Placement,
    reject::{Guards, Reject, Rule, ensure},
    session::SESSION_SWEEP,
    suite::Suite,
    time::{Instant, Now},
    trust::Signed,
    wire::Frame,
};

impl<S: Suite, G: Guards> Gateway<S, G> {
    /// A frame on the request stream to `host`, whom the transport has authenticated.
    ///
    /// # Errors
    /// A named rejection, counted: the driver closes the stream and calls
    /// [`Gateway::handle_disconnected`]. Nothing changed.
    pub fn handle_frame(&mut self, now: Now, host: HostId, bytes: &[u8]) -> Result<(), Reject> {
        let result = ClientFrame::from_bytes(bytes).and_then(|frame| self.frame(now, host, frame));
        self.counted(result)
    }

    fn frame(&mut self, now: Now, host: HostId, frame: ClientFrame) -> Result<(), Reject> {
        match frame {
            ClientFrame::Opened(opened) => self.counts_now(now, host, opened.service, opened.client).map(|current| {
                if current {
                    self.progress(host, opened.service);
                }
            }),
            ClientFrame::Reply(reply) => self.reply(now, host, reply),
            ClientFrame::NotExecuted(refusal) => self.not_executed(now, host, refusal),
            ClientFrame::Moved(placement) => {
                let service = placement.unverified()?.service;
                if self.news(now, &placement)? {
                    return Ok(());
                }
                self.not_there(now, host, service);
                Ok(())
            }
            ClientFrame::Placement(placement) => self.news(now, &placement).map(|_| ()),
            ClientFrame::Gone(gone) => {
                self.not_there(now, host, gone.service);
                Ok(())
            }
            ClientFrame::Hello(_) | ClientFrame::Open(_) | ClientFrame::Call(_) | ClientFrame::LatencyReport(_) => {
                Err(Reject::UnexpectedMessage)
            }
        }
    }

    /// A placement that a host passed on. Old news is normal, and no reason to close a stream: it is counted and dropped.
    /// Whether it was new.
    fn news(&mut self, now: Now, placement: &Signed<Placement>) -> Result<bool, Reject> {
        match self.accept(now, placement) {
            Err(reject @ (Reject::WrongEpoch | Reject::Expired | Reject::UnknownService)) => {
                self.rejects.count(reject);
                Ok(false)
            }
            other => other,
        }
    }

    /// Whether what `host` says of `service` counts: see the module's "Whose replies count".
    fn counts_now(&mut self, now: Now, host: HostId, service: ServiceId, client: ClientId) -> Result<bool, Reject> {
        if self.former == Some(client) {
            self.rejects.count(Reject::WrongClient);
            return Ok(false);
        }
        ensure::<G>(client == self.client(), Reject::WrongClient)?;
        let route = self.routes.get_mut(&service).ok_or(Reject::UnknownService)?;
        if ensure::<G>(route.last_host() == Some(host), Reject::WrongPeer).is_err() {
            self.rejects.count(Reject::WrongPeer);
            return Ok(false);
        }
        if ensure::<G>(route.host(now.mono).is_some(), Reject::Expired).is_err() {
            self.rejects.count(Reject::Expired);
            route.asking.want(now.mono);
            self.ask(now.mono);
            return Ok(false);
        }
        Ok(true)
    }

    fn progress(&mut self, host: HostId, service: ServiceId) {
        self.links.progress(host);
        if let Some(route) = self.routes.get_mut(&service) {
            route.progress();
        }
    }

    fn reply(&mut self, now: Now, host: HostId, reply: Reply) -> Result<(), Reject> {
        if !self.counts_now(now, host, reply.service, reply.client)? {
            return Ok(());
        }
        self.progress(host, reply.service);
        // A second answer to the same request says the same, or nothing that matters: the first was passed on.
        if let Some(pending) = self.routes.get_mut(&reply.service).and_then(|route| route.remove(reply.sequence)) {
            self.end(now.mono, reply.service, reply.sequence, pending, End::Answered(reply.response));
        }
        Ok(())
    }

    fn not_executed(&mut self, now: Now, host: HostId, refusal: NotExecuted) -> Result<(), Reject> {
        if !self.counts_now(now, host, refusal.service, refusal.client)? {
            return Ok(());
        }
        let NotExecuted { service, sequence, reason, .. } = refusal;
        let may_renew = self.may_renew(now.mono);
        let Some(route) = self.routes.get_mut(&service) else { return Ok(()) };
        match Reject::ALL.iter().find(|reject| reject.name() == reason) {
            Some(Reject::Full) if sequence == 0 => {
                route.opened = false;
                route.back_off(now.mono);
            }
            Some(Reject::Full) => {
                route.unsend(sequence);
                route.back_off(now.mono);
            }
            Some(Reject::NoSession) => {
                route.opened = false;
                route.unsend(sequence);
                route.back_off(now.mono);
            }
            Some(Reject::UnknownService | Reject::NotHostOfRecord | Reject::Expired | Reject::Conflict) => {
                self.not_there(now, host, service);
            }
            Some(Reject::Finished) if sequence == 0 && may_renew => self.renew(now.mono, service),
            Some(Reject::Stopped) if route.may_have_run(sequence).is_some() => {
                // What became of it when it was sent before, only the service can tell, once it is started.
                let key = route.may_have_run(sequence).cloned();
                route.unsend(sequence);
                route.back_off(now.mono);
                let waited = key.map(|key| self.keys.dismiss(service, &key)).unwrap_or_default();
                self.fail(waited.into_iter(), &Failure::Stopped);
            }
            _ if sequence == 0 => {
                let failed = route.remove_all();
                route.opened = false;
                route.back_off(now.mono);
                for (sequence, pending) in failed {
                    let end = refused(&pending, &reason);
                    self.end(now.mono, service, sequence, pending, end);
                }
            }
            reject => {
                if let Some(pending) = route.remove(sequence) {
                    let end = match reject {
                        // The host has forgotten the response: it may have run.
                        Some(Reject::BelowAcked) => End::Unknown(Failure::SessionLost),
                        _ => refused(&pending, &reason),
                    };
                    self.end(now.mono, service, sequence, pending, end);
                }
            }
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, tickets: impl Iterator<Item = Ticket>, reason: &Failure) {
        for ticket in tickets {
            self.outbox.now(Effect::Fail { ticket, reason: reason.clone() });
        }
    }

    /// A session is evicted only after [`SESSION_SWEEP`] without use, so an honest host cannot ask for this more often;
    /// another one must not make the gateway give up its requests to other services again and again.
    fn may_renew(&self, now: Instant) -> bool {
        self.renewed.is_none_or(|renewed| now.since(renewed) >= SESSION_SWEEP)
    }

    /// The session with `service` was evicted: the gateway becomes another client. What it asked of this service is too
    /// recent to have been executed in a session that idled, so it is numbered anew; what other services may have
    /// executed under the old name must not be sent under the new one, and its outcome is unknown. So is that of what the
    /// journal left unresolved: it may be older than the session's last use.
    fn renew(&mut self, now: Instant, evicted: ServiceId) {
        self.renewed = Some(now);
        self.former = Some(self.client());
        self.incarnation = self.incarnation.wrapping_add(1);
        self.persist_incarnation();
        self.remembered.values_mut().for_each(|(below, _)| *below = 0);
        let services: Vec<ServiceId> = self.routes.keys().copied().collect();
        for service in services {
            let Some(renumbered) = self.routes.get_mut(&service).map(|route| route.renumber()) else { continue };
            for (sequence, pending) in renumbered {
                if pending.ever_sent && (service != evicted || pending.restored) {
                    self.end(now, service, sequence, pending, End::Unknown(Failure::SessionLost));
                } else {
                    self.push_again(service, pending);
                }
            }
            if let Some(route) = self.routes.get_mut(&service) {
                route.forget_held();
                route.reserve(&mut self.outbox, G::keeps(Rule::SyncGate));
            }
        }
        self.greet_all();
    }

    /// `host` does not serve `service`, or not yet. If it should, ask whether it still does, and try again soon.
    fn not_there(&mut self, now: Now, host: HostId, service: ServiceId) {
        let Some(route) = self.routes.get_mut(&service) else { return };
        if route.last_host() == Some(host) {
            route.restart();
            route.back_off(now.mono);
            route.asking.want(now.mono);
            self.ask(now.mono);
        }
    }
}

/// How a request ends that its host refuses. If it was sent before, that may be to another host, or in another session, or a
/// second copy may still be on its way: this word says nothing of that.
fn refused(pending: &Pending, reason: &str) -> End {
    let unsure = pending.earlier || reason == Reject::OtherRequest.name();
    if unsure {
        End::Unknown(Failure::SessionLost)
    } else if reason == Reject::Stopped.name() {
        End::NotExecuted(Failure::Stopped)
    } else {
        End::NotExecuted(Failure::NotExecuted(reason.to_owned()))
    }
}
