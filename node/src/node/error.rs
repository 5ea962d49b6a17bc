//! Why a node does not start.

use std::{io, path::PathBuf};

use wayfare_net::NetError;
use wayfare_protocol::reject::Reject;
use wayfare_telemetry::{ListenError, OtlpError};

use crate::{
    api::ApiError, config::ConfigError, enrol::EnrolError, gateway::GatewayError, host::HostError, runtime::ProbeError,
};

/// Why a node does not start. Nothing runs then; it may have joined.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It is another node than was meant.
    #[error("this node joined as {joined}, not as {asked}: leave --role out, or name another --dir")]
    Role {
        /// What it was to be.
        asked: &'static str,
        /// What it is.
        joined: &'static str,
    },
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address of the configuration cannot be used.
    #[error("{file}: {key}")]
    Address {
        /// The configuration's file.
        file: PathBuf,
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        source: Box<NetError>,
    },
    /// The port for metrics cannot be had.
    #[error(transparent)]
    Metrics(#[from] ListenError),
    /// Traces cannot be sent.
    #[error("telemetry.otlp")]
    Telemetry(#[from] OtlpError),
    /// The mesh cannot be had.
    #[error("the mesh cannot be started")]
    Net(#[source] Box<NetError>),
    /// It has not joined.
    #[error("this node has not joined")]
    Enrol(#[from] EnrolError),
    /// Its certificate is not valid (any more).
    #[error("the certificate in {dir} cannot be used: put a new join token into join.token there (chmod 600)")]
    Certificate {
        /// The state directory.
        dir: PathBuf,
        /// Why.
        source: Reject,
    },
    /// This machine cannot run services.
    #[error("this machine cannot run services")]
    Driver(#[from] ProbeError),
    /// Compiled code cannot be kept.
    #[error("cannot make {dir} for compiled code: see that it belongs to this user, and that the disk has space")]
    CodeCache {
        /// Where.
        dir: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The host's part does not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The gateway's part does not start.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The control API does not start.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl NodeError {
    /// Whether the operator has to change something before another start can succeed: a setting, a file, a port, a token.
    pub fn is_setup(&self) -> bool {
        match self {
            Self::Role { .. }
            | Self::Config(_)
            | Self::Address { .. }
            | Self::Certificate { .. }
            | Self::Metrics(_)
            | Self::Telemetry(_) => true,
            Self::Enrol(error) => matches!(error, EnrolError::Refused { .. } | EnrolError::State(_)),
            Self::Gateway(error) => !matches!(error, GatewayError::Thread(_)),
            Self::Api(error) => error.is_setup(),
            Self::Host(error) => error.is_setup(),
            Self::CodeCache { .. } => true,
            Self::Net(_) | Self::Driver(_) => false,
        }
    }
}
