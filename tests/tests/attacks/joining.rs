//! A real node that joins, and the answers that a Registry's key can give it: it takes its own certificate, and no other.

use std::sync::Arc;

use wayfare_net::{CancellationToken, DirectConnector};
use wayfare_node::{
    config::Config,
    enrol::EnrolError,
    node::{self, NodeError, NodeOptions},
    state::StateDir,
};
use wayfare_protocol::{
    migration::messages::{Enrolled, RegistryFrame},
    reject::Reject,
    time::Timestamp,
    trust::{Certificate, Receiver, Role, Signed},
    wire::Frame,
};
use wayfare_tests::{
    alter::{
        Expect::{self, Free},
        Table,
    },
    hand::claim,
    peer::within,
    puppet::registry::PuppetRegistry,
    rows,
    shot::{Signer, thief, unsigned},
};

use crate::coverage::{Covered, covers};

fn certificate() -> Table<Certificate> {
    rows!(Certificate {
        cloud => Free("the registry's own word: it makes the identifier from the name");
        name => Reject::BadCertificate;
        host => Reject::BadCertificate;
        role => Reject::WrongRole;
        region => Reject::BadCertificate;
        not_before = |from| *from = Timestamp(u64::MAX / 2) => Reject::CertificateExpired;
        expiry = |expiry| *expiry = Timestamp(1) => Reject::CertificateExpired;
    })
}

pub(crate) fn covered() -> Vec<Covered> {
    let to = "joining node";
    let enrolled = rows!(Enrolled {
        nonce => Expect::Ignored("the answer to another request: the node waits for its own");
        certificate = |_| () => Free("a table of its own");
    });
    vec![covers(to, &enrolled), covers(to, &certificate())]
}

/// What a node makes of `answers`, sent in turn instead of the Registry's own.
async fn joins(
    registry: &mut PuppetRegistry,
    answers: impl FnOnce(&Enrolled, &Signer) -> Vec<Enrolled>,
) -> Option<Reject> {
    let dir = tempfile::tempdir().unwrap();
    let token = registry.join_token("newcomer", Role::Cloud).await;
    let mut config = Config::default();
    config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    config.node.region = "lab".to_owned();
    let options = NodeOptions::joining(StateDir::new(dir.path()), token, config);
    let host = wayfare_protocol::ids::HostId(
        <wayfare_protocol::suite::Dalek as wayfare_protocol::suite::Suite>::public_key(&options.secret),
    );
    let starting = tokio::spawn(node::start(options, Arc::new(DirectConnector), CancellationToken::new()));
    let RegistryFrame::Enrolled(honest) = registry.held(host).await else { panic!("not enrolled") };
    for answer in answers(&honest, &registry.realm.says(Receiver::Anyone)) {
        registry.send(host, RegistryFrame::Enrolled(answer).to_bytes()).await;
    }
    match within("the node to start", starting).await.unwrap() {
        Ok(running) => {
            assert_eq!(running.certificate.signed(), &honest.certificate);
            assert!(running.stop().await);
            None
        }
        Err(NodeError::Enrol(EnrolError::Certificate(reject))) => Some(reject),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins() {
    let mut registry = PuppetRegistry::start(140).await;
    registry.hold(&["Enrolled"]).await;
    for row in certificate().0 {
        let edit = row.edit;
        let altered = |honest: &Enrolled| {
            let mut certificate = claim(&honest.certificate);
            edit(&mut certificate);
            certificate
        };
        if let Expect::Refused(reject) = row.resigned {
            let anew = |honest: &Enrolled, registry: &Signer| vec![with(honest, registry.sign(&altered(honest)))];
            assert_eq!(joins(&mut registry, anew).await, Some(reject), "{}, signed anew", row.field);
        }
        let raw = |honest: &Enrolled, _: &Signer| vec![with(honest, unsigned(&honest.certificate, &altered(honest)))];
        assert_eq!(joins(&mut registry, raw).await, Some(Reject::BadCertificate), "{}, not signed anew", row.field);
    }
    let stolen = |honest: &Enrolled, registry: &Signer| {
        let thief = Signer { secret: thief(), ..registry.clone() };
        vec![with(honest, thief.sign(&claim(&honest.certificate)))]
    };
    assert_eq!(joins(&mut registry, stolen).await, Some(Reject::BadCertificate), "by another registry's key");
    // The answer to another request is no answer; the honest one behind it is.
    let late = |honest: &Enrolled, _: &Signer| {
        let mut other = honest.clone();
        other.nonce.0[0] ^= 1;
        vec![other, honest.clone()]
    };
    assert_eq!(joins(&mut registry, late).await, None);
}

fn with(honest: &Enrolled, certificate: Signed<Certificate>) -> Enrolled {
    Enrolled { nonce: honest.nonce, certificate }
}
