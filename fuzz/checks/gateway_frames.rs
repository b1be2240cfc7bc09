//! What a gateway sends: frames, their payloads, pages of history, texts of runs.
use clawbroker::gateway::frames::{
    AbortAck, AgentsList, Challenge, ChatEvent, HelloOk, Inbound, ModelsList, SendAck, SessionsList, Shutdown, decode,
    default_model,
};
use clawbroker::gateway::history::HistoryPage;
use clawbroker::gateway::reconcile::{Asked, answer_so_far, is_active, judge};
use clawbroker::gateway::run::{Change, RunText};
use serde_json::value::RawValue;

/// Each line of the input is a frame of one connection.
pub(crate) fn check(data: &[u8]) {
    let mut run = RunText::default();
    let mut shown = String::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(frame) = Inbound::parse(line) else { continue };
        let is_text = std::str::from_utf8(line).is_ok();
        assert!(!is_text || serde_json::from_slice::<&RawValue>(line).is_ok(), "a frame is JSON");
        // Neither an event's nor an answer's payload is named (SEC-1).
        let _ = format!("{frame:?}");
        match frame {
            Inbound::Response { result: Ok(payload), .. } | Inbound::Event { payload, .. } => {
                read(&payload);
                if let Ok(event) = decode::<ChatEvent>(&payload) {
                    follow(&mut run, &mut shown, &event);
                }
            }
            Inbound::Response { result: Err(error), .. } => {
                let _ = (error.detail_code(), error.reason(), error.missing_scope(), error.to_string());
            }
            Inbound::Other => {}
        }
    }
    let visible = run.visible().to_owned();
    let finished = run.finish(None);
    assert!(finished.visible.starts_with(&visible), "an end only adds");
}

/// Reads a payload as everything that it may be.
fn read(payload: &RawValue) {
    let _ = decode::<Challenge>(payload);
    let _ = decode::<HelloOk>(payload).map(|hello| hello.has_method("chat.send"));
    let _ = decode::<SendAck>(payload);
    let _ = decode::<AbortAck>(payload);
    let _ = decode::<Shutdown>(payload);
    let _ = decode::<ModelsList>(payload);
    let sessions = decode::<SessionsList>(payload).ok();
    if let Ok(agents) = decode::<AgentsList>(payload) {
        let _ = default_model(&agents, sessions.as_ref());
    }
    if let Ok(page) = decode::<HistoryPage>(payload) {
        for protocol in [3, 4] {
            for key in [None, Some("k")] {
                let asked = Asked { key, run_id: "k", text: "hello", since_ms: 0, after_seq: 0, protocol };
                let _ = (judge(&page, &asked), answer_so_far(&page, &asked), is_active(&page));
            }
        }
    }
}

/// Has a browser's text follow the run as its frames tell it.
fn follow(run: &mut RunText, shown: &mut String, event: &ChatEvent) {
    match run.on_delta(event) {
        Change::None => {}
        Change::Added { at, at_utf16 } => {
            assert_eq!((at, at_utf16), (shown.len(), shown.encode_utf16().count()));
            shown.push_str(run.visible().get(at..).expect("a whole character"));
        }
        Change::Replaced => run.visible().clone_into(shown),
    }
    assert_eq!(shown, run.visible(), "what a browser has is what there is");
}
