//! A cloud is emptied while its clients go on: real nodes in one process with twenty services, and the command line with
//! processes of their own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sim_net::{
    mesh::{Joining, Member, Mesh, Records},
    processes,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use wayfare_node::api::shapes::{DrainLine, Drained};
use wayfare_protocol::{
    host::DrainView,
    manifest::Durability,
    migration::trace::{Ending, Side},
    placement::Policy,
    trust::Role,
};

const KV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/kv/kv.wasm");
const SERVICES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// `POST /count`: the count.
async fn count(gateway: SocketAddr) -> Result<u64, String> {
    let ask = async {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.write_all(b"POST /count HTTP/1.1\r\nhost: kv\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask.await.map_err(|error| error.to_string())?;
    let body = answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200"));
    body.and_then(|(_, body)| body.trim().parse().ok()).ok_or(answer)
}

/// Counts until told to stop; every answer must be the next number.
async fn use_it(gateway: SocketAddr, stop: CancellationToken) -> (u64, Duration) {
    let (mut last, mut longest) = (None, Duration::ZERO);
    let mut answered = 0;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let now = count(gateway).await.unwrap_or_else(|answer| panic!("a request failed: {answer}"));
        assert!(last.is_none_or(|last| now == last + 1), "{now} after {last:?}");
        last = Some(now);
        answered += 1;
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    (answered, longest)
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn view(member: &Member) -> DrainView {
    member.host().unwrap().with(|host, now, _| host.drain_view(now)).await.unwrap()
}

async fn known_clouds(member: &Member) -> Vec<String> {
    let clouds = member.host().unwrap().with(|host, now, _| host.clouds(now)).await.unwrap();
    clouds.into_iter().map(|cloud| cloud.name).collect()
}

fn joining(name: &str, role: Role) -> Joining {
    Joining { policy: Policy::Never, ..Joining::new(name, role, 0) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_with_twenty_services_is_drained_and_no_request_fails() {
    let mesh = Mesh::start(None, 0, Records::Disk).await.unwrap();
    let mut members = Vec::new();
    for name in ["alpha", "beta", "gamma"] {
        members.push(mesh.join(joining(name, Role::Cloud)).await.unwrap());
    }
    let module = std::fs::read(KV).unwrap();
    for number in 0..SERVICES {
        let name = format!("kv-{number}");
        mesh.deploy(&members[0], &name, module.clone(), Durability::Log).await.unwrap();
    }
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let services = (1..SERVICES).map(|number| (format!("kv-{number}"), any)).collect();
    let edge =
        Joining { carries: Some(("kv-0".to_owned(), any)), also_carries: services, ..joining("edge", Role::Gateway) };
    let edge = mesh.join(edge).await.unwrap();
    let ports: Vec<SocketAddr> =
        edge.node.gateway.as_ref().unwrap().listening().iter().map(|(_, address)| *address).collect();
    for port in &ports {
        until("the gateway to find a service", || async { count(*port).await.ok() }).await;
    }
    until("the clouds to meet", || async { (known_clouds(&members[0]).await.len() == 2).then_some(()) }).await;

    let stop = CancellationToken::new();
    let users: Vec<_> = ports.iter().map(|port| tokio::spawn(use_it(*port, stop.clone()))).collect();
    let begun = Instant::now();
    members[0].host().unwrap().with(|host, _, _| host.start_drain()).await.unwrap();
    until("the cloud to be empty", || async { view(&members[0]).await.left.is_empty().then_some(()) }).await;
    let took = begun.elapsed();
    members[0].host().unwrap().with(|host, now, _| host.farewell(now)).await.unwrap();
    let others = [&members[1], &members[2]];
    for member in others {
        until("a cloud that left to be forgotten", || async {
            (!known_clouds(member).await.contains(&"alpha".to_owned())).then_some(())
        })
        .await;
    }
    let forgotten = begun.elapsed() - took;
    let drained = members.remove(0);
    let traces = drained.host().unwrap().with(|host, _, _| host.history().cloned().collect::<Vec<_>>()).await.unwrap();
    assert!(drained.node.stop().await, "it stops well");
    // The users go on without it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let mut answered = 0;
    let mut longest = Duration::ZERO;
    for user in users {
        let (requests, slowest) = user.await.unwrap();
        (answered, longest) = (answered + requests, longest.max(slowest));
    }
    let moved: Vec<_> =
        traces.iter().filter(|trace| trace.side == Side::Source && trace.ending == Ending::Moved).collect();
    assert_eq!(moved.len(), SERVICES);
    assert!(moved.iter().all(|trace| trace.reason.starts_with("drain: ")));
    let mut elsewhere = Vec::new();
    for member in &members {
        elsewhere.push(member.host().unwrap().with(|host, now, _| host.services(now).len()).await.unwrap());
    }
    assert_eq!(elsewhere.iter().sum::<usize>(), SERVICES);
    let mut down: Vec<_> = moved.iter().filter_map(|trace| trace.downtime).map(|time| time.as_millis_f64()).collect();
    down.sort_by(f64::total_cmp);
    println!(
        "{SERVICES} services left in {:.2} s, to {elsewhere:?}; down for {:.1} ms (median), {:.1} ms (longest); \
         {answered} requests, 0 failed, the longest {:.0} ms; forgotten {:.0} ms after the last had left",
        took.as_secs_f64(),
        down[down.len() / 2],
        down[down.len() - 1],
        longest.as_secs_f64() * 1e3,
        forgotten.as_secs_f64() * 1e3
    );
    members.push(edge);
    mesh.stop(members).await;
}

const NODE: &str = env!("CARGO_BIN_EXE_wayfare-under-test");
const REGISTRY: &str = env!("CARGO_BIN_EXE_wayfare-registry-under-test");

async fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(NODE);
    command.args(arguments).arg("--dir").arg(dir);
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn processes() -> processes::Processes {
    let setup = processes::Setup {
        programs: processes::Programs { node: PathBuf::from(NODE), registry: PathBuf::from(REGISTRY) },
        lease_s: 10,
        step_timeout: Duration::from_secs(5),
        listen: processes::free_address().unwrap(),
        announce: None,
        environment: Vec::new(),
        log: "warn".to_owned(),
        prefix: "wayfare-drain-".to_owned(),
    };
    processes::Processes::start(setup).await.unwrap()
}

fn member(name: &str, kind: processes::Kind, services: Vec<(String, SocketAddr)>) -> processes::Joining {
    let listen = (kind != processes::Kind::Gateway).then(|| processes::free_address().unwrap());
    processes::Joining { name: name.to_owned(), kind, listen, advertise: None, services, environment: Vec::new() }
}

fn ended(lines: &str) -> Drained {
    match serde_json::from_str(lines.lines().last().unwrap()).unwrap() {
        DrainLine::Ended(drained) => drained,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_leaves_and_one_that_cannot_be_stays_and_says_why() {
    let mut mesh = processes().await;
    for cloud in ["alpha", "beta"] {
        mesh.join(member(cloud, processes::Kind::Cloud, Vec::new())).await.unwrap();
    }
    let port = processes::free_address().unwrap();
    mesh.join(member("edge", processes::Kind::Gateway, vec![("kv".to_owned(), port)])).await.unwrap();
    mesh.deploy("alpha", Path::new(KV), "kv").await.unwrap();
    until("the gateway to find the service", || async { count(port).await.ok() }).await;
    mesh.meet(PATIENCE).await.unwrap();
    let (alpha, beta) = (mesh.dir_of("alpha").unwrap().to_owned(), mesh.dir_of("beta").unwrap().to_owned());

    // The only other cloud takes nothing.
    let (code, _, error) = run(&beta, &["cordon"]).await;
    assert_eq!(code, Some(0), "{error}");
    until("beta to be known as cordoned", || async {
        let clouds = mesh.clouds("alpha").await.ok()?;
        clouds.iter().any(|cloud| cloud.name == "beta" && cloud.cordoned).then_some(())
    })
    .await;
    let (code, lines, error) = run(&alpha, &["drain", "--timeout", "2", "--json"]).await;
    assert_eq!(code, Some(1), "{lines}{error}");
    let drained = ended(&lines);
    assert!(!drained.drained && !drained.leaves && drained.left[0].service == "kv", "{drained:?}");
    for said in ["not done after 2 s", "1 cloud: cordoned", "wayfare uncordon", "stays up and cordoned"] {
        assert!(error.contains(said), "{said:?} is not in {error}");
    }
    assert!(lines.contains("\"event\":\"waits\""), "{lines}");
    assert!(count(port).await.is_ok(), "it serves on");

    // The cordon holds over a restart, and `why` shows it.
    mesh.process("alpha").unwrap().kill().await.unwrap();
    mesh.restart("alpha").await.unwrap();
    let (code, why, error) = run(&alpha, &["why", "kv", "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let why: serde_json::Value = serde_json::from_str(&why).unwrap();
    assert_eq!((&why["cordoned"], &why["draining"]), (&true.into(), &false.into()));

    let (code, _, error) = run(&beta, &["uncordon"]).await;
    assert_eq!(code, Some(0), "{error}");
    let stop = CancellationToken::new();
    until("alpha to serve again", || async { count(port).await.ok() }).await;
    let user = tokio::spawn(use_it(port, stop.clone()));
    let mut watching = Command::new(NODE);
    watching.args(["migrations", "--watch", "--json", "--dir"]).arg(&alpha).stdout(Stdio::piped());
    let watching = watching.spawn().unwrap();
    // It follows when it is connected: what it must not miss comes after that.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (code, text, error) = run(&alpha, &["drain"]).await;
    assert_eq!(code, Some(0), "{text}{error}");
    assert!(
        text.contains("kv -> beta") && text.contains("kv is on beta") && text.contains("Empty: 1 service"),
        "{text}"
    );
    let status = mesh.process("alpha").unwrap().ended(PATIENCE).await.unwrap();
    assert!(status.success(), "the node has left: {status}");
    stop.cancel();
    assert!(user.await.unwrap().0 > 0);
    let watched = spawn_blocking(|| watching.wait_with_output()).await.unwrap().unwrap();
    let watched = String::from_utf8(watched.stdout).unwrap();
    let events: Vec<serde_json::Value> = watched.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(words.first() == Some(&"started") && words.last() == Some(&"ended"), "{words:?}");
    assert!(words.iter().filter(|word| **word == "step").count() >= 8, "{words:?}");
    assert!(events.last().unwrap()["migration"]["downtime_ms"].is_number());
    until("alpha to be forgotten", || async {
        let clouds = mesh.clouds("beta").await.ok()?;
        clouds.is_empty().then_some(())
    })
    .await;
    // What is not there any more cannot be asked.
    let (code, _, error) = run(&alpha, &["services"]).await;
    assert!(code == Some(1) && error.contains("no node runs in"), "{error}");
}
