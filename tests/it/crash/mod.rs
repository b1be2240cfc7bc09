//! The broker is killed at random under load, again and again: what it acknowledged is there exactly once, and what it had
//! begun goes on.
//!
//! `CLAWBROKER_TEST_CRASHES` says how often (20; `./test --crash` sets 1,000), `CLAWBROKER_TEST_SEED` repeats a run.
mod check;
mod load;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use self::load::{Broker as Target, Journal};
use crate::harness::{Broker, Database, Seeded};
use crate::ws::{register, sample_gateway};

on_both_databases!(what_was_acknowledged_survives_kills_at_random);

/// Browsers that chat, each in a session of its own.
const CHATS: usize = 4;
/// How long a round may take: the start after a kill, and the load until the next one.
const ROUND_MAX: Duration = Duration::from_secs(10);
/// How long the clients may take to get their last answers, once nobody kills any more.
const END_MAX: Duration = Duration::from_secs(60);

/// Reads a number from the environment.
pub(crate) fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

async fn what_was_acknowledged_survives_kills_at_random(database: Database) {
    let crashes = number_from("CLAWBROKER_TEST_CRASHES", 20);
    let seed = number_from("CLAWBROKER_TEST_SEED", 0xC1A3);
    let mut random = Seeded::new(seed);
    println!("{crashes} crashes with seed {seed}");
    let gateway = sample_gateway(|_| {});
    let mut broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "connected").await;
    let target = Target::new();
    target.up(&broker);
    let (status, notes) = broker.post("/api/gateways/gw/sessions", json!({ "session_key": "notes" })).await;
    assert_eq!(status, 200, "{notes}");
    let notes = notes["id"].as_str().unwrap().to_owned();

    let chats: Vec<_> =
        (0..CHATS).map(|n| actix::spawn(load::chat(target.clone(), format!("chat-{n}"), random.part()))).collect();
    let writer = actix::spawn(load::write(target.clone(), notes, random.part()));
    let reader = actix::spawn(load::resume_again_and_again(target.clone(), CHATS, random.part()));

    let mut slowest = Duration::ZERO;
    for round in 0..crashes {
        let took = tokio::time::timeout(ROUND_MAX, async {
            tokio::time::sleep(random.ms(20, 400)).await;
            target.down();
            broker.kill();
            if random.below(5) == 0 {
                // Once more before it has come up.
                broker.start_and_kill(random.ms(0, 150)).await;
            }
            let began = Instant::now();
            broker.start_again().await;
            target.up(&broker);
            began.elapsed()
        })
        .await
        .unwrap_or_else(|_| panic!("round {round} with seed {seed} took too long:\n{}", broker.log()));
        slowest = slowest.max(took);
    }
    target.finish();
    let ends = async { (join_all(chats).await, writer.await, reader.await) };
    let (chats, writer, reader) = tokio::time::timeout(END_MAX, ends)
        .await
        .unwrap_or_else(|_| panic!("with seed {seed} somebody waits for ever:\n{}", broker.log()));
    let journals: Vec<Journal> = chats.into_iter().map(|chat| chat.expect("a chat does not panic")).collect();
    let written = writer.expect("the writer does not panic");
    let resumes = reader.expect("the reader does not panic");
    let asked: usize = journals.iter().map(|journal| journal.asked.len()).sum();
    println!("{asked} questions, {} notes, {resumes} resumes; slowest start {} ms", written.len(), slowest.as_millis());
    assert!(asked as u64 > crashes / 2 && !written.is_empty() && resumes > 0, "there was load");
    check::logs(&broker, &journals, &written).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(&database, asked);
}
