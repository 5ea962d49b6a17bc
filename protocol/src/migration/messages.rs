//! The messages of PROTOCOL 3, by number, and the frames that carry them.
//!
//! `ids` is [`MigrationIds`]; `T_A`, `T_B`, `T_comp` are wall-clock times. `HostId` is the host's key, so the paper's
//! `vkB` is `ids.host`.

use serde::{Deserialize, Serialize};

use crate::{
    advert::Advert,
    ids::{CloudId, Digest, Epoch, HostId, MigrationId, MigrationIds, Nonce, PlacementKey, ServiceId},
    limits::SHOWN_BYTES_MAX,
    manifest::{Manifest, Resources, ServiceType},
    order::{OrderDone, OrderFrame, OrderState, Tombstone},
    time::{Micros, Timestamp},
    trust::{Certificate, CoSigned, Message, Role, Signed},
    wire::{Wire, bodies, frames},
};

/// Makes types wire messages with a label each.
macro_rules! messages {
    ($($name:ident $label:literal,)*) => {
        $(
            impl Wire for $name {
                const LIMIT: usize = 2048;
            }

            impl Message for $name {
                const LABEL: &'static str = concat!("wayfare/1 ", $label);
            }
        )*
    };
}

messages! {
    VerifyCloud "2 VERIFY_CLOUD",
    YesCloud "3 YES_CLOUD",
    NoCloud "3 NO_CLOUD",
    Request "4 REQUEST",
    VerifyService "5 VERIFY_SERVICE",
    YesService "6 YES_SERVICE",
    NoService "6 NO_SERVICE",
    Response "7 RESPONSE",
    Transfer "8 TRANSFER",
    TransferAck "9 TRANSFER_ACK",
    TransferComplete "10 TRANSFER_COMPLETE",
    Placement "11 PLACEMENT",
    Released "12 RELEASED",
    Register "REGISTER",
    Renew "RENEW",
    Reclaim "RECLAIM",
    Cancel "CANCEL",
    Lease "LEASE",
    Aborted "ABORTED",
    Outcome "OUTCOME",
    Enrol "ENROL",
}

impl Wire for Shown {
    const LIMIT: usize = SHOWN_BYTES_MAX + 2048;
}

impl Message for Shown {
    const LABEL: &'static str = "wayfare/1 SHOWN";
}

bodies! {
    VerifyCloudFrame 8192,
    RequestFrame 32 * 1024,
    ResponseFrame 8192,
    CompleteFrame 8192,
    RegisterFrame 32 * 1024,
    Granted 8192,
    Refused 512,
    Enrolled 4096,
    Lookup 512,
    Found 32 * 1024,
    Recovering 64,
    ShownFrame 60 * 1024,
    MigrationRef 64,
    RecordsAcked 64,
}

/// A cipher suite for state records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SuiteId {
    /// X25519, HKDF-SHA256, ChaCha20-Poly1305: mandatory.
    X25519ChaCha20Poly1305,
}

/// How a move is authorised; part of the consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Algorithm 1: the Registry is the arbiter.
    Registry,
    /// Trust_Token: the target is the arbiter.
    Token,
}

/// Why a verdict is NO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoReason {
    /// The cloud or host is not enrolled.
    NotEnrolled,
    /// The cloud or host was revoked.
    Revoked,
    /// The advert is expired, not the cloud's, or was superseded.
    BadAdvert,
    /// The owner's manifest forbids it.
    PolicyForbids,
    /// The advert does not offer what the service needs.
    NoResources,
    /// The service, epoch, key or migration is not the one of record.
    NotOfRecord,
}

impl NoReason {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::NotEnrolled, Self::Revoked, Self::BadAdvert, Self::PolicyForbids, Self::NoResources, Self::NotOfRecord];

    /// The metric label: lower case, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEnrolled => "not_enrolled",
            Self::Revoked => "revoked",
            Self::BadAdvert => "bad_advert",
            Self::PolicyForbids => "policy_forbids",
            Self::NoResources => "no_resources",
            Self::NotOfRecord => "not_of_record",
        }
    }
}

