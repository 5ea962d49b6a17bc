//! Before consent: 3, and 7 with 6.

use wayfare_protocol::{
    migration::messages::*,
    reject::Reject,
    time::Timestamp,
    trust::{Receiver, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table, ids, service, too_little,
    },
    hand::{claim, nonce},
    peer::Line,
    rows,
    shot::{Altered as _, Shot, misshapen, oversized, thief},
};

use super::{Bench, ids_of};
use crate::coverage::{Covered, covers};

const NOT_ASKED: Reject = Reject::UnknownService;

/// 2, as a verdict repeats it. What it is about is looked up before it is verified.
fn asked(nonce: Reject) -> Table<VerifyCloud> {
    rows!(VerifyCloud {
        epoch.era => NOT_ASKED, raw NOT_ASKED;
        epoch.hop => NOT_ASKED, raw NOT_ASKED;
        key => Reject::WrongVerdict;
        cloud => Reject::WrongVerdict;
        host => Reject::WrongVerdict;
        advert => Reject::WrongVerdict;
        counter => Reject::WrongVerdict;
        nonce => nonce;
    })
    .nest("service", |two| &mut two.service, service(NOT_ASKED))
    .raw("service.registry", NOT_ASKED)
    .raw("service.unique", NOT_ASKED)
}

fn yes_cloud() -> Table<YesCloud> {
    rows!(YesCloud {
        manifest => Reject::WrongManifest;
        mig => Free("the registry makes it");
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
    })
    .nest("request", |yes| &mut yes.request, asked(Reject::WrongNonce))
    .nest("resources", |yes| &mut yes.resources, too_little(Reject::NoResources))
}

fn no_cloud() -> Table<NoCloud> {
    rows!(NoCloud { reason = |reason| *reason = NoReason::Revoked => Free("for people"); }).nest(
        "request",
        |no| &mut no.request,
        asked(Reject::WrongVerdict),
    )
}

fn response() -> Table<Response> {
    rows!(Response {
        tos => Reject::WrongTos;
        nonce_a => Reject::WrongNonce;
        nonce_b => Free("the target's own");
        share_a => Reject::WrongDhShare;
        share_b = |share| *share = [0; 32] => Reject::WeakDhShare;
        request => Reject::WrongHash;
        new_key => Reject::WrongPlacementKey;
        suite = |_| () => Free("there is one");
        answered => Free("by the target's clock: only statistics use it");
        needs_module => Free("the target's to say");
    })
    .nest("ids", |response| &mut response.ids, ids())
    .but("ids.mig", Reject::UnknownMigration)
    .raw("ids.mig", Reject::UnknownMigration)
    .nest("granted", |response| &mut response.granted, too_little(Reject::NoResources))
}

/// 6, altered by the Registry itself, with an honest 7.
fn yes_service() -> Table<YesService> {
    rows!(YesService {
        request.key => Reject::WrongPlacementKey;
        request.nonce => Free("the target's: it has compared it");
        request.request => Reject::WrongHash;
        request.new_key => Reject::WrongPlacementKey;
        manifest => Reject::WrongManifest;
        tos => Reject::WrongTos;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
    })
    .nest("request.ids", |yes| &mut yes.request.ids, ids())
}

pub(crate) fn covered() -> Vec<Covered> {
    const SIGNED: Expect = Free("a table of its own");
    let frame = rows!(ResponseFrame {
        response = |_| () => SIGNED;
        verdict = |_| () => SIGNED;
    });
    let to = "source";
    // There is one suite only: its row changes nothing, so nothing is sent for it.
    vec![
        covers(to, &yes_cloud()),
        covers(to, &no_cloud()),
        covers(to, &response()),
        covers(to, &yes_service()),
        covers(to, &frame),
    ]
}

fn threes(bench: &Bench, yes: &Signed<YesCloud>) -> Vec<Shot> {
    let (says, base) = (bench.registry_says(), claim(yes));
    let wrap = |signed| RegistryFrame::YesCloud(signed).to_bytes();
    let mut shots = says.shots(&yes_cloud(), || base.clone(), wrap, Reject::BadSignature);
    let no = || NoCloud { request: base.request.clone(), reason: NoReason::NotOfRecord };
    let wrap = |signed| RegistryFrame::NoCloud(signed).to_bytes();
    shots.extend(says.shots(&no_cloud(), no, wrap, Reject::BadSignature));
    shots.extend(misshapen(&RegistryFrame::YesCloud(yes.clone()), <Signed<YesCloud>>::LIMIT));
    shots.extend(misshapen(&RegistryFrame::NoCloud(says.sign(&no())), <Signed<NoCloud>>::LIMIT));
    // Attack 3: a verdict for another service, host, or time.
    let other = bench.authority.realm().says(Receiver::Host(bench.delta.host)).sign(&base);
    shots.push(Shot::frame("3 that was given to another", &RegistryFrame::YesCloud(other), Reject::BadSignature));
    shots
}

/// An attempt that the Registry says no to.
pub(crate) async fn refused(bench: &mut Bench) {
    bench.registry().hold(&["YesCloud"]).await;
    bench.begin().await;
    let RegistryFrame::YesCloud(yes) = bench.held().await else { panic!("no 3") };
    let shots = threes(bench, &yes);
    bench.fire_as_registry(shots).await;
    let no = NoCloud { request: claim(&yes).request, reason: NoReason::Revoked };
    let no = RegistryFrame::NoCloud(bench.registry_says().sign(&no));
    bench.tell(no.clone()).await;
    // The attempt is over: neither counts any more.
    let late = vec![
        Shot::frame("3 NO after NO", &no, Reject::UnexpectedMessage),
        Shot::frame("3 YES after NO", &RegistryFrame::YesCloud(yes), Reject::UnexpectedMessage),
    ];
    bench.fire_as_registry(late).await;
    bench.registry().hold(&[]).await;
}

