use proptest::prelude::*;

use super::super::fixtures;
use super::super::frames::ChatState;
use super::*;
use crate::domain::thinking;

fn event(delta_text: Option<&str>, replace: bool, text: Option<&str>) -> ChatEvent {
    ChatEvent {
        run_id: "r".to_owned(),
        session_key: "agent:main:s".to_owned(),
        state: ChatState::Delta,
        phase: None,
        delta_text: delta_text.map(str::to_owned),
        replace,
        text: text.map(str::to_owned),
        error_message: None,
        error_kind: None,
        usage: None,
        stop_reason: None,
        timestamp_ms: None,
    }
}

/// Somebody who knows of the text by the changes alone.
#[derive(Default)]
struct Reader {
    shown: String,
}

impl Reader {
    fn follow(&mut self, text: &RunText, change: Change) {
        match change {
            Change::None => {}
            Change::Added { at, at_utf16 } => {
                assert_eq!(at, self.shown.len(), "what was shown ends where the new part begins");
                assert_eq!(at_utf16, self.shown.encode_utf16().count());
                self.shown.push_str(&text.visible()[at..]);
            }
            Change::Replaced => self.shown = text.visible().to_owned(),
        }
        assert_eq!(self.shown, text.visible(), "a change that was not told");
    }
}

/// Feeds deltas given as (deltaText, replace, text so far), and returns what a reader sees at last, with the end of it.
fn play(deltas: &[(Option<&str>, bool, Option<&str>)], end: Option<&str>) -> (String, Finished) {
    let (mut text, mut reader) = (RunText::default(), Reader::default());
    for (part, replace, whole) in deltas {
        let change = text.on_delta(&event(*part, *replace, *whole));
        reader.follow(&text, change);
    }
    (reader.shown, text.finish(end))
}

#[test]
fn deltas_of_both_protocols_give_the_text() {
    type Row =
        (&'static str, Vec<(Option<&'static str>, bool, Option<&'static str>)>, Option<&'static str>, &'static str);
    let rows: Vec<Row> = vec![
        ("nothing", vec![], None, ""),
        ("only an end", vec![], Some("all of it"), "all of it"),
        ("increments", vec![(Some("a"), false, Some("a")), (Some("b"), false, Some("ab"))], None, "ab"),
        ("increments without the text so far", vec![(Some("a"), false, None), (Some("b"), false, None)], None, "ab"),
        ("protocol 3", vec![(None, false, Some("a")), (None, false, Some("ab"))], None, "ab"),
        ("protocol 3 says it again", vec![(None, false, Some("ab")), (None, false, Some("ab"))], None, "ab"),
        ("protocol 3 begins again", vec![(None, false, Some("ab")), (None, false, Some("x"))], None, "x"),
        ("replaced", vec![(Some("ab"), false, Some("ab")), (Some("x"), true, Some("x"))], None, "x"),
        ("void", vec![(Some("ab"), false, Some("ab")), (Some(""), true, Some(""))], None, ""),
        (
            "void, then again",
            vec![(Some("ab"), false, None), (Some(""), true, None), (Some("c"), false, Some("c"))],
            None,
            "c",
        ),
        ("a missed delta", vec![(Some("a"), false, Some("a")), (Some("c"), false, Some("abc"))], None, "abc"),
        ("a delta told twice", vec![(Some("ab"), false, Some("ab")), (Some("b"), false, Some("ab"))], None, "ab"),
        ("joined late", vec![(Some("c"), false, Some("abc"))], None, "abc"),
        ("a missed void", vec![(Some("ab"), false, Some("ab")), (Some("y"), false, Some("xy"))], None, "xy"),
        ("the end says more", vec![(Some("a"), false, Some("a"))], Some("ab"), "ab"),
        ("the end says something else", vec![(Some("a"), false, Some("a"))], Some("b"), "b"),
        ("a bare end", vec![(Some("a"), false, Some("a"))], None, "a"),
        ("nothing in it", vec![(None, false, None)], None, ""),
    ];
    for (name, deltas, end, expected) in rows {
        assert_eq!(play(&deltas, end).1.visible, expected, "{name}");
    }
}

#[test]
fn thinking_is_taken_out_wherever_it_is_cut() {
    let whole = "<think>hm, a < b</think>The answer is `<think>` of 1 < 2 <Thinking>no</THINKING>done";
    let expected = thinking::strip(whole);
    for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
        let (one, two) = whole.split_at(at);
        let (shown, finished) = play(&[(Some(one), false, Some(one)), (Some(two), false, Some(whole))], None);
        assert!(finished.visible.starts_with(&shown), "the end only adds to what was shown");
        assert_eq!(
            (finished.visible, finished.thinking),
            (expected.visible.clone(), expected.thinking.clone()),
            "{at}"
        );
    }
    let (shown, finished) = play(&[(Some("<think>never closed"), false, None)], None);
    assert_eq!((shown.as_str(), finished.visible.as_str()), ("", ""));
    assert_eq!(finished.thinking, "never closed");
}

