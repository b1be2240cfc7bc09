//! Runs: what a session is busy with, step by step, until it has its last word. Pure.
use std::collections::VecDeque;

use serde_json::{Value, json};

use super::frames::{assistant, merge, set};
use super::gateway::{Effect, Gateway};
use super::script::{self, End, Step};
use super::session::{AGENT, MODEL, PROVIDER, injected_row, model_row, user_row};

/// The last event of a run repeats no more than so much of its answer.
const REPLY_CHARS_MAX: usize = 4_096;

/// A message that came while the session was busy.
pub(super) struct Steered {
    pub(super) run_id: String,
    pub(super) text: String,
    pub(super) at: i64,
}

pub(super) struct Run {
    pub(super) run_id: String,
    /// The canonical session key.
    pub(super) session: String,
    /// What is being answered; needed again if the gateway crashes.
    pub(super) message: String,
    pub(super) steered: Vec<Steered>,
    pub(super) started_at: i64,
    /// Everything said so far: what deltas and `final` carry.
    pub(super) text: String,
    /// Where in `text` the answer begins that is not yet a row.
    row_from: usize,
    row_at: i64,
    /// A tool was called: what was streamed is taken back at the end, as the real one does it.
    has_called: bool,
    sender: Option<u64>,
    steps: VecDeque<Step>,
    seq: u64,
}

/// What the driver of a run does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    AfterMs(u64),
    /// Ask again when the state has changed.
    Blocked,
    Done,
}

impl Run {
    pub(super) fn new(run_id: &str, session: &str, text: &str, sender: Option<u64>, delta_ms: u64, now: i64) -> Self {
        Self {
            run_id: run_id.to_owned(),
            session: session.to_owned(),
            message: text.to_owned(),
            steered: Vec::new(),
            started_at: now,
            text: String::new(),
            row_from: 0,
            row_at: now,
            has_called: false,
            sender,
            steps: script::plan(text, delta_ms).into(),
            seq: 0,
        }
    }

    fn chat(&mut self, protocol: u8, state: &str, fields: Value) -> Effect {
        self.seq += 1;
        let mut payload = json!({ "runId": self.run_id, "sessionKey": self.session, "seq": self.seq, "state": state });
        if protocol > 3 {
            set(&mut payload, "agentId", json!(AGENT));
        }
        merge(&mut payload, fields);
        Effect::Event { name: "chat", payload }
    }

    fn delta(&mut self, protocol: u8, text: &str, replace: bool, now: i64) -> Effect {
        let mut fields = json!({ "message": assistant(&self.text, now) });
        if protocol > 3 {
            set(&mut fields, "deltaText", json!(text));
        }
        if replace && protocol > 3 {
            set(&mut fields, "replace", json!(true));
        }
        self.chat(protocol, "delta", fields)
    }

    /// The other stream of events that a gateway sends.
    fn lifecycle(&mut self, data: Value, now: i64) -> Effect {
        self.seq += 1;
        let payload = json!({
            "runId": self.run_id, "sessionKey": self.session, "agentId": AGENT, "stream": "lifecycle",
            "data": data, "seq": self.seq, "ts": now, "isHeartbeat": false,
        });
        Effect::Event { name: "agent", payload }
    }

    /// The end of its lifecycle; on protocol 4 with what was answered last.
    fn last_word(&mut self, protocol: u8, now: i64) -> Effect {
        let reply = match self.row_text() {
            "" => json!({ "disposition": "empty" }),
            text if text.chars().count() > REPLY_CHARS_MAX => {
                let start: String = text.chars().take(REPLY_CHARS_MAX - 1).collect();
                json!({ "disposition": "visible", "text": format!("{start}…") })
            }
            text => json!({ "disposition": "visible", "text": text }),
        };
        let data = match protocol {
            ..=3 => json!({ "phase": "end" }),
            _ => json!({ "phase": "end", "terminalReply": reply }),
        };
        self.lifecycle(data, now)
    }

    fn row_text(&self) -> &str {
        self.text.get(self.row_from..).unwrap_or_default()
    }
}

