//! The windows beside whole logs: lines, hand-outs, new names, deletions, faults and questions, in any order.
//!
//! Checked: what is answered is what the log says, under the names of now, and something to whoever asked; what is counted
//! is what is held.
use std::collections::HashSet;

use super::*;

const EVENTS: usize = 20_000;
const TALKS: usize = 12;
/// Some of them make a half full.
const LONG: usize = 100 << 10;

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Who talks; the agents of all are called as they are now.
struct Speaker {
    kind: PartyKind,
    agent: Agent,
}

/// A line as it is written down.
struct Written {
    id: MessageId,
    sender: usize,
    kind: Option<MessageKind>,
}

struct Talk {
    topic: Arc<Topic>,
    log: Vec<Written>,
}

impl Talk {
    fn new() -> Self {
        Self { topic: topic(), log: Vec::new() }
    }
}

struct World {
    recent: Recent,
    dice: Dice,
    speakers: Vec<Speaker>,
    talks: Vec<Talk>,
    had: HashSet<MessageId>,
    answered: usize,
    full: usize,
}

impl World {
    fn new() -> Self {
        let speaker = |kind| Speaker { kind, agent: agent("x") };
        let kinds = [PartyKind::Agent, PartyKind::Agent, PartyKind::User, PartyKind::Member];
        Self {
            recent: Recent::default(),
            dice: Dice(7),
            speakers: kinds.map(speaker).into(),
            talks: std::iter::repeat_with(Talk::new).take(TALKS).collect(),
            had: HashSet::new(),
            answered: 0,
            full: 0,
        }
    }

    fn step(&mut self) {
        let talk = self.dice.below(TALKS);
        match self.dice.below(1_200) {
            0..440 => self.write(talk),
            440..780 => self.hand_out(talk),
            780..1_194 => self.ask(talk),
            1_194 | 1_195 => self.rename(),
            1_196 | 1_197 => {
                self.recent.hear(deleted(&self.talks[talk].topic));
                self.talks[talk] = Talk::new();
            }
            1_198 => self.recent.hear([Event::OutcomeUnknown, Event::SteppedDown][self.dice.below(2)].clone()),
            // Another node writes.
            _ => drop(self.next_line(talk)),
        }
    }

    fn next_line(&mut self, talk: usize) -> Line {
        let (sender, kind, long) = (self.dice.below(self.speakers.len()), self.dice.below(40), self.dice.below(8));
        let kind = match kind {
            0 => Some(MessageKind::Notice),
            1..12 => Some(MessageKind::Request),
            12..30 => Some(MessageKind::Reply),
            _ => None,
        };
        let text = "x".repeat(if long == 0 { LONG } else { self.dice.below(100) });
        let (Speaker { kind: sender_kind, agent }, Talk { topic, log }) =
            (&self.speakers[sender], &mut self.talks[talk]);
        let mut line = line(topic, log.len() as i64 + 1);
        log.push(Written { id: line.id, sender, kind });
        line.sender.name.clone_from(&agent.name);
        Line { kind, text, sender_id: agent.party_id, sender_kind: *sender_kind, ..line }
    }

    fn write(&mut self, talk: usize) {
        let line = self.next_line(talk);
        self.recent.hear(said(&self.talks[talk].topic, line));
    }

    fn hand_out(&mut self, talk: usize) {
        let Talk { topic, log } = &self.talks[talk];
        // One of the newest.
        let Some(place) = log.len().checked_sub(1 + self.dice.below(5)) else { return };
        let state = [DeliveryState::Leased, DeliveryState::Completed][self.dice.below(2)];
        if state == DeliveryState::Leased {
            self.had.insert(log[place].id);
        }
        self.recent.hear(moved(topic, log[place].id, state));
    }

    fn rename(&mut self) {
        let (which, name) = (self.dice.below(self.speakers.len()), self.dice.below(3));
        let Speaker { kind, agent } = &mut self.speakers[which];
        agent.name = format!("name {name}");
        self.recent.hear(match kind {
            PartyKind::User => users_changed(),
            PartyKind::Member => relationships_changed(),
            _ => changed(agent),
        });
    }

    fn ask(&mut self, talk: usize) {
        let (reader, limit, back) = (self.dice.below(self.speakers.len()), self.dice.below(12), self.dice.below(8));
        let Talk { topic, log } = &self.talks[talk];
        let Some(end) = log.len().checked_sub(back) else { return };
        let party = self.speakers[reader].agent.party_id;
        let Some(before) = self.recent.before(topic.conversation_id, end as i64 + 1, party, limit) else { return };
        self.answered += 1;
        let expected = &log[end.saturating_sub(limit)..end];
        self.full += usize::from(expected.len() >= 8);
        let ids = |lines: &[Arc<Line>]| -> Vec<MessageId> { lines.iter().map(|line| line.id).collect() };
        assert_eq!(ids(&before.lines), expected.iter().map(|line| line.id).collect::<Vec<_>>());
        for (line, written) in before.lines.iter().zip(expected) {
            assert_eq!(line.sender.name, self.speakers[written.sender].agent.name, "it is called so now");
            assert_ne!(written.kind, Some(MessageKind::Notice));
            let is_asked = written.kind == Some(MessageKind::Request);
            assert!(!is_asked || written.sender == reader || self.had.contains(&line.id), "nobody had it");
        }
    }
}

#[test]
fn whatever_happens_the_lines_that_are_known_are_those_of_the_log() {
    let mut world = World::new();
    let mut turns = 0;
    for _ in 0..EVENTS {
        let bytes = world.recent.halves().bytes;
        world.step();
        world.recent.check_bytes();
        turns += usize::from(bytes >= HALF_BYTES_MAX && world.recent.halves().bytes < bytes);
    }
    let World { answered, full, .. } = world;
    assert!(answered > 500 && full > 20 && turns > 5, "{answered} answers, {full} of many lines, {turns} turns");
}