/// Attempts that come to 7. Who breaks the protocol is no partner any more: each alteration ends its attempt, and the
/// service, which was not stopped yet, goes on.
pub(crate) async fn sevens(bench: &mut Bench) {
    let (mut next, mut total) = (0, 1);
    while next < total {
        let (_calling, four) = offered(bench).await;
        let home = bench.home.host();
        let answered = bench.target.answer(&bench.authority, home, &four).await;
        let shots = seven_shots(bench, &four, &answered.seven);
        total = shots.len();
        let shot: Vec<Shot> = shots.into_iter().skip(next).take(1).collect();
        let is_unknown = shot.iter().any(|shot| shot.expect == Some(Reject::UnknownMessage));
        bench.fire(shot).await;
        if is_unknown {
            // That breaks no rule, and the attempt goes on.
            bench.fire(vec![Shot::new("7 without a body, after an unknown kind", vec![1, 7], Reject::Malformed)]).await;
        }
        bench.until_no_attempt().await;
        next += 1;
    }
}

/// 2, 3 and 4, honestly.
async fn offered(bench: &mut Bench) -> (Line, RequestFrame) {
    bench.begin().await;
    bench.four().await
}

fn seven_shots(bench: &Bench, four: &RequestFrame, honest: &ResponseFrame) -> Vec<Shot> {
    let (says, base) = (bench.target_says(), claim(&honest.response));
    let wrap = |response| MigrateFrame::Response(ResponseFrame { response, ..honest.clone() }).to_bytes();
    let mut shots = says.shots(&response(), || base.clone(), wrap, Reject::BadSignature);
    let to_target = bench.authority.realm().says(Receiver::Host(bench.target.peer.host));
    let six = claim(&honest.verdict);
    let wrap = |verdict| MigrateFrame::Response(ResponseFrame { verdict, ..honest.clone() }).to_bytes();
    shots.extend(to_target.shots(&yes_service(), || six.clone(), wrap, Reject::BadSignature));
    shots.extend(misshapen(&MigrateFrame::Response(honest.clone()), ResponseFrame::LIMIT));
    // What does not belong here.
    shots.extend(too_early(bench, four));
    let acked = MigrateFrame::RecordsAcked(RecordsAcked { mig: ids_of(four).mig, next: 1 });
    shots.push(Shot::frame("records acknowledged before 8", &acked, Reject::UnexpectedMessage));
    shots
}

/// An attempt that B refuses, after others have tried to spoil it.
pub(crate) async fn given_up(bench: &mut Bench) {
    bench.registry().hold(&["YesCloud"]).await;
    bench.begin().await;
    let RegistryFrame::YesCloud(yes) = bench.held().await else { panic!("no 3") };
    bench.tell(RegistryFrame::YesCloud(yes.clone())).await;
    bench.registry().hold(&[]).await;
    let (_calling, four) = bench.four().await;
    let again = Shot::frame("3 again", &RegistryFrame::YesCloud(yes), Reject::UnexpectedMessage);
    bench.fire_as_registry(vec![again]).await;
    let home = bench.home.host();
    let answered = bench.target.answer(&bench.authority, home, &four).await;
    let frame = MigrateFrame::Response(answered.seven);
    let mut shots = vec![Shot::frame("7 by another", &frame, Reject::WrongPeer), oversized(&frame)];
    let mig = ids_of(&four).mig;
    let refused = MigrateFrame::Refused(MigrateRefused { mig, reason: "full".to_owned() });
    shots.push(Shot::frame("a refusal by another", &refused, Reject::WrongPeer));
    let acked = MigrateFrame::RecordsAcked(RecordsAcked { mig, next: 1 });
    shots.push(Shot::frame("records acknowledged by another", &acked, Reject::WrongPeer));
    bench.fire_from_delta(shots).await;
    // A's own stream is still open: B refuses on a newer one, and the service was never stopped.
    let mut line = bench.line().await;
    line.say(&refused).await;
    let abandoned = line.wait_for(|frame| match frame {
        MigrateFrame::Abandon(about) => Some(about.mig),
        _ => None,
    });
    assert_eq!(abandoned.await, mig);
    bench.range.accepted("a refusal").await;
    let shots = vec![
        Shot::ignored("records acknowledged too late", acked.to_bytes()),
        Shot::frame("7 too late", &frame, Reject::Finished),
    ];
    bench.fire(shots).await;
}

fn too_early(bench: &Bench, four: &RequestFrame) -> Vec<Shot> {
    let ids = ids_of(four);
    let hash = wayfare_protocol::ids::Digest([1; 32]);
    let ack =
        TransferAck { ids, transcript: hash, nonce_a: nonce(), state: hash, consent: hash, completed: Timestamp(1) };
    let ack = MigrateFrame::TransferAck(bench.target_says().sign(&ack));
    let transfer = Transfer {
        ids,
        new_key: wayfare_tests::hand::placement_key(&thief()),
        transcript: hash,
        nonce_b: nonce(),
        state: hash,
        mode: Mode::Registry,
    };
    let consent = wayfare_protocol::trust::CoSigned::sign::<wayfare_protocol::suite::Dalek>(
        &thief(),
        &bench.target.peer.secret,
        bench.authority.realm().id,
        Receiver::Host(bench.home.host()),
        &transfer,
    );
    vec![
        Shot::frame("9 before 8", &ack, Reject::UnexpectedMessage),
        Shot::frame("8 to a source", &MigrateFrame::Transfer(consent), Reject::UnknownMigration),
    ]
}
