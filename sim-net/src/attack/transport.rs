//! Attacks on the wire and on what frames cost: nothing here needs a membership, but for the slow reader's.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use wayfare_net::{NetConfig, NetError, Protocol};
use wayfare_protocol::{
    gateway::messages::{Call, ClientFrame, Hello, Open, client_id, request_hash},
    limits::FRAME_BYTES_MAX,
    migration::messages::{Lookup, MigrateFrame, MigrationRef, RegistryFrame},
    order::{Action, Order, OrderFrame},
    reject::Reject,
    suite::fresh_secret,
    time::Micros,
    trust::{Receiver, Role},
    wire::Frame,
};

use super::{
    field::{Field, Member, SERVICE, Victim},
    gossip::MEMORY_MIB_MAX,
    hand::{entropy, now},
    peer::{PATIENCE, Peer, Whereabouts, until},
    sign::thief,
    wire::Mode,
};

type Done = anyhow::Result<()>;

/// Frames sent so that one of them is altered, and bytes of a connection that are worth repeating: handshakes are shorter.
const FRAMES_TO_ALTER: usize = 16;
const RECORDED_AT_LEAST: u64 = 512;
/// Connections that say nothing, at a time.
const SILENT: usize = 300;
/// How long a victim may keep one.
const KEPT_AT_MOST: Duration = Duration::from_secs(30);
/// A value that a slow reader asks for again and again, and how often.
const SLOW_BYTES: usize = 1 << 20;
const SLOW_ASKED: u64 = 300;
/// Between two questions, once so many were asked.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How much more memory the home may take for somebody who does not read: what is kept for one session, queues and slack.
const SLOW_MIB_MAX: u64 = 128;
/// Frames that are announced and never come.
const ANNOUNCED: usize = 200;

/// An honest gateway of the product's own transport, whose only way to the home is the attacker's wire; and where it
/// believes the home to be.
async fn through_the_wire(field: &mut Field) -> anyhow::Result<(Member, Whereabouts)> {
    let member = field.member(Role::Gateway).await?;
    let address = field.wire.address();
    let addresses = vec![format!("/ip4/{}/tcp/{}", address.ip(), address.port())];
    Ok((member, Whereabouts { host: field.home.host, addresses }))
}

fn hello(member: &Member) -> Vec<u8> {
    ClientFrame::Hello(Hello { certificate: member.certificate.clone(), incarnation: 1 }).to_bytes()
}

/// Whoever owns the wire changes bits of what passes: of a request under way, of a handshake; and plays a connection again.
pub(super) async fn man_in_the_middle(field: &mut Field) -> Done {
    // First the victims' own connection, if it comes this way: their client must not notice.
    field.wire.set(Mode::FlipLate);
    let (member, home) = through_the_wire(field).await?;
    let mut line = member.peer.line(&home, Protocol::Request).await?;
    let (altered, ended) = (field.wire.flipped(), field.wire.ended_behind());
    // The handshakes are behind it by then.
    for _ in 0..FRAMES_TO_ALTER {
        line.send(&hello(&member)).await?;
    }
    until("a frame to be altered", async || (field.wire.flipped() > altered).then_some(())).await?;
    let closed = until("its end", async || (field.wire.ended_behind() > ended).then_some(())).await.is_ok();
    let observed = if closed { "home: ended the connection" } else { "home: goes on" };
    field.note("a frame with one bit changed", observed, closed);

    field.wire.set(Mode::FlipEarly);
    let (member, home) = through_the_wire(field).await?;
    let before = field.before(Victim::Home).await?;
    let opened = member.peer.line(&home, Protocol::Request).await.is_ok();
    field.harmless(!opened, "a connection whose handshake was altered");
    field.counted(before, "a handshake with one bit changed", "net.inbound_failed", 1).await?;

    field.wire.set(Mode::Pass);
    let (member, home) = through_the_wire(field).await?;
    let mut line = member.peer.line(&home, Protocol::Request).await?;
    line.send(&hello(&member)).await?;
    let recorded = until("a recording", async || {
        let recorded = field.wire.recorded();
        (recorded.len() as u64 > RECORDED_AT_LEAST).then_some(recorded)
    })
    .await?;
    let before = field.before(Victim::Home).await?;
    let mut again = TcpStream::connect(socket(field, Victim::Home)?).await?;
    // The home may end it at any byte.
    let _ = again.write_all(&recorded).await;
    let what = format!("{} recorded bytes of a connection", recorded.len());
    field.counted(before, &what, "net.inbound_failed", 1).await?;
    field.served().await
}

