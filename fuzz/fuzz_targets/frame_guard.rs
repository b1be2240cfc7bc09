#![no_main]

#[path = "../checks/frame_guard.rs"]
mod frame_guard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| frame_guard::check(data));
