//! Requests and responses with one host.

use super::*;
use crate::limits::{PENDING_REQUESTS_MAX, REQUEST_BYTES_MAX, REQUEST_TIMEOUT};

#[test]
fn a_request_waits_for_the_service_the_stream_and_the_disk() {
    let world = World::new();
    let mut gateway = world.gateway();
    assert_eq!(gateway.handle_request(at(0), &world.lookup(), vec![], None), Err(Refuse::UnknownService));
    gateway.add_service(at(0), &world.lookup()).unwrap();
    assert_eq!(lookups(&settle(&mut gateway, at(0))), 1);
    let ticket = gateway.handle_request(at(1), &world.lookup(), b"GET /".to_vec(), None).unwrap();
    assert_eq!(gateway.poll_effect(), None, "asked already, and nowhere to send it");

    gateway.handle_found(at(2), world.id, &world.found(at(2), 1, 1)).unwrap();
    gateway.handle_connected(at(3), host(1));
    let effects = drain(&mut gateway);
    assert!(effects.contains(&Effect::Connect { host: host(1), addresses: vec!["/memory/1".to_owned()] }));
    assert_eq!(frames(&effects), [(host(1), "Hello")]);
    let persisted = |wanted: fn(&Entry) -> bool| {
        let number = |effect: &Effect| match effect {
            Effect::Persist { seq, entry } if wanted(entry) => Some(*seq),
            _ => None,
        };
        effects.iter().find_map(number).unwrap()
    };
    let (numbers, epoch) = (
        persisted(|entry| matches!(entry, Entry::Reserved { .. })),
        persisted(|entry| matches!(entry, Entry::Seen { .. })),
    );
    assert!(numbers < epoch);
    gateway.handle_synced(at(4), numbers);
    assert_eq!(gateway.poll_effect(), None, "the epoch is not on disk");
    gateway.handle_synced(at(4), epoch);
    let effects = settle(&mut gateway, at(4));
    assert_eq!(frames(&effects), [(host(1), "Open"), (host(1), "Call")]);
    assert_eq!(calls(&effects), [(host(1), 1, 1)]);

    gateway.handle_frame(at(5), host(1), &world.reply(&gateway, 1, b"200")).unwrap();
    let response = b"200".to_vec();
    assert_eq!(settle(&mut gateway, at(5)), [Effect::Answer { ticket, response }]);
    gateway.handle_frame(at(5), host(1), &world.reply(&gateway, 1, b"200")).unwrap();
    assert_eq!(settle(&mut gateway, at(5)), [], "a second reply is not passed on");
    gateway.handle_request(at(6), &world.lookup(), vec![], None).unwrap();
    assert_eq!(calls(&settle(&mut gateway, at(6))), [(host(1), 2, 2)], "the first is acknowledged");
}

#[test]
fn numbers_are_reserved_ahead_block_by_block() {
    let world = World::new();
    let mut gateway = world.following(1);
    let mut reserved = 0;
    for sequence in 1..=10_000u64 {
        gateway.handle_request(at(sequence), &world.lookup(), vec![], None).unwrap();
        let effects = settle(&mut gateway, at(sequence));
        reserved += effects.iter().filter(|effect| matches!(effect, Effect::Persist { .. })).count();
        assert_eq!(calls(&effects), [(host(1), sequence, sequence)]);
        gateway.handle_frame(at(sequence), host(1), &world.reply(&gateway, sequence, b"")).unwrap();
    }
    assert_eq!(reserved, 2, "one sync for thousands of requests");
}

#[test]
fn a_restarted_gateway_is_the_same_client_with_fresh_numbers() {
    let world = World::new();
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    gateway.handle_found(at(0), world.id, &world.found(at(0), 3, 1)).unwrap();
    let mut disk = Disk::default();
    settle(&mut gateway, at(0)).iter().for_each(|effect| disk.take(effect));
    disk.sync();
    let mut compacted = disk.clone();
    gateway.compact_if(COMPACT_BYTES_MIN);
    settle(&mut gateway, at(0)).iter().for_each(|effect| compacted.take(effect));
    compacted.sync();
    assert_eq!((disk.entries.len(), compacted.entries.len()), (3, 1));
    for disk in [disk, compacted] {
        let mut again: TestGateway = Gateway::new(world.config(), &disk.entries, disk.last, &mut FixedRng(77));
        assert_eq!(again.client(), gateway.client());
        again.add_service(at(1), &Lookup::Id(world.service)).unwrap();
        assert_eq!(
            again.handle_gossip_placement(at(1), &world.placement(at(1), 2, 2)),
            Err(Reject::WrongEpoch),
            "an epoch seen before the restart is still known"
        );
        again.handle_gossip_placement(at(1), &world.placement(at(1), 3, 1)).unwrap();
        again.handle_connected(at(1), host(1));
        again.handle_request(at(1), &Lookup::Id(world.service), vec![], None).unwrap();
        assert_eq!(calls(&settle(&mut again, at(1))), [(host(1), 4097, 4097)]);
    }
    let fresh: TestGateway = Gateway::new(world.config(), &[], 0, &mut FixedRng(5));
    assert_ne!(fresh.client(), gateway.client(), "without a journal, another client");
}

