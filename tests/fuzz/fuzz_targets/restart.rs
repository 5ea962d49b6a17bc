#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wayfare_fuzzing::machines::restart(bytes));
