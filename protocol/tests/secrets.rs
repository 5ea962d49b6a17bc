//! No secret is ever printed: whole machines, what they want done, what they send and what they write down are formatted while
//! a service moves, and searched for every secret that was drawn, in every form that a print could give it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::fmt::Debug;

use wayfare_protocol::{
    host::Entry,
    ids::{Digest, MigrationId, RegistryId},
    registry::RegistryConfig,
    suite::{Dalek, Secret},
    time::Micros,
    transfer::{Opener, Sealer},
    trust::{Anchor, JoinToken, Role, join::JoinSecret},
    wire,
};

#[path = "handover/world.rs"]
#[expect(dead_code, reason = "only a part of it is used here")]
mod world;

#[path = "common/seeded.rs"]
mod plain;
/// As the other tests' source of randomness; it remembers what may be a secret.
mod seeded {
    use std::cell::RefCell;

    use rand_core::{TryRng, utils};

    thread_local! {
        /// All that was drawn in one go of 32 bytes: placement keys, shares of key agreements.
        pub(crate) static DRAWN: RefCell<Vec<[u8; 32]>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) struct Seeded(pub(crate) u64);

    impl TryRng for Seeded {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(self.try_next_u64()? as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            let mut plain = crate::plain::Seeded(self.0);
            let drawn = plain.try_next_u64();
            self.0 = plain.0;
            drawn
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            utils::fill_bytes_via_next_word(bytes, || self.try_next_u64())?;
            if let Ok(secret) = <[u8; 32]>::try_from(&*bytes) {
                DRAWN.with_borrow_mut(|drawn| drawn.push(secret));
            }
            Ok(())
        }
    }
}

use seeded::DRAWN;
use world::World;

const HEX: data_encoding::Encoding = data_encoding::HEXLOWER;

/// Every form in which somebody might print the bytes, or the beginning of them.
fn forms(secret: &[u8]) -> Vec<String> {
    let head = &secret[..8];
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let hex_list = |bytes: &[u8]| format!("{bytes:x?}").trim_matches(['[', ']']).to_owned();
    vec![
        HEX.encode(head),
        HEX.encode(head).to_uppercase(),
        list(head),
        list(head).replace(", ", ",\n"),
        hex_list(head),
        bs58::encode(secret).into_string(),
        data_encoding::BASE64.encode(secret)[..20].to_owned(),
    ]
}

/// The secret that `text` tells, if it tells one.
fn told(text: &str, secrets: &[[u8; 32]]) -> Option<String> {
    secrets.iter().flat_map(|secret| forms(secret)).find(|form| text.contains(form.as_str()))
}

fn keeps(what: &str, value: &dyn Debug, secrets: &[[u8; 32]]) {
    for text in [format!("{value:?}"), format!("{value:#?}").replace(",\n", ", ").replace("  ", "")] {
        assert!(!text.is_empty(), "{what} says nothing");
        if let Some(form) = told(&text, secrets) {
            panic!("{what} tells a secret, as {form}");
        }
    }
}

#[test]
fn the_search_finds_what_is_told() {
    let secret = [0x5a_u8; 32].map(|byte| byte.wrapping_mul(3));
    let secrets = [secret];
    for text in [
        format!("{secret:?}"),
        format!("{secret:x?}"),
        format!("{:?}", Some(&secret[..])),
        HEX.encode(&secret),
        format!("key {}.", RegistryId(secret)),
        data_encoding::BASE64.encode(&secret),
    ] {
        assert!(told(&text, &secrets).is_some(), "{text}");
    }
    assert_eq!(told("Secret(..)", &secrets), None);
}

#[test]
fn nothing_tells_a_secret_while_a_service_moves() {
    let mut world = World::new();
    let service = world.deploy();
    let (home, alpha, beta) = (world.named("home"), world.named("alpha"), world.named("beta"));
    let own = |world: &World| -> Vec<[u8; 32]> {
        let hosts = world.nodes.values().map(|node| *node.parts.0.secret.expose());
        let drawn = DRAWN.with_borrow(Clone::clone);
        hosts.chain([*world::OWNER.expose()]).chain(drawn).collect()
    };
    let mut looked = 0;
    for (from, to) in [(home, alpha), (alpha, beta)] {
        // Each message on its way is formatted, and once nothing is under way, everything.
        world.loses = Box::new(|message| {
            let secrets = DRAWN.with_borrow(Clone::clone);
            keeps("a message", message, &secrets);
            false
        });
        world.begin_move(service, from, to);
        for _ in 0..20 {
            world.pass(Micros::from_millis(5));
            let secrets = own(&world);
            keeps("the registry", &world.registry, &secrets);
            keeps("the gateway", &world.gateway, &secrets);
            for node in world.nodes.values() {
                keeps("a host", &node.host, &secrets);
                keeps("an identity", &node.parts, &secrets);
                keeps("a journal", &node.journal, &secrets);
                looked += 1;
            }
        }
        assert_eq!(world.instances(), [to]);
    }
    let secrets = own(&world);
    assert!(looked > 50 && secrets.len() > 8, "{looked} looks, {} secrets", secrets.len());
    // They are there: what is written down holds them.
    let written: Vec<u8> =
        world.nodes.values().flat_map(|node| node.journal.iter().flat_map(|(_, entry)| wire::encode(entry))).collect();
    let kept = secrets.iter().filter(|secret| written.windows(32).any(|bytes| bytes == &secret[..])).count();
    assert!(kept >= 3, "{kept} placement keys in the journals");
}

#[test]
fn what_holds_a_secret_says_that_it_does() {
    let secret = || Secret::new([7; 32]);
    insta::assert_snapshot!(format!("{:?}", secret()), @"Secret(..)");
    let ids = wayfare_protocol::ids::MigrationIds {
        service: wayfare_protocol::ids::ServiceId { registry: RegistryId([1; 32]), unique: [2; 16] },
        cloud: wayfare_protocol::ids::CloudId([3; 16]),
        host: wayfare_protocol::ids::HostId([4; 32]),
        mig: MigrationId([5; 16]),
        epoch: wayfare_protocol::ids::Epoch::FIRST,
    };
    let entry = format!("{:?}", Entry::KeyMade { ids, secret: secret() });
    assert!(entry.ends_with("secret: Secret(..) }"), "{entry}");
    let config = format!("{:?}", RegistryConfig::new::<Dalek>(secret(), Vec::new()));
    assert!(config.contains("secret: Secret(..)"), "{config}");
    let anchor = Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses: Vec::new() };
    let mut rng = seeded::Seeded(1);
    let token = JoinToken { anchor, name: "fjord".to_owned(), role: Role::Cloud, secret: JoinSecret::fresh(&mut rng) };
    let text = format!("{token:?}");
    assert!(text.ends_with("secret: JoinSecret(..) }"), "{text}");
    for text in [
        format!("{:?}", Sealer::new(secret(), Digest([1; 32]))),
        format!("{:?}", Opener::new(secret(), Digest([1; 32]))),
    ] {
        assert!(text.contains("key: Secret(..)"), "{text}");
    }
}
