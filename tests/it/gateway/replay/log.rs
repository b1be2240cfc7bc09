//! The log of the replayed gateway: the recorded rows, each from its time on, and rows of the same form for what was
//! played without its history having been recorded.
use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::recording::{Recording, Row, canonical, text_of, text_of_row};

/// All sessions, by canonical key; keys of runs are the recorded ones.
#[derive(Debug, Default)]
pub(super) struct Log {
    protocol: u64,
    boot_id: Option<String>,
    sessions: BTreeMap<String, Session>,
    ended: HashSet<String>,
}

#[derive(Debug, Default)]
struct Session {
    transcript: String,
    /// Recorded and made ones, oldest first.
    rows: Vec<Row>,
    active: Vec<Active>,
    /// The recorded page that tells how things stand right now.
    page: Option<Value>,
    touched: bool,
}

#[derive(Debug)]
struct Active {
    run_id: String,
    /// What came of its answer; `None` until anything was heard of it.
    text: Option<String>,
    started_ms: i64,
}

impl Log {
    pub(super) fn of(recording: &Recording) -> Self {
        let mut log = Self { protocol: 4, ..Self::default() };
        for (key, rows) in &recording.rows {
            log.sessions.insert(key.clone(), Session { rows: rows.clone(), ..Session::default() });
        }
        for (key, transcript) in &recording.transcripts {
            log.sessions.entry(key.clone()).or_default().transcript.clone_from(transcript);
        }
        log
    }

    /// Takes note of a hello: another process of the gateway knows nothing of what ran in the one before.
    pub(super) fn greeted(&mut self, hello: &Value) {
        self.protocol = hello["protocol"].as_u64().unwrap_or(self.protocol);
        let boot_id = hello["server"]["bootId"].as_str().map(str::to_owned);
        if self.boot_id.is_some() && self.boot_id != boot_id {
            self.sessions.values_mut().for_each(|session| session.active.clear());
        }
        self.boot_id = boot_id;
    }

    /// Takes in a question.
    pub(super) fn asked(&mut self, params: &Value, at_ms: i64) {
        let (key, text) = (params["idempotencyKey"].as_str().unwrap_or_default(), &params["message"]);
        let protocol = self.protocol;
        let session = self.session(params["sessionKey"].as_str().unwrap_or_default());
        session.page = None;
        session.active.push(Active { run_id: key.to_owned(), text: None, started_ms: at_ms });
        let user_key = format!("{key}:user");
        if protocol >= 4 && !session.rows.iter().any(|row| row.value["idempotencyKey"] == json!(user_key)) {
            let row = json!({ "role": "user", "content": text, "idempotencyKey": user_key });
            session.write(row, json!({ "idempotencyKey": user_key }), at_ms);
        }
    }

    /// Takes in a `chat` event.
    pub(super) fn heard(&mut self, event: &Value, at_ms: i64) {
        let run_id = event["runId"].as_str().unwrap_or_default().to_owned();
        let is_over = ["final", "aborted", "error"].iter().any(|state| event["state"] == *state);
        let protocol = self.protocol;
        if self.ended.contains(&run_id) || (is_over && !self.ended.insert(run_id.clone())) {
            return;
        }
        let session = self.session(event["sessionKey"].as_str().unwrap_or_default());
        session.page = None;
        if !session.active.iter().any(|run| run.run_id == run_id) {
            session.active.push(Active { run_id: run_id.clone(), text: None, started_ms: at_ms });
        }
        let run = session.active.iter_mut().find(|run| run.run_id == run_id).expect("it is there by now");
        let text = run.text.get_or_insert_default();
        match (event["deltaText"].as_str(), text_of(event)) {
            (Some(part), _) if event["replace"] != true => text.push_str(part),
            (Some(whole), _) | (None, Some(whole)) => whole.clone_into(text),
            (None, None) => {}
        }
        if is_over {
            let text = text.clone();
            session.active.retain(|run| run.run_id != run_id);
            session.answer(&run_id, &text, event["stopReason"].as_str(), protocol, at_ms);
        }
    }

