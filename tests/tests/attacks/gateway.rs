//! A real gateway under attack: by the puppet host of a service that it carries requests for, and by the Registry's own key. A
//! client's request waits all the while, and is answered in the end.

use wayfare_net::Protocol;
use wayfare_protocol::{
    gateway::messages::{Call, ClientFrame, Gone, NotExecuted, Open, Opened, Reply},
    limits::TEXT_BYTES_MAX,
    manifest::Manifest,
    migration::messages::*,
    reject::Reject,
    time::{Micros, Timestamp},
    trust::{Receiver, Role, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free, Ignored},
        Table, service,
    },
    hand::{Service, claim},
    ledger::Watched,
    peer::{Doorstep, Line, Peer},
    puppet::registry::PuppetRegistry,
    range::Range,
    real::{Authority, KV_CODE, RealGateway, RealHost, http},
    rows,
    shot::{Altered as _, Shot, misshapen, oversized},
};

use crate::{
    clients::plain_shots,
    coverage::{Covered, covers},
};

macro_rules! answers {
    ($name:ident $t:ident { $($field:ident => $expect:expr;)* }) => {
        fn $name() -> Table<$t> {
            rows!($t {
                client => Reject::WrongClient;
                $($field => $expect;)*
            })
            .nest("service", |answer| &mut answer.service, service(Reject::UnknownService))
        }
    };
}

const NOBODYS: Expect = Ignored("nothing is asked under this number");

answers!(opened Opened {});
answers!(reply Reply { sequence => NOBODYS; response => Free("the service's own"); });
answers!(not_executed NotExecuted { sequence => NOBODYS; reason => Free("for the client, or for another try"); });

fn gone() -> Table<Gone> {
    let why = Ignored("the gateway does not follow that service");
    rows!(Gone { service.registry => why; service.unique => why; })
}

/// A placement of the epoch that is known, issued later.
fn placement() -> Table<Placement> {
    const LATER: Expect = Free("the registry's word; the gateway has nothing to compare it with");
    rows!(Placement {
        epoch.era = |era| *era = 0 => Reject::WrongEpoch;
        epoch.hop => Free("a later epoch is the registry's to say");
        cloud => Reject::Conflict;
        host => Reject::Conflict;
        key => Reject::Conflict;
        mig => Reject::Conflict;
        previous => LATER;
        manifest => LATER;
        issued = |at| *at = Timestamp(u64::MAX / 2) => Reject::NotYetValid;
        lease = |lease| *lease = Micros::ZERO => Reject::Expired;
    })
    .nest("service", |placement| &mut placement.service, service(Reject::UnknownService))
    // What it is about is looked up before it is verified.
    .raw("service.registry", Reject::UnknownService)
    .raw("service.unique", Reject::UnknownService)
}

/// The same in FOUND, beside the manifest.
fn located() -> Table<Placement> {
    const OTHER: Reject = Reject::WrongService;
    placement()
        .but("service.registry", OTHER)
        .raw("service.registry", OTHER)
        .but("service.unique", OTHER)
        .raw("service.unique", OTHER)
        .but("manifest", Reject::WrongManifest)
        .raw("manifest", Reject::WrongManifest)
}

fn manifest() -> Table<Manifest> {
    const OTHER: Reject = Reject::WrongManifest;
    rows!(Manifest {
        name => Reject::WrongService;
        name = |name| *name = "x".repeat(TEXT_BYTES_MAX + 1) => Reject::FieldTooLong;
        owner => Reject::BadSignature;
        version => OTHER;
        code => OTHER;
        tos => OTHER;
        required.cpu_millicores => OTHER;
        required.memory_bytes => OTHER;
        required.storage_bytes => OTHER;
        required.bandwidth_bps => OTHER;
        max_rtt => OTHER;
        baseline => OTHER;
        allowed_clouds = |clouds| clouds.push(wayfare_protocol::ids::CloudId([1; 16])) => OTHER;
        allowed_regions = |regions| regions.push("elsewhere".to_owned()) => OTHER;
        allowed_domains = |domains| domains.push("elsewhere".to_owned()) => OTHER;
        durability = |durability| *durability = wayfare_protocol::manifest::Durability::Log => OTHER;
        token_policy = |policy| *policy = wayfare_protocol::manifest::TokenPolicy::Allow => OTHER;
    })
    .nest("service", |manifest| &mut manifest.service, service(Reject::WrongService))
    // It says in whose realm to verify.
    .but("service.registry", Reject::BadSignature)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "gateway";
    let found = rows!(Found {
        lookup = |_| () => Free("has shots of its own: a name, an identifier, another registry's");
        service = |_| () => Free("tables of its own");
        addresses = |_| () => Free("whoever dials checks the key");
    });
    vec![
        covers(to, &opened()),
        covers(to, &reply()),
        covers(to, &not_executed()),
        covers(to, &gone()),
        covers(to, &placement()),
        covers(to, &located()),
        covers(to, &manifest()),
        covers(to, &found),
    ]
}

