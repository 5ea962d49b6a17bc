//! ORDER, ORDER_DONE, and what a removal leaves.

use wayfare_protocol::{
    migration::messages::*,
    order::{Action, Order, OrderDone, OrderFrame, OrderState, Outcome, Tombstone},
    reject::Reject,
    suite::{Dalek, Secret, Suite},
    time::{Micros, Timestamp},
    trust::{Receiver, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids, service,
    },
    hand::{claim, now, placement_key},
    rows,
    shot::{Altered as _, Shot, Signer, misshapen, thief},
};

use super::{Bench, membership::OWNERS};
use crate::coverage::{Covered, covers};

const SIGNED: Expect = Free("a table of its own");

fn order() -> Table<Order> {
    rows!(Order {
        action = |action| *action = Action::Start => OWNERS;
        sequence = |sequence| *sequence = 0 => Reject::OldCounter;
        expiry = |expiry| *expiry = Timestamp(0) => Reject::Expired;
        expiry = |expiry| *expiry = Timestamp(u64::MAX) => Reject::NotYetValid;
    })
    .nest("service", |order| &mut order.service, service(Reject::UnknownService))
    .but("service.registry", Reject::UnknownRegistry)
    .raw("service.registry", Reject::UnknownRegistry)
    .raw("service.unique", Reject::UnknownService)
}

fn order_frame() -> Table<OrderFrame> {
    rows!(OrderFrame {
        order = |_| () => SIGNED;
        manifest = |_| () => SIGNED;
        addresses = |list| list.push("x".repeat(200)) => Reject::FieldTooLong;
    })
}

fn order_done() -> Table<OrderDone> {
    rows!(OrderDone {
        order => Reject::Conflict;
        outcome = |outcome| *outcome = Outcome::Refused("x".repeat(200)) => Reject::FieldTooLong, raw Reject::FieldTooLong;
    })
    .nest("ids", |done| &mut done.ids, ids())
    .but("ids.service.registry", Reject::UnknownRegistry)
    .raw("ids.service.registry", Reject::UnknownRegistry)
    .but("ids.service.unique", Reject::UnknownService)
    .raw("ids.service.unique", Reject::UnknownService)
    .raw("ids.epoch.era", Reject::WrongEpoch)
    .raw("ids.epoch.hop", Reject::WrongEpoch)
}

fn tombstone() -> Table<Tombstone> {
    const REGISTRYS: Expect = Free("the registry's to say");
    rows!(Tombstone {
        epoch.era => REGISTRYS;
        epoch.hop => REGISTRYS;
        version => REGISTRYS;
        order => REGISTRYS;
        at => REGISTRYS;
    })
    .nest("service", |tombstone| &mut tombstone.service, service(Reject::BadSignature))
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "registry";
    let state = rows!(OrderState {
        order => Free("the registry's answer: never taken from anybody");
        outcome = |_| () => Free("the same");
    });
    vec![
        covers(to, &order()),
        covers(to, &order_frame()),
        covers(to, &order_done()),
        covers(to, &tombstone()),
        covers(to, &state),
    ]
}

fn wrap(order: Signed<Order>) -> OrderFrame {
    OrderFrame { order, manifest: None, addresses: vec![] }
}

fn bytes(order: Signed<Order>) -> Vec<u8> {
    RegistryFrame::Order(wrap(order)).to_bytes()
}

/// An order of now.
fn base(bench: &Bench, action: Action) -> Order {
    let wall = now().wall;
    Order { service: bench.service.manifest.service, action, sequence: wall.0, expiry: wall + Micros::from_secs(60) }
}

fn owner(bench: &Bench) -> Signer {
    let realm = bench.authority.realm();
    realm.signer(&bench.service.owner, Receiver::Registry(realm.id))
}

