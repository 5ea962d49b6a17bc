//! Attacks on the ten steps: verdicts, sessions, the record.

use wayfare_net::Protocol;
use wayfare_protocol::{
    ids::{MigrationId, MigrationIds},
    limits::HALF_OPEN_PER_PEER_MAX,
    migration::messages::*,
    reject::Reject,
    suite::{Secret, fresh_secret, fresh16},
    trust::{Receiver, Role},
    wire::Frame,
};

use super::{
    field::{Field, Member, STEP_TIMEOUT, Victim},
    hand::{Service, entropy, nonce, placement_key},
    sign::{CoSigner, thief},
    source::{Attempt, KV_CODE, Source},
};

type Done = anyhow::Result<()>;

fn ids_of(attempt: &Attempt) -> Result<MigrationIds, Reject> {
    Ok(attempt.four.request.unverified()?.ids)
}

/// Whether the Registry's record of the attacker's own service still names its home.
async fn stays(field: &mut Field, source: &Source) -> Done {
    let (placement, _) = field.lookup(&source.peer, &source.service.manifest.name).await?;
    let stays = placement.unverified()?.host == source.peer.host;
    field.harmless(stays, "the record moved");
    Ok(())
}

/// Attack 1. A verdict that the Registry never gave, shown to a cloud, and pushed to the home that could ask for one.
pub(super) async fn forged_yes(field: &mut Field) -> Done {
    let mut source = field.source().await?;
    let honest = source.attempt(&field.cloud_advert().await?).await?.four;
    let mig = MigrationId(fresh16(&mut entropy()));
    let forger = field.realm.signer(&thief(), Receiver::Host(source.peer.host));
    let verdict = forger.sign(&YesCloud { mig, ..honest.verdict.unverified()? });
    let asked = honest.request.unverified()?;
    let request = Request { ids: MigrationIds { mig, ..asked.ids }, verdict: verdict.hash(), ..asked };
    let to_cloud = field.realm.signer(&source.service.key, Receiver::Host(field.cloud.host));
    let four = MigrateFrame::Request(RequestFrame { request: to_cloud.sign(&request), verdict, ..honest.clone() });
    let (peer, cloud) = (&source.peer, Victim::Cloud);
    field.shoot(peer, cloud, Protocol::Migrate, "4 with a forged 3", &four.to_bytes(), Reject::BadSignature).await?;
    // Anybody can dial the home and speak as if it were the Registry.
    let yes = field.realm.signer(&thief(), Receiver::Host(field.home.host)).sign(&honest.verdict.unverified()?);
    let yes = RegistryFrame::YesCloud(yes).to_bytes();
    field.shoot(peer, Victim::Home, Protocol::Registry, "3 by a stranger", &yes, Reject::WrongPeer).await?;
    Ok(())
}

/// Attack 2. A cloud asks whether it may take the service under the attacker's key.
pub(super) async fn impostor_service(field: &mut Field) -> Done {
    let (mut source, cloud) = (field.source().await?, field.member(Role::Cloud).await?);
    let attempt = source.attempt(&cloud.advert(&field.realm)?).await?;
    let honest = source.service.five(ids_of(&attempt)?, &fresh_secret(&mut entropy()));
    let five = VerifyService { key: placement_key(&thief()), ..honest };
    let five = RegistryFrame::VerifyService(field.realm.hears(&cloud.peer.secret).sign(&five)).to_bytes();
    let what = "5 with the intruder's key";
    field.shoot(&cloud.peer, Victim::Registry, Protocol::Registry, what, &five, Reject::WrongPlacementKey).await?;
    Ok(())
}

