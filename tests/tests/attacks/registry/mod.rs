//! The Registry under attack: a home (A), two clouds (B and another) and a gateway, all puppets, and a service of theirs.

use wayfare_net::Protocol;
use wayfare_protocol::{
    advert::Advert,
    ids::{CloudId, MigrationIds},
    migration::messages::*,
    reject::Reject,
    suite::{Secret, fresh_secret},
    trust::{Certificate, Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_tests::{
    hand::{Service, claim, entropy},
    ledger::Watched,
    peer::{Line, Peer, Whereabouts},
    range::Range,
    real::{Authority, RealRegistry},
    shot::Shot,
};

use crate::{bystander::Bystander, coverage::Covered};

mod decisions;
mod membership;
mod orders;
mod restored;
mod verdicts;

pub(crate) fn covered() -> Vec<Covered> {
    [membership::covered(), verdicts::covered(), decisions::covered(), orders::covered(), restored::covered()]
        .into_iter()
        .flatten()
        .collect()
}

/// The Registry, those round it, and a service on the home.
pub(crate) struct Bench {
    pub(crate) authority: Authority,
    pub(crate) at: Whereabouts,
    pub(crate) range: Range,
    pub(crate) home: Peer,
    pub(crate) fjord: Peer,
    pub(crate) delta: Peer,
    pub(crate) gateway: Peer,
    pub(crate) stranger: Peer,
    pub(crate) certificate: Signed<Certificate>,
    pub(crate) delta_certificate: Signed<Certificate>,
    pub(crate) service: Service,
    bystander: Option<Bystander>,
}

impl Bench {
    pub(crate) async fn start(seed: u8) -> Self {
        let mut bench = Self::without_bystander(seed).await;
        bench.bystander = Some(Bystander::start(&bench.authority).await);
        bench
    }

    async fn without_bystander(seed: u8) -> Self {
        let authority = Authority::Real(RealRegistry::start(seed).await);
        let mut peers = Vec::new();
        for number in 1..=5 {
            peers.push(Peer::start(seed + number).await);
        }
        let [home, fjord, delta, gateway, stranger] = peers.try_into().unwrap_or_else(|_| panic!("five peers"));
        authority.enrol(&home, "home", Role::Home).await;
        let certificate = authority.enrol(&fjord, "fjord", Role::Cloud).await;
        let delta_certificate = authority.enrol(&delta, "delta", Role::Cloud).await;
        authority.enrol(&gateway, "phone", Role::Gateway).await;
        let service = Service::new(authority.realm(), &home.secret, "kv", *wayfare_tests::real::KV_CODE);
        let Authority::Real(registry) = &authority else { panic!("a real registry") };
        let range = Range::open(Watched::Registry(registry.running.handle().clone())).await;
        let at = authority.whereabouts();
        let (certificate, delta_certificate) = (certificate, delta_certificate);
        Self {
            authority,
            at,
            range,
            home,
            fjord,
            delta,
            gateway,
            stranger,
            certificate,
            delta_certificate,
            service,
            bystander: None,
        }
    }

    pub(crate) fn cloud(&self) -> CloudId {
        claim(&self.certificate).cloud
    }

    /// Every shot is refused, and every placement stays as it is.
    pub(crate) async fn fire(&mut self, from: fn(&Self) -> &Peer, shots: Vec<Shot>) {
        let before = self.authority.placements().await;
        for shot in shots {
            let mut line = from(self).line(&self.at, Protocol::Registry).await;
            line.send(&shot.bytes).await;
            self.range.judge(&shot).await;
            let after = self.authority.placements().await;
            self.range.check(after == before, &format!("{}: a placement changed", shot.name));
        }
    }

    /// Sends what is honest, on a stream of its own; the answer.
    pub(crate) async fn ask(&mut self, from: fn(&Self) -> &Peer, frame: &RegistryFrame) -> RegistryFrame {
        let mut line = self.line(from).await;
        line.say(frame).await;
        let answer = line.hear().await;
        self.range.accepted(frame.name()).await;
        answer
    }

    /// The same bytes again have the same answer.
    pub(crate) async fn ask_twice(&mut self, from: fn(&Self) -> &Peer, frame: &RegistryFrame) -> RegistryFrame {
        let (first, second) = (self.ask(from, frame).await, self.ask(from, frame).await);
        assert_eq!(first, second, "the same bytes get the same answer");
        first
    }

    pub(crate) async fn line(&self, from: fn(&Self) -> &Peer) -> Line {
        from(self).line(&self.at, Protocol::Registry).await
    }

    /// REGISTER, honestly.
    pub(crate) async fn register(&mut self) {
        let answer = self.ask_twice(|bench| &bench.home, &self.register_frame(&self.service.register())).await;
        assert!(matches!(answer, RegistryFrame::Granted(Granted { answer: Answer::Lease(_), .. })), "{answer:?}");
    }

    pub(crate) fn register_frame(&self, register: &Register) -> RegistryFrame {
        let register = self.service.to_registry().sign(register);
        let manifest = self.service.signed_manifest.clone();
        RegistryFrame::Register(RegisterFrame { register, manifest, addresses: self.home.net.listen_addresses() })
    }

    /// B's advert.
    pub(crate) fn advert(&self) -> Advert {
        let addresses = self.fjord.net.listen_addresses();
        self.authority.realm().advert(self.fjord.host, &self.certificate, &addresses)
    }

    pub(crate) fn signed_advert(&self) -> Signed<Advert> {
        self.authority.realm().signer(&self.fjord.secret, Receiver::Anyone).sign(&self.advert())
    }

    pub(crate) fn two_frame(&self, two: &VerifyCloud, advert: Signed<Advert>) -> RegistryFrame {
        RegistryFrame::VerifyCloud(VerifyCloudFrame { request: self.service.to_registry().sign(two), advert })
    }

    /// 2 and 3, honestly: a new attempt.
    pub(crate) async fn allowed(&mut self) -> MigrationIds {
        let advert = self.signed_advert();
        let (cloud, host) = (self.cloud(), self.fjord.host);
        let two = self.service.two(cloud, host, advert.hash());
        let answer = self.ask_twice(|bench| &bench.home, &self.two_frame(&two, advert)).await;
        let RegistryFrame::YesCloud(yes) = answer else { panic!("no: {answer:?}") };
        self.service.allowed(&claim(&yes))
    }

    /// 2, 3, 5 and 6, honestly: the attempt, and vkNew's secret.
    pub(crate) async fn pinned(&mut self) -> (MigrationIds, Secret) {
        let ids = self.allowed().await;
        let new_key = fresh_secret(&mut entropy());
        let frame = self.five_frame(&self.service.five(ids, &new_key));
        let answer = self.ask_twice(|bench| &bench.fjord, &frame).await;
        assert!(matches!(answer, RegistryFrame::YesService(_)), "{answer:?}");
        (ids, new_key)
    }

    pub(crate) fn five_frame(&self, five: &VerifyService) -> RegistryFrame {
        RegistryFrame::VerifyService(self.authority.realm().hears(&self.fjord.secret).sign(five))
    }

    /// Nothing was harmed.
    pub(crate) async fn close(mut self) {
        if let Some(mut bystander) = self.bystander {
            bystander.answers().await;
            bystander.moves(&self.authority).await;
            self.range.accepted("the honest move").await;
        }
        println!("{} shots", self.range.shots());
        self.range.close();
    }
}

/// Frames that a Registry sends, and never takes.
pub(crate) fn not_for_a_registry(sent: Vec<RegistryFrame>) -> Vec<Shot> {
    let shot = |frame: RegistryFrame| {
        Shot::frame(format!("{} to a registry", frame.name()), &frame, Reject::UnexpectedMessage)
    };
    sent.into_iter().map(shot).collect()
}
