//! The Registry's state as people and scripts see it: the JSON of the control API and of `--json`. Times are fractional
//! milliseconds unless a name says otherwise; identifiers are base58.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use wayfare_net::NetCounters;
use wayfare_protocol::{
    registry::{self, CloudStats, Distribution, Enrolment, PlacementView, Registry, Suspension},
    reject::{Guards, RejectCounters},
    suite::Suite,
    time::{Micros, Now},
    trust::JoinToken,
};

/// A new join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenView {
    /// The token: a secret.
    pub token: String,
    /// The provider's name.
    pub cloud: String,
    /// `cloud`, `home` or `gateway`.
    pub role: String,
    /// How long it can be used, in seconds.
    pub ttl_s: u64,
}

impl fmt::Debug for JoinTokenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, cloud, role, ttl_s } = self;
        f.debug_struct("JoinTokenView")
            .field("token", &"(secret)")
            .field("cloud", cloud)
            .field("role", role)
            .field("ttl_s", ttl_s)
            .finish()
    }
}

impl JoinTokenView {
    pub(crate) fn new(token: &JoinToken, lifetime: Micros) -> Self {
        Self {
            token: token.to_text(),
            cloud: token.name.clone(),
            role: token.role.name().to_owned(),
            ttl_s: lifetime.0 / 1_000_000,
        }
    }
}

/// A host that enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The provider's name.
    pub cloud: String,
    /// The provider's identifier.
    pub cloud_id: String,
    /// The host's key.
    pub host: String,
    /// `cloud`, `home` or `gateway`.
    pub role: String,
    /// Where the provider says it is.
    pub region: String,
    /// Whether it, or its provider, is revoked.
    pub revoked: bool,
    /// End of its certificate, in seconds since the Unix epoch.
    pub certificate_expiry_s: u64,
}

impl HostView {
    pub(crate) fn new(host: Enrolment<'_>) -> Self {
        let certificate = host.certificate;
        Self {
            cloud: certificate.name.clone(),
            cloud_id: certificate.cloud.to_string(),
            host: certificate.host.to_string(),
            role: certificate.role.name().to_owned(),
            region: certificate.region.clone(),
            revoked: host.revoked,
            certificate_expiry_s: certificate.expiry.0 / 1_000_000,
        }
    }
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// The service's name.
    pub name: String,
    /// The service's identifier.
    pub service: String,
    /// `era.hop`.
    pub epoch: String,
    /// How many moves through the Registry, plus one.
    pub era: u64,
    /// The provider's name.
    pub cloud: String,
    /// The host's key.
    pub host: String,
    /// Where it was before.
    pub previous: String,
    /// The migration that led here.
    pub migration: String,
    /// How much longer the host may serve, as the Registry counts.
    pub lease_left_ms: f64,
    /// Whether a move has been allowed and is not decided.
    pub moving: bool,
    /// `placed`, or by its owner's order `stopping`, `stopped`, `starting` or `updating`; after a restore from a backup `recovering` within the first half minute, then `waiting` until the host
    /// in `waits_for` has shown what it has: nothing is decided about the service meanwhile.
    pub state: String,
    /// The host's key.
    #[serde(default)]
    pub waits_for: Option<String>,
}

impl ServiceView {
    pub(crate) fn new(view: &PlacementView<'_>) -> Self {
        let placement = view.placement;
        Self {
            name: view.name.to_owned(),
            service: placement.service.to_string(),
            epoch: placement.epoch.to_string(),
            era: placement.epoch.era,
            cloud: view.cloud.map_or_else(|| placement.cloud.to_string(), str::to_owned),
            host: placement.host.to_string(),
            previous: placement.previous.to_string(),
            migration: placement.mig.to_string(),
            lease_left_ms: view.lease_left.as_millis_f64(),
            moving: view.moving,
            state: match view.suspended {
                None => match (view.order.standing, view.order.stopped) {
                    (Some("update"), _) => "updating",
                    (Some("stop"), false) => "stopping",
                    (Some("start"), true) => "starting",
                    (_, true) => "stopped",
                    (_, false) => "placed",
                },
                Some(Suspension { window: true, .. }) => "recovering",
                Some(Suspension { window: false, .. }) => "waiting",
            }
            .to_owned(),
            waits_for: view.suspended.and_then(|suspended| suspended.waits_for).map(|host| host.to_string()),
        }
    }
}

