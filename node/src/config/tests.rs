use proptest::prelude::*;

use super::*;

fn refused(text: &str) -> String {
    Config::parse(Path::new("d/node.toml"), text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse(Path::new("node.toml"), "").unwrap(), Config::default());
    let host = Config::default().host();
    assert_eq!((host.placement, host.capacity.memory_bytes), (PlacementConfig::default(), 1 << 30));
}

#[test]
fn every_mistake_is_named_with_its_file_and_key() {
    let cases = [
        ("[nodes]", "nodes"),
        ("[node]\nlissten = []", "lissten"),
        ("[node]\nlisten = \"/ip4/1.2.3.4/tcp/1\"", "line 2"),
        ("[node]\nlisten = [\"1.2.3.4:80\"]", "node.listen: `1.2.3.4:80` is no multiaddr"),
        ("[capacity]\nmemory_mib = 0", "capacity.memory_mib: 0 is not from 1"),
        ("[capacity]\nmemory_mib = -1", "memory_mib = -1"),
        ("[placement]\npolicy = \"best\"", "unknown variant `best`, expected one of `sardis`, `nearest`, `never`"),
        ("[placement]\nslot_ms = 1", "placement.slot_ms"),
        ("[migration]\nstep_timeout_ms = 1", "migration.step_timeout_ms"),
        ("[gateway]\nservices = [{ name = \"kv\", listen = \"8080\" }]", "invalid socket address"),
        ("[gateway]\nservices = [{ name = \"kv\" }]", "listen"),
        (
            "[[gateway.services]]\nname = \"a\"\nlisten = \"[::1]:1\"\n[[gateway.services]]\nname = \"a\"\nlisten = \"[::1]:2\"",
            "`a` is there twice",
        ),
        (
            "[[gateway.services]]\nname = \"a\"\nlisten = \"[::1]:1\"\n[[gateway.services]]\nname = \"b\"\nlisten = \"[::1]:1\"",
            "two services listen on [::1]:1",
        ),
    ];
    for (text, expected) in cases {
        let error = refused(text);
        assert!(error.contains("d/node.toml") && error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn only_a_gateway_carries_services() {
    let text = "[gateway]\nservices = [{ name = \"kv\", listen = \"127.0.0.1:8080\" }]";
    let config = Config::parse(Path::new("node.toml"), text).unwrap();
    assert!(config.check_role(Path::new("node.toml"), Role::Gateway).is_ok());
    let error = config.check_role(Path::new("node.toml"), Role::Cloud).unwrap_err().to_string();
    assert!(error.contains("gateway.services") && error.contains("cloud"), "{error}");
}

/// A file is read, or refused with its name.
fn check_text(text: &str) {
    if let Err(error) = Config::parse(Path::new("d/node.toml"), text) {
        let error = error.to_string();
        assert!(error.contains("d/node.toml"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn whatever_is_in_the_file_is_read_or_refused_by_name(
        random in "\\PC{0,80}",
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[-0-9a-z=\"\\[\\]{}.#\n]{0,4}"), 1..6),
    ) {
        check_text(&random);
        for role in [Role::Cloud, Role::Gateway] {
            // Without what explains it.
            let template = template(&Config::default(), role);
            let lines = template.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line));
            let mut text: Vec<char> = lines.collect::<Vec<_>>().join("\n").chars().collect();
            for (at, new) in &changes {
                let at = at.index(text.len());
                text.splice(at..(at + 1).min(text.len()), new.chars());
            }
            check_text(&text.into_iter().collect::<String>());
        }
    }
}
