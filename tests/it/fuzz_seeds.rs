//! What the fuzzer checks, on its seeds: so the checks are compiled with the other tests, and what it has found once is
//! found again. `./test --fuzz` looks for more.
use std::path::Path;

#[path = "../../fuzz/checks/browser_frames.rs"]
mod browser_frames;
#[path = "../../fuzz/checks/frame_guard.rs"]
mod frame_guard;
#[path = "../../fuzz/checks/gateway_frames.rs"]
mod gateway_frames;
#[path = "../../fuzz/checks/ids_and_urls.rs"]
mod ids_and_urls;
#[path = "../../fuzz/checks/thinking.rs"]
mod thinking;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 5] = [
    ("browser_frames", browser_frames::check),
    ("frame_guard", frame_guard::check),
    ("gateway_frames", gateway_frames::check),
    ("ids_and_urls", ids_and_urls::check),
    ("thinking", thinking::check),
];

fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_seed_holds_and_every_target_has_some() {
    assert_eq!(names("seeds"), TARGETS.map(|(name, _)| name));
    assert_eq!(names("fuzz_targets"), TARGETS.map(|(name, _)| format!("{name}.rs")));
    for (target, check) in TARGETS {
        let seeds = names(&format!("seeds/{target}"));
        assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
        for seed in seeds {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target).join(&seed);
            let data = std::fs::read(path).unwrap();
            println!("{target}/{seed}");
            check(&data);
        }
    }
}
