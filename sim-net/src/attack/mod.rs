//! The attacker: a malicious node that speaks the real protocol to real nodes and a real Registry, over sockets.
//!
//! [`run`] starts victims, each a process of the product, lets a client count at their service, and carries out the attacks
//! of [`ATTACKS`]. An attack is blocked if the victim itself says so: its own counter rises by the rejection's name, it ends the
//! connection, its memory stays as it was. That nothing happens within some time is no block. Meanwhile no request of the
//! client may fail, and the victims' record may not move.
//!
//! Open next: `field` for the victims and what the attacker is given, then the attacks: `handshake`, `state`,
//! `orders`, `gossip`, `transport`. [`peer`], [`hand`], [`sign`], [`source`] and [`wire`] are what they are made of; tests use
//! them too. That each attack succeeds where its guard is missing is shown by `tests/tests/attacks/proofs.rs`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::LocalBoxFuture;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::{LoadClient, LoadConfig, LoadReport},
    emulator::Timer,
    processes::Programs,
};

mod command;
mod field;
mod gossip;
pub mod hand;
mod handshake;
mod orders;
pub mod peer;
mod report;
pub mod sign;
pub mod source;
mod state;
mod transport;
pub mod wire;

pub(crate) use command::AttackArgs;
use field::Field;
pub use report::{Clients, Row, Summary};
pub use state::keys_that_open;

/// Requests a second of the client that counts meanwhile.
const RATE_PER_S: f64 = 50.0;
/// For how long it may have to.
const LENGTH_MAX: Duration = Duration::from_secs(1800);
/// How long one attack may take.
const ATTACK_WITHIN: Duration = Duration::from_secs(180);

/// What stands in the way of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defence {
    /// A check: without it the attack succeeds.
    Guard,
    /// The encryption and authentication of each connection.
    Transport,
    /// A limit on what one may cost others.
    Bound,
}

impl Defence {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Transport => "transport",
            Self::Bound => "bound, not guard",
        }
    }
}

type Play = for<'a> fn(&'a mut Field) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// One attack.
#[derive(Clone, Copy)]
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in a line.
    pub does: &'static str,
    /// What a success would be worth.
    pub worth: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// What stands in its way.
    pub defence: Defence,
    /// Whether the victims' service is moved for it, by an operator.
    moves: bool,
    play: Play,
}

impl std::fmt::Debug for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! attacks {
    ($($defence:ident $play:path, $name:literal: $does:literal, $worth:literal => $expected:literal;)*) => {
        /// Every attack, in the order in which they are carried out.
        pub const ATTACKS: &[Attack] = &[$(Attack {
            name: $name,
            does: $does,
            worth: $worth,
            expected: $expected,
            defence: Defence::$defence,
            moves: matches!($name.as_bytes(), b"stale-placement"),
            play: |field| Box::pin($play(field)),
        },)*];
    };
}

