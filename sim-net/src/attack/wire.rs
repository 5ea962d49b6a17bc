//! A network in the attacker's hand: whoever connects to its address passes through here to the process behind it. It can
//! read nothing, since it has no key; it can alter, answer itself, and remember.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// Bytes that are passed on at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of a connection that are remembered.
const RECORDED_BYTES_MAX: usize = 64 * 1024;
/// How many bytes come before the last message of the first handshake: the only one of it that is encrypted.
const EARLY_BYTES: u64 = 40;
/// How many bytes the handshakes of a connection take at most, in each direction.
const HANDSHAKE_BYTES: u64 = 2048;
/// After an error that is not a connection's.
const PAUSE: Duration = Duration::from_millis(10);

/// What becomes of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    #[default]
    Pass,
    /// New connections end up here instead.
    Divert(SocketAddr),
    /// One byte of each new connection is changed, while it shakes hands.
    FlipEarly,
    /// One byte of each connection is changed, once it carries frames.
    FlipLate,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    recorded: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    behind: SocketAddr,
    state: Mutex<State>,
    connections: AtomicU64,
    flipped: AtomicU64,
    /// Connections that the process behind ended.
    ended_behind: AtomicU64,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wire. Dropping it ends what passes.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Between whoever connects to `address` and `behind`.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(address: SocketAddr, behind: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behind,
            state: Mutex::default(),
            connections: AtomicU64::new(0),
            flipped: AtomicU64::new(0),
            ended_behind: AtomicU64::new(0),
        });
        let passing = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(open.spawn(pass(client, Arc::clone(&passing)))),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.shared.state().mode = mode;
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes were changed so far.
    pub fn flipped(&self) -> u64 {
        self.shared.flipped.load(Ordering::SeqCst)
    }

    /// How many connections the process behind has ended so far.
    pub fn ended_behind(&self) -> u64 {
        self.shared.ended_behind.load(Ordering::SeqCst)
    }

    /// The first bytes that the newest connection brought, as they came.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.state().recorded.clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until one end closes; the other learns of it at once.
async fn pass(client: TcpStream, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let mode = shared.state().mode;
    let to = if let Mode::Divert(to) = mode { to } else { shared.behind };
    let Ok(server) = TcpStream::connect(to).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    shared.state().recorded.clear();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = carry(from_client, to_server, Some(&shared)) => {}
        () = carry(from_server, to_client, None) => {
            if to == shared.behind {
                shared.ended_behind.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// Passes bytes on; those to the process behind are remembered, and altered as the mode says.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, alter: Option<&Arc<Shared>>) {
    let (mut chunk, mut passed, mut flipped) = (vec![0; CHUNK_BYTES], 0_u64, false);
    loop {
        let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
        let Some(bytes) = chunk.get_mut(..read) else { return };
        if let Some(shared) = alter {
            let mut state = shared.state();
            let room = RECORDED_BYTES_MAX.saturating_sub(state.recorded.len()).min(read);
            state.recorded.extend_from_slice(bytes.get(..room).unwrap_or_default());
            let now = match state.mode {
                Mode::FlipEarly => (EARLY_BYTES..HANDSHAKE_BYTES).contains(&passed),
                Mode::FlipLate => passed > HANDSHAKE_BYTES,
                Mode::Pass | Mode::Divert(_) => false,
            };
            if now
                && !flipped
                && let Some(last) = bytes.last_mut()
            {
                *last ^= 1;
                flipped = true;
                shared.flipped.fetch_add(1, Ordering::SeqCst);
            }
        }
        passed += read as u64;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
