//! A real home under attack by a puppet gateway: HELLO, OPEN, CALL, reports. The service executes what is honest, once, and
//! says the same of it after a move.

use wayfare_net::Protocol;
use wayfare_protocol::{
    gateway::messages::{
        Call, ClientFrame, Gone, Hello, LatencyReport, NotExecuted, Open, Opened, Reply, client_id, request_hash,
    },
    ids::{HostId, ServiceId},
    limits::{REPORT_ENTRIES_MAX, REQUEST_BYTES_MAX},
    reject::Reject,
    time::{Micros, Timestamp},
    trust::{Certificate, Receiver, Role, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free, Ignored},
        Table,
    },
    hand::claim,
    ledger::Watched,
    peer::{Line, Peer, Whereabouts},
    range::Range,
    real::{Authority, RealHost, RealRegistry},
    rows,
    shot::{Altered as _, Shot, misshapen, oversized},
};

use crate::{
    bystander::Bystander,
    coverage::{Covered, covers},
};

const INCARNATION: u64 = 7;
const GONE: Expect = Ignored("the gateway is told that no such service is here");

/// The certificate in HELLO, altered by the Registry itself.
fn certificate() -> Table<Certificate> {
    const NOT_USED: Expect = Free("the registry's own word; a gateway's key and role are all that counts");
    rows!(Certificate {
        cloud => NOT_USED;
        name => NOT_USED;
        host => Reject::BadCertificate;
        role => Reject::WrongRole;
        region => NOT_USED;
        not_before = |from| *from = Timestamp(u64::MAX / 2) => Reject::CertificateExpired;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::CertificateExpired;
    })
}

fn open() -> Table<Open> {
    rows!(Open {
        service.registry => Reject::UnknownRegistry;
        service.unique => GONE;
        client => Reject::WrongClient;
    })
}

fn call() -> Table<Call> {
    rows!(Call {
        service.registry => Reject::UnknownRegistry;
        service.unique => GONE;
        client => Reject::WrongClient;
        sequence => Free("the gateway's own; used ones have shots of their own");
        hash => Reject::WrongHash;
        acked_below = |below| *below = 99 => Reject::BelowAcked;
        request => Reject::WrongHash;
    })
}

fn report() -> Table<LatencyReport> {
    rows!(LatencyReport {
        service.registry => Reject::UnknownRegistry;
        service.unique => GONE;
        client => Reject::WrongClient;
        acked_below => Free("the gateway's own: it gives up its own responses");
        entries = |entries| *entries = vec![(HostId([1; 32]), Micros(1), Micros(1)); REPORT_ENTRIES_MAX + 1]
            => Reject::FieldTooLong;
    })
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "host, from a gateway";
    let hello = rows!(Hello {
        certificate = |_| () => Free("a table of its own");
        incarnation => Free("the gateway's own: another incarnation is another client");
    });
    vec![
        covers(to, &hello),
        covers(to, &certificate()),
        covers(to, &open()),
        covers(to, &call()),
        covers(to, &report()),
    ]
}

/// What the rows of `table` make of `base`: nothing here is signed.
pub(crate) fn plain_shots<T: Clone + 'static>(
    name: &str,
    table: &Table<T>,
    base: &T,
    wrap: impl Fn(T) -> ClientFrame,
) -> Vec<Shot> {
    let shot = |row: &wayfare_tests::alter::Row<T>| {
        let mut altered = base.clone();
        (row.edit)(&mut altered);
        Shot::expecting(format!("{name} {}", row.field), wrap(altered).to_bytes(), row.resigned)
    };
    table.0.iter().filter_map(shot).collect()
}

struct Phone {
    peer: Peer,
    certificate: Signed<Certificate>,
    service: ServiceId,
}

impl Phone {
    fn hello(&self) -> ClientFrame {
        ClientFrame::Hello(Hello { certificate: self.certificate.clone(), incarnation: INCARNATION })
    }

    fn open(&self) -> Open {
        Open { service: self.service, client: client_id(self.peer.host, INCARNATION) }
    }

    fn call(&self, sequence: u64, what: &str) -> Call {
        let request = format!("{what} HTTP/1.1\r\nhost: kv\r\ncontent-length: 0\r\n\r\n").into_bytes();
        let Open { service, client } = self.open();
        Call { service, client, sequence, hash: request_hash(&request), acked_below: 0, request }
    }

    fn report(&self) -> LatencyReport {
        let Open { service, client } = self.open();
        LatencyReport { service, client, acked_below: 0, entries: vec![] }
    }

    async fn line(&self, to: &Whereabouts) -> Line {
        let mut line = self.peer.line(to, Protocol::Request).await;
        line.say(&self.hello()).await;
        line
    }