#[test]
fn run_taken_up_in_its_middle_goes_on() {
    let mut text = RunText::starting_with("<think>a</think>one ");
    assert_eq!(text.visible(), "one ");
    assert_eq!(
        text.on_delta(&event(Some("two"), false, Some("<think>a</think>one two"))),
        Change::Added { at: 4, at_utf16: 4 }
    );
    assert_eq!(text.replace("<think>a</think>one two"), Change::None);
    assert_eq!(text.finish(Some("<think>a</think>one two")).visible, "one two");
}

/// The last 500,000 code units, as the gateway cuts.
fn cut(text: &str) -> &str {
    let mut units = 0;
    let start = text.char_indices().rev().take_while(|(_, c)| {
        units += c.len_utf16();
        units <= 500_000
    });
    let start = start.last().map_or(text.len(), |(at, _)| at);
    &text[start..]
}

/// A long text without repetitions.
fn long(units: usize) -> String {
    let mut text = String::new();
    let mut n = 0_u64;
    while text.len() < units {
        n += 1;
        text.push_str(&format!("{} ", n.wrapping_mul(2_654_435_761) % 1_000_003));
    }
    text
}

#[test]
fn long_text_is_kept_whole_though_the_gateway_keeps_its_end() {
    let secret = format!("<think>{}", long(450_000));
    let whole = format!("{secret}</think>{}€𝄞", long(600_000));
    let expected = thinking::strip(&whole);
    for way in ["increments", "replaced", "protocol 3"] {
        let (mut text, mut reader, mut at) = (RunText::default(), Reader::default(), 0);
        for end in [1_000, 300_000, 499_000, 501_000, 700_000, 900_123, whole.len()] {
            let (part, so_far) = (&whole[at..end], cut(&whole[..end]));
            let is_cut = so_far.len() < end;
            let change = text.on_delta(&match way {
                "increments" => event(Some(part), false, Some(so_far)),
                "replaced" if is_cut => event(Some(so_far), true, Some(so_far)),
                "replaced" => event(Some(part), false, Some(so_far)),
                _ => event(None, false, Some(so_far)),
            });
            assert_ne!(change, Change::Replaced, "{way}: at {end}");
            reader.follow(&text, change);
            at = end;
        }
        let finished = text.finish(Some(cut(&whole)));
        assert_eq!(finished.visible.len(), expected.visible.len(), "{way}: nothing is lost");
        assert!(finished.visible == expected.visible && finished.thinking == expected.thinking, "{way}");
    }
}

#[test]
fn long_text_heals_after_a_gap_when_it_overlaps_and_is_replaced_when_not() {
    let whole = long(1_200_000);
    let mut text = RunText::starting_with(&whole[..600_000]);
    let change = text.on_delta(&event(Some(&whole[800_000..810_000]), false, Some(cut(&whole[..810_000]))));
    assert_eq!(change, Change::Added { at: 600_000, at_utf16: 600_000 });
    assert_eq!(text.visible(), &whole[..810_000]);
    let mut text = RunText::starting_with(&whole[..100_000]);
    let change = text.on_delta(&event(Some("x"), false, Some(cut(&whole))));
    assert_eq!(change, Change::Replaced);
    assert_eq!(text.visible(), cut(&whole));
}

#[test]
fn memory_for_a_text_is_bounded() {
    let part = long(1_000_000);
    let (mut text, mut reader) = (RunText::default(), Reader::default());
    for _ in 0..6 {
        let change = text.on_delta(&event(Some(&part), false, Some(cut(&part))));
        reader.follow(&text, change);
    }
    assert!(text.visible().len() <= RAW_BYTES_MAX && text.visible().len() > RAW_BYTES_MAX - 4);
    let finished = text.finish(Some(cut(&part)));
    assert_eq!(finished.visible, reader.shown, "a full text is not given up for its end");
}

