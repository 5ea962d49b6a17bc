//! Figures for the report: `cargo test --release -p wayfare-node figures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

fn micros(what: &str, times: u32, mut body: impl FnMut()) {
    let mut all: Vec<_> = (0..times)
        .map(|_| {
            let begin = Instant::now();
            body();
            begin.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    all.sort_by(f64::total_cmp);
    println!("{what:<55} p50 {:>10.1} us  p99 {:>10.1} us", all[all.len() / 2], all[all.len() * 99 / 100]);
}

#[test]
#[ignore = "measures, asserts nothing"]
fn figures() {
    let code = prepare(KV);
    micros("prepare kv (compile)", 5, || drop(prepare(KV)));
    micros("start kv", 50, || drop(start(&code, roomy())));
    let mut small = start(&code, roomy());
    micros("POST /count, small memory", 5000, || drop(call(&mut *small, &http("POST", "/count", b""))));
    micros("PUT 100 bytes, small memory", 5000, || drop(call(&mut *small, &http("PUT", "/k/a", &[1; 100]))));
    micros("PUT 64 KiB, small memory", 1000, || drop(call(&mut *small, &http("PUT", "/k/b", &[1; 65536]))));
    let mut failing = start(&probe(), launch());
    micros("a trap, rolled back", 500, || drop(call(&mut *failing, b"t")));

    let mut large = start(&code, roomy());
    for key in 0..64 {
        kv(&mut *large, "PUT", &format!("/k/{key}"), &vec![key ^ 0x55; (1 << 20) - 64]);
    }
    println!("large memory: {} MiB", large.usage().memory_bytes / MIB);
    micros("POST /count, 64 MiB memory", 2000, || drop(call(&mut *large, &http("POST", "/count", b""))));
    micros("PUT 64 KiB, 64 MiB memory", 500, || drop(call(&mut *large, &http("PUT", "/k/b", &[1; 65536]))));

    let mut records = Records::new();
    micros("capture of 64 MiB to nowhere (read, hash, encode)", 10, || {
        large.save(Salt([7; 32]), &mut |_: u8, _: &[u8]| Ok(())).map(drop).expect("readable");
    });
    let state = large.save(Salt([7; 32]), &mut collect(&mut records)).expect("readable");
    micros("apply of 64 MiB (check, hash, write)", 10, || drop(receive(&code, roomy(), &records)));
    let incoming = receive(&code, roomy(), &records);
    let begin = Instant::now();
    assert_eq!(incoming.digest().expect("complete"), state.digest);
    let mut moved = incoming.activate(state.digest).expect("it activates");
    println!("digest and activate 64 MiB: {:?}", begin.elapsed());
    let begin = Instant::now();
    call(&mut *moved, &http("POST", "/count", b""));
    println!("first request after it: {:?}", begin.elapsed());

    large.arm(Salt([7; 32])).expect("armed");
    large.round(usize::MAX, &mut |_: u8, _: &[u8]| Ok(())).expect("sent");
    call(&mut *large, &http("POST", "/count", b""));
    let begin = Instant::now();
    let quiesced = large.quiesce().expect("no blocker");
    let last = large.finish(&quiesced, &mut |_: u8, _: &[u8]| Ok(())).expect("captured");
    println!("finish after pre-copy and one request: {:?}, {:?}", begin.elapsed(), last.stats);
    large.abort(quiesced);
}
