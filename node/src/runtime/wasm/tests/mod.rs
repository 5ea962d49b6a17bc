//! What the driver promises, tried on the key-value guest and on one made to misbehave.

mod blockers;
mod calls;
mod moves;
mod replays;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wayfare_protocol::ids::Digest;

use super::WasmDriver;
use crate::runtime::{
    CallOutcome, Driver, Incoming, Instance, Launch, Limits, Outside, Prepared, RecordedInputs, Salt, SinkClosed,
};

const KV: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/kv/kv.wasm"));
const PROBE: &str = include_str!("probe.wat");
const MIB: u64 = 1024 * 1024;

/// Clocks that advance by one reading, and seeds that count.
#[derive(Debug)]
struct Ticking(AtomicU64);

impl Ticking {
    fn from(start: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(start)))
    }
}

impl Outside for Ticking {
    fn realtime_ns(&self) -> u64 {
        1_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn seed(&self) -> Option<[u8; 32]> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Some(seed)
    }
}

fn launch() -> Launch {
    let limits = Limits {
        memory_bytes_max: 16 * MIB,
        call_time_max: Duration::from_secs(1),
        request_bytes_max: 2 * 1024 * 1024,
        response_bytes_max: 32 * 1024,
    };
    let env = vec![("NAME".to_owned(), "value".to_owned())];
    Launch { limits, env, outside: Ticking::from(1000), ..Launch::default() }
}

fn roomy() -> Launch {
    let limits = Limits { memory_bytes_max: 256 * MIB, ..Limits::default() };
    Launch { limits, ..launch() }
}

fn prepare(module: &[u8]) -> Prepared {
    WasmDriver::new().prepare(module, 16 * MIB).expect("a service")
}

fn probe() -> Prepared {
    prepare(&wat::parse_str(PROBE).expect("valid text"))
}

fn start(prepared: &Prepared, launch: Launch) -> Box<dyn Instance> {
    started(prepared, launch).0
}

fn started(prepared: &Prepared, launch: Launch) -> (Box<dyn Instance>, RecordedInputs) {
    WasmDriver::new().start(prepared, launch, None).expect("it starts")
}

fn call(instance: &mut dyn Instance, request: &[u8]) -> CallOutcome {
    instance.call(request).expect("an outcome")
}

/// A request of the key-value guest.
fn http(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: kv\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Status and body of a response.
fn parsed(response: &[u8]) -> (u16, Vec<u8>) {
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(at) = head.parse(response).expect("an HTTP response") else { panic!("half a head") };
    let body = response[at..].to_vec();
    let length = head.headers.iter().find(|header| header.name == "Content-Length").expect("a Content-Length");
    assert_eq!(std::str::from_utf8(length.value).expect("digits").parse(), Ok(body.len()));
    assert!(head.headers.iter().any(|header| header.name == "Content-Type"));
    (head.code.expect("a status"), body)
}

fn kv(instance: &mut dyn Instance, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    parsed(&call(instance, &http(method, path, body)).response)
}

fn digest(instance: &dyn Instance) -> Digest {
    instance.save(Salt([7; 32]), &mut |_: u8, _: &[u8]| Ok(())).expect("readable").digest
}

/// Records as they were sent.
type Records = Vec<(u8, Vec<u8>)>;

fn collect(records: &mut Records) -> impl FnMut(u8, &[u8]) -> Result<(), SinkClosed> {
    |kind, payload: &[u8]| {
        assert!(payload.len() <= crate::runtime::state::PAYLOAD_BYTES_MAX);
        records.push((kind, payload.to_vec()));
        Ok(())
    }
}

fn receive(prepared: &Prepared, launch: Launch, records: &Records) -> Box<dyn Incoming> {
    let mut incoming = WasmDriver::new().receive(prepared, launch, Salt([7; 32])).expect("it opens");
    for (kind, payload) in records {
        incoming.apply(*kind, payload).expect("it applies");
    }
    incoming
}

/// Captures the instance without rounds and puts it together again.
fn moved(prepared: &Prepared, mut instance: Box<dyn Instance>, launch: Launch) -> Box<dyn Instance> {
    let mut records = Records::new();
    instance.arm(Salt([7; 32])).expect("armed");
    let quiesced = instance.quiesce().expect("no blocker");
    let state = instance.finish(&quiesced, &mut collect(&mut records)).expect("captured");
    let incoming = receive(prepared, launch, &records);
    assert_eq!(incoming.digest().expect("complete"), state.digest);
    incoming.activate(state.digest).expect("it activates")
}
