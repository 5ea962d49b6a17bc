//! Deadlines to a tenth of a millisecond: tokio's own timers tick once a millisecond and round up, which on a 1 ms link
//! would double the latency. One thread sleeps until the next deadline and wakes the tasks that are due.
//!
//! Every [`Sleep`] holds at most one entry and takes it away when dropped, so what waits is bounded by what sleeps.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

/// A handle on the timer thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub struct Timer(Arc<Owner>);

#[derive(Debug)]
struct Owner(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By deadline, then by the order of asking.
    waiting: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
    closed: bool,
}

impl Timer {
    /// Starts the timer thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let run = Arc::clone(&shared);
        thread::Builder::new().name("sim-net-timer".to_owned()).spawn(move || run.run())?;
        Ok(Self(Arc::new(Owner(shared))))
    }

    /// Completes at `deadline` or shortly after it, never before. Dropping it loses nothing.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { shared: Arc::clone(&self.0.0), deadline, id: None }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let Some(first) = state.waiting.first_entry() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let deadline = first.key().0;
            if deadline > now {
                let waited = self.changed.wait_timeout(state, deadline - now);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let waker = first.remove();
            drop(state);
            waker.wake();
            state = self.lock();
        }
    }
}

/// A future that completes at its deadline.
#[derive(Debug)]
pub struct Sleep {
    shared: Arc<Shared>,
    deadline: Instant,
    id: Option<u64>,
}

impl Sleep {
    /// The time at which it completes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let id = *self.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        let key = (self.deadline, id);
        state.waiting.insert(key, cx.waker().clone());
        let is_first = state.waiting.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        if is_first {
            shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.lock().waiting.remove(&(self.deadline, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn wakes_in_order_of_deadlines_and_never_early() {
        let timer = Timer::start().unwrap();
        let start = Instant::now();
        let (sender, mut order) = tokio::sync::mpsc::channel(8);
        for ms in [9, 1, 5, 0, 7, 3] {
            let (sleep, sender) = (timer.sleep_until(start + Duration::from_millis(ms)), sender.clone());
            tokio::spawn(async move {
                sleep.await;
                assert!(start.elapsed() >= Duration::from_millis(ms));
                sender.send(ms).await.unwrap();
            });
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(ms) = order.recv().await {
            seen.push(ms);
        }
        assert_eq!(seen, [0, 1, 3, 5, 7, 9]);
    }

    #[tokio::test]
    async fn a_dropped_sleep_leaves_nothing_behind() {
        let timer = Timer::start().unwrap();
        let mut sleep = timer.sleep_until(Instant::now() + Duration::from_secs(3600));
        assert!(futures::poll!(&mut sleep).is_pending());
        assert_eq!(timer.0.0.lock().waiting.len(), 1);
        drop(sleep);
        assert_eq!(timer.0.0.lock().waiting.len(), 0);
    }
}
