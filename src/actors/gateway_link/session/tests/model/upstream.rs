//! A small gateway: one session, one run at a time, questions that wait behind it, crashes.
use std::collections::{HashMap, HashSet, VecDeque};

use super::super::*;

/// A run upstream that is not over.
#[derive(Clone, Debug)]
struct Active {
    run_id: String,
    /// The key of the question it answers.
    key: String,
    text: String,
    is_written: bool,
}

/// The gateway's side: what survives a crash is the log alone.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    pub(super) is_alive: bool,
    rows: Vec<Value>,
    active: Option<Active>,
    waiting: VecDeque<String>,
    /// Keys it remembers, and whether they are over.
    known: HashMap<String, bool>,
    /// The question that a crash has cut off.
    cut_off: Option<String>,
    /// Keys for which a model was asked.
    pub(super) started: HashSet<String>,
    /// Keys whose runs ended without a text.
    pub(super) hushed: HashSet<String>,
    resumed: u32,
    tells_ids: bool,
    pub(super) protocol: u32,
    pub(super) now: i64,
}

pub(super) fn answer_to(key: &str) -> String {
    format!("the answer to {key}, in full")
}

impl Upstream {
    pub(super) fn new(protocol: u32, tells_ids: bool) -> Self {
        Self { is_alive: true, protocol, tells_ids, now: START_MS, ..Self::default() }
    }

    fn log(&mut self, mut row: Value) {
        let seq = self.rows.len() + 1;
        row["timestamp"] = json!(self.now);
        row["__openclaw"]["id"] = json!(format!("row-{seq}"));
        row["__openclaw"]["seq"] = json!(seq);
        self.rows.push(row);
    }

    fn has_row(&self, key: &str) -> bool {
        let name = json!(format!("{key}:user"));
        self.rows.iter().any(|row| row["idempotencyKey"] == name)
    }

    pub(super) fn send(&mut self, key: &str) -> SendStatus {
        match self.known.get(key) {
            Some(true) => return SendStatus::Ok,
            Some(false) => return SendStatus::InFlight,
            None if self.has_row(key) => return SendStatus::Started,
            None => {}
        }
        self.known.insert(key.to_owned(), false);
        if self.active.is_some() {
            self.waiting.push_back(key.to_owned())
        } else {
            self.start(key.to_owned())
        }
        SendStatus::Started
    }

    fn start(&mut self, key: String) {
        self.cut_off = None;
        self.started.insert(key.clone());
        self.active = Some(Active { run_id: key.clone(), key, text: String::new(), is_written: false });
    }

    /// Takes a step of the active run and returns its event.
    pub(super) fn work(&mut self, how: Work) -> Option<ChatEvent> {
        if self.active.is_none() {
            let key = self.waiting.pop_front()?;
            self.start(key);
            return None;
        }
        let run = self.active.as_mut()?;
        if !run.is_written {
            run.is_written = true;
            let key = run.key.clone();
            if run.run_id == key {
                self.log(json!({"role": "user", "content": format!("question {key}"), "idempotencyKey": format!("{key}:user")}));
            } else {
                let text = "[System] Your previous turn was interrupted by a restart";
                let key = format!("{}:user", run.run_id);
                self.log(json!({"role": "user", "content": text, "idempotencyKey": key}));
            }
            return None;
        }
        let whole = answer_to(&run.key);
        match how {
            Work::Grow if run.text.len() < whole.len() => {
                let at = run.text.len();
                let to = (at + 12).min(whole.len());
                run.text = whole[..to].to_owned();
                let mut event = chat(&run.run_id, ChatState::Delta, Some(&run.text));
                event.delta_text = (self.protocol >= 4).then(|| whole[at..to].to_owned());
                Some(event)
            }
            Work::Grow | Work::Finish => {
                let run = self.active.take()?;
                self.log(
                    json!({"role": "assistant", "content": [{"type": "text", "text": whole}], "stopReason": "stop",
                    "__openclaw": {"runId": run.run_id}}),
                );
                self.known.insert(run.key, true);
                Some(chat(&run.run_id, ChatState::Final, Some(&whole)))
            }
            // What was streamed is taken back first.
            Work::Hush if self.protocol >= 4 && !run.text.is_empty() => {
                run.text.clear();
                let void = chat(&run.run_id, ChatState::Delta, Some(""));
                Some(ChatEvent { delta_text: Some(String::new()), replace: true, ..void })
            }
            Work::Hush if self.protocol >= 4 => {
                let run = self.active.take()?;
                self.log(
                    json!({"role": "assistant", "content": [{"type": "text", "text": whole}], "stopReason": "stop",
                    "__openclaw": {"runId": run.run_id}}),
                );
                self.hushed.insert(run.key.clone());
                self.known.insert(run.key, true);
                Some(chat(&run.run_id, ChatState::Final, None))
            }
            Work::Hush => None,
            Work::Fail => {
                let run = self.active.take()?;
                self.log(json!({"role": "assistant", "content": [{"type": "text", "text": "failed"}],
                    "stopReason": "error", "errorMessage": "it failed", "__openclaw": {"runId": run.run_id}}));
                self.known.insert(run.key, true);
                Some(chat(&run.run_id, ChatState::Error, None))
            }
        }
    }

