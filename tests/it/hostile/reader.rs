//! Browsers that stop reading, and browsers that come and go: what they have in the end is exact.
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::raw::{Raw, Said, frame, text};
use super::{Bystander, LONG, broker_with, has_not_grown, is_sound, memory_before, nothing_is_held};
use crate::crash::{check, number_from};
use crate::harness::{Broker, Database, Seeded};

on_both_databases!(browsers_that_come_and_go_have_it_all_in_the_end);
on_sqlite!(a_reader_that_stops_is_sent_away_and_resumes, a_reader_that_never_comes_back_is_cut);

/// Bytes of one line in the tests of readers.
const LINE_BYTES: usize = 60_000;

/// What the log says of a reader that is sent away.
const AWAY: &str = "reads too slowly";

/// The session of the calm gateway whose lines the readers are told. The bystander, who is not read all the time, hears
/// nothing of it.
const LINES: &str = "lines";

/// Makes that session, with a question and its answer. The gateway has been asked for its log then, of which nobody who
/// comes later is told any more.
async fn begin_lines(broker: &Broker) {
    let mut browser = broker.browser("/ws/chat/calm").await;
    browser.ask(LINES, "say: here they begin").await;
    assert_eq!(browser.until_terminal().await["seq"], 2);
}

/// Adds lines to that session.
async fn say_lines(broker: &Broker, count: usize) {
    let (status, shown) = broker.get(&format!("/api/gateways/calm/sessions/{LINES}")).await;
    assert_eq!(status, 200, "{shown}");
    let path = format!("/api/admin/conversations/{}/messages", shown["id"].as_str().expect("an id"));
    for n in 0..count {
        let content = format!("{n} {}", "x".repeat(LINE_BYTES));
        let (status, answer) = broker.post(&path, json!({ "content": content, "deliver": false })).await;
        assert_eq!(status, 201, "{answer}");
    }
}

