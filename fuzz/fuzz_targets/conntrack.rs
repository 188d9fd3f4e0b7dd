#![no_main]

#[path = "../checks/conntrack.rs"]
mod conntrack;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conntrack::check(bytes));
