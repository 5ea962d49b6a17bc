use std::time::Duration;

use wayfare_net::DirectConnector;
use wayfare_protocol::trust::{Anchor, JoinSecret};

use super::*;
use crate::enrol::EnrolError;

/// A token of a registry that nobody answers for.
fn options(temp: &std::path::Path) -> NodeOptions {
    let anchor = Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] };
    let secret = JoinSecret::fresh(&mut entropy());
    let token = JoinToken { anchor, name: "fjord".to_owned(), role: Role::Cloud, secret };
    let mut config = Config::default();
    config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    NodeOptions::joining(StateDir::new(temp), token, config)
}

async fn start_here(options: NodeOptions, shutdown: &CancellationToken) -> Result<RunningNode, NodeError> {
    start(options, Arc::new(DirectConnector), shutdown.clone()).await
}

#[tokio::test]
async fn another_role_is_refused_before_the_token_is_shown() {
    let temp = tempfile::tempdir().unwrap();
    let mut options = options(temp.path());
    options.role = Some(Role::Home);
    let error = start_here(options, &CancellationToken::new()).await.unwrap_err();
    assert!(error.is_setup() && error.to_string().contains("cloud, not as home"), "{error}");
    assert!(std::fs::read_dir(temp.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_with_its_setting() {
    let temp = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    for (listen, bootstrap, key) in
        [(address.as_str(), "/ip4/127.0.0.1/tcp/1", "node.listen"), ("/ip4/127.0.0.1/tcp/0", "/x", "node.bootstrap")]
    {
        let mut options = options(temp.path());
        options.config.node.listen = vec![listen.to_owned()];
        options.config.node.bootstrap = vec![bootstrap.to_owned()];
        let error = start_here(options, &CancellationToken::new()).await.unwrap_err();
        assert!(error.is_setup() && error.to_string().contains(key), "{error}");
    }
}

#[tokio::test]
async fn a_node_without_its_registry_waits_and_can_be_stopped() {
    let temp = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let mut starting = std::pin::pin!(start_here(options(temp.path()), &shutdown));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut starting).await.is_err());
    shutdown.cancel();
    let error = tokio::time::timeout(Duration::from_secs(5), starting).await.unwrap().unwrap_err();
    assert!(matches!(error, NodeError::Enrol(EnrolError::Stopped)));
    // What was, or may have been, sent is there to be sent again.
    assert!(temp.path().join("join.request").exists());
}
