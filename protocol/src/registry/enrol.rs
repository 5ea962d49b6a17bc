//! Who belongs: join tokens, certificates, revocation.

use super::{
    Call, Event, Refusal, Registry,
    records::{HostRecord, RevokedCloud, TokenRecord},
};
use crate::{
    ids::{CloudId, HostId},
    limits::{HOSTS_MAX, JOIN_TOKENS_MAX, TEXT_BYTES_MAX},
    migration::messages::{Enrol, Enrolled, RegistryFrame},
    reject::{Guards, Reject, ensure},
    suite::Suite,
    time::{Micros, Now},
    trust::{
        Certificate, Receiver, Role, Signed,
        certificate::{cloud_id, text_fits},
        join::{JoinSecret, JoinToken},
    },
};

/// Why an operator's command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The name cannot be one.
    #[error("`{0}` cannot be a cloud's name: use 1 to {TEXT_BYTES_MAX} letters, digits and signs without spaces")]
    BadName(String),
    /// The name is revoked.
    #[error("cloud `{0}` is revoked: choose another name")]
    NameRevoked(String),
    /// Too many tokens wait for their use.
    #[error("{JOIN_TOKENS_MAX} join tokens are outstanding: use some or let them expire")]
    TooManyTokens,
    /// Nobody of that name is enrolled.
    #[error("no enrolled host or cloud is called `{0}`: `wayfare-registry enrolled` lists them")]
    Unknown(String),
}

/// Whom to revoke.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RevokeTarget {
    /// One host, by its key.
    Host(HostId),
    /// A provider: all its hosts, present and future, by name.
    Cloud(String),
}

/// An enrolled host, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment<'a> {
    /// What its certificate says.
    pub certificate: &'a Certificate,
    /// Whether it, or its provider, is revoked.
    pub revoked: bool,
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= TEXT_BYTES_MAX && name.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

