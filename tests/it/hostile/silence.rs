//! A gateway that says nothing, or says it slowly: what is awaited has an end, and what was held for it is given back.
use std::time::Duration;

use serde_json::json;

use super::middle::{How, Step};
use super::{LONG, Stage};
use crate::harness::Database;

on_both_databases!(a_connection_that_is_half_open_is_found, an_answer_that_is_lost_is_made_up_for);
on_sqlite!(
    silence_in_the_handshake_is_not_waited_for,
    a_gateway_that_says_byte_by_byte_is_heard,
    a_gateway_that_takes_too_long_to_say_a_word_is_left,
    a_gateway_that_answers_nothing_but_pings_is_left,
);

/// Times of a handshake that a test can wait for. On a busy machine a good one may take longer, and one more is made.
const QUICK_HANDSHAKE: &str = "[gateway]\nconnect_timeout_ms = 400\nchallenge_timeout_ms = 400\n";

/// Silence that a test can wait for.
const QUICK_TICK: &str = "[gateway]\nhealth_check_interval_s = 1\n";

/// A time for one answer that a test can wait for. No connection ends by it.
const QUICK_ANSWER: &str = "[gateway]\nrequest_timeout_ms = 400\n";

/// Short times for silence, for an answer and for a handshake.
const QUICK_ALL: &str =
    "[gateway]\nhealth_check_interval_s = 1\nrequest_timeout_ms = 400\nchallenge_timeout_ms = 1000\n";

/// Silence of ten seconds, which no good connection keeps even on a busy machine, and a time for a dial that is shorter
/// than an answer that comes byte by byte.
const SLOW_WORD: &str = "[gateway]\nhealth_check_interval_s = 5\nconnect_timeout_ms = 2000\n";

/// Pause behind each byte with which even the shortest text frame takes longer than that silence.
const SLOW_BYTE: Duration = Duration::from_millis(250);

async fn silence_in_the_handshake_is_not_waited_for(database: Database) {
    let mut stage = Stage::on(&database, QUICK_HANDSHAKE).await;
    let mut browser = stage.browser().await;
    let steps = [Step::Accepted, Step::HalfUpgraded, Step::Upgraded, Step::Challenged, Step::Asked("connect")];
    for step in steps.iter().chain(&steps[2..]) {
        stage.middle.breaks(*step, How::FallsSilent);
    }
    stage.cut_until_played(1).await;
    browser.until_type("disconnected").await;
    browser.ask("a", "say: at last").await;
    stage.played(steps.len() + 3).await;
    stage.connected().await;
    browser.until_terminal().await;
    stage.bystander.is_served().await;
    stage.is_answered_once("a", &browser, "at last").await;
    stage.left().await;
    stage.is_at_rest().await;
}

/// The other side is still there, or seems to be, and neither reads nor says anything.
async fn a_connection_that_is_half_open_is_found(database: Database) {
    let mut stage = Stage::on(&database, QUICK_TICK).await;
    let mut browser = stage.browser().await;
    let steps = [
        Step::Asked("agents.list"),
        Step::Taken("chat.history"),
        Step::Asked("chat.send"),
        Step::Streaming(2),
        Step::Ending,
    ];
    for (index, step) in steps.into_iter().enumerate() {
        let session = format!("h{index}");
        stage.middle.breaks(step, How::FallsSilent);
        if index == 0 {
            stage.cut_until_played(1).await;
        }
        browser.ask(&session, "say[chunks=4,ms=3]: in spite of silence").await;
        stage.played(index + 1).await;
        stage.left().await;
        stage.bystander.is_served().await;
        stage.connected().await;
        browser.until_end_of(&session).await;
        stage.is_answered_once(&session, &browser, "in spite of silence").await;
    }
    stage.left().await;
    stage.is_at_rest().await;
}

/// The connection is good, and one answer never comes.
async fn an_answer_that_is_lost_is_made_up_for(database: Database) {
    let mut stage = Stage::on(&database, QUICK_ANSWER).await;
    let mut browser = stage.browser().await;
    let steps = [
        Step::Taken("chat.history"),
        Step::Asked("chat.send"),
        Step::Taken("chat.send"),
        Step::Ending,
        Step::Asked("agents.list"),
        Step::Taken("sessions.list"),
    ];
    for (index, step) in steps.into_iter().enumerate() {
        let session = format!("l{index}");
        stage.middle.breaks(step, How::Loses);
        if index >= 4 {
            stage.middle.cut();
            browser.until_type("disconnected").await;
            stage.connected().await;
        }
        browser.ask(&session, "say[chunks=4,ms=3]: asked for again").await;
        browser.until_end_of(&session).await;
        stage.played(index + 1).await;
        stage.is_answered_once(&session, &browser, "asked for again").await;
        stage.bystander.is_served().await;
    }
    assert_eq!(stage.middle.dialled(), 3, "nothing but an answer was missing");
    stage.is_at_rest().await;
}

async fn a_gateway_that_says_byte_by_byte_is_heard(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    stage.middle.drip(Some(Duration::ZERO));
    stage.middle.cut();
    browser.until_type("disconnected").await;
    stage.connected().await;
    browser.ask("slow", "say[chunks=6,ms=3]: letter by letter").await;
    browser.until_terminal().await;
    stage.is_answered_once("slow", &browser, "letter by letter").await;
    stage.is_at_rest().await;
}

async fn a_gateway_that_takes_too_long_to_say_a_word_is_left(database: Database) {
    let mut stage = Stage::on(&database, SLOW_WORD).await;
    let mut browser = stage.browser().await;
    // In the middle of a run, then in the handshakes that follow.
    let answer = "it was not in vain, however slowly each of these words came";
    browser.ask("slow", &format!("say[chunks=40,ms=100]: {answer}")).await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    stage.middle.drip(Some(SLOW_BYTE));
    browser.until_type("disconnected").await;
    let dialled = stage.middle.dialled();
    let began = tokio::time::Instant::now();
    while stage.middle.dialled() < dialled + 3 {
        assert!(began.elapsed() < LONG, "it is dialled again:\n{}", stage.broker.log());
        assert_ne!(stage.state().await, "connected");
        stage.hurry().await;
        stage.bystander.is_served().await;
    }
    stage.middle.drip(None);
    stage.connected().await;
    browser.until_terminal().await;
    stage.is_answered_once("slow", &browser, answer).await;
    stage.left().await;
    stage.is_at_rest().await;
    assert_eq!(browser.seen.iter().filter(|frame| frame["type"] == json!("reconnected")).count(), 1);
}

/// Its WebSocket library lives, and nothing behind it.
async fn a_gateway_that_answers_nothing_but_pings_is_left(database: Database) {
    let mut stage = Stage::on(&database, QUICK_ALL).await;
    let mut browser = stage.browser().await;
    stage.middle.edit(|_| Vec::new());
    browser.ask("mute", "say: heard in the end").await;
    browser.until_type("disconnected").await;
    stage.middle.edit(|frame| vec![frame]);
    stage.connected().await;
    browser.until_end_of("mute").await;
    stage.is_answered_once("mute", &browser, "heard in the end").await;
    stage.is_at_rest().await;
}
