//! A recording as a script: what was asked and what came, cut into connections, with its times moved to today.
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

/// What was recorded lies between these; a number in there is a time.
const RECORDED_MS: std::ops::Range<i64> = 1_795_000_000_000..1_796_000_000_000;
/// Between two recordings that are played one after the other.
const BETWEEN_MS: i64 = 1_000;

/// Recordings, one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording {
    pub(super) connections: Vec<Connection>,
    /// Rows of all recorded histories by the session's canonical key, each once.
    pub(super) rows: BTreeMap<String, Vec<Row>>,
    /// Ids of transcripts by the session's canonical key.
    pub(super) transcripts: HashMap<String, String>,
    pub(super) ends_ms: i64,
}

/// One connection; it begins with the gateway's challenge.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Dials that failed before it.
    pub(super) away: Vec<Away>,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
}

/// How a dial fails while the gateway is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    Unreachable,
    Status(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client left: it stays open, unless another recording goes on from here.
    Left,
    Closed {
        code: u16,
        reason: String,
    },
    /// Gone without a word.
    Cut,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) at_ms: i64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Asked(Asked),
    /// The answer to the request of this recorded id.
    Answer {
        id: String,
        frame: Value,
    },
    Event(Value),
}

/// A request of the recorded client.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) params: Value,
    /// It was the first thing after the handshake.
    pub(super) is_first: bool,
}

/// A row of a session's log, and since when it is there.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) since_ms: i64,
    pub(super) value: Value,
}

/// A question of the recorded client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) key: String,
    pub(crate) session: String,
    pub(crate) text: String,
}

/// How a run ended: its first terminal event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) state: String,
    pub(crate) text: String,
    pub(crate) error: Option<String>,
}

impl Recording {
    /// Reads recordings as if the first of them began now.
    pub(super) fn read(names: &[&str], now_ms: i64) -> Self {
        let mut recording = Self { ends_ms: now_ms, ..Self::default() };
        for name in names {
            recording.append(name);
        }
        recording
    }

    fn append(&mut self, name: &str) {
        let starts_ms = self.ends_ms;
        let mut shift = None;
        let mut outage_from = self.connections.len();
        for mut line in lines(name) {
            let at_ms = starts_ms + line["t"].as_i64().expect("a time");
            self.ends_ms = self.ends_ms.max(at_ms + BETWEEN_MS);
            if line["dir"] == "note" {
                self.note(&line, &mut outage_from);
                continue;
            }
            if line["frame"]["event"] == "connect.challenge" {
                let ts = line["frame"]["payload"]["ts"].as_i64().expect("the challenge has a time");
                shift.get_or_insert(at_ms - ts);
                self.connections.push(Connection { away: Vec::new(), steps: Vec::new(), end: End::Left });
            }
            move_times(&mut line["frame"], shift.expect("a recording begins with the challenge"));
            let connection = self.connections.last_mut().expect("a recording begins with the challenge");
            let what = what(connection, line["dir"] == "out", line["frame"].take());
            connection.steps.push(Step { at_ms, what });
        }
        self.gather_rows();
    }

    fn note(&mut self, line: &Value, outage_from: &mut usize) {
        let (close, count) = (&line["close"], self.connections.len());
        let Some(last) = self.connections.last_mut() else { return };
        if let Some(code) = close["code"].as_u64() {
            let reason = close["reason"].as_str().unwrap_or_default().to_owned();
            last.end = match u16::try_from(code).expect("a close code") {
                1005 => End::Left,
                1006 => End::Cut,
                code => End::Closed { code, reason },
            };
            *outage_from = count;
        }
        match line["note"].as_str() {
            Some("connect refused") => {
                last.end = End::Closed { code: 1008, reason: "gateway starting; retry shortly".to_owned() };
            }
            Some(text) if text.contains("first failure") => {
                let away = if text.contains("503") { Away::Status(503) } else { Away::Unreachable };
                // It is told when the outage is over; the dials failed at its beginning.
                let first = self.connections.get_mut(*outage_from);
                first.map_or_else(|| unreachable!("it came back"), |first| first.away.push(away));
            }
            _ => {}
        }
    }

    fn gather_rows(&mut self) {
        let mut found: Vec<(String, Value)> = Vec::new();
        for connection in &self.connections {
            let mut sessions: HashMap<&str, String> = HashMap::new();
            for step in &connection.steps {
                match &step.what {
                    What::Asked(asked) if asked.method == "chat.history" => {
                        sessions.insert(&asked.id, canonical(asked.params["sessionKey"].as_str().expect("a key")));
                    }
                    What::Answer { id, frame } => {
                        let Some(session) = sessions.get(id.as_str()) else { continue };
                        if let Some(id) = frame["payload"]["sessionId"].as_str() {
                            self.transcripts.insert(session.clone(), id.to_owned());
                        }
                        let rows = frame["payload"]["messages"].as_array().into_iter().flatten();
                        found.extend(rows.map(|row| (session.clone(), row.clone())));
                    }
                    _ => {}
                }
            }
        }
        self.rows.clear();
        for (session, value) in found {
            let since_ms = self.since(&session, &value);
            let rows = self.rows.entry(session).or_default();
            if !rows.iter().any(|row| row.value["__openclaw"]["id"] == value["__openclaw"]["id"]) {
                rows.push(Row { since_ms, value });
            }
        }
        for rows in self.rows.values_mut() {
            rows.sort_by_key(|row| row.value["__openclaw"]["seq"].as_i64());
        }
    }

