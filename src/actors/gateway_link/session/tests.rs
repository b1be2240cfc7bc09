use serde_json::{Value, json};

use super::*;
use crate::domain::conversation::{ConversationKind, Upstream};
use crate::domain::delivery::Outcome;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::ConversationId;
use crate::domain::turn::TurnState;
use crate::gateway::frames::{ChatState, GatewayError, SendAck, SendStatus, TerminalReply};
use crate::gateway::history::HistoryPage;
use crate::store::turns::DeliveryEnd;

mod abort;
mod bare;
mod contact;
mod life;
mod look;
mod lost;
mod model;
mod others;
mod quiet;
mod restart;

const START_MS: i64 = 1_800_000_000_000;

fn options() -> Options {
    Options {
        resume_wait_ms: 90_000,
        silence_ms: 180_000,
        checkpoint_ms: 2_000,
        history_rows: 200,
        import_lines_max: 10_000,
        store_thinking: false,
    }
}

fn conversation(contacted: bool) -> Conversation {
    Conversation {
        id: ConversationId::new(),
        kind: ConversationKind::Session,
        gateway_id: Some("gw".parse().expect("a name")),
        key: "s".to_owned(),
        canonical_key: None,
        title: None,
        agent_id: None,
        model: None,
        owner_id: None,
        archived: false,
        first_seq: 1,
        last_seq: 0,
        created_at: 0,
        updated_at: 0,
        deleted_at: None,
        upstream: Upstream { contacted, session_id: contacted.then(|| "log".to_owned()), ..Upstream::default() },
    }
}

fn question(seq: i64) -> Question {
    Question {
        delivery_id: DeliveryId::new(),
        message_id: crate::domain::ids::MessageId::new(),
        seq,
        text: format!("question {seq}").into(),
    }
}

fn page(value: Value) -> HistoryPage {
    crate::gateway::frames::decode(&serde_json::value::to_raw_value(&value).expect("JSON")).expect("a page")
}

/// A page of protocol 4 on which nothing runs.
fn idle(rows: Vec<Value>) -> Value {
    let total = rows.len();
    json!({
        "sessionId": "log", "messages": rows, "hasMore": false, "totalMessages": total,
        "sessionInfo": {"key": "agent:main:s", "hasActiveRun": false, "activeRunIds": []},
    })
}

fn running(rows: Vec<Value>, run_id: &str, text: &str) -> Value {
    let mut page = idle(rows);
    page["sessionInfo"] = json!({"key": "agent:main:s", "hasActiveRun": true});
    page["inFlightRun"] = json!({"runId": run_id, "text": text});
    page
}

fn asked_row(seq: i64, key: &str, text: &str) -> Value {
    json!({"role": "user", "content": text, "idempotencyKey": format!("{key}:user"), "timestamp": START_MS + seq,
        "__openclaw": {"id": format!("row-{seq}"), "seq": seq}})
}

fn answer_row(seq: i64, run_id: &str, text: &str) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}], "stopReason": "stop",
        "timestamp": START_MS + seq, "__openclaw": {"id": format!("row-{seq}"), "seq": seq, "runId": run_id}})
}

fn reset_row(seq: i64) -> Value {
    json!({"role": "system", "content": [{"type": "text", "text": "Reset"}], "timestamp": START_MS + seq,
        "__openclaw": {"kind": "reset", "id": format!("row-{seq}"), "seq": seq}})
}

fn recovery_row(seq: i64, run_id: &str) -> Value {
    asked_row(seq, run_id, "[System] Your previous turn was interrupted by a restart")
}

fn chat(run_id: &str, state: ChatState, text: Option<&str>) -> ChatEvent {
    ChatEvent {
        run_id: run_id.to_owned(),
        session_key: "agent:main:s".to_owned(),
        state,
        phase: None,
        delta_text: None,
        replace: false,
        text: text.map(str::to_owned),
        error_message: (state == ChatState::Error).then(|| "it failed".to_owned()),
        error_kind: None,
        usage: None,
        stop_reason: None,
        timestamp_ms: None,
    }
}

fn refusal(code: &str, retryable: bool) -> GatewayError {
    let value = json!({"code": code, "message": "no", "retryable": retryable});
    serde_json::from_value(value).expect("an error")
}

fn error(code: ErrorCode) -> Error {
    Error::new(code, "planned")
}

/// A session with a store that obeys at once, unless a failure is planned; what it says to the gateway is noted.
struct Bench {
    session: Session,
    now: i64,
    /// The keys of our questions, by number.
    keys: Vec<DeliveryId>,
    timers: Vec<(i64, Wake)>,
    said: Vec<String>,
    /// The look that was asked for last.
    look: Option<Look>,
    ends: Vec<EndTurn>,
    fail: Vec<ErrorCode>,
    /// What the store says of a session that the gateway had before.
    may_have: bool,
    /// Pages whose rows were mapped.
    mapped: usize,
    /// The turn that the store knows for a foreign run already.
    known_state: TurnState,
}

