//! The state directory: everything that a node keeps.
//!
//! | File | Holds |
//! |---|---|
//! | `node.key` | the node's secret key, for its owner only |
//! | `node.toml` | how the node behaves: [`Config`] |
//! | `trust.json` | the Registries that it trusts |
//! | `join.token` | its permission to join, until it has joined; for its owner only |
//! | `join.request` | the request that is out, so that a restart repeats the same bytes |
//! | `certificate` | what the Registry says of it |
//! | `owner.key` | the secret key of the owner who deploys from here; for its owner only |
//! | `lock` | held while the node runs |
//! | `api.sock` | the control socket, while the node runs |
//! | `journal`, `images/`, `modules/`, `code/` | what it promised and what services were asked, their state, their modules, compiled code |
//!
//! Open next: `files` for how they are written, `trust` for `trust.json`.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use wayfare_protocol::{
    ids::HostId,
    migration::messages::Enrol,
    suite::{Dalek, Secret, Suite, fresh_secret},
    trust::{Certificate, JoinToken, JoinTokenError, Signed, TrustBundle},
    wire::{self, Wire},
};
use zeroize::Zeroizing;

use crate::{
    clock::entropy,
    config::{Config, ConfigError, template},
};

mod files;
mod trust;

/// Bytes of any of the small files at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a state directory. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file is there already.
    #[error("{path} exists already and is not overwritten: choose another --dir, or remove the old node yourself")]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// A file is not there.
    #[error("{path} is missing: make a node with `wayfare init`, or name its directory with --dir")]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// Neither a certificate nor a join token is there.
    #[error("{dir} holds neither a certificate nor a join token: make a node with `wayfare init --join TOKEN`")]
    NotJoined {
        /// The directory.
        dir: PathBuf,
    },
    /// A secret file can be read by others.
    #[error(
        "{path} can be read by others: take it from them with `chmod 600 {path}`, and replace the key if they may have it"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged ({reason}): {advice}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The join token cannot be used.
    #[error("{path} cannot be used")]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: JoinTokenError,
    },
    /// A node runs here already.
    #[error("a node runs in {dir} already: stop it first, or choose another --dir")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl StateError {
    fn damaged(path: &Path, reason: impl Into<String>, advice: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into(), advice }
    }
}

/// How a node belongs to its mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It has permission to join, and does so at its start.
    Join(JoinToken),
    /// It has joined.
    Enrolled(Signed<Certificate>),
}

