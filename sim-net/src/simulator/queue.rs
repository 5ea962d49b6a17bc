//! What happens when: a heap of events by time, and by the order in which they were made where times are equal.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

struct Slot<E> {
    at: u64,
    tie: u64,
    event: E,
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl<E> Eq for Slot<E> {}

impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Slot<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// Events to come.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Slot<E>>>,
    made: u64,
}

impl<E> Queue<E> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), made: 0 }
    }

    /// `event` happens at true time `at`, µs.
    pub(super) fn push(&mut self, at: u64, event: E) {
        self.made += 1;
        self.heap.push(Reverse(Slot { at, tie: self.made, event }));
    }

    /// What happens next, and when.
    pub(super) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|Reverse(slot)| (slot.at, slot.event))
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_ties_as_they_were_made() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(at, event);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, ['a', 'b', 'c', 'd']);
        assert_eq!(queue.len(), 0);
    }
}
