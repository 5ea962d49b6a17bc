//! Attacks on owners' orders, on who may join, and on who may speak for a client.

use wayfare_net::Protocol;
use wayfare_protocol::{
    gateway::messages::{Call, ClientFrame, Hello, client_id, request_hash},
    ids::{Digest, ServiceId},
    migration::messages::{RegisterFrame, RegistryFrame},
    order::{Action, Order, OrderFrame, Tombstone},
    reject::Reject,
    suite::Secret,
    time::Micros,
    trust::{Receiver, Role},
    wire::Frame,
};

use super::{
    field::{Field, SERVICE, Victim},
    hand::{Service, now},
    sign::{thief, unsigned},
    source::{KV_CODE, Source},
    state::enrol,
};

type Done = anyhow::Result<()>;

/// How long an order holds.
const HOLDS: Micros = Micros::from_secs(600);

/// The attacker's own service, and orders of its owner.
struct Orders {
    source: Source,
    sequence: u64,
}

impl Orders {
    async fn new(field: &mut Field) -> anyhow::Result<Self> {
        Ok(Self { source: field.source().await?, sequence: now().wall.0 })
    }

    fn order(&mut self, field: &Field, service: ServiceId, owner: &Secret, action: Action) -> OrderFrame {
        self.sequence += 1;
        let order = Order { service, action, sequence: self.sequence, expiry: now().wall + HOLDS };
        let signer = field.realm.signer(owner, Receiver::Registry(field.realm.id));
        OrderFrame { order: signer.sign(&order), manifest: None, addresses: vec![] }
    }

    /// The owner's own.
    fn own(&mut self, field: &Field, action: Action) -> OrderFrame {
        let (service, owner) = (self.source.service.id(), self.source.service.owner.clone());
        self.order(field, service, &owner, action)
    }

    /// Given, and taken.
    async fn give(&self, order: &OrderFrame) -> Done {
        match self.source.ask(&RegistryFrame::Order(order.clone())).await? {
            // A removed service's host is told so itself, too.
            RegistryFrame::OrderState(_) | RegistryFrame::Removed(_) => Ok(()),
            other => anyhow::bail!("an honest order is not taken: {}", other.name()),
        }
    }
}

fn bytes(order: OrderFrame) -> Vec<u8> {
    RegistryFrame::Order(order).to_bytes()
}

/// An owner's STOP, on its way made into a REMOVE.
pub(super) async fn altered_order(field: &mut Field) -> Done {
    let mut orders = Orders::new(field).await?;
    let honest = orders.own(field, Action::Stop);
    let removes = Order { action: Action::Remove, ..honest.order.unverified()? };
    let altered = OrderFrame { order: unsigned(&honest.order, &removes)?, ..honest };
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let peer = &orders.source.peer;
    field.shoot(peer, registry, protocol, "STOP made into REMOVE", &bytes(altered), Reject::WrongOwner).await?;
    Ok(())
}

/// An old STOP, once the owner has said START.
pub(super) async fn replayed_order(field: &mut Field) -> Done {
    let mut orders = Orders::new(field).await?;
    let stop = orders.own(field, Action::Stop);
    orders.give(&stop).await?;
    let start = orders.own(field, Action::Start);
    orders.give(&start).await?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    field.shoot(&orders.source.peer, registry, protocol, "an old STOP", &bytes(stop), Reject::OldCounter).await?;
    Ok(())
}

/// STOP and REMOVE for the victims' service, by somebody who owns another; at the Registry, and at the host itself.
pub(super) async fn others_order(field: &mut Field) -> Done {
    let mut orders = Orders::new(field).await?;
    let (placement, _) = field.lookup(&orders.source.peer, SERVICE).await?;
    let (victims, owner) = (placement.unverified()?.service, orders.source.service.owner.clone());
    for action in [Action::Stop, Action::Remove] {
        let what = format!("{} by another owner", action.name());
        let order = bytes(orders.order(field, victims, &owner, action));
        let peer = &orders.source.peer;
        field.shoot(peer, Victim::Registry, Protocol::Registry, &what, &order, Reject::WrongOwner).await?;
        let what = format!("{} told to the host itself", what);
        field.shoot(peer, Victim::Home, Protocol::Registry, &what, &order, Reject::WrongPeer).await?;
    }
    Ok(())
}

/// Orders, and the REGISTER of before, for a service that its owner has removed.
pub(super) async fn order_after_removal(field: &mut Field) -> Done {
    let mut orders = Orders::new(field).await?;
    let service = &orders.source.service;
    let register = RegisterFrame {
        register: service.to_registry().sign(&service.register()),
        manifest: service.signed_manifest.clone(),
        addresses: vec![],
    };
    let remove = orders.own(field, Action::Remove);
    orders.give(&remove).await?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let start = bytes(orders.own(field, Action::Start));
    let peer = &orders.source.peer;
    field.shoot(peer, registry, protocol, "START of a removed service", &start, Reject::Removed).await?;
    let register = RegistryFrame::Register(register).to_bytes();
    field.shoot(peer, registry, protocol, "its REGISTER again", &register, Reject::NotFree).await?;
    Ok(())
}

