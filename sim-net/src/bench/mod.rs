//! What is measured, each figure beside its floor or its peer. Every bench gives a [`Report`].

pub mod durability;
pub mod flood;
pub mod floor;
pub mod gateway;
pub mod handshake;
pub(crate) mod idle;
mod load;
pub mod mesh;
pub mod registry;
mod report;
pub mod transfer;

pub use report::{Machine, Memory, Report, Row, Spread, quantile};
