//! Making a node and running it.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use wayfare_protocol::{placement::Policy, trust::Role};
use wayfare_telemetry::logs::LogFormat;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare init --dir fjord --join wayfare-join-1:8Zx... --region eu-north
  wayfare init --dir gate --join - --service kv=127.0.0.1:8080 --bootstrap 192.0.2.7:4740 < token

The token comes from `wayfare-registry join-token`, and says whether the node is a cloud, a home
or a gateway. Nothing is overwritten. Every setting is explained in the node.toml that this
writes.")]
pub(in crate::cli) struct Init {
    /// The join token; `-` reads it from stdin
    #[arg(long, value_name = "TOKEN")]
    pub(in crate::cli) join: String,
    /// Where to listen, as 192.0.2.7:4740 (by TCP and QUIC) or a multiaddr [default: 0.0.0.0:4740; a gateway only dials]
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(in crate::cli) listen: Vec<Addresses>,
    /// Nodes to stay connected to
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(in crate::cli) bootstrap: Vec<Addresses>,
    /// Where other nodes reach this one, if not where it listens
    #[arg(long, value_name = "ADDRESS", value_parser = multiaddr)]
    pub(in crate::cli) advertise: Vec<Addresses>,
    /// Find nodes on the local network by mDNS, which announces this node there
    #[arg(long)]
    pub(in crate::cli) mdns: bool,
    /// Where the node is, for owners' policies
    #[arg(long, default_value = "")]
    pub(in crate::cli) region: String,
    /// A gateway's service and its HTTP port, as kv=127.0.0.1:8080
    #[arg(long = "service", value_name = "NAME=ADDRESS", value_parser = carried)]
    pub(in crate::cli) services: Vec<(String, SocketAddr)>,
    /// Where its metrics may be read by HTTP, as 127.0.0.1:9464 [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) metrics: Option<SocketAddr>,
    /// Where it sends traces by OTLP, as http://127.0.0.1:4318 [default: nowhere]
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) otlp: Option<String>,
    /// Thousandths of a core that services may take [default: all]
    #[arg(long, value_name = "MILLICORES")]
    pub(in crate::cli) cpu: Option<u32>,
    /// Memory that services may take [default: one half]
    #[arg(long, value_name = "MIB")]
    pub(in crate::cli) memory: Option<u64>,
    /// Storage that services may take [default: 10240]
    #[arg(long, value_name = "MIB")]
    pub(in crate::cli) storage: Option<u64>,
    /// Bandwidth that services may take [default: 1000]
    #[arg(long, value_name = "MBPS")]
    pub(in crate::cli) bandwidth: Option<u64>,
    /// When services move by themselves: sardis, nearest or never [default: sardis]
    #[arg(long, value_parser = policy)]
    pub(in crate::cli) policy: Option<Policy>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wayfare run --dir fjord
  RUST_LOG=wayfare_node=debug wayfare run --dir fjord --role cloud
  wayfare run --dir fjord --log-format json 2>> fjord.log

At its first run the node joins: it waits for the registry for as long as it takes. Logs go to
stderr; one line on stdout says when the node is up (with --json: {name, role, host, addresses,
api, gateway, metrics}).")]
pub(in crate::cli) struct Run {
    /// The role that the node must have joined as: cloud, home or gateway
    #[arg(long, value_parser = role)]
    pub(in crate::cli) role: Option<Role>,
    /// Give up the services whose state was lost when this node last stopped (durability = memory)
    #[arg(long)]
    pub(in crate::cli) forget_lost: bool,
    /// What the log on stderr looks like: text or json [default: as node.toml says]
    #[arg(long, value_name = "FORMAT", value_parser = LogFormat::parse)]
    pub(in crate::cli) log_format: Option<LogFormat>,
    /// Let a debugger attach, and a crash leave a core dump: it would hold keys and the memory of services
    #[arg(long)]
    pub(in crate::cli) allow_dumps: bool,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is cloud, home or gateway".to_owned())
}

fn policy(text: &str) -> Result<Policy, String> {
    Policy::parse(text).ok_or_else(|| "a policy is sardis, nearest or never".to_owned())
}

/// What one argument says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Addresses {
    /// The address by TCP, or the multiaddr as it was given.
    pub(in crate::cli) first: String,
    /// With QUIC at the same port, if HOST is an IP address; or the multiaddr alone.
    pub(in crate::cli) all: Vec<String>,
}

/// HOST:PORT as multiaddrs; a multiaddr as it is.
fn multiaddr(text: &str) -> Result<Addresses, String> {
    if text.starts_with('/') {
        return Ok(Addresses { first: text.to_owned(), all: vec![text.to_owned()] });
    }
    let (host, port) = text.rsplit_once(':').ok_or("write it as 192.0.2.7:4740, or as a multiaddr")?;
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let first = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("/ip4/{ip}/tcp/{port}"),
        Ok(IpAddr::V6(ip)) => format!("/ip6/{ip}/tcp/{port}"),
        Err(_) if !host.is_empty() && !host.contains(['/', ':']) => format!("/dns/{host}/tcp/{port}"),
        Err(_) => return Err(format!("`{host}` is no host")),
    };
    Ok(Addresses { all: wayfare_net::with_quic(&first), first })
}

fn carried(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.rsplit_once('=').ok_or("write it as kv=127.0.0.1:8080")?;
    let address = address.parse().map_err(|_| format!("`{address}` is no address like 127.0.0.1:8080"))?;
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_multiaddrs() {
        let cases = [
            ("127.0.0.1:0", &["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"][..]),
            ("[::1]:4740", &["/ip6/::1/tcp/4740", "/ip6/::1/udp/4740/quic-v1"]),
            ("a.example:4740", &["/dns/a.example/tcp/4740"]),
            ("/ip4/1.2.3.4/tcp/5/p2p/x", &["/ip4/1.2.3.4/tcp/5/p2p/x"]),
            ("/ip4/1.2.3.4/tcp/5", &["/ip4/1.2.3.4/tcp/5"]),
        ];
        for (text, expected) in cases {
            let Addresses { first, all } = multiaddr(text).unwrap();
            assert_eq!(
                (first.as_str(), all.iter().map(String::as_str).collect::<Vec<_>>()),
                (expected[0], expected.to_vec())
            );
        }
        for text in ["", "4740", ":4740", "1.2.3.4:70000", "::1::5"] {
            assert!(multiaddr(text).is_err(), "{text}");
        }
    }
}
