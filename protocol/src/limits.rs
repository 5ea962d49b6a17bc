//! Every bound of the protocol, and what happens at it.

use crate::{quota::Rate, time::Micros};

/// Largest control frame on any stream, before decoding. Larger: the stream is closed.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest client request or response, headers and body. Larger: 413 at the gateway, an error response at the host.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest frame on a request stream: one request and its numbering.
pub const CLIENT_FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX + 1024;
/// Plaintext bytes of one state record at most. Larger: the transfer is rejected.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Largest frame on a state stream: one sealed record.
pub const STATE_FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + 1024;
/// Largest service module. Larger: refused at deploy time.
pub const MODULE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest advert as gossiped. Larger: dropped by the mesh.
pub const ADVERT_BYTES_MAX: usize = 4096;

/// Addresses in an advert. More: rejected.
pub const ADDRESSES_MAX: usize = 8;
/// Characters of an address, a name, a region or a domain. More: rejected.
pub const TEXT_BYTES_MAX: usize = 128;
/// Entries of each list of a manifest. More: rejected.
pub const POLICY_ENTRIES_MAX: usize = 64;
/// Suites offered in message 4. More: rejected.
pub const SUITES_MAX: usize = 8;

/// Adverts kept by a node, one per host. At the limit, the one that expires first makes room.
pub const ADVERTS_MAX: usize = 1024;
/// How long an advert lives at most, whatever it says of itself.
pub const ADVERT_LIFETIME_MAX: Micros = Micros::from_secs(60);
/// How often a cloud advertises.
pub const ADVERT_INTERVAL: Micros = Micros::from_secs(10);
/// How often a cloud's adverts are taken and passed on; beyond that they are dropped. It advertises every [`ADVERT_INTERVAL`], and
/// once more when its peers, addresses or room change.
pub const ADVERT_RATE: Rate = Rate::new(5, 50);
/// How many lines of a log others can provoke; the rest is counted.
pub const COMPLAINT_RATE: Rate = Rate::new(1, 20);
/// How far two machines' wall clocks may differ: added to every expiry check.
pub const CLOCK_SKEW: Micros = Micros::from_secs(5);

/// How long a verdict (3, 6) holds.
pub const VERDICT_LIFETIME: Micros = Micros::from_secs(60);
/// How long a placement may be served without renewal, unless the Registry is configured otherwise.
pub const LEASE: Micros = Micros::from_secs(30);
/// The shortest and the longest lease that a Registry may be configured to give.
pub const LEASE_MIN: Micros = Micros::from_secs(2);
/// See [`LEASE_MIN`].
pub const LEASE_MAX: Micros = Micros::from_secs(3600);

/// How much longer than its holder the Registry counts the default lease, for clocks that drift.
pub const LEASE_DRIFT: Micros = Micros(LEASE.0 / 10);

/// How long the Registry counts a lease: a tenth longer than its holder does, for clocks that drift.
pub const fn lease_counted(lease: Micros) -> Micros {
    Micros(lease.0.saturating_add(lease.0 / 10))
}

/// How long after it last asked the holder renews: after a third of the lease. One that allows nothing, of a revoked host, is
/// asked about now and then.
pub const fn renew_interval(lease: Micros) -> Micros {
    if lease.0 == 0 { Micros(LEASE.0 / 3) } else { Micros(lease.0 / 3) }
}

/// Services on one host. More: refused.
pub const SERVICES_MAX: usize = 256;
/// Half-open incoming migrations per peer (attack 6). More: refused.
pub const HALF_OPEN_PER_PEER_MAX: usize = 4;
/// Half-open incoming migrations in all. More: refused.
pub const HALF_OPEN_MAX: usize = 32;
/// How long either side waits for the other's next message before consent; then it gives up.
pub const STEP_TIMEOUT: Micros = Micros::from_secs(10);
/// How long records may be on their way, in all, however often they are acknowledged: nobody keeps a service frozen, or a
/// place reserved, by acknowledging slowly.
pub const TRANSFER_MAX: Micros = Micros::from_secs(600);
/// How long a frozen source waits for the decision before it asks with RECLAIM.
pub const RECLAIM_AFTER: Micros = Micros::from_secs(5);
/// First and longest pause between repeats of an unanswered 10, RECLAIM or RENEW.
pub const RETRY_FIRST: Micros = Micros::from_millis(500);
/// See [`RETRY_FIRST`].
pub const RETRY_MAX: Micros = Micros::from_secs(15);
/// Finished migrations that a host or the Registry remembers, so that replays are recognised. The oldest go first.
pub const FINISHED_MAX: usize = 4096;
/// Migration histories kept for people (`wayfare migrations`, `trace`).
pub const HISTORY_MAX: usize = 256;

/// How often a host asks for its lease while the record does not name the manifest that it serves since an update.
pub const CONFIRM_AFTER: Micros = Micros::from_secs(1);
/// How far ahead an order's expiry may lie. Further: refused.
pub const ORDER_LIFETIME_MAX: Micros = Micros::from_secs(3600);
/// Removed services that a host remembers, to show them to a restored Registry. The oldest go first.
pub const REMOVED_MAX: usize = 1024;
/// Removed services that a Registry remembers. The oldest go first: a host that comes back after that gets no lease, but
/// keeps what it has.
pub const TOMBSTONES_MAX: usize = 100_000;
/// By how much a service's era is raised when it is removed while nobody knows how often it moved since a backup.
pub const REMOVED_ERA_GAP: u64 = 1 << 32;