/// Builds a chat event outside a run's counting: a steered message's end, a second last word, an injected text.
pub(super) fn bare(run_id: &str, session: &str, state: &str, fields: Value) -> Effect {
    let mut payload = json!({ "runId": run_id, "sessionKey": session, "seq": 1, "state": state });
    merge(&mut payload, fields);
    Effect::Event { name: "chat", payload }
}

impl Gateway {
    /// Takes a run to its next pause.
    pub(super) fn step(&mut self, number: u64, now: i64, out: &mut Vec<Effect>) -> Next {
        let protocol = self.protocol;
        let Some(run) = self.runs.get_mut(&number) else { return Next::Done };
        while let Some(step) = run.steps.pop_front() {
            match step {
                Step::Status(phase) if protocol > 3 => {
                    out.push(run.chat(protocol, "status", json!({ "phase": phase })))
                }
                Step::Status(_) => {}
                Step::Append(piece) => {
                    if run.row_text().is_empty() {
                        run.row_at = now;
                        out.push(run.lifecycle(json!({ "phase": "model" }), now));
                    }
                    run.text.push_str(&piece);
                    out.push(run.delta(protocol, &piece, false, now));
                }
                Step::Replace(text) => {
                    run.text.truncate(run.row_from);
                    run.text.push_str(&text);
                    let whole = run.text.clone();
                    out.push(run.delta(protocol, &whole, true, now));
                }
                Step::PauseMs(ms) => return Next::AfterMs(ms),
                Step::Gate(ref name) if self.gates.contains(name) => {}
                step @ (Step::Gate(_) | Step::Hang) => {
                    run.steps.push_front(step);
                    return Next::Blocked;
                }
                Step::CutSender => out.extend(run.sender.take().map(Effect::Cut)),
                Step::Tool { name, arguments } => {
                    run.has_called = true;
                    let call_id = format!("call_sample_{}", run.seq);
                    let said = script::tool_result(&name, &arguments);
                    let call = json!([{ "type": "toolCall", "id": call_id, "name": name, "arguments": arguments }]);
                    let result = json!({
                        "role": "toolResult", "toolCallId": call_id, "toolName": name, "isError": false,
                        "content": [{ "type": "text", "text": said }], "timestamp": now,
                    });
                    if let Some(session) = self.sessions.get_mut(&run.session) {
                        session.push(model_row(call, "toolUse", now), json!({ "runId": run.run_id }), now);
                        session.push(result, json!({ "runId": run.run_id }), now);
                    }
                }
                Step::End(end) => return self.end(number, end, now, out),
            }
        }
        // A plan always ends with `End`; a run without steps is over all the same.
        self.end(number, End::Silent, now, out)
    }

    /// Writes what a run leaves behind and reports its end, or goes on with what was steered into it.
    fn end(&mut self, number: u64, end: End, now: i64, out: &mut Vec<Effect>) -> Next {
        let Some(mut run) = self.runs.remove(&number) else { return Next::Done };
        let protocol = self.protocol;
        self.write_end(&run, end, now);
        let steered = std::mem::take(&mut run.steered);
        for message in &steered {
            self.write_steered(message, &run, now);
            out.push(bare(&message.run_id, &run.session, "final", json!({})));
            self.mark_done(&message.run_id);
        }
        if let (Some(last), false) = (steered.last(), matches!(end, End::Failed { .. })) {
            run.message.clone_from(&last.text);
            run.steps = script::plan_answer(&last.text, self.delta_ms).into();
            if !run.text.is_empty() {
                run.text.push_str("\n\n");
                out.push(run.delta(protocol, "\n\n", false, now));
            }
            run.row_from = run.text.len();
            self.runs.insert(number, run);
            return Next::AfterMs(0);
        }
        let is_taken_back = end == End::Answer && run.has_called && protocol > 3;
        if is_taken_back {
            let text = std::mem::take(&mut run.text);
            out.push(run.delta(protocol, "", true, now));
            run.text = text;
        }
        out.push(run.last_word(protocol, now));
        match end {
            End::Answer | End::Twice if !is_taken_back => {
                let message = assistant(&run.text, now);
                out.push(run.chat(protocol, "final", json!({ "stopReason": "stop", "message": message })));
                if end == End::Twice {
                    out.push(bare(&run.run_id, &run.session, "final", json!({ "message": message })));
                }
            }
            End::Answer | End::Twice | End::Silent => {
                out.push(run.chat(protocol, "final", json!({ "stopReason": "stop" })));
            }
            End::Failed { http_status } => {
                let text = failure(http_status);
                let detail = json!({ "provider": PROVIDER, "model": MODEL, "httpStatus": http_status });
                out.push(run.chat(protocol, "error", json!({ "errorMessage": text, "errorDetail": detail })));
                let second = format!("⚠️ Agent failed before reply: {text}");
                out.push(bare(&run.run_id, &run.session, "error", json!({ "errorMessage": second })));
            }
        }
        self.mark_done(&run.run_id);
        Next::Done
    }