/// 2, `SA → R`: may this service move to this cloud? Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerifyCloud {
    /// The service.
    pub service: ServiceId,
    /// Its epoch now.
    pub epoch: Epoch,
    /// Its placement key now.
    pub key: PlacementKey,
    /// The provider asked about.
    pub cloud: CloudId,
    /// The provider's host.
    pub host: HostId,
    /// h(1): the advert this rests on.
    pub advert: Digest,
    /// Rises per (service, epoch).
    pub counter: u64,
    /// N1.
    pub nonce: Nonce,
}

/// 3, `R → SA`: yes, under this migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct YesCloud {
    /// The request it answers, field by field.
    pub request: VerifyCloud,
    /// What the advert offers, as R accepted it.
    pub resources: Resources,
    /// Hash of the owner's signed manifest.
    pub manifest: Digest,
    /// The attempt, made for this verdict.
    pub mig: MigrationId,
    /// End of validity.
    pub expiry: Timestamp,
}

/// 3, `R → SA`: no.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NoCloud {
    /// The request it answers.
    pub request: VerifyCloud,
    /// Why.
    pub reason: NoReason,
}

/// 4, `SA → CB`: take this service. Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Which attempt.
    pub ids: MigrationIds,
    /// vkS.
    pub key: PlacementKey,
    /// Type of service.
    pub tos: ServiceType,
    /// N_A.
    pub nonce: Nonce,
    /// g^x.
    pub share: [u8; 32],
    /// h(3).
    pub verdict: Digest,
    /// T_A.
    pub asked: Timestamp,
    /// What the service needs.
    pub required: Resources,
    /// Hash of the owner's signed manifest.
    pub manifest: Digest,
    /// Supported suites, best first.
    pub suites: Vec<SuiteId>,
}

/// 5, `CB → R`: did you authorise this service to come here? Signed with the host's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerifyService {
    /// Which attempt.
    pub ids: MigrationIds,
    /// vkS.
    pub key: PlacementKey,
    /// N2.
    pub nonce: Nonce,
    /// h(4).
    pub request: Digest,
    /// vkNew: the key that the placement here would have.
    pub new_key: PlacementKey,
}

/// 6, `R → CB`: yes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct YesService {
    /// The request it answers, field by field.
    pub request: VerifyService,
    /// Hash of the owner's signed manifest.
    pub manifest: Digest,
    /// Type of service.
    pub tos: ServiceType,
    /// End of validity.
    pub expiry: Timestamp,
}

/// 6, `R → CB`: no.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NoService {
    /// The request it answers.
    pub request: VerifyService,
    /// Why.
    pub reason: NoReason,
}

/// 7, `CB → SA`: come. Signed with the host's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Response {
    /// Which attempt.
    pub ids: MigrationIds,
    /// The paper's TOS of the answerer: a cloud.
    pub tos: ServiceType,
    /// N_A of 4.
    pub nonce_a: Nonce,
    /// N_B.
    pub nonce_b: Nonce,
    /// g^x of 4.
    pub share_a: [u8; 32],
    /// g^y.
    pub share_b: [u8; 32],
    /// h(4).
    pub request: Digest,
    /// vkNew, as pinned by 6.
    pub new_key: PlacementKey,
    /// The suite chosen from 4.
    pub suite: SuiteId,
    /// T_B.
    pub answered: Timestamp,
    /// What is reserved for the service.
    pub granted: Resources,
    /// Whether B lacks the module and wants it as the first records.
    pub needs_module: bool,
}

/// The last of 8, `SA → CB`: consent. Signed with vkS, then by host A.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transfer {
    /// Which attempt.
    pub ids: MigrationIds,
    /// vkNew.
    pub new_key: PlacementKey,
    /// Hash of 4 and 7.
    pub transcript: Digest,
    /// N_B of 7.
    pub nonce_b: Nonce,
    /// h(state).
    pub state: Digest,
    /// How the move is authorised.
    pub mode: Mode,
}

