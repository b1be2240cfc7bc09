//! What the replay gateway says next: plain state, without a socket.
//!
//! It goes through the recorded steps in order. At a request that the recorded client made and ours has yet to make it
//! waits; requests that ours never makes (asking twice, aborting what is over, a look at lists) are passed over. What
//! ours asks beyond the recording is answered from [`Log`] and from recorded lists.
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::log::Log;
use super::names::Names;
use super::recording::{Asked, Away, End, Recording, Step, What, canonical, lines};

/// The longest pause between two frames; recorded ones are up to minutes.
const PAUSE_MAX_MS: i64 = 5;

/// What happens to a dial.
pub(super) enum Dial {
    Fails(Away),
    Opens,
}

/// What to do on the open connection.
#[derive(Debug, PartialEq)]
pub(super) enum Play {
    Say(String),
    Nothing,
    Close(u16, String),
    Cut,
}

/// What the gateway was told, for the story to look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The parameters of each `connect`.
    pub(crate) connects: Vec<Value>,
    /// The parameters of each `chat.send`, repeated ones too.
    pub(crate) sends: Vec<Value>,
    /// The heads of the upgrade requests.
    pub(crate) upgrades: Vec<String>,
    /// What a real gateway would have objected to.
    pub(crate) faults: Vec<String>,
}

pub(super) struct Script {
    recording: Recording,
    log: Log,
    names: Names,
    /// Keys of questions that somebody else asks.
    others: HashSet<String>,
    /// Recorded keys that were asked, by our client or by others.
    used: HashSet<String>,
    /// Our client's keys, with the recorded ones that they stand for.
    our_keys: HashMap<String, String>,
    /// Waits for each look at history that was recorded, not only for the one after a reconnect.
    pub(super) waits_for_looks: bool,
    /// Connections that may be played; beyond it the last one is played again.
    pub(super) may_reach: usize,
    current: Option<usize>,
    steps: VecDeque<Step>,
    end: End,
    is_over: bool,
    /// Recorded ids of answered requests, and ours.
    ids: HashMap<String, String>,
    /// Requests that came before their time.
    held: VecDeque<Value>,
    last_seq: u64,
    clock_ms: i64,
    pub(super) seen: Seen,
}

impl Script {
    pub(super) fn new(recording: Recording, others: &[&str]) -> Self {
        Self {
            log: Log::of(&recording),
            names: Names::default(),
            others: others.iter().map(|key| (*key).to_owned()).collect(),
            used: HashSet::new(),
            our_keys: HashMap::new(),
            waits_for_looks: false,
            may_reach: usize::MAX,
            current: None,
            steps: VecDeque::new(),
            end: End::Left,
            is_over: true,
            ids: HashMap::new(),
            held: VecDeque::new(),
            last_seq: 0,
            clock_ms: 0,
            seen: Seen::default(),
            recording,
        }
    }

    /// Lets everything behind the first handshake have happened before.
    pub(super) fn skip(&mut self) {
        self.recording.connections.truncate(1);
        for connection in &mut self.recording.connections {
            let greeting = connection.steps.iter().position(|step| matches!(step.what, What::Answer { .. }));
            connection.steps.truncate(greeting.map_or(0, |at| at + 1));
        }
        self.clock_ms = self.recording.ends_ms;
    }

    /// Somebody dials.
    pub(super) fn dial(&mut self) -> Dial {
        let next = self.current.map_or(0, |current| current + 1);
        let is_next = self.is_over && self.has_next();
        if let Some(connection) = self.recording.connections.get_mut(next).filter(|_| is_next) {
            if !connection.away.is_empty() {
                return Dial::Fails(connection.away.remove(0));
            }
            self.current = Some(next);
            self.steps = connection.steps.iter().cloned().collect();
            self.end = connection.end.clone();
        } else {
            self.greet_again();
        }
        self.is_over = false;
        self.ids.clear();
        self.held.clear();
        self.last_seq = 0;
        Dial::Opens
    }

    fn has_next(&self) -> bool {
        let next = self.current.map_or(0, |current| current + 1);
        next < self.may_reach.min(self.recording.connections.len())
    }

    /// Begins the current connection once more: its handshake, then what is left of it.
    fn greet_again(&mut self) {
        let current = self.current.expect("the first dial opens the first connection");
        let connection = &self.recording.connections[current];
        let greeting = connection.steps.iter().position(|step| matches!(step.what, What::Answer { .. }));
        let greeting = &connection.steps[..=greeting.expect("the handshake is answered")];
        let is_refused =
            greeting.iter().any(|step| matches!(&step.what, What::Answer { frame, .. } if frame["ok"] == false));
        // What is left begins behind the handshake, wherever the connection broke.
        let left = self.steps.len().min(connection.steps.len() - greeting.len());
        let left = self.steps.split_off(self.steps.len() - left);
        self.steps = greeting.iter().cloned().chain(left).collect();
        self.end = if is_refused || !self.is_over { connection.end.clone() } else { End::Left };
    }

