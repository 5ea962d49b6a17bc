//! Attacks on a service's state on its way, on what restarts forget, and what an attacker may do who has every key,
//! later.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use wayfare_net::Protocol;
use wayfare_node::state::read_key;
use wayfare_protocol::{
    ids::Digest,
    migration::{messages::*, source::Agreement},
    reject::{Reject, Strict},
    suite::{Dalek, Secret, Suite},
    transfer::{Opener, SealedRecord, StateFrame},
    trust::Role,
    wire::Frame,
};

use super::{
    field::{Field, Victim},
    peer::{Line, until},
    source::{Attempt, Source},
};

type Done = anyhow::Result<()>;

/// Bytes of a file that are searched at most.
const SEARCHED_BYTES_MAX: u64 = 256 << 20;

/// A move of the attacker's own service to the victims' cloud that was agreed on.
struct Agreed {
    attempt: Attempt,
    agreement: Agreement,
    seven: ResponseFrame,
    needs_module: bool,
    /// Without it the cloud gives the attempt up.
    line: Line,
}

/// 2 to 7, honestly.
async fn agreed(field: &Field, source: &mut Source) -> anyhow::Result<Agreed> {
    let mut attempt = source.attempt(&field.cloud_advert().await?).await?;
    let mut line = source.peer.line(&field.cloud, Protocol::Migrate).await?;
    line.say(&MigrateFrame::Request(attempt.four.clone())).await?;
    let seven = line.wait_for(|frame| if let MigrateFrame::Response(seven) = frame { Some(seven) } else { None });
    let seven = seven.await?;
    let agreement = source.agree(&mut attempt, &seven)?;
    let needs_module = seven.response.unverified()?.needs_module;
    Ok(Agreed { attempt, agreement, seven, needs_module, line })
}

/// What somebody has who recorded a move, and its key to compare with.
pub(super) struct Recording {
    pub(super) attempt: Attempt,
    agreement: Agreement,
    seven: ResponseFrame,
    records: Vec<SealedRecord>,
}

/// An honest move of the attacker's own service to the victims' cloud, which serves it from then on.
pub(super) async fn carry(field: &Field, source: &mut Source) -> anyhow::Result<Recording> {
    let Agreed { mut attempt, agreement, seven, needs_module, mut line } = agreed(field, source).await?;
    let (records, state) = source.records(&agreement, needs_module)?;
    let consent = source.consent(&mut attempt, state)?;
    line.say(&MigrateFrame::Transfer(consent)).await?;
    source.send_records(&field.cloud, &attempt, records.clone()).await?;
    line.wait_for(|frame| if let MigrateFrame::TransferAck(ack) = frame { Some(ack) } else { None }).await?;
    let name = source.service.manifest.name.clone();
    until("the attacker's own service to have moved", async || {
        let (placement, _) = field.lookup(&source.peer, &name).await.ok()?;
        (placement.unverified().ok()?.host == field.cloud.host).then_some(())
    })
    .await?;
    Ok(Recording { attempt, agreement, seven, records })
}

/// A record that was altered on its way, and one that comes twice.
pub(super) async fn altered_records(field: &mut Field) -> Done {
    let mut source = field.source().await?;
    for (what, expected) in
        [("a record with one bit changed", Reject::RecordForged), ("a record twice", Reject::RecordOutOfOrder)]
    {
        let Agreed { attempt, agreement, needs_module, line: _line, .. } = agreed(field, &mut source).await?;
        let (records, _) = source.records(&agreement, needs_module)?;
        let mut altered = records.clone();
        let first = records.first().context("a service has a state")?;
        if expected == Reject::RecordOutOfOrder {
            altered.insert(0, first.clone());
        } else if let Some(byte) = altered.first_mut().and_then(|record| record.sealed.first_mut()) {
            *byte ^= 1;
        }
        let before = field.before(Victim::Cloud).await?;
        let mut line = source.state_line(&field.cloud, &attempt).await?;
        for record in altered {
            line.say(&StateFrame::Record(record)).await?;
        }
        field.refused(before, what, expected).await?;
    }
    let there = field.at_cloud().await?.contains(&source.service.manifest.name);
    field.harmless(!there, "the cloud took the service");
    Ok(())
}

/// How many of `keys` open `record`: each as it is, and agreed with each share of the handshake.
///
/// # Errors
/// None of a record's own; [`Reject::RecordForged`] is what each wrong key leads to.
pub fn keys_that_open(keys: &[Secret], shares: &[[u8; 32]], transcript: Digest, record: &SealedRecord) -> usize {
    let opens = |key: &Secret| Opener::new(key.clone(), transcript).open::<Dalek, Strict>(record).is_ok();
    let agreed = |key: &Secret| {
        let mut agreed = shares.iter().filter_map(|share| Dalek::agree(key, share, &transcript));
        agreed.any(|key| opens(&key))
    };
    keys.iter().filter(|key| opens(key) || agreed(key)).count()
}