/// 9, `CB → SA`: held, durably, under this consent. Signed with the host's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransferAck {
    /// Which attempt.
    pub ids: MigrationIds,
    /// Hash of 4 and 7.
    pub transcript: Digest,
    /// N_A of 4.
    pub nonce_a: Nonce,
    /// h(state) as held.
    pub state: Digest,
    /// Hash of the consent.
    pub consent: Digest,
    /// T_comp.
    pub completed: Timestamp,
}

/// 10, `SB → R`: the state is here. Signed with vkNew, then by host B.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransferComplete {
    /// Which attempt.
    pub ids: MigrationIds,
    /// Type of service.
    pub tos: ServiceType,
    /// vkNew.
    pub new_key: PlacementKey,
    /// Hash of 4 and 7.
    pub transcript: Digest,
    /// h(state) as held.
    pub state: Digest,
    /// Hash of the consent, which travels with this.
    pub consent: Digest,
    /// T_A.
    pub asked: Timestamp,
    /// T_B.
    pub answered: Timestamp,
    /// T_comp.
    pub completed: Timestamp,
}

/// 11, `R → SB, SA`, then gossip: the record. Who holds the newest one under an unexpired lease serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Placement {
    /// The service.
    pub service: ServiceId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The provider.
    pub cloud: CloudId,
    /// The host.
    pub host: HostId,
    /// The placement's key.
    pub key: PlacementKey,
    /// The attempt that led here.
    pub mig: MigrationId,
    /// Where it was before; the host itself for a first placement.
    pub previous: HostId,
    /// Hash of the owner's signed manifest.
    pub manifest: Digest,
    /// When R answered.
    pub issued: Timestamp,
    /// How long it holds from then.
    pub lease: Micros,
}

impl Placement {
    /// The fields that a RENEW of this placement names.
    pub const fn ids(&self) -> MigrationIds {
        MigrationIds { service: self.service, cloud: self.cloud, host: self.host, mig: self.mig, epoch: self.epoch }
    }

    /// Whether a client may still use it. Stated skew: [`CLOCK_SKEW`](crate::limits::CLOCK_SKEW).
    pub fn is_current(&self, now: Timestamp) -> bool {
        now <= self.issued + self.lease + crate::limits::CLOCK_SKEW
    }
}

/// 12, `SA → R`: the copy is deleted. Signed with the host's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Released {
    /// Which attempt.
    pub ids: MigrationIds,
    /// From sending 4 to receiving 7, by A's clock.
    pub response: Micros,
    /// From receiving 7 to receiving 9 (or 11), by A's clock.
    pub transfer: Micros,
}

/// `H → R`: a new service starts here. Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Register {
    /// The service.
    pub service: ServiceId,
    /// Hash of the owner's signed manifest, which travels with this.
    pub manifest: Digest,
    /// Its first placement key.
    pub key: PlacementKey,
    /// Where it starts.
    pub host: HostId,
    /// Makes the answer fresh.
    pub nonce: Nonce,
}

/// `S → R`: prolong the lease of the placement that `ids` name. Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Renew {
    /// The placement's own ids.
    pub ids: MigrationIds,
    /// Makes the answer fresh.
    pub nonce: Nonce,
}

/// `SA → R`, after consent: decide this migration. Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reclaim {
    /// Which attempt.
    pub ids: MigrationIds,
    /// Makes the answer fresh.
    pub nonce: Nonce,
}

/// `SA → R`, before consent: this attempt is off. Signed with vkS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cancel {
    /// Which attempt.
    pub ids: MigrationIds,
    /// Makes the answer fresh.
    pub nonce: Nonce,
}

/// `R → S`: the placement is yours for another lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The RENEW (or REGISTER) it answers, by hash.
    pub answers: Digest,
    /// Hash of the placement that travels with this.
    pub placement: Digest,
}