#[test]
fn recorded_runs_give_the_text_of_their_end() {
    let mut ends = 0;
    for name in fixtures::names() {
        let events: Vec<ChatEvent> = fixtures::events(&name, "chat");
        let mut runs: Vec<(String, RunText, Reader)> = Vec::new();
        for event in events {
            let index = match runs.iter().position(|(id, ..)| *id == event.run_id) {
                Some(index) => index,
                None => {
                    runs.push((event.run_id.clone(), RunText::default(), Reader::default()));
                    runs.len() - 1
                }
            };
            let (_, text, reader) = &mut runs[index];
            match event.state {
                ChatState::Delta => {
                    let change = text.on_delta(&event);
                    reader.follow(text, change);
                }
                ChatState::Final | ChatState::Aborted if event.text.is_some() && !reader.shown.is_empty() => {
                    let by_deltas = std::mem::take(text).finish(None);
                    let by_end = RunText::default().finish(event.text.as_deref());
                    // The last delta carries all the rest, on both protocols.
                    assert_eq!(by_deltas, by_end, "{name}");
                    assert!(by_end.visible.starts_with(&reader.shown), "{name}");
                    reader.shown.clear();
                    ends += 1;
                }
                _ => {}
            }
        }
    }
    assert!(ends > 10, "{ends}");
}

/// Pieces of which texts are made: ones that the thinking filter looks at, and ones of all widths.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z ]{1,6}",
        1 => Just("<think>".to_owned()),
        1 => Just("</think>".to_owned()),
        1 => Just("`".to_owned()),
        1 => Just("\n```\n".to_owned()),
        1 => Just("𝄞€é<".to_owned()),
    ]
}

/// What happens to the text upstream, and to the event that tells of it.
#[derive(Clone, Debug)]
enum Step {
    Grow { by: String, is_lost: bool },
    Replace { by: String, is_lost: bool },
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (piece(), prop::bool::weighted(0.2)).prop_map(|(by, is_lost)| Step::Grow { by, is_lost }),
        1 => (piece(), prop::bool::weighted(0.2)).prop_map(|(by, is_lost)| Step::Replace { by, is_lost }),
        1 => Just(Step::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is lost on the way, the next delta heals; changes tell the truth; the end agrees with what was shown.
    #[test]
    fn text_follows_the_gateways(steps in prop::collection::vec(step(), 0..40), protocol_3: bool) {
        let (mut upstream, mut text, mut reader) = (String::new(), RunText::default(), Reader::default());
        let mut is_behind = false;
        for step in &steps {
            let (part, replace, is_lost) = match step {
                Step::Grow { by, is_lost } => {
                    upstream.push_str(by);
                    (by.clone(), false, *is_lost)
                }
                Step::Replace { by, is_lost } => {
                    upstream = by.clone();
                    (by.clone(), true, *is_lost)
                }
                Step::Again => (String::new(), false, false),
            };
            is_behind = is_lost;
            if is_lost {
                continue;
            }
            let before = text.visible().to_owned();
            let told = if protocol_3 {
                event(None, false, Some(&upstream))
            } else {
                event(Some(&part), replace, Some(&upstream))
            };
            let change = text.on_delta(&told);
            if matches!(change, Change::Added { .. }) {
                prop_assert!(text.visible().starts_with(&before) && text.visible().len() > before.len());
            }
            reader.follow(&text, change);
        }
        let expected = thinking::strip(&upstream);
        prop_assert!(is_behind || expected.visible.starts_with(text.visible()));
        let shown = text.visible().to_owned();
        if is_behind {
            let finished = text.finish(Some(&upstream));
            prop_assert_eq!((finished.visible, finished.thinking), (expected.visible, expected.thinking));
        } else {
            let again = RunText::starting_with(&upstream).finish(Some(&upstream));
            let finished = text.finish(None);
            prop_assert!(finished.visible.starts_with(&shown));
            prop_assert_eq!(&finished, &again);
            prop_assert_eq!((finished.visible, finished.thinking), (expected.visible, expected.thinking));
        }
    }
}