/// How far recovery after a restore from a backup has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryView {
    /// When the records were restored, in seconds since the Unix epoch.
    pub restored_s: u64,
    /// How much longer nothing is decided at all.
    pub window_left_ms: f64,
    /// Services known.
    pub services: usize,
    /// Those that are decided about again.
    pub resumed: usize,
    /// Those that are not: they wait for the end of that time, and for their hosts.
    pub suspended: usize,
}

impl RecoveryView {
    pub(crate) fn new(view: registry::RecoveryView) -> Self {
        Self {
            restored_s: view.restored.0 / 1_000_000,
            window_left_ms: view.window_left.as_millis_f64(),
            services: view.services,
            resumed: view.resumed,
            suspended: view.suspended,
        }
    }
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// Where it is.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Services in it.
    pub services: usize,
    /// Hosts in it.
    pub hosts: usize,
}

/// A backup that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredView {
    /// The backup.
    pub file: String,
    /// Services in it.
    pub services: usize,
    /// Where the records are that it replaced, if there were any.
    pub kept: Option<String>,
}

/// How a duration is distributed; `None` without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DurationView {
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median, to about 3 %.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl DurationView {
    fn new(durations: &Distribution) -> Self {
        let millis = |duration: Option<Micros>| duration.map(Micros::as_millis_f64);
        Self {
            mean: millis(durations.mean()),
            p50: millis(durations.percentile(50)),
            p90: millis(durations.percentile(90)),
            p99: millis(durations.percentile(99)),
        }
    }
}

/// How a cloud did as a target of migrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloudView {
    /// The provider's name.
    pub name: String,
    /// The provider's identifier.
    pub cloud: String,
    /// Migrations that it completed.
    pub count: u64,
    /// Migrations to it that ended without a placement there.
    pub failures: u64,
    /// T_B − T_A: how long it took to answer.
    pub response_ms: DurationView,
    /// T_comp − T_B: how long the transfer took.
    pub transfer_ms: DurationView,
    /// The first as the sources measured it, each by its own clock.
    pub response_by_source_ms: DurationView,
    /// The second as the sources measured it.
    pub transfer_by_source_ms: DurationView,
    /// Migrations whose two sets of figures disagree.
    pub disagreements: u64,
    /// Whether they are so many that its clock, or its word, is doubtful.
    pub flagged: bool,
}

impl CloudView {
    fn new(stats: &CloudStats) -> Self {
        Self {
            name: stats.name.clone(),
            cloud: stats.cloud.to_string(),
            count: stats.count(),
            failures: stats.failures,
            response_ms: DurationView::new(&stats.response),
            transfer_ms: DurationView::new(&stats.transfer),
            response_by_source_ms: DurationView::new(&stats.response_by_source),
            transfer_by_source_ms: DurationView::new(&stats.transfer_by_source),
            disagreements: stats.disagreements,
            flagged: stats.is_flagged(),
        }
    }
}

/// The statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsView {
    /// Every cloud that was ever a target, by name.
    pub clouds: Vec<CloudView>,
    /// How often each rejection happened since the start, by name.
    pub rejections: BTreeMap<String, u64>,
    /// What the transport dropped, refused or delayed since the start, by name.
    #[serde(default)]
    pub net: BTreeMap<String, u64>,
}

impl StatsView {
    pub(crate) fn new<S: Suite, G: Guards>(registry: &Registry<S, G>, net: NetCounters) -> Self {
        let mut clouds: Vec<CloudView> = registry.stats().map(CloudView::new).collect();
        clouds.sort_by(|a, b| a.name.cmp(&b.name));
        let net = net.by_name().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        Self { clouds, rejections: rejections(registry.rejects()), net }
    }
}

fn rejections(counters: &RejectCounters) -> BTreeMap<String, u64> {
    counters.iter().map(|(reject, count)| (reject.name().to_owned(), count)).collect()
}

pub(crate) fn hosts<S: Suite, G: Guards>(registry: &Registry<S, G>) -> Vec<HostView> {
    let mut hosts: Vec<HostView> = registry.enrolled().map(HostView::new).collect();
    hosts.sort_by(|a, b| (&a.cloud, &a.host).cmp(&(&b.cloud, &b.host)));
    hosts
}

pub(crate) fn services<S: Suite, G: Guards>(registry: &Registry<S, G>, now: Now) -> Vec<ServiceView> {
    let mut services: Vec<ServiceView> = registry.placements(now).map(|view| ServiceView::new(&view)).collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}