    /// Remembers a page that was recorded at this point; it holds until something is played.
    pub(super) fn page_read(&mut self, key: &str, page: &Value, at_ms: i64) {
        let session = self.session(key);
        session.active.clear();
        let in_flight = page["inFlightRun"]["runId"].as_str();
        let known = page["sessionInfo"]["activeRunIds"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for run_id in known.chain(in_flight) {
            let text = in_flight.is_some().then(|| page["inFlightRun"]["text"].as_str().unwrap_or_default().to_owned());
            session.active.push(Active { run_id: run_id.to_owned(), text, started_ms: at_ms });
        }
        if page["hasMore"] != true {
            // It is the whole log: what it does not have is gone, as after a reset.
            let rows = page["messages"].as_array().into_iter().flatten();
            let ids: Vec<&Value> = rows.map(|row| &row["__openclaw"]["id"]).collect();
            session.rows.retain(|row| row.since_ms > at_ms || ids.contains(&&row.value["__openclaw"]["id"]));
            session.page = Some(page.clone());
        }
    }

    pub(super) fn is_busy(&self, key: &str) -> bool {
        self.sessions.get(&canonical(key)).is_some_and(|session| !session.active.is_empty())
    }

    pub(super) fn has_ended(&self, run_id: &str) -> bool {
        self.ended.contains(run_id)
    }

    /// Answers `chat.history` with what is there at this time.
    pub(super) fn page(&mut self, params: &Value, now_ms: i64) -> Value {
        let asked = params["sessionKey"].as_str().unwrap_or_default();
        let (limit, offset) = (params["limit"].as_u64().unwrap_or(200), params["offset"].as_u64().unwrap_or(0));
        let protocol = self.protocol;
        let session = self.session(asked);
        if let (Some(page), 0) = (&session.page, offset) {
            return page.clone();
        }
        let rows: Vec<&Value> = session.rows(now_ms).collect();
        let until = rows.len().saturating_sub(usize::try_from(offset).expect("a small number"));
        let from = until.saturating_sub(usize::try_from(limit).expect("a small number"));
        let mut page = json!({ "sessionKey": asked, "messages": rows[from..until] });
        if !rows.is_empty() || session.touched {
            page["sessionId"] = session.transcript.as_str().into();
        }
        if protocol < 4 {
            page["thinkingLevel"] = "off".into();
            return page;
        }
        let active = &session.active;
        page["pendingInputs"] = json!({ "items": [], "total": 0 });
        page["totalMessages"] = rows.len().into();
        page["hasMore"] = (from > 0).into();
        if from > 0 {
            page["nextOffset"] = (rows.len() - from).into();
        }
        page["sessionInfo"] = json!({ "key": canonical(asked), "hasActiveRun": !active.is_empty() });
        match active.last() {
            Some(Active { run_id, text: Some(text), started_ms }) => {
                page["inFlightRun"] = json!({ "runId": run_id, "text": text, "startedAt": started_ms });
            }
            _ => {
                let ids: Vec<&String> = active.iter().map(|run| &run.run_id).collect();
                page["sessionInfo"]["activeRunIds"] = json!(ids);
            }
        }
        page
    }

    /// Returns the rows of `sessions.list` that tell of the sessions in use.
    pub(super) fn listed(&self, now_ms: i64) -> Vec<Value> {
        let rows = self.sessions.iter().filter(|(_, session)| session.rows(i64::MAX).next().is_some());
        rows.map(|(key, session)| {
            json!({
                "key": key,
                "kind": "direct",
                "sessionId": session.transcript,
                "updatedAt": now_ms,
                "hasActiveRun": !session.active.is_empty(),
            })
        })
        .collect()
    }

    /// Returns a session's rows as they are at last.
    pub(super) fn rows(&self, key: &str) -> Vec<Value> {
        self.sessions.get(&canonical(key)).map(|session| session.rows(i64::MAX).cloned().collect()).unwrap_or_default()
    }

    fn session(&mut self, key: &str) -> &mut Session {
        let key = canonical(key);
        let session = self.sessions.entry(key.clone()).or_default();
        if session.transcript.is_empty() {
            session.transcript = format!("transcript of {key}");
        }
        session
    }
}

impl Session {
    fn rows(&self, now_ms: i64) -> impl Iterator<Item = &Value> {
        self.rows.iter().filter(move |row| row.since_ms <= now_ms).map(|row| &row.value)
    }

    /// Writes a run's answer, unless the recording has it.
    fn answer(&mut self, run_id: &str, text: &str, stop: Option<&str>, protocol: u64, at_ms: i64) {
        let is_known = self.rows.iter().any(|Row { value: row, .. }| {
            row["role"] == "assistant"
                && if protocol < 4 {
                    text_of_row(row).as_deref() == Some(text)
                } else {
                    row["__openclaw"]["runId"] == run_id
                }
        });
        // An aborted run names itself elsewhere: `openclawAbort`; its rows are recorded.
        let is_aborted = stop == Some("rpc");
        if text.is_empty() || is_known || is_aborted || protocol < 4 {
            return;
        }
        let content = json!([{ "type": "text", "text": text }]);
        let row = json!({
            "role": "assistant", "content": content, "api": "openai-completions", "provider": "scripted",
            "model": "scripted", "stopReason": "stop",
        });
        self.write(row, json!({ "runId": run_id }), at_ms);
    }

    fn write(&mut self, mut row: Value, mut meta: Value, at_ms: i64) {
        self.touched = true;
        let newest = self.rows.iter().filter_map(|row| row.value["__openclaw"]["seq"].as_i64()).max();
        let seq = newest.unwrap_or(0) + 1;
        meta["id"] = format!("row {seq} of {}", self.transcript).into();
        meta["seq"] = seq.into();
        meta["recordTimestampMs"] = at_ms.into();
        row["timestamp"] = at_ms.into();
        row["__openclaw"] = meta;
        self.rows.push(Row { since_ms: at_ms, value: row });
    }
}