    /// Returns how long to wait before [`Script::play`]; `None` while a request is waited for.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self.steps.front() {
            None if self.is_over || (self.end == End::Left && !self.has_next()) => None,
            None => Some(Duration::ZERO),
            Some(Step { what: What::Asked(asked), .. }) if self.waits_for(asked) => None,
            Some(step) => {
                let ms = (step.at_ms - self.clock_ms).clamp(0, PAUSE_MAX_MS);
                Some(Duration::from_millis(ms.unsigned_abs()))
            }
        }
    }

    /// Goes on by one step.
    pub(super) fn play(&mut self) -> Play {
        let Some(step) = self.steps.pop_front() else {
            self.is_over = true;
            return match &self.end {
                End::Closed { code, reason } => Play::Close(*code, reason.clone()),
                End::Cut | End::Left => Play::Cut,
            };
        };
        self.clock_ms = self.clock_ms.max(step.at_ms);
        let played = match step.what {
            What::Asked(asked) => {
                self.pass_over(&asked);
                Play::Nothing
            }
            What::Answer { id, frame } => self.answer(&id, frame),
            What::Event(frame) => self.event(frame),
        };
        self.settle();
        played
    }

    /// The client has gone. If all was said, that is the end of this connection, whoever was first.
    pub(super) fn left(&mut self) {
        self.is_over = self.is_over || self.steps.is_empty();
    }

    /// Takes a frame of the client; returns what is answered at once.
    pub(super) fn hear(&mut self, text: &str) -> Option<String> {
        let request: Value = serde_json::from_str(text).expect("the broker sends JSON");
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        match method.as_str() {
            "connect" => self.seen.connects.push(request["params"].clone()),
            "chat.send" => {
                self.object(&request["params"]);
                self.seen.sends.push(request["params"].clone());
            }
            _ => {}
        }
        if self.take(&request) {
            self.settle();
            return None;
        }
        let is_act = matches!(method.as_str(), "connect" | "chat.send" | "chat.abort");
        let comes =
            self.steps.iter().any(|step| matches!(&step.what, What::Asked(asked) if self.fits(asked, &request)));
        if is_act && comes && self.our_key(&request["params"]).is_none() {
            self.held.push_back(request);
            return None;
        }
        let answer = self.beyond(&method, &request["params"]);
        let mut frame = match answer {
            Ok(payload) => json!({ "type": "res", "ok": true, "payload": payload }),
            Err(error) => json!({ "type": "res", "ok": false, "error": error }),
        };
        self.names.rewrite(&mut frame);
        frame["id"] = request["id"].clone();
        Some(frame.to_string())
    }

    /// Returns the log of a session as it is in the end, with our keys.
    pub(super) fn rows(&self, session: &str) -> Vec<Value> {
        let mut rows = self.log.rows(session);
        rows.iter_mut().for_each(|row| self.names.rewrite(row));
        rows
    }

    /// Tells whether nothing is left to be played.
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty() && self.current.is_some_and(|current| current + 1 >= self.recording.connections.len())
    }

    // ---- the recorded client -----------------------------------------------------------------------------------------

    /// Tells whether the recording does not go on before our client asks this, too.
    fn waits_for(&self, asked: &Asked) -> bool {
        let text = |name: &str| asked.params[name].as_str().unwrap_or_default();
        match asked.method.as_str() {
            "connect" => true,
            "chat.send" => {
                let key = text("idempotencyKey");
                !key.is_empty() && !self.others.contains(key) && !self.used.contains(key)
            }
            "chat.abort" => self.log.is_busy(text("sessionKey")),
            // How a client finds out what it missed.
            "chat.history" => self.waits_for_looks || (asked.is_first && self.current > Some(0)),
            _ => false,
        }
    }

    fn pass_over(&mut self, asked: &Asked) {
        let key = asked.params["idempotencyKey"].as_str().unwrap_or_default();
        if asked.method == "chat.send" && self.others.contains(key) && self.used.insert(key.to_owned()) {
            self.log.asked(&asked.params, self.clock_ms);
        }
    }

    /// Lets a request of ours be the recorded one that is waited for; tells whether it is.
    fn take(&mut self, request: &Value) -> bool {
        let batch = self.steps.iter().take_while(|step| matches!(step.what, What::Asked(_)));
        let is_it = |step: &Step| matches!(&step.what, What::Asked(asked) if self.waits_for(asked) && self.fits(asked, request));
        let Some(at) = batch.into_iter().position(is_it) else { return false };
        let Some(Step { at_ms, what: What::Asked(asked) }) = self.steps.remove(at) else { return false };
        self.clock_ms = self.clock_ms.max(at_ms);
        self.ids.insert(asked.id, request["id"].as_str().unwrap_or_default().to_owned());
        if asked.method == "chat.send" {
            let (recorded, ours) = (&asked.params["idempotencyKey"], &request["params"]["idempotencyKey"]);
            let (recorded, ours) = (recorded.as_str().unwrap_or_default(), ours.as_str().unwrap_or_default());
            self.used.insert(recorded.to_owned());
            self.our_keys.insert(ours.to_owned(), recorded.to_owned());
            self.names.learn(recorded, ours);
            self.log.asked(&asked.params, at_ms);
        }
        true
    }

    fn fits(&self, asked: &Asked, request: &Value) -> bool {
        let params = &request["params"];
        let session = |params: &Value| params["sessionKey"].as_str().map(canonical);
        asked.method == request["method"].as_str().unwrap_or_default()
            && session(&asked.params) == session(params)
            && (asked.method != "chat.send" || asked.params["message"] == params["message"])
    }

    /// Takes up what came before its time, and lets time pass up to the request that is waited for.
    fn settle(&mut self) {
        while let Some(at) = (0..self.held.len()).find(|at| {
            let Some(Step { what: What::Asked(asked), .. }) = self.steps.front() else { return false };
            self.waits_for(asked) && self.fits(asked, &self.held[*at])
        }) {
            let request = self.held.remove(at).expect("it was found");
            self.take(&request);
        }
        match self.steps.front() {
            Some(Step { at_ms, what: What::Asked(asked) }) if self.waits_for(asked) => {
                self.clock_ms = self.clock_ms.max(*at_ms);
            }
            None if self.is_done() => self.clock_ms = self.recording.ends_ms,
            _ => {}
        }
    }

    // ---- what is said ------------------------------------------------------------------------------------------------

    fn answer(&mut self, id: &str, mut frame: Value) -> Play {
        let page = &frame["payload"];
        if page["messages"].is_array() {
            self.log.page_read(page["sessionKey"].as_str().unwrap_or_default(), page, self.clock_ms);
        } else if page["type"] == "hello-ok" {
            self.log.greeted(page);
        }
        let Some(ours) = self.ids.get(id) else { return Play::Nothing };
        self.names.rewrite(&mut frame);
        frame["id"] = ours.as_str().into();
        Play::Say(frame.to_string())
    }

    fn event(&mut self, mut frame: Value) -> Play {
        if frame["event"] == "chat" {
            self.log.heard(&frame["payload"], self.clock_ms);
        }
        // Some recordings leave events out, but this connection has no holes.
        if frame["seq"].is_u64() {
            self.last_seq += 1;
            frame["seq"] = self.last_seq.into();
        }
        self.names.rewrite(&mut frame);
        Play::Say(frame.to_string())
    }

    /// Answers what the recorded client did not ask, or not now.
    fn beyond(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        let refuse = |message: &str| Err(json!({ "code": "INVALID_REQUEST", "message": message }));
        match method {
            "chat.history" => Ok(self.log.page(params, self.clock_ms)),
            "chat.abort" => Ok(json!({ "ok": true, "aborted": false, "runIds": [] })),
            "chat.send" => match self.our_key(params) {
                Some(recorded) => {
                    let status = if self.log.has_ended(recorded) { "ok" } else { "in_flight" };
                    Ok(json!({ "runId": recorded, "status": status }))
                }
                None => {
                    self.seen.faults.push(format!("a question that was not recorded: {params}"));
                    refuse("this question was not recorded")
                }
            },
            "agents.list" | "models.list" => Ok(listed(method)),
            "sessions.list" => {
                let mut list = listed(method);
                list["sessions"] = self.log.listed(self.clock_ms).into();
                Ok(list)
            }
            _ => {
                self.seen.faults.push(format!("a method that is not played: {method}"));
                refuse(&format!("unknown method: {method}"))
            }
        }
    }

    fn our_key(&self, params: &Value) -> Option<&String> {
        self.our_keys.get(params["idempotencyKey"].as_str()?)
    }

    /// Notes what a client must not do: it is answered, but not as anybody wants.
    fn object(&mut self, params: &Value) {
        let session = params["sessionKey"].as_str().unwrap_or_default();
        if self.our_key(params).is_none() && self.log.is_busy(session) {
            self.seen.faults.push(format!("a question while another one is being answered: {params}"));
        }
    }
}

/// Returns a recorded list.
fn listed(method: &str) -> Value {
    let lines = lines("lists-sessions-agents-models");
    let asked = lines.iter().find(|line| line["dir"] == "out" && line["frame"]["method"] == method);
    let id = &asked.expect("it was recorded")["frame"]["id"];
    let answer = lines.iter().find(|line| line["dir"] == "in" && line["frame"]["id"] == *id);
    answer.expect("it was answered")["frame"]["payload"].clone()
}

#[cfg(test)]
mod tests;
