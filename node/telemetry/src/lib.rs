//! What operators see of a node or a Registry, shared by both: metrics for Prometheus.
//!
//! Nothing here decides anything, and nothing here can hold up who does: instruments are atomics ([`instruments`]), what is
//! read off a machine is read when somebody asks for it ([`Endpoint`]), and whatever is queued is bounded ([`limits`]).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod classic;
mod endpoint;
pub mod instruments;
pub mod limits;
mod mesh;
mod process;
mod settings;

pub use endpoint::{Endpoint, ListenError, Refresh};
pub use mesh::{Mesh, NetMetrics, Rejections};
pub use process::Process;
pub use prometheus_client::registry::Registry as Metrics;
pub use settings::MetricsSettings;