/// A tombstone for the victims' service that the Registry never made: its host would delete it.
pub(super) async fn forged_tombstone(field: &mut Field) -> Done {
    let member = field.member(Role::Cloud).await?;
    let record = field.lookup(&member.peer, SERVICE).await?.0.unverified()?;
    let order = Digest([3; 32]);
    let made = Tombstone { service: record.service, epoch: record.epoch, version: 1, order, at: now().wall };
    let forged = RegistryFrame::Removed(field.realm.signer(&thief(), Receiver::Anyone).sign(&made)).to_bytes();
    let (home, protocol) = (Victim::Home, Protocol::Registry);
    field.shoot(&member.peer, home, protocol, "a forged tombstone", &forged, Reject::WrongPeer).await?;
    let what = "the same, shown to the registry";
    field.shoot(&member.peer, Victim::Registry, protocol, what, &forged, Reject::BadSignature).await?;
    Ok(())
}

/// A join token that somebody has used already, and one that nobody made.
pub(super) async fn token_twice(field: &mut Field) -> Done {
    let (first, second) = (field.stranger().await?, field.stranger().await?);
    let (_, token) = field.token(Role::Cloud).await?;
    let hash = token.secret.hash();
    enrol(field, &first, hash, Role::Cloud).await?;
    for (what, hash) in [("a token for the second time", hash), ("a token that nobody made", Digest([9; 32]))] {
        let join = field.realm.hears(&second.secret).sign(&field.realm.enrol(&second.secret, Role::Cloud, hash));
        let join = RegistryFrame::Enrol(join).to_bytes();
        field.shoot(&second, Victim::Registry, Protocol::Registry, what, &join, Reject::BadToken).await?;
    }
    Ok(())
}

/// What was said to one Registry, said to another, of which the same machine is a member.
pub(super) async fn other_registry(field: &mut Field) -> Done {
    let member = field.member(Role::Home).await?;
    let (elsewhere, protocol) = (Victim::OtherRegistry, Protocol::Registry);
    let token = field.other_token("mallory", Role::Home).await?;
    let enrol = field.realm.enrol(&member.peer.secret, Role::Home, token.secret.hash());
    let here = RegistryFrame::Enrol(field.realm.hears(&member.peer.secret).sign(&enrol)).to_bytes();
    let what = "ENROL that was signed for the first";
    field.shoot(&member.peer, elsewhere, protocol, what, &here, Reject::BadSignature).await?;
    let there = field.other_realm.hears(&member.peer.secret).sign(&enrol);
    let mut line = member.peer.line(&field.other_registry, protocol).await?;
    line.say(&RegistryFrame::Enrol(there)).await?;
    anyhow::ensure!(matches!(line.hear().await?, RegistryFrame::Enrolled(_)), "an honest member does not join");
    let service = Service::new(&field.realm, &member.peer.secret, "abroad", *KV_CODE);
    let register = service.to_registry().sign(&service.register());
    let manifest = service.signed_manifest.clone();
    let register = RegisterFrame { register, manifest, addresses: vec![] };
    let register = RegistryFrame::Register(register).to_bytes();
    let what = "REGISTER that was signed for the first";
    field.shoot(&member.peer, elsewhere, protocol, what, &register, Reject::UnknownRegistry).await?;
    let (placement, _) = field.lookup(&member.peer, SERVICE).await?;
    let order = Order {
        service: placement.unverified()?.service,
        action: Action::Stop,
        sequence: now().wall.0,
        expiry: now().wall + HOLDS,
    };
    let order = field.realm.signer(&thief(), Receiver::Registry(field.realm.id)).sign(&order);
    let order = bytes(OrderFrame { order, manifest: None, addresses: vec![] });
    let what = "an order that was signed for the first";
    field.shoot(&member.peer, elsewhere, protocol, what, &order, Reject::UnknownRegistry).await?;
    Ok(())
}

/// A gateway that speaks for another's client, and one that nobody let in.
pub(super) async fn stolen_session(field: &mut Field) -> Done {
    let gateway = field.member(Role::Gateway).await?;
    let record = field.lookup(&gateway.peer, SERVICE).await?.0.unverified()?;
    let hello = ClientFrame::Hello(Hello { certificate: gateway.certificate.clone(), incarnation: 1 });
    let request = b"POST /count HTTP/1.1\r\nhost: kv\r\ncontent-length: 0\r\n\r\n".to_vec();
    let call = Call {
        service: record.service,
        client: client_id(field.gateway.host, 1),
        sequence: 0,
        hash: request_hash(&request),
        acked_below: 0,
        request,
    };
    let mut line = gateway.peer.line(&field.home, Protocol::Request).await?;
    line.say(&hello).await?;
    let before = field.before(Victim::Home).await?;
    line.say(&ClientFrame::Call(call)).await?;
    field.refused(before, "a request in another client's name", Reject::WrongClient).await?;
    let stranger = field.stranger().await?;
    let (home, protocol) = (Victim::Home, Protocol::Request);
    let what = "HELLO with another's certificate";
    field.shoot(&stranger, home, protocol, what, &hello.to_bytes(), Reject::BadCertificate).await?;
    Ok(())
}
