#![no_main]

#[path = "../checks/gateway_frames.rs"]
mod gateway_frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_frames::check(data));
