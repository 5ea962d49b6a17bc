//! The state directory: key, configuration, trust bundle. Written by `init`, read and checked once by `run`.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use wayfare_protocol::suite::Suite as _;
use wayfare_protocol::{
    ids::{HostId, RegistryId},
    limits::{ADDRESSES_MAX, LEASE, LEASE_MAX, LEASE_MIN, TEXT_BYTES_MAX},
    suite::{Dalek, PublicKey, Secret, fresh_secret},
    time::Micros,
    trust::{Anchor, certificate::registry_id},
    wire::VERSIONS,
};
use wayfare_telemetry::{LogSettings, MetricsSettings, TelemetrySettings};
use zeroize::Zeroizing;

use crate::clock;

/// Certificates hold this long at most.
const CERTIFICATE_DAYS_MAX: u32 = 3650;
/// What fits into a unix socket's address.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A configuration file is read up to this length.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// Where the records are kept.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// In memory: for simulations. Clones of the store share the records.
    Memory(crate::store::MemoryStore),
    /// In this file, see [`LogStore`](crate::store::LogStore), with the audit log in a directory beside it.
    Disk(PathBuf),
}

/// What a Registry is started with: checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The signing secret.
    pub secret: Secret,
    /// What people call this Registry.
    pub name: String,
    /// Where to listen: multiaddrs.
    pub listen: Vec<String>,
    /// Where others reach it, for join tokens and the trust bundle; empty: where it listens.
    pub announce: Vec<String>,
    /// Nodes to stay connected to: so the mesh finds a Registry whose address has changed.
    pub bootstrap: Vec<String>,
    /// Whether to be found on the LAN by mDNS, which announces it there.
    pub mdns: bool,
    /// The versions of the protocol that it speaks: see [`NetConfig::versions`](wayfare_net::NetConfig::versions).
    pub versions: Vec<u8>,
    /// How long a certificate holds.
    pub certificate_lifetime: Micros,
    /// How long a placement may be served without renewal.
    pub lease: Micros,
    /// Where the records are kept.
    pub store: StoreChoice,
    /// The control socket; `None`: no control API.
    pub socket: Option<PathBuf>,
    /// Who may read its metrics, and where.
    pub metrics: MetricsSettings,
    /// Where it sends traces.
    pub telemetry: TelemetrySettings,
    /// What its log looks like.
    pub log: LogSettings,
    /// The trust bundle to keep up to date with the addresses; `None`: none.
    pub trust: Option<PathBuf>,
}

/// Who sees what goes on, as `init` writes it down.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Who may read metrics, and where.
    pub metrics: MetricsSettings,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
}

/// Why a configuration cannot be used. Nothing was changed, unless the variant is `Write`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `init` has not been run.
    #[error("{} is no registry's directory: run `wayfare-registry init --dir {}` first", dir.display(), dir.display())]
    NotInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// `init` has been run.
    #[error("{} holds a registry already: choose another directory, or remove that one with its key", dir.display())]
    AlreadyInitialised {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: check that it exists and is yours", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: check the directory's owner and the disk's space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration says something that it cannot.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, and where.
        reason: String,
    },
    /// Others can read the key.
    #[error("{} can be read by others (mode {mode:o}): run `chmod 600 {}`, and think about who may have copied it",
        path.display(), path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file holds no key.
    #[error("{} holds no key: it must be 64 hexadecimal digits; restore it from a backup", path.display())]
    KeyInvalid {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    name: String,
    listen: Vec<String>,
    #[serde(default)]
    announce: Vec<String>,
    #[serde(default)]
    bootstrap: Vec<String>,
    #[serde(default)]
    mdns: bool,
    #[serde(default = "default_certificate_days")]
    certificate_days: u32,
    #[serde(default = "default_lease_s")]
    lease_s: u64,
    #[serde(default)]
    metrics: MetricsSettings,
    #[serde(default)]
    telemetry: TelemetrySettings,
    #[serde(default)]
    log: LogSettings,
}

const fn default_lease_s() -> u64 {
    LEASE.0 / 1_000_000
}

const fn default_certificate_days() -> u32 {
    365
}

/// The trust bundle file, public: what a node needs in order to trust this Registry, as the node's own `trust.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TrustFile {
    registries: Vec<TrustEntry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TrustEntry {
    id: String,
    key: String,
    addresses: Vec<String>,
}

