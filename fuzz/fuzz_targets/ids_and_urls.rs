#![no_main]

#[path = "../checks/ids_and_urls.rs"]
mod ids_and_urls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ids_and_urls::check(data));
