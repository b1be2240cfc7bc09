//! A half answer over a restart of the broker: shown from the disk while the gateway is away, and ended once when it is
//! back, in each of the ways that D4 gives.
use clawbroker::sample_gateway::Running;
use serde_json::{Value, json};

use super::{register, sample_gateway};
use crate::harness::{Broker, Browser, Database, is_terminal, sql};

on_both_databases!(
    it_goes_on,
    it_was_answered_meanwhile,
    it_is_taken_up_anew,
    it_is_asked_again_of_a_gateway_that_knows_nothing,
    it_was_lost,
    it_is_aborted_while_the_gateway_is_away,
);

/// A broker that was started again while the gateway is away, and a browser that has come since.
struct Restarted {
    broker: Broker,
    gateway: Running,
    browser: Browser,
    run_id: Value,
}

impl Restarted {
    async fn on(database: &Database) -> Self {
        let settings = database.data_dir().join("quick.toml");
        std::fs::write(&settings, "[gateway]\ncheckpoint_ms = 100\nresume_wait_s = 1\n").expect("written");
        let gateway = sample_gateway(|_| {});
        let mut broker = Broker::start(database, &[], &[("CLAWBROKER_CONFIG", &settings.to_string_lossy())]).await;
        register(&broker, &gateway).await;
        broker.gateway_is("gw", "connected").await;
        let mut before = broker.browser("/ws/chat/gw").await;
        let ack = before.ask("a", "gate g: first half, second half").await;
        let run_id = before.until("a delta", |frame| frame["state"] == "delta").await["runId"].clone();
        let began = tokio::time::Instant::now();
        let kept = "SELECT count(*) AS value FROM turns WHERE text <> ''";
        while sql::number(&mut database.connect(), kept) == 0 {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "nothing was kept:\n{}", broker.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        gateway.stop_listening().await;
        broker.kill();
        let kept = sql::texts(&mut database.connect(), "SELECT text AS value FROM turns");
        broker.start_again().await;

        let mut browser = broker.browser("/ws/chat/gw").await;
        for ask in [
            json!({ "type": "subscribe", "sessionKey": "a" }),
            json!({ "type": "resume", "sessionKey": "a", "after": 0 }),
        ] {
            let mut late = broker.browser("/ws/chat/gw").await;
            late.send(ask).await;
            late.until("the run", |frame| frame["activeRun"]["runId"] == run_id).await;
            let shown = late.until("its text", |frame| frame["type"] == "stream").await;
            assert_eq!((&shown["state"], &shown["runId"], &shown["n"]), (&json!("snapshot"), &run_id, &json!(1)));
            assert_eq!(shown["text"], json!(kept[0]));
            let missed = late.seen.iter().filter(|frame| frame["message"]["id"] == ack["messageId"]).count();
            let is_resumed = late.seen.iter().any(|frame| frame["type"] == "resumed");
            assert_eq!(missed, usize::from(is_resumed), "after the missed lines: {}", late.transcript());
            browser = late;
        }
        let (_, list) = broker.get("/api/admin/conversations").await;
        let run = &list["items"][0]["run"];
        assert_eq!((&run["run_id"], &run["message_id"]), (&run_id, &ack["messageId"]), "{list}");
        Self { broker, gateway, browser, run_id }
    }

    /// Waits for the end; it is the only one.
    async fn ends(&mut self) -> Value {
        let end = self.browser.until_terminal().await;
        assert_eq!(end["runId"], self.run_id, "{end}");
        // What comes later would come before the answers to these.
        self.broker.gateway_is("gw", "connected").await;
        self.browser.ask("a", "say: and then").await;
        let next = self.browser.until_terminal().await;
        assert_eq!((&next["state"], &next["text"]), (&json!("final"), &json!("and then")), "{next}");
        let ends: Vec<&Value> = self.browser.seen.iter().filter(|frame| is_terminal(frame)).collect();
        assert_eq!(ends.len(), 2, "{ends:?}");
        let (_, session) = self.broker.get("/api/admin/conversations").await;
        assert_eq!(session["items"][0]["run"], Value::Null, "{session}");
        end
    }

    async fn gateway_is_back(&self) {
        self.gateway.listen_again().await.expect("the port is free again");
    }
}

async fn it_goes_on(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    restarted.gateway_is_back().await;
    restarted.broker.gateway_is("gw", "connected").await;
    restarted.gateway.release("g");
    let end = restarted.ends().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("first half, second half")));
    assert_eq!(restarted.gateway.sends().len(), 2, "nothing was asked twice");
}

async fn it_was_answered_meanwhile(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    restarted.gateway.release("g");
    restarted.gateway.idle().await;
    restarted.gateway_is_back().await;
    let end = restarted.ends().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("first half, second half")));
}

async fn it_is_taken_up_anew(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    restarted.gateway.crash().await;
    restarted.gateway.release("g");
    restarted.gateway.recover("boot-2").await.expect("the port is free again");
    let end = restarted.ends().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("first half, second half")));
}

async fn it_is_asked_again_of_a_gateway_that_knows_nothing(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    let key = restarted.gateway.sends()[0]["idempotencyKey"].clone();
    let port = restarted.gateway.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    // The old one has the port until the new one has it, too.
    restarted.gateway = sample_gateway(|options| options.port = port);
    restarted.gateway.release("g");
    let end = restarted.ends().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("first half, second half")));
    assert_eq!(restarted.gateway.sends()[0]["idempotencyKey"], key);
}

async fn it_was_lost(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    assert!(restarted.gateway.reset("a"));
    restarted.gateway_is_back().await;
    let end = restarted.ends().await;
    assert_eq!((&end["state"], &end["code"]), (&json!("error"), &json!("outcome_unknown")), "{end}");
    assert!(end["text"].as_str().is_some_and(|text| text.starts_with("first")), "the half answer is kept: {end}");
}

async fn it_is_aborted_while_the_gateway_is_away(database: Database) {
    let mut restarted = Restarted::on(&database).await;
    let abort = json!({ "type": "abort", "sessionKey": "a", "runId": restarted.run_id });
    restarted.browser.send(abort).await;
    restarted.gateway_is_back().await;
    let end = restarted.ends().await;
    assert_eq!(end["state"], "aborted", "{end}");
}
