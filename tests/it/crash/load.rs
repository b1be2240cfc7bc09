//! Clients that live through crashes: they come back, resume, and repeat with the same key what was not acknowledged.
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{self, Browser, Seeded};

/// Where the broker is, for as long as it is up.
#[derive(Clone)]
pub(super) struct Broker {
    state: watch::Sender<State>,
}

#[derive(Clone, Default)]
struct State {
    up: Option<Place>,
    finish: bool,
}

#[derive(Clone)]
pub(super) struct Place {
    address: String,
    token: String,
}

impl Broker {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }

    pub(super) fn up(&self, broker: &harness::Broker) {
        let place = Place { address: broker.address.clone(), token: broker.token.clone() };
        self.state.send_modify(|state| state.up = Some(place));
    }

    pub(super) fn down(&self) {
        self.state.send_modify(|state| state.up = None);
    }

    /// Has the clients end when they have all their answers.
    pub(super) fn finish(&self) {
        self.state.send_modify(|state| state.finish = true);
    }

    fn is_finishing(&self) -> bool {
        self.state.borrow().finish
    }

    async fn place(&self) -> Place {
        let mut changes = self.state.subscribe();
        let state = changes.wait_for(|state| state.up.is_some()).await.expect("the sender is here");
        state.up.clone().expect("it is up")
    }

    async fn browser(&self) -> Browser {
        loop {
            let place = self.place().await;
            if let Some(browser) = Browser::try_open(&place.address, "/ws/chat/gw", Some(&place.token)).await {
                return browser;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a client was told.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) session: String,
    pub(super) asked: Vec<Asked>,
    /// The lines it saw: `seq` and message id.
    pub(super) lines: BTreeMap<i64, String>,
}

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) message_id: String,
    pub(super) seq: i64,
}

/// A line that was accepted over REST.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) message_id: String,
}

impl Journal {
    fn last_seq(&self) -> i64 {
        self.lines.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// Takes a line that came; CNV-1: the next one, or one that is known.
    fn line(&mut self, seq: i64, id: &str, seen: &Browser) {
        let last = self.last_seq();
        match self.lines.get(&seq) {
            Some(known) => assert_eq!(known, id, "two lines at {seq} of {}", self.session),
            None => {
                assert_eq!(seq, last + 1, "a gap in {}: {}", self.session, seen.transcript());
                self.lines.insert(seq, id.to_owned());
            }
        }
    }
}

/// Asks one question after another until told to finish.
pub(super) async fn chat(broker: Broker, session: String, mut random: Seeded) -> Journal {
    let mut journal = Journal { session: session.clone(), asked: Vec::new(), lines: BTreeMap::new() };
    let mut n = 0;
    while !broker.is_finishing() {
        n += 1;
        let text = format!("say[chunks={},ms=3]: answer {n} in {session}", 2 + random.below(8));
        let asked = ask(&broker, &mut journal, &text, &format!("{session}-{n}")).await;
        journal.asked.push(asked);
        tokio::time::sleep(random.ms(0, 30)).await;
    }
    journal
}

/// Asks one question and waits for its answer, over as many sockets as it takes.
async fn ask(broker: &Broker, journal: &mut Journal, text: &str, key: &str) -> Asked {
    let session = journal.session.clone();
    let mut acknowledged: Option<(String, i64)> = None;
    loop {
        let mut tab = broker.browser().await;
        let after = journal.last_seq();
        let hello = if after == 0 {
            json!({ "type": "subscribe", "sessionKey": session })
        } else {
            json!({ "type": "resume", "sessionKey": session, "after": after })
        };
        tab.try_send(hello).await;
        if acknowledged.is_none() {
            let question = json!({ "type": "chat", "sessionKey": session, "message": text, "idempotencyKey": key });
            tab.try_send(question).await;
        }
        while let Some(frame) = tab.next().await {
            match frame["type"].as_str().unwrap() {
                "ack" => {
                    let (id, seq) = (text_of(&frame["messageId"]), number(&frame["seq"]));
                    assert_eq!(frame["idempotencyKey"], key, "{frame}");
                    journal.line(seq, &id, &tab);
                    acknowledged = Some((id, seq));
                }
                "message" => {
                    let message = &frame["message"];
                    let (id, seq) = (text_of(&message["id"]), number(&message["seq"]));
                    journal.line(seq, &id, &tab);
                }
                "stream" if frame["seq"].is_i64() => {
                    assert_eq!(frame["state"], "final", "{frame}");
                    let (id, seq) = (text_of(&frame["messageId"]), number(&frame["seq"]));
                    journal.line(seq, &id, &tab);
                }
                "error" => assert!(
                    ["shutting_down", "store_busy", "standby"].iter().any(|code| frame["code"] == *code),
                    "{frame}"
                ),
                "reset" => panic!("{frame}: {}", tab.transcript()),
                _ => {}
            }
            // Nobody else says anything in this session: what comes behind the question is its answer.
            if let Some((message_id, seq)) = acknowledged.take_if(|(_, asked)| journal.last_seq() > *asked) {
                return Asked { text: text.to_owned(), message_id, seq };
            }
        }
    }
}

/// Adds lines over REST, each with a key, until told to finish.
pub(super) async fn write(broker: Broker, conversation: String, mut random: Seeded) -> Vec<Written> {
    let mut written = Vec::new();
    while !broker.is_finishing() {
        let text = format!("note {}", written.len());
        let body = json!({ "content": text, "deliver": false });
        let message_id = loop {
            let place = broker.place().await;
            let request = awc::Client::new()
                .post(format!("http://{}/api/admin/conversations/{conversation}/messages", place.address))
                .timeout(Duration::from_secs(5))
                .insert_header(("Authorization", format!("Bearer {}", place.token)))
                .insert_header(("Idempotency-Key", text.replace(' ', "-")));
            if let Ok(mut response) = request.send_json(&body).await {
                let status = response.status().as_u16();
                let Ok(answer) = response.json::<Value>().await else { continue };
                match status {
                    201 => break text_of(&answer["message"]["id"]),
                    503 => {}
                    other => panic!("{other}: {answer}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        written.push(Written { text, message_id });
        tokio::time::sleep(random.ms(0, 20)).await;
    }
    written
}

/// Comes, reads a session from some place on, and goes; returns how often.
pub(super) async fn resume_again_and_again(broker: Broker, sessions: usize, mut random: Seeded) -> usize {
    let mut resumes = 0;
    while !broker.is_finishing() {
        let mut tab = broker.browser().await;
        let session = format!("chat-{}", random.below(sessions as u64));
        tab.try_send(json!({ "type": "subscribe", "sessionKey": session })).await;
        let mut last = None;
        while let Some(frame) = tab.next().await {
            if frame["type"] == "subscribed" {
                last = frame["lastSeq"].as_i64();
                break;
            }
        }
        let Some(last) = last.filter(|last| *last > 0) else { continue };
        let after = random.below(last as u64) as i64;
        tab.try_send(json!({ "type": "resume", "sessionKey": session, "after": after })).await;
        let mut expected = None;
        while let Some(frame) = tab.next().await {
            match frame["type"].as_str() {
                Some("resumed") => expected = Some(after + 1),
                Some("message") => {
                    let seq = number(&frame["message"]["seq"]);
                    let Some(next) = expected else { continue };
                    assert_eq!(seq, next, "a gap: {}", tab.transcript());
                    expected = Some(next + 1);
                    if seq >= last {
                        resumes += 1;
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    resumes
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("a number: {value}"))
}
