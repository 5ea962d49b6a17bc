//! [`sim_net::attack::source`] for tests: a home that a test plays.

use std::ops::{Deref, DerefMut};

use sim_net::attack::source::Source;
pub use sim_net::attack::source::{Attempt, KV_CODE};
use wayfare_protocol::{
    advert::Advert,
    ids::Digest,
    migration::{
        messages::{ResponseFrame, Transfer},
        source::Agreement,
    },
    transfer::SealedRecord,
    trust::{Role, Signed},
};

use crate::{
    peer::{Line, Peer, Whereabouts},
    real::Authority,
};

/// A home in the test's hand, with one service.
pub struct PuppetSource(Source);

impl Deref for PuppetSource {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.0
    }
}

impl DerefMut for PuppetSource {
    fn deref_mut(&mut self) -> &mut Source {
        &mut self.0
    }
}

impl PuppetSource {
    /// Joins, and starts the instance of a service that is not registered yet.
    pub async fn start(authority: &Authority, seed: u8, service: &str) -> Self {
        Self::with_code(authority, seed, service, *KV_CODE).await
    }

    /// The same, with a manifest that names this code, whatever runs.
    pub async fn with_code(authority: &Authority, seed: u8, service: &str, code: Digest) -> Self {
        let peer = Peer::start(seed).await;
        authority.enrol(&peer, "puppet-home", Role::Home).await;
        Self(Source::new(peer.0, authority.realm(), authority.whereabouts(), service, code).unwrap())
    }

    /// Registers the service, which is then served by nobody but the puppet.
    pub async fn register(&mut self) {
        self.0.register().await.unwrap();
    }

    /// The service counts one up.
    pub fn count(&mut self) {
        self.0.count().unwrap();
    }

    /// 2, 3 and 4 to the cloud behind `advert`.
    pub async fn attempt(&mut self, advert: &Signed<Advert>) -> Attempt {
        self.0.attempt(advert).await.unwrap()
    }

    /// 7: what it agreed on.
    pub fn agree(&self, attempt: &mut Attempt, seven: &ResponseFrame) -> Agreement {
        self.0.agree(attempt, seven).unwrap()
    }

    /// The consent to a move of this state.
    pub fn consent(&self, attempt: &mut Attempt, state: Digest) -> Transfer {
        self.0.consent(attempt, state).unwrap().unverified().unwrap()
    }

    /// All records of the instance, and `h(state)`.
    pub fn records(&mut self, agreement: &Agreement) -> (Vec<SealedRecord>, Digest) {
        self.0.records(agreement, false).unwrap()
    }

    /// Opens a state stream and says what it is for.
    pub async fn state_line(&self, to: &Whereabouts, attempt: &Attempt) -> Line {
        Line(self.0.state_line(to, attempt).await.unwrap())
    }

    /// Sends records, and ends the stream when the receiver has them.
    pub async fn send_records(&self, to: &Whereabouts, attempt: &Attempt, records: Vec<SealedRecord>) {
        self.0.send_records(to, attempt, records).await.unwrap();
    }
}
