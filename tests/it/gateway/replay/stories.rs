//! One question each, on a connection that holds.
use serde_json::json;

use super::Replay;
use super::check::{Stage, text};
use crate::harness::{Database, is_terminal};

on_both_databases!(
    an_answer_streams,
    unicode_arrives_whole,
    think_tags_stay_out,
    reasoning_stays_out,
    merged_deltas_add_up,
    an_empty_reply_is_asked_for_again_by_the_gateway,
    a_refused_key_tells_its_sentence,
    a_rate_limit_tells_its_sentence,
    a_failing_model_tells_its_sentence,
    a_break_in_mid_answer_keeps_what_came,
    a_cut_model_connection_keeps_what_came,
    an_abort_in_mid_answer_keeps_what_came,
    an_abort_before_the_answer_leaves_the_question,
    a_tool_call_becomes_steps,
    three_sessions_stream_side_by_side,
    what_others_ask_meanwhile_is_kept,
    a_question_of_others_that_waits_is_kept,
    cleaned_texts_are_the_same_texts,
    a_log_is_imported,
    marks_in_the_log_are_kept,
);

async fn an_answer_streams(database: Database) {
    one_answer(database, "connect-chat-stream-final").await;
}

async fn unicode_arrives_whole(database: Database) {
    one_answer(database, "chat-unicode").await;
}

async fn think_tags_stay_out(database: Database) {
    one_answer(database, "chat-think-tags").await;
}

async fn reasoning_stays_out(database: Database) {
    one_answer(database, "chat-reasoning-content").await;
}

async fn merged_deltas_add_up(database: Database) {
    one_answer(database, "chat-fast-stream-coalesced").await;
}

async fn an_empty_reply_is_asked_for_again_by_the_gateway(database: Database) {
    one_answer(database, "chat-empty-reply").await;
}

async fn a_refused_key_tells_its_sentence(database: Database) {
    one_answer(database, "model-error-401").await;
}

async fn a_rate_limit_tells_its_sentence(database: Database) {
    one_answer(database, "model-error-429").await;
}

async fn a_failing_model_tells_its_sentence(database: Database) {
    one_answer(database, "model-error-500").await;
}

async fn a_break_in_mid_answer_keeps_what_came(database: Database) {
    one_answer(database, "model-error-midstream").await;
}

async fn a_cut_model_connection_keeps_what_came(database: Database) {
    one_answer(database, "model-connection-cut").await;
}

/// Asks the recording's question and finds its end with the browser and in the store.
async fn one_answer(database: Database, name: &str) {
    let mut stage = Stage::of(database, &[name]).await;
    let question = stage.ask(0).await;
    stage.ends_as(&question, &question.key).await;
    stage.played().await;
    stage.agrees(&question.session).await;
    stage.holds(&question, &stage.replay.told(&question.key)).await;
}

async fn an_abort_in_mid_answer_keeps_what_came(database: Database) {
    let mut stage = Stage::of(database, &["chat-abort-midstream"]).await;
    let question = stage.ask(0).await;
    stage.browser.until("a delta", |frame| frame["state"] == "delta").await;
    stage.browser.send(json!({ "type": "abort", "sessionKey": question.session })).await;
    let end = stage.ends_as(&question, &question.key).await;
    assert_eq!((&end["state"], end["text"].as_str()), (&json!("aborted"), Some("alpha beta gamma del")));
    stage.played().await;
    stage.agrees(&question.session).await;
    stage.holds(&question, &stage.replay.told(&question.key)).await;
}

async fn an_abort_before_the_answer_leaves_the_question(database: Database) {
    let mut stage = Stage::of(database, &["chat-abort-before-first-delta"]).await;
    let question = stage.ask(0).await;
    stage.browser.until("the model at work", |frame| frame["phase"] == "starting_model").await;
    stage.browser.send(json!({ "type": "abort", "sessionKey": question.session })).await;
    let end = stage.ends_as(&question, &question.key).await;
    assert_eq!(end["state"], "aborted");
    stage.played().await;
    stage.agrees(&question.session).await;
    assert_eq!(stage.lines(&question.session).await.len(), 1, "nothing was answered");
}

