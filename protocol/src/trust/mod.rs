//! Who may say what: signed envelopes, certificates, the trust bundle.
//!
//! This module is the only maker of [`Verified`]: a function that takes one need not ask again whether it is genuine.
//! [`signed`] has the envelopes, [`certificate`] enrolment, [`join`] the tokens that lead to it, [`baseline`] what a platform must be.

pub mod baseline;
pub mod certificate;
pub mod evidence;
pub mod join;
pub mod signed;

pub use baseline::{Assurance, Baseline, ControlId, Shortfall};
pub use certificate::{Anchor, Certificate, Role, TrustBundle};
pub use evidence::{Finding, Lack, lacking};
pub use join::{JoinSecret, JoinToken, JoinTokenError};
pub use signed::{CoSigned, Message, Receiver, Signed, Verified};