    pub(super) fn abort(&mut self, run_id: &str) -> Option<ChatEvent> {
        let run = self.active.take_if(|run| run.run_id == run_id && run.is_written)?;
        self.known.insert(run.key.clone(), true);
        if !run.text.is_empty() {
            self.log(
                json!({"role": "assistant", "content": [{"type": "text", "text": run.text}], "stopReason": "stop",
                "openclawAbort": {"aborted": true, "runId": run.run_id}, "provider": "openclaw"}),
            );
        }
        let text = (!run.text.is_empty()).then_some(run.text.as_str());
        Some(chat(&run.run_id, ChatState::Aborted, text))
    }

    pub(super) fn crash(&mut self) {
        self.is_alive = false;
        self.known.clear();
        self.waiting.clear();
        if let Some(run) = self.active.take()
            && self.has_row(&run.key)
        {
            self.cut_off = Some(run.key);
        }
    }

    /// Takes up what a crash has cut off, under another id.
    pub(super) fn resume(&mut self) {
        if self.is_alive
            && self.active.is_none()
            && let Some(key) = self.cut_off.take()
        {
            self.resumed += 1;
            let run_id = format!("resumed-{}", self.resumed);
            self.active = Some(Active { run_id, key, text: String::new(), is_written: false });
        }
    }

    pub(super) fn page(&self, limit: u32) -> Value {
        let from = self.rows.len().saturating_sub(limit as usize);
        let mut rows = self.rows[from..].to_vec();
        if self.protocol < 4 {
            for row in &mut rows {
                row.as_object_mut().expect("a row").remove("idempotencyKey");
                row["__openclaw"].as_object_mut().expect("an object").remove("runId");
            }
            return json!({"sessionId": "log", "messages": rows});
        }
        let ids: Vec<&String> = self.active.iter().map(|run| &run.run_id).chain(&self.waiting).collect();
        let mut page = idle(rows);
        page["hasMore"] = json!(from > 0);
        page["nextOffset"] = json!(self.rows.len() - from);
        let mut info = json!({"key": "agent:main:s", "hasActiveRun": !ids.is_empty()});
        if self.tells_ids || ids.is_empty() {
            info["activeRunIds"] = json!(ids);
        }
        page["sessionInfo"] = info;
        if let Some(run) = self.active.as_ref().filter(|run| run.is_written) {
            page["inFlightRun"] = json!({"runId": run.run_id, "text": run.text});
        }
        let items: Vec<Value> = self.waiting.iter().map(|key| json!({"runId": key, "state": "queued"})).collect();
        page["pendingInputs"] = json!({"items": items});
        page
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Grow,
    Finish,
    /// Ends without a text, as it is done behind a tool.
    Hush,
    Fail,
}