#[test]
fn what_a_gateway_cannot_take_is_refused() {
    let world = World::new();
    let mut gateway = world.following(1);
    let large = vec![0; REQUEST_BYTES_MAX + 1];
    let refuse = gateway.handle_request(at(0), &world.lookup(), large, None).unwrap_err();
    assert_eq!((refuse, refuse.status()), (Refuse::TooLarge, 413));
    for _ in 0..PENDING_REQUESTS_MAX {
        gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    }
    let refuse = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap_err();
    assert_eq!((refuse, refuse.status()), (Refuse::Full, 503));
    assert_eq!(gateway.pending(), PENDING_REQUESTS_MAX);
    let unknown = ServiceId { registry: RegistryId([9; 32]), unique: [0; 16] };
    assert_eq!(gateway.add_service(at(0), &Lookup::Id(unknown)), Err(Refuse::UnknownService));
    assert_eq!(gateway.add_service(at(0), &Lookup::Name("x".repeat(200))), Err(Refuse::UnknownService));
    assert_eq!(Refuse::UnknownService.status(), 404);

    let mut waiting = world.gateway();
    waiting.add_service(at(0), &world.lookup()).unwrap();
    for _ in 0..PENDING_REQUESTS_MAX {
        waiting.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    }
    assert_eq!(waiting.handle_request(at(0), &world.lookup(), vec![], None), Err(Refuse::Full));
}

#[test]
fn a_request_is_held_for_so_long() {
    let world = World::new();
    for mut gateway in [world.gateway(), world.following(1)] {
        gateway.add_service(at(0), &world.lookup()).unwrap();
        let ticket = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
        let just_before = Now { mono: Instant(REQUEST_TIMEOUT.0 - 1), ..at(0) };
        gateway.handle_timeout(just_before);
        assert_eq!(failures(&settle(&mut gateway, just_before)), []);
        let then = Now { mono: Instant(REQUEST_TIMEOUT.0), ..at(0) };
        gateway.handle_timeout(then);
        assert_eq!(failures(&settle(&mut gateway, then)), [(ticket, Failure::Timeout)]);
        assert_eq!((Failure::Timeout.status(), gateway.pending()), (504, 0));
    }
}

#[test]
fn a_busy_host_is_asked_again_after_a_pause() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    assert_eq!(frames(&settle(&mut gateway, at(0))), [(host(1), "Call")]);
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 1, Reject::Full)).unwrap();
    gateway.handle_request(at(2), &world.lookup(), vec![], None).unwrap();
    assert_eq!(frames(&settle(&mut gateway, at(2))), [], "others wait too");
    assert_eq!(gateway.poll_timeout(), Some(at(51).mono));
    gateway.handle_timeout(at(51));
    assert_eq!(calls(&settle(&mut gateway, at(51))), [(host(1), 1, 1), (host(1), 2, 1)]);
    gateway.handle_frame(at(52), host(1), &world.refusal(&gateway, 1, Reject::Full)).unwrap();
    gateway.handle_timeout(at(151));
    assert_eq!(calls(&settle(&mut gateway, at(151))), [], "the second pause is longer");
    gateway.handle_timeout(at(152));
    assert_eq!(calls(&settle(&mut gateway, at(152))), [(host(1), 1, 1)]);
}

#[test]
fn a_lost_session_is_opened_again() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 1, Reject::NoSession)).unwrap();
    gateway.handle_timeout(at(60));
    assert_eq!(frames(&settle(&mut gateway, at(60))), [(host(1), "Open"), (host(1), "Call")]);
    // The Open itself is refused for now: again after a pause.
    gateway.handle_frame(at(61), host(1), &world.refusal(&gateway, 0, Reject::Full)).unwrap();
    gateway.handle_frame(at(61), host(1), &world.refusal(&gateway, 1, Reject::NoSession)).unwrap();
    gateway.handle_timeout(at(200));
    assert_eq!(frames(&settle(&mut gateway, at(200))), [(host(1), "Open"), (host(1), "Call")]);
}