/// Gives an order honestly; its state.
async fn give(bench: &mut Bench, frame: &OrderFrame) -> OrderState {
    let answer = bench.ask(|bench| &bench.gateway, &RegistryFrame::Order(frame.clone())).await;
    let RegistryFrame::OrderState(state) = answer else { panic!("not taken: {answer:?}") };
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders() {
    let mut bench = Bench::start(40).await;
    bench.register().await;
    let stop = wrap(owner(&bench).sign(&base(&bench, Action::Stop)));
    let given = give(&mut bench, &stop).await;
    assert_eq!(given, give(&mut bench, &stop).await, "the same bytes get the same answer");

    let honest = base(&bench, Action::Stop);
    let mut shots = owner(&bench).shots(&order(), || honest.clone(), bytes, Reject::WrongOwner);
    let frame = RegistryFrame::Order(stop.clone());
    shots.extend(misshapen(&frame, OrderFrame::LIMIT));
    let state = RegistryFrame::OrderState(given.clone());
    shots.extend(super::not_for_a_registry(vec![state]));
    for row in order_frame().0 {
        let mut altered = stop.clone();
        (row.edit)(&mut altered);
        if altered != stop {
            shots.extend(Shot::expecting(row.field.clone(), RegistryFrame::Order(altered).to_bytes(), row.resigned));
        }
    }
    bench.fire(|bench| &bench.gateway, shots).await;
    let unknown = Shot::frame("ORDER by somebody not enrolled", &frame, Reject::NotEnrolled);
    bench.fire(|bench| &bench.stranger, vec![unknown]).await;

    reports(&mut bench, &stop).await;
    updates(&mut bench).await;
    removal(&mut bench).await;
    bench.close().await;
}

async fn done(bench: &mut Bench, order: &OrderFrame, outcome: Outcome) -> (OrderDone, Signer) {
    let mut line = bench.line(|bench| &bench.home).await;
    line.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    let found = line.wait_for(|frame| if let RegistryFrame::Found(found) = frame { Some(found) } else { None }).await;
    let placement = claim(&found.service.unwrap().0);
    (OrderDone { ids: placement.ids(), order: order.order.hash(), outcome }, bench.service.to_registry())
}

async fn reports(bench: &mut Bench, stop: &OrderFrame) {
    let (base, signer) = done(bench, stop, Outcome::Done).await;
    let wrap = |signed| RegistryFrame::OrderDone(signed).to_bytes();
    let honest = RegistryFrame::OrderDone(signer.sign(&base));
    let mut shots = signer.shots(&order_done(), || base.clone(), wrap, Reject::BadSignature);
    shots.extend(misshapen(&honest, <Signed<OrderDone>>::LIMIT));
    bench.fire(|bench| &bench.home, shots).await;
    let elsewhere = Shot::frame("ORDER_DONE by another", &honest, Reject::NotHostOfRecord);
    bench.fire(|bench| &bench.fjord, vec![elsewhere]).await;
    assert_eq!(give(bench, stop).await.outcome, None, "nobody but its host can report");
    say(bench, &honest).await;
    assert_eq!(give(bench, stop).await.outcome, Some(Outcome::Done));
    let (base, signer) = done(bench, stop, Outcome::Refused("broken".to_owned())).await;
    say(bench, &RegistryFrame::OrderDone(signer.sign(&base))).await;
    assert_eq!(give(bench, stop).await.outcome, Some(Outcome::Done), "what is done is done");
}

/// Says what has no answer.
async fn say(bench: &mut Bench, frame: &RegistryFrame) {
    let mut line = bench.line(|bench| &bench.home).await;
    line.say(frame).await;
    line.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
    line.wait_for(|frame| if let RegistryFrame::Found(found) = frame { Some(found) } else { None }).await;
    bench.range.accepted(frame.name()).await;
}

async fn updates(bench: &mut Bench) {
    let realm = bench.authority.realm().clone();
    let from = bench.home.host;
    let with = |bench: &Bench, version: u32, secret: &Secret| {
        let manifest = wayfare_protocol::manifest::Manifest { version, ..bench.service.manifest.clone() };
        let manifest = realm.signer(secret, Receiver::Anyone).sign(&manifest);
        let action = Action::Update { manifest: manifest.hash(), keep: true, from };
        OrderFrame { manifest: Some(manifest), ..wrap(owner(bench).sign(&base(bench, action))) }
    };
    let secret = bench.service.owner.clone();
    let old = with(bench, bench.service.manifest.version, &secret);
    let forged = with(bench, 2, &thief());
    let mut without = with(bench, 3, &secret);
    without.manifest = None;
    let shot = |name: &str, frame, reject| Shot::frame(name, &RegistryFrame::Order(frame), reject);
    let shots = vec![
        shot("UPDATE to the same version", old, Reject::OldVersion),
        shot("UPDATE to another's manifest", forged, Reject::WrongManifest),
        shot("UPDATE without the manifest", without, Reject::WrongManifest),
    ];
    bench.fire(|bench| &bench.gateway, shots).await;
}

async fn removal(bench: &mut Bench) {
    let (ids, _) = bench.pinned().await;
    let remove = wrap(owner(bench).sign(&base(bench, Action::Remove)));
    let before = done(bench, &remove, Outcome::Done).await.0;
    let answer = bench.ask(|bench| &bench.gateway, &RegistryFrame::Order(remove.clone())).await;
    assert!(matches!(answer, RegistryFrame::OrderState(OrderState { outcome: None, .. })), "{answer:?}");
    // Who comes back with what is left of it is shown the tombstone, and the name is not free yet.
    let reclaim = Reclaim { ids, nonce: wayfare_tests::hand::nonce() };
    let reclaim = RegistryFrame::Reclaim(bench.service.to_registry().sign(&reclaim));
    let register = bench.register_frame(&bench.service.register());
    let mut later = bench.service.manifest.clone();
    later.version += 7;
    let shots = vec![
        Shot::frame("RECLAIM of a removed service", &reclaim, Reject::Removed),
        Shot::frame("REGISTER under a name that is still leased", &register, Reject::NotFree),
    ];
    bench.fire(|bench| &bench.home, shots).await;
    let forged = OrderDone { order: wayfare_protocol::ids::Digest([3; 32]), ..before.clone() };
    let signer = bench.service.to_registry();
    let forged =
        Shot::frame("ORDER_DONE of another", &RegistryFrame::OrderDone(signer.sign(&forged)), Reject::Conflict);
    bench.fire(|bench| &bench.home, vec![forged]).await;
    say(bench, &RegistryFrame::OrderDone(signer.sign(&before))).await;
    assert_eq!(give(bench, &remove).await.outcome, Some(Outcome::Done));
    // The old REGISTER, as it was: it brings nothing back.
    let old = Shot::frame("REGISTER of a removed service", &register, Reject::Removed);
    bench.fire(|bench| &bench.home, vec![old]).await;
    // A tombstone that this registry has not made, and one that it has, while it has forgotten nothing.
    let realm = bench.authority.realm().clone();
    let made = Tombstone {
        service: bench.service.manifest.service,
        epoch: before.ids.epoch,
        version: 1,
        order: remove.order.hash(),
        at: now().wall,
    };
    let signer = realm.signer(&thief(), Receiver::Anyone);
    assert_eq!(placement_key(&thief()).0, Dalek::public_key(&thief()));
    let forged = RegistryFrame::Removed(signer.sign(&made));
    let forged = Shot::frame("a tombstone by a thief", &forged, Reject::BadSignature);
    bench.fire(|bench| &bench.home, vec![forged]).await;
}