/// Whoever owns the wire answers in the home's place, with a key of its own.
pub(super) async fn wrong_key(field: &mut Field) -> Done {
    let mallory = field.stranger().await?;
    let at = mallory.net.listen_addresses().first().and_then(|address| address_of(address));
    field.wire.set(Mode::Divert(at.context("the attacker does not listen")?));
    let (member, home) = through_the_wire(field).await?;
    let dialled = member.peer.net.open(home.host, &home.addresses, Protocol::Request).await;
    let (observed, blocked) = match dialled {
        Err(NetError::WrongPeer { .. }) => ("gateway: refused to speak, wrong key".to_owned(), true),
        Err(error) => (format!("gateway: {error}"), false),
        Ok(_) => ("gateway: speaks to it".to_owned(), false),
    };
    field.note("the home's address, with another key behind it", observed, blocked);
    Ok(())
}

fn address_of(multiaddr: &str) -> Option<std::net::SocketAddr> {
    let mut parts = multiaddr.split('/').skip(1);
    let (Some("ip4"), Some(ip), Some("tcp"), Some(port)) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some((ip.parse::<std::net::IpAddr>().ok()?, port.parse().ok()?).into())
}

fn socket(field: &Field, victim: Victim) -> anyhow::Result<std::net::SocketAddr> {
    let address = field.at(victim).addresses.first().and_then(|address| address_of(address));
    address.with_context(|| format!("the {} is nowhere", victim.name()))
}

fn lookup() -> Vec<u8> {
    RegistryFrame::Lookup(Lookup::Name(SERVICE.to_owned())).to_bytes()
}

/// Frames longer than their stream allows, cut short, with bytes too many.
pub(super) async fn broken_frames(field: &mut Field) -> Done {
    let member = field.member(Role::Cloud).await?;
    let mut long = lookup();
    long.resize(FRAME_BYTES_MAX + 1, 0);
    let short: Vec<u8> = lookup().into_iter().take(4).collect();
    let more = [lookup(), vec![0]].concat();
    let abandon = MigrateFrame::Abandon(MigrationRef { mig: wayfare_protocol::ids::MigrationId([7; 16]) }).to_bytes();
    let mut long_migrate = abandon.clone();
    long_migrate.resize(FRAME_BYTES_MAX + 1, 0);
    let cut: Vec<u8> = abandon.iter().copied().take(abandon.len() - 1).collect();
    let (registry, migrate) = (Protocol::Registry, Protocol::Migrate);
    for (victim, protocol, what, bytes, expected) in [
        (Victim::Registry, registry, "a frame beyond the cap", &long, Reject::FrameTooLarge),
        (Victim::Registry, registry, "a frame cut short", &short, Reject::Malformed),
        (Victim::Registry, registry, "a frame with a byte more", &more, Reject::Malformed),
        (Victim::Cloud, migrate, "a frame beyond the cap", &long_migrate, Reject::FrameTooLarge),
        (Victim::Cloud, migrate, "a frame cut short", &cut, Reject::Malformed),
    ] {
        field.shoot(&member.peer, victim, protocol, what, bytes, expected).await?;
    }
    Ok(())
}