/// A Registry's directory and the files in it.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("registry.toml")
    }

    /// The signing key.
    pub fn key(&self) -> PathBuf {
        self.0.join("registry.key")
    }

    /// The trust bundle, for nodes.
    pub fn trust(&self) -> PathBuf {
        self.0.join("trust.json")
    }

    /// The records.
    pub fn store(&self) -> PathBuf {
        self.0.join("registry.journal")
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        crate::audit::beside(&self.store())
    }

    /// The control socket, while the Registry runs.
    pub fn socket(&self) -> PathBuf {
        self.0.join("registry.sock")
    }

    /// Makes the directory with a fresh key, a commented configuration and the trust bundle.
    ///
    /// # Errors
    /// [`ConfigError::AlreadyInitialised`] or [`ConfigError::Write`].
    pub fn init(&self, name: &str, listen: &[String], observed: Observed) -> Result<Anchor, ConfigError> {
        if self.key().exists() || self.config().exists() {
            return Err(ConfigError::AlreadyInitialised { dir: self.0.clone() });
        }
        check_name(name).map_err(|reason| ConfigError::Invalid { path: self.config(), reason })?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|source| ConfigError::Write { path: self.0.clone(), source })?;
        let secret = fresh_secret(&mut clock::entropy());
        let text = Zeroizing::new(HEXLOWER.encode(secret.expose()) + "\n");
        write_new(&self.key(), 0o600, &text)?;
        write_new(&self.config(), 0o644, &config_text(name, listen, &observed))?;
        // Without a fixed port the addresses are known only when it runs; `run` completes the bundle.
        let open = |text: &String| {
            ["/tcp/0", "/udp/0/", "/ip4/0.0.0.0", "/ip6/::/"].iter().any(|unknown| text.contains(unknown))
        };
        let known = !listen.iter().any(open);
        let key = Dalek::public_key(&secret);
        let addresses = if known { listen.to_vec() } else { Vec::new() };
        let anchor = Anchor { id: registry_id(&key), key, addresses };
        write_trust(&self.trust(), &anchor)?;
        Ok(anchor)
    }

    /// Reads and checks the configuration and the key.
    ///
    /// # Errors
    /// [`ConfigError`], which says what to do.
    pub fn load(&self) -> Result<Config, ConfigError> {
        if !self.config().exists() && !self.key().exists() {
            return Err(ConfigError::NotInitialised { dir: self.0.clone() });
        }
        let file = self.read_config()?;
        let socket = self.socket();
        let invalid = |reason: String| ConfigError::Invalid { path: self.config(), reason };
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let reason = format!("the directory's path is too long for a socket in it ({})", socket.display());
            return Err(invalid(format!("{reason}: use a shorter one")));
        }
        check_name(&file.name).map_err(&invalid)?;
        for (what, addresses) in [("listen", &file.listen), ("announce", &file.announce)] {
            let long = addresses.iter().any(|address| address.len() > TEXT_BYTES_MAX);
            if addresses.len() > ADDRESSES_MAX || long {
                return Err(invalid(format!(
                    "`{what}` may have {ADDRESSES_MAX} addresses of {TEXT_BYTES_MAX} characters at most"
                )));
            }
        }
        if file.listen.is_empty() {
            return Err(invalid("`listen` needs at least one address".to_owned()));
        }
        if !(1..=CERTIFICATE_DAYS_MAX).contains(&file.certificate_days) {
            return Err(invalid(format!("`certificate_days` must be from 1 to {CERTIFICATE_DAYS_MAX}")));
        }
        let lease = Micros::from_secs(file.lease_s);
        if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
            let (from, to) = (LEASE_MIN.0 / 1_000_000, LEASE_MAX.0 / 1_000_000);
            return Err(invalid(format!("`lease_s` must be from {from} to {to}")));
        }
        Ok(Config {
            secret: self.read_key()?,
            name: file.name,
            listen: file.listen,
            announce: file.announce,
            bootstrap: file.bootstrap,
            mdns: file.mdns,
            versions: VERSIONS.to_vec(),
            certificate_lifetime: Micros::from_secs(u64::from(file.certificate_days) * 24 * 3600),
            lease,
            store: StoreChoice::Disk(self.store()),
            socket: Some(socket),
            metrics: file.metrics,
            telemetry: file.telemetry,
            log: file.log,
            trust: Some(self.trust()),
        })
    }

    fn read_config(&self) -> Result<FileConfig, ConfigError> {
        let path = self.config();
        let unreadable = |source| ConfigError::Unreadable { path: path.clone(), source };
        if fs::metadata(&path).map_err(unreadable)?.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::Invalid { path, reason: format!("longer than {CONFIG_BYTES_MAX} bytes") });
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        toml::from_str(&text).map_err(|error| ConfigError::Invalid { path, reason: error.to_string() })
    }

    fn read_key(&self) -> Result<Secret, ConfigError> {
        let path = self.key();
        let unreadable = |source| ConfigError::Unreadable { path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ConfigError::KeyExposed { path, mode });
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(unreadable)?);
        let bytes = HEXLOWER.decode(text.trim().as_bytes()).ok().map(Zeroizing::new);
        let seed: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        seed.map(Secret::new).ok_or(ConfigError::KeyInvalid { path })
    }
}