impl Bench {
    fn of(conversation: Conversation) -> Self {
        Self::with(conversation, options())
    }

    fn with(conversation: Conversation, options: Options) -> Self {
        Self {
            session: Session::new(conversation, Arc::new(options)),
            now: START_MS,
            keys: Vec::new(),
            timers: Vec::new(),
            said: Vec::new(),
            look: None,
            ends: Vec::new(),
            fail: Vec::new(),
            may_have: true,
            mapped: 0,
            known_state: TurnState::Started,
        }
    }

    /// A session whose log is known, with the link up.
    fn ready() -> Self {
        let mut bench = Self::of(conversation(true));
        bench.up();
        bench.tail(idle(Vec::new()));
        bench.said.clear();
        bench
    }

    /// The same, with question 0 on its way.
    fn sending() -> Self {
        let mut bench = Self::ready();
        bench.ask();
        assert_eq!(bench.said(), ["send 0"]);
        bench
    }

    /// The same, with question 0 being answered.
    fn answering() -> Self {
        let mut bench = Self::sending();
        bench.ack(SendStatus::Started);
        bench
    }

    fn key(&self, index: usize) -> String {
        self.keys[index].to_string()
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform_one(effect);
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        let index_of = |keys: &[DeliveryId], id| keys.iter().position(|key| *key == id).expect("a question of ours");
        match effect {
            Effect::Send { delivery_id, .. } => self.said.push(format!("send {}", index_of(&self.keys, delivery_id))),
            Effect::Abort { .. } => self.said.push("abort".to_owned()),
            Effect::History { purpose, limit, offset } => {
                let wide = if limit == HISTORY_ROWS_MAX { " wide" } else { "" };
                let from = if offset > 0 { format!(" {offset}") } else { String::new() };
                let purpose = match purpose {
                    Purpose::Reconcile(look) => {
                        self.look = Some(look);
                        "Reconcile".to_owned()
                    }
                    _ => format!("{purpose:?}"),
                };
                self.said.push(format!("history {purpose}{wide}{from}").to_lowercase());
            }
            Effect::Begin(command) => {
                let result = match self.fail.pop() {
                    Some(code) => Err(error(code)),
                    None => Ok(self.turn(command.turn_id, Some(command.delivery_id), command.delivery_id.to_string())),
                };
                let effects = self.session.on_begun(result, self.now);
                self.perform(effects);
            }
            Effect::BeginForeign(command) => {
                let result = match self.fail.pop() {
                    Some(code) => Err(error(code)),
                    None => Ok(self.turn(command.turn_id, None, command.run_id)),
                };
                let effects = self.session.on_begun(result, self.now);
                self.perform(effects);
            }
            Effect::End(end) => {
                if let Some(code) = self.fail.pop() {
                    let effects = self.session.on_ended(Err(error(code)), self.now);
                    self.perform(effects);
                    return;
                }
                let outcome = match &end.delivery {
                    DeliveryEnd::Completed(outcome) => format!("{outcome:?}").to_lowercase(),
                    DeliveryEnd::Dead { started, .. } => format!("dead {} {started}", end.code.unwrap_or_default()),
                };
                self.said.push(format!("end {outcome}: {}", end.text));
                let has_line = !end.text.is_empty() || end.error.is_some();
                self.ends.push(*end);
                let effects = self.session.on_ended(Ok(has_line), self.now);
                self.perform(effects);
            }
            Effect::Claim(page) => {
                let result = match self.fail.pop() {
                    Some(code) => Err(error(code)),
                    None => Ok(self.may_have),
                };
                self.said.push(format!("claim {}", self.may_have));
                let effects = self.session.on_claimed(&page, result, self.now);
                self.perform(effects);
            }
            Effect::NoteContact(contact) => self.said.push(format!("contact {}", contact.boundary_seq)),
            Effect::Import(import) => {
                let ids: Vec<&str> = import.rows.iter().map(|(id, _)| id.as_str()).collect();
                let resets: Vec<String> = import.resets.iter().map(|id| format!(" after {id}")).collect();
                self.said.push(format!("import {}{} until {:?}", ids.join(","), resets.concat(), import.import_below));
                let result = match self.fail.pop() {
                    Some(code) => Err(error(code)),
                    None => Ok(ids.len()),
                };
                let effects = self.session.on_imported(result);
                self.perform(effects);
            }
            Effect::Map(page) => {
                self.mapped += 1;
                let source = self.session.source(page.session_id.as_deref());
                let up_to = page.rows.iter().filter_map(|row| row.seq).max().unwrap_or(0);
                let result = match self.fail.pop() {
                    Some(code) => Err(error(code)),
                    None => {
                        Ok(Mapped { up_to, upstream_session: source.upstream_session, answers: page.rows.len() / 2 })
                    }
                };
                let effects = self.session.on_mapped(result);
                self.perform(effects);
            }
            Effect::Checkpoint(_) | Effect::RunId(_) => {}
            Effect::Tell(live) => self.said.push(format!("tell {}", live.text)),
            Effect::WakeIn { ms, wake } => {
                let at = self.now + i64::try_from(ms).expect("a time");
                self.timers.push((at, wake));
            }
            Effect::Cancel(ids) => {
                let indices: Vec<String> = ids.iter().map(|id| index_of(&self.keys, *id).to_string()).collect();
                self.said.push(format!("cancel {}", indices.join(",")));
            }
        }
    }

