//! Plays one case in a world, and looks whether all is well afterwards.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use sim_net::processes::{REGISTRY, run_command};
use wayfare_node::api::{
    client::ClientError,
    shapes::{Cordoned, DrainLine, DrainRequest, NodeInfo},
};
use wayfare_tests::failpoint::{Action, Moment, Point};

use crate::{
    cases::{Case, Scene, Victim},
    world::{ANSWER_WITHIN, GATEWAY, HOME, KV, SERVICE, World, until},
};

/// How long it may take until a host has given a move up or got its service back.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);

/// How often a scene is begun anew that another failure has spoilt.
const TRIES: usize = 5;

/// Where another process must die so that the scene comes about.
fn kill(moment: Moment, name: &str) -> Point {
    Point { moment, name: name.to_owned(), action: Action::Kill }
}

/// The case, from a world in which all is well to one in which all is well again.
pub(crate) async fn play(world: &mut World, case: &Case) -> anyhow::Result<()> {
    let (source, target) = world.source_and_target().await?;
    let victim = match case.step.victim {
        Victim::Source => source.clone(),
        Victim::Target => target.clone(),
        Victim::Registry => REGISTRY.to_owned(),
        Victim::Gateway => GATEWAY.to_owned(),
        Victim::Home => HOME.to_owned(),
    };
    let Parties { victim, .. } = Parties { victim, source, target }.enact(world, case).await?;
    world.well().await.with_context(|| format!("{victim} has been back for long"))?;
    audit(world).await
}

struct Parties {
    victim: String,
    source: String,
    target: String,
}

impl Parties {
    async fn enact(self, world: &mut World, case: &Case) -> anyhow::Result<Self> {
        let Self { victim, source, target } = &self;
        let point = &case.point;
        match case.step.scene {
            Scene::Serving => {
                world.arm(victim, point).await?;
                self.fail(world, case).await?;
            }
            Scene::LargeMove => {
                world.enlarge().await?;
                world.arm(victim, point).await?;
                self.move_until(world, victim).await?;
                self.fail(world, case).await?;
            }
            Scene::Move => {
                world.arm(victim, point).await?;
                self.move_until(world, victim).await?;
                self.fail(world, case).await?;
            }
            Scene::TargetDies => {
                self.move_with_a_death(world, point, target, kill(Moment::BeforeSend, "Response")).await?;
                self.fail(world, case).await?;
                world.processes.restart(target).await?;
            }
            Scene::SourceDies => {
                self.move_with_a_death(world, point, source, kill(Moment::BeforeSend, "Records")).await?;
                self.fail(world, case).await?;
                world.processes.restart(source).await?;
            }
            Scene::Reclaimed => {
                self.move_with_a_death(world, point, target, kill(Moment::BeforeSend, "Complete")).await?;
                self.fail(world, case).await?;
                self.source_serves_again(world).await?;
                world.processes.restart(target).await?;
            }
            Scene::TargetReturns => {
                world.arm(target, &kill(Moment::BeforeSend, "Complete")).await?;
                self.move_until(world, target).await?;
                world.died(target).await?;
                self.source_serves_again(world).await?;
                self.return_of(world, target, case).await?;
            }
            Scene::TargetForgets => {
                world.arm(target, &kill(Moment::AfterSync, "KeyMade")).await?;
                self.move_until(world, target).await?;
                world.died(target).await?;
                self.return_of(world, target, case).await?;
            }
            Scene::SourceReturns => {
                world.arm(source, &kill(Moment::AfterSend, "Transfer")).await?;
                self.move_until(world, source).await?;
                world.died(source).await?;
                self.target_has_it(world).await?;
                self.return_of(world, source, case).await?;
            }
            Scene::GatewayReturns => {
                world.processes.process(GATEWAY)?.kill().await?;
                self.return_of(world, GATEWAY, case).await?;
            }
            Scene::HostReturns => {
                world.processes.process(source)?.kill().await?;
                self.return_of(world, source, case).await?;
            }
            Scene::RegistryReturns => {
                world.processes.process(REGISTRY)?.kill().await?;
                self.return_of(world, REGISTRY, case).await?;
            }
            Scene::Deploy => self.deploy(world, case).await?,
            Scene::Orders => self.orders(world, case).await?,
            Scene::Removal => self.removal(world, case).await?,
            Scene::Update => self.update(world, case).await?,
            Scene::Drain => self.drain(world, case).await?,
        }
        Ok(self)
    }

    /// Waits for the victim's failure, and brings it back.
    async fn fail(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        world.fired(&self.victim).await.context("NOT FIRED")?;
        world.recover(&self.victim, case.point.action).await
    }

    /// Asks for the move, again and again, until a process has reached its point.
    async fn move_until(&self, world: &World, watched: &str) -> anyhow::Result<()> {
        world.move_until(&self.source, &self.target, |world| world.has_fired(watched)).await.context("NOT FIRED")
    }

    /// A move in which `other` dies, and then the victim fails.
    async fn move_with_a_death(
        &self,
        world: &mut World,
        point: &Point,
        other: &str,
        death: Point,
    ) -> anyhow::Result<()> {
        world.arm(other, &death).await?;
        for _ in 0..TRIES {
            world.arm(&self.victim, point).await?;
            let early = |world: &World| world.has_fired(&self.victim) && !world.has_fired(other);
            world.move_until(&self.source, &self.target, |world| world.has_fired(other) || early(world)).await?;
            if !early(world) {
                return world.died(other).await;
            }
            // A move that was given up before it came so far, because of an old advertisement say: once more.
            world.recover(&self.victim, point.action).await?;
        }
        bail!("{other} does not get as far as its death")
    }

