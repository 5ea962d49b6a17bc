//! `node.toml`: how a node behaves. One small table for each component, read and checked once.
//!
//! [`Config::load`] reads a file, [`Config::check`] what a program put together itself. `template` is the commented file
//! that `wayfare init` writes.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use wayfare_net::limits::BOOTSTRAP_MAX;
use wayfare_protocol::{
    gateway::GatewayConfig,
    host::HostConfig,
    ids::{HostId, RegistryId},
    limits,
    limits::{ADDRESSES_MAX, SERVICES_MAX, TEXT_BYTES_MAX},
    manifest::Resources,
    placement::{PlacementConfig, Policy},
    time::Micros,
    trust::{Certificate, Role, Signed, TrustBundle},
};

mod template;

pub(crate) use template::template;

/// Bytes of a configuration file at most.
const FILE_BYTES_MAX: u64 = 256 * 1024;
const MIB: u64 = 1024 * 1024;

/// What is wrong with a configuration. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: make a node with `wayfare init`, or name its directory with --dir")]
    Read {
        /// Which.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{file} is longer than {FILE_BYTES_MAX} bytes: this is no node.toml")]
    TooLong {
        /// Which.
        file: PathBuf,
    },
    /// It is no TOML, or has a setting that does not exist or is of the wrong type.
    #[error("{file} cannot be used: correct or remove this setting\n{reason}")]
    Syntax {
        /// Which.
        file: PathBuf,
        /// Line, column, key, and what was expected there.
        reason: String,
    },
    /// A setting has a value that cannot be.
    #[error("{file}: {key}: {reason}")]
    Value {
        /// Which file.
        file: PathBuf,
        /// Which setting, with its table.
        key: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// A setting that cannot be, of a configuration that is not in a file (yet).
type Wrong = (&'static str, String);

/// All settings of a node. `Default` is what a file with nothing in it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its place on the mesh.
    pub node: MeshSettings,
    /// What it has to offer (cloud, home).
    pub capacity: CapacitySettings,
    /// How services on it choose where to be (cloud, home).
    pub placement: PlacementSettings,
    /// How moves go on (cloud, home).
    pub migration: MigrationSettings,
    /// What it carries (gateway).
    pub gateway: GatewaySettings,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshSettings {
    /// Multiaddrs to listen on, by TCP and by QUIC.
    pub listen: Vec<String>,
    /// Multiaddrs of nodes to stay connected to.
    pub bootstrap: Vec<String>,
    /// Multiaddrs to advertise; empty: those listened on.
    pub advertise: Vec<String>,
    /// Where the node is, as told to the registry when it joins.
    pub region: String,
    /// Whether to find peers on the LAN by mDNS, and to be found.
    pub mdns: bool,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            listen: vec!["/ip4/0.0.0.0/tcp/4740".to_owned(), "/ip4/0.0.0.0/udp/4740/quic-v1".to_owned()],
            bootstrap: Vec::new(),
            advertise: Vec::new(),
            region: String::new(),
            mdns: false,
        }
    }
}

/// `[capacity]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacitySettings {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// MiB.
    pub memory_mib: u64,
    /// MiB.
    pub storage_mib: u64,
    /// Millions of bits a second.
    pub bandwidth_mbps: u64,
    /// Price, millionths of the mesh's unit of account per core and hour.
    pub price_micros: u64,
}

impl Default for CapacitySettings {
    fn default() -> Self {
        Self { cpu_millicores: 1000, memory_mib: 1024, storage_mib: 10_240, bandwidth_mbps: 1000, price_micros: 0 }
    }
}

/// `[placement]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementSettings {
    /// When services move by themselves.
    pub policy: Policy,
    /// The pause between two decisions, ms.
    pub slot_ms: u64,
    /// Round trips that differ by less are equal, ms.
    pub tie_ms: u64,
    /// The downtime that a first move is expected to have, ms.
    pub downtime_ms: u64,
    /// So many seconds of a round trip one millisecond shorter pay for one second of downtime.
    pub downtime_weight: u64,
}

