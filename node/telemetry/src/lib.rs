//! What operators see of a node or a Registry, shared by both: metrics for Prometheus, traces for OpenTelemetry,
//! logs. And what they do not see: [`dumps`].
//!
//! Nothing here decides anything, and nothing here can hold up who does: instruments are atomics ([`instruments`]), what is
//! read off a machine is read when somebody asks for it ([`Endpoint`]), and whatever is queued is bounded ([`limits`]). A move's
//! trace is put together in [`migration`], and [`Spans`] sends it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod classic;
pub mod dumps;
mod endpoint;
pub mod instruments;
pub mod limits;
pub mod logs;
mod mesh;
pub mod migration;
mod otlp;
mod process;
mod settings;

pub use endpoint::{Endpoint, ListenError, Refresh};
pub use mesh::{Mesh, NetMetrics, Rejections};
pub use otlp::{Exporter, OtlpError, Spans};
pub use process::Process;
pub use prometheus_client::registry::Registry as Metrics;
pub use settings::{LogSettings, MetricsSettings, TelemetrySettings};
