//! The arbiter: whatever comes first decides, and everybody hears the same.

use super::harness::{granted, world};
use crate::{
    ids::Epoch,
    limits::FINISHED_MAX,
    migration::messages::{Answer, Decision, Outcome, RegistryFrame},
    registry::{MigrationState, RevokeTarget},
    reject::Reject,
    time::Micros,
};

#[test]
fn complete_before_reclaim() {
    let (mut world, mut service, home, fjord, _) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    world.ok(&fjord, &world.ten(&attempt, |_| (), |_| ()));
    for frame in [world.reclaim(&attempt), world.cancel(&attempt)] {
        let answer = granted(world.ask(&home, &frame));
        let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
        let outcome: Outcome = world.believe(home.host, signed);
        assert_eq!((outcome.ids, outcome.decision), (attempt.ids, Decision::Won));
        assert_eq!(world.believe_placement(&answer.placement).mig, attempt.ids.mig);
    }
}

#[test]
fn reclaim_before_complete() {
    let (mut world, mut service, home, fjord, delta) = world();
    let attempt = world.pinned(&mut service, &home, &fjord);
    let ten = world.ten(&attempt, |_| (), |_| ());
    let reclaim = world.reclaim(&attempt);
    world.ask(&home, &reclaim);
    for _ in 0..2 {
        let answer = granted(world.ask(&fjord, &ten));
        let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
        let outcome: Outcome = world.believe(fjord.host, signed);
        assert_eq!((outcome.ids, outcome.decision), (attempt.ids, Decision::Aborted));
        world.restart();
    }
    assert_eq!(world.registry.placement(service.id).unwrap().epoch, Epoch::FIRST);
    // Once the service has moved on, the old RECLAIM gets no lease, only the decision.
    world.moved(&mut service, &home, &delta);
    let answer = granted(world.ask(&home, &reclaim));
    let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
    assert_eq!(world.believe::<Outcome>(home.host, signed).decision, Decision::Aborted);
}

#[test]
fn another_ten_for_a_won_migration_is_refused() {
    let (mut world, mut service, home, fjord, _) = world();
    let (attempt, _) = world.moved(&mut service, &home, &fjord);
    let other = world.ten(&attempt, |_| (), |complete| complete.completed.0 += 1);
    world.refused(&fjord, &other, Reject::Reused);
}

#[test]
fn revocation_is_checked_again_at_ten() {
    for whole_cloud in [false, true] {
        let (mut world, mut service, home, fjord, delta) = world();
        let attempt = world.pinned(&mut service, &home, &fjord);
        let target = if whole_cloud { RevokeTarget::Cloud("fjord".to_owned()) } else { RevokeTarget::Host(fjord.host) };
        world.registry.revoke(world.now, &target).unwrap();
        world.drain();
        let ten = world.ten(&attempt, |_| (), |_| ());
        let mut sent = world.refused(&fjord, &ten, Reject::Revoked);
        let answer = granted(sent.remove(0).1);
        let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
        assert_eq!(world.believe::<Outcome>(fjord.host, signed).decision, Decision::Aborted);
        // A hears it by RECLAIM, and moves elsewhere.
        let reclaim = world.reclaim(&attempt);
        assert!(matches!(granted(world.ask(&home, &reclaim)).answer, Answer::Aborted(_)));
        world.moved(&mut service, &home, &delta);
        assert_eq!(world.registry.stats().next().unwrap().failures, 1);
    }
}

#[test]
fn a_forgotten_migration_ends_for_both_sides() {
    let (mut world, mut service, home, fjord, delta) = world();
    let first = world.pinned(&mut service, &home, &fjord);
    let ten = world.ten(&first, |_| (), |_| ());
    let reclaim = world.reclaim(&first);
    world.ask(&home, &reclaim);
    for _ in 0..FINISHED_MAX + 1 {
        world.quick_two(&mut service, &home, &fjord);
    }
    assert!(world.registry.migration(first.ids.mig).is_none());
    assert_eq!(world.registry.migrations().count(), FINISHED_MAX + 1);
    // While the epoch stands, neither side can have won: both are told, though under a rejection's name.
    let sent = world.refused(&home, &reclaim, Reject::UnknownMigration);
    assert!(matches!(&sent[0].1, RegistryFrame::Granted(granted) if matches!(granted.answer, Answer::Aborted(_))));
    let sent = world.refused(&fjord, &ten, Reject::UnknownMigration);
    let answer = granted(sent[0].1.clone());
    let Answer::Outcome(signed) = &answer.answer else { panic!("{answer:?}") };
    assert_eq!(world.believe::<Outcome>(fjord.host, signed).decision, Decision::Aborted);
    // When it has ended, a forgotten RECLAIM has no answer: the source keeps its state sealed.
    world.moved(&mut service, &home, &delta);
    world.refused(&home, &reclaim, Reject::NotHostOfRecord);
}

#[test]
fn a_win_is_remembered_until_the_source_has_deleted_its_copy() {
    let (mut world, mut service, home, fjord, delta) = world();
    let (won, ten) = world.moved(&mut service, &home, &fjord);
    for _ in 0..FINISHED_MAX + 1 {
        world.quick_two(&mut service, &fjord, &delta);
    }
    assert!(matches!(world.registry.migration(won.ids.mig).unwrap().state, MigrationState::Won { .. }));
    let reclaim = world.reclaim(&won);
    assert!(matches!(granted(world.ask(&home, &reclaim)).answer, Answer::Outcome(_)));
    world.ok(&home, &world.twelve(&won, |_| ()));
    world.pass(Micros::from_secs(1));
    for _ in 0..FINISHED_MAX + 1 {
        world.quick_two(&mut service, &fjord, &delta);
    }
    assert!(world.registry.migration(won.ids.mig).is_none());
    // The record itself still names it, so B gets its placement.
    assert!(matches!(world.ask(&fjord, &ten), RegistryFrame::Placement(_)));
    world.refused(&home, &world.twelve(&won, |_| ()), Reject::UnknownMigration);
}
