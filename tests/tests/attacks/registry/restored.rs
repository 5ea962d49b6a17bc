//! A Registry that was restored from a backup: SHOWN, and everything that it does not decide yet. The service moved from the
//! home to B after the backup; a cloud joined after it, and one that was revoked since.

use std::time::Duration;

use wayfare_net::Protocol;
use wayfare_protocol::{
    ids::{Epoch, MigrationId, MigrationIds, Nonce},
    limits::{ADDRESSES_MAX, SHOWN_PARTS_MAX, TEXT_BYTES_MAX},
    manifest::Manifest,
    migration::messages::*,
    registry::Table as Records,
    reject::Reject,
    time::Timestamp,
    trust::{Certificate, Receiver, Role, Signed},
    wire::{Frame, Wire},
};
use wayfare_registry::store::Row as Record;
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Flip as _, Row, Table,
    },
    hand::{Service, claim, nonce},
    ledger::Watched,
    peer::{Doorstep, Peer, until},
    range::Range,
    real::{Authority, KV_CODE, RealRegistry},
    rows,
    shot::{Altered as _, Shot, Signer, misshapen, oversized, unsigned},
};

use super::{
    Bench,
    decisions::ten_frame,
    membership::{OWNERS, manifest},
    not_for_a_registry,
};
use crate::coverage::{Covered, covers};

/// `signed`, saying that it is a placement of the next epoch.
fn forged(signed: &mut Signed<Placement>) {
    let mut placement = claim(signed);
    placement.epoch = placement.epoch.next_era();
    *signed = unsigned(signed, &placement);
}

fn consent(stay: &mut ShownStay, edit: impl FnOnce(&mut MigrationIds)) {
    let mut ids = claim(&stay.placement).ids();
    edit(&mut ids);
    stay.consent = Some(ids);
}

fn shown() -> Table<Shown> {
    rows!(Shown {
        nonce => Reject::WrongNonce;
        part => Reject::FieldTooLong;
        parts = |parts| *parts = 0 => Reject::FieldTooLong;
        parts = |parts| *parts = SHOWN_PARTS_MAX + 1 => Reject::FieldTooLong;
        stays = |stays| forged(&mut stays[0].placement) => Reject::BadSignature;
        stays = |stays| consent(&mut stays[0], |ids| ids.service.unique.flip()) => Reject::WrongService;
        stays = |stays| consent(&mut stays[0], |ids| ids.epoch = Epoch::FIRST) => Reject::WrongEpoch;
        held = |held| held[0].host.flip() => Reject::WrongPeer;
        held = |held| held[0].service.registry.flip() => Reject::UnknownRegistry;
        elsewhere = |elsewhere| forged(&mut elsewhere[0]) => Reject::BadSignature;
    })
    .and(Table(vec![
        Row::new("parts", |shown: &mut Shown| (shown.part, shown.parts) = (1, 2), Reject::UnexpectedMessage, None),
        // Another's placement: this host heard of it, and says that it has the service.
        Row::new(
            "stays",
            |shown: &mut Shown| shown.stays[0].placement = shown.elsewhere[0].clone(),
            Reject::WrongPeer,
            None,
        ),
    ]))
}

fn shown_frame() -> Table<ShownFrame> {
    const SIGNED: Expect = Free("a table of its own");
    rows!(ShownFrame {
        shown = |_| () => SIGNED;
        certificate = |_| () => SIGNED;
        manifests = |_| () => SIGNED;
        addresses = |list| *list = vec![String::new(); ADDRESSES_MAX + 1] => Reject::FieldTooLong;
        addresses = |list| list.push("x".repeat(TEXT_BYTES_MAX + 1)) => Reject::FieldTooLong;
    })
}

const OWN_WORD: Expect = Free("the registry's own word, which it has forgotten");

fn placement() -> Table<Placement> {
    rows!(Placement {
        service.registry => Reject::UnknownRegistry;
        service.unique => OWN_WORD;
        epoch.era => OWN_WORD;
        epoch.hop => OWN_WORD;
        cloud => OWN_WORD;
        host => Reject::WrongPeer;
        key => OWN_WORD;
        mig => OWN_WORD;
        previous => OWN_WORD;
        manifest => OWN_WORD;
        issued => OWN_WORD;
        lease => OWN_WORD;
    })
}