    /// Tells since when a row is in the log. Protocol 3 does not say: there an answer is as old as its `final`.
    fn since(&self, session: &str, row: &Value) -> i64 {
        let time = row["timestamp"].as_i64().unwrap_or_default();
        if let Some(recorded) = row["__openclaw"]["recordTimestampMs"].as_i64() {
            return recorded;
        }
        let ended = self.events().find(|(_, event)| {
            event["sessionKey"] == session
                && row["role"] == "assistant"
                && text_of(event) == text_of_row(row).as_deref()
        });
        ended.map_or(time, |(at_ms, _)| at_ms.max(time))
    }

    /// Returns the payloads of all `chat` events.
    fn events(&self) -> impl Iterator<Item = (i64, &Value)> {
        self.connections.iter().flat_map(|connection| &connection.steps).filter_map(|step| match &step.what {
            What::Event(frame) if frame["event"] == "chat" => Some((step.at_ms, &frame["payload"])),
            _ => None,
        })
    }

    /// Returns what was asked, each question once.
    pub(super) fn questions(&self) -> Vec<Question> {
        let mut questions: Vec<Question> = Vec::new();
        for step in self.connections.iter().flat_map(|connection| &connection.steps) {
            let What::Asked(asked) = &step.what else { continue };
            let text = |name: &str| asked.params[name].as_str().unwrap_or_default().to_owned();
            let session = text("sessionKey").trim_start_matches("agent:main:").to_owned();
            let question = Question { key: text("idempotencyKey"), session, text: text("message") };
            if asked.method == "chat.send" && !questions.iter().any(|known| known.key == question.key) {
                questions.push(question);
            }
        }
        questions
    }

    /// Returns the run that ended with this text.
    pub(super) fn run_answering(&self, text: &str) -> String {
        let ended = self.events().find(|(_, event)| event["state"] == "final" && text_of(event) == Some(text));
        ended.expect("it was answered").1["runId"].as_str().expect("a run has an id").to_owned()
    }

    /// Returns the run by which the gateway took a session's question up again.
    pub(super) fn run_resuming(&self, session: &str) -> String {
        let session = canonical(session);
        let resumes = |row: &&Row| row.value["provenance"]["sourceTool"] == "main_session_restart_recovery";
        let row = self.rows[&session].iter().find(resumes).expect("it was taken up");
        row.value["idempotencyKey"].as_str().expect("a key").trim_end_matches(":user").to_owned()
    }

    /// Returns how a run ended, from its events alone.
    pub(super) fn told(&self, run: &str) -> Told {
        let mut text = String::new();
        for (_, event) in self.events().filter(|(_, event)| event["runId"] == run) {
            let state = event["state"].as_str().expect("a state");
            let error = event["errorMessage"].as_str().map(str::to_owned);
            match (state, event["deltaText"].as_str(), text_of(event)) {
                ("delta", Some(part), _) if event["replace"] != true => text.push_str(part),
                ("delta", Some(whole), _) | ("delta", None, Some(whole)) => text = whole.to_owned(),
                ("final" | "aborted" | "error", _, whole) => {
                    let text = whole.map_or(text, str::to_owned);
                    return Told { state: state.to_owned(), text, error };
                }
                _ => {}
            }
        }
        panic!("the run {run} did not end in this recording");
    }
}

fn what(connection: &Connection, is_out: bool, frame: Value) -> What {
    let id = frame["id"].as_str().unwrap_or_default().to_owned();
    match (is_out, frame["type"] == "res") {
        (true, _) => What::Asked(Asked {
            id,
            method: frame["method"].as_str().expect("a method").to_owned(),
            params: frame["params"].clone(),
            is_first: connection.steps.len() == 3,
        }),
        (false, true) => What::Answer { id, frame },
        (false, false) => What::Event(frame),
    }
}

/// Returns the lines of a recorded file.
pub(super) fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/openclaw-gateway/{name}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

fn move_times(value: &mut Value, by_ms: i64) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| move_times(item, by_ms)),
        Value::Object(fields) => fields.values_mut().for_each(|field| move_times(field, by_ms)),
        Value::Number(number) => {
            if let Some(time) = number.as_i64().filter(|time| RECORDED_MS.contains(time)) {
                *value = (time + by_ms).into();
            }
        }
        _ => {}
    }
}

/// Returns a session's full key, as the gateway has it.
pub(super) fn canonical(key: &str) -> String {
    if key.starts_with("agent:") { key.to_owned() } else { format!("agent:main:{key}") }
}

/// Returns the text of a `chat` event's message.
pub(super) fn text_of(event: &Value) -> Option<&str> {
    event["message"]["content"][0]["text"].as_str()
}

/// Returns the text of a row, whose content is a text or blocks.
pub(super) fn text_of_row(row: &Value) -> Option<String> {
    let content = &row["content"];
    content.as_str().or_else(|| content[0]["text"].as_str()).map(str::to_owned)
}
