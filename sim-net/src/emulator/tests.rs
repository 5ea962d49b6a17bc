use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Rows 0 to 4 are 1, 10, 40 and 100 ms from row 0; nothing is known between row 4 and row 1.
const MATRIX: &str = "0,1,10,40,100\n1,0,9,9,\n10,9,0,9,9\n40,9,9,0,9\n100,,9,9,0\n";
/// What a loaded machine may add to a median, in milliseconds.
const SLACK_MS: f64 = 5.0;

struct Net {
    emulator: Emulator,
    client: NodeId,
    server: NodeId,
    target: SocketAddr,
}

/// A client on `from` and a server on row 0 that treats each connection so.
async fn net<F: Future<Output = io::Result<()>> + Send + 'static>(from: usize, serve: fn(TcpStream) -> F) -> Net {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(serve(tcp));
        }
    });
    let emulator = Emulator::new(Arc::new(LatencyMatrix::parse("m.csv", MATRIX).unwrap())).unwrap();
    let (client, server) = (emulator.add_node(from).unwrap(), emulator.add_node(0).unwrap());
    emulator.register(server, target).unwrap();
    Net { emulator, client, server, target }
}

async fn echo(mut tcp: TcpStream) -> io::Result<()> {
    let (mut reading, mut writing) = tcp.split();
    tokio::io::copy(&mut reading, &mut writing).await.map(|_| ())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_takes_what_the_matrix_says() {
    for (row, asked_ms, rounds) in [(0, 1.0, 200), (1, 1.0, 200), (2, 10.0, 60), (3, 40.0, 20), (4, 100.0, 8)] {
        let net = net(row, echo).await;
        let start = Instant::now();
        let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
        let dial_ms = ms(start);
        let mut taken_ms = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            stream.write_all(b"ping").await.unwrap();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            taken_ms.push(ms(start));
        }
        taken_ms.sort_by(f64::total_cmp);
        let (min, p50) = (taken_ms[0], taken_ms[rounds / 2]);
        println!("asked {asked_ms} ms: dial {dial_ms:.2}, min {min:.2}, p50 {p50:.2}, max {:.2}", taken_ms[rounds - 1]);
        assert!(min >= asked_ms && p50 < asked_ms + SLACK_MS, "asked {asked_ms}, min {min}, p50 {p50}");
        assert!(dial_ms >= asked_ms, "asked {asked_ms}, dial {dial_ms}");
    }
}

