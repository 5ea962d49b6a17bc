//! A whole move in memory: one Registry, a home, two clouds and a gateway, all production machines, with instant links
//! and a journal that syncs at once. The "guest" counts its calls, so that executing twice or losing state shows.

use wayfare_protocol::{
    gateway::messages::{ClientFrame, LatencyReport, Open},
    host::{Host, Left},
    ids::HostId,
    manifest::Durability,
    migration::{messages::*, trace::Ending},
    placement::{RuledOut, Stranded},
    reject::Reject,
    time::Micros,
    wire::Frame,
};

#[path = "common/seeded.rs"]
mod seeded;
#[path = "handover/world.rs"]
mod world;

use world::{Message, World};

#[test]
fn a_service_moves_with_its_state_and_no_request_fails() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    assert_eq!(world.count(), "1");
    for (from, to, expected) in [(home, alpha, "2"), (alpha, beta, "3"), (beta, alpha, "4")] {
        world.begin_move(service, from, to);
        world.pass(Micros::from_millis(100));
        assert_eq!(world.instances(), [to]);
        assert_eq!(world.count(), expected);
        let last = world.nodes[&from].host.history().last().expect("a trace");
        assert_eq!(last.ending, Ending::Moved);
        let mut steps: Vec<u8> = last.steps.iter().map(|(step, _)| *step).collect();
        let target = world.nodes[&to].host.history().find(|trace| trace.mig == last.mig).expect("the other side");
        steps.extend(target.steps.iter().map(|(step, _)| *step));
        steps.sort_unstable();
        steps.dedup();
        assert_eq!(steps, (1..=12).collect::<Vec<u8>>());
    }
    let placement = world.registry.placement(service).expect("registered");
    assert_eq!((placement.host, placement.epoch.era), (alpha, 4));
}

#[test]
fn requests_that_meet_a_frozen_service_are_answered_after_the_move() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    // 10 is lost, so that the service stays frozen for a while.
    world.loses = Box::new(|message| matches!(message, Message::Registry { frame: RegistryFrame::Complete(_), .. }));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let tickets = [world.ask(), world.ask()];
    world.pass(Micros::from_millis(100));
    assert!(world.answers.is_empty());
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(2));
    assert_eq!(tickets.map(|ticket| world.answers[&ticket].clone()), ["1", "2"]);
    assert_eq!(world.instances(), [alpha]);
}

#[test]
fn a_target_that_is_lost_after_consent_gives_the_service_back() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    let lost = alpha;
    world.loses = Box::new(move |message| match message {
        Message::Migrate { to, frame: MigrateFrame::Transfer(_), .. } => *to == lost,
        Message::Migrate { frame: MigrateFrame::Refused(_), .. } => true,
        _ => false,
    });
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let ticket = world.ask();
    world.pass(Micros::from_secs(1));
    assert!(!world.answers.contains_key(&ticket), "frozen: only the registry decides");
    world.pass(Micros::from_secs(8));
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"));
    assert_eq!(world.instances(), [home]);
    assert_eq!(world.registry.placement(service).expect("registered").host, home);
    // Later, honest: it moves.
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(15));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    assert_eq!(world.count(), "3");
    assert_eq!(world.instances(), [alpha]);
}

#[test]
fn whatever_single_message_is_lost_nothing_is_lost_or_run_twice() {
    // One run for each message of the handshake, which is lost the first time it is sent.
    let names = [
        "VerifyCloud",
        "YesCloud",
        "Request",
        "VerifyService",
        "YesService",
        "Response",
        "Transfer",
        "TransferAck",
        "Complete",
        "Placement",
        "Released",
    ];
    for lost in names {
        let mut world = World::new();
        let service = world.deploy();
        let (home, alpha) = (world.named("home"), world.named("alpha"));
        assert_eq!(world.count(), "1");
        let once = std::cell::Cell::new(false);
        world.loses = Box::new(move |message| {
            let name = match message {
                Message::Registry { frame, .. } => frame.name(),
                Message::Migrate { frame, .. } => frame.name(),
                Message::Client { .. } | Message::State { .. } | Message::Gossip { .. } => return false,
            };
            name == lost && !once.replace(true)
        });
        world.begin_move(service, home, alpha);
        let ticket = world.ask();
        world.pass(Micros::from_secs(25));
        assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "{lost} lost");
        assert_eq!(world.count(), "3", "{lost} lost");
        let record = world.registry.placement(service).expect("registered").host;
        assert_eq!(world.instances(), [record], "{lost} lost");
    }
}

