//! The gateway as a whole: which sessions there are, what runs, what was asked before. Pure.
//!
//! Invariants
//! - SGW-3: a session has at most one run; what is sent meanwhile is steered into it.
//! - SGW-4: an idempotency key starts at most one run.
//! - SGW-5: everything that goes out goes through the effects, in their order.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use super::frames::{Refusal, assistant, set};
use super::run::{Run, Steered, bare};
use super::session::{Session, canonical, fresh_id, injected_row, user_row};

const SESSIONS_MAX: usize = 2_000;
/// Keys that are remembered in memory, as the real gateway does; older ones are found in the history.
const KEYS_MAX: usize = 1_000;
const SENDS_MAX: usize = 10_000;
const STEERED_MAX: usize = 100;
const GATES_MAX: usize = 1_000;

const INTERRUPTED: &str = "[System] Your previous turn was interrupted by a gateway restart while OpenClaw was waiting on \
    tool/model work. The restart did not cancel the user's task. Continue from the existing transcript: check the current \
    state, recover interrupted work, and finish the task without asking the user to repeat the request.";

/// What has to be done after a change of state.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Answer a request of one connection.
    Answer { peer: u64, frame: String },
    /// Tell every connection that may read.
    Event { name: &'static str, payload: Value },
    /// Drive the run with this number.
    Drive(u64),
    /// Close this connection, after all that it was sent before.
    Close { peer: u64, code: u16, reason: String },
    /// Cut this connection without a close frame.
    Cut(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Up,
    /// Connects are answered `UNAVAILABLE`.
    Starting,
    /// No new work, no new connections.
    Draining,
}

/// What is known of an idempotency key.
struct Asked {
    session: String,
    text: String,
    done: bool,
}

pub(super) struct Gateway {
    pub(super) protocol: u8,
    pub(super) delta_ms: u64,
    pub(super) boot_id: String,
    pub(super) phase: Phase,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) runs: BTreeMap<u64, Run>,
    pub(super) gates: BTreeSet<String>,
    runs_started: u64,
    asked: BTreeMap<String, Asked>,
    asked_order: VecDeque<String>,
    /// The parameters of the last `chat.send`s.
    pub(super) sends: VecDeque<Value>,
    /// Session and message of the runs that a crash has ended.
    interrupted: Vec<(String, String)>,
}

impl Gateway {
    pub(super) fn new(protocol: u8, delta_ms: u64, boot_id: String) -> Self {
        Self {
            protocol,
            delta_ms,
            boot_id,
            phase: Phase::Up,
            sessions: BTreeMap::new(),
            runs: BTreeMap::new(),
            gates: BTreeSet::new(),
            runs_started: 0,
            asked: BTreeMap::new(),
            asked_order: VecDeque::new(),
            sends: VecDeque::new(),
            interrupted: Vec::new(),
        }
    }

    /// Notes the parameters of a `chat.send`, whatever becomes of it.
    pub(super) fn note_send(&mut self, params: &Value) {
        if self.sends.len() == SENDS_MAX {
            self.sends.pop_front();
        }
        self.sends.push_back(params.clone());
    }

    pub(super) fn release(&mut self, gate: &str) {
        if self.gates.len() < GATES_MAX {
            self.gates.insert(gate.to_owned());
        }
    }

