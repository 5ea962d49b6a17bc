//! How requests wait for one service: each gateway has a share of the room, and gateways take turns.

use std::collections::VecDeque;

use super::hosted::Waiting;
use crate::{
    ids::HostId,
    limits::{QUEUED_BYTES_MAX, QUEUED_REQUESTS_MAX, queued_share},
};

/// Whether a request of `len` bytes from `gateway`, one of so many, may wait beside those of whom so many bytes wait already:
/// there is room, and the gateway has a share left.
pub(super) fn has_room(
    waiting: impl Iterator<Item = (HostId, usize)>,
    gateway: HostId,
    len: usize,
    gateways: usize,
) -> bool {
    let (mut all, mut own) = ((0, 0), (0, 0));
    for (whose, len) in waiting {
        all = (all.0 + 1, all.1 + len);
        if whose == gateway {
            own = (own.0 + 1, own.1 + len);
        }
    }
    let fits = |(requests, bytes): (usize, usize), share: fn(usize, usize) -> usize| {
        requests < share(QUEUED_REQUESTS_MAX, gateways) && bytes + len <= share(QUEUED_BYTES_MAX, gateways)
    };
    // One request of any size may always wait, so that a small share is a slow one and not none.
    fits(all, |max, _| max) && (own.0 == 0 || fits(own, queued_share))
}

/// Takes the next request: of another gateway than `served`, whose turn was the last, if there is one. Those of one gateway
/// keep their order.
pub(super) fn next_in_turn(queue: &mut VecDeque<Waiting>, served: &mut Option<HostId>) -> Option<Waiting> {
    let of_another = queue.iter().position(|waiting| Some(waiting.gateway) != *served);
    let next = queue.remove(of_another.unwrap_or(0))?;
    *served = Some(next.gateway);
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, Digest};

    const FLOOD: HostId = HostId([1; 32]);
    const HONEST: HostId = HostId([2; 32]);

    fn waiting(gateway: HostId, sequence: u64) -> Waiting {
        let (client, hash) = (ClientId([3; 32]), Digest([4; 32]));
        Waiting { client, gateway, sequence, hash, acked_below: 0, request: Vec::new() }
    }

    /// How many requests of this length a gateway gets in.
    fn taken(queue: &mut Vec<(HostId, usize)>, gateway: HostId, len: usize, gateways: usize) -> usize {
        let before = queue.len();
        while has_room(queue.iter().copied(), gateway, len, gateways) {
            queue.push((gateway, len));
        }
        queue.len() - before
    }

    #[test]
    fn one_gateway_cannot_take_the_room_of_another() {
        let mut queue = Vec::new();
        assert_eq!(taken(&mut queue, FLOOD, 10, 2), QUEUED_REQUESTS_MAX / 3);
        assert_eq!(taken(&mut queue, HONEST, 10, 2), QUEUED_REQUESTS_MAX / 3);
        let (mut queue, big) = (Vec::new(), 4 << 20);
        assert_eq!(taken(&mut queue, FLOOD, big, 1), QUEUED_BYTES_MAX / 2 / big);
        assert_eq!(taken(&mut queue, HONEST, big, 1), QUEUED_BYTES_MAX / 2 / big);
        // However many there are, each may have one wait.
        let many = (3..200).map(|n| (HostId([n; 32]), 10)).collect::<Vec<_>>();
        assert!(has_room(many.into_iter(), HONEST, big, 5000));
    }

    #[test]
    fn gateways_take_turns_and_keep_the_order_of_their_own() {
        let mut queue: VecDeque<Waiting> = (0..100).map(|number| waiting(FLOOD, number)).collect();
        queue.extend((0..2).map(|number| waiting(HONEST, number)));
        let (mut served, mut order) = (None, Vec::new());
        while let Some(next) = next_in_turn(&mut queue, &mut served) {
            order.push((next.gateway, next.sequence));
        }
        assert_eq!(order[..5], [(FLOOD, 0), (HONEST, 0), (FLOOD, 1), (HONEST, 1), (FLOOD, 2)]);
        assert!(order.len() == 102 && order[5..].is_sorted());
    }
}
