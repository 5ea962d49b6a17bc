//! Ports that outlast the processes that listen on them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::bail;

/// Below those that the system gives to whoever dials (32768 up, on Linux): none of these is taken while its process is away.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of the loopback on which nobody listens. Given out once in this process.
///
/// # Errors
/// All are taken.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two programs at the same time begin at different ends.
    let offset = std::process::id() as u16 % COUNT;
    for _ in 0..COUNT {
        let port = FIRST + (offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port of the loopback from {FIRST} on is free")
}