impl<S: Suite, G: Guards> Registry<S, G> {
    /// Allows one node to join as a host of provider `name`. The token may be shown once
    /// [`last_appended`](Registry::last_appended) is on disk.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn create_join_token(
        &mut self,
        now: Now,
        rng: &mut dyn rand_core::Rng,
        name: &str,
        role: Role,
        lifetime: Micros,
    ) -> Result<JoinToken, CommandError> {
        if !is_name(name) {
            return Err(CommandError::BadName(name.to_owned()));
        }
        if self.tables.revoked.get(cloud_id(self.id(), name)).is_some() {
            return Err(CommandError::NameRevoked(name.to_owned()));
        }
        let expired: Vec<_> =
            self.tables.tokens.iter().filter(|token| token.expiry <= now.wall).map(|token| token.hash).collect();
        for hash in expired {
            self.tables.remove_token(hash);
        }
        let room = self.tables.tokens.len() < JOIN_TOKENS_MAX;
        let token = JoinToken { anchor: self.anchor(), name: name.to_owned(), role, secret: JoinSecret::fresh(rng) };
        if room {
            let expiry = now.wall + lifetime;
            self.tables.put_token(TokenRecord { hash: token.secret.hash(), name: name.to_owned(), role, expiry });
            self.event(Event::TokenCreated { name: name.to_owned(), role });
        }
        self.commit(now);
        if room { Ok(token) } else { Err(CommandError::TooManyTokens) }
    }

    /// Revokes a host or a provider: no service moves there any more, a move under way there is aborted, and what runs
    /// there is not renewed, so that it stops within one lease; it may still move away. Again: no change.
    ///
    /// # Errors
    /// [`CommandError::Unknown`].
    pub fn revoke(&mut self, now: Now, target: &RevokeTarget) -> Result<(), CommandError> {
        match target {
            RevokeTarget::Host(host) => {
                let record = self.tables.hosts.get(*host).ok_or_else(|| CommandError::Unknown(host.to_string()))?;
                if record.revoked.is_none() {
                    self.tables.put_host(HostRecord { revoked: Some(now.wall), ..record.clone() });
                    self.event(Event::HostRevoked { host: *host });
                }
            }
            RevokeTarget::Cloud(name) => {
                let cloud = cloud_id(self.id(), name);
                let enrolled = self.tables.hosts.iter().any(|host| host.certificate.cloud == cloud);
                let invited: Vec<_> =
                    self.tables.tokens.iter().filter(|token| token.name == *name).map(|token| token.hash).collect();
                if !enrolled && invited.is_empty() {
                    return Err(CommandError::Unknown(name.clone()));
                }
                for hash in invited {
                    self.tables.remove_token(hash);
                }
                if self.tables.revoked.get(cloud).is_none() {
                    self.tables.put_revoked(RevokedCloud { cloud, name: name.clone(), at: now.wall });
                    self.event(Event::CloudRevoked { name: name.clone() });
                }
            }
        }
        self.commit(now);
        Ok(())
    }

    /// Every host that ever enrolled.
    pub fn enrolled(&self) -> impl Iterator<Item = Enrolment<'_>> {
        self.tables
            .hosts
            .iter()
            .map(|host| Enrolment { certificate: &host.certificate, revoked: self.is_revoked(host.certificate.host) })
    }

    /// Whether `host` is enrolled, and neither it nor its provider is revoked.
    pub fn is_member(&self, host: HostId) -> bool {
        self.tables.hosts.get(host).is_some() && !self.is_revoked(host)
    }

    /// Where hosts said that they are reached, of those that may be.
    pub fn whereabouts(&self) -> impl Iterator<Item = (HostId, &[String])> {
        let known = self.tables.hosts.iter().filter(|host| !host.addresses.is_empty());
        known.map(|host| (host.certificate.host, &host.addresses[..])).filter(|(host, _)| !self.is_revoked(*host))
    }

    /// Join tokens that wait for their use.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tables.tokens.iter()
    }

    /// ENROL: a token's secret by hash, and proof that the peer holds the key it enrols.
    pub(super) fn enrol(&mut self, call: &mut Call<'_>, signed: &Signed<Enrol>) -> Result<(), Refusal> {
        // Whoever has neither enrolled nor a token costs no signature: anybody can ask.
        let claim = signed.unverified()?.token;
        let is_somebody = self.tables.hosts.get(call.peer).is_some() || self.tables.tokens.get(claim).is_some();
        ensure::<G>(is_somebody, Reject::BadToken)?;
        let enrol = signed.verify::<S, G>(&call.peer.0, self.id(), self.me())?;
        ensure::<G>(enrol.host == call.peer, Reject::WrongPeer)?;
        ensure::<G>(text_fits(&enrol.region), Reject::FieldTooLong)?;
        let known = self.tables.hosts.get(enrol.host);
        if let Some(host) = known.filter(|host| host.request == signed.hash()) {
            let answer = Enrolled { nonce: host.nonce, certificate: host.signed.clone() };
            self.reply(call.peer, RegistryFrame::Enrolled(answer));
            return Ok(());
        }
        let token = self.tables.tokens.get(enrol.token).ok_or(Reject::BadToken)?;
        ensure::<G>(call.now.wall < token.expiry, Reject::BadToken)?;
        ensure::<G>(token.role == enrol.role, Reject::WrongRole)?;
        let cloud = cloud_id(self.id(), &token.name);
        if let Some(host) = known {
            ensure::<G>(!self.is_revoked(enrol.host), Reject::Revoked)?;
            // A new token renews the certificate; it does not make the host somebody else's.
            let same = host.certificate.cloud == cloud && host.certificate.role == enrol.role;
            ensure::<G>(same, Reject::Conflict)?;
        } else {
            ensure::<G>(self.tables.revoked.get(cloud).is_none(), Reject::Revoked)?;
            ensure::<G>(self.tables.hosts.len() < HOSTS_MAX, Reject::Full)?;
        }
        let (addresses, serial) = known.map(|host| (host.addresses.clone(), host.serial)).unwrap_or_default();
        let certificate = Certificate {
            cloud,
            name: token.name.clone(),
            host: enrol.host,
            role: enrol.role,
            region: enrol.region.clone(),
            not_before: call.now.wall,
            expiry: call.now.wall + self.config.certificate_lifetime,
        };
        let signed_certificate = self.sign(Receiver::Anyone, &certificate);
        self.tables.remove_token(enrol.token);
        self.event(Event::Enrolled { host: enrol.host, name: certificate.name.clone(), role: enrol.role });
        self.tables.put_host(HostRecord {
            certificate,
            signed: signed_certificate.clone(),
            request: signed.hash(),
            nonce: enrol.nonce,
            revoked: None,
            addresses,
            serial,
        });
        let answer = Enrolled { nonce: enrol.nonce, certificate: signed_certificate };
        self.reply(call.peer, RegistryFrame::Enrolled(answer));
        Ok(())
    }

    /// Whether a host, or its provider, is revoked.
    pub(super) fn is_revoked(&self, host: HostId) -> bool {
        self.tables
            .hosts
            .get(host)
            .is_some_and(|host| host.revoked.is_some() || self.is_cloud_revoked(host.certificate.cloud))
    }

    /// Where `host` says that it is reached. Older news than what is known changes nothing.
    pub(super) fn learn_addresses(&mut self, host: HostId, addresses: &[String], serial: u64) {
        let Some(record) = self.tables.hosts.get(host) else { return };
        if serial >= record.serial && record.addresses != addresses {
            self.tables.put_host(HostRecord { addresses: addresses.to_vec(), serial, ..record.clone() });
        }
    }

    fn is_cloud_revoked(&self, cloud: CloudId) -> bool {
        self.tables.revoked.get(cloud).is_some()
    }

    /// The certificate of a host that is enrolled and not revoked.
    pub(super) fn in_good_standing(&self, host: HostId) -> Result<&Certificate, Reject> {
        let record = self.tables.hosts.get(host).ok_or(Reject::NotEnrolled)?;
        ensure::<G>(!self.is_revoked(host), Reject::Revoked)?;
        Ok(&record.certificate)
    }
}
