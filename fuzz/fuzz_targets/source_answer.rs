#![no_main]

#[path = "../checks/source_answer.rs"]
mod source_answer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| source_answer::check(bytes));