/// Attack 3. A verdict of another's, a verdict for another service, an old question.
pub(super) async fn redirected_verdict(field: &mut Field) -> Done {
    let (mut source, other) = (field.source().await?, field.source().await?);
    let advert = field.cloud_advert().await?;
    let honest = source.attempt(&advert).await?.four;
    let four = MigrateFrame::Request(honest.clone()).to_bytes();
    let (cloud, migrate) = (Victim::Cloud, Protocol::Migrate);
    field.shoot(&other.peer, cloud, migrate, "3 that another was given", &four, Reject::BadSignature).await?;
    let mut request = honest.request.unverified()?;
    request.ids.service = other.service.id();
    let request = field.realm.signer(&source.service.key, Receiver::Host(field.cloud.host)).sign(&request);
    let four = MigrateFrame::Request(RequestFrame { request, ..honest }).to_bytes();
    field.shoot(&source.peer, cloud, migrate, "3 for another service", &four, Reject::WrongService).await?;
    let (_, first) = source.two(&advert)?;
    let first = RegistryFrame::VerifyCloud(first);
    source.ask(&first).await?;
    source.attempt(&advert).await?;
    let (registry, what) = (Victim::Registry, "an old 2 again");
    field.shoot(&source.peer, registry, Protocol::Registry, what, &first.to_bytes(), Reject::OldCounter).await?;
    Ok(())
}

/// An attempt that the Registry has allowed and confirmed to the attacker's cloud.
pub(super) struct Pinned {
    pub(super) ids: MigrationIds,
    pub(super) new_key: Secret,
}

/// 2, 3, 5 and 6 between two nodes of the attacker's.
pub(super) async fn pinned(field: &Field, source: &mut Source, cloud: &Member) -> anyhow::Result<Pinned> {
    let attempt = source.attempt(&cloud.advert(&field.realm)?).await?;
    let (ids, new_key) = (ids_of(&attempt)?, fresh_secret(&mut entropy()));
    let five = field.realm.hears(&cloud.peer.secret).sign(&source.service.five(ids, &new_key));
    let mut line = cloud.peer.line(&field.registry, Protocol::Registry).await?;
    line.say(&RegistryFrame::VerifyService(five)).await?;
    let six = line.wait_for(|frame| if let RegistryFrame::YesService(six) = frame { Some(six) } else { None });
    six.await?;
    Ok(Pinned { ids, new_key })
}

/// 10 of the attacker's cloud, with a consent of `consents` to `transfer`.
fn ten(field: &Field, source: &Source, cloud: &Member, pinned: &Pinned, transfer: &Transfer, by: &CoSigner) -> Vec<u8> {
    let honest = source.service.consent(pinned.ids, &pinned.new_key);
    let consent = by.sign(transfer);
    let completes = CoSigner {
        placement: pinned.new_key.clone(),
        host: cloud.peer.secret.clone(),
        registry: field.realm.id,
        receiver: Receiver::Registry(field.realm.id),
    };
    let complete = completes.sign(&source.service.ten(&honest, &consent));
    RegistryFrame::Complete(CompleteFrame { complete, consent }).to_bytes()
}

/// Attack 4. A cloud says that the state is there, on nobody's word but its own.
pub(super) async fn forged_complete(field: &mut Field) -> Done {
    let (mut source, cloud) = (field.source().await?, field.member(Role::Cloud).await?);
    let pin = pinned(field, &mut source, &cloud).await?;
    let transfer = source.service.consent(pin.ids, &pin.new_key);
    let honest = source.service.consents(cloud.peer.host);
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    for (what, by) in [
        ("10 with a forged consent", CoSigner { placement: thief(), host: thief(), ..honest.clone() }),
        ("10 with a stolen placement key's consent", CoSigner { host: cloud.peer.secret.clone(), ..honest }),
    ] {
        let ten = ten(field, &source, &cloud, &pin, &transfer, &by);
        field.shoot(&cloud.peer, registry, protocol, what, &ten, Reject::BadCoSignature).await?;
    }
    stays(field, &source).await?;
    // The same for the victims' own service: all that is in its record is public.
    let record = field.lookup(&cloud.peer, super::field::SERVICE).await?.0.unverified()?;
    let ids = MigrationIds { host: cloud.peer.host, cloud: cloud.certificate.unverified()?.cloud, ..record.ids() };
    let ten = ten(field, &source, &cloud, &Pinned { ids, ..pin }, &transfer, &source.service.consents(cloud.peer.host));
    field.shoot(&cloud.peer, registry, protocol, "10 for the victims' service", &ten, Reject::NotHostOfRecord).await?;
    Ok(())
}

