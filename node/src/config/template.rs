//! The commented file that `wayfare init` writes.

use toml::Value;
use wayfare_protocol::trust::Role;

use super::{CarriedService, Config};

fn texts(list: &[String]) -> Value {
    Value::Array(list.iter().cloned().map(Value::String).collect())
}

fn services(list: &[CarriedService]) -> String {
    let service = |service: &CarriedService| {
        let (name, listen) = (Value::String(service.name.clone()), Value::String(service.listen.to_string()));
        format!("    {{ name = {name}, listen = {listen} }},\n")
    };
    if list.is_empty() { "[]".to_owned() } else { format!("[\n{}]", list.iter().map(service).collect::<String>()) }
}

/// `config` as a file that explains itself, with the tables that matter for `role`.
pub(crate) fn template(config: &Config, role: Role) -> String {
    let Config { node, .. } = config;
    let mesh = format!(
        "# A Wayfare node: {role}. A setting that is left out has its default.\n\
         \n\
         [node]\n\
         # Where to listen, as multiaddrs, by TCP, by QUIC (UDP) or both: remove the one that is not wanted. Others use TCP where\n\
         # it works, as it is the faster, and else QUIC. Port 0 takes a free one. [] only dials, which is enough for a gateway.\n\
         # Default: [\"/ip4/0.0.0.0/tcp/4740\", \"/ip4/0.0.0.0/udp/4740/quic-v1\"]\n\
         listen = {listen}\n\
         # Nodes to stay connected to, besides the registry, through which others are found. A /p2p/ suffix pins a key.\n\
         # Default: []\n\
         bootstrap = {bootstrap}\n\
         # Where other nodes reach this one, if not where it listens (a port that a router forwards, say): at most 8.\n\
         # Default: []\n\
         advertise = {advertise}\n\
         # Where this node is; owners may allow or forbid regions. Told to the registry when the node joins: a later\n\
         # change needs a new join token. Default: \"\"\n\
         region = {region}\n\
         # Find nodes, and the registry should it have moved, on the local network by mDNS. Off unless wanted, since it tells\n\
         # everybody on that network that this node is there. What is found must prove its key like any other. Default: false\n\
         mdns = {mdns}\n",
        role = role.name(),
        listen = texts(&node.listen),
        bootstrap = texts(&node.bootstrap),
        advertise = texts(&node.advertise),
        region = Value::String(node.region.clone()),
        mdns = node.mdns,
    );
    let rest = match role {
        Role::Cloud | Role::Home => host_tables(config),
        Role::Gateway => gateway_table(config),
    };
    mesh + &rest
}

fn host_tables(config: &Config) -> String {
    let Config { capacity, placement, migration, .. } = config;
    format!(
        "\n\
         [capacity]\n\
         # What services may take here, in all. `init` took the figures from the machine, memory by one half.\n\
         # Thousandths of a core. Default: 1000\n\
         cpu_millicores = {cpu}\n\
         # Default: 1024\n\
         memory_mib = {memory}\n\
         # Default: 10240\n\
         storage_mib = {storage}\n\
         # Default: 1000\n\
         bandwidth_mbps = {bandwidth}\n\
         # Price per core and hour, in millionths of the mesh's unit of account. Default: 0\n\
         price_micros = {price}\n\
         \n\
         [placement]\n\
         # When services on this node move by themselves. \"sardis\": when the gain over the expected stay exceeds the\n\
         # cost of moving; \"nearest\": whenever another cloud is nearer; \"never\". Default: \"sardis\"\n\
         policy = \"{policy}\"\n\
         # The pause between two decisions, ms. Default: 1000\n\
         slot_ms = {slot}\n\
         # Round trips that differ by less are equal, ms. Default: 3\n\
         tie_ms = {tie}\n\
         # The downtime that a first move is expected to have; then what was measured counts, ms. Default: 500\n\
         downtime_ms = {downtime}\n\
         # So many seconds of a round trip one millisecond shorter pay for one second of downtime. Default: 1000\n\
         downtime_weight = {weight}\n\
         \n\
         [migration]\n\
         # How long a move that may still be given up waits for the other side's next message, ms. Default: 10000\n\
         step_timeout_ms = {step_timeout}\n",
        cpu = capacity.cpu_millicores,
        memory = capacity.memory_mib,
        storage = capacity.storage_mib,
        bandwidth = capacity.bandwidth_mbps,
        price = capacity.price_micros,
        policy = placement.policy.name(),
        slot = placement.slot_ms,
        tie = placement.tie_ms,
        downtime = placement.downtime_ms,
        weight = placement.downtime_weight,
        step_timeout = migration.step_timeout_ms,
    )
}

fn gateway_table(config: &Config) -> String {
    let gateway = &config.gateway;
    format!(
        "\n\
         [gateway]\n\
         # What this gateway carries: the service's name, and where clients reach it by plain HTTP. For example:\n\
         # services = [{{ name = \"kv\", listen = \"127.0.0.1:8080\" }}]\n\
         # Default: []\n\
         services = {services}\n\
         # How often it measures round trips to clouds, ms. Default: 1000\n\
         probe_interval_ms = {probe}\n\
         # How often it reports them to the node that hosts the service, ms. Default: 1000\n\
         report_interval_ms = {report}\n\
         # How long it holds a request for a service that moves or cannot be reached, before it answers 504, s.\n\
         # Default: 60\n\
         request_timeout_s = {timeout}\n",
        services = services(&gateway.services),
        probe = gateway.probe_interval_ms,
        report = gateway.report_interval_ms,
        timeout = gateway.request_timeout_s,
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{CapacitySettings, MeshSettings};

    #[test]
    fn the_template_says_what_it_was_made_of() {
        let mut config = Config {
            node: MeshSettings {
                listen: vec!["/ip4/127.0.0.1/tcp/0".into(), "/ip6/::1/tcp/0".into()],
                bootstrap: vec!["/dns4/a.example/tcp/4740".into()],
                region: "a \"quoted\" region".into(),
                ..MeshSettings::default()
            },
            capacity: CapacitySettings { memory_mib: 77, ..CapacitySettings::default() },
            ..Config::default()
        };
        let read = |config: &Config, role| Config::parse(Path::new("node.toml"), &template(config, role)).unwrap();
        assert_eq!(read(&config, Role::Cloud), config);
        config.capacity = CapacitySettings::default();
        config.gateway.services = vec![CarriedService { name: "kv".into(), listen: "127.0.0.1:8080".parse().unwrap() }];
        assert_eq!(read(&config, Role::Gateway), config);
    }

    #[test]
    fn the_defaults_that_it_states_are_the_defaults() {
        for role in [Role::Home, Role::Gateway] {
            let text = template(&Config::default(), role);
            let mut stated = None;
            for line in text.lines() {
                if let Some((_, default)) = line.split_once("Default: ") {
                    stated = Some(default.to_owned());
                } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                    assert_eq!(stated.take().as_deref(), Some(value), "{key}");
                }
            }
        }
    }
}