/// Held while a node uses its state directory.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// A node's state directory. Making this value touches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// The directory at `path`, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `node.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("node.toml")
    }

    /// `trust.json`.
    pub fn trust_file(&self) -> PathBuf {
        self.path.join("trust.json")
    }

    /// `api.sock`.
    pub fn socket(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// `owner.key`.
    pub fn owner_key_file(&self) -> PathBuf {
        self.path.join("owner.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a node: a fresh key, the token's anchor, the token and `config`. Returns the node's name.
    ///
    /// # Errors
    /// [`StateError`]; then nothing was changed, or, after a failed write, what was written is removed again.
    pub fn init(&self, token: &JoinToken, config: &Config) -> Result<HostId, StateError> {
        config.check(&self.config_file())?;
        config.check_role(&self.config_file(), token.role)?;
        let secret = fresh_secret(&mut entropy());
        let host = HostId(Dalek::public_key(&secret));
        let contents = [
            ("node.key", files::PRIVATE, key_text(&secret)),
            ("trust.json", files::PUBLIC, Zeroizing::new(trust::to_text(std::slice::from_ref(&token.anchor)))),
            ("join.token", files::PRIVATE, Zeroizing::new(token.to_text() + "\n")),
            ("node.toml", files::PUBLIC, Zeroizing::new(template(config, token.role))),
        ];
        let present = contents.iter().map(|(name, ..)| *name).chain(["certificate"]).map(|name| self.file(name));
        if let Some(path) = present.into_iter().find(|path| path.exists()) {
            return Err(StateError::Exists { path });
        }
        files::make_dir(&self.path)?;
        for (written, (name, mode, text)) in contents.iter().enumerate() {
            if let Err(error) = files::create(&self.file(name), *mode, text.as_bytes()) {
                for (name, ..) in contents.iter().take(written) {
                    // The error that led here is the one to report.
                    let _ = files::remove(&self.file(name));
                }
                return Err(error);
            }
        }
        Ok(host)
    }

    /// Takes the directory for one running node, until the lock is dropped.
    ///
    /// # Errors
    /// [`StateError::InUse`], or that the lock file cannot be written.
    pub fn lock(&self) -> Result<DirLock, StateError> {
        let path = self.file("lock");
        let failed = |source| StateError::Write { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { dir: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The node's secret key.
    ///
    /// # Errors
    /// [`StateError`], [`StateError::Exposed`] if others can read it.
    pub fn key(&self) -> Result<Secret, StateError> {
        read_key(&self.file("node.key"))
    }

    /// The Registries that the node trusts.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn trust(&self) -> Result<TrustBundle, StateError> {
        let path = self.trust_file();
        trust::from_text(&files::read(&path, FILE_BYTES_MAX)?).map_err(|reason| {
            StateError::damaged(&path, reason, "take it from another node of the same registry, or `wayfare init` anew")
        })
    }

    /// The certificate; or, while there is one, the join token.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn membership(&self) -> Result<Membership, StateError> {
        let path = self.file("join.token");
        match files::read_private(&path, FILE_BYTES_MAX) {
            Ok(text) => {
                return JoinToken::parse(&text)
                    .map(Membership::Join)
                    .map_err(|source| StateError::Token { path, source });
            }
            Err(StateError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = self.file("certificate");
        match self.read_signed(&path) {
            Ok(certificate) => Ok(Membership::Enrolled(certificate)),
            Err(StateError::Missing { .. }) => Err(StateError::NotJoined { dir: self.path.clone() }),
            Err(error) => Err(error),
        }
    }

    fn read_signed<T: wayfare_protocol::trust::Message>(&self, path: &Path) -> Result<Signed<T>, StateError> {
        let text = files::read(path, FILE_BYTES_MAX)?;
        let advice = "restore it, or join again with a new token in join.token";
        let bytes = BASE64
            .decode(text.trim().as_bytes())
            .map_err(|error| StateError::damaged(path, error.to_string(), advice))?;
        wire::decode(&bytes).map_err(|reject| StateError::damaged(path, reject.to_string(), advice))
    }

    fn write_signed<T: Wire>(&self, name: &str, signed: &T) -> Result<(), StateError> {
        let text = BASE64.encode(&wire::encode(signed)) + "\n";
        files::replace(&self.file(name), files::PUBLIC, text.as_bytes())
    }

    /// The request to join that an earlier run may have sent.
    pub(crate) fn join_request(&self) -> Option<Signed<Enrol>> {
        // Whatever else is there is replaced by a new request.
        self.read_signed(&self.file("join.request")).ok()
    }

    /// Keeps a request to join, before it is sent.
    pub(crate) fn keep_join_request(&self, request: &Signed<Enrol>) -> Result<(), StateError> {
        files::make_dir(&self.path)?;
        self.write_signed("join.request", request)
    }

    /// The node has joined: keeps the certificate, then deletes token and request.
    pub(crate) fn keep_certificate(&self, certificate: &Signed<Certificate>) -> Result<(), StateError> {
        self.write_signed("certificate", certificate)?;
        files::remove(&self.file("join.token"))?;
        files::remove(&self.file("join.request"))
    }
}

fn key_text(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(HEXLOWER_PERMISSIVE.encode(secret.expose()) + "\n")
}

/// Reads a secret key: 64 hexadecimal digits.
///
/// # Errors
/// [`StateError`], [`StateError::Exposed`] if others can read it.
pub fn read_key(path: &Path) -> Result<Secret, StateError> {
    let text = files::read_private(path, FILE_BYTES_MAX)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map(Zeroizing::new).ok();
    let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    key.map(Secret::new).ok_or_else(|| {
        StateError::damaged(
            path,
            "a key is 64 hexadecimal digits",
            "restore it from a backup: nothing else can replace it",
        )
    })
}

/// Makes a secret key for its owner only.
///
/// # Errors
/// [`StateError::Exists`] or [`StateError::Write`].
pub fn create_key(path: &Path) -> Result<Secret, StateError> {
    let secret = fresh_secret(&mut entropy());
    files::create(path, files::PRIVATE, key_text(&secret).as_bytes())?;
    Ok(secret)
}

#[cfg(test)]
mod tests;