async fn a_tool_call_becomes_steps(database: Database) {
    let mut stage = Stage::of(database, &["chat-tool-call"]).await;
    let question = stage.ask(0).await;
    // Its first terminal event has no text, as the one before it has taken back what had come: the answer stands in the
    // event before that. The second terminal event ends nothing.
    let end = stage.browser.until_terminal().await;
    let answer = "tool result: Tool session_status not found";
    assert_eq!((&end["state"], end["text"].as_str()), (&json!("final"), Some(answer)));
    stage.played().await;
    stage.agrees(&question.session).await;
    let said: Vec<String> = stage.lines(&question.session).await.iter().map(text).collect();
    assert_eq!(said[1..], ["tool result: Tool session_status not found", "⚠️ Session Status blocked"]);
    assert_eq!(stage.browser.seen.iter().filter(|frame| is_terminal(frame)).count(), 1);
}

async fn three_sessions_stream_side_by_side(database: Database) {
    let mut stage = Stage::of(database, &["chat-two-sessions-parallel"]).await;
    let questions = stage.replay.questions();
    assert_eq!(questions.len(), 3);
    // In another order than recorded: each finds its own answer.
    for question in questions.iter().rev() {
        let chat = json!({ "type": "chat", "sessionKey": question.session, "message": question.text });
        stage.browser.send(chat).await;
    }
    let mut ends = 0;
    while ends < 3 {
        let end = stage.browser.until_terminal().await;
        let question = questions.iter().find(|question| end["sessionKey"] == json!(question.session));
        let told = stage.replay.told(&question.expect("a session of ours").key);
        assert_eq!(end["text"], json!(told.text));
        ends += 1;
    }
    stage.played().await;
    for question in &questions {
        stage.agrees(&question.session).await;
        stage.holds(question, &stage.replay.told(&question.key)).await;
    }
}

async fn what_others_ask_meanwhile_is_kept(database: Database) {
    let replay = Replay::with_others(&["chat-second-send-while-running"], &["gx-q-2", "gx-q-3"]).await;
    beside_others(database, replay, "first message is being answered slowly\n\nthird answer").await;
}

async fn a_question_of_others_that_waits_is_kept(database: Database) {
    let replay = Replay::with_others(&["history-pending-input"], &["ix-pend-2"]).await;
    beside_others(database, replay, "the first question is being answered\n\nsecond").await;
}

/// Asks the first question; the others are steered into its run, and what they get is part of its answer.
async fn beside_others(database: Database, replay: Replay, answer: &str) {
    let mut stage = Stage::with(database, replay).await;
    let question = stage.ask(0).await;
    let end = stage.ends_as(&question, &question.key).await;
    assert_eq!(end["text"], json!(answer));
    stage.played().await;
    stage.has_every_row(&question.session).await;
    stage.holds(&question, &stage.replay.told(&question.key)).await;
}

async fn cleaned_texts_are_the_same_texts(database: Database) {
    let mut stage = Stage::of(database, &["chat-text-cleaned"]).await;
    for at in 0..4 {
        stage.tell(at).await;
    }
    stage.played().await;
    stage.agrees("ix-text").await;
    assert_eq!(stage.lines("ix-text").await.len(), 8);
}

async fn a_log_is_imported(database: Database) {
    let stage = Stage::with(database, Replay::afterwards("history").await).await;
    let mut browser = stage.broker.browser("/ws/chat/gw").await;
    browser.send(json!({ "type": "history", "sessionKey": "fx-hist" })).await;
    let history = browser.until("the log", |frame| frame["type"] == "history").await;
    let said: Vec<String> = history["messages"].as_array().into_iter().flatten().map(text).collect();
    let expected = ["say: answer 1", "answer 1", "say: answer 2", "answer 2", "say: answer 3", "answer 3"];
    assert_eq!(said, expected);
    stage.agrees("fx-hist").await;
    let lines = stage.lines("fx-hist").await;
    assert_eq!(lines.iter().map(text).collect::<Vec<_>>(), expected);
    assert!(lines.iter().all(|line| line["seq"].as_i64().is_some_and(|seq| seq <= 0)), "they stand above: {lines:#?}");
}

async fn marks_in_the_log_are_kept(database: Database) {
    let mut stage = Stage::of(database, &["history-markers"]).await;
    let first = stage.tell(0).await;
    assert_eq!(first["text"], "before");
    let second = stage.tell(1).await;
    assert_eq!(second["text"], "after");
    stage.played().await;
    stage.has_every_row("ix-mark").await;
    let lines = stage.lines("ix-mark").await;
    for said in ["before", "after"] {
        assert_eq!(lines.iter().filter(|line| text(line) == said).count(), 1, "{said}: {lines:#?}");
    }
    assert_eq!(lines.iter().filter(|line| line["role"] == "marker" && text(line) == "Reset").count(), 1, "{lines:#?}");
}
