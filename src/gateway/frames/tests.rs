use std::collections::HashMap;

use serde_json::json;

use super::super::fixtures;
use super::super::history::HistoryPage;
use super::*;

#[test]
fn every_recorded_frame_is_understood() {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for name in fixtures::names() {
        let mut methods: HashMap<String, String> = HashMap::new();
        for recorded in fixtures::frames(&name) {
            if !recorded.inbound {
                let sent: Value = serde_json::from_str(&recorded.frame).expect("our own frame");
                let method = sent["method"].as_str().unwrap_or_default();
                methods.insert(sent["id"].as_str().unwrap_or_default().to_owned(), method.to_owned());
                continue;
            }
            let kind = understand(&recorded.file, &recorded.frame, &methods);
            *seen.entry(kind).or_default() += 1;
        }
    }
    for kind in [
        "event connect.challenge",
        "res connect",
        "event chat",
        "event shutdown",
        "res chat.history",
        "res chat.send",
        "res chat.abort",
        "res agents.list",
    ] {
        assert!(seen[kind] > 0, "{kind}");
    }
    assert!(!seen.contains_key("other"));
}

/// Parses a frame and, where we have a type for it, its payload; returns what it was.
fn understand(file: &str, frame: &str, methods: &HashMap<String, String>) -> String {
    fn check<T: for<'de> Deserialize<'de>>(file: &str, payload: &RawValue) {
        decode::<T>(payload).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    match Inbound::parse(frame).unwrap_or_else(|error| panic!("{file}: {error}")) {
        Inbound::Event { event, payload, seq } => {
            assert_eq!(seq.is_none(), event == "connect.challenge", "{file}: {event}");
            match event.as_str() {
                "connect.challenge" => check::<Challenge>(file, &payload),
                "chat" => {
                    let chat: ChatEvent = decode(&payload).unwrap_or_else(|error| panic!("{file}: {error}"));
                    assert_ne!(chat.state, ChatState::Other, "{file}");
                    assert!(chat.session_key.starts_with("agent:main:"), "{file}");
                }
                "shutdown" => check::<Shutdown>(file, &payload),
                _ => {}
            }
            format!("event {event}")
        }
        Inbound::Response { id, result } => {
            let method = methods.get(&id).map_or("", String::as_str);
            match (method, &result) {
                ("connect", Ok(payload)) => check::<HelloOk>(file, payload),
                ("chat.send" | "sessions.send", Ok(payload)) => check::<SendAck>(file, payload),
                ("chat.abort", Ok(payload)) => check::<AbortAck>(file, payload),
                ("chat.history", Ok(payload)) => check::<HistoryPage>(file, payload),
                ("agents.list", Ok(payload)) => check::<AgentsList>(file, payload),
                ("models.list", Ok(payload)) => check::<ModelsList>(file, payload),
                ("sessions.list", Ok(payload)) => check::<SessionsList>(file, payload),
                (_, Ok(_)) => {}
                (_, Err(error)) => assert!(!error.code.is_empty() && !error.message.is_empty(), "{file}"),
            }
            format!("res {method}")
        }
        Inbound::Other => "other".to_owned(),
    }
}

#[test]
fn strange_frames_are_no_errors_and_broken_ones_are() {
    for odd in
        [r"{}", r#"{"type":"res","id":7,"ok":true}"#, r#"{"type":"event","event":null}"#, r#"{"type":"later","x":1}"#]
    {
        assert!(matches!(Inbound::parse(odd), Ok(Inbound::Other)), "{odd}");
    }
    for broken in ["", "no json", "[1]x", "\"text\"", "{\"type\":"] {
        assert!(Inbound::parse(broken).is_err(), "{broken}");
    }
    assert!(Inbound::parse(b"{\"type\":\"\xff\"}").is_err());
    let Ok(Inbound::Response { id, result: Err(error) }) = Inbound::parse(
        r#"{"type":"res","id":"\u0061","ok":false,"error":{"code":"X","retryAfterMs":1.5,"details":null}}"#,
    ) else {
        panic!("a response");
    };
    assert_eq!((id.as_str(), error.code.as_str(), error.retry_after_ms), ("a", "X", Some(1)));
}

#[test]
fn nothing_secret_is_printed() {
    let frame = json!({"type": "res", "id": "r1", "ok": true,
        "payload": {"type": "hello-ok", "protocol": 4, "auth": {"deviceToken": "hidden-1"}}});
    let inbound = Inbound::parse(frame.to_string()).expect("a frame");
    assert!(!format!("{inbound:?}").contains("hidden"));
    let Inbound::Response { result: Ok(payload), .. } = inbound else { panic!("a response") };
    let hello: HelloOk = decode(&payload).expect("a hello");
    assert_eq!(hello.auth.device_token.as_ref().expect("a token").reveal(), "hidden-1");
    assert!(!format!("{hello:?}").contains("hidden"));
    assert_eq!(hello.policy.tick_interval_ms, 30_000);

    let wrong = RawValue::from_string(r#"{"protocol":"hidden-2"}"#.to_owned()).expect("JSON");
    let error = decode::<HelloOk>(&wrong).expect_err("a wrong type");
    assert_eq!(error.to_string(), "unreadable HelloOk from the gateway (column 22)");
}

#[test]
fn hello_of_both_generations_is_read() {
    let answer = |name: &str| fixtures::answers(name, "connect").remove(0).expect("connected");
    let new: HelloOk = decode(&answer("device-pairing-approved")).expect("a hello");
    assert_eq!((new.protocol, new.server.version.as_str()), (4, "2026.9.6"));
    assert!(new.server.boot_id.is_some() && new.auth.device_token.is_some());
    assert_eq!(new.auth.method.as_deref(), Some("token"));
    assert!(new.has_method("chat.history") && !new.has_method("no.such.method"));
    assert_eq!(new.policy.max_payload, 26_214_400);

    let old: HelloOk = decode(&answer("protocol-3-connect-chat-stream-final")).expect("a hello");
    assert_eq!((old.protocol, old.server.version.as_str(), &old.server.boot_id), (3, "2026.4.27", &None));
    assert_eq!(old.snapshot.session_defaults.default_agent_id.as_deref(), Some("main"));
    assert_eq!(old.auth.scopes, ["operator.read", "operator.write"]);
}

/// `replace ? deltaText : text + deltaText`, else the text so far.
fn follow(events: &[ChatEvent], run_id: &str) -> (String, Vec<ChatState>) {
    let mut text = String::new();
    let mut ends = Vec::new();
    for event in events.iter().filter(|event| event.run_id == run_id) {
        match (event.state, &event.delta_text) {
            (ChatState::Delta, Some(part)) if event.replace => text = part.clone(),
            (ChatState::Delta, Some(part)) => text.push_str(part),
            (ChatState::Delta, None) => text = event.text.clone().expect("text so far"),
            (state, _) if state.is_terminal() => ends.push(state),
            _ => {}
        }
        if event.state == ChatState::Delta && !event.replace {
            assert_eq!(event.text.as_deref(), Some(text.as_str()), "both forms say the same");
        }
    }
    (text, ends)
}

#[test]
fn deltas_add_up_to_the_final_text() {
    for (name, run_id) in [
        ("connect-chat-stream-final", "fx-stream-1"),
        ("chat-fast-stream-coalesced", "fx-fast-1"),
        ("chat-unicode", "gx-uni-1"),
        ("chat-second-send-while-running", "gx-q-1"),
        ("protocol-3-connect-chat-stream-final", "v3-stream-4"),
    ] {
        let events: Vec<ChatEvent> = fixtures::events(name, "chat");
        let (text, ends) = follow(&events, run_id);
        assert_eq!(ends, [ChatState::Final], "{name}");
        let last =
            events.iter().find(|event| event.run_id == run_id && event.state == ChatState::Final).expect("a final");
        assert_eq!(last.text.as_deref(), Some(text.as_str()), "{name}");
        assert!(last.timestamp_ms.is_some(), "{name}");
    }
}

#[test]
fn failures_are_told_twice_and_finals_may_be_bare() {
    let events: Vec<ChatEvent> = fixtures::events("model-error-429", "chat");
    let (_, ends) = follow(&events, "fx-model-error-429");
    assert_eq!(ends, [ChatState::Error, ChatState::Error]);
    let first = events.iter().find(|event| event.state.is_terminal()).expect("an end");
    assert_eq!(first.error_kind.as_deref(), Some("rate_limit"));
    assert!(first.error_message.as_deref().is_some_and(|text| text.contains("rate limit")));

    let events: Vec<ChatEvent> = fixtures::events("chat-tool-call", "chat");
    let finals: Vec<_> = events.iter().filter(|event| event.state == ChatState::Final).collect();
    assert_eq!((finals.len(), &finals[0].text), (2, &None));
    assert_eq!(finals[1].text.as_deref(), Some("⚠️ Session Status blocked"));
    assert!(finals[1].usage.is_some());
    let replies = |name: &str| {
        let of = |payload: Box<RawValue>| TerminalReply::of(&payload);
        fixtures::events::<Box<RawValue>>(name, "agent").into_iter().filter_map(of).collect::<Vec<_>>()
    };
    let reply = TerminalReply {
        run_id: finals[0].run_id.clone(),
        session_key: finals[0].session_key.clone(),
        text: Some("tool result: Tool session_status not found".to_owned()),
    };
    assert_eq!(replies("chat-tool-call"), [reply], "where the text is");
    let lost = replies("gateway-restart-midstream");
    assert!(lost.iter().any(|reply| reply.text.is_none()), "a run may say nothing: {lost:?}");

    let events: Vec<ChatEvent> = fixtures::events("chat-abort-midstream", "chat");
    let aborted = events.iter().find(|event| event.state == ChatState::Aborted).expect("an abort");
    assert_eq!((aborted.text.as_deref(), aborted.stop_reason.as_deref()), (Some("alpha beta gamma del"), Some("rpc")));
}

#[test]
fn answers_to_send_and_refusals_are_told_apart() {
    let answers = fixtures::answers("chat-idempotency", "chat.send");
    let statuses: Vec<Option<SendStatus>> = answers
        .iter()
        .map(|answer| answer.as_ref().ok().map(|payload| decode::<SendAck>(payload).expect("an ack").status))
        .collect();
    assert!(statuses.contains(&Some(SendStatus::Started)) && statuses.contains(&Some(SendStatus::InFlight)));
    assert!(statuses.contains(&Some(SendStatus::Ok)) && statuses.contains(&None));
    let refused = answers.iter().find_map(|answer| answer.as_ref().err()).expect("a refusal");
    assert_eq!(refused.reason(), Some("chat-request-conflict"));

    let scope = fixtures::answers("auth-missing-scope", "chat.send").remove(0).expect_err("no right");
    assert_eq!(scope.missing_scope(), Some("operator.write"));
    let old = GatewayError { message: "missing scope: operator.read".to_owned(), ..GatewayError::default() };
    assert_eq!(old.missing_scope(), Some("operator.read"));
}

#[test]
fn lists_name_the_default_model() {
    let name = "lists-sessions-agents-models";
    let agents: AgentsList =
        decode(fixtures::answers(name, "agents.list")[0].as_ref().expect("a list")).expect("agents");
    let models: ModelsList =
        decode(fixtures::answers(name, "models.list")[0].as_ref().expect("a list")).expect("models");
    let list: SessionsList =
        decode(fixtures::answers(name, "sessions.list")[0].as_ref().expect("a list")).expect("rows");
    assert_eq!((agents.agents.len(), models.models.len(), list.sessions.len()), (1, 2, 5));
    assert_eq!((list.total_count, list.next_offset, list.has_more), (Some(19), Some(5), true));
    assert_eq!(list.sessions[0].key, "agent:main:fx-reco");
    assert_eq!(list.sessions[0].active_run_ids, Some(Vec::new()));
    assert_eq!(default_model(&agents, None).as_deref(), Some("scripted/scripted"));
    assert_eq!(default_model(&AgentsList::default(), Some(&list)).as_deref(), Some("scripted/scripted"));
    assert_eq!(default_model(&AgentsList::default(), None), None);
}

#[test]
fn request_is_one_closed_object() {
    let frame: Value = serde_json::from_str(&request("7", "chat.abort", &json!({"sessionKey": "main"}))).expect("JSON");
    assert_eq!(frame, json!({"type": "req", "id": "7", "method": "chat.abort", "params": {"sessionKey": "main"}}));
}
