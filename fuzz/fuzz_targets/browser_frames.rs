#![no_main]

#[path = "../checks/browser_frames.rs"]
mod browser_frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| browser_frames::check(data));
