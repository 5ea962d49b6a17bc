//! Where the frames of a [`Pool`](crate::Pool)'s streams wait for their owner: each stream in a queue of its own, and the
//! queues take turns. So whoever sends much waits behind itself, and a frame of anybody else waits for one of each of the
//! others at most.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::stream::{SelectAll, Stream};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::limits::{STREAM_EVENTS_MAX, STREAM_QUEUED_BYTES};
use crate::pool::PoolEvent;

/// An event, and the room that its bytes take up in its stream's queue.
type Queued = (PoolEvent, Option<OwnedSemaphorePermit>);

/// One stream's end: it waits while its own queue is full, whatever is in the others.
pub(crate) struct Outlet {
    events: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl Outlet {
    /// Queues an event. False: the owner has gone.
    pub(crate) async fn send(&self, event: PoolEvent) -> bool {
        let bytes = match &event {
            PoolEvent::Frame { bytes, .. } => bytes.len().min(self.bytes_max),
            PoolEvent::Opened { .. } | PoolEvent::Closed { .. } | PoolEvent::Unsent { .. } => 0,
        };
        let room = match u32::try_from(bytes) {
            Ok(0) | Err(_) => None,
            Ok(bytes) => Arc::clone(&self.room).acquire_many_owned(bytes).await.ok(),
        };
        self.events.send((event, room)).await.is_ok()
    }
}

struct Queue(mpsc::Receiver<Queued>);

impl Stream for Queue {
    type Item = Queued;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Queued>> {
        self.0.poll_recv(context)
    }
}

/// What makes queues for new streams.
pub(crate) struct Inlet {
    queues: mpsc::Sender<Queue>,
}

impl Inlet {
    /// A queue for a stream whose frames have up to `cap` bytes; `None` if too many queues are new at the same time.
    pub(crate) fn outlet(&self, cap: usize) -> Option<Outlet> {
        let bytes_max = cap.max(STREAM_QUEUED_BYTES);
        let (events, queue) = mpsc::channel(STREAM_EVENTS_MAX);
        self.queues.try_send(Queue(queue)).ok()?;
        Some(Outlet { events, room: Arc::new(Semaphore::new(bytes_max)), bytes_max })
    }
}

/// What happened on the streams of a [`Pool`](crate::Pool), each in turn.
pub struct PoolEvents {
    new: mpsc::Receiver<Queue>,
    streams: SelectAll<Queue>,
}

impl std::fmt::Debug for PoolEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolEvents").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

/// Both ends. At most `queues_max` queues may be new at the same time.
pub(crate) fn inbox(queues_max: usize) -> (Inlet, PoolEvents) {
    let (queues, new) = mpsc::channel(queues_max);
    (Inlet { queues }, PoolEvents { new, streams: SelectAll::new() })
}

impl PoolEvents {
    /// The next event; `None` once the pool and all its streams have gone. Cancel safe: what was not returned stays queued.
    pub async fn recv(&mut self) -> Option<PoolEvent> {
        let mut pool_lives = true;
        loop {
            tokio::select! {
                biased;
                queue = self.new.recv(), if pool_lives => match queue {
                    Some(queue) => self.streams.push(queue),
                    None => pool_lives = false,
                },
                Some((event, _room)) = self.streams.next(), if !self.streams.is_empty() => return Some(event),
                else => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wayfare_protocol::ids::HostId;

    use super::*;

    fn frame(id: u64, len: usize) -> PoolEvent {
        PoolEvent::Frame { peer: HostId([1; 32]), id, bytes: Bytes::from(vec![1; len]) }
    }

    fn id(event: Option<PoolEvent>) -> u64 {
        match event {
            Some(PoolEvent::Frame { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_has_queued_much_takes_its_turn_like_everybody() {
        let (inlet, mut events) = inbox(4);
        let (flood, honest) = (inlet.outlet(100).unwrap(), inlet.outlet(100).unwrap());
        for _ in 0..STREAM_EVENTS_MAX {
            assert!(flood.send(frame(1, 10)).await);
        }
        assert_eq!(id(events.recv().await), 1);
        assert!(honest.send(frame(2, 10)).await);
        let next = [id(events.recv().await), id(events.recv().await)];
        assert!(next.contains(&2), "{next:?}");
        drop((inlet, flood, honest));
        let left = async {
            let mut left = 0;
            while events.recv().await.is_some() {
                left += 1;
            }
            left
        };
        assert_eq!(left.await, STREAM_EVENTS_MAX - 2);
    }

    #[tokio::test]
    async fn a_stream_waits_when_its_bytes_fill_its_queue_and_holds_up_nobody_else() {
        let (inlet, mut events) = inbox(4);
        let (flood, honest) = (inlet.outlet(STREAM_QUEUED_BYTES).unwrap(), inlet.outlet(100).unwrap());
        assert!(flood.send(frame(1, STREAM_QUEUED_BYTES)).await);
        let mut full = std::pin::pin!(flood.send(frame(1, 1)));
        assert!(futures::poll!(&mut full).is_pending());
        assert!(honest.send(frame(2, 10)).await);
        // A frame that is as long as all of it is not stuck for ever.
        let mut seen = vec![id(events.recv().await), id(events.recv().await)];
        assert!(full.await);
        seen.push(id(events.recv().await));
        seen.sort_unstable();
        assert_eq!(seen, [1, 1, 2]);
    }
}