    async fn target_has_it(&self, world: &World) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        while world.source_and_target().await?.0 != self.target {
            ensure!(begun.elapsed() < GIVEN_UP_WITHIN, "the consent did not make {} the host of record", self.target);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn source_serves_again(&self, world: &World) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let services = world.processes.services(&self.source).await.unwrap_or_default();
            if services.iter().any(|service| service.name == SERVICE && service.state == "serving") {
                return Ok(());
            }
            ensure!(begun.elapsed() < GIVEN_UP_WITHIN, "the source does not get its service back: {services:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts a dead process, and the victim fails on its account, perhaps as soon as it starts.
    async fn return_of(&self, world: &mut World, dead: &str, case: &Case) -> anyhow::Result<()> {
        world.arm(&self.victim, &case.point).await?;
        world.processes.launch(dead).await?;
        self.fail(world, case).await?;
        world.processes.process(dead)?.ready().await?;
        Ok(())
    }

    /// The owner's command may fail, since a process does; given again, it is done, and so is what undoes it.
    async fn orders(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        world.arm(&self.victim, &case.point).await?;
        let stopping = tokio::spawn(run_command(world.order_command("stop", SERVICE)?, Vec::new()));
        self.fail(world, case).await?;
        drop(stopping.await);
        world.order("stop", SERVICE).await?;
        world.order("start", SERVICE).await
    }

    /// Whoever fails: in the end there is no such service, and its host has nothing of it.
    async fn removal(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        let service = world.next_spare()?;
        world.processes.deploy(HOME, Path::new(KV), &service).await?;
        world.arm(&self.victim, &case.point).await?;
        let removing = tokio::spawn(run_command(world.order_command("remove", &service)?, Vec::new()));
        self.fail(world, case).await?;
        drop(removing.await);
        world.until_removed(&service).await
    }

    /// The owner's command may fail, since a process does; given again until clients see the new code. What they count in goes on:
    /// the audit looks at it.
    async fn update(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        let (module, wanted) = world.next_version().await?;
        world.arm(&self.victim, &case.point).await?;
        let updating = tokio::spawn(run_command(world.update_command(&module)?, Vec::new()));
        self.fail(world, case).await?;
        drop(updating.await);
        let begun = std::time::Instant::now();
        let mut said = None;
        while world.version().await? != wanted {
            ensure!(begun.elapsed() < ANSWER_WITHIN, "never updated to {wanted:?}: {said:?}");
            said = run_command(world.update_command(&module)?, Vec::new()).await.err();
        }
        Ok(())
    }

    /// The drain ends with its host, the cordon does not. Afterwards the host takes services again.
    async fn drain(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        world.arm(&self.victim, &case.point).await?;
        let client = world.processes.client(&self.victim)?;
        let draining = tokio::spawn(async move {
            let request = DrainRequest { stay: true, ..DrainRequest::default() };
            // It is followed until its node fails, or is empty.
            let mut lines = client.post_lines(&["drain"], &request).await?;
            while lines.next::<DrainLine>().await?.is_some() {}
            Ok::<_, ClientError>(())
        });
        self.fail(world, case).await?;
        let node: NodeInfo = world.processes.client(&self.victim)?.get(&["node"], "").await?;
        ensure!(node.cordoned, "{} was cordoned, and has forgotten it", self.victim);
        draining.abort();
        let again: Cordoned = world.processes.client(&self.victim)?.post(&["uncordon"], &()).await?;
        ensure!(!again.cordoned, "{} stays cordoned", self.victim);
        Ok(())
    }

    /// The deployment may fail, since its host does; the service comes to be none the less, once it is on the host's disk.
    async fn deploy(&self, world: &mut World, case: &Case) -> anyhow::Result<()> {
        let service = world.next_spare()?;
        world.arm(&self.victim, &case.point).await?;
        let command = world.processes.deploy_command(HOME, Path::new(KV), &service)?;
        let deploying = tokio::spawn(run_command(command, Vec::new()));
        self.fail(world, case).await?;
        // Whatever it says: the world is looked at.
        drop(deploying.await);
        let (_, address) = world.deployed.last().context("nothing was deployed")?.clone();
        let begun = std::time::Instant::now();
        while !sim_net::client::probe(address, "/count").await {
            ensure!(begun.elapsed() < ANSWER_WITHIN, "`{service}` is deployed, and does not answer");
        }
        Ok(())
    }
}

/// Every request is answered, in time, and the service holds exactly what was acknowledged.
async fn audit(world: &World) -> anyhow::Result<()> {
    let user = world.user()?;
    user.pause(ANSWER_WITHIN).await?;
    let audit = user.audit(ANSWER_WITHIN).await?;
    if audit.lost + audit.doubled > 0 {
        bail!("LOST {} DOUBLED {}: {:#?}", audit.lost, audit.doubled, audit.findings);
    }
    let longest = user.stats().longest_request;
    ensure!(longest < ANSWER_WITHIN, "a request took {longest:.1?}");
    user.resume();
    until("the clients to go on", ANSWER_WITHIN, || user.longest_under_way().is_some()).await
}
