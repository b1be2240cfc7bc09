//! The script against a client that does what the recorded one did, under keys of its own.
use serde_json::{Value, json};

use super::super::recording::{Recording, What};
use super::{Dial, Play, Script};

/// Plays a recording; returns what was said, and what was recorded.
fn play(names: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let recording = Recording::read(names, 1_000_000);
    let mut script = Script::new(recording.clone(), &[]);
    let (mut said, mut recorded) = (Vec::new(), Vec::new());
    for connection in &recording.connections {
        while matches!(script.dial(), Dial::Fails(_)) {}
        for step in &connection.steps {
            match &step.what {
                What::Asked(asked) if script.waits_for(asked) => {
                    said.extend(until_it_waits(&mut script));
                    let mut params = asked.params.clone();
                    if let Some(key) = params["idempotencyKey"].as_str() {
                        params["idempotencyKey"] = format!("our {key}").into();
                    }
                    let request = json!({ "id": asked.id, "method": asked.method, "params": params });
                    assert_eq!(script.hear(&request.to_string()), None, "{request} is recorded");
                }
                What::Asked(_) => {}
                What::Event(frame) | What::Answer { frame, .. } => recorded.push(frame.clone()),
            }
        }
        said.extend(until_it_waits(&mut script));
    }
    assert!(script.seen.faults.is_empty(), "{:?}", script.seen.faults);
    (said, recorded)
}

fn until_it_waits(script: &mut Script) -> Vec<Value> {
    let mut said = Vec::new();
    while script.pause().is_some() {
        match script.play() {
            Play::Say(text) => said.push(serde_json::from_str(&text).expect("JSON")),
            Play::Nothing => {}
            Play::Close(..) | Play::Cut => break,
        }
    }
    said
}

#[test]
fn a_recording_is_played_frame_by_frame() {
    for name in
        ["connect-chat-stream-final", "chat-tool-call", "model-error-429", "protocol-3-connect-chat-stream-final"]
    {
        let (said, recorded) = play(&[name]);
        let kinds = |frames: &[Value]| -> Vec<String> {
            frames
                .iter()
                .map(|frame| format!("{} {} {}", frame["type"], frame["event"], frame["payload"]["state"]))
                .collect()
        };
        // The look at history is not waited for, so it is not answered.
        let recorded: Vec<Value> =
            recorded.into_iter().filter(|frame| !frame["payload"]["messages"].is_array()).collect();
        assert_eq!(kinds(&said), kinds(&recorded), "{name}");
    }
}

#[test]
fn keys_are_ours_wherever_they_stand() {
    let (said, _) = play(&["reconnect-midstream"]);
    let text = serde_json::to_string(&said).expect("JSON");
    assert!(text.contains(r#""idempotencyKey":"our fx-reco-1:user""#));
    assert!(text.contains(r#""runId":"our fx-reco-1""#));
    assert!(!text.contains(r#""fx-reco-1"#));
}

#[test]
fn events_are_counted_without_holes_on_each_connection() {
    let (said, _) = play(&["history-markers"]);
    let counted: Vec<u64> = said.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    assert_eq!(counted, (1..=counted.len() as u64).collect::<Vec<_>>());
}

#[test]
fn outages_are_where_they_were() {
    let recording = Recording::read(&["gateway-sigkill-midstream"], 1_000_000);
    let mut script = Script::new(recording.clone(), &[]);
    let mut dials = String::new();
    for _ in 0..8 {
        match script.dial() {
            Dial::Fails(_) => dials.push('-'),
            Dial::Opens => {
                until_it_waits(&mut script);
                let refused = recording.connections[script.current.expect("open")].steps.iter().any(
                    |step| matches!(&step.what, What::Answer { frame, .. } if frame["error"]["code"] == "UNAVAILABLE"),
                );
                dials.push(if refused { 'u' } else { 'o' });
                script.is_over = true;
            }
        }
    }
    assert_eq!(dials, "o-uuuuuo");
}

#[test]
fn a_log_grows_as_it_is_played() {
    let recording = Recording::read(&["chat-unicode"], 1_000_000);
    let mut script = Script::new(recording, &[]);
    script.dial();
    let ask = |script: &mut Script, method: &str, params: Value| {
        until_it_waits(script);
        script.hear(&json!({ "id": "c1", "method": method, "params": params }).to_string())
    };
    ask(&mut script, "connect", json!({}));
    let read = |script: &mut Script| -> Value {
        let answer = ask(script, "chat.history", json!({ "sessionKey": "gx-uni", "limit": 200 }));
        serde_json::from_str(&answer.expect("it is answered")).expect("JSON")
    };
    let before = read(&mut script);
    assert_eq!(before["payload"]["messages"], json!([]));
    assert_eq!(before["payload"]["sessionInfo"]["key"], "agent:main:gx-uni");
    let question = json!({ "sessionKey": "gx-uni", "message": "unicode", "idempotencyKey": "k1" });
    assert_eq!(ask(&mut script, "chat.send", question.clone()), None);
    let after = read(&mut script);
    let rows = after["payload"]["messages"].as_array().expect("rows").clone();
    assert_eq!((&rows[0]["idempotencyKey"], &rows[0]["__openclaw"]["seq"]), (&json!("k1:user"), &json!(1)));
    assert_eq!((&rows[1]["__openclaw"]["runId"], &rows[1]["__openclaw"]["seq"]), (&json!("k1"), &json!(2)));
    let again: Value = serde_json::from_str(&ask(&mut script, "chat.send", question).expect("answered")).expect("JSON");
    assert_eq!(again["payload"], json!({ "runId": "k1", "status": "ok" }));
}