    /// Accepts a message: starts a run, steers it into the running one, or recognises it as a repetition.
    pub(super) fn send(
        &mut self,
        sender: Option<u64>,
        message: &Incoming<'_>,
        now: i64,
        out: &mut Vec<Effect>,
    ) -> Result<Value, Refusal> {
        let Incoming { session_key, idempotency_key: key, text } = *message;
        if text.contains('\0') {
            return Err(Refusal::invalid("message must not contain null bytes"));
        }
        let session_key = canonical(session_key)?;
        let text = normalise(text);
        let acknowledge = |status: &str| Ok(json!({ "runId": key, "status": status }));
        if let Some(asked) = self.asked.get(key) {
            return match asked.done {
                _ if asked.session != session_key || asked.text != text => Err(Refusal::invalid(
                    "This message ID was already used for different input. Check the conversation history and use a new \
                     message ID to send again.",
                )
                .with_details(json!({ "reason": "chat-request-conflict" }))),
                true => acknowledge("ok"),
                false => acknowledge("in_flight"),
            };
        }
        if self.phase != Phase::Up {
            return Err(Refusal::unavailable("gateway is restarting; retry shortly", "restarting"));
        }
        if let Some(session) = self.sessions.get(&session_key).filter(|session| session.has_message(key)) {
            // Only the history remembers: from before a restart. A run that was cut off stays without a last word.
            if session.has_answer_to(key) {
                out.push(bare(key, &session_key, "final", json!({})));
            }
            return acknowledge("started");
        }
        match self.runs.values_mut().find(|run| run.session == session_key) {
            Some(run) if run.steered.len() >= STEERED_MAX => {
                return Err(Refusal::unavailable("The server is busy.", "queue-full"));
            }
            Some(run) => run.steered.push(Steered { run_id: key.to_owned(), text: text.clone(), at: now }),
            None => {
                let row = user_row(&text, key, now);
                let transport = json!({ "transport": { "clients": [{ "id": "gateway-client", "mode": "backend" }] } });
                self.session(&session_key, now)?.push(row, transport, now);
                self.start(Run::new(key, &session_key, &text, sender, self.delta_ms, now), out);
            }
        }
        self.remember(key, Asked { session: session_key, text, done: false });
        acknowledge("started")
    }

    /// Writes a row that no run has produced, and reports it.
    pub(super) fn inject(&mut self, key: &str, text: &str, now: i64, out: &mut Vec<Effect>) -> Result<String, Refusal> {
        let key = canonical(key)?;
        let row_id = self.session(&key, now)?.push(injected_row(text, now), json!({}), now);
        let message = assistant(text, now);
        out.push(bare(&format!("inject-{row_id}"), &key, "final", json!({ "message": message })));
        Ok(row_id)
    }

    /// Starts a session afresh; what runs in it is aborted.
    pub(super) fn reset(&mut self, key: &str, now: i64, out: &mut Vec<Effect>) -> Result<&mut Session, Refusal> {
        self.abort(key, None, now, out);
        let session = self.session(key, now)?;
        session.reset(now);
        Ok(session)
    }

    /// Ends the process without a word: what runs is lost, what is only in memory is forgotten.
    pub(super) fn crash(&mut self) {
        let lost = std::mem::take(&mut self.runs).into_values().map(|run| (run.session, run.message));
        self.interrupted.extend(lost);
        self.asked.clear();
        self.asked_order.clear();
    }

    /// Starts as a new process on the old sessions; interrupted runs are taken up under new ids.
    pub(super) fn boot(&mut self, boot_id: &str, now: i64, out: &mut Vec<Effect>) {
        self.boot_id = boot_id.to_owned();
        self.phase = Phase::Up;
        for (key, message) in std::mem::take(&mut self.interrupted) {
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            let run_id = fresh_id();
            let mut row = user_row(INTERRUPTED, &run_id, now);
            let provenance = json!({
                "kind": "internal_system", "sourceSessionKey": key, "sourceTool": "main_session_restart_recovery",
            });
            set(&mut row, "provenance", provenance);
            session.push(row, json!({ "senderIsOwner": false }), now);
            self.start(Run::new(&run_id, &key, &message, None, self.delta_ms, now), out);
        }
    }

    /// Returns the session of a canonical key, a new one if there was none.
    pub(super) fn session(&mut self, key: &str, now: i64) -> Result<&mut Session, Refusal> {
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(key) {
            return Err(Refusal::unavailable("too many sessions", "sessions-full"));
        }
        Ok(self.sessions.entry(key.to_owned()).or_insert_with(|| Session::new(now)))
    }

