//! A Registry that is restored from a backup (PROTOCOL 4, rule 7), with production machines all round: whatever happened
//! after the backup, no acknowledged write is lost and no service is served twice.

#![allow(clippy::panic, reason = "a test may fail")]

use rand_core::TryRng;
use wayfare_protocol::{
    ids::{HostId, ServiceId},
    migration::messages::*,
    registry::{self, Registry, StoreImage},
    reject::{Guards, Reject, Rule},
    time::Micros,
    trust::Role,
    wire::Frame,
};

#[path = "common/seeded.rs"]
mod seeded;
#[path = "recovery/world.rs"]
mod world;

use seeded::Seeded;
use world::{Loses, Message, SECOND, W, World, is};

/// Every guard but the suspension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Unsuspended;

impl Guards for Unsuspended {
    fn enforces(_: Reject) -> bool {
        true
    }

    fn keeps(rule: Rule) -> bool {
        rule != Rule::SuspendRestored
    }
}

/// A world with a service at home, which has seen one write.
fn deployed<G: Guards>() -> (World<G>, ServiceId) {
    let mut world = World::new();
    let service = world.deploy("counter");
    world.write(service);
    (world, service)
}

#[test]
fn moves_after_the_backup_are_learnt_from_their_hosts() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.go(service, "alpha");
    world.go(service, "beta");
    world.restore(&backup);
    assert_eq!((world.record(service), world.suspended()), ((world.names["home"], 1), 1));
    world.pass(Micros::from_secs(12));
    // Known by now, but not decided about: the window is not over. The lease of before goes on meanwhile.
    assert_eq!((world.record(service), world.suspended()), ((world.names["beta"], 3), 1));
    world.write(service);
    world.recover();
    assert_eq!(world.suspended(), 0);
    assert_eq!(world.write(service), world.names["beta"]);
    world.go(service, "alpha");
    assert_eq!(world.record(service), (world.names["alpha"], 4));
    assert_eq!(world.instances(), 1);
}

#[test]
fn nothing_is_decided_within_the_window() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.restore(&backup);
    let (now, alpha) = (world.now, world.names["alpha"]);
    let home = world.names["home"];
    let node = world.nodes.get_mut(&home).expect("home");
    node.host.begin_move(now, service, alpha, "asked", &mut world.rng).expect("a move can begin");
    world.pass(SECOND);
    // 2 was refused: the attempt is over, the service goes on.
    assert_eq!(world.registry.rejects().get(Reject::Recovering), 1);
    assert_eq!(world.write(service), home);
    world.pass(Micros::from_secs(31));
    assert!(world.serving(service).is_empty(), "no lease is given");
    assert!(world.registry.rejects().get(Reject::Recovering) > 2);
    world.pass(Micros::from_secs(25));
    assert_eq!(world.write(service), home);
    world.go(service, "alpha");
}

#[test]
fn a_new_service_and_its_hosts_are_learnt_too() {
    let (mut world, old): (W, _) = deployed();
    let backup = world.backup();
    world.enrol("gamma", Role::Cloud);
    world.pass(SECOND);
    let new = world.deploy("new");
    world.write(new);
    world.go(new, "gamma");
    world.go(old, "gamma");
    world.restore(&backup);
    world.recover();
    let gamma = world.names["gamma"];
    assert_eq!((world.record(new), world.record(old)), ((gamma, 2), (gamma, 2)));
    assert_eq!((world.write(new), world.write(old)), (gamma, gamma));
    world.go(new, "beta");
}

#[test]
fn hosts_that_restart_show_what_their_journals_say() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let (home, alpha, beta) = (world.names["home"], world.names["alpha"], world.names["beta"]);
    world.go(service, "alpha");
    world.loses = Box::new(|message| matches!(message, Message::FromRegistry { frame, .. } if is(frame, "Placement")));
    world.begin(service, "beta");
    world.restore(&backup);
    for host in [home, alpha, beta] {
        world.restart(host);
    }
    world.recover();
    assert_eq!(world.instances(), 1);
    let now_at = world.write(service);
    assert_eq!(world.record(service).0, now_at);
    assert!(now_at == alpha || now_at == beta);
}

