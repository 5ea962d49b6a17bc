use std::collections::BTreeMap;

use wayfare_net::DirectConnector;
use wayfare_protocol::{
    ids::HostId,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    suite::{Dalek, Secret, Suite},
    time::{Micros, Timestamp},
    trust::{Anchor, Receiver, Role, Signed, TrustBundle, certificate::cloud_id, certificate::registry_id},
    wire,
};

use super::{
    client::{Client, ClientError},
    shapes::{Cloud, Cordoned, Counters, Deployed, Migration, MoveRequest, Moved, NodeInfo, Service},
    *,
};
use crate::{
    clock::now,
    config::Config,
    host::modules::module_digest,
    node::{self, NodeOptions, RunningNode},
    state::{Membership, StateDir},
};

const OWNER: Secret = Secret::new([3; 32]);

fn registry() -> (Secret, RegistryId) {
    let secret = Secret::new([1; 32]);
    let id = registry_id(&Dalek::public_key(&secret));
    (secret, id)
}

/// A node with a certificate of a registry that cannot be reached, and its API.
async fn started(temp: &Path, role: Role) -> (RunningNode, Client) {
    let (registry_secret, registry) = registry();
    let (secret, wall) = (Secret::new([2; 32]), now().wall);
    let certificate = Certificate {
        cloud: cloud_id(registry, "fjord"),
        name: "fjord".to_owned(),
        host: HostId(Dalek::public_key(&secret)),
        role,
        region: "north".to_owned(),
        not_before: wall,
        expiry: Timestamp(wall.0 + 1_000_000_000),
    };
    let key = Dalek::public_key(&registry_secret);
    let anchor = Anchor { id: registry, key, addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] };
    let certificate = Signed::sign::<Dalek>(&registry_secret, registry, Receiver::Anyone, &certificate);
    let mut config = Config::default();
    config.node.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    let options = NodeOptions {
        dir: StateDir::new(temp),
        secret,
        bundle: TrustBundle::new(vec![anchor]),
        membership: Membership::Enrolled(certificate),
        role: Some(role),
        config,
        driver: None,
        api: Some(temp.join("api.sock")),
        forget_lost: false,
        lock: None,
        versions: wire::VERSIONS.to_vec(),
        witness: None,
    };
    let node = node::start(options, Arc::new(DirectConnector), CancellationToken::new()).await.unwrap();
    (node, Client::new(temp.join("api.sock")))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result.unwrap_err() {
        ClientError::Refused(body) => format!("{}; {}", body.error, body.what_to_do),
        other => panic!("{other:?}"),
    }
}

async fn deploy(client: &Client, module: &[u8], durability: Durability) -> Result<Deployed, ClientError> {
    let (_, registry) = registry();
    let owner = wayfare_protocol::ids::OwnerKey(Dalek::public_key(&OWNER));
    let manifest = Manifest {
        service: service_id(registry, owner, "kv"),
        name: "kv".to_owned(),
        owner,
        version: 1,
        code: module_digest(module),
        tos: ServiceType::Request,
        required: Resources { memory_bytes: 1 << 20, ..Resources::default() },
        max_rtt: Micros::ZERO,
        baseline: None,
        allowed_clouds: Vec::new(),
        allowed_regions: Vec::new(),
        allowed_domains: Vec::new(),
        durability,
        token_policy: TokenPolicy::Refuse,
    };
    let signed = Signed::sign::<Dalek>(&OWNER, registry, Receiver::Anyone, &manifest);
    let header = data_encoding::BASE64.encode(&wire::encode(&signed));
    let headers = [(MANIFEST_HEADER, header.as_str())];
    client.call(hyper::Method::POST, &["deploy"], "timeout_s=1", &headers, module.to_vec().into()).await
}

