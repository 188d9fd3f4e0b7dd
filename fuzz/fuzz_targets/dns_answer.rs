#![no_main]

#[path = "../checks/dns_answer.rs"]
mod dns_answer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dns_answer::check(bytes));
