#![no_main]

#[path = "../checks/handover_message.rs"]
mod handover_message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover_message::check(bytes));
