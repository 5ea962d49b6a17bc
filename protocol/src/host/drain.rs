//! Emptying a host: every service goes to the best place there is for it, nearer to its users or not, a few at a time. What
//! cannot go yet stays, serves on, and is looked at again; [`Host::drain_view`] says why it is still here.
//!
//! A drain begins with a cordon, which outlives restarts. The drain itself does not: whoever asked for it is told that the
//! node has stopped, and asks again.

use super::{
    Host,
    hosted::{Hosted, Run, Stay},
};
use crate::{
    ids::{HostId, ServiceId},
    limits::{DRAIN_AT_ONCE, DRAIN_LOOK},
    manifest::Resources,
    placement::{Candidate, Refuge, Stranded},
    reject::Guards,
    suite::Suite,
    time::{Instant, Now},
};

/// Why a service is still on a host that is being drained.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// It is on its way to this host.
    Leaving(HostId),
    /// Others go first.
    Waiting,
    /// It starts, arrives or waits for its lease: when it serves, it can leave.
    NotServing,
    /// No cloud can take it now.
    Stranded(Stranded),
    /// It cannot be moved: its state is lost, or its instance does not run.
    Immovable(Run),
}

/// A service that is still here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeftView {
    /// Which.
    pub service: ServiceId,
    /// Its name.
    pub name: String,
    /// Why it is here.
    pub why: Left,
}

/// How a drain stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DrainView {
    /// Whether it goes on.
    pub draining: bool,
    /// What is still here, by service. Empty: the host is.
    pub left: Vec<LeftView>,
}

impl<S: Suite, G: Guards> Host<S, G> {
    /// Takes no more services, and moves all away that are here. Failed moves of the past keep no cloud out.
    pub fn start_drain(&mut self) {
        self.set_cordoned(true);
        self.services.values_mut().for_each(|hosted| hosted.placer.forgive());
        self.draining = Some(Instant::default());
    }

    /// Moves no more services away. Those on their way go on; the cordon stays.
    pub const fn stop_drain(&mut self) {
        self.draining = None;
    }

    /// Whether services are being moved away.
    pub const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Something has changed: another service may leave.
    pub(super) fn drain_on(&mut self) {
        if let Some(look_at) = &mut self.draining {
            *look_at = Instant::default();
        }
    }

    pub(super) fn drain_timeout(&self) -> Option<Instant> {
        self.draining.filter(|_| self.services.values().any(|hosted| hosted.run != Run::Sealed))
    }

    pub(super) fn drain_if_due(&mut self, now: Now, rng: &mut dyn rand_core::Rng) {
        match &mut self.draining {
            Some(look_at) if *look_at <= now.mono => *look_at = now.mono + DRAIN_LOOK,
            Some(_) | None => return,
        }
        let mut leaving = self.services.values().filter(|hosted| hosted.attempt.is_some()).count();
        let stays: Vec<Stay> = self.services.keys().copied().collect();
        for stay in stays {
            if leaving >= DRAIN_AT_ONCE {
                return;
            }
            let Some(hosted) = self.services.get(&stay) else { continue };
            if hosted.attempt.is_some() || !hosted.may_serve::<G>(now.mono) {
                continue;
            }
            // One that cannot go now is looked at again.
            if let Ok(refuge) = self.refuge(now, hosted)
                && self.begin_move(now, stay.0, refuge.host, &refuge.reason(), rng).is_ok()
            {
                leaving += 1;
            }
        }
    }

    /// The best place for a service but this one, reckoning with what is on its way there from here.
    fn refuge(&self, now: Now, hosted: &Hosted) -> Result<Refuge, Stranded> {
        let on_its_way = |to: HostId| {
            let there =
                move |other: &&Hosted| other.attempt.as_ref().is_some_and(|attempt| attempt.source.target() == to);
            self.services.values().filter(there).map(|other| other.manifest.required)
        };
        let left = |candidate: Candidate| {
            let less = |free: Resources, taken| free.minus(&taken).unwrap_or_default();
            Candidate { free: on_its_way(candidate.host).fold(candidate.free, less), ..candidate }
        };
        let candidates: Vec<Candidate> = self.candidates(now, hosted).into_iter().map(left).collect();
        hosted.placer.refuge(now, self.me(), &candidates)
    }

    /// What is still here, and why.
    pub fn drain_view(&self, now: Now) -> DrainView {
        let view = |hosted: &Hosted| LeftView {
            service: hosted.placement.service,
            name: hosted.manifest.name.clone(),
            why: self.why_left(now, hosted),
        };
        let here = self.services.values().filter(|hosted| hosted.run != Run::Sealed).map(view);
        let coming = self.registering.values().map(|pending| &pending.manifest);
        let arriving = self.arrivals.values().map(|arrival| arrival.target.manifest());
        let coming = coming.chain(arriving).map(|manifest| LeftView {
            service: manifest.service,
            name: manifest.name.clone(),
            why: Left::NotServing,
        });
        DrainView { draining: self.is_draining(), left: here.chain(coming).collect() }
    }

    fn why_left(&self, now: Now, hosted: &Hosted) -> Left {
        if let Some(attempt) = &hosted.attempt {
            return Left::Leaving(attempt.source.target());
        }
        match hosted.run {
            Run::Lost | Run::Broken => Left::Immovable(hosted.run),
            Run::Serving if hosted.may_serve::<G>(now.mono) => match self.refuge(now, hosted) {
                Ok(_) => Left::Waiting,
                Err(stranded) => Left::Stranded(stranded),
            },
            Run::Serving
            | Run::Starting
            | Run::Freezing
            | Run::Frozen
            | Run::Resuming
            | Run::Restoring
            | Run::Updating
            | Run::Sealed => Left::NotServing,
        }
    }
}
