//! What is measured and told.

use super::*;
use crate::{
    advert::Advert,
    advert::store::Inserted,
    latency::Coordinate,
    limits::{REPORT_ENTRIES_MAX, RTT_FRESH},
};

fn advert(world: &World, now: Now, on: u8, position: i64) -> Signed<Advert> {
    let name = format!("cloud-{on}");
    let certificate = Certificate {
        cloud: cloud_id(world.id, &name),
        name,
        host: host(on),
        role: Role::Cloud,
        region: String::new(),
        not_before: Timestamp(0),
        expiry: Timestamp(u64::MAX / 2),
    };
    let advert = Advert {
        registry: world.id,
        cloud: certificate.cloud,
        host: host(on),
        tos: ServiceType::Cloud,
        resources: Resources::default(),
        price_micros: 0,
        addresses: vec![format!("/advertised/{on}")],
        coordinate: Coordinate { position: [position, 0, 0, 0, 0, 0, 0, 0], ..Coordinate::default() },
        certificate: Signed::sign::<Dalek>(&secret(REGISTRY), world.id, Receiver::Anyone, &certificate),
        cordoned: false,
        serial: 1,
        expiry: now.wall + Micros::from_secs(60),
    };
    Signed::sign::<Dalek>(&secret(on), world.id, Receiver::Anyone, &advert)
}

fn reports(effects: Vec<Effect>) -> Vec<(HostId, LatencyReport)> {
    effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Send { host, frame: ClientFrame::LatencyReport(report) } => Some((host, report)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_hosting_host_is_told_what_was_measured_once_a_second() {
    let world = World::new();
    let mut gateway = world.following(1);
    for on in [2, 3] {
        gateway.handle_gossip_advert(at(0), &advert(&world, at(0), on, 0)).unwrap();
    }
    gateway.handle_request(at(10), &world.lookup(), vec![], None).unwrap();
    gateway.handle_request(at(20), &world.lookup(), vec![], None).unwrap();
    for (on, rtt) in [(1, 80), (2, 40), (3, 20), (9, 1)] {
        gateway.record_rtt(at(500), host(on), Micros::from_millis(rtt));
    }
    gateway.handle_timeout(at(999));
    assert_eq!(reports(settle(&mut gateway, at(999))), []);
    assert_eq!(gateway.poll_timeout(), Some(at(1000).mono));
    gateway.handle_timeout(at(1000));
    let sent = reports(settle(&mut gateway, at(1000)));
    let age = Micros::from_millis(500);
    let entry = |on, rtt| (host(on), Micros::from_millis(rtt), age);
    let report = LatencyReport {
        service: world.service,
        client: gateway.client(),
        acked_below: 1,
        entries: vec![entry(1, 80), entry(3, 20), entry(2, 40)],
    };
    assert_eq!(sent, [(host(1), report)], "the hosting host first, then candidates by distance; no one else");
    let stale = 500 + RTT_FRESH.0 / 1000 + 1;
    gateway.handle_timeout(at(stale));
    assert_eq!(reports(settle(&mut gateway, at(stale))), [], "nothing fresh, nothing to say");
}

#[test]
fn a_host_is_told_once_which_responses_have_come() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(10), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(10));
    gateway.handle_timeout(at(1000));
    assert_eq!(reports(settle(&mut gateway, at(1000))), [], "nothing new since the call");
    let (service, client) = (world.service, gateway.client());
    let reply = ClientFrame::Reply(Reply { service, client, sequence: 1, response: vec![] });
    gateway.handle_frame(at(1100), host(1), &reply.to_bytes()).unwrap();
    gateway.handle_timeout(at(2000));
    let report = LatencyReport { service, client, acked_below: 2, entries: vec![] };
    assert_eq!(reports(settle(&mut gateway, at(2000))), [(host(1), report)], "though nothing was measured");
    gateway.handle_timeout(at(3000));
    assert_eq!(reports(settle(&mut gateway, at(3000))), []);
}

#[test]
fn probes_go_to_the_hosting_host_the_nearest_and_the_unexplored() {
    let world = World::new();
    let mut gateway = world.following(1);
    let count = 1 + PROBE_NEAREST as u8 + PROBE_EXPLORE as u8 + 10;
    for on in 2..2 + count {
        let place = i64::from(on) * 10_000;
        assert_eq!(gateway.handle_gossip_advert(at(0), &advert(&world, at(0), on, place)), Ok(Inserted::Fresh));
    }
    let targets: Vec<HostId> = gateway.probe_targets(at(0)).into_iter().map(|(host, _)| host).collect();
    assert_eq!(targets.len(), 1 + PROBE_NEAREST + PROBE_EXPLORE);
    assert_eq!(targets[0], host(1));
    assert!((2..2 + PROBE_NEAREST as u8).all(|on| targets.contains(&host(on))), "nearest by coordinates");
    // The farthest by coordinates turns out to be the nearest, and is measured on.
    let last = host(1 + count);
    gateway.record_rtt(at(1), last, Micros::from_millis(1));
    assert_eq!(gateway.probe_targets(at(1))[1].0, last);
    assert_eq!(gateway.rtt(at(1), last), Some(Micros::from_millis(1)));
    assert_ne!(gateway.coordinate(), Coordinate::default());
    // Round by round, everyone is explored.
    let mut seen = BTreeSet::new();
    for round in 0..10 {
        for (target, _) in gateway.probe_targets(at(2 + round)) {
            seen.insert(target);
            gateway.record_rtt(at(2 + round), target, Micros::from_millis(50));
        }
    }
    assert_eq!(seen.len(), 1 + usize::from(count));
}

#[test]
fn a_report_fits_its_limit() {
    let world = World::new();
    let mut gateway = world.following(1);
    for on in 1..100 {
        gateway.handle_gossip_advert(at(0), &advert(&world, at(0), on, 0)).unwrap();
        gateway.record_rtt(at(0), host(on), Micros::from_millis(u64::from(on)));
    }
    gateway.handle_timeout(at(1000));
    let sent = reports(settle(&mut gateway, at(1000)));
    assert_eq!(sent[0].1.entries.len(), REPORT_ENTRIES_MAX);
    let frame = ClientFrame::LatencyReport(sent[0].1.clone());
    assert_eq!(ClientFrame::from_bytes(&frame.to_bytes()), Ok(frame));
}

#[test]
fn an_advert_says_where_a_host_is_reached() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_gossip_advert(at(0), &advert(&world, at(0), 2, 0)).unwrap();
    assert_eq!(gateway.adverts().len(), 1);
    let forged = Signed::sign::<Dalek>(
        &secret(3),
        world.id,
        Receiver::Anyone,
        &advert(&world, at(0), 2, 0).unverified().unwrap(),
    );
    assert_eq!(gateway.handle_gossip_advert(at(0), &forged), Err(Reject::BadSignature));
    gateway.handle_gossip_placement(at(1), &world.placement(at(1), 2, 2)).unwrap();
    let connect = Effect::Connect { host: host(2), addresses: vec!["/advertised/2".to_owned()] };
    assert!(settle(&mut gateway, at(1)).contains(&connect));
}
