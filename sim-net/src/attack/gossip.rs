//! Attacks by gossip: 1 and 11, to whoever listens.

use wayfare_net::{NetError, Protocol};
use wayfare_protocol::{
    advert::{Advert, Gossip},
    limits::{ADVERTS_MAX, LEASE},
    migration::messages::{Placement, RegistryFrame},
    reject::Reject,
    time::Micros,
    trust::{Receiver, Role},
    wire::Frame,
};

use super::{
    field::{Field, SERVICE, Victim},
    hand::now,
    peer::{PATIENCE, Peer, until},
    sign::{thief, unsigned},
};

type Done = anyhow::Result<()>;

/// Strangers that take part in a flood, and what each publishes.
const STRANGERS: usize = 24;
const JUNK_EACH: u64 = 40;
/// Enrolled clouds that do, and how often each changes its mind.
const MEMBERS: usize = 6;
const GENUINE_EACH: u64 = 40;
/// Between two looks at a move.
const MOVE_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);
/// How much more memory a victim may take for a flood.
pub(super) const MEMORY_MIB_MAX: u64 = 64;

/// Publishes as soon as somebody listens.
async fn publish(peer: &Peer, bytes: &[u8]) -> Done {
    until("a subscriber", async || match peer.net.publish(bytes.to_vec()).await {
        Ok(()) => Some(Ok(())),
        Err(NetError::NoGossipPeers) => None,
        Err(error) => Some(Err(error)),
    })
    .await??;
    Ok(())
}

/// Gossips to a victim, as somebody of whom it has no opinion yet: it must be refused by this name.
async fn tell(field: &mut Field, victim: Victim, what: &str, bytes: &[u8], expected: Reject) -> Done {
    let peer = field.gossip(victim).await?;
    let before = field.before(victim).await?;
    publish(&peer, bytes).await?;
    field.refused(before, what, expected).await?;
    Ok(())
}

fn advert(signed: wayfare_protocol::trust::Signed<Advert>) -> Vec<u8> {
    Gossip::Advert(signed).to_bytes()
}

/// Attack 5. A cloud that the Registry does not know; another's name; another's word, altered.
pub(super) async fn forged_advert(field: &mut Field) -> Done {
    let (stranger, rogue) = (field.stranger().await?, field.member(Role::Cloud).await?);
    let mut own = rogue.certificate.unverified()?;
    own.host = stranger.host;
    let own = field.realm.signer(&thief(), Receiver::Anyone).sign(&own);
    let made_up = field.realm.advert(stranger.host, &own, &stranger.net.listen_addresses())?;
    let made_up = advert(field.realm.signer(&stranger.secret, Receiver::Anyone).sign(&made_up));
    let genuine = field.cloud_advert().await?;
    let posed = Advert { host: field.cloud.host, ..rogue.advert(&field.realm)?.unverified()? };
    let posed = advert(field.realm.signer(&rogue.peer.secret, Receiver::Anyone).sign(&posed));
    let cheaper = Advert { addresses: rogue.peer.net.listen_addresses(), ..genuine.unverified()? };
    let altered = advert(unsigned(&genuine, &cheaper)?);
    for victim in [Victim::Home, Victim::Gateway] {
        tell(field, victim, "an advert under a made-up certificate", &made_up, Reject::BadCertificate).await?;
        tell(field, victim, "an advert in the cloud's name", &posed, Reject::BadCertificate).await?;
        tell(field, victim, "the cloud's advert, with another address", &altered, Reject::BadSignature).await?;
    }
    let clouds = field.mesh.clouds(Victim::Home.process()).await?;
    field.harmless(!clouds.iter().any(|cloud| cloud.host == stranger.host.to_string()), "the home knows the stranger");
    Ok(())
}