#[test]
fn a_registration_waits_for_the_window_and_is_not_lost() {
    let (mut world, _): (W, _) = deployed();
    let backup = world.backup();
    world.restore(&backup);
    let new = world.deploy("new");
    assert!(world.serving(new).is_empty());
    world.recover();
    assert_eq!(world.write(new), world.names["home"]);
}

/// B has won and serves; A has not heard of it and is still frozen.
#[test]
fn a_frozen_source_hears_that_its_target_won() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let home = world.names["home"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    assert_eq!(world.instances(), 2);
    world.restore(&backup);
    world.recover();
    assert_eq!(world.instances(), 1, "home has deleted its copy");
    assert_eq!(world.write(service), world.names["alpha"]);
}

/// A has heard of the decision and deleted its copy; B has not.
#[test]
fn a_target_hears_that_it_won_from_what_its_source_shows() {
    let (mut world, service): (W, _) = deployed();
    let other = world.deploy("other");
    let backup = world.backup();
    let alpha = world.names["alpha"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == alpha && is(frame, "Placement")),
    );
    world.begin(service, "alpha");
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), alpha);
    world.write(other);
    assert_eq!(world.instances(), 2);
}

/// Neither has heard that the target won: it is decided anew, once, whatever the backup knew of the migration.
#[test]
fn a_decision_that_nobody_heard_is_made_anew() {
    for step in [2, 3, 6] {
        let (mut world, service): (W, _) = deployed();
        world.backups.insert(2, world.backup());
        world.loses =
            Box::new(|message| matches!(message, Message::FromRegistry { frame, .. } if is(frame, "Placement")));
        world.begin(service, "alpha");
        assert_eq!(world.record(service).0, world.names["alpha"]);
        assert_eq!((world.instances(), world.serving(service).len()), (1, 0), "frozen at home");
        let backup = world.backups[&step].clone();
        world.restore(&backup);
        world.recover();
        assert_eq!(world.instances(), 1, "backup after {step}");
        world.write(service);
        world.recover();
        let landing: usize = world.nodes.values().map(|node| node.landing.len()).sum();
        assert_eq!(landing, 0, "backup after {step}: held for ever");
        world.go(service, "beta");
    }
}

#[test]
fn a_service_whose_host_is_silent_waits_for_it() {
    let (mut world, service): (W, _) = deployed();
    let other = world.deploy("other");
    let backup = world.backup();
    world.go(service, "alpha");
    let alpha = world.names["alpha"];
    world.silent.insert(alpha);
    world.restore(&backup);
    world.recover();
    // Its former host knows where it went.
    assert_eq!((world.record(service), world.suspended()), ((alpha, 2), 1));
    assert!(world.serving(service).is_empty());
    assert_eq!(world.write(other), world.names["home"], "the others go on");
    let waits: Vec<_> = world.registry.placements(world.now).filter_map(|view| view.suspended).collect();
    assert_eq!(waits, [registry::Suspension { window: false, waits_for: Some(alpha) }]);
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    assert_eq!((world.write(service), world.suspended()), (alpha, 0));
    world.go(service, "beta");
}

#[test]
fn a_frozen_service_waits_for_its_silent_target() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.insert(alpha);
    world.restore(&backup);
    world.recover();
    world.pass(Micros::from_secs(120));
    assert_eq!(world.suspended(), 1);
    assert!(world.serving(service).is_empty(), "home asks for it in vain: alpha may have served");
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    assert_eq!(world.write(service), alpha);
    assert_eq!(world.instances(), 1);
}

/// The target refused, and has nothing: it would not come by itself, so it is asked.
#[test]
fn a_target_that_has_nothing_is_asked() {
    let (mut world, service): (W, _) = deployed();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(move |message| match message {
        Message::Migrate { to, frame, .. } => {
            (*to == alpha && frame.name() == "Transfer") || (*to == home && frame.name() == "Refused")
        }
        Message::ToRegistry { frame, .. } => is(frame, "Reclaim"),
        _ => false,
    });
    world.begin(service, "alpha");
    let backup = world.backup();
    world.pass(Micros::from_secs(30));
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), home);
    assert_eq!(world.instances(), 1);
}