/// A consent to one migration, shown as proof of another.
pub(super) async fn other_consent(field: &mut Field) -> Done {
    let (mut source, cloud) = (field.source().await?, field.member(Role::Cloud).await?);
    let first = pinned(field, &mut source, &cloud).await?;
    let second = pinned(field, &mut source, &cloud).await?;
    let old = source.service.consent(first.ids, &second.new_key);
    let ten = ten(field, &source, &cloud, &second, &old, &source.service.consents(cloud.peer.host));
    let what = "10 with the consent to an earlier attempt";
    field.shoot(&cloud.peer, Victim::Registry, Protocol::Registry, what, &ten, Reject::WrongMigration).await?;
    stays(field, &source).await
}

/// A cloud that was let in, and revoked: nobody may move there, and what was under way does not end there.
pub(super) async fn revoked_cloud(field: &mut Field) -> Done {
    let (mut source, cloud) = (field.source().await?, field.member(Role::Cloud).await?);
    let pin = pinned(field, &mut source, &cloud).await?;
    let body = serde_json::json!({ "target": cloud.name });
    let _: serde_json::Value = field.mesh.client(Victim::Registry.process())?.post(&["revoke"], &body).await?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let transfer = source.service.consent(pin.ids, &pin.new_key);
    let ten = ten(field, &source, &cloud, &pin, &transfer, &source.service.consents(cloud.peer.host));
    field
        .shoot(&cloud.peer, registry, protocol, "10 by a revoked cloud, all else honest", &ten, Reject::Revoked)
        .await?;
    let (_, two) = source.two(&cloud.advert(&field.realm)?)?;
    let two = RegistryFrame::VerifyCloud(two).to_bytes();
    field.shoot(&source.peer, registry, protocol, "2 about a revoked cloud", &two, Reject::Revoked).await?;
    stays(field, &source).await
}

/// The current placement key in the hands of somebody who is not the host of record.
pub(super) async fn stolen_placement_key(field: &mut Field) -> Done {
    let (source, robber) = (field.source().await?, field.member(Role::Cloud).await?);
    let (_, two) = source.two(&field.cloud_advert().await?)?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let two = RegistryFrame::VerifyCloud(two).to_bytes();
    field.shoot(&robber.peer, registry, protocol, "2 with a stolen key", &two, Reject::NotHostOfRecord).await?;
    let (placement, _) = field.lookup(&robber.peer, &source.service.manifest.name).await?;
    let renew = Renew { ids: placement.unverified()?.ids(), nonce: nonce() };
    let renew = RegistryFrame::Renew(source.service.to_registry().sign(&renew)).to_bytes();
    field.shoot(&robber.peer, registry, protocol, "RENEW with a stolen key", &renew, Reject::NotHostOfRecord).await?;
    Ok(())
}

/// Attack 8. The service has moved to the victims' cloud; its former host has kept the key and goes on.
pub(super) async fn old_host(field: &mut Field) -> Done {
    let mut source = field.source().await?;
    super::state::carry(field, &mut source).await?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let rogue = field.member(Role::Cloud).await?;
    let (_, two) = source.two(&rogue.advert(&field.realm)?)?;
    let two = RegistryFrame::VerifyCloud(two).to_bytes();
    field.shoot(&source.peer, registry, protocol, "2 by the former host", &two, Reject::NotHostOfRecord).await?;
    let (placement, _) = field.lookup(&source.peer, &source.service.manifest.name).await?;
    let current = placement.unverified()?;
    let renew = |ids| RegistryFrame::Renew(source.service.to_registry().sign(&Renew { ids, nonce: nonce() }));
    // Who asks under the epoch that it had is told what became of it, and given nothing.
    let old = source.ask(&renew(MigrationIds { epoch: source.service.epoch, ..current.ids() })).await?;
    let told = matches!(&old, RegistryFrame::Granted(Granted { answer: Answer::Outcome(_), .. }));
    let observed = if told { "registry: outcome, no lease".to_owned() } else { format!("registry: {}", old.name()) };
    field.note("RENEW of the old epoch", observed, told);
    let new = renew(current.ids()).to_bytes();
    let what = "RENEW of the new epoch with the old key";
    field.shoot(&source.peer, registry, protocol, what, &new, Reject::NotHostOfRecord).await?;
    field.harmless(current.host == field.cloud.host, "the record is not at the cloud");
    Ok(())
}