/// Of a host that the records do not know.
fn certificate() -> Table<Certificate> {
    rows!(Certificate {
        cloud => OWN_WORD;
        name => OWN_WORD;
        host => Reject::BadCertificate;
        role => OWN_WORD;
        region => OWN_WORD;
        not_before = |from| *from = Timestamp(u64::MAX / 2) => Reject::CertificateExpired;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::CertificateExpired;
    })
}

/// What is allowed where was decided when the service was registered.
fn owners() -> Table<Manifest> {
    manifest().but("allowed_clouds", OWNERS).but("allowed_regions", OWNERS)
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "restored registry";
    vec![
        covers(to, &shown()),
        covers(to, &shown_frame()),
        covers(to, &placement()),
        covers(to, &certificate()),
        covers(to, &owners()),
    ]
}

/// What happened after the backup.
struct Since {
    /// At the home, and at B.
    placements: [Signed<Placement>; 2],
    ids: MigrationIds,
    five: RegistryFrame,
    ten: RegistryFrame,
    late: Signed<Certificate>,
    gone: Peer,
    gone_certificate: Signed<Certificate>,
}

struct Restored {
    bench: Bench,
    since: Since,
    nonce: Nonce,
    /// Where the home is asked.
    asked: Doorstep,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_registry() {
    let mut restored = Restored::start(150).await;
    restored.decisions().await;
    restored.showings().await;
    restored.papers().await;
    restored.parts().await;
    restored.honest_ones().await;
    restored.bench.close().await;
}

fn registry_of(bench: &Bench) -> &RealRegistry {
    let Authority::Real(registry) = &bench.authority else { panic!("a real registry") };
    registry
}

impl Restored {
    async fn start(seed: u8) -> Self {
        let mut bench = Bench::without_bystander(seed).await;
        bench.register().await;
        let found = bench.ask(|bench| &bench.home, &RegistryFrame::Lookup(Lookup::Id(bench.service.id()))).await;
        let RegistryFrame::Found(Found { service: Some((first, _)), .. }) = found else { panic!("{found:?}") };
        let backup = registry_of(&bench).records();

        let (ids, new_key) = bench.pinned().await;
        let (five, ten) = (bench.five_frame(&bench.service.five(ids, &new_key)), ten_frame(&bench, ids, &new_key));
        let placed = bench.ask(|bench| &bench.fjord, &ten).await;
        let RegistryFrame::Placement(second) = placed else { panic!("not placed: {placed:?}") };
        bench.service.moved(&bench.fjord.secret, new_key);
        let late = bench.authority.enrol(&bench.stranger, "late", Role::Cloud).await;
        let gone = Peer::start(seed + 6).await;
        let gone_certificate = bench.authority.enrol(&gone, "gone", Role::Cloud).await;
        let since = Since { placements: [first, second], ids, five, ten, late, gone, gone_certificate };

        // Nobody is asked by a registry that has lost nothing.
        let asked = bench.home.accept(Protocol::Registry);
        let mut restored = Self { bench, since, nonce: nonce(), asked };
        let (frame, recovering) = (restored.honest(), Recovering { nonce: restored.nonce });
        let shots = vec![Shot::frame("SHOWN to a registry that did not ask", &frame, Reject::UnexpectedMessage)];
        restored.fire(|bench| &bench.fjord, shots).await;
        let shots = not_for_a_registry(vec![RegistryFrame::Recovering(recovering)]);
        restored.fire(|bench| &bench.fjord, shots).await;
        restored.restore(&backup).await
    }