#[tokio::test]
async fn open_connections_feel_a_move_and_nothing_overtakes() {
    let net = net(4, echo).await;
    let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
    let start = Instant::now();
    let mut expected = Vec::new();
    for i in 0..40_u8 {
        net.emulator.set_row(net.client, if i % 2 == 0 { 4 } else { 0 }).unwrap();
        stream.write_all(&[i; 10]).await.unwrap();
        expected.extend([i; 10]);
    }
    let mut echoed = vec![0; expected.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, expected);
    // Out at 100 ms, where all waited for the first; back at 1 ms.
    let taken_ms = ms(start);
    assert!((50.0..100.0).contains(&taken_ms), "{taken_ms}");
    let start = Instant::now();
    stream.write_all(b"near").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    assert!(ms(start) < 1.0 + SLACK_MS, "{}", ms(start));
    net.emulator.set_row(net.server, 3).unwrap();
    let start = Instant::now();
    stream.write_all(b"far").await.unwrap();
    stream.read_exact(&mut [0; 3]).await.unwrap();
    assert!(ms(start) >= 40.0, "the other end moved: {}", ms(start));
    assert_eq!(net.emulator.rtt_us(net.client, net.server), Some(40_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_is_not_slowed_by_distance() {
    const TOTAL_BYTES: usize = 64 << 20;
    async fn swallow_and_send(mut tcp: TcpStream) -> io::Result<()> {
        let mut buffer = vec![1; 1 << 18];
        let mut got = 0;
        while got < TOTAL_BYTES {
            got += tcp.read(&mut buffer).await?;
        }
        for _ in 0..TOTAL_BYTES / buffer.len() {
            tcp.write_all(&buffer).await?;
        }
        Ok(())
    }
    let net = net(3, swallow_and_send).await;
    let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
    let mut buffer = vec![2; 1 << 18];
    let start = Instant::now();
    for _ in 0..TOTAL_BYTES / buffer.len() {
        stream.write_all(&buffer).await.unwrap();
    }
    stream.read_exact(&mut buffer[..1]).await.unwrap();
    let out_s = ms(start) / 1_000.0;
    let start = Instant::now();
    let mut got = 1;
    while got < TOTAL_BYTES {
        got += stream.read(&mut buffer).await.unwrap();
    }
    let in_s = ms(start) / 1_000.0;
    let rate = |s: f64| (TOTAL_BYTES >> 20) as f64 / s;
    println!("at 40 ms: out {:.0} MiB/s, in {:.0} MiB/s", rate(out_s), rate(in_s));
    assert!(rate(out_s) >= 50.0 && rate(in_s) >= 50.0, "out {:.0}, in {:.0} MiB/s", rate(out_s), rate(in_s));
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_the_sender() {
    async fn idle(tcp: TcpStream) -> io::Result<()> {
        let _held = tcp;
        std::future::pending().await
    }
    let net = net(1, idle).await;
    let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
    let buffer = vec![0; 1 << 20];
    let mut written_bytes = 0;
    let held = tokio::time::timeout(Duration::from_secs(2), async {
        loop {
            written_bytes += stream.write(&buffer).await.unwrap();
        }
    });
    assert!(held.await.is_err());
    assert!(written_bytes >= LANE_BYTES_MAX / 2, "{written_bytes}");
    assert!(written_bytes < LANE_BYTES_MAX + (32 << 20), "the lane and the kernel's own buffers: {written_bytes}");
}

#[tokio::test]
async fn half_closing_is_delivered_last_and_in_time() {
    async fn answer_at_the_end(mut tcp: TcpStream) -> io::Result<()> {
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await?;
        tcp.write_all(&all).await
    }
    let net = net(3, answer_at_the_end).await;
    let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
    let start = Instant::now();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((answer.as_str(), stream.read(&mut [0; 9]).await.unwrap()), ("question", 0));
    assert!(ms(start) >= 40.0, "{}", ms(start));
}

#[tokio::test]
async fn a_reset_is_delivered_after_the_data_before_it() {
    async fn answer_and_reset(mut tcp: TcpStream) -> io::Result<()> {
        tcp.read_exact(&mut [0; 1]).await?;
        tcp.write_all(b"last words").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        tcp.set_zero_linger()
    }
    let net = net(3, answer_and_reset).await;
    let mut stream = net.emulator.dial(net.client, net.target).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut words = Vec::new();
    let error = stream.read_to_end(&mut words).await.unwrap_err();
    assert_eq!((words.as_slice(), error.kind()), (b"last words".as_slice(), io::ErrorKind::ConnectionReset));
    // Writing fails too, once the failure has come back.
    let failed = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Err(error) = stream.write(b"!").await {
                break error;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    failed.await.unwrap();
}

#[tokio::test]
async fn what_was_written_arrives_though_the_dialler_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let net = net(3, echo).await;
    let target = listener.local_addr().unwrap();
    net.emulator.register(net.server, target).unwrap();
    let mut stream = net.emulator.dial(net.client, target).await.unwrap();
    stream.write_all(&vec![7; 1 << 20]).await.unwrap();
    drop(stream);
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 1 << 20);
}

#[tokio::test]
async fn dials_that_fail_say_why() {
    let net = net(1, echo).await;
    let dial = |target| net.emulator.dial(net.client, target);
    let elsewhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let unregistered = dial(elsewhere).await.unwrap_err();
    assert_eq!(
        unregistered.to_string(),
        "no node is registered at 127.0.0.1:9: register its address before it is dialled"
    );
    net.emulator.register(net.server, elsewhere).unwrap();
    net.emulator.set_row(net.client, 3).unwrap();
    let start = Instant::now();
    assert_eq!(dial(elsewhere).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(ms(start) >= 40.0, "a refusal takes a round trip: {}", ms(start));
    net.emulator.set_row(net.client, 4).unwrap();
    net.emulator.set_row(net.server, 1).unwrap();
    let unknown = dial(net.target).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NetworkUnreachable);
    assert_eq!(
        unknown.to_string(),
        "m.csv, line 5, column 2: the round trip from row 4 to row 1 is empty and this run needs it: fill it in, or \
         choose other rows"
    );
    assert_eq!(
        net.emulator.set_row(net.client, 5).unwrap_err().to_string(),
        "there is no row 5, the matrix has 5 rows: name one from 0 to 4"
    );
    assert!(matches!(net.emulator.register(NodeId(9), elsewhere), Err(EmulatorError::NoSuchNode(_))));
}

#[tokio::test]
async fn shutdown_ends_every_task() {
    let net = net(4, echo).await;
    let mut stream = net.emulator.connector_for(net.client).dial(net.target).await.unwrap();
    stream.write_all(b"never arrives").await.unwrap();
    net.emulator.shutdown().await;
    assert!(net.emulator.0.tracker.is_empty());
}