    async fn ask(&self, line: &mut Line, call: &Call) -> Vec<u8> {
        line.say(&ClientFrame::Call(call.clone())).await;
        let sequence = call.sequence;
        let answer = line.wait_for(|frame| match frame {
            ClientFrame::Reply(reply) if reply.sequence == sequence => Some(reply.response),
            _ => None,
        });
        answer.await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_and_its_clients() {
    let authority = Authority::Real(RealRegistry::start(110).await);
    let mut bystander = Bystander::start(&authority).await;
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let service = home.deploy(authority.realm(), "kv").await;
    let peer = Peer::start(111).await;
    let certificate = authority.enrol(&peer, "phone", Role::Gateway).await;
    let phone = Phone { peer, certificate, service };
    let mut range = Range::open(Watched::Host(home.handle.clone())).await;

    hellos(&mut range, &authority, &home, &phone).await;
    sessions(&mut range, &home, &phone).await;
    let (first, response) = honest(&mut range, &home, &phone).await;
    bystander.answers().await;

    // Executed once, wherever it is asked for.
    bystander.takes_over(&authority, &home, service).await;
    let mut line = phone.line(bystander.cloud_at()).await;
    line.say(&ClientFrame::Open(phone.open())).await;
    assert_eq!(phone.ask(&mut line, &first).await, response);
    let second = Call { acked_below: 1, ..phone.call(6, "POST /count") };
    assert_eq!(body(&phone.ask(&mut line, &second).await), "2");
    bystander.moves(&authority).await;
    range.accepted("the honest moves").await;
    println!("{} shots", range.shots());
    range.close();
}

/// Who speaks.
async fn hellos(range: &mut Range, authority: &Authority, home: &RealHost, phone: &Phone) {
    let (says, base) = (authority.realm().says(Receiver::Anyone), claim(&phone.certificate));
    let wrap = |certificate| ClientFrame::Hello(Hello { certificate, incarnation: INCARNATION }).to_bytes();
    let mut shots = says.shots(&certificate(), || base.clone(), wrap, Reject::BadCertificate);
    let theirs = ClientFrame::Hello(Hello { certificate: home.certificate.clone(), incarnation: INCARNATION });
    shots.push(Shot::frame("HELLO with another's certificate", &theirs, Reject::BadCertificate));
    shots.extend(misshapen(&phone.hello(), Hello::LIMIT));
    shots.push(oversized(&phone.hello()));
    // Before it is known who speaks, nobody is heard.
    let frames = [
        ClientFrame::Open(phone.open()),
        ClientFrame::Call(phone.call(0, "POST /count")),
        ClientFrame::LatencyReport(phone.report()),
    ];
    shots.extend(
        frames.map(|frame| Shot::frame(format!("{} before HELLO", frame.name()), &frame, Reject::UnexpectedMessage)),
    );
    range.fire(&phone.peer, &home.at, Protocol::Request, shots).await;
}

/// OPEN, CALL and reports that do not hold, and frames that only hosts send.
async fn sessions(range: &mut Range, home: &RealHost, phone: &Phone) {
    let hello = phone.hello().to_bytes();
    let (base, question) = (phone.open(), phone.call(0, "POST /count"));
    let mut shots = plain_shots("OPEN", &open(), &base, ClientFrame::Open);
    // Without a session, what could be a repetition is not executed.
    shots.push(Shot::frame("CALL before OPEN", &ClientFrame::Call(question.clone()), Reject::NoSession));
    let early = ClientFrame::LatencyReport(phone.report());
    shots.push(Shot::frame("a report before OPEN", &early, Reject::NoSession));
    shots.extend(misshapen(&ClientFrame::Open(base.clone()), Open::LIMIT));
    range.fire_after(&phone.peer, &home.at, Protocol::Request, &hello, shots).await;

    let mut line = phone.line(&home.at).await;
    line.say(&ClientFrame::Open(base.clone())).await;
    assert!(matches!(line.hear().await, ClientFrame::Opened(_)));
    let mut shots = plain_shots("CALL", &call(), &question, ClientFrame::Call);
    let mut long = Call { request: vec![b'x'; REQUEST_BYTES_MAX + 1], ..question.clone() };
    long.hash = request_hash(&long.request);
    shots.push(Shot::frame("CALL longer than allowed", &ClientFrame::Call(long), Reject::FrameTooLarge));
    shots.extend(plain_shots("a report's", &report(), &phone.report(), ClientFrame::LatencyReport));
    shots.extend(misshapen(&ClientFrame::Call(question.clone()), Call::LIMIT));
    shots.extend(misshapen(&ClientFrame::LatencyReport(phone.report()), LatencyReport::LIMIT));
    let Open { service, client } = base;
    let reply = Reply { service, client, sequence: 0, response: vec![] };
    let no = NotExecuted { service, client, sequence: 0, reason: String::new() };
    let not_for_hosts = [
        ClientFrame::Opened(Opened { service, client }),
        ClientFrame::Reply(reply),
        ClientFrame::NotExecuted(no),
        ClientFrame::Gone(Gone { service }),
    ];
    shots.extend(
        not_for_hosts
            .map(|frame| Shot::frame(format!("{} to a host", frame.name()), &frame, Reject::UnexpectedMessage)),
    );
    range.fire_after(&phone.peer, &home.at, Protocol::Request, &hello, shots).await;
}

/// Requests that are executed, once each; the last one, and its response.
async fn honest(range: &mut Range, home: &RealHost, phone: &Phone) -> (Call, Vec<u8>) {
    let hello = phone.hello().to_bytes();
    let read = phone.call(0, "GET /count");
    let mut line = phone.line(&home.at).await;
    let response = phone.ask(&mut line, &read).await;
    assert_eq!(phone.ask(&mut line, &read).await, response, "the same request gets the same answer");
    range.accepted("CALL, twice").await;
    let other = ClientFrame::Call(phone.call(0, "DELETE /k/a"));
    let used = Shot::frame("CALL, another request under a used number", &other, Reject::OtherRequest);
    range.fire_after(&phone.peer, &home.at, Protocol::Request, &hello, vec![used]).await;
    // What was acknowledged is forgotten, and not executed again.
    let mut line = phone.line(&home.at).await;
    let write = Call { acked_below: 1, ..phone.call(5, "POST /count") };
    let response = phone.ask(&mut line, &write).await;
    assert_eq!(body(&response), "1");
    let below = Shot::frame("CALL below what was acknowledged", &ClientFrame::Call(read), Reject::BelowAcked);
    range.fire_after(&phone.peer, &home.at, Protocol::Request, &hello, vec![below]).await;
    (write, response)
}

fn body(response: &[u8]) -> &str {
    std::str::from_utf8(response).unwrap().split("\r\n\r\n").nth(1).unwrap().trim()
}
