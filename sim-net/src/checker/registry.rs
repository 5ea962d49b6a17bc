//! The Registry's part: its store, its clock, its effects.

use wayfare_protocol::{
    migration::messages::{Answer, Decision, Outcome, Placement, RegistryFrame},
    registry::{Effect, Registry, RevokeTarget, StoreOp},
    trust::Signed,
    wire::Frame as _,
};

use super::{
    message::{Body, Envelope, Note, REGISTRY},
    party::{Input, Output, RegistryParty, Store},
    world::{RESTART, World},
};

impl RegistryParty {
    pub(super) fn take(&mut self, world: &World, input: &Input, output: &mut Output) -> Option<()> {
        match input {
            Input::Deliver(envelope) => {
                let Body::Registry(bytes) = &envelope.body else { return None };
                let peer = world.host(envelope.from)?;
                // What it refuses shows in what it answers.
                let _ = self.machine.handle_frame(self.now, &mut self.draws, peer, bytes);
            }
            Input::Revoke(host) => self.machine.revoke(self.now, &RevokeTarget::Host(*host)).ok()?,
            Input::Pass(length) => {
                self.now.mono = self.now.mono + *length;
                self.now.wall = self.now.wall + *length;
                self.machine.handle_timeout(self.now, &mut self.draws);
            }
            Input::Sync => self.sync()?,
            Input::Crash { kept } => self.crash(world, *kept)?,
            Input::ForgetDisk => {
                self.sync();
                self.disk.take()?;
            }
            Input::Timeout | Input::Move(_) | Input::PeerLost(_) => return None,
        }
        self.effects(world, output);
        Some(())
    }

    fn sync(&mut self) -> Option<()> {
        let disk = self.disk.as_mut()?;
        let (last, _) = disk.unsynced.last()?;
        self.machine.handle_synced(*last);
        let Store { image, unsynced } = disk;
        unsynced.drain(..).flat_map(|(_, batch)| batch).for_each(|op| op.apply(image));
        Some(())
    }

    fn crash(&mut self, world: &World, kept: usize) -> Option<()> {
        let disk = self.disk.as_mut()?;
        let Store { image, unsynced } = disk;
        unsynced.drain(..).take(kept).flat_map(|(_, batch)| batch).for_each(|op| op.apply(image));
        self.now.wall = self.now.wall + RESTART;
        let rows = image.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        self.machine = Registry::restore(world.registry_config.clone(), self.now, rows).ok()?;
        Some(())
    }

    /// What is only told to auditors goes to disk with what was written before it, if anything waits.
    fn persist(&mut self, seq: u64, batch: Vec<StoreOp>) {
        match &mut self.disk {
            Some(Store { unsynced, .. }) if !batch.is_empty() => unsynced.push((seq, batch)),
            Some(Store { unsynced, .. }) if !unsynced.is_empty() => {
                unsynced.last_mut().into_iter().for_each(|(last, _)| *last = seq);
            }
            Some(_) | None => self.machine.handle_synced(seq),
        }
    }

    /// Forgets what makes no difference.
    pub(super) fn forget_figures(&mut self) {
        let mut commits = Vec::new();
        for (at, (seq, _)) in self.disk.iter_mut().flat_map(|disk| &mut disk.unsynced).enumerate() {
            commits.push(*seq);
            *seq = at as u64 + 1;
        }
        self.machine.forget_figures(&commits);
    }

    fn effects(&mut self, world: &World, output: &mut Output) {
        while let Some(effect) = self.machine.poll_effect() {
            output.active = true;
            match effect {
                Effect::Persist { seq, batch, .. } => self.persist(seq, batch),
                Effect::Reply { to, frame } | Effect::Ask { to, frame, .. } => {
                    note(&frame, output);
                    let Some(to) = world.party(to) else { continue };
                    output.sent.push(Envelope { from: REGISTRY, to, body: Body::Registry(frame.to_bytes()) });
                }
                Effect::Event(_) => {}
            }
        }
    }
}

/// What the Registry says of decisions is what counts: it may have forgotten to tell an auditor in a crash.
fn note(frame: &RegistryFrame, output: &mut Output) {
    let placed = |signed: &Signed<Placement>| {
        let placement = signed.unverified().ok()?;
        let host = placement.host;
        Some(Note::Placed { placement: Box::new(placement), host })
    };
    let aborted = |answer: &Answer| match answer {
        Answer::Lease(_) => None,
        Answer::Aborted(signed) => Some(Note::Aborted { mig: signed.unverified().ok()?.ids.mig }),
        Answer::Outcome(signed) => {
            let Outcome { ids, decision, .. } = signed.unverified().ok()?;
            (decision == Decision::Aborted).then_some(Note::Aborted { mig: ids.mig })
        }
    };
    let notes = match frame {
        RegistryFrame::Placement(signed) => [placed(signed), None],
        RegistryFrame::Granted(granted) => [aborted(&granted.answer), placed(&granted.placement)],
        _ => [None, None],
    };
    output.notes.extend(notes.into_iter().flatten());
}
