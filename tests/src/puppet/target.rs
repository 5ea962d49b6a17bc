//! A cloud that a test plays: real homes offer it their services, and it believes what they say of the state.

use wayfare_net::Protocol;
use wayfare_protocol::{
    advert::Advert,
    ids::HostId,
    manifest::Resources,
    migration::{
        messages::*,
        source::Agreement,
        target::{Target, TargetParty},
    },
    reject::Strict,
    suite::Dalek,
    transfer::{RecordKind, SealedRecord, StateFrame},
    trust::{Certificate, Receiver, Role, Signed, TrustBundle},
};

use crate::{
    hand::{CAPACITY, Realm, claim, entropy, now},
    peer::{Doorstep, Line, Peer},
    real::Authority,
};

/// A cloud in the test's hand.
pub struct PuppetTarget {
    /// Its place on the mesh.
    pub peer: Peer,
    realm: Realm,
    signed: Signed<Certificate>,
    certificate: Certificate,
    bundle: TrustBundle,
    migrate: Doorstep,
    state: Doorstep,
}

/// What the puppet would answer to a 4.
pub struct Answered {
    /// The honest machine.
    pub target: Target,
    /// 7 with 6.
    pub seven: ResponseFrame,
    /// What both sides then agree on.
    pub agreement: Agreement,
}

impl PuppetTarget {
    /// Joins.
    pub async fn start(authority: &Authority, seed: u8, name: &str) -> Self {
        let peer = Peer::start(seed).await;
        let signed = authority.enrol(&peer, name, Role::Cloud).await;
        let realm = authority.realm().clone();
        let (migrate, state) = (peer.accept(Protocol::Migrate), peer.accept(Protocol::State));
        Self { certificate: claim(&signed), bundle: realm.bundle(), realm, signed, migrate, state, peer }
    }

    /// An advert as of now.
    pub fn advert(&self) -> Signed<Advert> {
        let advert = self.realm.advert(self.peer.host, &self.signed, &self.peer.net.listen_addresses());
        self.realm.signer(&self.peer.secret, Receiver::Anyone).sign(&advert)
    }

    /// The stream that `from` opens.
    pub async fn called_by(&mut self, from: HostId) -> Line {
        self.migrate.line(from).await
    }

    fn party(&self) -> TargetParty<'_> {
        TargetParty {
            me: self.peer.host,
            host_secret: &self.peer.secret,
            certificate: &self.certificate,
            bundle: &self.bundle,
        }
    }

    /// 5, 6 and 7, honestly; 7 is not sent.
    pub async fn answer(&self, authority: &Authority, from: HostId, four: &RequestFrame) -> Answered {
        let party = self.party();
        let start = Target::start::<Dalek, Strict>(&party, now(), from, four, |_| true, &mut entropy());
        let (mut target, five) = start.unwrap();
        let mut line = self.peer.line(&authority.whereabouts(), Protocol::Registry).await;
        line.say(&RegistryFrame::VerifyService(five)).await;
        let RegistryFrame::YesService(six) = line.hear().await else { panic!("no 6") };
        let granted: Resources = CAPACITY;
        let answer = target.handle_yes::<Dalek, Strict>(&party, now(), &six, granted, false, &mut entropy());
        let (seven, agreement) = answer.unwrap();
        Answered { target, seven, agreement }
    }

    /// Takes all records that `from` sends.
    pub async fn records(&mut self, from: HostId) -> Vec<SealedRecord> {
        let mut line = self.state.line(from).await;
        let mut records = Vec::new();
        loop {
            if let StateFrame::Record(record) = line.hear().await {
                let last = record.kind == RecordKind::End;
                records.push(record);
                if last {
                    return records;
                }
            }
        }
    }
}