/// `R → SA`: the attempt is over, the service is yours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Aborted {
    /// Which attempt.
    pub ids: MigrationIds,
    /// The RECLAIM or CANCEL it answers, by hash.
    pub answers: Digest,
    /// Hash of the placement, with its fresh lease, that travels with this.
    pub placement: Digest,
}

/// How a migration was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// The record moved to the target.
    Won,
    /// It did not, and never will under this attempt.
    Aborted,
}

/// `R → SA or SB`: how the attempt was decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// Which attempt.
    pub ids: MigrationIds,
    /// The RECLAIM or TRANSFER_COMPLETE it answers, by hash.
    pub answers: Digest,
    /// The decision.
    pub decision: Decision,
    /// Hash of the current placement, which travels with this.
    pub placement: Digest,
}

/// A new node's request for a certificate. Signed with the host's key: proof of possession.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Enrol {
    /// The host's key.
    pub host: HostId,
    /// The role asked for; the token must allow it.
    pub role: Role,
    /// Where the provider says the host is.
    pub region: String,
    /// Hash of the join token's secret; the secret itself never travels.
    pub token: Digest,
    /// Makes the answer fresh.
    pub nonce: Nonce,
}

/// The answer to [`Enrol`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Enrolled {
    /// The request's nonce.
    pub nonce: Nonce,
    /// The certificate.
    pub certificate: Signed<Certificate>,
}

/// 2 with the advert that it names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerifyCloudFrame {
    /// 2.
    pub request: Signed<VerifyCloud>,
    /// 1.
    pub advert: Signed<Advert>,
}

/// 4 with 3 and the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestFrame {
    /// 4.
    pub request: Signed<Request>,
    /// 3.
    pub verdict: Signed<YesCloud>,
    /// The owner's word.
    pub manifest: Signed<Manifest>,
}

/// 7 with 6.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResponseFrame {
    /// 7.
    pub response: Signed<Response>,
    /// 6.
    pub verdict: Signed<YesService>,
}

/// 10 with the consent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompleteFrame {
    /// 10.
    pub complete: CoSigned<TransferComplete>,
    /// The last of 8.
    pub consent: CoSigned<Transfer>,
}

/// REGISTER with the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegisterFrame {
    /// REGISTER.
    pub register: Signed<Register>,
    /// The owner's word.
    pub manifest: Signed<Manifest>,
    /// Where the host is reached, for [`Found`]: a home does not advertise. Not signed: whoever dials checks the key.
    pub addresses: Vec<String>,
}

/// R's signed answer together with the placement that it names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Granted {
    /// LEASE, ABORTED or OUTCOME.
    pub answer: Answer,
    /// The placement as of now.
    pub placement: Signed<Placement>,
}

/// The three signed answers that come with a placement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// To RENEW and REGISTER.
    Lease(Signed<Lease>),
    /// To RECLAIM and CANCEL.
    Aborted(Signed<Aborted>),
    /// To RECLAIM and 10.
    Outcome(Signed<Outcome>),
}

/// A refusal that needs no signature: it changes nothing, and comes over the authenticated stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refused {
    /// Hash of the refused message, or the token of an [`Enrol`], or the mig of a [`Request`] padded with zeros.
    pub about: Digest,
    /// [`Reject::name`](crate::reject::Reject::name).
    pub reason: String,
}

/// Where is this service? By identifier or name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lookup {
    /// By identifier.
    Id(ServiceId),
    /// By name.
    Name(String),
}

/// Answer to [`Lookup`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Found {
    /// The question.
    pub lookup: Lookup,
    /// The record, and the owner's word. `None`: no such service.
    pub service: Option<(Signed<Placement>, Signed<Manifest>)>,
    /// Where the host of record is reached, if R knows.
    pub addresses: Vec<String>,
}

