//! The table's bytes: `magic ‖ version ‖ items`, each item `length: u32 ‖ canonical encoding`, so that nothing larger than
//! one response is decoded at a time. The bytes of a table are unique: order is fixed, and a decoder refuses any other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GATEWAY_SESSIONS_MAX, Kept, Session, Sessions, TABLE_BYTES_HARD, TOMBSTONES_MAX};
use crate::{
    ids::{ClientId, Digest, HostId},
    limits::{KEPT_RESPONSES_MAX, REQUEST_BYTES_MAX, SESSIONS_MAX},
    reject::Reject,
    wire::{self, Wire},
};

const MAGIC: [u8; 4] = *b"WFSE";
const VERSION: u8 = 1;

/// First item.
#[derive(Serialize, Deserialize)]
struct TableHeader {
    sessions: u32,
    tombstones: u32,
}

/// Starts a session; `kept` responses follow.
#[derive(Serialize, Deserialize)]
struct SessionHeader {
    client: ClientId,
    gateway: HostId,
    serial: u64,
    acked_below: u64,
    kept: u32,
}

/// One kept response.
#[derive(Serialize, Deserialize)]
struct KeptItem {
    sequence: u64,
    hash: Digest,
    #[serde(with = "crate::wire::bytes")]
    response: Vec<u8>,
}

/// One evicted client.
#[derive(Serialize, Deserialize)]
struct Tombstone(ClientId);

impl Wire for TableHeader {
    const LIMIT: usize = 8;
}
impl Wire for SessionHeader {
    const LIMIT: usize = 96;
}
impl Wire for KeptItem {
    const LIMIT: usize = REQUEST_BYTES_MAX + 64;
}
impl Wire for Tombstone {
    const LIMIT: usize = 32;
}

fn put<T: Wire>(bytes: &mut Vec<u8>, item: &T) {
    let item = wire::encode(item);
    // Every item is far below 4 GiB: the largest is a response, capped by `Sessions::complete`.
    bytes.extend_from_slice(&(item.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&item);
}

fn take<T: Wire>(bytes: &mut &[u8]) -> Result<T, Reject> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Reject::Malformed)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (item, rest) = rest.split_at_checked(length).ok_or(Reject::Malformed)?;
    *bytes = rest;
    wire::decode(item)
}

/// `Ok` if `next` comes after `last` in the only order allowed.
fn ascending<T: Ord + Copy>(last: &mut Option<T>, next: T) -> Result<(), Reject> {
    if last.is_some_and(|last| last >= next) {
        return Err(Reject::Malformed);
    }
    *last = Some(next);
    Ok(())
}

fn at_most(count: u32, limit: usize) -> Result<u32, Reject> {
    if count as usize > limit { Err(Reject::Full) } else { Ok(count) }
}

fn take_session(bytes: &mut &[u8]) -> Result<(ClientId, Session), Reject> {
    let header: SessionHeader = take(bytes)?;
    let mut session = Session { acked_below: header.acked_below, ..Session::new(header.gateway, header.serial) };
    let mut last = None;
    for _ in 0..at_most(header.kept, KEPT_RESPONSES_MAX)? {
        let item: KeptItem = take(bytes)?;
        ascending(&mut last, item.sequence)?;
        if item.sequence < header.acked_below || item.sequence == u64::MAX {
            return Err(Reject::Malformed);
        }
        if session.is_full() {
            return Err(Reject::Full);
        }
        let kept = Kept { hash: item.hash, response: item.response };
        session.kept_bytes += kept.cost();
        session.kept.insert(item.sequence, kept);
    }
    Ok((header.client, session))
}

impl Sessions {
    /// The canonical bytes of the table: open sessions with their kept responses, and tombstones; not what is running.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.kept_bytes + 128 * (self.open.len() + 1));
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        let header = TableHeader { sessions: self.open.len() as u32, tombstones: self.evictions.len() as u32 };
        put(&mut bytes, &header);
        for (client, session) in &self.open {
            let Session { gateway, serial, acked_below, .. } = *session;
            let kept = session.kept.len() as u32;
            put(&mut bytes, &SessionHeader { client: *client, gateway, serial, acked_below, kept });
            for (sequence, Kept { hash, response }) in &session.kept {
                put(&mut bytes, &KeptItem { sequence: *sequence, hash: *hash, response: response.clone() });
            }
        }
        for client in &self.evictions {
            put(&mut bytes, &Tombstone(*client));
        }
        bytes
    }

    /// Reads a captured table. Nothing runs in it, and every session counts as used.
    ///
    /// # Errors
    /// [`Reject::Malformed`], [`Reject::WrongVersion`], [`Reject::FrameTooLarge`] for an item, [`Reject::Full`] for a
    /// table beyond the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Reject> {
        let mut rest = match bytes {
            [m0, m1, m2, m3, version, rest @ ..] if [*m0, *m1, *m2, *m3] == MAGIC => {
                if *version != VERSION {
                    return Err(Reject::WrongVersion);
                }
                rest
            }
            _ => return Err(Reject::Malformed),
        };
        let header: TableHeader = take(&mut rest)?;
        let mut table = Self::default();
        let mut last = None;
        let mut gateways: BTreeMap<HostId, usize> = BTreeMap::new();
        for _ in 0..at_most(header.sessions, SESSIONS_MAX)? {
            let (client, session) = take_session(&mut rest)?;
            ascending(&mut last, client)?;
            table.kept_bytes += session.kept_bytes;
            let own = gateways.entry(session.gateway).or_insert(0);
            *own += 1;
            if table.kept_bytes > TABLE_BYTES_HARD || *own > GATEWAY_SESSIONS_MAX {
                return Err(Reject::Full);
            }
            table.open.insert(client, session);
        }
        for _ in 0..at_most(header.tombstones, TOMBSTONES_MAX)? {
            let Tombstone(client) = take(&mut rest)?;
            if table.open.contains_key(&client) || !table.evicted.insert(client) {
                return Err(Reject::Malformed);
            }
            table.evictions.push_back(client);
        }
        if rest.is_empty() { Ok(table) } else { Err(Reject::Malformed) }
    }
}