attacks! {
    // PROTOCOL 8.
    Guard handshake::forged_yes, "forged-yes":
        "shows a cloud, and the home, a verdict that the Registry never gave",
        "any cloud could be made to take any service, and any home to give its own to a rogue"
        => "bad_signature, wrong_peer";
    Guard handshake::impostor_service, "impostor-service":
        "asks the Registry to confirm a genuine migration under the attacker's own key",
        "the attacker's code would run as the service"
        => "wrong_placement_key";
    Guard handshake::redirected_verdict, "redirected-verdict":
        "uses a verdict that another source, or another service, was given; asks an old question again",
        "one yes would serve every service, and outlive a revocation"
        => "bad_signature, wrong_service, old_counter";
    Guard handshake::forged_complete, "forged-complete":
        "tells the Registry that a state has arrived, without the consent of its host",
        "the location record, and with it all clients, could be taken by anybody"
        => "bad_co_signature, not_host_of_record";
    Guard gossip::forged_advert, "forged-advert":
        "advertises a cloud that nobody enrolled, another's name, and another's advert with its own address",
        "services and clients would be drawn to a machine of the attacker's"
        => "bad_certificate, bad_signature";
    Bound handshake::half_open_sessions, "half-open-sessions":
        "begins migrations and leaves them, and repeats one request again and again",
        "a cloud's places would be taken for ever"
        => "too_many_half_open, and free again after the step's time";
    Guard state::leaked_keys, "leaked-keys":
        "records a move, then has every long-term key there is and the target's disk",
        "all states that ever moved could be read afterwards"
        => "record_forged: no key opens a record";
    Guard handshake::old_host, "old-host":
        "goes on as a service that has moved away, with the key it had",
        "the former host could take the service back, or move it on"
        => "not_host_of_record, no lease";
    // Keys, verdicts, consents.
    Guard handshake::stolen_placement_key, "stolen-placement-key":
        "speaks for a service with its current key, from another machine",
        "a key read from a backup would be the service"
        => "not_host_of_record";
    Guard handshake::revoked_cloud, "revoked-cloud":
        "completes a move to a cloud that was revoked meanwhile, and asks for another",
        "revoking a cloud would not keep services away from it"
        => "revoked";
    Guard handshake::other_consent, "other-consent":
        "proves a move by the consent to an earlier attempt",
        "a consent once given would move the service whenever a cloud likes"
        => "wrong_migration";
    Guard state::altered_records, "altered-records":
        "changes a bit of the state on its way; sends a part of it twice",
        "the service would go on from a state that it never had"
        => "record_forged, record_out_of_order";
    Guard gossip::forged_placement, "forged-placement":
        "gossips that the service is now at the attacker's",
        "every client's requests would go there"
        => "bad_signature";
    Guard gossip::stale_advert, "stale-advert":
        "gossips what a cloud said before it said something else",
        "services would go to where there is no room, or nobody any more"
        => "old_serial";
    Guard gossip::shared_identity, "shared-identity":
        "runs two machines under one key, and joins with it under a second name",
        "one certificate would cover any number of machines and providers"
        => "reused, conflict";
    // Owners, members, clients.
    Guard orders::altered_order, "altered-order":
        "makes an owner's STOP into a REMOVE on its way",
        "whoever passes an order on could delete the service"
        => "wrong_owner";
    Guard orders::replayed_order, "replayed-order":
        "repeats an old STOP after the owner's START",
        "a service could be stopped again and again by whoever saw it stopped once"
        => "old_counter";
    Guard orders::others_order, "others-order":
        "orders the victims' service stopped and removed, as the owner of another; also at its host",
        "anybody could stop or delete any service"
        => "wrong_owner, wrong_peer";
    Guard orders::order_after_removal, "order-after-removal":
        "starts, and registers again, a service that its owner has removed",
        "what was deleted would come back, under the same name"
        => "removed, not_free";
    Guard orders::forged_tombstone, "forged-tombstone":
        "shows the host, and the Registry, a tombstone that the Registry never made",
        "the host would delete the service and its state"
        => "wrong_peer, bad_signature";
    Guard orders::token_twice, "token-twice":
        "joins by a token that somebody has used, and by one that nobody made",
        "one invitation would let in any number of machines"
        => "bad_token";
    Guard orders::other_registry, "other-registry":
        "says to another Registry what was signed for the first",
        "a member of one realm could act in another"
        => "bad_signature, unknown_registry";
    Guard orders::stolen_session, "stolen-session":
        "sends the home a request in another gateway's client's name, and a HELLO with another's certificate",
        "answers of others could be read, and their requests spent"
        => "wrong_client, bad_certificate";
    // The wire.
    Transport transport::man_in_the_middle, "man-in-the-middle":
        "changes bits of the clients' connection under way and as it begins, and plays a recorded one again",
        "requests and migrations could be altered or repeated"
        => "the connection ends; net.inbound_failed";
    Transport transport::wrong_key, "wrong-key":
        "answers at the home's address with a key of its own",
        "clients' requests would go to whoever owns the network"
        => "the dialler ends the connection: wrong key";
    Transport transport::downgrade, "downgrade":
        "speaks a version that nobody speaks, and a new message on an old stream",
        "an older protocol's weaknesses could be had again"
        => "no_common_version, wrong_version";
    Bound transport::broken_frames, "broken-frames":
        "sends frames beyond the cap, cut short, and with bytes too many",
        "a victim could be made to fail, or to take one message for another"
        => "frame_too_large, malformed";
    Bound transport::length_bomb, "length-bomb":
        "promises lengths that never come, endless lists, compressed bytes, an endless HTTP body",
        "a few bytes would take a victim's memory"
        => "malformed, wrong_version, 413, memory bounded";
    Bound transport::half_open_handshakes, "half-open-handshakes":
        "opens hundreds of connections and says nothing on them, for ever",
        "nobody honest could connect any more"
        => "the victim ends them; net.inbound_failed";
    Bound transport::slow_reader, "slow-reader":
        "asks the service for much, and reads no answer",
        "answers would fill the home's memory, and hold up other clients"
        => "the victim ends the stream; memory bounded";
    Bound gossip::advert_flood, "advert-flood":
        "floods the home with adverts, of strangers and of members",
        "the home would forget the honest clouds, or run out of memory"
        => "bad_signature; the honest cloud stays known";
    // Last: they restart victims, and move their service.
    Guard state::replay_after_restart, "replay-after-restart":
        "repeats what was used up or is over to a Registry and a cloud that were killed and restarted",
        "a crash would make every old message good again"
        => "bad_token, not_host_of_record, finished";
    Guard gossip::stale_placement, "stale-placement":
        "gossips, after a move, where the service was before it",
        "clients would go back to the former host"
        => "wrong_epoch";
}