    fn write_end(&mut self, run: &Run, end: End, now: i64) {
        let Some(session) = self.sessions.get_mut(&run.session) else { return };
        session.updated_at = now;
        let row = match end {
            End::Silent => return,
            End::Answer | End::Twice => {
                model_row(json!([{ "type": "text", "text": run.row_text() }]), "stop", run.row_at)
            }
            End::Failed { http_status } => {
                let mut row = model_row(json!([{ "type": "text", "text": failure(http_status) }]), "error", run.row_at);
                set(&mut row, "idempotencyKey", json!(format!("{}:terminal-error", run.run_id)));
                row
            }
        };
        session.push(row, json!({ "runId": run.run_id }), now);
    }

    fn write_steered(&mut self, message: &Steered, run: &Run, now: i64) {
        if let Some(session) = self.sessions.get_mut(&run.session) {
            let row = user_row(&message.text, &message.run_id, message.at);
            session.push(row, json!({ "steerTargetRunId": run.run_id }), now);
        }
    }

    /// Aborts what runs in a session, or only the given run. Returns the ids of what was aborted.
    pub(super) fn abort(&mut self, key: &str, run_id: Option<&str>, now: i64, out: &mut Vec<Effect>) -> Vec<String> {
        let wanted = |id: &str| run_id.is_none_or(|run_id| run_id == id);
        let Some((number, run)) = self.runs.iter_mut().find(|(_, run)| run.session == key) else { return Vec::new() };
        let number = *number;
        let ends = wanted(&run.run_id);
        // With the run goes everything that was steered into it; a steered message can also be taken back alone.
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut run.steered).into_iter().partition(|message| ends || wanted(&message.run_id));
        run.steered = kept;
        let mut aborted = Vec::new();
        if ends && let Some(run) = self.runs.remove(&number) {
            aborted.push(run.run_id.clone());
            self.write_aborted(run, &gone, now, out);
        }
        for message in gone {
            out.push(bare(&message.run_id, key, "aborted", json!({ "stopReason": "rpc" })));
            aborted.push(message.run_id);
        }
        aborted.iter().for_each(|run_id| self.mark_done(run_id));
        aborted
    }

    fn write_aborted(&mut self, mut run: Run, steered: &[Steered], now: i64, out: &mut Vec<Effect>) {
        let mut fields = json!({ "stopReason": "rpc" });
        if !run.text.is_empty() {
            set(&mut fields, "message", assistant(&run.text, now));
        }
        out.push(run.chat(self.protocol, "aborted", fields));
        out.push(run.lifecycle(json!({ "phase": "end" }), now));
        if let Some(session) = self.sessions.get_mut(&run.session)
            && !run.row_text().is_empty()
        {
            let mut row = injected_row(run.row_text(), now);
            set(&mut row, "idempotencyKey", json!(format!("{}:assistant", run.run_id)));
            set(&mut row, "openclawAbort", json!({ "aborted": true, "origin": "rpc", "runId": run.run_id }));
            session.push(row, json!({ "runId": run.run_id }), now);
        }
        steered.iter().for_each(|message| self.write_steered(message, &run, now));
    }
}

fn failure(http_status: u16) -> String {
    format!("⚠️ {PROVIDER}/{MODEL} request failed (HTTP {http_status}). This is usually temporary — try again shortly.")
}
