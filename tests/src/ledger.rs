//! What a receiver has rejected so far, exactly.

use std::{collections::BTreeMap, time::Duration};

use wayfare_node::{gateway::GatewayHandle, host::HostHandle};
use wayfare_protocol::reject::{Reject, RejectCounters};
use wayfare_registry::Handle;

/// How long a rejection may take to be counted.
const SOON: Duration = Duration::from_secs(5);

/// Who counts.
#[derive(Clone, Debug)]
pub enum Watched {
    /// A registry.
    Registry(Handle),
    /// A cloud or home.
    Host(HostHandle),
    /// A gateway.
    Gateway(GatewayHandle),
}

type Counts = BTreeMap<String, u64>;

fn counts(counters: &RejectCounters) -> Counts {
    counters.iter().map(|(reject, count)| (reject.name().to_owned(), count)).collect()
}

impl Watched {
    async fn read(&self) -> Counts {
        match self {
            Self::Registry(handle) => handle.stats().await.unwrap().rejections,
            Self::Host(handle) => handle.with(|host, _, _| counts(host.rejects())).await.unwrap(),
            Self::Gateway(handle) => handle.with(|gateway, _| counts(gateway.rejects())).await.unwrap(),
        }
    }
}

/// The counters of one receiver, as they should be.
#[derive(Debug)]
pub struct Ledger {
    watched: Watched,
    expected: Counts,
}

impl Ledger {
    /// Opens with what was counted up to now.
    pub async fn open(watched: Watched) -> Self {
        let expected = watched.read().await;
        Self { watched, expected }
    }

    /// Who counts.
    pub const fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Waits until exactly `rejects` were counted since the last entry, and nothing else.
    ///
    /// # Errors
    /// What was counted instead; the ledger then goes on from there.
    pub async fn expect(&mut self, rejects: &[Reject]) -> Result<(), String> {
        let before = self.expected.clone();
        for reject in rejects {
            *self.expected.entry(reject.name().to_owned()).or_default() += 1;
        }
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let counted = self.watched.read().await;
            if counted == self.expected {
                return Ok(());
            }
            let total = |counts: &Counts| counts.values().sum::<u64>();
            if total(&counted) >= total(&self.expected) || tokio::time::Instant::now() > deadline {
                self.expected = counted;
                return Err(format!("expected {rejects:?}, counted {}", difference(&before, &self.expected)));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn difference(before: &Counts, after: &Counts) -> String {
    let more = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| format!("{name} × {more}"))
    };
    let names: Vec<String> = after.iter().filter_map(more).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
