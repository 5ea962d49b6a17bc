//! OSCAL documents, as JSON: profiles that select controls, and assessment results that say which are in place.
//!
//! What is read is bounded and of a known version; every refusal names the file, what is wrong in it and what to do. Only what
//! decides is read: a profile's selection of controls, a result's findings. Their texts, parameters and alterations are not.
//!
//! Formats: NIST OSCAL 1.x, <https://pages.nist.gov/OSCAL-Reference/models/>, "profile", "catalog" and "assessment-results".

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use wayfare_protocol::ids::Digest;

mod profile;
mod results;

pub use profile::{Selection, select};
pub use results::read_results;

/// Bytes of a document: NIST's whole catalog has 10 MB as JSON.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The first number of the versions that are understood.
const VERSION_MAJOR: &str = "1";

/// Why a document is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OscalError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than any such document.
    #[error("{} is larger than {} MiB: no OSCAL document is; is it the right file?", path.display(), DOCUMENT_BYTES_MAX >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no JSON, or not of the form that it should be of.
    #[error("{} is no OSCAL {kind} in JSON: {source}; convert XML and YAML with `oscal-cli convert`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// Where, and what.
        source: serde_json::Error,
    },
    /// It is of a version that is not understood.
    #[error("{} is of OSCAL version {found}: this program reads 1.x; convert it", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It needs another document that is not there.
    #[error(
        "{} selects from {href}, which is not there (looked for {tried}): put that document where the profile says, or name each control by `with-ids`",
        path.display()
    )]
    NotThere {
        /// The profile.
        path: PathBuf,
        /// What it refers to.
        href: String,
        /// Where it was looked for.
        tried: String,
    },
    /// A reference leads nowhere within the document.
    #[error("{} refers to the resource {href}, which its back matter does not have", path.display())]
    NoResource {
        /// The profile.
        path: PathBuf,
        /// What it refers to.
        href: String,
    },
    /// Profiles import each other, or too many one after the other.
    #[error("{}: profiles import each other in a circle, or more than {} deep", path.display(), profile::DEPTH_MAX)]
    TooDeep {
        /// The last of them.
        path: PathBuf,
    },
    /// A control that is not what it should be.
    #[error("{}: {control:?} is no control: {why}", path.display())]
    BadControl {
        /// The file.
        path: PathBuf,
        /// What it says.
        control: String,
        /// What is wrong.
        why: &'static str,
    },
    /// It selects nothing, or says nothing.
    #[error("{} {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A time that is none.
    #[error("{}: {text:?} is no time: OSCAL writes 2026-01-31T12:00:00Z", path.display())]
    BadTime {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    title: String,
    version: String,
    oscal_version: String,
}

/// A document's bytes by hash, and what it says.
fn read<T: DeserializeOwned>(path: &Path, kind: &'static str) -> Result<(Digest, T), OscalError> {
    let failed = |source| OscalError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(OscalError::TooLarge { path: path.to_owned() });
    }
    let document = serde_json::from_slice(&bytes);
    let document = document.map_err(|source| OscalError::Malformed { path: path.to_owned(), kind, source })?;
    Ok((Digest(*blake3::hash(&bytes).as_bytes()), document))
}

fn check_version(path: &Path, metadata: &Metadata) -> Result<(), OscalError> {
    if metadata.oscal_version.split('.').next() == Some(VERSION_MAJOR) {
        return Ok(());
    }
    Err(OscalError::OtherVersion { path: path.to_owned(), found: metadata.oscal_version.clone() })
}

#[cfg(test)]
mod tests;