/// Services that leave a drained host at the same time, at most: as many as one peer may have half open at another.
pub const DRAIN_AT_ONCE: usize = HALF_OPEN_PER_PEER_MAX;
/// How often a drained host looks again which of its services can leave, if nothing happens that it must look at.
pub const DRAIN_LOOK: Micros = Micros::from_millis(500);
/// Decisions of placement kept for people, for each service (`wayfare why`). The oldest go.
pub const DECISIONS_KEPT: usize = 8;
/// Candidates kept of each of them. The farthest are left out.
pub const DECISION_ROWS_KEPT: usize = 16;
/// Where departed services went: how many of them a host remembers. The oldest go first.
pub const DEPARTED_MAX: usize = 1024;
/// Bytes of a service's request log from which on a new image replaces it, unless the image is larger: then as many as that.
pub const IMAGE_LOG_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Bytes of all request logs of one host from which on the longest gets its image at once.
pub const HOST_LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a logged request counts beside its bytes.
pub const LOG_ENTRY_OVERHEAD: u64 = 256;
/// A host's journal is compacted beyond this and twice what is live in it.
pub const COMPACT_JOURNAL_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// How long the requests of a service that has left stay in the journal: then it is compacted.
pub const PURGE_AFTER: Micros = Micros::from_secs(60);
/// Largest journal entry: a logged request with what it read of the outside, or a snapshot.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Client sessions per service. More: refused as busy.
pub const SESSIONS_MAX: usize = 1024;
/// Responses kept per session. At the limit: busy, until the client acknowledges.
pub const KEPT_RESPONSES_MAX: usize = 1024;
/// Bytes of responses kept per session. At the limit: busy.
pub const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests that wait at a host for one service, running or frozen. More: busy.
pub const QUEUED_REQUESTS_MAX: usize = 1024;
/// Bytes of the requests that wait at a host for one service. More: busy.
pub const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The share of [`QUEUED_REQUESTS_MAX`] and of [`QUEUED_BYTES_MAX`] of one gateway, where so many are connected: what is left for
/// another is as much. More: busy.
pub const fn queued_share(max: usize, gateways: usize) -> usize {
    max / (gateways + 1)
}
/// Requests in flight at a gateway for one service. More: 503 to the client.
pub const PENDING_REQUESTS_MAX: usize = 1024;
/// How long a gateway holds a request before it answers 504.
pub const REQUEST_TIMEOUT: Micros = Micros::from_secs(60);

/// Candidates in one latency report. More: rejected.
pub const REPORT_ENTRIES_MAX: usize = 64;
/// How long a measured round trip counts for a decision.
pub const RTT_FRESH: Micros = Micros::from_secs(15);
/// How long a measured round trip is shown to people, with its age.
pub const RTT_SHOWN: Micros = Micros::from_secs(300);

/// Join tokens outstanding at a Registry. More: refused until some are used or expire.
pub const JOIN_TOKENS_MAX: usize = 4096;
/// Enrolled hosts at one Registry. More: refused.
pub const HOSTS_MAX: usize = 100_000;
/// Registered services at one Registry. More: refused.
pub const REGISTERED_MAX: usize = 100_000;

/// Entries of the audit log under one signature. More: another block.
pub const AUDIT_BLOCK_ENTRIES_MAX: usize = 1024;
/// Bytes of such a block: each entry is below 1 KiB. More: malformed.
pub const AUDIT_BLOCK_BYTES_MAX: usize = AUDIT_BLOCK_ENTRIES_MAX * 1024 + 512;

/// Bytes of what a host shows a restored Registry in one part, and of the manifests that go with it. More: another part.
pub const SHOWN_BYTES_MAX: usize = 24 * 1024;
/// Parts in which a host shows what it has. More: rejected.
pub const SHOWN_PARTS_MAX: u32 = 4096;
/// How long a restored Registry, which gives leases of this length, decides nothing: the longest lease that it may have given
/// and forgotten.
pub const fn recovery_window(lease: Micros) -> Micros {
    Micros(lease_counted(lease).0.saturating_add(CLOCK_SKEW.0))
}

/// [`recovery_window`] of the default lease.
pub const RECOVERY_WINDOW: Micros = recovery_window(LEASE);
/// How often a restored Registry asks one host to show what it has.
pub const SHOW_INTERVAL: Micros = Micros::from_secs(5);
/// How often, once the window is over, it asks the hosts that services still wait for.
pub const SHOW_INTERVAL_LATER: Micros = Micros::from_secs(60);

/// Bytes of a control's name: the longest of NIST SP 800-53 has 9, with an objective's suffix some more.
pub const CONTROL_BYTES_MAX: usize = 64;
/// Controls of a baseline: NIST SP 800-53 has 1,189 with all enhancements.
pub const CONTROLS_MAX: usize = 2048;
/// Measurements of a baseline, and values of all of them together.
pub const MEASUREMENTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_twice_before_it_ends_and_counted_longer_than_held() {
        for lease in [LEASE_MIN, LEASE, LEASE_MAX] {
            assert!(renew_interval(lease).times(3) <= lease && renew_interval(lease) >= RETRY_FIRST);
            assert!(lease_counted(lease) > lease);
        }
        assert_eq!(lease_counted(LEASE), Micros::from_secs(33));
        assert!(renew_interval(Micros::ZERO) > Micros::from_secs(1), "a revoked host does not ask without a pause");
    }
}