impl Default for PlacementSettings {
    fn default() -> Self {
        let built_in = PlacementConfig::default();
        Self {
            policy: built_in.policy,
            slot_ms: built_in.slot.0 / 1000,
            tie_ms: built_in.tie.0 / 1000,
            downtime_ms: built_in.downtime_default.0 / 1000,
            downtime_weight: built_in.downtime_weight_ms_s,
        }
    }
}

/// `[migration]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationSettings {
    /// How long a move that may still be given up waits for the other side's next message, ms.
    pub step_timeout_ms: u64,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        Self { step_timeout_ms: limits::STEP_TIMEOUT.0 / 1000 }
    }
}

/// `[gateway]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// What it carries.
    pub services: Vec<CarriedService>,
    /// How often it measures round trips, ms.
    pub probe_interval_ms: u64,
    /// How often it reports them to the hosting node, ms.
    pub report_interval_ms: u64,
    /// How long it holds a request before it answers 504, s.
    pub request_timeout_s: u64,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self { services: Vec::new(), probe_interval_ms: 1000, report_interval_ms: 1000, request_timeout_s: 60 }
    }
}

/// One service that a gateway carries requests for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedService {
    /// Its name.
    pub name: String,
    /// Where clients reach it by HTTP.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { file: file.to_owned(), source };
        if std::fs::metadata(file).map_err(read)?.len() > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong { file: file.to_owned() });
        }
        Self::parse(file, &std::fs::read_to_string(file).map_err(read)?)
    }

    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// [`ConfigError`], which names `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            file: file.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        config.check(file)?;
        Ok(config)
    }

    /// Checks every value; `file` is what an error names.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let checked = self
            .node
            .check()
            .and_then(|()| self.capacity.check())
            .and_then(|()| self.placement.check())
            .and_then(|()| self.migration.check())
            .and_then(|()| self.gateway.check());
        checked.map_err(|(key, reason)| ConfigError::Value { file: file.to_owned(), key, reason })
    }

    /// Checks what only some roles may set.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check_role(&self, file: &Path, role: Role) -> Result<(), ConfigError> {
        if role != Role::Gateway && !self.gateway.services.is_empty() {
            let reason = format!(
                "this node joined as {}, and only a gateway carries requests: remove the services, or make a gateway",
                role.name()
            );
            return Err(ConfigError::Value { file: file.to_owned(), key: "gateway.services", reason });
        }
        Ok(())
    }

    /// A cloud's or home node's part, for its machine.
    pub fn host(&self) -> HostConfig {
        HostConfig {
            capacity: self.capacity.resources(),
            price_micros: self.capacity.price_micros,
            placement: self.placement.config(),
            step_timeout: Micros::from_millis(self.migration.step_timeout_ms),
            image_log_bytes: limits::IMAGE_LOG_BYTES_MIN,
            compact_journal_bytes: limits::COMPACT_JOURNAL_BYTES_MIN,
        }
    }

    /// A gateway's part, for its machine.
    pub fn gateway(
        &self,
        host: HostId,
        certificate: Signed<Certificate>,
        bundle: TrustBundle,
        registry: RegistryId,
    ) -> GatewayConfig {
        GatewayConfig {
            report_interval: Micros::from_millis(self.gateway.report_interval_ms),
            request_timeout: Micros::from_secs(self.gateway.request_timeout_s),
            ..GatewayConfig::new(host, certificate, bundle, registry)
        }
    }
}

fn within(key: &'static str, value: u64, from: u64, to: u64) -> Result<(), Wrong> {
    if (from..=to).contains(&value) { Ok(()) } else { Err((key, format!("{value} is not from {from} to {to}"))) }
}