#[test]
fn without_the_registry_a_service_stops_when_its_lease_ends() {
    let mut world = World::new();
    world.deploy();
    assert_eq!(world.count(), "1");
    world.loses = Box::new(|message| matches!(message, Message::Registry { .. }));
    world.pass(Micros::from_secs(15));
    assert_eq!(world.count(), "2", "a running service goes on");
    world.pass(Micros::from_secs(20));
    assert_eq!(world.count(), "no answer", "its lease has ended");
    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(20));
    assert_eq!(world.count(), "4", "it goes on where it was, the held request first");
}

#[test]
fn a_target_that_only_acknowledges_keeps_nobody_frozen() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    // It takes the consent, and never completes.
    world.loses = Box::new(|message| {
        matches!(
            message,
            Message::Registry { frame: RegistryFrame::Complete(_), .. }
                | Message::Migrate { frame: MigrateFrame::TransferAck(_), .. }
        )
    });
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(100));
    let mig = world.nodes[&home].host.attempt_of(service).expect("under way").mig;
    let ticket = world.ask();
    for _ in 0..20 {
        let frame = MigrateFrame::RecordsAcked(RecordsAcked { mig, next: 3 });
        world.wires.push_back(Message::Migrate { from: alpha, to: home, frame });
        world.pass(Micros::from_secs(1));
    }
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "the registry was asked, and gave it back");
    assert_eq!(world.instances(), [home]);
}

#[test]
fn an_instance_that_breaks_down_is_answered_for_and_not_renewed() {
    let mut world = World::new();
    let service = world.deploy();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    let epoch = world.registry.placement(service).expect("registered").epoch;
    let node = world.nodes.get_mut(&home).expect("home");
    node.host.handle_started(world.now, (service, epoch), Err("out of memory".to_owned()), &mut world.rng);
    assert!(world.count().contains("broken"), "clients are told");
    let until = world.registry.lease_until(service);
    world.pass(Micros::from_secs(30));
    assert_eq!(world.registry.lease_until(service), until, "the lease is let go");
}

#[test]
fn a_report_needs_a_session_and_its_lack_is_counted_but_no_error() {
    let mut world = World::new();
    world.loses = Box::new(|message| match message {
        Message::Client { bytes, .. } => matches!(ClientFrame::from_bytes(bytes), Ok(ClientFrame::Open(_))),
        _ => false,
    });
    let service = world.deploy();
    let (now, home, gateway, client) = (world.now, world.named("home"), world.gateway_id, world.gateway.client());
    let host = &mut world.nodes.get_mut(&home).expect("home").host;
    let entries = vec![(home, Micros::from_millis(5), Micros::ZERO)];
    let report = ClientFrame::LatencyReport(LatencyReport { service, client, acked_below: 0, entries }).to_bytes();
    let before = host.rejects().get(Reject::NoSession);
    assert_eq!(host.handle_client_frame(now, gateway, &report), Ok(()));
    assert_eq!(host.rejects().get(Reject::NoSession), before + 1);
    assert!(host.rtts(now).is_empty());
    let open = ClientFrame::Open(Open { service, client }).to_bytes();
    assert_eq!(host.handle_client_frame(now, gateway, &open), Ok(()));
    assert_eq!(host.handle_client_frame(now, gateway, &report), Ok(()));
    assert_eq!((host.rejects().get(Reject::NoSession), host.rtts(now).len()), (before + 1, 1));
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    let mut world = World::new();
    world.durability = Durability::Log;
    let service = world.deploy();
    let (home, alpha) = (world.named("home"), world.named("alpha"));
    assert_eq!(world.count(), "1");
    world.crash(home);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "2", "replayed from a fresh instance");
    // Clouds advertise again.
    world.pass(Micros::from_secs(12));
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_millis(200));
    assert_eq!(world.count(), "3");
    world.crash(alpha);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "4", "replayed from what was received");
    assert_eq!(world.instances(), [alpha]);
    assert!(world.nodes[&home].images.is_empty());
}

