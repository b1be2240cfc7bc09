use proptest::prelude::*;
use serde_json::Value;

use super::super::frames::{self, Deltas, Have};
use super::*;
use crate::domain::event::LiveStep;

const KIB: usize = 1_024;

fn topic() -> Arc<Topic> {
    Arc::new(Topic { conversation_id: ConversationId::new(), gateway_id: None, key: "s".into() })
}

fn live(turn_id: TurnId, rev: u64, text: &str, step: LiveStep) -> Arc<Live> {
    Arc::new(Live { turn_id, message_id: None, delivery_id: None, started_at: 0, rev, text: text.into(), step })
}

fn frame(bytes: usize) -> ByteString {
    "x".repeat(bytes).into()
}

fn outbox() -> Outbox {
    Outbox::new(64 * KIB, 10)
}

/// What is in a batch: the length of a frame, or the text of a run.
fn words(batch: &[Out]) -> Vec<String> {
    batch
        .iter()
        .map(|out| match out {
            Out::Text(frame) => frame.len().to_string(),
            Out::Live { live, whole, .. } => format!("{}{}", live.text, if *whole { " whole" } else { "" }),
        })
        .collect()
}

#[test]
fn frames_keep_their_order_and_a_text_its_place() {
    let (mut outbox, topic, turn) = (outbox(), topic(), TurnId::new());
    assert_eq!(outbox.push(frame(1)), Ok(()));
    outbox.push_live(&topic, &live(turn, 1, "a", LiveStep::Replace), true).expect("room");
    outbox.push(frame(2)).expect("room");
    outbox.push_live(&topic, &live(turn, 2, "ab", LiveStep::Phase("x".to_owned())), false).expect("room");
    outbox.push_live(&topic, &live(TurnId::new(), 1, "other", LiveStep::Phase("x".to_owned())), false).expect("room");
    assert_eq!(outbox.waiting(), (4, 3));
    assert_eq!(words(&outbox.take()), ["1", "ab whole", "2", "other"], "once a client cannot go on, it cannot");
    assert!(outbox.is_empty() && outbox.waiting() == (0, 0));
}

#[test]
fn over_a_bound_it_is_full() {
    let mut few = outbox();
    for _ in 0..10 {
        few.push(frame(1)).expect("room");
    }
    assert_eq!(few.push(frame(1)), Err(Full));
    let mut heavy = outbox();
    for _ in 0..4 {
        heavy.push(frame(16 * KIB)).expect("room");
    }
    heavy.push(frame(16 * KIB)).expect("the largest one is not counted");
    assert_eq!(heavy.push(frame(1)), Err(Full));
    heavy.clear();
    assert_eq!((heavy.push(frame(1)), heavy.waiting()), (Ok(()), (1, 1)));
}

#[test]
fn runs_count_as_frames() {
    let (mut outbox, topic) = (outbox(), topic());
    for _ in 0..10 {
        outbox.push_live(&topic, &live(TurnId::new(), 1, "x", LiveStep::Replace), false).expect("room");
    }
    assert_eq!(outbox.push_live(&topic, &live(TurnId::new(), 1, "x", LiveStep::Replace), false), Err(Full));
}

#[test]
fn answer_larger_than_the_bound_gets_through_among_small_frames() {
    let mut outbox = outbox();
    outbox.push(frame(10)).expect("room");
    outbox.push(frame(4 * KIB * KIB)).expect("an answer that exists");
    outbox.push(frame(10)).expect("room");
    assert_eq!(outbox.push(frame(65 * KIB)), Err(Full), "a second one is too much");
    assert_eq!(words(&outbox.take()), ["10".to_owned(), (4 * KIB * KIB).to_string()], "a batch ends behind it");
    assert_eq!(outbox.waiting(), (2, 65 * KIB + 10));
}

#[test]
fn batches_are_bounded() {
    let mut many = Outbox::new(KIB * KIB, 10_000);
    for _ in 0..300 {
        many.push(frame(1)).expect("room");
    }
    assert_eq!((many.take().len(), many.take().len(), many.take().len()), (256, 44, 0));
    let (mut long, topic) = (outbox(), topic());
    for _ in 0..3 {
        long.push_live(&topic, &live(TurnId::new(), 1, &"x".repeat(200 * KIB), LiveStep::Replace), true).expect("room");
    }
    assert_eq!((long.take().len(), long.take().len()), (2, 1));
}

#[test]
fn ended_runs_and_unwatched_conversations_are_dropped() {
    let (mut outbox, one, other) = (outbox(), topic(), topic());
    let (first, second, third) = (TurnId::new(), TurnId::new(), TurnId::new());
    outbox.push_live(&one, &live(first, 1, "a", LiveStep::Replace), false).expect("room");
    outbox.push_live(&one, &live(second, 1, "b", LiveStep::Replace), false).expect("room");
    outbox.push_live(&other, &live(third, 1, "c", LiveStep::Replace), false).expect("room");
    outbox.push(frame(1)).expect("room");
    outbox.drop_live(first);
    outbox.drop_live_of(other.conversation_id);
    assert_eq!(words(&outbox.take()), ["b", "1"]);
}

// ---- what a client makes of it -----------------------------------------------------------------------------------------

/// A client that shows what it is told of one run.
struct Client {
    deltas: Deltas,
    shown: String,
    n: u64,
}