impl Config {
    /// The Registry's name, which is derived from its key.
    pub fn id(&self) -> RegistryId {
        registry_id(&Dalek::public_key(&self.secret))
    }

    /// A Registry within this process: on a free port of the loopback, records in memory, no files, no socket.
    pub fn in_process(secret: Secret) -> Self {
        Self {
            secret,
            name: "registry".to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            announce: Vec::new(),
            bootstrap: Vec::new(),
            mdns: false,
            versions: VERSIONS.to_vec(),
            certificate_lifetime: Micros::from_secs(365 * 24 * 3600),
            lease: LEASE,
            store: StoreChoice::Memory(crate::store::MemoryStore::default()),
            socket: None,
            metrics: MetricsSettings::default(),
            telemetry: TelemetrySettings::default(),
            log: LogSettings::default(),
            trust: None,
        }
    }
}

/// The first registry's key in a trust bundle.
pub(crate) fn read_trust(path: &Path) -> Result<PublicKey, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let invalid = |reason: String| ConfigError::Invalid { path: path.to_owned(), reason };
    let file: TrustFile = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let key = file.registries.first().and_then(|entry| HostId::parse(&entry.key));
    key.map(|key| key.0).ok_or_else(|| invalid("it names no registry's key".to_owned()))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.len() <= TEXT_BYTES_MAX && !name.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(format!("`name` must have 1 to {TEXT_BYTES_MAX} characters")) }
}

fn config_text(name: &str, listen: &[String], observed: &Observed) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let listen: Vec<String> = listen.iter().map(|address| quoted(address)).collect();
    format!(
        "\
# wayfare-registry: configuration. Unknown keys are refused. Restart the registry after a change.

# What people call this registry.
name = {name}

# Where it listens: multiaddrs such as /ip4/0.0.0.0/tcp/4730 (all interfaces) or /ip6/::1/tcp/4730, by TCP, and by QUIC
# (/ip4/0.0.0.0/udp/4730/quic-v1) for nodes that TCP does not reach: remove the one that is not wanted.
# To move the registry to another address, change this; nodes with services are told, others find it by the next two.
listen = [{listen}]

# Where nodes reach it, if that differs from where it listens (behind a router, or by name:
# /dns/registry.example.org/tcp/4730). Goes into join tokens and trust.json.
announce = []

# Nodes to stay connected to, as multiaddrs: through them the mesh finds a registry whose address has changed.
bootstrap = []

# Be found on the local network by mDNS, by nodes that look for it. Announces the registry there.
mdns = false

# How many days a node's certificate holds. To renew one, enrol the node with a new join token.
certificate_days = {days}

# How many seconds a service may be served without the registry's renewal. Shorter: a service whose host has vanished may be
# given elsewhere sooner. Longer: services outlast a longer absence of the registry. Before it is made shorter, stop the
# registry for as long as the old lease, so that no holder of a longer one is left.
lease_s = {lease}

[metrics]
# Where Prometheus, or anybody, may read this registry's metrics by HTTP: \"127.0.0.1:9464\", say, for /metrics and /healthz.
# They name no service and no cloud, but say how much is going on. \"\": nowhere.
listen = \"{metrics}\"

[telemetry]
# The OpenTelemetry collector to which this registry sends its part of each migration's trace, by OTLP over HTTP:
# \"http://127.0.0.1:4318\", say. Traces name services and clouds. \"\": none.
otlp = {otlp}

[log]
# \"text\" for people or \"json\" for programs, on stderr. What is said, RUST_LOG says.
format = \"text\"
",
        name = quoted(name),
        listen = listen.join(", "),
        days = default_certificate_days(),
        lease = default_lease_s(),
        metrics = observed.metrics.listen_text(),
        otlp = quoted(observed.telemetry.otlp_text()),
    )
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), ConfigError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| ConfigError::Write { path: path.to_owned(), source })
}