#[test]
fn a_response_waits_for_its_request_to_be_on_disk() {
    let mut world = World::new();
    world.durability = Durability::Log;
    world.deploy();
    let home = world.named("home");
    assert_eq!(world.count(), "1");
    world.node(home).slow_disk = true;
    let ticket = world.ask();
    world.pass(Micros::from_millis(300));
    assert!(!world.answers.contains_key(&ticket), "it is not in the log yet");
    world.crash(home);
    world.pass(Micros::from_secs(4));
    assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "executed once, as far as anybody knows");
}

#[test]
fn images_shorten_the_log_and_the_journal_is_compacted() {
    let mut world = World::new();
    world.durability = Durability::Log;
    for node in world.nodes.values_mut() {
        node.parts.1.image_log_bytes = 2000;
        let (identity, config) = node.parts.clone();
        node.host = Host::new(identity, config, world.bundle.clone(), 0);
        node.host.set_addresses(vec!["/x".to_owned()]);
    }
    world.pass(Micros::from_secs(1));
    world.deploy();
    let home = world.named("home");
    for number in 1..=30 {
        assert_eq!(world.count(), number.to_string());
    }
    let (before, images) = (world.nodes[&home].journal.len(), world.nodes[&home].images.len());
    assert_eq!(images, 1, "older images are dropped");
    let now = world.now;
    world.node(home).host.compact_if(now, 1 << 30);
    world.pass(Micros::from_millis(100));
    let after = world.nodes[&home].journal.len();
    assert!(after < before / 2 && after > 1, "{after} of {before} entries");
    world.crash(home);
    world.pass(Micros::from_secs(2));
    assert_eq!(world.count(), "31");
    let sequence_kept = world.answers.len();
    assert_eq!(sequence_kept, 31);
}

#[test]
fn a_host_that_crashes_at_any_step_of_a_move_ends_it_well() {
    let steps =
        ["VerifyCloud", "Request", "VerifyService", "Response", "Transfer", "TransferAck", "Complete", "Released"];
    for who in ["home", "alpha"] {
        for step in steps {
            let mut world = World::new();
            world.durability = Durability::Log;
            let service = world.deploy();
            let (home, alpha) = (world.named("home"), world.named("alpha"));
            assert_eq!(world.count(), "1");
            let seen = std::rc::Rc::new(std::cell::Cell::new(false));
            let sees = std::rc::Rc::clone(&seen);
            world.loses = Box::new(move |message| {
                let name = match message {
                    Message::Registry { frame, .. } => frame.name(),
                    Message::Migrate { frame, .. } => frame.name(),
                    Message::Client { .. } | Message::State { .. } | Message::Gossip { .. } => return false,
                };
                // From this step on nothing arrives, until the crash.
                sees.set(sees.get() || name == step);
                sees.get()
            });
            world.begin_move(service, home, alpha);
            let ticket = world.ask();
            world.pass(Micros::from_millis(100));
            assert!(seen.get(), "{step} is never sent");
            let crashes = world.named(who);
            world.crash(crashes);
            world.loses = Box::new(|_| false);
            world.pass(Micros::from_secs(40));
            assert_eq!(world.answers.get(&ticket).map(String::as_str), Some("2"), "{who} crashed at {step}");
            assert_eq!(world.count(), "3", "{who} crashed at {step}");
            let record = world.registry.placement(service).expect("registered").host;
            assert_eq!(world.instances(), [record], "{who} crashed at {step}");
            let images: Vec<_> = world.nodes.values().flat_map(|node| node.images.keys()).collect();
            assert!(images.len() <= 1, "{who} crashed at {step}: {images:?}");
        }
    }
}