/// A registered service more on a home of the attacker's, and 4 for a move of it to the victims' cloud.
async fn another_four(field: &Field, source: &Source, number: usize) -> anyhow::Result<MigrateFrame> {
    let name = format!("{}-{number}", source.service.manifest.name);
    let mut service = Service::new(&field.realm, &source.peer.secret, &name, *KV_CODE);
    let register = service.to_registry().sign(&service.register());
    let manifest = service.signed_manifest.clone();
    source.ask(&RegistryFrame::Register(RegisterFrame { register, manifest, addresses: vec![] })).await?;
    let advert = field.cloud_advert().await?;
    let cloud = advert.unverified()?.cloud;
    let two = service.two(cloud, field.cloud.host, advert.hash());
    let two = VerifyCloudFrame { request: service.to_registry().sign(&two), advert };
    match source.ask(&RegistryFrame::VerifyCloud(two)).await? {
        RegistryFrame::YesCloud(verdict) => Ok(MigrateFrame::Request(service.four(&verdict, &mut entropy())?)),
        other => anyhow::bail!("no verdict, but {}", other.name()),
    }
}

/// Attack 6. Sessions that are begun and left; and one 4, again and again.
pub(super) async fn half_open_sessions(field: &mut Field) -> Done {
    let source = field.source().await?;
    let mut fours = Vec::new();
    for number in 0..=HALF_OPEN_PER_PEER_MAX {
        fours.push(another_four(field, &source, number).await?);
    }
    let (migrate, cloud) = (Protocol::Migrate, Victim::Cloud);
    let mut line = source.peer.line(&field.cloud, migrate).await?;
    let is_seven = |frame| if let MigrateFrame::Response(seven) = frame { Some(seven) } else { None };
    let (Some(last), Some(first)) = (fours.pop(), fours.first().cloned()) else { return Ok(()) };
    let mut answer = None;
    for four in &fours {
        line.say(four).await?;
        let seven = line.wait_for(is_seven).await?;
        answer.get_or_insert(seven);
    }
    let mut same = true;
    for _ in 0..fours.len() * 4 {
        line.say(&first).await?;
        same &= Some(line.wait_for(is_seven).await?) == answer;
    }
    let before = field.before(cloud).await?;
    line.say(&last).await?;
    let what = format!("a session beyond {HALF_OPEN_PER_PEER_MAX} of one peer");
    field.refused(before, &what, Reject::TooManyHalfOpen).await?;
    field.note("one 4 sixteen times", if same { "one session, one 7" } else { "different answers" }, same);
    // What was left half done is over after the step's time: the place is free again.
    let again = async {
        loop {
            tokio::time::sleep(STEP_TIMEOUT / 4).await;
            let mut line = source.peer.line(&field.cloud, migrate).await?;
            line.say(&last).await?;
            if let Ok(MigrateFrame::Response(_)) = line.hear().await {
                return anyhow::Ok(());
            }
        }
    };
    let freed = tokio::time::timeout(STEP_TIMEOUT * 5, again).await.is_ok_and(|freed| freed.is_ok());
    field.note("an honest session later", if freed { "taken" } else { "not taken" }, freed);
    Ok(())
}
