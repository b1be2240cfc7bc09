//! What the sample gateway answers: a message goes in, a list of steps comes out. Pure.
//!
//! The commands are those of the scripted model that stands behind a real gateway in our peer tests, so that one test
//! message means the same to both; [`HELP`] lists them. A command stands on a line of its own, the last one wins.
use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One run emits at most this many deltas; longer texts come in larger pieces.
/// It is below the frames a connection may have waiting, so that no answer alone makes a reader slow.
const DELTAS_MAX: usize = 1_000;
/// A wait between two deltas; a typing error must not hang a run for a day.
const PAUSE_MS_MAX: u64 = 60_000;
const LONG_WORDS_MAX: usize = 20_000;
/// As much of an unknown message is repeated in the answer.
const ECHO_CHARS_MAX: usize = 2_000;
const SLOW_PAUSE_MS: u64 = 250;

const HELP: &str = "I am the sample gateway. I repeat what you write, or follow a command: \
    `say: TEXT`, `say[chunks=8,ms=50]: TEXT`, `slow: TEXT`, `think: TEXT`, `long 200`, `gate NAME: TEXT`, `hang`, \
    `fail`, `tool NAME {\"key\":1}`, `empty`, `replace: TEXT`, `dup: TEXT`, `drop`.";

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A `final` with the whole text, and a row in the history.
    Answer,
    /// A `final` without a message; nothing in the history.
    Silent,
    /// As `Answer`, with the `final` reported a second time.
    Twice,
    /// An `error` with details, then a second, friendlier one.
    Failed { http_status: u16 },
}

/// One thing that a run does next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Status(&'static str),
    Append(String),
    Replace(String),
    PauseMs(u64),
    /// Waits until the test releases the gate of this name.
    Gate(String),
    Hang,
    /// Cuts the connection that the message came from.
    CutSender,
    Tool {
        name: String,
        arguments: Value,
    },
    End(End),
}

/// Plans a new run.
pub(super) fn plan(message: &str, delta_ms: u64) -> Vec<Step> {
    let mut steps: Vec<Step> = ["preparing_workspace", "preparing_context", "starting_model"].map(Step::Status).into();
    steps.extend(plan_answer(message, delta_ms));
    steps
}

/// Plans the answer to a message that was steered into a run.
pub(super) fn plan_answer(message: &str, delta_ms: u64) -> Vec<Step> {
    let scripted = message.lines().rev().find_map(|line| Command::read(line)?.steps(delta_ms));
    let mut steps = vec![Step::PauseMs(delta_ms)];
    steps.extend(scripted.unwrap_or_else(|| {
        let heard: String = message.chars().take(ECHO_CHARS_MAX).collect();
        answer(words(&format!("You said: {heard}")), delta_ms, End::Answer)
    }));
    steps
}

/// Tells what a called tool says.
pub(super) fn tool_result(name: &str, arguments: &Value) -> String {
    format!("sample result of {name} with {arguments}")
}

/// A line that has the form of a command; whether it is one, [`Command::steps`] decides.
struct Command<'a> {
    name: &'a str,
    options: BTreeMap<&'a str, u64>,
    /// What stands before the colon: the name of a gate.
    label: &'a str,
    /// What stands after the colon, if there is one.
    text: Option<String>,
    /// The rest of a line without a colon.
    argument: &'a str,
}

impl<'a> Command<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let name_end = line.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(line.len());
        let (name, mut rest) = line.split_at_checked(name_end)?;
        let mut label = "";
        if name == "gate" {
            rest = rest.trim_start();
            let label_end = rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).unwrap_or(rest.len());
            (label, rest) = rest.split_at_checked(label_end)?;
        }
        let mut options = BTreeMap::new();
        if let Some(bracket) = rest.trim_start().strip_prefix('[') {
            let (list, after) = bracket.split_once(']')?;
            rest = after;
            options = list
                .split(',')
                .filter_map(|option| option.split_once('='))
                .filter_map(|(key, value)| Some((key.trim(), value.trim().parse().ok()?)))
                .collect();
        }
        let text = rest.trim_start().strip_prefix(':').map(|text| text.trim().replace("\\n", "\n"));
        Some(Self { name, options, label, text, argument: rest.trim() })
    }

    /// Tells what the command makes the gateway do; `None` if the line is not a command after all.
    fn steps(&self, delta_ms: u64) -> Option<Vec<Step>> {
        let ms = self.pause_ms(delta_ms);
        let bare = self.text.is_none() && self.argument.is_empty();
        let steps = match (self.name, self.text.as_deref()) {
            ("say", Some(text)) => answer(self.pieces(text), ms, End::Answer),
            ("slow", Some(text)) => answer(words(text), self.pause_ms(SLOW_PAUSE_MS), End::Answer),
            ("dup", Some(text)) => answer(self.pieces(text), ms, End::Twice),
            ("think", Some(text)) => answer(thought(text), ms, End::Answer),
            ("replace", Some(text)) => {
                let mut steps = paced(words("Let me see, this is not what I meant."), ms);
                steps.extend([Step::Replace(text.to_owned()), Step::PauseMs(ms), Step::End(End::Answer)]);
                steps
            }
            ("gate", Some(text)) if !self.label.is_empty() => halves(text, Step::Gate(self.label.to_owned()), ms),
            ("drop", Some(text)) => halves(text, Step::CutSender, ms),
            ("drop", None) if bare => {
                halves("The connection goes away in the middle of this answer.", Step::CutSender, ms)
            }
            ("long", None) if bare || self.argument.parse::<usize>().is_ok() => {
                let count = self.argument.parse().unwrap_or(100).min(LONG_WORDS_MAX);
                let text: String = (1..=count).map(|number| format!("w{number} ")).collect();
                let pieces = if self.options.contains_key("chunks") { self.pieces(&text) } else { words(&text) };
                answer(pieces, ms, End::Answer)
            }
            ("fail", None) if bare || self.argument.parse::<u16>().is_ok() => {
                let mut steps = paced(split("This answer is going to fail.", 3), ms);
                let http_status = self.argument.parse().unwrap_or(500);
                steps.extend([Step::Replace(String::new()), Step::PauseMs(ms), Step::End(End::Failed { http_status })]);
                steps
            }
            ("tool", None) if !self.argument.is_empty() => call_tool(self.argument, ms)?,
            ("hang", None) if bare => vec![Step::Hang],
            ("empty", None) if bare => vec![Step::End(End::Silent)],
            ("help", None) if bare => answer(words(HELP), ms, End::Answer),
            _ => return None,
        };
        Some(steps)
    }

    fn pause_ms(&self, usual: u64) -> u64 {
        self.options.get("ms").copied().unwrap_or(usual).min(PAUSE_MS_MAX)
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        let chunks = self.options.get("chunks").copied().unwrap_or(4);
        split(text, usize::try_from(chunks).unwrap_or(DELTAS_MAX))
    }
}