    async fn restore(self, backup: &[Record]) -> Self {
        let Self { bench, since, mut asked, .. } = self;
        let Authority::Real(registry) = bench.authority else { panic!("a real registry") };
        bench.range.close();
        let registry = registry.restored(backup).await;
        let range = Range::open(Watched::Registry(registry.running.handle().clone())).await;
        let authority = Authority::Real(registry);
        let bench = Bench { at: authority.whereabouts(), authority, range, ..bench };
        // It opens a stream to the host of record, which has nothing to say.
        let mut line = asked.line(bench.at.host).await;
        let RegistryFrame::Recovering(Recovering { nonce }) = line.hear().await else { panic!("not asked") };
        for peer in [&bench.home, &bench.fjord, &bench.delta, &bench.stranger, &since.gone] {
            // Its stream to the former one may not have ended yet.
            let open = async || peer.net.open(bench.at.host, &bench.at.addresses, Protocol::Registry).await.ok();
            drop(until("the registry to be reached", open).await);
        }
        Self { bench, since, nonce, asked }
    }

    /// Records of hosts, services and decisions. How far recovery has come is not in them.
    fn records(&self) -> Vec<Record> {
        let mut records = registry_of(&self.bench).records();
        records.retain(|(table, ..)| !matches!(table, Records::Restored | Records::Suspended));
        records
    }

    /// Every shot is refused, and every record stays as it is.
    async fn fire(&mut self, from: fn(&Bench) -> &Peer, shots: Vec<Shot>) {
        let before = self.records();
        for shot in shots {
            let changed = format!("{}: a record changed", shot.name);
            self.bench.fire(from, vec![shot]).await;
            let unchanged = self.records() == before;
            self.bench.range.check(unchanged, &changed);
        }
    }

    /// SHOWN, which is taken.
    async fn tell(&mut self, from: fn(&Bench) -> &Peer, frame: &RegistryFrame) {
        let mut line = self.bench.line(from).await;
        line.say(frame).await;
        // It has no answer: a lookup behind it has one.
        line.say(&RegistryFrame::Lookup(Lookup::Name("kv".to_owned()))).await;
        line.wait_for(|frame| matches!(frame, RegistryFrame::Found(_)).then_some(())).await;
        self.bench.range.accepted("SHOWN").await;
    }

    /// All that B has, and what it heard of.
    fn shown(&self) -> Shown {
        let [first, second] = self.since.placements.clone();
        let stays = vec![ShownStay { placement: second, consent: None }];
        let held = vec![MigrationIds { mig: MigrationId([9; 16]), ..self.since.ids }];
        Shown { nonce: self.nonce, part: 0, parts: 1, stays, held, elsewhere: vec![first] }
    }

    fn signer(&self, peer: &Peer) -> Signer {
        self.bench.authority.realm().hears(&peer.secret)
    }

    fn with(&self, shown: Signed<Shown>) -> ShownFrame {
        ShownFrame {
            shown,
            certificate: self.bench.certificate.clone(),
            manifests: vec![self.bench.service.signed_manifest.clone()],
            addresses: vec!["/dns/fjord/tcp/1".to_owned()],
        }
    }

    fn honest(&self) -> RegistryFrame {
        RegistryFrame::Shown(self.with(self.signer(&self.bench.fjord).sign(&self.shown())))
    }