/// The gateway, the puppet host that it sends requests to, and the Registry.
struct Bench {
    authority: Authority,
    range: Range,
    gateway: RealGateway,
    /// Kept for as long as the host is there.
    _peer: Peer,
    doorstep: Doorstep,
    service: Service,
    placement: Signed<Placement>,
}

impl Bench {
    async fn start(seed: u8) -> Self {
        let mut authority = Authority::Puppet(PuppetRegistry::start(seed).await);
        let peer = Peer::start(seed + 1).await;
        authority.enrol(&peer, "fjord", Role::Cloud).await;
        let doorstep = peer.accept(Protocol::Request);
        let service = Service::new(authority.realm(), &peer.secret, "kv", *KV_CODE);
        let register = service.to_registry().sign(&service.register());
        let addresses = peer.net.listen_addresses();
        let manifest = service.signed_manifest.clone();
        let mut line = peer.line(&authority.whereabouts(), Protocol::Registry).await;
        line.say(&RegistryFrame::Register(RegisterFrame { register, manifest, addresses: addresses.clone() })).await;
        let RegistryFrame::Granted(granted) = line.hear().await else { panic!("not registered") };
        authority.puppet().hold(&["Found"]).await;
        let gateway = RealGateway::start(&authority, &["kv", "local"]).await;
        let range = Range::open(Watched::Gateway(gateway.handle.clone())).await;
        // A lease that does not end meanwhile, on any machine.
        let placement = Placement { lease: Micros::from_secs(600), ..claim(&granted.placement) };
        let placement = authority.realm().says(Receiver::Anyone).sign(&placement);
        let mut bench = Self { authority, range, gateway, _peer: peer, doorstep, service, placement };
        bench.tell_where(addresses).await;
        bench
    }

    /// FOUND, honestly.
    async fn tell_where(&mut self, addresses: Vec<String>) {
        let (gateway, lookup) = (self.gateway.at.host, Lookup::Name("kv".to_owned()));
        let registry = self.authority.puppet();
        loop {
            match registry.held(gateway).await {
                RegistryFrame::Found(found) if found.lookup == lookup => break,
                other => registry.send(gateway, other.to_bytes()).await,
            }
        }
        let service = Some((self.placement.clone(), self.service.signed_manifest.clone()));
        let found = RegistryFrame::Found(Found { lookup, service, addresses });
        registry.send(gateway, found.to_bytes()).await;
        registry.hold(&[]).await;
    }

    /// The gateway's next stream, greeted; its OPEN.
    async fn line(&mut self) -> (Line, Open) {
        let mut line = self.doorstep.line(self.gateway.at.host).await;
        let open = line.wait_for(|frame| match frame {
            ClientFrame::Open(open) => Some(open),
            _ => None,
        });
        let open = open.await;
        (line, open)
    }

    /// Shots after which the gateway, or this end, closes the stream, and the gateway comes again.
    async fn fire(&mut self, shots: Vec<Shot>) {
        for shot in shots {
            let (mut line, open) = self.line().await;
            // The host serves: so the gateway comes again soon.
            let Open { service, client } = open;
            line.say(&ClientFrame::Opened(Opened { service, client })).await;
            line.send(&shot.bytes).await;
            self.range.judge(&shot).await;
            // An unknown kind breaks no rule; else it is closed, and nothing comes but what was under way.
            if shot.expect != Some(Reject::UnknownMessage) {
                while line.receive().await.is_ok() {}
            }
        }
    }

