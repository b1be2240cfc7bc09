//! Power cuts, and an fsync that fails: what was acknowledged is on the disk, and nothing else counts (STO-1, D12).
//!
//! `CLAWBROKER_TEST_POWER_CUTS` says how often the power is cut, `CLAWBROKER_TEST_SYNC_FAULTS` how often fsync fails.
use std::time::Duration;

use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::store::{Command, Probe, Tx};
use serde_json::json;
use tokio::time::Instant;

use super::{Fault, Machine};
use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded, settings_for_agents};
use crate::harness::{Kind, TestStore, question, run_on, sql};
use crate::ws::{register, sample_gateway};

/// How long a round may take.
const ROUND_MAX: Duration = Duration::from_secs(60);
/// How soon the broker is well again when the disk is.
const WELL: Duration = Duration::from_secs(30);

fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

#[test]
fn what_was_acknowledged_survives_power_cuts_at_random() {
    run(async {
        let cuts = number_from("CLAWBROKER_TEST_POWER_CUTS", 8);
        let mut random = seeded(0xD15C);
        let gateway = sample_gateway(|_| {});
        let settings = settings_for_agents("");
        let mut machine = Machine::start(&[("CLAWBROKER_CONFIG", &settings.path().to_string_lossy())]).await;
        register(&machine.broker, &gateway).await;
        let pressure = Pressure::with_agents(&machine.broker, Target::new(), &mut random).await;
        for round in 0..cuts {
            let cut = async {
                tokio::time::sleep(random.ms(20, 500)).await;
                pressure.target.down();
                machine.broker.kill();
                // Every other one takes all that it can.
                machine.platter.cut_power(if round % 2 == 0 { None } else { Some(&mut random) });
                machine.broker.start_again().await;
                pressure.target.up(&machine.broker);
            };
            let took = tokio::time::timeout(ROUND_MAX, cut).await;
            assert!(took.is_ok(), "round {round} took too long:\n{}", machine.broker.log());
        }
        let told = pressure.end(&machine.broker).await;
        println!("{cuts} power cuts, {} writes taken back", machine.platter.taken_back);
        assert!(machine.platter.taken_back > 0, "a cut takes something");
        told.check(&machine.broker).await;
        assert_eq!(machine.broker.stop().await, Some(0));
        check::database(&machine.database, told.asked());
        told.check_mail(&machine.database);
    });
}

/// Adds notes, cuts the power, and returns how many were acknowledged and how many of them are left.
async fn notes_before_and_after_a_cut(machine: &mut Machine) -> (usize, usize) {
    const NOTES: usize = 10;
    let path = "/api/gateways/gw/sessions/notes";
    for n in 0..NOTES {
        let (_, session) = machine.broker.get(path).await;
        let path = format!("/api/admin/conversations/{}/messages", session["id"].as_str().unwrap());
        let (status, answer) =
            machine.broker.post(&path, json!({ "content": format!("note {n}"), "deliver": false })).await;
        assert_eq!(status, 201, "{answer}");
    }
    machine.broker.kill();
    machine.platter.cut_power(None);
    machine.broker.start_again().await;
    let (status, session) = machine.broker.get(path).await;
    let left = if status == 200 { session["last_seq"].as_u64().unwrap_or(0) as usize } else { 0 };
    (NOTES, left)
}

/// Starts a broker with a session `notes` and stops it, so that all it has done so far is on the disk.
async fn with_notes(env: &[(&str, &str)]) -> Machine {
    let gateway = sample_gateway(|_| {});
    let machine = Machine::start(env).await;
    register(&machine.broker, &gateway).await;
    let (status, answer) = machine.broker.post("/api/gateways/gw/sessions", json!({ "session_key": "notes" })).await;
    assert_eq!(status, 200, "{answer}");
    machine
}

/// The setting `durability = "normal"` says that a power cut may take the last moments. It does, and the check sees it:
/// so it would see a commit that is acknowledged before it is on the disk.
#[test]
fn the_check_sees_what_normal_durability_loses() {
    run(async {
        let mut full = with_notes(&[]).await;
        assert_eq!(notes_before_and_after_a_cut(&mut full).await, (10, 10));
        let settings = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&settings, "[store]\ndurability = \"normal\"\n").unwrap();
        let mut normal = with_notes(&[("CLAWBROKER_CONFIG", &settings.path().to_string_lossy())]).await;
        let (acknowledged, left) = notes_before_and_after_a_cut(&mut normal).await;
        assert!(left < acknowledged, "{left} of {acknowledged} are left");
    });
}

/// A disk that says yes and keeps nothing: no program can help it, and the check tells.
#[test]
fn the_check_sees_what_a_disk_that_lies_loses() {
    run(async {
        let mut machine = with_notes(&[("SHIM_LIES", "1")]).await;
        machine.broker.kill();
        machine.platter.cut_power(None);
        machine.broker.start_again().await;
        let (_, gateways) = machine.broker.get("/api/gateways").await;
        assert_eq!(gateways, json!([]), "the gateway was acknowledged");
    });
}

