//! The two names of a node: `HostId` is its ed25519 public key, `PeerId` the identity multihash of the same key.

use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol as Part;
use libp2p::{Multiaddr, PeerId};
use wayfare_protocol::ids::HostId;

use crate::error::NetError;
use crate::target::{FORMS, Target};

/// What precedes the key in a `PeerId`: multihash code 0 (identity), length 36, then the protobuf
/// `PublicKey { type: Ed25519 (1), data: 32 bytes }`.
const ED25519_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The node's key pair; wipes the seed.
pub(crate) fn keypair(seed: &mut [u8; 32]) -> Result<Keypair, NetError> {
    Keypair::ed25519_from_bytes(seed).map_err(|error| NetError::Setup(error.to_string()))
}

pub(crate) fn peer_id(host: &HostId) -> PeerId {
    let mut bytes = ED25519_PREFIX.to_vec();
    bytes.extend_from_slice(&host.0);
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// `None` for keys that are not ed25519; such peers are refused.
pub(crate) fn host_id(peer: &PeerId) -> Option<HostId> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&ED25519_PREFIX)?.try_into().ok().map(HostId)
}

/// An address with the peer that it names, if it names one.
pub(crate) fn parse_address(text: &str) -> Result<(Multiaddr, Option<PeerId>), NetError> {
    let bad = |reason: String| NetError::BadAddress { address: text.to_owned(), reason };
    let mut address: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| bad(error.to_string()))?;
    let peer = match address.iter().last() {
        Some(Part::P2p(peer)) => {
            address.pop();
            if host_id(&peer).is_none() {
                return Err(bad("its peer id is not an ed25519 key".to_owned()));
            }
            Some(peer)
        }
        _ => None,
    };
    if Target::of(&address).is_none() {
        return Err(bad(format!("expected {FORMS}")));
    }
    Ok((address, peer))
}

/// The usable ones of a peer's addresses: those that name another peer, or that we cannot dial, are left out.
pub(crate) fn usable_addresses(peer: &PeerId, texts: &[String]) -> Vec<Multiaddr> {
    let mut usable = Vec::new();
    for text in texts.iter().take(crate::limits::ADDRESSES_PER_PEER_MAX) {
        match parse_address(text) {
            Ok((address, named)) if named.is_none_or(|named| named == *peer) => usable.push(address),
            Ok(_) => tracing::debug!(%peer, address = text, "address names another peer"),
            Err(error) => tracing::debug!(%peer, %error, "address left out"),
        }
    }
    usable
}

/// Appends `/p2p/…` to an address, so that whoever dials it also checks the key at the other end.
pub fn with_host(address: &str, host: &HostId) -> String {
    format!("{}/p2p/{}", address.trim_end_matches('/'), peer_id(host))
}

/// The node that an address names by a `/p2p/…` suffix.
pub fn named_host(address: &str) -> Option<HostId> {
    parse_address(address).ok()?.1.as_ref().and_then(host_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_names_convert_both_ways() {
        let keypair = keypair(&mut [7; 32]).unwrap();
        let peer = keypair.public().to_peer_id();
        let host = host_id(&peer).unwrap();
        assert_eq!(host.0, keypair.public().try_into_ed25519().unwrap().to_bytes());
        assert_eq!(peer_id(&host), peer);
    }

    #[test]
    fn an_address_names_its_host() {
        let host = HostId([9; 32]);
        let text = with_host("/ip4/127.0.0.1/tcp/4001", &host);
        assert_eq!(named_host(&text), Some(host));
        assert_eq!(named_host("/ip4/127.0.0.1/tcp/4001"), None);
        let both = [text.clone(), "/ip4/127.0.0.1/udp/1".into(), "/ip4/127.0.0.1/udp/1/quic-v1".into()];
        assert_eq!(usable_addresses(&peer_id(&host), &both).len(), 2);
        assert!(usable_addresses(&peer_id(&HostId([8; 32])), &[text]).is_empty());
    }

    #[test]
    fn addresses_that_we_cannot_dial_are_refused_by_name() {
        for text in [
            "",
            "hello",
            "/ip4/127.0.0.1",
            "/ip4/127.0.0.1/udp/4001",
            "/ip4/127.0.0.1/tcp/1/ws",
            "/dns/a.example/udp/1/quic-v1",
        ] {
            assert!(matches!(parse_address(text), Err(NetError::BadAddress { .. })), "{text}");
        }
        assert!(parse_address("/dns4/cloud.example/tcp/4001").is_ok());
    }
}
