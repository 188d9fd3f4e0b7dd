#![no_main]

#[path = "../checks/admin_request.rs"]
mod admin_request;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| admin_request::check(bytes));