/// Lengths that promise more than ever comes; lists of endless length; bytes that would be much more unpacked.
pub(super) async fn length_bomb(field: &mut Field) -> Done {
    let member = field.member(Role::Cloud).await?;
    let memory = field.memory_mib(Victim::Registry)?;
    // A name of 2^64-1 characters, in twenty bytes.
    let endless = [&lookup()[..2], &[1, 0, 0, 0][..], &[0xff; 8][..], &[b'k'; 6][..]].concat();
    let what = "a text of 2^64-1 bytes, in 20";
    field.shoot(&member.peer, Victim::Registry, Protocol::Registry, what, &endless, Reject::Malformed).await?;
    // Ten bytes that a decompressor would make a gigabyte of: nothing here decompresses.
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    let what = "compressed bytes";
    field.shoot(&member.peer, Victim::Registry, Protocol::Registry, what, &packed, Reject::WrongVersion).await?;
    // Announced at full length, and never sent.
    let mut held = Vec::new();
    for _ in 0..ANNOUNCED {
        let at = &field.registry;
        // No more than a connection may have.
        let Ok(mut stream) = member.peer.net.open(at.host, &at.addresses, Protocol::Registry).await else { break };
        let len = u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX).to_le_bytes();
        // The Registry may have ended it already.
        let _ = stream.write_all(&len).await;
        let _ = stream.flush().await;
        held.push(stream);
    }
    let grown = field.memory_mib(Victim::Registry)?.saturating_sub(memory);
    let observed = format!("registry: {grown} MiB more, of {MEMORY_MIB_MAX} at most");
    field.note(
        &format!("{} frames announced and not sent", held.len()),
        observed,
        grown <= MEMORY_MIB_MAX && !held.is_empty(),
    );
    // HTTP, too: a body that is said to be endless is refused before it is read.
    let mut http = TcpStream::connect(field.ingress).await?;
    http.write_all(b"POST /k/x HTTP/1.1\r\nhost: kv\r\ncontent-length: 9223372036854775807\r\n\r\n").await?;
    let mut answer = vec![0; 64];
    let read = tokio::time::timeout(PATIENCE, http.read(&mut answer)).await.map_or(0, |read| read.unwrap_or(0));
    let answer = String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned();
    let status = answer.lines().next().unwrap_or("no answer").to_owned();
    field.note("an HTTP body of 2^63-1 bytes", format!("gateway: {status}"), status.contains(" 413 "));
    Ok(())
}

/// A peer that speaks only what nobody speaks, and one that says on an old stream what only a newer one has.
pub(super) async fn downgrade(field: &mut Field) -> Done {
    for victim in [Victim::Registry, Victim::Home, Victim::Gateway] {
        let seed = *fresh_secret(&mut entropy()).expose();
        let peer = Peer::with(NetConfig { versions: vec![99], ..NetConfig::local(seed) }).await?;
        let before = field.before(victim).await?;
        let at = field.at(victim);
        let refused = peer.net.open(at.host, &at.addresses, Protocol::Probe).await;
        let refused = matches!(refused, Err(NetError::NoCommonVersion { .. }));
        field.harmless(refused, "a stream of a version that nobody speaks");
        field.refused(before, "a peer of version 99", Reject::NoCommonVersion).await?;
    }
    let seed = *fresh_secret(&mut entropy()).expose();
    let old = Peer::with(NetConfig { versions: vec![1], gossip: false, ..NetConfig::local(seed) }).await?;
    let member = field.member(Role::Cloud).await?;
    let record = field.lookup(&member.peer, SERVICE).await?.0.unverified()?;
    let expiry = now().wall + Micros::from_secs(60);
    let order = Order { service: record.service, action: Action::Stop, sequence: now().wall.0, expiry };
    let order = field.realm.signer(&thief(), Receiver::Registry(field.realm.id)).sign(&order);
    let order = RegistryFrame::Order(OrderFrame { order, manifest: None, addresses: vec![] }).to_bytes();
    let what = "a frame of version 2 on a stream of version 1";
    field.shoot(&old, Victim::Registry, Protocol::Registry, what, &order, Reject::WrongVersion).await?;
    Ok(())
}

