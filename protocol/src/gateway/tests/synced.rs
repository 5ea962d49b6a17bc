//! What is on disk before anything leaves that rests on it.

use super::*;

/// Follows the service on host 1, connected, with nothing on disk.
fn unsynced(world: &World) -> (TestGateway, Vec<Effect>) {
    let mut gateway = world.gateway();
    gateway.add_service(at(0), &world.lookup()).unwrap();
    gateway.handle_found(at(0), world.id, &world.found(at(0), 1, 1)).unwrap();
    gateway.handle_connected(at(0), host(1));
    let effects = drain(&mut gateway);
    (gateway, effects)
}

#[test]
fn nobody_is_greeted_under_an_incarnation_that_could_be_lost() {
    let world = World::new();
    let (mut gateway, effects) = unsynced(&world);
    assert_eq!(frames(&effects), []);
    assert_eq!(effects[0], Effect::Persist { seq: 1, entry: Entry::Incarnation(1) });
    gateway.handle_synced(at(1), 1);
    assert_eq!(frames(&drain(&mut gateway)), [(host(1), "Hello")]);
    gateway.handle_synced(at(1), 3);
    assert_eq!(frames(&drain(&mut gateway)), [(host(1), "Open")]);
}

#[test]
fn a_new_incarnation_is_on_disk_before_a_host_hears_of_it() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 0, Reject::Finished)).unwrap();
    let effects = drain(&mut gateway);
    assert_eq!(frames(&effects), []);
    let Effect::Persist { seq, entry: Entry::Incarnation(_) } = effects[0] else { panic!("{effects:?}") };
    gateway.handle_connected(at(2), host(1));
    gateway.handle_timeout(at(2));
    assert_eq!(frames(&drain(&mut gateway)), []);
    gateway.handle_synced(at(3), seq);
    assert_eq!(frames(&drain(&mut gateway)), [(host(1), "Hello"), (host(1), "Open")]);
    gateway.handle_synced(at(3), seq + 1);
    assert_eq!(calls(&drain(&mut gateway)), [(host(1), 1, 1)], "numbers of the new incarnation are reserved first");
}

#[test]
fn what_hosts_still_say_to_the_former_client_is_no_offence() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_request(at(0), &world.lookup(), vec![], None).unwrap();
    settle(&mut gateway, at(0));
    let behind = world.refusal(&gateway, 1, Reject::NoSession);
    gateway.handle_frame(at(1), host(1), &world.refusal(&gateway, 0, Reject::Finished)).unwrap();
    gateway.handle_frame(at(1), host(1), &behind).unwrap();
    assert_eq!(gateway.rejects().get(Reject::WrongClient), 1);
    assert_eq!(calls(&settle(&mut gateway, at(1))), [(host(1), 1, 1)]);
}

#[test]
fn nothing_is_sent_under_an_epoch_that_could_be_forgotten() {
    let world = World::new();
    let mut gateway = world.following(1);
    gateway.handle_gossip_placement(at(1), &world.placement(at(1), 2, 2)).unwrap();
    let effects = drain(&mut gateway);
    let seen = |effect: &Effect| match effect {
        Effect::Persist { seq, entry: Entry::Seen { .. } } => Some(*seq),
        _ => None,
    };
    let seq = effects.iter().find_map(seen).unwrap();
    gateway.handle_request(at(1), &world.lookup(), vec![], None).unwrap();
    gateway.handle_connected(at(1), host(2));
    assert_eq!(frames(&drain(&mut gateway)), [(host(2), "Hello")], "which says nothing of the service");
    gateway.handle_synced(at(2), seq);
    assert_eq!(frames(&drain(&mut gateway)), [(host(2), "Open"), (host(2), "Call")]);
}