    /// Nothing is decided yet.
    async fn decisions(&mut self) {
        let (bench, ids) = (&mut self.bench, self.since.ids);
        let advert = bench.signed_advert();
        let two = bench.service.two(bench.cloud(), bench.fjord.host, advert.hash());
        let two = bench.two_frame(&two, advert);
        let old = bench.service.to_registry();
        let other = Service::new(bench.authority.realm(), &bench.fjord.secret, "other", *KV_CODE);
        let register = RegistryFrame::Register(RegisterFrame {
            register: other.to_registry().sign(&other.register()),
            manifest: other.signed_manifest.clone(),
            addresses: vec![],
        });
        let frames = [
            two,
            self.since.five.clone(),
            self.since.ten.clone(),
            RegistryFrame::Renew(old.sign(&Renew { ids: claim(&self.since.placements[1]).ids(), nonce: nonce() })),
            RegistryFrame::Reclaim(old.sign(&Reclaim { ids, nonce: nonce() })),
            RegistryFrame::Cancel(old.sign(&Cancel { ids, nonce: nonce() })),
            register,
            RegistryFrame::Lookup(Lookup::Name("other".to_owned())),
        ];
        let shots = frames.iter().map(|frame| {
            Shot::frame(format!("{} while the registry recovers", frame.name()), frame, Reject::Recovering)
        });
        let (shots, renew) = (shots.collect(), frames[3].to_bytes());
        self.fire(|bench| &bench.fjord, shots).await;
        // Whoever is refused is asked what it has: by the one nonce, so that all of it is of one recovery.
        let mut line = self.bench.line(|bench| &bench.delta).await;
        line.send(&renew).await;
        let shot = Shot::new("RENEW by another while the registry recovers", renew, Reject::Recovering);
        self.bench.range.judge(&shot).await;
        let asked = line.wait_for(|frame| match frame {
            RegistryFrame::Recovering(recovering) => Some(recovering.nonce),
            RegistryFrame::Refused(_) => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(asked.await, self.nonce);
    }

    /// SHOWN, and the placements in it.
    async fn showings(&mut self) {
        let signer = self.signer(&self.bench.fjord);
        let bytes = |frame| RegistryFrame::Shown(frame).to_bytes();
        let wrap = |signed| bytes(self.with(signed));
        let mut shots = signer.shots(&shown(), || self.shown(), wrap, Reject::BadSignature);
        for row in shown_frame().0 {
            let mut frame = self.with(signer.sign(&self.shown()));
            (row.edit)(&mut frame);
            shots.extend(Shot::expecting(format!("SHOWN {}", row.field), bytes(frame), row.resigned));
        }
        let tells = self.bench.authority.realm().says(Receiver::Anyone);
        let stays = |placement| {
            let stays = vec![ShownStay { placement, consent: None }];
            bytes(self.with(signer.sign(&Shown { stays, ..self.shown() })))
        };
        let second = || claim(&self.since.placements[1]);
        shots.extend(tells.shots(&placement(), second, stays, Reject::BadSignature));
        let elsewhere =
            |placement| bytes(self.with(signer.sign(&Shown { elsewhere: vec![placement], ..self.shown() })));
        for (how, placement) in tells.misdirected(&second()) {
            let name = format!("SHOWN with a placement elsewhere, {how}");
            shots.push(Shot::new(name, elsewhere(placement), Reject::BadSignature));
        }
        let honest = self.honest();
        shots.extend(misshapen(&honest, ShownFrame::LIMIT));
        shots.push(oversized(&honest));
        self.fire(|bench| &bench.fjord, shots).await;
        // B's word over another's stream; B's placement in another's word.
        let elsewhere = self.with(self.signer(&self.bench.delta).sign(&self.shown()));
        let shots = vec![
            Shot::frame("SHOWN over another's stream", &honest, Reject::BadSignature),
            Shot::frame("SHOWN by another", &RegistryFrame::Shown(elsewhere), Reject::WrongPeer),
        ];
        self.fire(|bench| &bench.delta, shots).await;
    }

    /// The owner's word on the service, and the Registry's on the host.
    async fn papers(&mut self) {
        let base = self.bench.service.clone();
        let owner = base.realm.signer(&base.owner, Receiver::Anyone);
        let frame = self.with(self.signer(&self.bench.fjord).sign(&self.shown()));
        let wrap = |manifest| {
            let manifests = vec![base.signed_manifest.clone(), manifest];
            RegistryFrame::Shown(ShownFrame { manifests, ..frame.clone() }).to_bytes()
        };
        let shots = owner.shots(&owners(), || base.manifest.clone(), wrap, Reject::BadSignature);
        self.fire(|bench| &bench.fjord, shots).await;

        // Whom the records do not know.
        let nothing = Shown { stays: vec![], held: vec![], elsewhere: vec![], ..self.shown() };
        let frame = self.with(self.signer(&self.bench.stranger).sign(&nothing));
        let wrap = |certificate| RegistryFrame::Shown(ShownFrame { certificate, ..frame.clone() }).to_bytes();
        let says = self.bench.authority.realm().says(Receiver::Anyone);
        let mut shots = says.shots(&certificate(), || claim(&self.since.late), wrap, Reject::BadCertificate);
        let others = wrap(self.bench.certificate.clone());
        shots.push(Shot::new("SHOWN with another's certificate", others, Reject::BadCertificate));
        self.fire(|bench| &bench.stranger, shots).await;

        let handle = registry_of(&self.bench).running.handle();
        handle.join_token("gone", Role::Cloud, Duration::from_secs(60)).await.unwrap();
        handle.revoke("gone").await.unwrap();
        let Since { gone, gone_certificate: certificate, .. } = &self.since;
        let frame = ShownFrame { certificate: certificate.clone(), ..self.with(self.signer(gone).sign(&nothing)) };
        let shot = Shot::frame("SHOWN by a revoked provider's host", &RegistryFrame::Shown(frame), Reject::Revoked);
        let before = self.records();
        self.bench.range.fire(gone, &self.bench.at, Protocol::Registry, vec![shot]).await;
        let unchanged = self.records() == before;
        self.bench.range.check(unchanged, "the host of a revoked provider is back");
    }

    /// Parts follow each other, and are one host's.
    async fn parts(&mut self) {
        let part = |part, peer| {
            let nothing = Shown { part, parts: 3, stays: vec![], held: vec![], elsewhere: vec![], ..self.shown() };
            RegistryFrame::Shown(self.with(self.signer(peer).sign(&nothing)))
        };
        let [zero, one, two] = [0, 1, 2].map(|number| part(number, &self.bench.fjord));
        let delta = part(1, &self.bench.delta);
        let follow = |frame| vec![Shot::frame("a part that does not follow", frame, Reject::UnexpectedMessage)];
        for (before, wrong) in [(&zero, &two), (&one, &one)] {
            self.tell(|bench| &bench.fjord, before).await;
            self.fire(|bench| &bench.fjord, follow(wrong)).await;
        }
        self.fire(|bench| &bench.delta, follow(&delta)).await;
    }

    /// What is true is believed, and the service goes on where it is.
    async fn honest_ones(&mut self) {
        let there = |host, epoch: u32| format!("{} {epoch}.0 {host}", self.bench.service.id());
        let (home, fjord) = (self.bench.home.host, self.bench.fjord.host);
        assert_eq!(self.bench.authority.placements().await, [there(home, 1)]);
        // The home has nothing, and heard where it went.
        let elsewhere = vec![self.since.placements[1].clone()];
        let shown = Shown { stays: vec![], held: vec![], elsewhere, ..self.shown() };
        let frame = RegistryFrame::Shown(self.with(self.signer(&self.bench.home).sign(&shown)));
        let there = [there(fjord, 2)];
        let mut line = self.asked.line(self.bench.at.host).await;
        line.say(&frame).await;
        until("the placement to be adopted", async || (self.bench.authority.placements().await == there).then_some(()))
            .await;
        let honest = self.honest();
        self.tell(|bench| &bench.fjord, &honest).await;
        let records = self.records();
        self.tell(|bench| &bench.fjord, &honest).await;
        assert_eq!(self.records(), records, "the same bytes change nothing");
        let nothing = Shown { stays: vec![], held: vec![], elsewhere: vec![], ..self.shown() };
        let frame = self.with(self.signer(&self.bench.stranger).sign(&nothing));
        let frame = ShownFrame { certificate: self.since.late.clone(), ..frame };
        self.tell(|bench| &bench.stranger, &RegistryFrame::Shown(frame)).await;

        registry_of(&self.bench).until_resumed().await;
        let renew = Renew { ids: claim(&self.since.placements[1]).ids(), nonce: nonce() };
        let renew = RegistryFrame::Renew(self.bench.service.to_registry().sign(&renew));
        let answer = self.bench.ask(|bench| &bench.fjord, &renew).await;
        assert!(matches!(answer, RegistryFrame::Granted(Granted { answer: Answer::Lease(_), .. })), "{answer:?}");
    }
}
