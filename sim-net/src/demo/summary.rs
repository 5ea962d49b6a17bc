//! What came of a demo: the JSON of `--json`, and the same for people.

use std::{fmt, time::Duration};

use serde::Serialize;
use wayfare_registry::view::{ServiceView, StatsView};

use super::{DemoOptions, SERVICE};
use crate::{client::LoadReport, journey::Score, layout::Layout, matrix::LatencyMatrix, moves::Move};

/// Requests by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Sent.
    pub sent: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// Not.
    pub failed: u64,
    /// Acknowledged writes that the service does not have.
    pub lost: u64,
    /// Writes that it executed more than once.
    pub duplicated: u64,
}

/// Latencies of requests, ms, from the moment at which each should have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyMs {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Mean.
    pub mean: f64,
    /// What the matrix says for a service that stays at home.
    pub mean_if_stayed: f64,
    /// What it says for one that is always on the nearest cloud, at once.
    pub mean_if_always_nearest: f64,
}

/// A cloud as the Registry knows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudFigures {
    /// The provider's name.
    pub name: String,
    /// T_B − T_A, mean, ms.
    pub response_ms: Option<f64>,
    /// T_comp − T_B, mean, ms.
    pub transfer_ms: Option<f64>,
    /// Migrations.
    pub count: u64,
}

/// The Registry's word at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegistryFigures {
    /// The service's epoch, `era.hop`.
    pub epoch: String,
    /// Where it is.
    pub placement: String,
    /// Clouds that services moved to.
    pub clouds: Vec<CloudFigures>,
}

/// The result of a demo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Chose who stands where.
    pub seed: u64,
    /// Clouds on the mesh.
    pub clouds: usize,
    /// Where the latencies are from.
    pub matrix: String,
    /// The whole run.
    pub duration_s: f64,
    /// Home's row.
    pub home: usize,
    /// The user's rows.
    pub path: Vec<usize>,
    /// The clouds' rows.
    pub cloud_rows: Vec<usize>,
    /// The Registry's row.
    pub registry_row: usize,
    /// When the service moves.
    pub policy: &'static str,
    /// What became of the requests.
    pub requests: Requests,
    /// How long they took.
    pub latency_ms: LatencyMs,
    /// Longest time without an answer, ms.
    pub max_gap_ms: f64,
    /// Why the service's own record could not be read at the end: then `lost` and `duplicated` say nothing.
    pub audit_failure: Option<String>,
    /// Completed migrations, oldest first.
    pub migrations: Vec<Move>,
    /// Attempts that did not move the service, oldest first.
    pub failed_migrations: Vec<Move>,
    /// The Registry's word.
    pub registry: RegistryFigures,
}

/// What a summary is made of.
pub(super) struct Ingredients<'a> {
    pub(super) options: &'a DemoOptions,
    pub(super) matrix: &'a LatencyMatrix,
    pub(super) layout: &'a Layout,
    pub(super) score: Score,
    pub(super) report: LoadReport,
    pub(super) moves: Vec<Move>,
    pub(super) placements: Vec<ServiceView>,
    pub(super) stats: StatsView,
    pub(super) duration: Duration,
}

impl Summary {
    pub(super) fn new(made_of: Ingredients<'_>) -> Self {
        let Ingredients { options, matrix, layout, score, report, moves, placements, stats, duration } = made_of;
        let placed = placements.iter().find(|placed| placed.name == SERVICE);
        let (migrations, failed_migrations) = moves.into_iter().partition(Move::succeeded);
        let clouds = stats.clouds.iter().filter(|cloud| cloud.count > 0).map(|cloud| CloudFigures {
            name: cloud.name.clone(),
            response_ms: cloud.response_ms.mean,
            transfer_ms: cloud.transfer_ms.mean,
            count: cloud.count,
        });
        Self {
            seed: options.seed,
            clouds: options.clouds,
            matrix: matrix.file().to_owned(),
            duration_s: duration.as_secs_f64(),
            home: layout.home,
            path: layout.path.clone(),
            cloud_rows: layout.cloud_rows.clone(),
            registry_row: layout.registry,
            policy: options.policy.name(),
            requests: Requests {
                sent: report.sent,
                ok: report.ok,
                failed: report.failed,
                lost: report.lost,
                duplicated: report.duplicated,
            },
            latency_ms: LatencyMs {
                p50: report.latency_ms.p50,
                p99: report.latency_ms.p99,
                mean: report.latency_ms.mean,
                mean_if_stayed: score.mean_if_stayed_ms,
                mean_if_always_nearest: score.mean_if_always_nearest_ms,
            },
            max_gap_ms: report.max_gap_ms,
            audit_failure: report.audit_failure,
            migrations,
            failed_migrations,
            registry: RegistryFigures {
                epoch: placed.map_or_else(String::new, |placed| placed.epoch.clone()),
                placement: placed.map_or_else(String::new, |placed| placed.cloud.clone()),
                clouds: clouds.collect(),
            },
        }
    }

    /// Whether every request was answered, none lost and none executed twice.
    pub fn is_clean(&self) -> bool {
        let Requests { failed, lost, duplicated, .. } = self.requests;
        failed == 0 && lost == 0 && duplicated == 0 && self.audit_failure.is_none()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requests { sent, ok, failed, lost, duplicated } = self.requests;
        writeln!(
            f,
            "requests   {sent} sent, {ok} answered, {failed} failed, {lost} lost, {duplicated} executed twice"
        )?;
        if let Some(reason) = &self.audit_failure {
            writeln!(f, "           the service's own record could not be read: {reason}")?;
        }
        let latency = &self.latency_ms;
        writeln!(
            f,
            "latency    mean {:.1} ms, p50 {:.1} ms, p99 {:.1} ms; {:.1} ms had the service stayed at home, {:.1} ms had it always been nearest",
            latency.mean, latency.p50, latency.p99, latency.mean_if_stayed, latency.mean_if_always_nearest,
        )?;
        writeln!(f, "           {:.0} ms was the longest time without an answer", self.max_gap_ms)?;
        for (number, done) in self.migrations.iter().enumerate() {
            let label = if number == 0 { "migrations" } else { "" };
            writeln!(
                f,
                "{label:<10} {} → {}: {} bytes, stopped for {:.0} ms, {:.0} ms in all; {}",
                done.from,
                done.to,
                done.bytes,
                done.downtime_ms.unwrap_or(f64::NAN),
                done.total_ms,
                done.reason,
            )?;
        }
        for failed in &self.failed_migrations {
            writeln!(f, "not moved  {} → {}: {}", failed.from, failed.to, failed.outcome)?;
        }
        write!(f, "registry   epoch {}, on {}", self.registry.epoch, self.registry.placement)?;
        for cloud in &self.registry.clouds {
            let mean = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.0} ms"));
            write!(
                f,
                "\n           {}: {} migrations, answers in {}, transfers in {}",
                cloud.name,
                cloud.count,
                mean(cloud.response_ms),
                mean(cloud.transfer_ms),
            )?;
        }
        Ok(())
    }
}
