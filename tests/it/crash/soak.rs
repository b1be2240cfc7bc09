//! Load for long: kills first, then a gateway that restarts again and again; what the broker holds comes back to where it
//! was.
//!
//! `CLAWBROKER_TEST_SOAK_S` says for how many seconds (16; `./test --soak` sets two hours).
use std::time::Duration;

use tokio::time::Instant;

use super::load::Broker as Target;
use super::{Pressure, check, number_from, seeded};
use crate::harness::{Broker, Database};
use crate::ws::{register, sample_gateway};

on_both_databases!(what_a_broker_holds_comes_back_to_where_it_was);

/// Without load for so long, everything that belonged to it is gone, idle threads as well.
const CALM: Duration = Duration::from_secs(11);
/// From so long on the caches are full by the middle, and memory is compared as well.
const MEMORY_FROM: Duration = Duration::from_secs(1_200);
/// What the allocator may keep of the last moments.
const MEMORY_SLACK_KIB: u64 = 4 << 10;

/// What a process holds.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    files: usize,
    threads: usize,
}

impl Held {
    async fn by(broker: &Broker, target: &Target) -> Self {
        target.down();
        tokio::time::sleep(CALM).await;
        let held = Self { memory_kib: broker.resident_kib(), files: broker.count("fd"), threads: broker.count("task") };
        target.up(broker);
        held
    }
}

async fn what_a_broker_holds_comes_back_to_where_it_was(database: Database) {
    let time = Duration::from_secs(number_from("CLAWBROKER_TEST_SOAK_S", 16));
    let mut random = seeded(0x50A6);
    let gateway = sample_gateway(|_| {});
    let mut broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let pressure = Pressure::on(&broker, Target::new(), &mut random).await;
    let began = Instant::now();
    while began.elapsed() < time / 4 {
        tokio::time::sleep(random.ms(200, 4_000)).await;
        pressure.target.down();
        broker.kill();
        broker.start_again().await;
        pressure.target.up(&broker);
    }
    let (mut boots, mut middle) = (0, None);
    while began.elapsed() < time || middle.is_none() {
        // By now the caches are full.
        if middle.is_none() && began.elapsed() > time / 2 {
            middle = Some(Held::by(&broker, &pressure.target).await);
        }
        tokio::time::sleep(random.ms(200, 4_000)).await;
        boots += 1;
        gateway.restart(&format!("boot-{boots}")).await.expect("the port is free again");
    }
    broker.gateway_is("gw", "connected").await;
    let before = middle.expect("the middle has come by");
    let after = Held::by(&broker, &pressure.target).await;
    println!("{boots} restarts of the gateway; in the middle {before:?}, at the end {after:?}");
    let told = pressure.end(&broker).await;
    // A connection of a pool or two may come and go.
    assert!(after.files <= before.files + 4 && after.threads <= before.threads + 2, "{before:?} {after:?}");
    if time >= MEMORY_FROM {
        let most = before.memory_kib + before.memory_kib / 20 + MEMORY_SLACK_KIB;
        assert!(after.memory_kib <= most, "{before:?} {after:?}");
    }
    told.check(&broker).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(&database, told.asked());
}