/// Returns the largest outbox of all sockets, in bytes.
async fn outbox_bytes(broker: &Broker) -> u64 {
    let began = Instant::now();
    loop {
        let (_, reports) = broker.get("/api/admin/actors?actor=browser_session").await;
        let items = reports["items"].as_array().into_iter().flatten();
        // Nobody tells of themselves in time on a machine that is too busy.
        if let Some(most) = items.filter_map(|report| report["state"]["bytes_waiting"].as_u64()).max() {
            return most;
        }
        assert!(began.elapsed() < LONG, "no socket tells of itself: {reports}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads the lines after `after` on a fresh socket: exactly those, in order.
async fn resumes(broker: &Broker, after: i64, last: i64) {
    let mut back = broker.browser("/ws/chat/calm").await;
    back.send(json!({ "type": "resume", "sessionKey": LINES, "after": after })).await;
    assert_eq!(back.until_type("resumed").await["lastSeq"], last);
    for seq in after + 1..=last {
        assert_eq!(back.until_type("message").await["message"]["seq"], seq);
    }
    back.send(json!({ "type": "ping" })).await;
    assert_eq!(back.next().await.expect("open")["type"], "pong", "nothing else is behind them");
}

async fn a_reader_that_stops_is_sent_away_and_resumes(database: Database) {
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    begin_lines(&broker).await;
    // On a machine that is too busy to read as fast, a reader is cut before it comes to the close frame.
    let (mut code, mut seq) = (None, 2);
    for _ in 0..10 {
        code = is_sent_away(&broker, &mut bystander, &mut seq).await;
        if code.is_some() {
            break;
        }
    }
    assert_eq!(code, Some(1013), "a reader that reads on is told why it was sent away");
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    is_sound(&broker).await;
}

/// Has a reader stop until it is sent away, read on, and resume on a fresh socket. Returns the code of the close frame, if
/// it came to that. `seq` is the last line of the session.
async fn is_sent_away(broker: &Broker, bystander: &mut Bystander, seq: &mut i64) -> Option<u16> {
    let (first, sent_away_before) = (*seq, broker.log().matches(AWAY).count());
    let is_away = || broker.log().matches(AWAY).count() > sent_away_before;
    let mut other = broker.browser("/ws/chat/calm").await;
    other.send(json!({ "type": "subscribe", "sessionKey": LINES })).await;
    other.until_type("subscribed").await;
    let mut slow = Raw::open_narrow(broker).await;
    slow.write(&text(&json!({ "type": "subscribe", "sessionKey": LINES }).to_string())).await;
    slow.until(|frame| frame["type"] == "subscribed").await;
    // It stops, and the others go on: each line comes to them when it has been said.
    loop {
        assert!(*seq < first + 400, "a reader that has stopped is given 24 MB");
        say_lines(broker, 1).await;
        *seq += 1;
        assert_eq!(other.until_type("message").await["message"]["seq"], *seq);
        if is_away() {
            break;
        }
        if *seq % 16 == 0 {
            bystander.is_served().await;
            // Slow, because the transport of such a reader does not answer. A single frame goes through, however large.
            let waiting = outbox_bytes(broker).await;
            assert!(waiting <= 1_048_576 + LINE_BYTES as u64 + 1_000, "the outbox is bounded: {waiting}");
            // Its time for the close frame may have begun meanwhile.
            if is_away() {
                break;
            }
        }
    }
    // Now it reads on: whole lines without a gap, then the close that says why. Two seconds after the broker has decided
    // so, which is before it is known here, it is cut.
    slow.widen();
    let mut last = first;
    let code = loop {
        match slow.next().await {
            Said::Frame(frame) => {
                assert_eq!(frame["message"]["seq"], last + 1, "{frame}");
                last += 1;
            }
            Said::Close(code) => break Some(code),
            Said::Gone => break None,
            said => panic!("{said:?} behind line {last}"),
        }
    };
    assert!(last < *seq, "it was sent away before it had all");
    drop(slow);
    say_lines(broker, 3).await;
    *seq += 3;
    resumes(broker, last, *seq).await;
    bystander.is_served().await;
    code
}

/// It does not even take the close frame.
async fn a_reader_that_never_comes_back_is_cut(database: Database) {
    let broker = broker_with(&database, "[limits]\noutbox_bytes_max = 131072\n").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    begin_lines(&broker).await;
    let mut slow = Vec::new();
    for _ in 0..24 {
        let mut raw = Raw::open_narrow(&broker).await;
        raw.write(&text(&json!({ "type": "subscribe", "sessionKey": LINES }).to_string())).await;
        raw.until(|frame| frame["type"] == "subscribed").await;
        slow.push(raw);
    }
    let memory = memory_before(&broker);
    let mut lines = 2;
    let said_kib = |lines: i64| slow.len() as u64 * (lines as u64 - 2) * LINE_BYTES as u64 / 1_024;
    // A system that holds little has the broker send them away early. Then more is said, until half of it is more than the
    // broker takes for its own work.
    while broker.log().matches(AWAY).count() < slow.len() || said_kib(lines) < 64 << 10 {
        assert!(lines < 400, "readers that have stopped are given 24 MB each");
        say_lines(&broker, 1).await;
        lines += 1;
        if lines % 16 == 0 {
            bystander.is_served().await;
        }
    }
    // Most of what was said to them is with the system, and the rest is not kept.
    has_not_grown(&broker, memory, said_kib(lines) / 2);
    // They are still there, and do not read.
    nothing_is_held(&broker).await;
    for mut raw in slow {
        let mut last = 2;
        let end = loop {
            match raw.next().await {
                Said::Frame(frame) => {
                    assert_eq!(frame["message"]["seq"], last + 1, "{frame}");
                    last += 1;
                }
                said => break said,
            }
        };
        // It was cut off before there was room for a close frame; one that came all the same says why.
        assert!(matches!(end, Said::Gone | Said::Close(1013)), "{end:?}");
        assert!(last < lines);
        resumes(&broker, last, lines).await;
        bystander.is_served().await;
    }
    is_sound(&broker).await;
}

/// Browsers that go away in the middle of something.
const BROWSERS: usize = 6;

/// How a browser goes away.
#[derive(Clone, Copy, Debug)]
enum Away {
    Closes,
    Drops,
    Resets,
    /// In the middle of a frame of its own.
    Tears,
    /// It was not read for a while before.
    Stalls,
}

async fn browsers_that_come_and_go_have_it_all_in_the_end(database: Database) {
    let disconnects = number_from("CLAWBROKER_TEST_DISCONNECTS", 60);
    let seed = number_from("CLAWBROKER_TEST_SEED", 0xC0DE);
    println!("{disconnects} disconnects with seed {seed}");
    let mut random = Seeded::new(seed);
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let memory = memory_before(&broker);
    let each = disconnects / BROWSERS as u64;
    let visits = (0..BROWSERS).map(|n| come_and_go(&broker, format!("v{n}"), each, random.part()));
    let visits = join_all(visits);
    tokio::pin!(visits);
    let until = Instant::now() + 4 * LONG + Duration::from_millis(500 * disconnects);
    let journals = loop {
        tokio::select! {
            journals = &mut visits => break journals,
            () = tokio::time::sleep(Duration::from_secs(5)) => bystander.is_served().await,
        }
        assert!(Instant::now() < until, "with seed {seed} somebody waits for ever:\n{}", broker.log());
    };
    for (n, journal) in journals.into_iter().enumerate() {
        let session = format!("v{n}");
        let log = check::log(&broker, "calm", &session).await;
        let text_of = |value: &Value| value.as_str().expect("a text").to_owned();
        let kept: Vec<(String, String)> =
            log.iter().map(|line| (text_of(&line["id"]), text_of(&line["content"][0]["text"]))).collect();
        assert_eq!(kept.len(), 2 * journal.questions, "{session}: a question, an answer, and so on");
        // By `seq`, which has no gaps on either side.
        let told: Vec<(String, String)> = journal.lines.into_values().collect();
        assert_eq!(kept, told, "{session}");
    }
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    // For the long runs to tell: 10,000 visits bring some hundred MiB.
    has_not_grown(&broker, memory, 32 << 10);
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

/// What a browser was told over all its sockets.
#[derive(Default)]
struct Journal {
    /// By `seq`: id and text.
    lines: BTreeMap<i64, (String, String)>,
    questions: usize,
    /// What was told on this socket.
    told: Vec<String>,
    /// Text of the run in view on this socket, as far as the increments go.
    shown: String,
    run: Option<String>,
}

impl Journal {
    fn last_seq(&self) -> i64 {
        self.lines.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    fn line(&mut self, seq: &Value, id: &Value, text: &str) {
        let (seq, id) = (seq.as_i64().expect("a number"), id.as_str().expect("an id").to_owned());
        match self.lines.get(&seq) {
            Some(known) => assert_eq!(known, &(id, text.to_owned()), "two lines at {seq}"),
            None => {
                assert_eq!(seq, self.last_seq() + 1, "a gap: {:#?}", self.told);
                self.lines.insert(seq, (id, text.to_owned()));
            }
        }
    }

    /// Takes a frame that was told while this question was asked.
    fn take(&mut self, frame: &Value, question: &str, answer: &str) {
        self.told.push(frame.to_string());
        match frame["type"].as_str().expect("a type") {
            "ack" => self.line(&frame["seq"], &frame["messageId"], question),
            "message" => {
                let message = &frame["message"];
                let text = message["content"][0]["text"].as_str().expect("a text");
                self.line(&message["seq"], &message["id"], text);
            }
            "stream" => {
                let run = frame["runId"].as_str().expect("a run").to_owned();
                if self.run.as_ref() != Some(&run) {
                    (self.run, self.shown) = (Some(run), String::new());
                }
                let text = frame["text"].as_str().unwrap_or_default();
                match frame["state"].as_str().expect("a state") {
                    "delta" => {
                        assert_eq!(frame["at"], json!(self.shown.encode_utf16().count()), "{frame}");
                        self.shown.push_str(text);
                    }
                    "snapshot" => text.clone_into(&mut self.shown),
                    "final" => {
                        assert!(text.starts_with(&self.shown), "what was shown is part of the end");
                        assert_eq!(text, answer);
                        self.line(&frame["seq"], &frame["messageId"], text);
                    }
                    "status" => {}
                    other => panic!("{other}: {frame}"),
                }
                assert!(answer.starts_with(&self.shown), "`{}` is not part of the answer", self.shown);
            }
            "error" | "reset" => panic!("{frame}"),
            _ => {}
        }
    }
}

/// Asks one question after another, and goes away so many times in the middle of everything.
async fn come_and_go(broker: &Broker, session: String, disconnects: u64, mut random: Seeded) -> Journal {
    let body = json!({ "session_key": session });
    let (status, made) = broker.post("/api/gateways/calm/sessions", body).await;
    assert_eq!(status, 200, "{made}");
    let mut journal = Journal::default();
    let mut gone = 0;
    while gone < disconnects || journal.questions == 0 {
        let n = journal.questions;
        let answer = format!("answer {n} in {session}: {}", "grüße 👋 und mehr ".repeat(1 + random.below(5) as usize));
        let answer = answer.trim_end().to_owned();
        let question = format!("say[chunks={},ms={}]: {answer}", 4 + random.below(20), 1 + random.below(4));
        let key = format!("{session}-{n}");
        journal.questions += 1;
        let ends_at = 2 * journal.questions as i64;
        while journal.last_seq() < ends_at {
            let mut raw = Raw::open_at(broker, "/ws/chat/calm?deltas=increment").await;
            (journal.run, journal.shown) = (None, String::new());
            let after = journal.last_seq();
            journal.told = vec![format!("resumed after {after}")];
            let resume = json!({ "type": "resume", "sessionKey": session, "after": after });
            let mut hello = text(&resume.to_string());
            if after < ends_at - 1 {
                let chat = json!({ "type": "chat", "sessionKey": session, "message": question, "idempotencyKey": key });
                hello.extend(text(&chat.to_string()));
            }
            raw.write(&hello).await;
            let stays = if gone < disconnects { random.ms(0, 60) } else { LONG };
            let until = Instant::now() + stays;
            while journal.last_seq() < ends_at {
                match tokio::time::timeout_at(until, raw.next()).await {
                    Ok(Said::Frame(frame)) => journal.take(&frame, &question, &answer),
                    Ok(Said::Pong(_) | Said::Ping) => {}
                    Ok(said) => panic!("{said:?} without a reason"),
                    Err(_) => {
                        assert!(gone < disconnects, "no answer in {session}");
                        break;
                    }
                }
            }
            gone += 1;
            let ways = [Away::Closes, Away::Drops, Away::Resets, Away::Tears, Away::Stalls];
            go_away(raw, ways[random.below(ways.len() as u64) as usize], &mut random).await;
        }
    }
    journal
}

async fn go_away(mut raw: Raw, how: Away, random: &mut Seeded) {
    match how {
        Away::Closes => {
            raw.try_write(&frame(0x88, &1001_u16.to_be_bytes()), LONG).await;
        }
        Away::Drops => {}
        Away::Resets => raw.reset(),
        Away::Tears => {
            let whole = text("{\"type\":\"history\",\"sessionKey\":\"calm\"}");
            let until = 1 + random.below(whole.len() as u64 - 1) as usize;
            raw.try_write(&whole[..until], LONG).await;
        }
        Away::Stalls => tokio::time::sleep(random.ms(0, 50)).await,
    }
}