/// Writes the trust bundle: all at once, so that nobody reads half of it.
pub(crate) fn write_trust(path: &Path, anchor: &Anchor) -> Result<(), ConfigError> {
    let entry =
        TrustEntry { id: anchor.id.to_string(), key: anchor.host().to_string(), addresses: anchor.addresses.clone() };
    let failed = |source| ConfigError::Write { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(&TrustFile { registries: vec![entry] });
    let text = text.map_err(|error| failed(error.into()))? + "\n";
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let temporary = path.with_extension("json.new");
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTEN: &str = "/ip4/127.0.0.1/tcp/4730";

    fn initialised() -> (tempfile::TempDir, StateDir, Anchor) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        let anchor = state.init("the \"registry\"", &[LISTEN.to_owned()], Observed::default()).unwrap();
        (dir, state, anchor)
    }

    #[test]
    fn what_init_writes_is_what_run_reads() {
        let (_dir, state, anchor) = initialised();
        let config = state.load().unwrap();
        assert_eq!(Dalek::public_key(&config.secret), anchor.key);
        assert_eq!((config.name.as_str(), &config.listen[..]), ("the \"registry\"", &[LISTEN.to_owned()][..]));
        assert_eq!(fs::metadata(state.key()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let trust: TrustFile = serde_json::from_str(&fs::read_to_string(state.trust()).unwrap()).unwrap();
        assert_eq!(trust.registries[0].key, anchor.host().to_string());
        assert_eq!(trust.registries[0].addresses, [LISTEN]);
        assert!(matches!(
            state.init("again", &[LISTEN.to_owned()], Observed::default()),
            Err(ConfigError::AlreadyInitialised { .. })
        ));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_do() {
        let (dir, state, _) = initialised();
        let text = fs::read_to_string(state.config()).unwrap();
        let refuse = |changed: &str, hint: &str| {
            fs::write(state.config(), changed).unwrap();
            let error = state.load().unwrap_err();
            assert!(matches!(error, ConfigError::Invalid { .. }), "{error}");
            assert!(error.to_string().contains(hint), "{error}");
            fs::write(state.config(), &text).unwrap();
        };
        refuse(&format!("listen_on = 3\n{text}"), "listen_on");
        refuse(&text.replace("listen = \"\"", "listen = \"9464\""), "127.0.0.1:9464");
        refuse("name = 3", "name");
        refuse("name =", "line 1");
        refuse(&text.replace(&format!("\"{LISTEN}\""), ""), "`listen` needs");
        refuse(&text.replace("= 365", "= 0"), "certificate_days");
        refuse(&text.replace("= 30", "= 1"), "lease_s");
        refuse(&text.replace("announce = []", &format!("announce = [\"{}\"]", "a".repeat(200))), "announce");
        refuse(&text.replace("the \"registry\"", ""), "`name` must");

        let none = StateDir::new(dir.path().join("elsewhere"));
        let error = none.load().unwrap_err();
        assert!(matches!(error, ConfigError::NotInitialised { .. }));
        assert!(error.to_string().contains("wayfare-registry init"), "{error}");

        fs::write(state.key(), "not a key\n").unwrap();
        assert!(matches!(state.load(), Err(ConfigError::KeyInvalid { .. })));
        fs::set_permissions(state.key(), fs::Permissions::from_mode(0o640)).unwrap();
        let error = state.load().unwrap_err();
        assert!(matches!(error, ConfigError::KeyExposed { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::remove_file(state.key()).unwrap();
        assert!(matches!(state.load(), Err(ConfigError::Unreadable { .. })));

        let long = StateDir::new(dir.path().join("d".repeat(120)));
        long.init("n", &[LISTEN.to_owned()], Observed::default()).unwrap();
        assert!(long.load().unwrap_err().to_string().contains("shorter"));
    }
}