/// What a cloud said before, once it has said something else.
pub(super) async fn stale_advert(field: &mut Field) -> Done {
    let rogue = field.member(Role::Cloud).await?;
    let signer = field.realm.signer(&rogue.peer.secret, Receiver::Anyone);
    let old = rogue.advert(&field.realm)?.unverified()?;
    for (number, victim) in [(1, Victim::Home), (2, Victim::Gateway)] {
        let peer = field.gossip(victim).await?;
        // Bytes that nobody has heard yet: the mesh does not pass the same ones on twice.
        let new = Advert { serial: old.serial + number, price_micros: 7, ..old.clone() };
        publish(&peer, &advert(signer.sign(&new))).await?;
        let before = field.before(victim).await?;
        // Behind it on the same stream.
        publish(&peer, &advert(signer.sign(&Advert { price_micros: number, ..old.clone() }))).await?;
        field.refused(before, "an advert that came late", Reject::OldSerial).await?;
    }
    Ok(())
}

/// Two machines with one key: the mesh hears two stories under one number. And a key that joins under a second name.
pub(super) async fn shared_identity(field: &mut Field) -> Done {
    let rogue = field.member(Role::Cloud).await?;
    let signer = field.realm.signer(&rogue.peer.secret, Receiver::Anyone);
    let one = rogue.advert(&field.realm)?.unverified()?;
    let first = field.gossip(Victim::Home).await?;
    publish(&first, &advert(signer.sign(&one))).await?;
    let host = rogue.peer.host.to_string();
    until("the home to know the first", async || {
        let clouds = field.mesh.clouds(Victim::Home.process()).await.ok()?;
        clouds.iter().any(|cloud| cloud.host == host).then_some(())
    })
    .await?;
    let elsewhere = field.stranger().await?.net.listen_addresses();
    let other = advert(signer.sign(&Advert { addresses: elsewhere, ..one }));
    tell(field, Victim::Home, "two adverts of one number", &other, Reject::Reused).await?;
    let (_, token) = field.token(Role::Cloud).await?;
    let enrol = field.realm.enrol(&rogue.peer.secret, Role::Cloud, token.secret.hash());
    let enrol = RegistryFrame::Enrol(field.realm.hears(&rogue.peer.secret).sign(&enrol)).to_bytes();
    let what = "one key under a second provider's name";
    field.shoot(&rogue.peer, Victim::Registry, Protocol::Registry, what, &enrol, Reject::Conflict).await?;
    Ok(())
}

/// 11 that the Registry never signed: clients would follow it.
pub(super) async fn forged_placement(field: &mut Field) -> Done {
    let rogue = field.member(Role::Cloud).await?;
    let (genuine, _) = field.lookup(&rogue.peer, SERVICE).await?;
    let record = genuine.unverified()?;
    let stolen = Placement {
        epoch: record.epoch.next_era(),
        host: rogue.peer.host,
        cloud: rogue.certificate.unverified()?.cloud,
        previous: record.host,
        issued: now().wall,
        lease: LEASE,
        ..record
    };
    let own = field.realm.signer(&rogue.peer.secret, Receiver::Anyone).sign(&stolen);
    let altered = unsigned(&genuine, &stolen)?;
    for victim in [Victim::Gateway, Victim::Home] {
        let what = "11 signed by a cloud";
        tell(field, victim, what, &Gossip::Placement(own.clone()).to_bytes(), Reject::BadSignature).await?;
        let what = "the record's 11, altered";
        tell(field, victim, what, &Gossip::Placement(altered.clone()).to_bytes(), Reject::BadSignature).await?;
    }
    Ok(())
}