#[test]
fn another_refusal_fails_the_request_by_its_name() {
    let world = World::new();
    let mut gateway = world.following(1);
    let tickets: Vec<Ticket> =
        (0..3).map(|_| gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap()).collect();
    settle(&mut gateway, at(0));
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 2, Reject::OtherRequest)).unwrap();
    let unknown = Failure::SessionLost;
    assert_eq!(unknown.status(), 502);
    assert_eq!(
        failures(&settle(&mut gateway, at(1))),
        [(tickets[1], unknown)],
        "what ran under its number nobody knows"
    );
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 0, Reject::PolicyForbids)).unwrap();
    let reason = Failure::NotExecuted("policy_forbids".to_owned());
    let expected = [(tickets[0], reason.clone()), (tickets[2], reason)];
    assert_eq!(failures(&settle(&mut gateway, at(1))), expected, "a refused Open fails all");
}

#[test]
fn a_refusal_is_not_believed_while_a_copy_of_the_request_may_be_on_its_way() {
    for (copies, expected) in [(1, Failure::Stopped), (2, Failure::SessionLost)] {
        let world = World::new();
        let mut gateway = world.following(1);
        let ticket = gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
        let mut sent = calls(&settle(&mut gateway, at(0)));
        let later = at(2000);
        if copies == 2 {
            gateway.handle_timeout(later);
            sent.extend(calls(&settle(&mut gateway, later)));
        }
        assert_eq!(sent, vec![(host(1), 1, 1); copies]);
        // The service may be started again before the second copy arrives.
        gateway.handle_frame(later, host(1), &world.refusal(&gateway, 1, Reject::Stopped)).unwrap();
        assert_eq!(failures(&settle(&mut gateway, later)), [(ticket, expected)]);
    }
}

#[test]
fn an_evicted_client_comes_back_as_another_but_not_at_every_word() {
    let world = World::new();
    let mut gateway = world.following(1);
    let ticket = gateway.handle_request(at(0), &world.lookup(), b"x".to_vec(), None).unwrap();
    settle(&mut gateway, at(0));
    let before = gateway.client();
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 0, Reject::Finished)).unwrap();
    assert_ne!(gateway.client(), before);
    let effects = settle(&mut gateway, at(1));
    assert_eq!(frames(&effects), [(host(1), "Hello"), (host(1), "Open"), (host(1), "Call")]);
    assert_eq!(calls(&effects), [(host(1), 1, 1)]);
    gateway.handle_frame(at(3), host(1), &world.reply(&gateway, 1, b"ok")).unwrap();
    assert_eq!(settle(&mut gateway, at(3)), [Effect::Answer { ticket, response: b"ok".to_vec() }]);

    let ticket = gateway.handle_request(at(4), &world.lookup(), vec![], None).unwrap();
    let client = gateway.client();
    settle(&mut gateway, at(4));
    gateway.handle_frame(at(5), host(1), &world.refusal(&gateway, 0, Reject::Finished)).unwrap();
    assert_eq!(gateway.client(), client);
    let reason = Failure::NotExecuted("finished".to_owned());
    assert_eq!(failures(&settle(&mut gateway, at(5))), [(ticket, reason)]);
}

#[test]
fn a_request_without_an_answer_is_sent_again_and_again() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    let mut sent = vec![];
    for second in 1..20 {
        gateway.handle_timeout(at(second * 1000));
        sent.extend(calls(&settle(&mut gateway, at(second * 1000))).iter().map(|_| second));
    }
    assert_eq!(sent, [2, 6, 14]);
}

#[test]
fn bytes_that_no_host_should_send_are_refused_by_name() {
    let world = World::new();
    let mut gateway = world.following(1);
    let client = gateway.client();
    let opened = |service, client| ClientFrame::Opened(Opened { service, client }).to_bytes();
    let elsewhere = ServiceId { unique: [0; 16], ..world.service };
    let mut version = opened(world.service, client);
    version[0] = 9;
    let mut longer = opened(world.service, client);
    longer.push(0);
    for (bytes, reject) in [
        (vec![], Reject::Malformed),
        (version, Reject::WrongVersion),
        (vec![crate::wire::VERSION, 99], Reject::UnknownMessage),
        (longer, Reject::Malformed),
        (opened(world.service, crate::ids::ClientId([0; 32])), Reject::WrongClient),
        (opened(elsewhere, client), Reject::UnknownService),
        (ClientFrame::Open(Open { service: world.service, client }).to_bytes(), Reject::UnexpectedMessage),
    ] {
        let count = gateway.rejects().get(reject);
        let result = gateway.handle_frame(at(1), host(1), &bytes);
        assert_eq!(result, Err(reject));
        assert_eq!(gateway.rejects().get(reject), count + 1);
    }
}
