#![no_main]

#[path = "../checks/thinking.rs"]
mod thinking;

libfuzzer_sys::fuzz_target!(|data: &[u8]| thinking::check(data));
