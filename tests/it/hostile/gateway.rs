//! A gateway whose connection breaks at each step of the protocol.
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use super::middle::{How, Step};
use crate::crash::number_from;
use crate::harness::{Database, is_terminal};

on_both_databases!(
    a_question_is_answered_once_wherever_the_connection_breaks,
    an_abort_is_done_once_wherever_the_connection_breaks,
    five_hundred_sessions_are_asked_at_once,
);

on_sqlite!(a_close_is_a_loss_whatever_its_code);

/// The steps of a connection before it is up, in their order.
pub(crate) const OF_THE_LINK: [Step; 13] = [
    Step::Accepted,
    Step::HalfUpgraded,
    Step::Upgraded,
    Step::Challenged,
    Step::Asked("connect"),
    Step::Taken("connect"),
    Step::Answered("connect"),
    Step::Asked("agents.list"),
    Step::Taken("agents.list"),
    Step::Asked("models.list"),
    Step::Taken("models.list"),
    Step::Asked("sessions.list"),
    Step::Taken("sessions.list"),
];

/// The steps of a question.
const OF_A_QUESTION: [Step; 7] = [
    Step::Asked("chat.history"),
    Step::Taken("chat.history"),
    Step::Asked("chat.send"),
    Step::Taken("chat.send"),
    Step::Streaming(1),
    Step::Streaming(4),
    Step::Ending,
];

/// In which ways a connection breaks.
pub(crate) const BREAKS: [How; 6] =
    [How::Ends, How::Resets, How::Tears, How::Closes(1000), How::Closes(1011), How::Closes(1012)];

/// How long all the steps of one question may take, each of which has its own patience.
const STEPS_MAX: Duration = Duration::from_secs(120);

/// Requests that may be under way at a gateway: `gateway.requests_in_flight_max`, as it is by default.
const REQUESTS_MAX: usize = 32;

async fn a_question_is_answered_once_wherever_the_connection_breaks(database: Database) {
    let rounds = number_from("CLAWBROKER_TEST_ROUNDS", 1) as usize;
    println!("{rounds} rounds");
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    let mut asked = Vec::new();
    for round in 0..rounds {
        for (n, step) in OF_THE_LINK.iter().chain(&OF_A_QUESTION).enumerate() {
            // As many rounds as there are ways break each step in each way.
            let how = BREAKS[(n + round) % BREAKS.len()];
            let session = format!("s{round}-{}", asked.len());
            let answer = format!("one two three four five six, {session}");
            let question = format!("say[chunks=6,ms=2]: {answer}");
            let faults = asked.len() + 1;
            let one = async {
                stage.middle.breaks(*step, how);
                let asks = browser.ask(&session, &question);
                if OF_THE_LINK.contains(step) {
                    tokio::join!(stage.cut_until_played(faults), asks);
                } else {
                    asks.await;
                    stage.played(faults).await;
                }
                stage.bystander.is_served().await;
                stage.connected().await;
                browser.until_end_of(&session).await;
            };
            let took = tokio::time::timeout(STEPS_MAX, one).await;
            assert!(took.is_ok(), "{how:?} at {step:?} in round {round}: no answer\n{}", stage.broker.log());
            asked.push((session, answer, *step, how));
        }
    }
    // What comes late would come by now.
    browser.drain(Duration::from_millis(500)).await;
    browser.catch_up().await;
    for (session, answer, step, how) in &asked {
        println!("{how:?} at {step:?}");
        stage.is_answered_once(session, &browser, answer).await;
    }
    stage.is_at_rest().await;
}

