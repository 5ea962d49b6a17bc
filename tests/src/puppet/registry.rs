//! A Registry that a test plays: the real machine behind real streams. Frames of chosen kinds are held back, for the test
//! to alter; anything else that the Registry's key can sign, the test can send.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wayfare_net::{Incoming, Protocol};
use wayfare_protocol::{
    ids::{HostId, ServiceId},
    migration::messages::{Placement, RegistryFrame},
    registry::{Effect, Registry, RegistryConfig},
    reject::Strict,
    suite::Dalek,
    time::{Micros, Now},
    trust::{JoinToken, Role},
    wire::Frame,
};

use crate::{
    hand::{Realm, entropy, now},
    peer::{Line, Peer, Whereabouts, Writer, within},
};

/// The machine.
pub type Machine = Registry<Dalek, Strict>;

type Query = Box<dyn FnOnce(&mut Machine, Now) + Send>;

enum Command {
    With(Query),
    Hold(BTreeSet<&'static str>, oneshot::Sender<()>),
    Send(HostId, Vec<u8>, oneshot::Sender<()>),
}

/// A Registry in the test's hand.
pub struct PuppetRegistry {
    /// Its key and how others know it.
    pub realm: Realm,
    commands: mpsc::Sender<Command>,
    held: mpsc::Receiver<(HostId, RegistryFrame)>,
    /// Kept for as long as the Registry runs.
    peer: Peer,
}

impl PuppetRegistry {
    /// Starts one.
    pub async fn start(seed: u8) -> Self {
        let peer = Peer::start(seed).await;
        let config = RegistryConfig::new::<Dalek>(peer.secret.clone(), peer.net.listen_addresses());
        let machine = Machine::new(config);
        let realm = Realm::new(machine.id(), peer.secret.clone(), machine.anchor());
        let incoming = peer.net.accept(Protocol::Registry).unwrap();
        let (commands, queue) = mpsc::channel(16);
        let (holding, held) = mpsc::channel(64);
        let task = Task { machine, writers: BTreeMap::new(), hold: BTreeSet::new(), holding };
        tokio::spawn(task.run(incoming, queue));
        Self { realm, commands, held, peer }
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        self.peer.whereabouts()
    }

    /// Runs `query` on the machine.
    pub async fn with<T: Send + 'static>(&self, query: impl FnOnce(&mut Machine, Now) -> T + Send + 'static) -> T {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |machine, now| {
            let _ = reply.send(query(machine, now));
        });
        self.commands.send(Command::With(query)).await.unwrap_or_else(|_| panic!("the puppet registry has ended"));
        within("the puppet registry", answer).await.unwrap()
    }

    /// Permission to join.
    pub async fn join_token(&self, name: &str, role: Role) -> JoinToken {
        let name = name.to_owned();
        let lifetime = Micros::from_secs(3600);
        self.with(move |machine, now| machine.create_join_token(now, &mut entropy(), &name, role, lifetime))
            .await
            .unwrap()
    }

    /// The record of a service.
    pub async fn placement(&self, service: ServiceId) -> Option<Placement> {
        self.with(move |machine, _| machine.placement(service).cloned()).await
    }

    /// From now on, frames of these names wait for [`held`](Self::held) instead of being sent.
    pub async fn hold(&self, names: &[&'static str]) {
        let (reply, answer) = oneshot::channel();
        let command = Command::Hold(names.iter().copied().collect(), reply);
        self.commands.send(command).await.unwrap_or_else(|_| panic!("the puppet registry has ended"));
        answer.await.unwrap();
    }

    /// The next frame to `to` that was held back; those to others are sent now.
    pub async fn held(&mut self, to: HostId) -> RegistryFrame {
        loop {
            let (host, frame) = within("a held frame", self.held.recv()).await.unwrap();
            if host == to {
                return frame;
            }
            self.send(host, frame.to_bytes()).await;
        }
    }

    /// Opens a stream to `to`. What arrives on it, only the test sees.
    pub async fn line(&self, to: &Whereabouts) -> Line {
        self.peer.line(to, Protocol::Registry).await
    }

    /// Sends bytes on the stream that `to` has to here.
    pub async fn send(&self, to: HostId, bytes: Vec<u8>) {
        let (reply, answer) = oneshot::channel();
        let command = Command::Send(to, bytes, reply);
        self.commands.send(command).await.unwrap_or_else(|_| panic!("the puppet registry has ended"));
        answer.await.unwrap();
    }
}

struct Task {
    machine: Machine,
    /// The newest stream of each peer.
    writers: BTreeMap<HostId, Writer>,
    hold: BTreeSet<&'static str>,
    holding: mpsc::Sender<(HostId, RegistryFrame)>,
}

impl Task {
    async fn run(mut self, mut incoming: mpsc::Receiver<Incoming>, mut commands: mpsc::Receiver<Command>) {
        let (frames, mut arriving) = mpsc::channel::<(HostId, Bytes)>(64);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command).await,
                    None => return,
                },
                Some((peer, stream)) = incoming.recv() => {
                    let (mut reader, writer) = Line::new(stream, Protocol::Registry).split();
                    self.writers.insert(peer, writer);
                    let frames = frames.clone();
                    tokio::spawn(async move {
                        while let Ok(bytes) = reader.read().await {
                            if frames.send((peer, bytes)).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                Some((peer, bytes)) = arriving.recv() => {
                    // What it refuses is in its counters.
                    let _ = self.machine.handle_frame(now(), &mut entropy(), peer, &bytes);
                }
            }
            self.carry_out().await;
        }
    }

    async fn handle_command(&mut self, command: Command) {
        match command {
            Command::With(query) => query(&mut self.machine, now()),
            Command::Hold(names, done) => {
                self.hold = names;
                let _ = done.send(());
            }
            Command::Send(to, bytes, done) => {
                self.send(to, &bytes).await;
                let _ = done.send(());
            }
        }
    }

    async fn send(&mut self, to: HostId, bytes: &[u8]) {
        if let Some(writer) = self.writers.get_mut(&to) {
            let _ = within("room for a frame", writer.send(bytes)).await;
        }
    }

    async fn carry_out(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Persist { seq, .. } => self.machine.handle_synced(seq),
                Effect::Reply { to, frame } if self.hold.contains(frame.name()) => {
                    let _ = self.holding.send((to, frame)).await;
                }
                Effect::Reply { to, frame } | Effect::Ask { to, frame, .. } => self.send(to, &frame.to_bytes()).await,
                Effect::Event(_) => {}
            }
        }
    }
}