fn paced(pieces: Vec<String>, ms: u64) -> Vec<Step> {
    pieces.into_iter().flat_map(|piece| [Step::Append(piece), Step::PauseMs(ms)]).collect()
}

fn answer(pieces: Vec<String>, ms: u64, end: End) -> Vec<Step> {
    let mut steps = paced(pieces, ms);
    steps.push(Step::End(end));
    steps
}

/// Puts a step into the middle of an answer.
fn halves(text: &str, middle: Step, ms: u64) -> Vec<Step> {
    let mut halves = split(text, 2).into_iter();
    let mut steps = paced(split(&halves.next().unwrap_or_default(), 2), ms);
    steps.push(middle);
    steps.extend(answer(split(&halves.next().unwrap_or_default(), 2), ms, End::Answer));
    steps
}

/// Spells a thought so that both tags are cut by a delta's end.
fn thought(text: &str) -> Vec<String> {
    let mut pieces = vec!["<th".to_owned(), "ink>about: ".to_owned()];
    pieces.extend(split(text, 2));
    pieces.extend(["</thi".to_owned(), "nk>".to_owned()]);
    pieces.extend(split(text, 4));
    pieces
}

fn call_tool(argument: &str, ms: u64) -> Option<Vec<Step>> {
    let (name, arguments) = argument.split_once(char::is_whitespace).unwrap_or((argument, "{}"));
    let arguments = serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object)?;
    let said = format!("tool result: {}", tool_result(name, &arguments));
    let mut steps = vec![Step::Tool { name: name.to_owned(), arguments: json!(arguments) }, Step::PauseMs(ms)];
    steps.extend(answer(words(&said), ms, End::Answer));
    Some(steps)
}

/// Cuts a text into `count` pieces of about the same length, between characters.
fn split(text: &str, count: usize) -> Vec<String> {
    let length = text.chars().count();
    let count = count.clamp(1, length.clamp(1, DELTAS_MAX));
    let mut rest = text.chars();
    let piece_of = |index: usize| length / count + usize::from(index < length % count);
    (0..count)
        .map(|index| rest.by_ref().take(piece_of(index)).collect())
        .filter(|piece: &String| !piece.is_empty())
        .collect()
}

/// Cuts a text behind its spaces.
fn words(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    words.chunks(words.len().div_ceil(DELTAS_MAX).max(1)).map(<[&str]>::concat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(steps: &[Step]) -> String {
        steps.iter().fold(String::new(), |text, step| match step {
            Step::Append(piece) => text + piece,
            Step::Replace(whole) => whole.clone(),
            _ => text,
        })
    }

    #[test]
    fn a_command_shapes_the_answer() {
        let steps = plan_answer("say[chunks=3, ms=7]: héllo\\nyou", 60);
        assert_eq!(text_of(&steps), "héllo\nyou");
        assert_eq!(steps.iter().filter(|step| **step == Step::PauseMs(7)).count(), 3);
        assert_eq!(text_of(&plan_answer("a line\nslow: one two\nanother", 0)), "one two");
        assert_eq!(text_of(&plan_answer("long 3", 0)), "w1 w2 w3 ");
        assert_eq!(text_of(&plan_answer("replace: right", 0)), "right");
        assert_eq!(text_of(&plan_answer("think: x", 0)), "<think>about: x</think>x");
        assert_eq!(plan_answer("empty", 0).last(), Some(&Step::End(End::Silent)));
        assert_eq!(plan_answer("fail 429", 0).last(), Some(&Step::End(End::Failed { http_status: 429 })));
    }

    #[test]
    fn a_gate_stands_in_the_middle() {
        let steps = plan_answer("gate g-1: first second", 0);
        let gate = steps.iter().position(|step| *step == Step::Gate("g-1".to_owned())).expect("a gate");
        assert_eq!(text_of(&steps[..gate]), "first ");
        assert_eq!(text_of(&steps), "first second");
    }

    #[test]
    fn anything_else_is_repeated() {
        for message in ["hello", "gate: x", "tool x {nope", "hang on", "long story", "say nothing"] {
            assert_eq!(text_of(&plan_answer(message, 0)), format!("You said: {message}"));
        }
    }

    #[test]
    fn a_long_answer_has_a_bounded_number_of_deltas() {
        let deltas = |message: &str| plan(message, 0).iter().filter(|step| matches!(step, Step::Append(_))).count();
        assert!(deltas("long 999999") <= DELTAS_MAX);
        assert!(deltas(&format!("say[chunks=9000]: {}", "x".repeat(5_000))) <= DELTAS_MAX);
    }
}
