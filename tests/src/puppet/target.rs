//! A cloud that a test plays: real homes offer it their services, and it believes what they say of the state.

use tokio::sync::mpsc;
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
    wire::Frame as _,
};

use crate::{
    hand::{CAPACITY, Realm, claim, entropy, now},
    peer::{Doorstep, Line, Peer, within},
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
    records: mpsc::Receiver<(HostId, Vec<SealedRecord>)>,
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
        let (migrate, records) = (peer.accept(Protocol::Migrate), take_records(peer.accept(Protocol::State)));
        Self { certificate: claim(&signed), bundle: realm.bundle(), realm, signed, migrate, records, peer }
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
        let next = async {
            loop {
                let (host, records) = self.records.recv().await.unwrap();
                if host == from {
                    return records;
                }
            }
        };
        within("records", next).await
    }
}

/// Takes every state stream, as a source opens one ahead for each attempt; hands on what ends with `End`.
fn take_records(mut doorstep: Doorstep) -> mpsc::Receiver<(HostId, Vec<SealedRecord>)> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some((host, line)) = doorstep.next().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let (mut reader, _writer) = line.split();
                let mut records: Vec<SealedRecord> = Vec::new();
                while records.last().is_none_or(|record| record.kind != RecordKind::End) {
                    let Ok(bytes) = reader.read().await else { return };
                    if let Ok(StateFrame::Record(record)) = StateFrame::from_bytes(&bytes) {
                        records.push(record);
                    }
                }
                drop(sender.send((host, records)).await);
            });
        }
    });
    receiver
}
