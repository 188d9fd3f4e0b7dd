#![no_main]

#[path = "../checks/sniff.rs"]
mod sniff;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sniff::check(bytes));
