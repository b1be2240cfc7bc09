//! No space on the disk (D12): what writes is refused, what reads is answered, and there is no need to start it again.
//!
//! `CLAWBROKER_TEST_FULL_DISKS` says how often the disk is full.
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Fault, Machine};
use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded};
use crate::harness::{Broker, Database, Kind};
use crate::ws::{register, sample_gateway};

/// How long a round may take.
pub(super) const ROUND_MAX: Duration = Duration::from_secs(60);
/// How soon the broker is well again when there is room.
const WELL: Duration = Duration::from_secs(30);

/// Waits until something is written. Whether the broker is ready does not tell: it is while the disk is full as well.
pub(super) async fn writes_again(broker: &Broker, name: &str) {
    let began = Instant::now();
    for attempt in 0.. {
        let body = json!({ "session_key": format!("{name}-{attempt}") });
        let (status, answer) = broker.post("/api/gateways/gw/sessions", body).await;
        if status == 200 {
            return;
        }
        assert!(began.elapsed() < WELL, "there is room, and still {status} {answer}:\n{}", broker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_gone_on_with() {
    actix::System::new().block_on(async {
        let times = number_from("CLAWBROKER_TEST_FULL_DISKS", 4);
        let mut random = seeded(0xF011);
        let gateway = sample_gateway(|_| {});
        let mut machine = Machine::start(&[]).await;
        register(&machine.broker, &gateway).await;
        let pressure = Pressure::on(&machine.broker, Target::that_may_answer(&["storage_full"]), &mut random).await;
        // Once more at the end, without a kill.
        for round in 0..=times {
            let full = async {
                tokio::time::sleep(random.ms(20, 400)).await;
                let before = pressure.target.refusals("storage_full");
                machine.breaks(Fault::Space);
                while pressure.target.refusals("storage_full") < before + 3 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let (status, session) = machine.broker.get("/api/gateways/gw/sessions/notes").await;
                assert_eq!(status, 200, "reading still works: {session}");
                tokio::time::sleep(random.ms(0, 1_500)).await;
                let killed = round < times && round % 4 == 3;
                if killed {
                    pressure.target.down();
                    machine.broker.kill();
                    machine.platter.cut_power(Some(&mut random));
                }
                machine.heals(Fault::Space);
                if killed {
                    machine.broker.start_again().await;
                    pressure.target.up(&machine.broker);
                }
                writes_again(&machine.broker, &format!("well-{round}")).await;
            };
            let took = tokio::time::timeout(ROUND_MAX, full).await;
            assert!(took.is_ok(), "round {round} took too long:\n{}", machine.broker.log());
        }
        let refused = pressure.target.refusals("storage_full");
        let told = pressure.end(&machine.broker).await;
        println!("{} times full, {refused} refusals", times + 1);
        told.check(&machine.broker).await;
        assert_eq!(machine.broker.stop().await, Some(0));
        check::database(&machine.database, told.asked());
    });
}

/// A limit on the size of files, as `ulimit -f` sets it, ends a process that does not expect it. The broker goes on.
#[test]
fn a_limit_on_the_size_of_files_is_no_end() {
    actix::System::new().block_on(async {
        /// More than the log of the process takes.
        const ROOM: u64 = 100_000;
        let mut random = seeded(0xF51E);
        let gateway = sample_gateway(|_| {});
        let database = Database::empty(Kind::Sqlite);
        let mut broker = Broker::start(&database, &[], &[]).await;
        register(&broker, &gateway).await;
        let pressure = Pressure::on(&broker, Target::that_may_answer(&["storage_full"]), &mut random).await;
        let refusals = || pressure.target.refusals("storage_full") + pressure.target.refusals("store_busy");
        for round in 0..3 {
            let limited = async {
                tokio::time::sleep(random.ms(20, 400)).await;
                let (before, log) = (refusals(), database.file().with_extension("db-wal"));
                let size = std::fs::metadata(log).map_or(0, |log| log.len());
                broker.limit_files(Some(size.max(ROOM)));
                while refusals() < before + 3 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                broker.limit_files(None);
                writes_again(&broker, &format!("well-{round}")).await;
                broker.ready(WELL).await;
            };
            let took = tokio::time::timeout(ROUND_MAX, limited).await;
            assert!(took.is_ok(), "round {round} took too long:\n{}", broker.log());
        }
        let told = pressure.end(&broker).await;
        told.check(&broker).await;
        assert_eq!(broker.stop().await, Some(0));
        check::database(&database, told.asked());
    });
}
