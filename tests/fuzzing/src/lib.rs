//! What is fuzzed: for every decoder and every machine a function of bytes that panics if something does not hold.
//!
//! [`TARGETS`] lists them. `tests/fuzz` gives each to libFuzzer; `tests/replay.rs` here gives them their seeds, what was once
//! found, and random changes of both, in every `cargo test`.
//!
//! [`decoders`] and [`files`] take bytes as such. [`machines`] reads its input as a story: honest parties, and an attacker who
//! owns some keys, alters what they say, signs it anew, repeats it, drops it, and lets machines crash.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a harness fails by panicking")]

pub mod decoders;
pub mod files;
pub mod input;
pub mod machines;
pub mod quick;
pub mod seeds;
pub mod spans;
pub mod world;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its file in `tests/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Panics if something does not hold of `bytes`.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($module:ident::$name:ident from $seeds:expr;)*) => {
        /// Everything that is fuzzed.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $module::$name, seeds: $seeds },)*];
    };
}

targets! {
    decoders::registry_frame from || seeds::of("registry/");
    decoders::migrate_frame from || seeds::of("migrate/");
    decoders::state_frame from || seeds::of("state/");
    decoders::client_frame from || seeds::of("client/");
    decoders::gossip_frame from || seeds::of("gossip/");
    decoders::message from seeds::messages;
    decoders::manifest from seeds::manifests;
    decoders::join_token from seeds::join_tokens;
    decoders::text from seeds::texts;
    decoders::client_table from seeds::client_tables;
    decoders::belongings from seeds::belongings;
    decoders::state_records from seeds::stories;
    decoders::host_entry from || seeds::of("host journal ");
    decoders::gateway_entry from || seeds::of("gateway journal ");
    files::journal_file from seeds::journal_files;
    machines::source from seeds::stories;
    machines::target from seeds::stories;
    machines::bystander from seeds::stories;
    machines::gateway from seeds::stories;
    machines::registry from seeds::stories;
    machines::mesh from seeds::stories;
    machines::restart from seeds::stories;
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
