//! Who dies when, and what moves where.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    processes::{Health, Kind, Processes, REGISTRY},
    rng::SplitMix64,
};

/// The longest that a process stays dead, milliseconds.
const DEAD_MS_MAX: usize = 1500;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For how long a move is in nobody's mind but the Registry's before it counts as forgotten, and the service is moved on.
const FORGOTTEN: Duration = Duration::from_secs(2);

pub(super) struct Director<'a> {
    mesh: &'a mut Processes,
    services: Vec<String>,
    rng: SplitMix64,
    kill_every: Duration,
    move_every: Duration,
    /// Who is dead, until when.
    dead: BTreeMap<String, Instant>,
    pub(super) kills: BTreeMap<&'static str, u64>,
    pub(super) begun: u64,
    turn: usize,
}

impl<'a> Director<'a> {
    pub(super) fn new(
        mesh: &'a mut Processes,
        services: Vec<String>,
        rng: SplitMix64,
        kill_every: Duration,
        move_every: Duration,
    ) -> Self {
        let (dead, kills) = (BTreeMap::new(), BTreeMap::new());
        Self { mesh, services, rng, kill_every, move_every, dead, kills, begun: 0, turn: 0 }
    }

    /// Kills, starts again and moves for so long.
    pub(super) async fn direct(&mut self, length: Duration, progress: impl Fn(&Self, Duration)) -> anyhow::Result<()> {
        let begun = Instant::now();
        let end = begun + length;
        let (mut kill_at, mut move_at, mut tell_at) = (begun + self.kill_every, begun, begun);
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now >= tell_at {
                tell_at = now + PROGRESS_EVERY;
                progress(self, end - now);
            }
            self.revive(now).await?;
            if now >= move_at {
                move_at = (move_at + self.move_every).max(now);
                self.move_one().await;
            }
            if now >= kill_at {
                kill_at = (kill_at + self.kill_every).max(now);
                self.kill_one().await?;
            }
            let next = self.dead.values().copied().chain([kill_at, move_at, tell_at, end]).min().unwrap_or(end);
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// Everybody lives again; waits until each service is served by one host, and nothing is open.
    pub(super) async fn heal(&mut self, within: Duration) -> anyhow::Result<()> {
        self.revive(Instant::now() + Duration::from_secs(3600)).await?;
        for name in self.everybody() {
            self.mesh.process(&name)?.ready().await.with_context(|| format!("{name} does not come back"))?;
        }
        let services = self.services.clone();
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let (begun, mut forgotten_since) = (Instant::now(), None);
        loop {
            match self.mesh.health(&services).await {
                Ok(Health::Well) => return Ok(()),
                Ok(Health::MoveForgotten) => {
                    let since: &mut Instant = forgotten_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > FORGOTTEN {
                        forgotten_since = None;
                        self.move_one().await;
                    }
                }
                Err(error) if begun.elapsed() > within => return Err(error),
                Err(_) => forgotten_since = None,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn everybody(&self) -> Vec<String> {
        [Kind::Registry, Kind::Home, Kind::Cloud, Kind::Gateway]
            .into_iter()
            .flat_map(|kind| self.mesh.all(kind))
            .collect()
    }

    async fn revive(&mut self, now: Instant) -> anyhow::Result<()> {
        let due: Vec<String> =
            self.dead.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.dead.remove(&name);
            self.mesh.launch(&name).await?;
        }
        Ok(())
    }

    /// Somebody who lives: the registry and the gateways one time in six each, a host that has a service (and may just be moving
    /// it) one time in two, any host else.
    async fn kill_one(&mut self) -> anyhow::Result<()> {
        let kind_and_names = match self.rng.below(6) {
            0 => (Kind::Registry, vec![REGISTRY.to_owned()]),
            1 => (Kind::Gateway, self.mesh.all(Kind::Gateway)),
            2 => (Kind::Cloud, self.mesh.hosts()),
            _ => (Kind::Cloud, self.with_services().await),
        };
        let (kind, mut names) = kind_and_names;
        names.retain(|name| !self.dead.contains_key(name) && self.mesh.is_running(name));
        if names.is_empty() {
            return Ok(());
        }
        let name = names.swap_remove(self.rng.below(names.len()));
        self.mesh.process(&name)?.kill().await?;
        let home = kind == Kind::Cloud && self.mesh.all(Kind::Home).contains(&name);
        let role = if home { Kind::Home } else { kind };
        *self.kills.entry(role.name()).or_default() += 1;
        let pause = Duration::from_millis(self.rng.below(DEAD_MS_MAX) as u64);
        self.dead.insert(name, Instant::now() + pause);
        Ok(())
    }

    /// The hosts of record; all hosts while the Registry is dead.
    async fn with_services(&self) -> Vec<String> {
        match self.mesh.placements().await {
            Ok(placements) => placements.into_iter().map(|view| view.cloud).collect(),
            Err(_) => self.mesh.hosts(),
        }
    }

    /// Asks for a move of the next service to another cloud. That nobody answers just now is nothing unusual here.
    async fn move_one(&mut self) {
        let service = self.services[self.turn % self.services.len()].clone();
        self.turn += 1;
        let Ok(placements) = self.mesh.placements().await else { return };
        let Some(record) = placements.into_iter().find(|view| view.name == service) else { return };
        let mut clouds = self.mesh.all(Kind::Cloud);
        clouds.retain(|cloud| *cloud != record.cloud && !self.dead.contains_key(cloud));
        if clouds.is_empty() {
            return;
        }
        let to = clouds.swap_remove(self.rng.below(clouds.len()));
        if self.mesh.begin_move(&record.cloud, &service, &to).await.is_ok() {
            self.begun += 1;
        }
    }
}