    fn turn(&self, id: TurnId, delivery_id: Option<DeliveryId>, run_id: String) -> Turn {
        Turn {
            id,
            conversation_id: self.session.conversation.id,
            delivery_id,
            message_id: None,
            answer_id: None,
            run_id,
            state: if delivery_id.is_some() { TurnState::Started } else { self.known_state },
            text: String::new(),
            started_at: self.now,
        }
    }

    /// What was said since the last time, without the texts that were told and the passes over the tail.
    fn said(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.said);
        said.into_iter().filter(|word| !word.starts_with("tell ") && word != "history tail").collect()
    }

    fn ask(&mut self) {
        let question = question(i64::try_from(self.keys.len()).expect("few"));
        self.keys.push(question.delivery_id);
        let effects = self.session.on_question(question, self.now);
        self.perform(effects);
    }

    /// Hands question 0 out once more.
    fn ask_again(&mut self) {
        let again = Question { delivery_id: self.keys[0], ..question(0) };
        let effects = self.session.on_question(again, self.now);
        self.perform(effects);
    }

    fn up(&mut self) {
        let effects = self.session.on_link_up(4, self.now);
        self.perform(effects);
    }

    fn down(&mut self) {
        self.session.on_link_down();
    }

    fn ack(&mut self, status: SendStatus) {
        let effects = self.session.on_sent(Ok(SendAck { run_id: String::new(), status }), self.now);
        self.perform(effects);
    }

    fn sent(&mut self, result: RequestError) {
        let effects = self.session.on_sent(Err(result), self.now);
        self.perform(effects);
    }

    fn event(&mut self, run_id: &str, state: ChatState, text: Option<&str>) {
        let effects = self.session.on_event(chat(run_id, state, text), self.now);
        self.perform(effects);
    }

    /// An event of question 0.
    fn own(&mut self, state: ChatState, text: Option<&str>) {
        let key = self.key(0);
        self.event(&key, state, text);
    }

    fn history(&mut self, purpose: Purpose, value: Value) {
        let effects = self.session.on_history(purpose, Ok(page(value)), self.now);
        self.perform(effects);
    }

    fn tail(&mut self, value: Value) {
        self.history(Purpose::Tail, value);
    }

    fn looked(&mut self, value: Value) {
        let look = self.look.expect("a look");
        self.history(Purpose::Reconcile(look), value);
    }

    fn not_looked(&mut self, result: RequestError) {
        let look = self.look.expect("a look");
        self.unread(Purpose::Reconcile(look), result);
    }

    fn unread(&mut self, purpose: Purpose, result: RequestError) {
        let effects = self.session.on_history(purpose, Err(result), self.now);
        self.perform(effects);
    }

    fn abort(&mut self, queued: bool) {
        let effects = self.session.abort(None, queued);
        self.perform(effects);
    }

    fn abort_named(&mut self, turn: TurnId, queued: bool) {
        let effects = self.session.abort(Some(turn), queued);
        self.perform(effects);
    }

    /// The turn at hand.
    fn turn_id(&self) -> TurnId {
        self.session.run.as_ref().expect("a run").turn_id
    }

    /// Lets time pass, with its timers and ticks.
    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        while self.now < until {
            let step = (self.now + 500).min(until);
            self.now = step;
            self.timers.sort_by_key(|(at, _)| *at);
            while let Some(due) = self.timers.iter().position(|(at, _)| *at <= step) {
                let (_, wake) = self.timers.remove(due);
                let effects = self.session.on_wake(wake, self.now);
                self.perform(effects);
            }
            let effects = self.session.on_tick(self.now);
            self.perform(effects);
        }
    }
}

/// Brings question 0 to a stage, cuts the link there, and comes back.
fn cut_in(stage: &str) -> Bench {
    let mut bench = match stage {
        "sending" => Bench::sending(),
        "held" => {
            let mut bench = Bench::sending();
            bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
            bench
        }
        "resuming" => {
            let mut bench = Bench::answering();
            bench.down();
            bench.up();
            let key = bench.key(0);
            bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
            bench
        }
        _ => {
            let mut bench = Bench::answering();
            bench.own(ChatState::Delta, Some("so"));
            bench
        }
    };
    bench.down();
    bench.said.clear();
    bench.pass(1_000);
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"], "{stage}");
    bench
}
