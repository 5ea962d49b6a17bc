//! [`sim_net::attack::hand`] for tests, which may also have the Registry's key.

use std::ops::Deref;

use sim_net::attack::hand;
pub use sim_net::attack::hand::{CAPACITY, Entropy, REQUIRED, Service, belongings, entropy, nonce, now, placement_key};
use sim_net::attack::sign::Signer;
use wayfare_protocol::{
    advert::Advert,
    ids::{HostId, RegistryId},
    suite::Secret,
    time::{Micros, Timestamp},
    trust::{Anchor, Certificate, Message, Receiver, Role, Signed, certificate::cloud_id},
};

/// A Registry whose key the test has.
#[derive(Clone, Debug)]
pub struct Realm {
    /// Its key.
    pub secret: Secret,
    known: hand::Realm,
}

impl Deref for Realm {
    type Target = hand::Realm;

    fn deref(&self) -> &hand::Realm {
        &self.known
    }
}

impl Realm {
    /// The realm of this Registry.
    pub const fn new(id: RegistryId, secret: Secret, anchor: Anchor) -> Self {
        Self { secret, known: hand::Realm { id, anchor } }
    }

    /// What the Registry signs for `receiver`.
    pub fn says(&self, receiver: Receiver) -> Signer {
        self.signer(&self.secret, receiver)
    }

    /// A certificate as the Registry gives it.
    pub fn certificate(&self, name: &str, host: HostId, role: Role) -> Certificate {
        Certificate {
            cloud: cloud_id(self.id, name),
            name: name.to_owned(),
            host,
            role,
            region: "lab".to_owned(),
            not_before: Timestamp(0),
            expiry: now().wall + Micros::from_secs(3600),
        }
    }

    /// An advert of a cloud.
    pub fn advert(&self, host: HostId, certificate: &Signed<Certificate>, addresses: &[String]) -> Advert {
        self.known.advert(host, certificate, addresses).unwrap()
    }
}

/// What was signed, unproved: puppets believe.
pub fn claim<T: Message>(signed: &Signed<T>) -> T {
    signed.unverified().unwrap()
}