    pub(super) fn runs_of(&self, session_key: &str) -> Vec<&str> {
        self.runs.values().filter(|run| run.session == session_key).map(|run| run.run_id.as_str()).collect()
    }

    pub(super) fn mark_done(&mut self, run_id: &str) {
        if let Some(asked) = self.asked.get_mut(run_id) {
            asked.done = true;
        }
    }

    fn start(&mut self, run: Run, out: &mut Vec<Effect>) {
        self.runs_started += 1;
        self.runs.insert(self.runs_started, run);
        out.push(Effect::Drive(self.runs_started));
    }

    fn remember(&mut self, key: &str, asked: Asked) {
        self.asked.insert(key.to_owned(), asked);
        self.asked_order.push_back(key.to_owned());
        if self.asked_order.len() > KEYS_MAX
            && let Some(oldest) = self.asked_order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }
}

/// A message on its way into a session.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) session_key: &'a str,
    pub(super) idempotency_key: &'a str,
    pub(super) text: &'a str,
}

/// Writes a text as the gateway keeps it: NFC, without control characters, trimmed.
fn normalise(text: &str) -> String {
    let kept: String = text.nfc().filter(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')).collect();
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_gateway::run::Next;

    fn send(gateway: &mut Gateway, session_key: &str, key: &str, text: &str) -> Result<Value, Refusal> {
        let mut out = Vec::new();
        let message = Incoming { session_key, idempotency_key: key, text };
        let acknowledged = gateway.send(None, &message, 0, &mut out);
        for effect in std::mem::take(&mut out) {
            let Effect::Drive(run) = effect else { continue };
            while !matches!(gateway.step(run, 0, &mut out), Next::Done | Next::Blocked) {}
        }
        acknowledged
    }

    #[test]
    fn a_key_starts_one_run_even_when_memory_has_forgotten_it() {
        let mut gateway = Gateway::new(4, 0, String::new());
        for number in 0..=KEYS_MAX {
            send(&mut gateway, "s", &format!("k{number}"), "empty").expect("accepted");
        }
        assert_eq!(send(&mut gateway, "s", "k1", "empty").expect("known")["status"], "ok");
        assert_eq!(send(&mut gateway, "s", "k0", "empty").expect("in the history")["status"], "started");
        assert_eq!(gateway.sessions["agent:main:s"].rows().len(), KEYS_MAX + 1, "SGW-4");
        assert_eq!(send(&mut gateway, "other", "k1", "empty").expect_err("conflict").code, "INVALID_REQUEST");
    }

    #[test]
    fn what_comes_from_outside_is_bounded() {
        let mut gateway = Gateway::new(4, 0, String::new());
        for number in 0..SESSIONS_MAX {
            send(&mut gateway, &number.to_string(), &number.to_string(), "empty").expect("accepted");
        }
        assert_eq!(send(&mut gateway, "one more", "k", "x").expect_err("full").code, "UNAVAILABLE");
        send(&mut gateway, "1", "hang", "hang").expect("accepted");
        for number in 0..STEERED_MAX {
            send(&mut gateway, "1", &format!("steered {number}"), "x").expect("steered");
        }
        assert_eq!(send(&mut gateway, "1", "one more", "x").expect_err("busy").code, "UNAVAILABLE");
        assert_eq!(gateway.abort("agent:main:1", Some("steered 7"), 0, &mut Vec::new()), ["steered 7"]);
        assert_eq!(gateway.abort("agent:main:1", None, 0, &mut Vec::new()).len(), STEERED_MAX);
        assert!(gateway.runs.is_empty(), "SGW-3");
    }

    #[test]
    fn texts_are_kept_as_the_real_gateway_keeps_them() {
        assert_eq!(normalise("  e\u{301}\u{7}\n x \n"), "é\n x");
        let mut gateway = Gateway::new(4, 0, String::new());
        assert!(send(&mut gateway, "s", "k", "nul \0").is_err());
    }
}