/// The attacks asked for, in order.
///
/// # Errors
/// There is none of such a name.
pub fn chosen(only: &[String]) -> Result<Vec<Attack>, String> {
    for name in only {
        if !ATTACKS.iter().any(|attack| attack.name == name) {
            let names: Vec<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
            return Err(format!("there is no attack `{name}`; there are {}", names.join(", ")));
        }
    }
    let wanted = |attack: &&Attack| only.is_empty() || only.iter().any(|name| name == attack.name);
    Ok(ATTACKS.iter().filter(wanted).copied().collect())
}

/// Carries the attacks out against the programs that are beside this one.
///
/// # Errors
/// The programs are not there, a victim does not start, or this was interrupted.
pub async fn run(attacks: &[Attack], quiet: bool) -> anyhow::Result<Summary> {
    run_against(Programs::beside_this()?, attacks, quiet).await
}

/// As [`run`], against these programs.
///
/// # Errors
/// As [`run`].
pub async fn run_against(programs: Programs, attacks: &[Attack], quiet: bool) -> anyhow::Result<Summary> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Everything ends with the future that it lives in: processes and files.
    tokio::select! {
        summary = play(programs, attacks, quiet) => summary,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("interrupted"),
    }
}

async fn play(programs: Programs, attacks: &[Attack], quiet: bool) -> anyhow::Result<Summary> {
    let begun = Instant::now();
    let progress = report::Progress::new(quiet);
    progress.say("starting two registries, a home, a cloud and a gateway, each a process");
    let mut field = Field::start(&programs).await.context("the victims do not start")?;
    let mut load = LoadConfig::new(field.ingress);
    (load.rate_per_s, load.duration) = (RATE_PER_S, LENGTH_MAX);
    let client = LoadClient::start(load, Timer::start()?).await?;
    let mut rows = Vec::new();
    for attack in attacks {
        progress.attacking(attack, rows.len() + 1, attacks.len());
        let row = carry_out(&mut field, attack).await;
        progress.done(&row);
        rows.push(row);
    }
    client.stop();
    let report = client.finish().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut summary = Summary { seconds, attacks: rows, clients: clients(&report), kept: None };
    summary.kept = field.end(!summary.is_clean());
    Ok(summary)
}

/// One attack, and what the victims say of it.
async fn carry_out(field: &mut Field, attack: &Attack) -> Row {
    let begun = Instant::now();
    let before = field.record().await;
    let played = tokio::time::timeout(ATTACK_WITHIN, (attack.play)(field)).await;
    let failure = match played {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("not carried out: {error:#}")),
        Err(_) => Some("not carried out in time".to_owned()),
    };
    field.wire.set(wire::Mode::Pass);
    let mut harm = failure;
    match (before, field.record().await) {
        (Ok(before), Ok(after)) if before != after && !attack.moves => {
            harm = Some(format!("the victims' record moved: {before}, then {after}"));
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) | (_, Err(error)) => harm = Some(format!("no record of the victims' service: {error:#}")),
    }
    Row::new(attack, field.take_seen(), harm, begun.elapsed())
}

fn clients(report: &LoadReport) -> Clients {
    Clients {
        sent: report.sent,
        answered: report.ok,
        failed: report.failed,
        lost: report.lost,
        doubled: report.duplicated,
        longest_ms: report.latency_ms.max,
        failures: report.failures.clone(),
        audit_failure: report.audit_failure.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_and_each_says_what_it_does_and_is_worth() {
        let names: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for Attack { name, does, worth, expected, .. } in ATTACKS {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
            assert!(!does.is_empty() && !worth.is_empty() && !expected.is_empty(), "{name}");
        }
    }

    #[test]
    fn only_what_there_is_can_be_chosen() {
        assert_eq!(chosen(&[]).unwrap().len(), ATTACKS.len());
        let two = chosen(&["token-twice".to_owned(), "forged-yes".to_owned()]).unwrap();
        assert_eq!(format!("{two:?}"), "[forged-yes, token-twice]", "in their own order");
        assert!(
            chosen(&["swim".to_owned()]).unwrap_err().starts_with("there is no attack `swim`; there are forged-yes, ")
        );
    }
}