    async fn fire_as_registry(&mut self, shots: Vec<Shot>) {
        let Authority::Puppet(registry) = &self.authority else { panic!("a puppet registry") };
        self.range.fire_as_registry(registry, &self.gateway.at, shots).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway() {
    let mut bench = Bench::start(120).await;
    let home = RealHost::start(&bench.authority, "home", Role::Home, &[]).await;
    home.deploy(bench.authority.realm(), "local").await;
    assert_eq!(bench.gateway.count("local").await, 1);
    // A request that waits for its answer.
    let waiting = tokio::spawn(http(bench.gateway.port("kv"), "POST /count"));
    let (line, open) = bench.line().await;
    drop(line);
    hosts(&mut bench, &open).await;
    registrys(&mut bench).await;

    let (mut line, Open { service, client }) = bench.line().await;
    line.say(&ClientFrame::Opened(Opened { service, client })).await;
    let call: Call = line
        .wait_for(|frame| match frame {
            ClientFrame::Call(call) => Some(call),
            _ => None,
        })
        .await;
    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec();
    let reply = ClientFrame::Reply(Reply { service, client, sequence: call.sequence, response });
    line.say(&reply).await;
    // Twice: the client has its answer.
    line.say(&reply).await;
    assert_eq!(waiting.await.unwrap(), "done");
    assert_eq!(bench.gateway.count("local").await, 2, "another service goes on");
    bench.range.accepted("REPLY, twice").await;
    println!("{} shots", bench.range.shots());
    bench.range.close();
}

/// What a host can say.
async fn hosts(bench: &mut Bench, open: &Open) {
    let Open { service, client } = open.clone();
    let reply_now = Reply { service, client, sequence: 98, response: b"HTTP/1.1 200 OK\r\n\r\n".to_vec() };
    let refusal = NotExecuted { service, client, sequence: 98, reason: "other".to_owned() };
    let mut shots = plain_shots("OPENED", &opened(), &Opened { service, client }, ClientFrame::Opened);
    shots.extend(plain_shots("REPLY", &reply(), &reply_now, ClientFrame::Reply));
    shots.extend(plain_shots("NOT EXECUTED", &not_executed(), &refusal, ClientFrame::NotExecuted));
    let (mut stay, mut close): (Vec<Shot>, Vec<Shot>) = shots.into_iter().partition(|shot| shot.expect.is_none());
    stay.extend(plain_shots("GONE", &gone(), &Gone { service }, ClientFrame::Gone));

    let tells = bench.authority.realm().says(Receiver::Anyone);
    let known = claim(&bench.placement);
    let later = || Placement { issued: known.issued + Micros(1), ..known.clone() };
    let wrap = |signed| ClientFrame::Moved(signed).to_bytes();
    let mut shots = tells.shots(&placement(), later, wrap, Reject::BadSignature);
    let wrap = |signed| ClientFrame::Placement(signed).to_bytes();
    shots.extend(tells.shots(&placement(), later, wrap, Reject::BadSignature));
    // Old news comes from honest hosts, too.
    let old = [Reject::WrongEpoch, Reject::Expired, Reject::UnknownService];
    let is_old = |shot: &Shot| shot.expect.is_some_and(|reject| old.contains(&reject));
    let (news, false_news): (Vec<Shot>, Vec<Shot>) = shots.into_iter().partition(is_old);
    stay.extend(news);
    close.extend(false_news);

    let frames = [
        ClientFrame::Opened(Opened { service, client }),
        ClientFrame::Reply(reply_now),
        ClientFrame::Gone(Gone { service }),
        ClientFrame::Moved(bench.placement.clone()),
    ];
    let limits = [Opened::LIMIT, Reply::LIMIT, Gone::LIMIT, <Signed<Placement>>::LIMIT];
    for (frame, limit) in frames.iter().zip(limits) {
        close.extend(misshapen(frame, limit));
    }
    close.push(oversized(&frames[0]));
    let own = ClientFrame::Open(open.clone());
    close.push(Shot::frame("OPEN to a gateway", &own, Reject::UnexpectedMessage));
    bench.fire(close).await;
    let (mut line, Open { service, client }) = bench.line().await;
    line.say(&ClientFrame::Opened(Opened { service, client })).await;
    for shot in stay {
        line.send(&shot.bytes).await;
        bench.range.judge(&shot).await;
    }
}

/// What the Registry's key can say.
async fn registrys(bench: &mut Bench) {
    let name = Lookup::Name("kv".to_owned());
    let (tells, known) = (bench.authority.realm().says(Receiver::Anyone), claim(&bench.placement));
    let signed_manifest = bench.service.signed_manifest.clone();
    let found = |lookup: &Lookup, placement, manifest| {
        let found = Found { lookup: lookup.clone(), service: Some((placement, manifest)), addresses: vec![] };
        RegistryFrame::Found(found)
    };
    let later = || Placement { issued: known.issued + Micros(1), ..known.clone() };
    let wrap = |placement| found(&name, placement, signed_manifest.clone()).to_bytes();
    let mut shots = tells.shots(&located(), later, wrap, Reject::BadSignature);
    let owner = bench.authority.realm().signer(&bench.service.owner, Receiver::Anyone);
    let wrap = |manifest| found(&name, bench.placement.clone(), manifest).to_bytes();
    let word = || bench.service.manifest.clone();
    shots.extend(owner.shots(&manifest(), word, wrap, Reject::BadSignature));
    let honest = |lookup: &Lookup| found(lookup, bench.placement.clone(), signed_manifest.clone());
    let other = Lookup::Name("other".to_owned());
    shots.push(Shot::frame("FOUND that was not asked for", &honest(&other), Reject::UnexpectedMessage));
    let local = Lookup::Name("local".to_owned());
    shots.push(Shot::frame("FOUND for another name", &honest(&local), Reject::WrongService));
    let mut abroad = bench.service.id();
    abroad.registry.0[0] ^= 1;
    let abroad = Lookup::Id(abroad);
    shots.push(Shot::frame("FOUND for another registry's", &honest(&abroad), Reject::WrongPeer));
    shots.extend(misshapen(&honest(&name), Found::LIMIT));
    let eleven = RegistryFrame::Placement(bench.placement.clone());
    shots.push(Shot::frame("11 to a gateway", &eleven, Reject::UnexpectedMessage));
    // The last: the gateway has to open a new stream.
    shots.push(oversized(&honest(&name)));
    bench.fire_as_registry(shots).await;
}