impl Client {
    fn hear(&mut self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).expect("JSON");
        assert_eq!(frame["type"], "stream");
        let n = frame["n"].as_u64().expect("a number");
        assert_eq!(n, self.n + 1, "frames of a run are counted without a hole");
        self.n = n;
        let text = frame["text"].as_str();
        match (frame["state"].as_str().expect("a state"), self.deltas) {
            ("status", _) => assert!(text.is_none() && frame["phase"].is_string()),
            ("snapshot", Deltas::Increment) | ("delta", Deltas::Cumulative) => {
                assert!(frame.get("at").is_none());
                self.shown = text.expect("a text").to_owned();
            }
            ("delta", Deltas::Increment) => {
                let at = frame["at"].as_u64().expect("a place");
                assert_eq!(at, self.shown.encode_utf16().count() as u64, "a hole would be seen");
                self.shown.push_str(text.expect("a text"));
            }
            (state, _) => panic!("an unknown state {state}"),
        }
    }
}

/// A socket between a run and a client, as `watch` and `flush` use the outbox.
struct Socket {
    outbox: Outbox,
    topic: Arc<Topic>,
    turn: TurnId,
    have: Have,
    sent: u64,
    knows: bool,
}

impl Socket {
    fn on_live(&mut self, live: &Arc<Live>) {
        let joined_late = !self.knows && matches!(live.step, LiveStep::Delta { at, .. } if at > 0);
        self.knows = true;
        let whole = live.step == LiveStep::Replace || joined_late;
        self.outbox.push_live(&self.topic.clone(), live, whole).expect("room");
    }

    fn flush(&mut self, client: &mut Client) {
        for out in self.outbox.take() {
            let Out::Live { topic, live, whole } = out else { continue };
            assert_eq!(live.turn_id, self.turn);
            let next =
                frames::Next { n: self.sent + 1, deltas: client.deltas, have: self.have, whole, federated: false };
            if let Some((frame, have)) = frames::live(&topic, &live, next) {
                self.sent += 1;
                self.have = have;
                client.hear(&frame);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(String),
    Replace(String),
    Phase,
    Frame,
    Flush,
    /// Events before this one never reached the socket.
    Join,
}

fn step() -> impl Strategy<Value = Step> {
    let text = || prop_oneof!["[a-z]{1,4}", Just("𝄞€é".to_owned()), Just("\"\\\n\u{1}".to_owned())];
    prop_oneof![
        6 => text().prop_map(Step::Add),
        1 => prop_oneof![text(), Just(String::new())].prop_map(Step::Replace),
        1 => Just(Step::Phase),
        1 => Just(Step::Frame),
        3 => Just(Step::Flush),
    ]
}

proptest! {
    /// However often texts are rolled up, a client ends with exactly the newest one, in both dialects.
    #[test]
    fn client_ends_with_the_newest_text(
        before in prop::collection::vec(step(), 0..5),
        steps in prop::collection::vec(step(), 0..40),
        cumulative: bool,
    ) {
        let deltas = if cumulative { Deltas::Cumulative } else { Deltas::Increment };
        let mut client = Client { deltas, shown: String::new(), n: 0 };
        let mut socket = Socket {
            outbox: Outbox::new(KIB * KIB, 1_000),
            topic: topic(),
            turn: TurnId::new(),
            have: Have::default(),
            sent: 0,
            knows: false,
        };
        let (mut text, mut rev, mut is_there) = (String::new(), 0, false);
        for step in before.iter().chain([&Step::Join]).chain(&steps) {
            let what = match step {
                Step::Add(part) => {
                    let what = LiveStep::Delta { at: text.len(), at_utf16: text.encode_utf16().count() };
                    text.push_str(part);
                    what
                }
                Step::Replace(whole) => {
                    text.clone_from(whole);
                    LiveStep::Replace
                }
                Step::Phase => LiveStep::Phase("thinking".to_owned()),
                Step::Frame => {
                    socket.outbox.push(frame(9)).expect("room");
                    continue;
                }
                Step::Flush => {
                    socket.flush(&mut client);
                    continue;
                }
                Step::Join => {
                    is_there = true;
                    continue;
                }
            };
            rev += 1;
            if is_there {
                socket.on_live(&live(socket.turn, rev, &text, what));
            }
        }
        while !socket.outbox.is_empty() {
            socket.flush(&mut client);
        }
        if socket.knows {
            prop_assert_eq!(client.shown, text);
        }
    }

    /// A client that has come during a run goes on from its snapshot.
    #[test]
    fn snapshot_is_a_place_to_go_on_from(start in "[a-z𝄞€]{0,9}", part in "[a-z𝄞€]{1,9}", cumulative: bool) {
        let deltas = if cumulative { Deltas::Cumulative } else { Deltas::Increment };
        let (topic, turn) = (topic(), TurnId::new());
        let (first, have) = frames::snapshot(&topic, &live(turn, 1, &start, LiveStep::Replace), 1, false);
        let first: Value = serde_json::from_str(&first).expect("JSON");
        prop_assert_eq!(&first["state"], "snapshot");
        let mut client = Client { deltas, shown: first["text"].as_str().expect("a text").to_owned(), n: 1 };
        let text = format!("{start}{part}");
        let step = LiveStep::Delta { at: start.len(), at_utf16: start.encode_utf16().count() };
        let next = frames::Next { n: 2, deltas, have, whole: false, federated: false };
        let (frame, have) = frames::live(&topic, &live(turn, 2, &text, step), next).expect("something new");
        client.hear(&frame);
        prop_assert_eq!(&client.shown, &text);
        prop_assert_eq!(have, Have { bytes: text.len(), utf16: text.encode_utf16().count() });
    }
}
