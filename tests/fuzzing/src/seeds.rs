//! Inputs to begin with, made from the pinned bytes of the wire and the journals (`protocol/tests/vectors.txt`).

use wayfare_protocol::{
    gateway::messages::request_hash,
    ids::{ClientId, HostId},
    placement::Memory,
    reject::Strict,
    session::Sessions,
    wire,
};

use crate::decoders;

const VECTORS: &str = include_str!("../../../protocol/tests/vectors.txt");

/// Every pinned vector: its name and its bytes.
pub fn vectors() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    VECTORS.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, hex) = line.split_once(": ").expect("`name: hex`");
        (name, unhex(hex))
    })
}

/// The bytes that `hex` stands for.
pub fn unhex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The vectors whose names begin so.
pub fn of(prefix: &str) -> Vec<Vec<u8>> {
    vectors().filter(|(name, _)| name.starts_with(prefix)).map(|(_, bytes)| bytes).collect()
}

/// What is signed in any of the vectors, behind the number of its message. A signed message begins with its length.
pub fn messages() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for (_, bytes) in vectors() {
        for at in 0..bytes.len().saturating_sub(8) {
            let length = u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
            let Some(body) = usize::try_from(length).ok().and_then(|length| bytes[at + 8..].get(..length)) else {
                continue;
            };
            for number in decoders::fitting(body).filter(|_| body.len() >= 16) {
                let seed = [&[number], body].concat();
                if !found.contains(&seed) {
                    found.push(seed);
                }
            }
        }
    }
    found
}

/// The manifests among them.
pub fn manifests() -> Vec<Vec<u8>> {
    let number = decoders::messages().position(|name| name == "Manifest").expect("it is signed") as u8;
    messages().into_iter().filter(|seed| seed[0] == number).map(|seed| seed[1..].to_vec()).collect()
}

/// The pinned token as text, and as the bytes in it.
pub fn join_tokens() -> Vec<Vec<u8>> {
    let texts = of("join token (text)");
    let bytes = texts.iter().filter_map(|text| decoders::token_bytes(text));
    texts.iter().cloned().chain(bytes).collect()
}

/// Identifiers and words.
pub fn texts() -> Vec<Vec<u8>> {
    let ids = [ClientId([7; 32]).to_string(), ClientId([0; 32]).to_string(), HostId([255; 32]).to_string()];
    let words = ["cloud", "home", "gateway", "never", "nearest", "8e03978e-40d5"].map(str::to_owned);
    ids.into_iter().chain(words).map(String::into_bytes).collect()
}

/// Client tables: an empty one, and one of several clients, with responses and somebody who has gone.
pub fn client_tables() -> Vec<Vec<u8>> {
    let mut table = Sessions::default();
    let empty = table.to_bytes();
    for client in 1..4 {
        let (id, gateway) = (ClientId([client; 32]), HostId([9; 32]));
        table.open(id, gateway).unwrap();
        for sequence in 0..u64::from(client) {
            table.admit::<Strict>(id, sequence, request_hash(b"GET /"), 0).unwrap();
            table.begin(id, sequence).unwrap();
            table.complete(id, sequence, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).unwrap();
        }
    }
    let full = table.to_bytes();
    for _ in 0..4 {
        table.touch(ClientId([1; 32]));
        table.sweep();
    }
    vec![empty, full, table.to_bytes()]
}

/// Client tables with what was learnt of the users.
pub fn belongings() -> Vec<Vec<u8>> {
    let memory = wire::encode(&Memory::default());
    let ordered = [&9u64.to_le_bytes()[..], &[3; 32], &[1]].concat();
    let tables = client_tables().into_iter().map(|table| [wire::encode(&table), memory.clone()].concat());
    tables.flat_map(|plain| [[&plain[..], &ordered].concat(), plain]).collect()
}

/// Bytes of which a story is made: none, and some of each kind.
pub fn stories() -> Vec<Vec<u8>> {
    let rising = (0..=255u8).cycle();
    let strides = [1, 3, 7, 11, 29, 53, 101].map(|stride| rising.clone().step_by(stride).take(256).collect());
    [vec![], vec![0; 64]].into_iter().chain(strides).collect()
}

/// Journals of none and of some entries.
pub fn journal_files() -> Vec<Vec<u8>> {
    let stories = stories();
    let files = stories.iter().map(|story| crate::files::journal(&mut crate::input::Input::new(story)).0);
    files.chain(stories.clone()).collect()
}
