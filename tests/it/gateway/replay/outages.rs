//! Connections that break while an answer streams.
use serde_json::json;

use super::check::Stage;
use crate::harness::Database;

on_both_databases!(
    a_broken_connection_loses_nothing,
    a_gateway_that_is_stopped_lets_the_answer_finish,
    a_gateway_that_restarts_lets_the_answer_finish,
    a_killed_gateway_takes_the_question_up_again,
    a_killed_broker_goes_on_where_it_was,
);

async fn a_broken_connection_loses_nothing(database: Database) {
    answer_across(database, "reconnect-midstream").await;
}

async fn a_gateway_that_is_stopped_lets_the_answer_finish(database: Database) {
    answer_across(database, "gateway-sigterm-midstream").await;
}

async fn a_gateway_that_restarts_lets_the_answer_finish(database: Database) {
    answer_across(database, "gateway-restart-midstream").await;
}

/// Asks the recording's question; the connection breaks meanwhile or right behind the answer, and comes back.
async fn answer_across(database: Database, name: &str) {
    let mut stage = Stage::of(database, &[name]).await;
    let question = stage.ask(0).await;
    stage.ends_as(&question, &question.key).await;
    let connections = stage.replay.connections();
    stage.connected_after(connections).await;
    stage.agrees(&question.session).await;
    stage.holds(&question, &stage.replay.told(&question.key)).await;
    for kind in ["disconnected", "reconnected"] {
        let told = stage.browser.seen.iter().filter(|frame| frame["type"] == kind).count();
        assert!(told <= 1, "{kind} was told {told} times: {}", stage.browser.transcript());
    }
}

/// The recording of the kill ends while the question is being answered anew; the other one goes on from there.
async fn a_killed_gateway_takes_the_question_up_again(database: Database) {
    let recordings = ["gateway-sigkill-midstream", "gateway-restart-midstream"];
    let mut stage = Stage::of(database, &recordings).await;
    let first = stage.ask(0).await;
    let second = stage.replay.questions()[1].clone();
    let connections = stage.replay.connections();
    // The second connection of the new process, which the recording goes on with.
    stage.connected_after(connections - 2).await;
    let run = stage.replay.run_resuming(&first.session);
    assert_ne!(run, first.key);
    stage.browser.send(json!({ "type": "chat", "sessionKey": second.session, "message": second.text })).await;
    let end = stage.ends_as(&first, &run).await;
    assert_eq!(end["state"], "final");
    stage.ends_as(&second, &second.key).await;
    stage.connected_after(connections).await;
    stage.agrees(&first.session).await;
    stage.agrees(&second.session).await;
    stage.holds(&second, &stage.replay.told(&second.key)).await;
    let answers: Vec<_> = stage.browser.seen.iter().filter(|frame| frame["messageId"] == end["messageId"]).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// The recording stands still in mid-answer until somebody aborts it.
async fn a_killed_broker_goes_on_where_it_was(database: Database) {
    let mut stage = Stage::of(database, &["chat-abort-midstream"]).await;
    let question = stage.ask(0).await;
    let told = stage.replay.told(&question.key);
    stage.browser.until("all that came", |frame| frame["text"] == json!(told.text)).await;
    stage.broker.kill();
    stage.broker.start_again().await;
    stage.broker.gateway_is("gw", "connected").await;
    stage.browser = stage.broker.browser("/ws/chat/gw").await;
    stage.browser.send(json!({ "type": "resume", "sessionKey": question.session, "after": 1 })).await;
    let resumed = stage.browser.until_type("resumed").await;
    assert_eq!(resumed["lastSeq"], 1, "{resumed}");
    stage.browser.until("the text so far", |frame| frame["text"] == json!(told.text)).await;
    stage.browser.send(json!({ "type": "abort", "sessionKey": question.session })).await;
    let end = stage.ends_as(&question, &question.key).await;
    assert_eq!((&end["state"], &end["seq"]), (&json!("aborted"), &json!(2)), "{end}");
    stage.played().await;
    stage.agrees(&question.session).await;
    stage.holds(&question, &told).await;
}