/// `R → host`: this Registry was restored from a backup; show what you have of its services (PROTOCOL 4, rule 7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recovering {
    /// Of this recovery: [`Shown`] repeats it.
    pub nonce: Nonce,
}

/// A placement under which its host keeps an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShownStay {
    /// R's word for it.
    pub placement: Signed<Placement>,
    /// The attempt to move it away that this host has consented to and that it has heard no decision of.
    pub consent: Option<MigrationIds>,
}

/// `host → R`: what it has of R's services, as of one moment; in several parts if it is much. Signed with the host's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shown {
    /// Of the [`Recovering`] that this answers.
    pub nonce: Nonce,
    /// This part, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// The services that are here, frozen ones included.
    pub stays: Vec<ShownStay>,
    /// States that are held here until R decides (10 is out).
    pub held: Vec<MigrationIds>,
    /// The newest placements heard of services that have left, or that are kept sealed.
    pub elsewhere: Vec<Signed<Placement>>,
}

/// [`Shown`] with what R may have forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShownFrame {
    /// What the host has.
    pub shown: Signed<Shown>,
    /// R's word on the host: it may have enrolled after the backup.
    pub certificate: Signed<Certificate>,
    /// Owners' words on the services of this part.
    pub manifests: Vec<Signed<Manifest>>,
    /// Where the host is reached, for [`Found`]. Not signed: whoever dials checks the key.
    pub addresses: Vec<String>,
}

/// A frame about a migration and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MigrationRef {
    /// Which attempt.
    pub mig: MigrationId,
}

/// `B → A`: state records up to and without this number have arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordsAcked {
    /// Which attempt.
    pub mig: MigrationId,
    /// The next number expected.
    pub next: u64,
}

frames! {
    /// `/wayfare/registry/1`, both directions.
    RegistryFrame, max crate::limits::FRAME_BYTES_MAX, {
        2 VerifyCloud(VerifyCloudFrame),
        3 YesCloud(Signed<YesCloud>),
        5 VerifyService(Signed<VerifyService>),
        6 YesService(Signed<YesService>),
        10 Complete(CompleteFrame),
        11 Placement(Signed<Placement>),
        12 Released(Signed<Released>),
        33 NoCloud(Signed<NoCloud>),
        36 NoService(Signed<NoService>),
        40 Register(RegisterFrame),
        41 Renew(Signed<Renew>),
        42 Reclaim(Signed<Reclaim>),
        43 Cancel(Signed<Cancel>),
        44 Granted(Granted),
        45 Refused(Refused),
        46 Enrol(Signed<Enrol>),
        47 Enrolled(Enrolled),
        48 Lookup(Lookup),
        49 Found(Found),
        53 Recovering(Recovering),
        54 Shown(ShownFrame),
        /// To R: an owner's order, or a question what became of it. From R: carry it out.
        55 Order(OrderFrame) since 2,
        56 OrderDone(Signed<OrderDone>) since 2,
        57 OrderState(OrderState) since 2,
        /// R to whoever asks about a service that its owner has removed; a host to an R that has forgotten that.
        58 Removed(Signed<Tombstone>) since 2,
    }
}

frames! {
    /// `/wayfare/migrate/1`, both directions.
    MigrateFrame, max crate::limits::FRAME_BYTES_MAX, {
        4 Request(RequestFrame),
        7 Response(ResponseFrame),
        8 Transfer(CoSigned<Transfer>),
        9 TransferAck(Signed<TransferAck>),
        /// B to A: no; A serves on (before consent), or asks R (after it).
        50 Refused(MigrateRefused),
        /// A to B, before consent: never mind.
        51 Abandon(MigrationRef),
        52 RecordsAcked(RecordsAcked),
    }
}

/// `B → A`: the attempt is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MigrateRefused {
    /// Which attempt.
    pub mig: MigrationId,
    /// [`Reject::name`](crate::reject::Reject::name).
    pub reason: String,
}

bodies! {
    MigrateRefused 512,
}
