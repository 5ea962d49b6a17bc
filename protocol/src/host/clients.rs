//! Serving requests: sessions, one request at a time, only under the lease (PROTOCOL 5).

use super::{
    Effect, Host, Link,
    hosted::{Run, Stay, Waiting},
};
use crate::{
    gateway::messages::{
        Call, ClientFrame, Gone, Hello, LatencyReport, NotExecuted, Open, Opened, Reply, client_id, request_hash,
    },
    ids::{ClientId, HostId, ServiceId},
    limits::REQUEST_BYTES_MAX,
    reject::{Guards, Reject, Rule, ensure},
    session::Admit,
    suite::Suite,
    time::Now,
    trust::Role,
    wire::Frame,
};

/// What a client gets instead of a response that no frame could carry.
const TOO_LONG: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain\r\ncontent-length: 46\r\n\r\nthe service's response is longer than allowed\n";

/// The response, or what the client gets instead.
pub(super) fn bounded(response: Vec<u8>) -> Vec<u8> {
    if response.len() > REQUEST_BYTES_MAX { TOO_LONG.to_vec() } else { response }
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// A frame on the request stream of `gateway`, whom the transport has authenticated.
    ///
    /// # Errors
    /// A named rejection, counted: the driver closes the stream. Nothing was executed.
    pub fn handle_client_frame(&mut self, now: Now, gateway: HostId, bytes: &[u8]) -> Result<(), Reject> {
        let result = ClientFrame::from_bytes(bytes).and_then(|frame| self.client_frame(now, gateway, frame));
        self.counted(result)
    }

    /// The request stream of `gateway` has ended. What it asked for is executed all the same; it will ask again.
    pub fn handle_gateway_lost(&mut self, gateway: HostId) {
        self.links.remove(&gateway);
    }

    fn client_frame(&mut self, now: Now, gateway: HostId, frame: ClientFrame) -> Result<(), Reject> {
        match frame {
            ClientFrame::Hello(hello) => self.handle_hello(now, gateway, &hello),
            ClientFrame::Open(open) => self.handle_open(gateway, &open),
            ClientFrame::Call(call) => self.handle_call(now, gateway, call),
            ClientFrame::LatencyReport(report) => self.handle_report(now, gateway, &report),
            ClientFrame::Opened(_)
            | ClientFrame::Reply(_)
            | ClientFrame::NotExecuted(_)
            | ClientFrame::Moved(_)
            | ClientFrame::Placement(_)
            | ClientFrame::Gone(_) => Err(Reject::UnexpectedMessage),
        }
    }

    fn handle_hello(&mut self, now: Now, gateway: HostId, hello: &Hello) -> Result<(), Reject> {
        let (registry, _) =
            self.bundle.verify_certificate::<S, G>(&hello.certificate, gateway, &[Role::Gateway], now.wall)?;
        self.links.insert(gateway, Link { client: client_id(gateway, hello.incarnation), registry });
        Ok(())
    }

    /// Only the client that this stream's gateway may speak for.
    /// A Registry's gateways carry its own services only.
    fn check_client(&self, gateway: HostId, service: ServiceId, client: ClientId) -> Result<(), Reject> {
        let link = self.links.get(&gateway).ok_or(Reject::UnexpectedMessage)?;
        ensure::<G>(link.registry == service.registry, Reject::UnknownRegistry)?;
        ensure::<G>(link.client == client, Reject::WrongClient)
    }

    /// The stay that serves, or will serve, `service`; else the gateway is told where it went.
    fn serving(&mut self, gateway: HostId, service: ServiceId) -> Option<Stay> {
        let stay = self.current(service);
        if stay.is_none() {
            let frame = match self.departed_to(service) {
                Some(placement) => ClientFrame::Moved(placement.clone()),
                None => ClientFrame::Gone(Gone { service }),
            };
            self.outbox.now(Effect::ToGateway(gateway, frame));
        }
        stay
    }

    fn handle_open(&mut self, gateway: HostId, open: &Open) -> Result<(), Reject> {
        self.check_client(gateway, open.service, open.client)?;
        let Some(stay) = self.serving(gateway, open.service) else { return Ok(()) };
        let Some(hosted) = self.services.get_mut(&stay) else { return Ok(()) };
        let (service, client) = (open.service, open.client);
        // The client table is not back yet: soon.
        let opened =
            if hosted.run == Run::Restoring { Err(Reject::Full) } else { hosted.sessions.open(client, gateway) };
        let frame = match opened {
            Ok(()) => ClientFrame::Opened(Opened { service, client }),
            Err(reject) => {
                self.rejects.count(reject);
                let reason = reject.name().to_owned();
                ClientFrame::NotExecuted(NotExecuted { service, client, sequence: 0, reason })
            }
        };
        self.outbox.now(Effect::ToGateway(gateway, frame));
        Ok(())
    }

    fn handle_call(&mut self, now: Now, gateway: HostId, call: Call) -> Result<(), Reject> {
        self.check_client(gateway, call.service, call.client)?;
        ensure::<G>(call.request.len() <= REQUEST_BYTES_MAX, Reject::FrameTooLarge)?;
        ensure::<G>(request_hash(&call.request) == call.hash, Reject::WrongHash)?;
        let Some(stay) = self.serving(gateway, call.service) else { return Ok(()) };
        let Some(hosted) = self.services.get_mut(&stay) else { return Ok(()) };
        let no_disk = self.full && hosted.disk.is_some();
        if no_disk || !hosted.has_room(gateway, call.request.len(), self.links.len()) {
            self.not_executed(gateway, call.service, call.client, call.sequence, Reject::Full);
        } else if matches!(hosted.run, Run::Broken | Run::Lost) {
            self.not_executed(gateway, call.service, call.client, call.sequence, Reject::Broken);
        } else if matches!(hosted.run, Run::Starting | Run::Serving) {
            self.admit(stay, now, gateway, call);
        } else {
            // A frozen client table is final.
            hosted.held.push_back((gateway, call));
            self.held_total = self.held_total.saturating_add(1);
        }
        Ok(())
    }

    fn admit(&mut self, stay: Stay, now: Now, gateway: HostId, call: Call) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let Call { service, client, sequence, hash, acked_below, request } = call;
        match hosted.sessions.admit::<G>(client, sequence, hash, acked_below) {
            Ok(Admit::Execute) if hosted.is_closed::<G>() => {
                hosted.sessions.forget(client, sequence);
                self.not_executed(gateway, service, client, sequence, Reject::Stopped);
            }
            Ok(Admit::Execute) => {
                hosted.queue.push_back(Waiting { client, gateway, sequence, hash, acked_below, request });
                self.pump(stay, now);
            }
            Ok(Admit::Replay(response)) => {
                if hosted.may_serve::<G>(now.mono) {
                    let logged = hosted.disk.is_some();
                    self.reply(logged, gateway, Reply { service, client, sequence, response });
                }
            }
            Ok(Admit::Join) => {}
            Ok(Admit::Busy) => self.not_executed(gateway, service, client, sequence, Reject::Full),
            Err(reject) => self.not_executed(gateway, service, client, sequence, reject),
        }
    }

    /// The service goes on here: what waited for the decision is admitted now.
    pub(super) fn admit_held(&mut self, stay: Stay, now: Now) {
        while let Some((gateway, call)) = self
            .services
            .get_mut(&stay)
            .filter(|hosted| hosted.run == Run::Serving)
            .and_then(|hosted| hosted.held.pop_front())
        {
            self.admit(stay, now, gateway, call);
        }
        self.pump(stay, now);
    }

    fn not_executed(&mut self, gateway: HostId, service: ServiceId, client: ClientId, sequence: u64, why: Reject) {
        self.rejects.count(why);
        let frame = NotExecuted { service, client, sequence, reason: why.name().to_owned() };
        self.outbox.now(Effect::ToGateway(gateway, ClientFrame::NotExecuted(frame)));
    }

    /// Gives the instance its next request, if it may have one; else does what its owner has ordered.
    pub(super) fn pump(&mut self, stay: Stay, now: Now) {
        self.pump_queue(stay, now);
        self.carry_out(stay, now);
    }

    fn pump_queue(&mut self, stay: Stay, now: Now) {
        let (service, epoch) = stay;
        while let Some(hosted) = self.services.get_mut(&stay) {
            if hosted.running.is_some() || !hosted.may_serve::<G>(now.mono) || hosted.is_about_to_update() {
                return;
            }
            let Some(mut waiting) = hosted.next_in_turn() else { return };
            let (client, sequence) = (waiting.client, waiting.sequence);
            if let Err(reject) = hosted.sessions.begin(client, sequence) {
                self.refuse_call(service, client, sequence, reject);
                continue;
            }
            let request = match &hosted.disk {
                Some(_) => waiting.request.clone(),
                None => std::mem::take(&mut waiting.request),
            };
            hosted.running = Some(waiting);
            self.outbox.now(Effect::Execute { service, epoch, client, sequence, request });
        }
    }

    /// Tells a client, if its gateway is there, that a request was not executed.
    pub(super) fn refuse_call(&mut self, service: ServiceId, client: ClientId, sequence: u64, why: Reject) {
        match self.gateway_of(client) {
            Some(gateway) => self.not_executed(gateway, service, client, sequence, why),
            None => self.rejects.count(why),
        }
    }

    /// Whether a response of `service` may leave now: the driver asks just before it sends one (PROTOCOL 4.5).
    pub fn may_answer(&self, now: Now, service: ServiceId) -> bool {
        let current = self.current(service).and_then(|stay| self.services.get(&stay));
        current.is_some_and(|hosted| hosted.is_leased::<G>(now.mono) && hosted.keeps_lease())
    }

    fn gateway_of(&self, client: ClientId) -> Option<HostId> {
        self.links.iter().find(|(_, link)| link.client == client).map(|(gateway, _)| *gateway)
    }

    /// Lets a response out: one of a service with a log waits until its request is in it, on disk (PROTOCOL 5).
    fn reply(&mut self, logged: bool, gateway: HostId, reply: Reply) {
        let effect = Effect::ToGateway(gateway, ClientFrame::Reply(reply));
        if logged && G::keeps(Rule::LogBeforeReply) {
            self.outbox.promise(effect);
        } else {
            self.outbox.now(effect);
        }
    }

    /// The instance has answered. `inputs` is what the request read of the outside, as the driver wants to have it back
    /// when the request is executed again.
    pub fn handle_executed(
        &mut self,
        now: Now,
        stay: Stay,
        client: ClientId,
        sequence: u64,
        response: Vec<u8>,
        inputs: Vec<u8>,
    ) {
        let Some(hosted) = self.services.get_mut(&stay) else { return };
        let answered = |running: &mut Waiting| (running.client, running.sequence) == (client, sequence);
        let Some(done) = hosted.running.take_if(answered) else { return };
        let response = bounded(response);
        // Only an evicted session is not there any more, and its client has gone.
        let _ = hosted.sessions.complete(client, sequence, response.clone());
        let (freezing, leased) = (hosted.run == Run::Freezing, hosted.is_leased::<G>(now.mono));
        let logged = self.log(stay, done, inputs);
        // The lease is checked again before the response leaves: without it, the client asks whoever holds the service.
        if let Some(gateway) = self.gateway_of(client).filter(|_| leased) {
            self.reply(logged, gateway, Reply { service: stay.0, client, sequence, response });
        }
        if freezing {
            self.capture_if_idle(stay, now);
        } else {
            self.image_if_due(stay, now);
            self.pump(stay, now);
        }
    }

    fn handle_report(&mut self, now: Now, gateway: HostId, report: &LatencyReport) -> Result<(), Reject> {
        self.check_client(gateway, report.service, report.client)?;
        ensure::<G>(report.fits(), Reject::FieldTooLong)?;
        let Some(stay) = self.serving(gateway, report.service) else { return Ok(()) };
        let Some(hosted) = self.services.get_mut(&stay) else { return Ok(()) };
        // Neither is the gateway's fault: its session may have been evicted meanwhile, or others report too.
        let result = if hosted.sessions.is_open(report.client) {
            hosted.sessions.acknowledge(report.client, report.acked_below);
            if report.entries.is_empty() {
                return Ok(());
            }
            let completed = hosted.sessions.take_completed(report.client);
            hosted.placer.handle_report(now, report.client, &report.entries, completed)
        } else {
            Err(Reject::NoSession)
        };
        if let Err(reject) = result {
            self.rejects.count(reject);
        }
        Ok(())
    }
}