#[test]
fn a_crash_in_recovery_begins_it_again_and_one_after_it_does_not() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    world.go(service, "alpha");
    world.restore(&backup);
    world.pass(Micros::from_secs(30));
    let crash = |world: &mut W| {
        let mut image = StoreImage::new();
        world.registry.records().iter().for_each(|op| op.apply(&mut image));
        let rows = image.into_iter().map(|((table, key), value)| (table, key, value));
        world.registry = Registry::restore(world.config.clone(), world.now, rows).expect("our own rows");
    };
    crash(&mut world);
    world.pass(Micros::from_secs(10));
    assert_eq!(world.suspended(), 1);
    assert!(world.registry.recovery(world.now).expect("restored").window_left > Micros::from_secs(20));
    world.recover();
    assert_eq!((world.write(service), world.suspended()), (world.names["alpha"], 0));
    crash(&mut world);
    assert_eq!(world.suspended(), 0);
    world.pass(Micros::from_secs(20));
    world.go(service, "beta");
}

#[test]
fn join_tokens_of_a_backup_are_void() {
    let (mut world, _): (W, _) = deployed();
    let (now, lifetime) = (world.now, Micros::from_secs(3600));
    world.registry.create_join_token(now, &mut world.rng, "later", Role::Cloud, lifetime).expect("there is room");
    let backup = world.backup();
    world.restore(&backup);
    assert_eq!(world.registry.tokens().count(), 0);
}

/// The source was out of reach for two moves: the end of its own migration is known to nobody any more, so it keeps its
/// state, sealed.
#[test]
fn a_source_that_missed_two_moves_keeps_its_state_sealed() {
    let (mut world, service): (W, _) = deployed();
    let backup = world.backup();
    let home = world.names["home"];
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.insert(home);
    world.loses = Box::new(|_| false);
    world.go(service, "beta");
    world.restore(&backup);
    world.recover();
    assert_eq!(world.write(service), world.names["beta"]);
    world.silent.clear();
    world.pass(Micros::from_secs(40));
    let states: Vec<String> =
        world.nodes[&home].host.services(world.now).into_iter().map(|service| service.state).collect();
    assert_eq!(states, ["sealed"]);
    assert_eq!(world.write(service), world.names["beta"]);
}

#[test]
fn a_host_with_many_services_shows_them_in_parts() {
    let (mut world, _): (W, _) = deployed();
    let backup = world.backup();
    let services: Vec<ServiceId> = (0..80).map(|number| world.deploy_only(&format!("service-{number}"))).collect();
    world.pass(SECOND);
    world.restore(&backup);
    let parts = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = std::rc::Rc::clone(&parts);
    world.loses = Box::new(move |message| {
        if let Message::ToRegistry { frame: RegistryFrame::Shown(frame), .. } = message {
            seen.set(frame.shown.unverified().expect("readable").parts);
        }
        false
    });
    world.recover();
    assert_eq!((world.suspended(), parts.get()), (0, 2));
    for service in services {
        world.acknowledged.insert(service, 0);
        world.write(service);
    }
}