/// Nobody waits for the end of a run that was not to go on, and it has one.
async fn an_abort_is_done_once_wherever_the_connection_breaks(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    let steps = [Step::Asked("chat.abort"), Step::Taken("chat.abort"), Step::Ending];
    for (index, step) in steps.into_iter().enumerate() {
        let session = format!("a{index}");
        browser.ask(&session, "gate never: one two").await;
        browser.until("a delta", |frame| frame["state"] == "delta" && frame["sessionKey"] == session).await;
        stage.middle.breaks(step, How::Resets);
        browser.send(json!({ "type": "abort", "sessionKey": session })).await;
        stage.played(index + 1).await;
        stage.connected().await;
        let end = browser.until_terminal().await;
        assert_eq!((&end["state"], &end["sessionKey"]), (&json!("aborted"), &json!(session)), "{step:?}: {end}");
        // The session goes on.
        browser.ask(&session, "say: and then").await;
        assert_eq!(browser.until_terminal().await["text"], "and then", "{step:?}");
    }
    stage.is_at_rest().await;
    assert_eq!(browser.seen.iter().filter(|frame| is_terminal(frame)).count(), 2 * steps.len());
    assert_eq!(stage.gateway.sends().len(), 2 * steps.len(), "nothing was asked twice");
}

/// The link keeps to its bound of requests, and loses nothing when the connection breaks meanwhile.
async fn five_hundred_sessions_are_asked_at_once(database: Database) {
    let settings = "[limits]\nframes_burst_max = 1000\n";
    let mut stage = Stage::on(&database, settings).await;
    stage.middle.breaks(Step::Streaming(300), How::Resets);
    let mut browser = stage.browser().await;
    let sessions: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    for session in &sessions {
        let message = format!("say[chunks=2,ms=1]: answer in {session}");
        browser.send(json!({ "type": "chat", "sessionKey": session, "message": message })).await;
    }
    let mut ends = 0;
    while ends < sessions.len() {
        let frame = browser.next().await.unwrap_or_else(|| panic!("closed: {:?}", browser.closed));
        assert!(frame["type"] != "error", "{frame}");
        if is_terminal(&frame) {
            ends += 1;
            if ends % 50 == 0 {
                // This one is not left unread for as long as an answer takes.
                stage.bystander.hears().await;
            }
        }
        if frame["type"] == "disconnected" {
            stage.connected().await;
        }
    }
    stage.played(1).await;
    let most = stage.middle.most_asked();
    assert!((2..=REQUESTS_MAX).contains(&most), "{most} requests were under way at once");
    for (n, session) in sessions.iter().enumerate() {
        stage.is_answered_once(session, &browser, &format!("answer in {session}")).await;
        if n % 50 == 0 {
            browser.catch_up().await;
            stage.bystander.is_served().await;
        }
    }
    stage.is_at_rest().await;
}

async fn a_close_is_a_loss_whatever_its_code(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    // The last ones must not be on a wire at all.
    let codes = [1000, 1001, 1002, 1003, 1008, 1009, 1011, 1012, 3000, 4999, 1006, 1005, 0, 65_535];
    for (index, code) in codes.into_iter().enumerate() {
        let session = format!("c{code}");
        let answer = format!("after {code} it goes on");
        stage.middle.breaks(Step::Streaming(2), How::Closes(code));
        // The loss may be told before the question is acknowledged.
        let asked_at = browser.seen.len();
        browser.ask(&session, &format!("say[chunks=5,ms=5]: {answer}")).await;
        let gone = browser.since(asked_at, "the loss", |frame| frame["type"] == "disconnected").await;
        assert_eq!(gone["gateway"]["state"], "waiting", "{gone}");
        assert!(gone["retryInMs"].is_u64(), "{gone}");
        if index < 10 {
            assert!(gone["reason"].to_string().contains(&format!("closed with {code} enough")), "{gone}");
        }
        // The first time it comes back by itself, like any other; the rest of the test does not wait for that.
        if index > 0 {
            stage.connected().await;
        }
        browser.since(asked_at, "the return", |frame| frame["type"] == "reconnected").await;
        let is_end = |frame: &Value| is_terminal(frame) && frame["sessionKey"] == session;
        browser.since(asked_at, "the end", is_end).await;
        stage.is_answered_once(&session, &browser, &answer).await;
        stage.bystander.is_served().await;
    }
    stage.is_at_rest().await;
}
