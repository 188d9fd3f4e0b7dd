#![no_main]

#[path = "../checks/transit_record.rs"]
mod transit_record;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transit_record::check(bytes));
