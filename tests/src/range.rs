//! Shoots at a receiver and checks what each shot did: one named rejection, and nothing else.

use sim_net::attack::peer::Peer;
use wayfare_net::Protocol;

use crate::{
    ledger::{Ledger, Watched},
    peer::{Line, Whereabouts},
    puppet::registry::PuppetRegistry,
    shot::Shot,
};

/// What must not change, as text.
pub type Standing = Vec<String>;

/// One receiver under attack. Failures are collected, and shown when the range is closed or a test panics.
pub struct Range {
    ledger: Ledger,
    failures: Vec<String>,
    shots: usize,
}

impl Range {
    /// Begins to count.
    pub async fn open(watched: Watched) -> Self {
        Self { ledger: Ledger::open(watched).await, failures: Vec::new(), shots: 0 }
    }

    /// `from` sends every shot on a stream of its own.
    pub async fn fire(&mut self, from: &Peer, to: &Whereabouts, protocol: Protocol, shots: Vec<Shot>) {
        for shot in shots {
            let mut line = Line::open(from, to, protocol).await;
            line.send(&shot.bytes).await;
            self.judge(&shot).await;
        }
    }

    /// As [`fire`](Self::fire), with a frame before each shot that makes the stream known.
    pub async fn fire_after(
        &mut self,
        from: &Peer,
        to: &Whereabouts,
        protocol: Protocol,
        greeting: &[u8],
        shots: Vec<Shot>,
    ) {
        for shot in shots {
            let mut line = Line::open(from, to, protocol).await;
            line.send(greeting).await;
            line.send(&shot.bytes).await;
            self.judge(&shot).await;
        }
    }

    /// The Registry sends every shot on the stream that the receiver has to it.
    pub async fn fire_as_registry(&mut self, registry: &PuppetRegistry, to: &Whereabouts, shots: Vec<Shot>) {
        for shot in shots {
            registry.send(to.host, shot.bytes.clone()).await;
            self.judge(&shot).await;
        }
    }

    /// What was just sent is refused as it should be.
    pub async fn judge(&mut self, shot: &Shot) {
        self.shots += 1;
        if let Err(instead) = self.ledger.expect(shot.expect.as_slice()).await {
            self.failures.push(format!("{}: {instead}", shot.name));
        }
    }

    /// Nothing was refused.
    pub async fn accepted(&mut self, what: &str) {
        if let Err(instead) = self.ledger.expect(&[]).await {
            self.failures.push(format!("{what}: {instead}"));
        }
    }

    /// Something that must hold.
    pub fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failures.push(what.to_owned());
        }
    }

    /// How many shots were fired.
    pub const fn shots(&self) -> usize {
        self.shots
    }

    /// All failures at once.
    pub fn close(mut self) {
        let failures = std::mem::take(&mut self.failures);
        assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), self.shots, failures.join("\n"));
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {} shots:\n{}", self.shots, self.failures.join("\n"));
        }
    }
}