/// D12: while fsync fails everything that writes is refused, and when it does not any more the broker goes on by itself;
/// what the failed fsync lost is not taken for written, whether the process or the power ends first.
#[test]
fn an_fsync_that_fails_loses_nothing_that_was_acknowledged() {
    run(async {
        let faults = number_from("CLAWBROKER_TEST_SYNC_FAULTS", 6);
        let mut random = seeded(0xF51C);
        let gateway = sample_gateway(|_| {});
        let mut machine = Machine::start(&[]).await;
        register(&machine.broker, &gateway).await;
        let pressure = Pressure::on(&machine.broker, Target::new(), &mut random).await;
        for round in 0..faults {
            let end = round % 3;
            let fault = async {
                tokio::time::sleep(random.ms(20, 400)).await;
                let before = pressure.target.refusals("store_busy");
                machine.breaks(Fault::Sync);
                while pressure.target.refusals("store_busy") == before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(random.ms(0, 1_200)).await;
                if end > 0 {
                    pressure.target.down();
                    machine.broker.kill();
                }
                machine.heals(Fault::Sync);
                if end > 1 {
                    machine.platter.cut_power(Some(&mut random));
                }
                if end > 0 {
                    machine.broker.start_again().await;
                    pressure.target.up(&machine.broker);
                } else {
                    machine.broker.ready(WELL).await;
                }
            };
            let took = tokio::time::timeout(ROUND_MAX, fault).await;
            assert!(took.is_ok(), "round {round} took too long:\n{}", machine.broker.log());
        }
        let told = pressure.end(&machine.broker).await;
        println!("{faults} times fsync failed, {} writes taken back", machine.platter.taken_back);
        told.check(&machine.broker).await;
        // What it goes by now may be in the memory of the kernel only.
        machine.broker.kill();
        machine.platter.cut_power(None);
        let began = Instant::now();
        machine.broker.start_again().await;
        println!("up again in {} ms", began.elapsed().as_millis());
        told.check(&machine.broker).await;
        assert_eq!(machine.broker.stop().await, Some(0));
        check::database(&machine.database, told.asked());
    });
}

/// A command that meets an error of the disk.
struct Lost;

impl Command for Lost {
    type Output = ();

    fn apply(&self, _: &mut Tx<'_>) -> Result<(), Error> {
        Err(Error::new(ErrorCode::StoreBusy, "a planned I/O error"))
    }
}

/// D12: nothing is written behind a log that the disk may not have. After an error of the disk all of it is carried over
/// into the main file first; as long as that cannot be done, everything is refused.
#[test]
fn after_an_error_of_the_disk_the_log_begins_afresh() {
    run_on(Kind::Sqlite, async |store: TestStore| {
        let (caller, conversation) = store.chat().await;
        // Whoever else has the file open keeps SQLite from doing it by itself when the writer lets go of it.
        let mut other = store.database.connect();
        for text in ["one", "two"] {
            store.ask(&caller, conversation.id, text).await;
        }
        let main_file = || {
            let copy = tempfile::NamedTempFile::new().unwrap();
            std::fs::copy(store.database.file(), copy.path()).unwrap();
            let location = clawbroker::store::Location::Sqlite(copy.path().to_owned());
            let mut db = crate::harness::database::opener(location).writable().unwrap();
            sql::texts(&mut db, "SELECT text AS value FROM messages ORDER BY seq")
        };
        assert!(main_file().is_empty(), "they are in the log only");
        sql::run(&mut other, "BEGIN");
        assert_eq!(sql::number(&mut other, "SELECT count(*) AS value FROM messages"), 2);
        store.write(Lost).await.unwrap_err();
        let refused = store.write(question(&caller, conversation.id, "too soon")).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::StoreBusy, "somebody still reads the log");
        sql::run(&mut other, "COMMIT");
        assert_eq!(store.ask(&caller, conversation.id, "three").await.line.seq, 3);
        assert_eq!(main_file(), ["one", "two"]);
    });
}

/// D12: a log without pages and a commit of nothing ask the disk nothing. What shows that it is well again is written.
#[test]
fn after_an_error_of_the_disk_something_is_written_before_it_counts_as_well() {
    run_on(Kind::Sqlite, async |store: TestStore| {
        let (caller, conversation) = store.chat().await;
        store.ask(&caller, conversation.id, "one").await;
        let log = || {
            let mut path = store.database.file().as_os_str().to_owned();
            path.push("-wal");
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        for _ in 0..2 {
            store.write(Lost).await.unwrap_err();
            store.write(Probe).await.unwrap();
            assert!(log() > 0, "only that commit can have written it");
        }
    });
}
