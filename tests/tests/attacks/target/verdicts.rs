//! What the Registry's key can say to a target: 6, 11, OUTCOME.

use wayfare_protocol::{
    ids::Digest,
    migration::messages::*,
    reject::Reject,
    time::Timestamp,
    trust::{Receiver, Signed},
    wire::{Frame, Wire},
};
use wayfare_tests::{
    alter::{
        Expect::{Free, Ignored},
        Table, ids, service,
    },
    hand::{claim, nonce},
    rows,
    shot::{Altered as _, Shot, Signer, misshapen, oversized},
};

use super::Bench;
use crate::coverage::{Covered, covers};

fn yes_service() -> Table<YesService> {
    rows!(YesService {
        request.key => Reject::WrongVerdict;
        request.nonce => Reject::WrongNonce;
        request.request => Reject::WrongVerdict;
        request.new_key => Reject::WrongVerdict;
        manifest => Reject::WrongManifest;
        tos => Reject::WrongTos;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::Expired;
    })
    .nest("request.ids", |yes| &mut yes.request.ids, ids())
    .but("request.ids.mig", Reject::UnknownMigration)
    .raw("request.ids.mig", Reject::UnknownMigration)
}

fn no_service() -> Table<NoService> {
    const OTHER: Reject = Reject::WrongVerdict;
    rows!(NoService {
        request.ids.service.registry => OTHER;
        request.ids.service.unique => OTHER;
        request.ids.cloud => OTHER;
        request.ids.host => OTHER;
        request.ids.mig => Reject::UnknownMigration, raw Reject::UnknownMigration;
        request.ids.epoch.era => OTHER;
        request.ids.epoch.hop => OTHER;
        request.key => OTHER;
        request.nonce => OTHER;
        request.request => OTHER;
        request.new_key => OTHER;
        reason = |reason| *reason = NoReason::Revoked => Free("for people");
    })
}

fn placement() -> Table<Placement> {
    rows!(Placement {
        epoch.era => Reject::WrongEpoch;
        epoch.hop => Reject::WrongEpoch;
        cloud => Reject::WrongCloud;
        host => Reject::WrongCloud;
        key => Reject::WrongPlacementKey;
        mig => Reject::UnknownMigration, raw Reject::UnknownMigration;
        previous => Reject::WrongCloud;
        manifest => Reject::WrongManifest;
        issued => Free("by the registry's clock: clients compare it, the host counts from its own 10");
        lease => Free("as long as the registry says");
    })
    .nest("service", |placement| &mut placement.service, service(Reject::WrongService))
}

fn outcome() -> Table<Outcome> {
    rows!(Outcome {
        answers => Reject::WrongHash;
        decision => Free("the registry's to say");
        placement => Reject::WrongHash;
    })
    .nest("ids", |outcome| &mut outcome.ids, ids())
    .but("ids.mig", Ignored("an answer to what is not asked any more"))
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "target";
    let found = rows!(Granted {
        answer = |_| () => Free("tables of its own");
        placement = |_| () => Free("a table of its own");
    });
    vec![
        covers(to, &yes_service()),
        covers(to, &no_service()),
        covers(to, &placement()),
        covers(to, &outcome()),
        covers(to, &found),
    ]
}

fn says(bench: &Bench) -> Signer {
    bench.authority.realm().says(Receiver::Host(bench.cloud.host()))
}

/// Before an honest 6.
pub(crate) async fn sixes(bench: &mut Bench, six: &Signed<YesService>) {
    let (says, base) = (says(bench), claim(six));
    let wrap = |signed| RegistryFrame::YesService(signed).to_bytes();
    let mut shots = says.shots(&yes_service(), || base.clone(), wrap, Reject::BadSignature);
    let no = || NoService { request: base.request.clone(), reason: NoReason::NotOfRecord };
    let wrap = |signed| RegistryFrame::NoService(signed).to_bytes();
    shots.extend(says.shots(&no_service(), no, wrap, Reject::BadSignature));
    shots.extend(misshapen(&RegistryFrame::YesService(six.clone()), <Signed<YesService>>::LIMIT));
    shots.extend(not_for_a_host(bench));
    bench.fire_as_registry(shots).await;
    // The same verdict, given to another host.
    let other = bench.authority.realm().says(Receiver::Host(bench.delta.host)).sign(&base);
    let other = Shot::frame("6 that was given to another", &RegistryFrame::YesService(other), Reject::BadSignature);
    bench.fire_as_registry(vec![other]).await;
}