impl MeshSettings {
    fn check(&self) -> Result<(), Wrong> {
        within("node.bootstrap", self.bootstrap.len() as u64, 0, BOOTSTRAP_MAX as u64)
            .map_err(|(key, _)| (key, format!("more than {BOOTSTRAP_MAX} addresses: remove some")))?;
        within("node.advertise", self.advertise.len() as u64, 0, ADDRESSES_MAX as u64)
            .map_err(|(key, _)| (key, format!("more than {ADDRESSES_MAX} addresses: remove some")))?;
        let lists =
            [("node.listen", &self.listen), ("node.bootstrap", &self.bootstrap), ("node.advertise", &self.advertise)];
        for (key, addresses) in lists {
            if let Some(address) = addresses.iter().find(|text| !text.starts_with('/')) {
                let reason = format!("`{address}` is no multiaddr: write it like \"/ip4/192.0.2.7/tcp/4740\"");
                return Err((key, reason));
            }
            if let Some(address) = addresses.iter().find(|text| text.len() > TEXT_BYTES_MAX) {
                return Err((key, format!("`{address}` is longer than {TEXT_BYTES_MAX} bytes")));
            }
        }
        if self.region.len() > TEXT_BYTES_MAX || self.region.chars().any(char::is_control) {
            return Err(("node.region", format!("must be at most {TEXT_BYTES_MAX} bytes without control characters")));
        }
        Ok(())
    }

    /// The setting that holds this address, if one does.
    pub(crate) fn key_of(&self, address: &str) -> Option<&'static str> {
        let lists = [("node.listen", &self.listen), ("node.bootstrap", &self.bootstrap)];
        lists.into_iter().find(|(_, list)| list.iter().any(|known| known == address)).map(|(key, _)| key)
    }
}

impl CapacitySettings {
    fn check(&self) -> Result<(), Wrong> {
        within("capacity.cpu_millicores", self.cpu_millicores.into(), 1, 10_000_000)?;
        within("capacity.memory_mib", self.memory_mib, 1, 1 << 30)?;
        within("capacity.storage_mib", self.storage_mib, 0, 1 << 40)?;
        within("capacity.bandwidth_mbps", self.bandwidth_mbps, 0, 10_000_000)
    }

    /// In the units of the protocol.
    pub fn resources(&self) -> Resources {
        Resources {
            cpu_millicores: self.cpu_millicores,
            memory_bytes: self.memory_mib.saturating_mul(MIB),
            storage_bytes: self.storage_mib.saturating_mul(MIB),
            bandwidth_bps: self.bandwidth_mbps.saturating_mul(1_000_000),
        }
    }
}

impl PlacementSettings {
    fn check(&self) -> Result<(), Wrong> {
        within("placement.slot_ms", self.slot_ms, 10, 3_600_000)?;
        within("placement.tie_ms", self.tie_ms, 0, 10_000)?;
        within("placement.downtime_ms", self.downtime_ms, 0, 3_600_000)?;
        within("placement.downtime_weight", self.downtime_weight, 0, 1_000_000_000)
    }

    fn config(&self) -> PlacementConfig {
        PlacementConfig {
            policy: self.policy,
            slot: Micros::from_millis(self.slot_ms),
            tie: Micros::from_millis(self.tie_ms),
            downtime_weight_ms_s: self.downtime_weight,
            downtime_default: Micros::from_millis(self.downtime_ms),
            ..PlacementConfig::default()
        }
    }
}

impl MigrationSettings {
    fn check(&self) -> Result<(), Wrong> {
        within("migration.step_timeout_ms", self.step_timeout_ms, 100, 600_000)
    }
}

impl GatewaySettings {
    fn check(&self) -> Result<(), Wrong> {
        const SERVICES: &str = "gateway.services";
        if self.services.len() > SERVICES_MAX {
            return Err((SERVICES, format!("more than {SERVICES_MAX} services: remove some")));
        }
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for service in &self.services {
            let CarriedService { name, listen } = service;
            if name.is_empty() || name.len() > TEXT_BYTES_MAX {
                return Err((SERVICES, format!("a name has 1 to {TEXT_BYTES_MAX} bytes")));
            }
            if !names.insert(name) {
                return Err((SERVICES, format!("`{name}` is there twice: remove one")));
            }
            if listen.port() != 0 && !ports.insert(listen) {
                return Err((SERVICES, format!("two services listen on {listen}: give each a port of its own")));
            }
        }
        within("gateway.probe_interval_ms", self.probe_interval_ms, 50, 60_000)?;
        within("gateway.report_interval_ms", self.report_interval_ms, 50, 60_000)?;
        within("gateway.request_timeout_s", self.request_timeout_s, 1, 3600)
    }

    /// How often round trips are measured.
    pub const fn probe_interval(&self) -> Duration {
        Duration::from_millis(self.probe_interval_ms)
    }
}

#[cfg(test)]
mod tests;
