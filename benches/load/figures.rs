//! How figures are gathered and printed.
use std::time::Duration;

use rustix::fs::{fdatasync, open};
use tokio::time::Instant;

/// Prints a line of the report.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Says where the figures come from.
pub(crate) fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown")
        .trim_start_matches(['\t', ' ', ':']);
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    say(&format!("{cores} x {model}, Linux {}, load before {}", kernel.trim(), load.split(' ').next().unwrap_or("?")));
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

/// Processor time that a process has used so far.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let field = |index: usize| after_name.split_whitespace().nth(index).and_then(|text| text.parse::<u64>().ok());
    // User and system time in hundredths of a second.
    Duration::from_millis((field(11).expect("a number") + field(12).expect("a number")) * 10)
}

/// How long many things took.
#[derive(Default)]
pub(crate) struct Times {
    us: Vec<u32>,
}

impl Times {
    pub(crate) fn add_us(&mut self, us: u64) {
        self.us.push(u32::try_from(us).unwrap_or(u32::MAX));
    }

    /// Takes in the times of another.
    pub(crate) fn add(&mut self, other: Self) {
        self.us.extend(other.us);
    }

    pub(crate) fn count(&self) -> usize {
        self.us.len()
    }

    pub(crate) fn clear(&mut self) {
        self.us.clear();
    }

    /// Returns what this part of them all did not exceed, in milliseconds.
    pub(crate) fn at_ms(&mut self, part: f64) -> f64 {
        self.us.sort_unstable();
        let index = ((self.us.len() as f64 * part) as usize).min(self.us.len().saturating_sub(1));
        f64::from(self.us.get(index).copied().unwrap_or(0)) / 1_000.0
    }

    /// Writes the middle, the 99th of a hundred and the longest, in milliseconds.
    pub(crate) fn shown(&mut self) -> String {
        let [middle, late, longest] = [0.5, 0.99, 1.0].map(|part| self.at_ms(part));
        format!("p50 {middle:.2} ms, p99 {late:.2} ms, max {longest:.2} ms")
    }
}

/// Appends 4 KiB and syncs, again and again: what the disk gives at best, one commit after another.
pub(crate) fn syncs_per_s(dir: &std::path::Path) -> f64 {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND;
    let file = open(dir.join("syncs"), flags, Mode::RUSR | Mode::WUSR).expect("a file");
    let (block, began) = ([7_u8; 4_096], Instant::now());
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(2) {
        rustix::io::write(&file, &block).expect("room on the disk");
        fdatasync(&file).expect("a disk that works");
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}