/// What keeps the service on `host`, which is being drained.
fn left(world: &mut World, host: HostId) -> Vec<Left> {
    let now = world.now;
    world.node(host).host.drain_view(now).left.into_iter().map(|left| left.why).collect()
}

#[test]
fn a_drained_host_ends_empty_and_says_goodbye() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    assert_eq!(world.count(), "1");
    world.begin_move(service, home, alpha);
    world.pass(Micros::from_secs(1));
    world.node(alpha).host.start_drain();
    let (now, manifest) = (world.now, world.manifest());
    let host = &mut world.node(alpha).host;
    host.handle_module(world::CODE);
    assert_eq!(host.deploy(now, &manifest, &mut seeded::Seeded(7)), Err(Reject::Cordoned), "nothing new comes to it");
    world.pass(Micros::from_secs(2));
    assert_eq!(world.instances(), [beta], "home takes no services, so it is the only other place");
    assert_eq!(left(&mut world, alpha), []);
    assert_eq!(world.count(), "2");
    let trace = world.node(alpha).host.history().last().cloned();
    assert!(trace.is_some_and(|trace| trace.reason.starts_with("drain: ")));
    let now = world.now;
    world.node(alpha).host.farewell(now);
    world.settle();
    assert_eq!(world.node(beta).host.clouds(now).len(), 0, "alpha is forgotten at once");
    world.pass(Micros::from_secs(30));
    let now = world.now;
    assert_eq!(world.node(home).host.clouds(now).len(), 1, "it advertises no more");
}

#[test]
fn a_target_that_refuses_is_passed_over_and_a_service_that_can_go_nowhere_serves_on() {
    let mut world = World::new();
    world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    // Nobody hears that alpha takes no services.
    world.loses = Box::new(|message| matches!(message, Message::Gossip { .. }));
    let first = if alpha < beta { alpha } else { beta };
    world.node(first).host.set_cordoned(true);
    world.node(home).host.start_drain();
    world.pass(Micros::from_secs(3));
    let second = if first == alpha { beta } else { alpha };
    assert_eq!(world.instances(), [second], "the first choice refused");
    assert_eq!(world.node(home).host.history().count(), 2);

    world.loses = Box::new(|_| false);
    world.pass(Micros::from_secs(11));
    world.node(second).host.start_drain();
    world.pass(Micros::from_secs(5));
    let stranded = Left::Stranded(Stranded(vec![(RuledOut::Cordoned, 1)]));
    assert_eq!((left(&mut world, second), world.count()), (vec![stranded], "1".to_owned()));
    world.node(second).host.stop_drain();
    world.node(first).host.set_cordoned(false);
    world.pass(Micros::from_secs(5));
    assert_eq!(world.instances(), [second], "a drain that was given up moves nothing");
    world.node(second).host.start_drain();
    world.pass(Micros::from_secs(2));
    assert_eq!((world.instances(), world.count()), (vec![first], "2".to_owned()));
}

#[test]
fn a_cordon_outlives_a_crash_and_a_drain_does_not() {
    let mut world = World::new();
    let alpha = world.named("alpha");
    for compacts in [false, true] {
        world.node(alpha).host.start_drain();
        if compacts {
            let now = world.now;
            world.node(alpha).host.compact_if(now, u64::MAX);
        }
        world.settle();
        world.crash(alpha);
        let host = &mut world.node(alpha).host;
        assert!(host.is_cordoned() && !host.is_draining());
        host.set_cordoned(false);
        world.settle();
        world.crash(alpha);
        assert!(!world.node(alpha).host.is_cordoned());
    }
}
