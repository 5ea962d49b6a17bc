//! Hosts of a Registry that was restored from a backup: RECOVERING, and whose it may be. What they answer is attacked in
//! `registry/restored.rs`.

use wayfare_net::Protocol;
use wayfare_protocol::{
    ids::ServiceId,
    migration::messages::*,
    reject::{Reject, Strict},
    suite::Dalek,
    trust::{Receiver, Role},
    wire::Wire,
};
use wayfare_tests::{
    alter::{Expect::Free, Table},
    hand::{claim, nonce},
    ledger::Watched,
    peer::{Peer, until},
    puppet::registry::PuppetRegistry,
    range::Range,
    real::{Authority, RealGateway, RealHost, RealRegistry},
    rows,
    shot::{Shot, misshapen, oversized},
};

use crate::{
    bystander::Bystander,
    coverage::{Covered, covers},
};

fn recovering() -> Table<Recovering> {
    rows!(Recovering { nonce => Free("the registry's own: the answer repeats it"); })
}

pub(crate) fn covered() -> Vec<Covered> {
    vec![covers("host", &recovering())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_asked() {
    let mut authority = Authority::Puppet(PuppetRegistry::start(160).await);
    let bystander = Bystander::start(&authority).await;
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let service = home.deploy(authority.realm(), "kv").await;
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    assert_eq!(gateway.count("kv").await, 1);
    let (member, stranger) = (Peer::start(161).await, Peer::start(162).await);
    authority.enrol(&member, "delta", Role::Cloud).await;
    let mut range = Range::open(Watched::Host(home.handle.clone())).await;

    let question = || RegistryFrame::Recovering(Recovering { nonce: nonce() });
    for (who, peer) in [("a member", &member), ("a stranger", &stranger)] {
        let shot = Shot::frame(format!("RECOVERING of {who}"), &question(), Reject::WrongPeer);
        range.fire(peer, &home.at, Protocol::Registry, vec![shot]).await;
    }
    let registry = authority.puppet();
    let mut shots = misshapen(&question(), Recovering::LIMIT);
    let shown = asked(registry, &home, service).await;
    shots.push(Shot::frame("SHOWN to a host", &RegistryFrame::Shown(shown), Reject::UnexpectedMessage));
    range.fire_as_registry(registry, &home.at, shots).await;
    let (mut line, long) = (registry.line(&home.at).await, oversized(&question()));
    line.send(&long.bytes).await;
    range.judge(&long).await;
    asked(registry, &home, service).await;
    range.accepted("RECOVERING, twice").await;

    assert_eq!(gateway.count("kv").await, 2);
    bystander.takes_over(&authority, &home, service).await;
    assert_eq!(gateway.count("kv").await, 3);
    range.accepted("the honest move").await;
    println!("{} shots", range.shots());
    range.close();
}

/// The Registry opens a stream and asks; the host answers on it, to this question, with all that it has.
async fn asked(registry: &PuppetRegistry, home: &RealHost, service: ServiceId) -> ShownFrame {
    let (realm, nonce) = (&registry.realm, nonce());
    let placement = registry.placement(service).await.unwrap();
    let mut line = registry.line(&home.at).await;
    line.say(&RegistryFrame::Recovering(Recovering { nonce })).await;
    // It may have to renew its lease meanwhile.
    let frame = line.wait_for(|frame| if let RegistryFrame::Shown(frame) = frame { Some(frame) } else { None }).await;
    let shown = frame.shown.verify::<Dalek, Strict>(&home.host().0, realm.id, Receiver::Registry(realm.id)).unwrap();
    let Shown { nonce: answered, part, parts, stays, held, elsewhere } = (*shown).clone();
    assert_eq!((answered, part, parts, held, elsewhere), (nonce, 0, 1, vec![], vec![]));
    let [ShownStay { placement: stays, consent: None }] = &stays[..] else { panic!("{stays:?}") };
    assert_eq!((claim(stays).ids(), claim(stays).host), (placement.ids(), home.host()));
    assert_eq!(frame.certificate, home.certificate);
    assert_eq!(frame.manifests.iter().map(|manifest| claim(manifest).service).collect::<Vec<_>>(), [service]);
    assert_eq!(frame.addresses, home.at.addresses);
    frame
}

async fn goes(authority: &Authority, service: ServiceId, from: &RealHost, to: &RealHost, epoch: u32) {
    from.until_meets(&[to]).await;
    from.begin_move(service, to.host()).await;
    to.until_serving(service).await;
    recorded(authority, service, to, epoch).await;
}

async fn recorded(authority: &Authority, service: ServiceId, host: &RealHost, epoch: u32) {
    let there = [format!("{service} {epoch}.0 {}", host.host())];
    until("the record to move", async || (authority.placements().await == there).then_some(())).await;
}

/// The Registry is at another address, which no host knows: all of this is on streams that it opens. Of the record's host it
/// hears where the service went, and of that host that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_do_not_come_by_themselves_are_asked() {
    let authority = Authority::Real(RealRegistry::start(165).await);
    let home = RealHost::start(&authority, "home", Role::Home, &[]).await;
    let harbour = RealHost::start(&authority, "harbour", Role::Cloud, &home.at.addresses).await;
    let island = RealHost::start(&authority, "island", Role::Cloud, &home.at.addresses).await;
    let service = home.deploy(authority.realm(), "kv").await;
    let gateway = RealGateway::start(&authority, &["kv"]).await;
    goes(&authority, service, &home, &island, 2).await;
    goes(&authority, service, &island, &harbour, 3).await;
    assert_eq!(gateway.count("kv").await, 1);
    let Authority::Real(registry) = &authority else { unreachable!() };
    let backup = registry.records();
    goes(&authority, service, &harbour, &island, 4).await;
    assert_eq!(gateway.count("kv").await, 2);

    let Authority::Real(registry) = authority else { unreachable!() };
    let registry = registry.restored(&backup).await;
    let authority = Authority::Real(registry);
    recorded(&authority, service, &island, 4).await;
    let Authority::Real(registry) = &authority else { unreachable!() };
    registry.until_resumed().await;
    // The lease of before has ended: this needs one of the restored registry.
    island.until_serving(service).await;
    assert_eq!(gateway.count("kv").await, 3);
    goes(&authority, service, &island, &harbour, 5).await;
    assert_eq!(gateway.count("kv").await, 4);
}
