#![no_main]

#[path = "../checks/probe_answer.rs"]
mod probe_answer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| probe_answer::check(bytes));