/// Frames that a Registry takes, and never sends.
fn not_for_a_host(bench: &Bench) -> Vec<Shot> {
    let lookup = RegistryFrame::Lookup(Lookup::Name("kv".to_owned()));
    let found = RegistryFrame::Found(Found { lookup: Lookup::Name("kv".to_owned()), service: None, addresses: vec![] });
    let enrolled = RegistryFrame::Enrolled(Enrolled { nonce: nonce(), certificate: bench.cloud.certificate.clone() });
    let renew = Renew { ids: ids_of(bench), nonce: nonce() };
    let renew = RegistryFrame::Renew(says(bench).sign(&renew));
    let shot =
        |frame: RegistryFrame| Shot::frame(format!("{} to a host", frame.name()), &frame, Reject::UnexpectedMessage);
    [lookup, found, enrolled, renew].into_iter().map(shot).collect()
}

fn ids_of(bench: &Bench) -> wayfare_protocol::ids::MigrationIds {
    let certificate = claim(&bench.cloud.certificate);
    let mig = wayfare_protocol::ids::MigrationId([3; 16]);
    bench.source.service.ids(certificate.cloud, bench.cloud.host(), mig)
}

/// 11 and OUTCOME before an honest 11. `complete` is h(10).
pub(crate) async fn elevens(bench: &mut Bench, eleven: &Signed<Placement>, complete: Digest) {
    let anyone = bench.authority.realm().says(Receiver::Anyone);
    let base = claim(eleven);
    let wrap = |signed| RegistryFrame::Placement(signed).to_bytes();
    let mut shots = anyone.shots(&placement(), || base.clone(), wrap, Reject::BadSignature);
    shots.extend(misshapen(&RegistryFrame::Placement(eleven.clone()), <Signed<Placement>>::LIMIT));

    let says = says(bench);
    let ids = wayfare_protocol::ids::MigrationIds { epoch: bench.source.service.epoch, ..base.ids() };
    let won = Outcome { ids, answers: complete, decision: Decision::Won, placement: eleven.hash() };
    let wrap = |outcome, placement: &Signed<Placement>| {
        RegistryFrame::Granted(Granted { answer: Answer::Outcome(outcome), placement: placement.clone() }).to_bytes()
    };
    shots.extend(says.shots(&outcome(), || won.clone(), |signed| wrap(signed, eleven), Reject::BadSignature));
    let frame = Granted { answer: Answer::Outcome(says.sign(&won)), placement: eleven.clone() };
    shots.extend(misshapen(&RegistryFrame::Granted(frame), Granted::LIMIT));
    // The answer names the placement that comes with it: that is checked like 11.
    for row in placement().0 {
        if let wayfare_tests::alter::Expect::Refused(reject) = row.resigned {
            let mut altered = base.clone();
            (row.edit)(&mut altered);
            let placement = anyone.sign(&altered);
            let outcome = says.sign(&Outcome { placement: placement.hash(), ..won.clone() });
            // The attempt is known from the outcome itself.
            let reject = if reject == Reject::UnknownMigration { Reject::WrongMigration } else { reject };
            shots.push(Shot::new(format!("OUTCOME with 11 {}", row.field), wrap(outcome, &placement), reject));
        }
    }
    let aborted = Aborted { ids, answers: complete, placement: eleven.hash() };
    let aborted = Granted { answer: Answer::Aborted(says.sign(&aborted)), placement: eleven.clone() };
    shots.push(Shot::frame("ABORTED to a target", &RegistryFrame::Granted(aborted), Reject::UnexpectedMessage));
    // The last: B has to open a new stream.
    shots.push(oversized(&RegistryFrame::Placement(eleven.clone())));
    bench.fire_as_registry(shots).await;
}