/// One run: moves, writes, lost messages and silent hosts round a backup and a restore; then all heals.
fn run(seed: u64) {
    let mut dice = Seeded(seed);
    let mut roll = move |sides: u64| dice.try_next_u64().expect("infallible") % sides;
    let (mut world, service): (W, _) = deployed();
    let names = ["home", "alpha", "beta", "gamma"];
    let hosts: Vec<HostId> = world.names.values().copied().collect();
    let lossy = |roll: &mut dyn FnMut(u64) -> u64| -> Loses {
        let (per_cent, state) = (roll(3) * 15, std::cell::Cell::new(roll(u64::MAX)));
        // One host hears nothing of decisions.
        let (deaf, kind) = (hosts.get(roll(6) as usize).copied(), ["Placement", "Granted"][roll(2) as usize]);
        Box::new(move |message| {
            if let Message::FromRegistry { to, frame } = message
                && deaf == Some(*to)
                && is(frame, kind)
            {
                return true;
            }
            let mut next = Seeded(state.get());
            let drawn = next.try_next_u64().expect("infallible");
            state.set(drawn);
            // Adverts are repeated, and gossip is no stream.
            !matches!(message, Message::Gossip { .. } | Message::State { .. }) && drawn % 100 < per_cent
        })
    };
    let mut backup = world.backup();
    let backed_up_at = roll(4);
    for turn in 0..8 {
        if turn == backed_up_at {
            backup = world.backup();
        }
        if turn == backed_up_at + 2 && roll(2) == 0 {
            world.enrol("gamma", Role::Cloud);
        }
        world.loses = lossy(&mut roll);
        world.silent.clear();
        if roll(6) == 0 {
            world.restart(hosts[roll(3) as usize]);
        }
        if roll(4) == 0 {
            let index = roll(3) as usize;
            world.silent.insert(world.names[names[index]]);
        }
        if let [(from, _)] = world.serving(service)[..] {
            let index = roll(4) as usize;
            let (now, to) = (world.now, world.names.get(names[index]).copied().unwrap_or(from));
            let node = world.nodes.get_mut(&from).expect("a node");
            // A refusal is as good a turn as any.
            let _ = node.host.begin_move(now, service, to, "asked", &mut world.rng);
        }
        for _ in 0..=roll(3) {
            let longest = [300_000, 2_000_000, 8_000_000, 20_000_000][roll(4) as usize];
            world.pass(Micros(roll(longest)));
            if world.serving(service).len() == 1 {
                world.write(service);
            }
        }
    }
    world.restore(&backup);
    for _ in 0..4 {
        world.loses = lossy(&mut roll);
        world.silent =
            names.iter().filter_map(|name| world.names.get(name)).copied().filter(|_| roll(3) == 0).collect();
        world.pass(Micros(roll(30_000_000)));
        if roll(3) == 0 {
            world.restart(hosts[roll(3) as usize]);
        }
        if world.serving(service).len() == 1 {
            world.write(service);
        }
    }
    world.loses = Box::new(|_| false);
    world.silent.clear();
    world.pass(Micros::from_secs(120));
    assert_eq!(world.suspended(), 0, "seed {seed}");
    assert_eq!(world.serving(service).len(), 1, "seed {seed}");
    world.write(service);
    let record = world.record(service).0;
    for (me, node) in &world.nodes {
        let states: Vec<String> = node.host.services(world.now).into_iter().map(|view| view.state).collect();
        let fits = if *me == record { states.contains(&"serving".to_owned()) } else { true };
        let others = states.iter().filter(|state| *state != "sealed").count();
        assert!(fits && others <= usize::from(*me == record), "seed {seed}: {states:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "who runs the test says how long")]
fn whatever_happens_round_a_restore_no_write_is_lost() {
    let runs = std::env::var("WAYFARE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(25);
    for seed in 0..runs {
        run(seed);
    }
}

/// The source has not heard that its target won, and the target is out of reach of a Registry that acts on a backup from
/// before the move, `later` after the last renewal.
fn without_the_suspension(later: Micros) {
    let (mut world, service): (World<Unsuspended>, _) = deployed();
    let backup = world.backup();
    let (home, alpha) = (world.names["home"], world.names["alpha"]);
    world.loses = Box::new(
        move |message| matches!(message, Message::FromRegistry { to, frame } if *to == home && is(frame, "Placement")),
    );
    world.go(service, "alpha");
    world.silent.extend([home, alpha]);
    world.pass(later);
    world.restore(&backup);
    world.silent.remove(&home);
    world.pass(Micros::from_secs(20));
    world.write(service);
}

#[test]
#[should_panic(expected = "served twice")]
fn without_the_suspension_a_service_is_served_twice() {
    without_the_suspension(Micros::ZERO);
}

#[test]
#[should_panic(expected = "an acknowledged write was lost")]
fn without_the_suspension_an_acknowledged_write_is_lost() {
    without_the_suspension(Micros::from_secs(60));
}
