//! Named rejections. Each is a guard: what it refuses, the counter that counts it, the test that provokes it.

use std::fmt;

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $text:literal;)*) => {
        /// Why something a peer sent was refused. Nothing changed, unless the variant says so.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reject {
            $(#[doc = $text] $(#[$doc])* $variant,)*
        }

        impl Reject {
            /// Every rejection, in the order of this page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The metric label: lower case, stable.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What was refused, in words.
        pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

rejections! {
    // Bytes.
    FrameTooLarge => "frame_too_large", "the frame is longer than its kind allows";
    Malformed => "malformed", "the bytes are not a canonical encoding of the expected message";
    WrongVersion => "wrong_version", "the frame is of another protocol version";
    UnknownMessage => "unknown_message", "no message of this number exists on this stream";
    NoCommonVersion => "no_common_version", "the peer speaks no version of the protocol that this node speaks";
    UnexpectedMessage => "unexpected_message", "the message does not belong to the present step";
    FieldTooLong => "field_too_long", "a list or text is longer than allowed";

    // Who says so.
    BadSignature => "bad_signature", "the signature does not verify under the expected key, registry and receiver";
    BadCoSignature => "bad_co_signature", "the host's signature round the message does not verify";
    UnknownRegistry => "unknown_registry", "the registry is not in the trust bundle";
    BadCertificate => "bad_certificate", "the certificate is not the registry's, or names another host";
    CertificateExpired => "certificate_expired", "the certificate is not in date";
    WrongPeer => "wrong_peer", "the message came over another host's stream";
    NotEnrolled => "not_enrolled", "the host is not enrolled";
    Revoked => "revoked", "the host was revoked";
    WrongRole => "wrong_role", "the host's certificate does not allow this role";

    // What it is about.
    WrongService => "wrong_service", "the message names another service";
    WrongCloud => "wrong_cloud", "the message names another cloud or host";
    WrongMigration => "wrong_migration", "the message names another migration";
    WrongEpoch => "wrong_epoch", "the message names another epoch";
    WrongPlacementKey => "wrong_placement_key", "the message names another placement key";
    WrongNonce => "wrong_nonce", "the answer repeats another nonce";
    WrongHash => "wrong_hash", "the answer refers to another message";
    WrongDhShare => "wrong_dh_share", "the answer repeats another key share";
    WeakDhShare => "weak_dh_share", "the key share leads to an all-zero secret";
    WrongTos => "wrong_tos", "the message names another type of service";
    WrongManifest => "wrong_manifest", "the manifest is not the registered one";
    WrongCode => "wrong_code", "the module is not the one that the manifest names";
    WrongState => "wrong_state", "the state received is not the state that was consented to";
    WrongConsent => "wrong_consent", "the proof does not contain the consent it names";
    WrongMode => "wrong_mode", "the consent is for another mode";
    WrongSuite => "wrong_suite", "no offered cipher suite is supported, or another was chosen";
    WrongVerdict => "wrong_verdict", "the verdict answers another request";

    // When.
    Expired => "expired", "the message is past its expiry";
    NotYetValid => "not_yet_valid", "the message's time lies too far ahead of this clock";
    OldSerial => "old_serial", "a newer advertisement of this host is known";
    OldCounter => "old_counter", "the counter does not rise";
    UnknownAdvert => "unknown_advert", "the advertisement is not a current one of this host";
    Reused => "reused", "other bytes came before under the same nonce, migration or epoch";
    Finished => "finished", "the migration has ended";
    Conflict => "conflict", "another request holds this place";

    // What is allowed.
    UnknownService => "unknown_service", "no such service is registered or hosted here";
    UnknownMigration => "unknown_migration", "no such migration is known";
    NotHostOfRecord => "not_host_of_record", "the peer is not the host of record of this service";
    NameTaken => "name_taken", "the name is registered by another owner";
    PolicyForbids => "policy_forbids", "the owner's manifest forbids this";
    NoResources => "no_resources", "the resources asked for are not there";
    TooManyHalfOpen => "too_many_half_open", "too many unfinished migrations";
    Full => "full", "a table is at its limit";
    TooOften => "too_often", "the host advertises more often than it may";
    Recovering => "recovering", "the registry was restored from a backup and has not heard yet what the hosts know";
    Cordoned => "cordoned", "the host takes no services now";
    WrongOwner => "wrong_owner", "the order is not signed by the owner of the service";
    OldVersion => "old_version", "the manifest's version is not above that of the one before it";
    Removed => "removed", "the service was removed by its owner";
    NotFree => "not_free", "the removed service of this name may still be served: its lease has not ended";
    Stopped => "stopped", "the service is stopped by its owner";
    SelfMove => "self_move", "the service is there already";
    BadToken => "bad_token", "the join token is unknown, used or expired";
    BadResources => "bad_resources", "the resources named are impossible";

    Broken => "broken", "the service's instance cannot run";

    // State records.
    RecordOutOfOrder => "record_out_of_order", "the record's number is not the next one";
    RecordForged => "record_forged", "the record does not open under the migration's key";
    RecordInvalid => "record_invalid", "the record opens to something that is not part of a state";

    // Clients.
    NoSession => "no_session", "no session is open for this client";
    WrongClient => "wrong_client", "the client is not the one that this stream's gateway may speak for";
    BelowAcked => "below_acked", "the request's number is below what the client acknowledged";
    OtherRequest => "other_request", "another request came before under this number";
}

impl Reject {
    /// Whether an honest peer of a newer version provokes it: the message is dropped, and the stream stays.
    pub const fn is_of_newer_peer(self) -> bool {
        matches!(self, Self::UnknownMessage)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.name())
    }
}

impl std::error::Error for Reject {}

macro_rules! rules {
    ($($variant:ident => $name:literal, $text:literal;)*) => {
        /// What a machine must keep to whoever says what: a guard against crashes, delays and loss, not against a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $text] $variant,)*
        }

        impl Rule {
            /// Every rule, in the order of this page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Lower case, stable.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The rule in words.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

rules! {
    SyncGate => "sync_gate", "what makes a promise leaves only when its journal entry is on disk";
    HeldUntilDecided => "held_until_decided", "a held state ends by the Registry's decision only";
    ThawWhenAborted => "thaw_when_aborted", "a source that has consented serves again only when the Registry aborted the migration";
    DeleteByMigration => "delete_by_migration", "deletion touches one service, epoch and migration only";
    SealSuperseded => "seal_superseded", "a host that is superseded without its consent keeps the state, sealed";
    LeaseChecked => "lease_checked", "nothing is executed or answered without an unexpired lease";
    SuspendRestored => "suspend_restored", "a Registry restored from a backup decides nothing before the hosts have told what they know";
    FreeResources => "free_resources", "what an ended migration reserved is free again";
    Deduplicate => "deduplicate", "a request that was executed is not executed again";
    RefuseAcked => "refuse_acked", "a request below the client's mark is refused";
    LogBeforeReply => "log_before_reply", "a response leaves only when its request is in the log on disk";
    SingleUseMig => "single_use_mig", "a migration is decided once";
    LeaseBeforeName => "lease_before_name", "the name of a removed service is free only when nobody can serve it any more";
    StoppedIsStill => "stopped_is_still", "a stopped service executes nothing";
    RecordOnce => "record_once", "a state record is applied once, in its place";
}

/// Which guards are in force. Production code knows only [`Strict`]; the simulator and the tests switch single guards
/// off to prove that each is needed. A type parameter, because a cargo feature would leak into production builds.
pub trait Guards: Clone + Eq + std::hash::Hash + fmt::Debug + Default + Send + Sync + 'static {
    /// Whether the guard that rejects with `reject` is in force.
    fn enforces(reject: Reject) -> bool;

    /// Whether the machines keep to `rule`.
    fn keeps(_rule: Rule) -> bool {
        true
    }
}

/// Every guard in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strict;

impl Guards for Strict {
    fn enforces(_: Reject) -> bool {
        true
    }
}

/// The one way to check something a peer sent: `Err(reject)` unless `holds`, or the guard is off.
pub fn ensure<G: Guards>(holds: bool, reject: Reject) -> Result<(), Reject> {
    if holds || !G::enforces(reject) { Ok(()) } else { Err(reject) }
}

/// How often each rejection happened. The label is [`Reject::name`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RejectCounters(std::collections::BTreeMap<Reject, u64>);

impl RejectCounters {
    /// Counts one.
    pub fn count(&mut self, reject: Reject) {
        let count = self.0.entry(reject).or_default();
        *count = count.saturating_add(1);
    }

    /// How often `reject` happened.
    pub fn get(&self, reject: Reject) -> u64 {
        self.0.get(&reject).copied().unwrap_or(0)
    }

    /// Those that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        self.0.iter().map(|(reject, count)| (*reject, *count))
    }
}