/// 11 as it was before the service moved: clients would go back to the former host. An operator moves the victims' service
/// for it, from the home to the cloud.
pub(super) async fn stale_placement(field: &mut Field) -> Done {
    let rogue = field.member(Role::Cloud).await?;
    // Two that nobody has gossiped: the Registry signs a new one with each renewal.
    let (old, _) = field.lookup(&rogue.peer, SERVICE).await?;
    field.cloud_advert().await?;
    // A cloud that was restarted knows nothing of what it advertised before: a move on that is refused, and begun again.
    field.readvertise().await?;
    until("the service to be at the cloud", async || {
        let state = field.state_at(Victim::Cloud.process()).await.ok()?;
        if state.as_deref() == Some("serving") {
            return Some(());
        }
        // Refused while one is under way.
        let _ = field.mesh.begin_move(Victim::Home.process(), SERVICE, Victim::Cloud.process()).await;
        tokio::time::sleep(MOVE_AGAIN).await;
        None
    })
    .await?;
    // The gateway follows as soon as a request meets the former host.
    let (new, _) = field.lookup(&rogue.peer, SERVICE).await?;
    let epochs = (old.unverified()?.epoch, new.unverified()?.epoch);
    field.harmless(epochs.0 < epochs.1, "the epoch did not rise");
    field.served().await?;
    let stale = Gossip::Placement(old).to_bytes();
    tell(field, Victim::Gateway, "11 from before the move", &stale, Reject::WrongEpoch).await?;
    field.served().await
}

/// Adverts without end: junk of strangers, and genuine ones of clouds that cannot make up their minds.
pub(super) async fn advert_flood(field: &mut Field) -> Done {
    let rogue = field.member(Role::Cloud).await?;
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(field.member(Role::Cloud).await?);
    }
    let victim = Victim::Home;
    let memory = field.memory_mib(victim)?;
    let before = field.before(victim).await?;
    let base = rogue.advert(&field.realm)?.unverified()?;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(field.gossip(victim).await?);
    }
    let mut sent = 0_u64;
    for round in 0..JUNK_EACH {
        for (number, stranger) in strangers.iter().enumerate() {
            let junk = Advert { price_micros: round * 1000 + number as u64, ..base.clone() };
            let junk = advert(field.realm.signer(&stranger.secret, Receiver::Anyone).sign(&junk));
            if round == 0 {
                publish(stranger, &junk).await?;
                sent += 1;
            } else {
                sent += u64::from(stranger.net.publish(junk).await.is_ok());
            }
        }
    }
    for round in 0..GENUINE_EACH {
        for (number, member) in members.iter().enumerate() {
            let Some(carrier) = strangers.get(number) else { continue };
            let new = member.advert(&field.realm)?.unverified()?;
            let new = Advert { serial: new.serial + round, price_micros: round, ..new };
            let new = advert(field.realm.signer(&member.peer.secret, Receiver::Anyone).sign(&new));
            sent += u64::from(carrier.net.publish(new).await.is_ok());
        }
    }
    let what = format!("{sent} adverts of {STRANGERS} strangers and {MEMBERS} members");
    field.counted(before, &what, Reject::BadSignature.name(), STRANGERS as u64).await?;
    let clouds = field.mesh.clouds(victim.process()).await?;
    let knows = clouds.iter().any(|cloud| cloud.name == Victim::Cloud.process());
    let observed = format!("{} clouds known, of {ADVERTS_MAX} at most; the victims' is one: {knows}", clouds.len());
    field.note("what the home knows then", observed, knows && clouds.len() <= ADVERTS_MAX);
    field.grown(victim, memory, MEMORY_MIB_MAX)?;
    // It still hears what is new.
    let serial = field.cloud_advert().await?.unverified()?.serial;
    field.readvertise().await?;
    let fresh = async {
        until("a new advert", async || {
            let newest = field.adverts_of(field.cloud.host).pop()?.unverified().ok()?;
            (newest.serial > serial).then_some(())
        })
        .await
    };
    let heard = tokio::time::timeout(PATIENCE, fresh).await.is_ok_and(|heard| heard.is_ok());
    field.note("a new advert of the cloud", if heard { "heard" } else { "not heard" }, heard);
    Ok(())
}

/// Whether an advert may still be shown to a Registry in a while.
pub(super) fn lasts(advert: &Advert) -> bool {
    advert.expiry > now().wall + Micros::from_secs(25)
}