/// Attack 7. A recorded move, and later every long-term key there is: the Registry's, both hosts', the placement's, the
/// owner's; and the disks of the cloud.
pub(super) async fn leaked_keys(field: &mut Field) -> Done {
    let mut source = field.source().await?;
    let recording = carry(field, &mut source).await?;
    let mut keys = vec![source.peer.secret.clone(), source.service.key.clone(), source.service.owner.clone()];
    for (process, file) in [("registry", "registry.key"), ("cloud", "node.key"), ("home", "node.key")] {
        keys.push(read_key(&field.mesh.dir_of(process)?.join(file))?);
    }
    // An ed25519 key is used for key agreement as the scalar that it stands for.
    let scalars: Vec<Secret> = keys
        .iter()
        .map(|key| Secret::new(ed25519_dalek::SigningKey::from_bytes(key.expose()).to_scalar_bytes()))
        .collect();
    keys.extend(scalars);
    let (four, seven) = (recording.attempt.four.request.unverified()?, recording.seven.response.unverified()?);
    let (transcript, shares) = (recording.agreement.transcript, [four.share, seven.share_b]);
    let first = recording.records.first().context("a service has a state")?;
    let opened = keys_that_open(&keys, &shares, transcript, first);
    let observed = format!("{opened} of {} keys open a record ({})", keys.len(), Reject::RecordForged.name());
    field.note("a recorded move, opened with every long-term key", observed, opened == 0);
    // The one key that does, so that it is known that it would be noticed.
    let right = keys_that_open(std::slice::from_ref(&recording.agreement.key), &[], transcript, first) == 1;
    field.harmless(right, "not even the right key opens the record: nothing was shown");
    let (files, found) = search(field.mesh.dir_of("cloud")?, recording.agreement.key.expose())?;
    let observed = format!("in {found} of {files} files of the cloud");
    field.note("that move's own key, on the cloud's disk", observed, found == 0 && files > 0);
    Ok(())
}

/// How many files there are, and how many contain `needle`.
fn search(dir: &Path, needle: &[u8; 32]) -> anyhow::Result<(usize, usize)> {
    let (mut files, mut found, mut dirs) = (0, 0, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() && entry.metadata()?.len() <= SEARCHED_BYTES_MAX {
                files += 1;
                let bytes = fs::read(entry.path())?;
                found += usize::from(bytes.windows(needle.len()).any(|window| window == needle));
            }
        }
    }
    Ok((files, found))
}

/// What was refused, or is over, sent again to processes that were killed and started again.
pub(super) async fn replay_after_restart(field: &mut Field) -> Done {
    let mut source = field.source().await?;
    let advert = field.cloud_advert().await?;
    let (_, old_two) = source.two(&advert)?;
    let old_two = RegistryFrame::VerifyCloud(old_two);
    source.ask(&old_two).await?;
    let recording = carry(field, &mut source).await?;
    let four = MigrateFrame::Request(recording.attempt.four.clone()).to_bytes();
    let (name, token) = field.token(Role::Cloud).await?;
    let joining = field.stranger().await?;
    let hash = token.secret.hash();
    enrol(field, &joining, hash, Role::Cloud).await.with_context(|| format!("{name} does not join"))?;

    for process in [Victim::Registry, Victim::Cloud] {
        // Its counters begin at nothing again.
        field.mesh.restart(process.process()).await?;
    }
    field.served().await?;
    let (registry, protocol) = (Victim::Registry, Protocol::Registry);
    let late = field.stranger().await?;
    let again = field.realm.hears(&late.secret).sign(&field.realm.enrol(&late.secret, Role::Cloud, hash));
    let again = RegistryFrame::Enrol(again).to_bytes();
    field.shoot(&late, registry, protocol, "a used token, to a new process", &again, Reject::BadToken).await?;
    let what = "2 of an epoch that is over, to a new process";
    field.shoot(&source.peer, registry, protocol, what, &old_two.to_bytes(), Reject::NotHostOfRecord).await?;
    let what = "4 of a move that is over, to a new process";
    field.shoot(&source.peer, Victim::Cloud, Protocol::Migrate, what, &four, Reject::Finished).await?;
    Ok(())
}

/// Joins by a token.
pub(super) async fn enrol(
    field: &Field,
    peer: &super::peer::Peer,
    token: Digest,
    role: Role,
) -> anyhow::Result<Enrolled> {
    let enrol = field.realm.hears(&peer.secret).sign(&field.realm.enrol(&peer.secret, role, token));
    let mut line = peer.line(&field.registry, Protocol::Registry).await?;
    line.say(&RegistryFrame::Enrol(enrol)).await?;
    match line.hear().await? {
        RegistryFrame::Enrolled(enrolled) => Ok(enrolled),
        other => bail!("not enrolled: {}", other.name()),
    }
}