fn module() -> Vec<u8> {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "wayfare_buffer") (param i32) (result i32) i32.const 0)
        (func (export "wayfare_handle") (param i32) (result i64) i64.const 0))"#;
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_cloud_says_what_it_is_and_what_it_has() {
    let temp = tempfile::tempdir().unwrap();
    let (node, client) = started(temp.path(), Role::Cloud).await;
    let info: NodeInfo = client.get(&["node"], "").await.unwrap();
    assert_eq!((info.name.as_str(), info.role.as_str(), info.region.as_str()), ("fjord", "cloud", "north"));
    assert_eq!(info.addresses, node.addresses());
    assert_eq!(client.get::<Vec<Cloud>>(&["clouds"], "").await.unwrap(), []);
    assert_eq!(client.get::<Vec<Service>>(&["services"], "").await.unwrap(), []);
    assert_eq!(client.get::<Vec<Migration>>(&["migrations"], "").await.unwrap(), []);
    let counters: Counters = client.get(&["rejects"], "").await.unwrap();
    assert_eq!((counters.rejects, counters.net.len()), (BTreeMap::new(), 14));
    assert!(client.post::<Cordoned>(&["cordon"], &()).await.unwrap().cordoned);
    assert!(!client.post::<Cordoned>(&["uncordon"], &()).await.unwrap().cordoned);
    assert!(node.stop().await);
    assert!(!temp.path().join("api.sock").exists());
    assert!(matches!(client.get::<NodeInfo>(&["node"], "").await, Err(ClientError::NotRunning { .. })));
}

#[tokio::test]
async fn every_refusal_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let (node, client) = started(temp.path(), Role::Home).await;
    assert!(refusal(client.get::<()>(&["nothing"], "").await).contains("no such path"));
    assert!(refusal(client.post::<()>(&["clouds"], &()).await).contains("no such path"));
    assert!(refusal(client.get::<Migration>(&["migrations", "last"], "").await).contains("no migration yet"));
    assert!(refusal(client.get::<Migration>(&["migrations", "abc"], "").await).contains("at least 4"));
    assert!(refusal(client.get::<Migration>(&["migrations", "abcd"], "").await).contains("knows no migration"));
    assert!(refusal(client.get::<()>(&["services", "kv", "logs"], "since=x").await).contains("400"));
    let moved = client.post::<Moved>(&["services", "a/../kv", "move"], &MoveRequest::default()).await;
    assert!(refusal(moved).contains("no service `a/../kv`"));
    let long = client.call::<()>(hyper::Method::POST, &["services", "kv", "move"], "", &[], vec![b' '; 1 << 20].into());
    assert!(refusal(long.await).contains("413"));
    let bare = client.call::<()>(hyper::Method::POST, &["deploy"], "", &[], module().into());
    assert!(refusal(bare.await).contains(MANIFEST_HEADER));
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_deployment_that_cannot_be_is_refused_with_its_reason() {
    let temp = tempfile::tempdir().unwrap();
    let (node, client) = started(temp.path(), Role::Cloud).await;
    assert!(refusal(deploy(&client, b"not wasm", Durability::Memory).await).contains("cannot be a service"));
    let import = wat::parse_str(r#"(module (import "env" "socket" (func)))"#).unwrap();
    assert!(refusal(deploy(&client, &import, Durability::Memory).await).contains("socket"));
    assert!(refusal(deploy(&client, &module(), Durability::Log).await).contains("registry has not answered"));
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_gateway_hosts_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (node, client) = started(temp.path(), Role::Gateway).await;
    assert_eq!(client.get::<Vec<Service>>(&["services"], "").await.unwrap(), []);
    assert_eq!(client.get::<Vec<Cloud>>(&["clouds"], "").await.unwrap(), []);
    assert!(refusal(client.get::<Vec<Migration>>(&["migrations"], "").await).contains("hosts no services"));
    assert!(refusal(client.post::<Cordoned>(&["cordon"], &()).await).contains("hosts no services"));
    assert!(node.stop().await);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let first = listen(&socket).unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(listen(&socket), Err(ApiError::InUse { .. })));
    drop(first);
    assert!(socket.exists() && listen(&socket).is_ok());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("api.sock");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(listen(&file), Err(ApiError::Listen { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let long = temp.path().join("x".repeat(120));
    assert!(listen(&long).unwrap_err().to_string().contains("107 bytes"));
}