/// Connections that begin and never say who they are.
pub(super) async fn half_open_handshakes(field: &mut Field) -> Done {
    let victim = Victim::Home;
    let (at, memory) = (socket(field, victim)?, field.memory_mib(victim)?);
    let before = field.before(victim).await?;
    let begun = Instant::now();
    let dials = join_all((0..SILENT).map(|_| TcpStream::connect(at))).await;
    let held: Vec<TcpStream> = dials.into_iter().filter_map(Result::ok).collect();
    let many = held.len();
    // Who ends them? We never do.
    let ended = join_all(held.into_iter().map(|mut stream| async move {
        let mut byte = [0; 256];
        let ended = async { while let Ok(1..) = stream.read(&mut byte).await {} };
        tokio::time::timeout(KEPT_AT_MOST, ended).await.is_ok()
    }))
    .await;
    let ended = ended.into_iter().filter(|ended| *ended).count();
    let observed = format!("home: ended {ended} of them within {:.0} s", begun.elapsed().as_secs_f64());
    field.note(&format!("{many} silent connections"), observed, ended == many && many > 0);
    // Those beyond what one address may begin are closed as they are accepted, the others at the end of their time.
    field.counted(before, "the same, by its counter", "net.inbound_failed", 1).await?;
    field.grown(victim, memory, MEMORY_MIB_MAX)?;
    // Whoever is honest finds room again.
    let member = field.member(Role::Gateway).await?;
    let came_in = until("room", async || member.peer.line(&field.home, Protocol::Request).await.ok()).await.is_ok();
    field.note("an honest peer, then", if came_in { "comes in" } else { "is kept out" }, came_in);
    Ok(())
}

/// A gateway that asks and does not read the answers.
pub(super) async fn slow_reader(field: &mut Field) -> Done {
    let gateway = field.member(Role::Gateway).await?;
    let service = field.lookup(&gateway.peer, SERVICE).await?.0.unverified()?.service;
    let client = client_id(gateway.peer.host, 1);
    let call = |sequence, request: Vec<u8>| {
        let hash = request_hash(&request);
        ClientFrame::Call(Call { service, client, sequence, hash, acked_below: sequence, request })
    };
    let head = |what: &str, len| format!("{what} /k/slow HTTP/1.1\r\nhost: kv\r\ncontent-length: {len}\r\n\r\n");
    let put = [head("PUT", SLOW_BYTES).into_bytes(), vec![b'x'; SLOW_BYTES]].concat();
    let get = head("GET", 0).into_bytes();
    let memory = field.memory_mib(Victim::Home)?;
    let mut line = gateway.peer.line(&field.home, Protocol::Request).await?;
    line.say(&ClientFrame::Hello(Hello { certificate: gateway.certificate.clone(), incarnation: 1 })).await?;
    line.say(&ClientFrame::Open(Open { service, client })).await?;
    line.hear::<ClientFrame>().await?;
    line.say(&call(0, put)).await?;
    line.hear::<ClientFrame>().await?;
    // One question, whose answer is kept: each repetition is answered from there.
    let ask = call(1, get).to_bytes();
    let (reader, mut writer) = line.split();
    let (mut asked, mut most, deadline) = (0, 0, Instant::now() + KEPT_AT_MOST);
    let ended = loop {
        match tokio::time::timeout(ASK_AGAIN, writer.send(&ask)).await {
            Ok(Ok(())) => asked += 1,
            Ok(Err(_)) => break true,
            // It does not read, either.
            Err(_) => {}
        }
        most = most.max(field.memory_mib(Victim::Home)?);
        if Instant::now() > deadline {
            break false;
        }
        if asked > SLOW_ASKED {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    drop((reader, writer));
    let observed = if ended { "home: ended the stream" } else { "home: goes on" };
    field.note(&format!("{asked} answers of 1 MiB asked for, and none read"), observed, ended);
    let grown = most.saturating_sub(memory);
    let observed = format!("{grown} MiB, of {SLOW_MIB_MAX} at most");
    field.note("memory that the home took for it", observed, grown <= SLOW_MIB_MAX);
    Ok(())
}
