//! A file system that is really full: nothing finds room on it, not even what the shim leaves alone, the memory that
//! SQLite shares and the broker's output.
//!
//! It takes the right to mount, as root has it. Where that is missing the test passes, prints that it was not run, and has
//! proved nothing: only a run as root counts, and `full.rs` has to do for all others.
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::full::{ROUND_MAX, writes_again};
use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, seeded};
use crate::harness::{Broker, Database, Kind};
use crate::ws::{register, sample_gateway};

/// Room for SQLite's log, which is carried over into the file from 16 MiB on, and for what the clients write.
const OPTIONS: &str = "size=64m,mode=0700";
/// How often it is full.
const ROUNDS: u64 = 3;

/// A small file system in memory; gone with this value.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts it over a folder, or tells why that cannot be done here.
    fn mount(folder: &Path) -> Result<Self, String> {
        match Command::new("mount").args(["-t", "tmpfs", "-o", OPTIONS, "tmpfs"]).arg(folder).output() {
            Ok(done) if done.status.success() => Ok(Self { folder: folder.to_owned() }),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("the test's own file");
        let error = loop {
            if let Err(error) = ballast.write_all(&[0; 1 << 16]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// Gives it back.
    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also when a process that ends still has files open on it.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

#[test]
fn a_file_system_that_is_really_full_loses_nothing_and_is_gone_on_with() {
    actix::System::new().block_on(async {
        let mut random = seeded(0x73F5);
        let gateway = sample_gateway(|_| {});
        let database = Database::empty(Kind::Sqlite);
        let disk = match Disk::mount(database.data_dir()) {
            Ok(disk) => disk,
            Err(why) => {
                println!("not run, because nothing can be mounted here: {why}");
                return;
            }
        };
        let mut broker = Broker::start(&database, &[], &[]).await;
        register(&broker, &gateway).await;
        let pressure = Pressure::on(&broker, Target::that_may_answer(&["storage_full"]), &mut random).await;
        for round in 0..ROUNDS {
            let full = async {
                tokio::time::sleep(random.ms(20, 400)).await;
                let before = pressure.target.refusals("storage_full");
                while pressure.target.refusals("storage_full") < before + 3 {
                    // Again, in case that the broker has given some back.
                    disk.fill();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // A write may still fit in where the log was before.
                for attempt in 0.. {
                    disk.fill();
                    let body = json!({ "session_key": format!("full-{round}-{attempt}") });
                    let (status, answer) = broker.post("/api/gateways/gw/sessions", body).await;
                    if status == 507 {
                        assert_eq!(answer["error"]["code"], "storage_full", "{answer}");
                        break;
                    }
                    assert!(matches!(status, 200 | 503), "{status} {answer}");
                }
                let (status, session) = broker.get("/api/gateways/gw/sessions/notes").await;
                assert_eq!(status, 200, "reading still works: {session}");
                disk.free();
                writes_again(&broker, &format!("well-{round}")).await;
            };
            let took = tokio::time::timeout(ROUND_MAX, full).await;
            assert!(took.is_ok(), "round {round} took too long:\n{}", broker.log());
        }
        let refused = pressure.target.refusals("storage_full");
        let told = pressure.end(&broker).await;
        println!("{ROUNDS} times full, {refused} refusals");
        told.check(&broker).await;
        assert_eq!(broker.stop().await, Some(0));
        check::database(&database, told.asked());
    });
}
