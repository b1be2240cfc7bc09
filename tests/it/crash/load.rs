//! Clients that live through crashes: they come back, resume, and repeat with the same key what was not acknowledged.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{self, Browser, Seeded};

/// How long a client waits before it tries again.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
/// Questions of one session; then its client begins another one. A log of so many and their answers can be resumed at once.
const QUESTIONS_MAX: usize = 2_000;
/// What a broker that is going down or coming up may answer.
const ON_THE_WAY: [&str; 3] = ["shutting_down", "store_busy", "standby"];

/// Where the broker is, for as long as it is up, and how often it has refused something.
#[derive(Clone)]
pub(crate) struct Broker {
    state: watch::Sender<State>,
    /// What it may answer as well, because of what is done to it.
    also: &'static [&'static str],
    refusals: Rc<RefCell<BTreeMap<String, u64>>>,
    /// The session that each chat is in now.
    sessions: Rc<RefCell<BTreeMap<String, String>>>,
}

#[derive(Clone, Default)]
struct State {
    up: Option<Place>,
    finish: bool,
}

#[derive(Clone)]
pub(crate) struct Place {
    pub(super) address: String,
    pub(super) token: String,
}

impl Broker {
    pub(crate) fn new() -> Self {
        Self::that_may_answer(&[])
    }

    /// One that may answer with these codes as well.
    pub(crate) fn that_may_answer(also: &'static [&'static str]) -> Self {
        Self { state: watch::Sender::new(State::default()), also, refusals: Rc::default(), sessions: Rc::default() }
    }

    /// Returns how often it has refused something with this code.
    pub(crate) fn refusals(&self, code: &str) -> u64 {
        self.refusals.borrow().get(code).copied().unwrap_or(0)
    }

    /// Returns the session that a chat is in now.
    pub(crate) fn session_of(&self, chat: u64) -> String {
        let name = format!("chat-{chat}");
        self.sessions.borrow().get(&name).cloned().unwrap_or(name)
    }

    pub(super) fn refused(&self, answer: &Value, code: &Value) {
        let code = code.as_str().unwrap_or_else(|| panic!("a code: {answer}"));
        assert!(ON_THE_WAY.contains(&code) || self.also.contains(&code), "{answer}");
        *self.refusals.borrow_mut().entry(code.to_owned()).or_default() += 1;
    }

    pub(crate) fn up(&self, broker: &harness::Broker) {
        let place = Place { address: broker.address.clone(), token: broker.token.clone() };
        self.state.send_modify(|state| state.up = Some(place));
    }

    pub(crate) fn down(&self) {
        self.state.send_modify(|state| state.up = None);
    }

    /// Has the clients end when they have all their answers.
    pub(crate) fn finish(&self) {
        self.state.send_modify(|state| state.finish = true);
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.state.borrow().finish
    }

    pub(super) async fn place(&self) -> Place {
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
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a client was told.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) session: String,
    pub(crate) asked: Vec<Asked>,
    /// The lines it saw: `seq` and message id.
    pub(crate) lines: BTreeMap<i64, String>,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) text: String,
    pub(crate) message_id: String,
    pub(crate) seq: i64,
}

/// A line that was accepted over REST.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) message_id: String,
}

/// A user that was made over REST.
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) name: String,
    pub(crate) id: String,
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

/// Asks one question after another until told to finish, and one at least; returns what it was told in each session.
pub(crate) async fn chat(broker: Broker, name: String, mut random: Seeded) -> Vec<Journal> {
    let mut journals = Vec::new();
    while journals.is_empty() || !broker.is_finishing() {
        let session = if journals.is_empty() { name.clone() } else { format!("{name}-next-{}", journals.len()) };
        broker.sessions.borrow_mut().insert(name.clone(), session.clone());
        journals.push(chat_in(&broker, session, &mut random).await);
    }
    journals
}

async fn chat_in(broker: &Broker, session: String, random: &mut Seeded) -> Journal {
    let mut journal = Journal { session: session.clone(), asked: Vec::new(), lines: BTreeMap::new() };
    let mut n = 0;
    while n == 0 || (n < QUESTIONS_MAX && !broker.is_finishing()) {
        n += 1;
        let text = format!("say[chunks={},ms=3]: answer {n} in {session}", 2 + random.below(8));
        let asked = ask(broker, &mut journal, &text, &format!("{session}-{n}")).await;
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
                "error" => {
                    // Nobody says what became of it: it is said again, on a new socket.
                    broker.refused(&frame, &frame["code"]);
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
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

/// Adds lines over REST, each with a key, until told to finish, and one at least.
pub(crate) async fn write(broker: Broker, conversation: String, pause_ms: u64, mut random: Seeded) -> Vec<Written> {
    let path = format!("/api/admin/conversations/{conversation}/messages");
    let mut written = Vec::new();
    while written.is_empty() || !broker.is_finishing() {
        let text = format!("note {}", written.len());
        let body = json!({ "content": text, "deliver": false });
        let answer = post(&broker, &path, &text.replace(' ', "-"), &body).await;
        written.push(Written { text, message_id: text_of(&answer["message"]["id"]) });
        tokio::time::sleep(random.ms(0, pause_ms)).await;
    }
    written
}

/// Makes users over REST, each with a key, until told to finish, and one at least.
pub(crate) async fn add_users(broker: Broker, pause_ms: u64, mut random: Seeded) -> Vec<Added> {
    let mut added = Vec::new();
    while added.is_empty() || !broker.is_finishing() {
        let name = format!("person-{}", added.len());
        let body = json!({ "name": name, "role": "member" });
        let answer = post(&broker, "/api/admin/users", &format!("add-{name}"), &body).await;
        assert_eq!(answer["name"], name.as_str(), "{answer}");
        added.push(Added { name, id: text_of(&answer["id"]) });
        tokio::time::sleep(random.ms(0, pause_ms)).await;
    }
    added
}

/// Says something again and again with the same key until it is acknowledged, and returns the answer.
async fn post(broker: &Broker, path: &str, key: &str, body: &Value) -> Value {
    loop {
        let place = broker.place().await;
        let request = awc::Client::new()
            .post(format!("http://{}{path}", place.address))
            .timeout(Duration::from_secs(5))
            .insert_header(("Authorization", format!("Bearer {}", place.token)))
            .insert_header(("Idempotency-Key", key));
        if let Ok(mut response) = request.send_json(body).await {
            let status = response.status().as_u16();
            let later = response.headers().contains_key("Retry-After");
            let Ok(answer) = response.json::<Value>().await else { continue };
            match status {
                201 => return answer,
                503 | 507 => {
                    assert!(later, "when to come again: {answer}");
                    broker.refused(&answer, &answer["error"]["code"]);
                }
                other => panic!("{other}: {answer}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Comes, reads a session from some place on, and goes, until told to finish, and once at least; returns how often.
pub(crate) async fn resume_again_and_again(broker: Broker, sessions: usize, mut random: Seeded) -> usize {
    let mut resumes = 0;
    while resumes == 0 || !broker.is_finishing() {
        let mut tab = broker.browser().await;
        let session = broker.session_of(random.below(sessions as u64));
        tab.try_send(json!({ "type": "subscribe", "sessionKey": session })).await;
        let mut last = None;
        while let Some(frame) = tab.next().await {
            match frame["type"].as_str() {
                Some("subscribed") => last = frame["lastSeq"].as_i64(),
                Some("error") => broker.refused(&frame, &frame["code"]),
                _ => continue,
            }
            break;
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
                Some("error") => {
                    broker.refused(&frame, &frame["code"]);
                    break;
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
