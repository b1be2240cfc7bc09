use std::ops::RangeInclusive;

use super::*;
use crate::actors::agents::tests::agent;
use crate::domain::agent::Agent;
use crate::domain::delivery::Delivery;
use crate::domain::ids::{AgentId, DeliveryId, GatewayId, UserId};
use crate::domain::message::{MessageRole, Sender};

mod model;

pub(in crate::actors::agents) fn topic() -> Arc<Topic> {
    Arc::new(Topic { conversation_id: ConversationId::new(), gateway_id: None, key: "talk".into() })
}

/// A reply, which is something to everybody.
pub(in crate::actors::agents) fn line(topic: &Topic, seq: i64) -> Line {
    Line {
        id: MessageId::new(),
        conversation_id: topic.conversation_id,
        seq,
        role: MessageRole::Assistant,
        blocks: Vec::new(),
        text: format!("line {seq}"),
        sender_id: PartyId::new(),
        sender: Sender { kind: "agent", id: "a".to_owned(), name: "ann".to_owned() },
        sender_kind: PartyKind::Agent,
        said_at: 0,
        created_at: 0,
        late: false,
        supersedes: None,
        kind: Some(MessageKind::Reply),
        in_reply_to: None,
        hops: 0,
        error: None,
    }
}

pub(in crate::actors::agents) fn said(topic: &Arc<Topic>, line: Line) -> Event {
    Event::Line { topic: topic.clone(), line: Arc::new(line), ack_to: None, end: None }
}

pub(in crate::actors::agents) fn moved(topic: &Arc<Topic>, message_id: MessageId, state: DeliveryState) -> Event {
    let delivery = Delivery {
        id: DeliveryId::new(),
        n: 1,
        message_id,
        conversation_id: topic.conversation_id,
        recipient_id: PartyId::new(),
        channel_id: None,
        seq: 1,
        priority: 0,
        state,
        outcome: None,
        reason: None,
        attempt: 1,
        attempts_max: 5,
        available_at: 0,
        lease_until: None,
        leased_at: None,
        expires_at: None,
        result_hash: None,
        created_at: 0,
        ended_at: None,
    };
    Event::Delivery { topic: topic.clone(), delivery: Arc::new(delivery), from: None, line: None }
}

fn deleted(topic: &Arc<Topic>) -> Event {
    Event::ConversationDeleted { topic: topic.clone(), first_seq: 1, last_seq: 1 }
}

fn changed(agent: &Agent) -> Event {
    Event::AgentChanged { agent_id: agent.id, now: Some(Arc::new(agent.clone())) }
}

fn users_changed() -> Event {
    Event::UserChanged { user_id: UserId::new(), now: None }
}

fn relationships_changed() -> Event {
    Event::RelationshipsChanged { agents: vec![AgentId::new()] }
}

impl Recent {
    fn hear(&self, event: Event) {
        self.publish(&[event]);
    }

    fn hear_lines(&self, topic: &Arc<Topic>, seqs: RangeInclusive<i64>) {
        seqs.for_each(|seq| self.hear(said(topic, line(topic, seq))));
    }

    /// The places of the lines that this party gets.
    fn shown(&self, topic: &Topic, seq: i64, reader: PartyId, limit: usize) -> Option<Vec<i64>> {
        let before = self.before(topic.conversation_id, seq, reader, limit)?;
        assert_eq!(before.topic.conversation_id, topic.conversation_id);
        Some(before.lines.iter().map(|line| line.seq).collect())
    }

    /// The same for somebody who has written none of them.
    fn seqs(&self, topic: &Topic, seq: i64, limit: usize) -> Option<Vec<i64>> {
        self.shown(topic, seq, PartyId::new(), limit)
    }

    fn knows(&self, topic: &Topic) -> bool {
        let halves = self.halves();
        [&halves.young, &halves.old].iter().any(|half| half.contains_key(&topic.conversation_id))
    }

    /// Fills the young half, and begins the next one.
    fn turn(&self) {
        let (large, next) = (topic(), topic());
        self.hear(said(&large, Line { text: "x".repeat(HALF_BYTES_MAX / 2), ..line(&large, 1) }));
        self.hear_lines(&next, 1..=1);
        assert!(self.halves().old.contains_key(&large.conversation_id), "it has become old");
    }

    /// Checks that what is counted is what is held, and that it is held once.
    fn check_bytes(&self) {
        let halves = self.halves();
        let lines = halves.young.values().flat_map(|window| &window.lines);
        let held: usize = lines.map(|known| 2 * known.line.text.len() + LINE_BYTES).sum();
        assert_eq!(halves.bytes, held);
        assert!(!halves.young.keys().any(|id| halves.old.contains_key(id)), "a talk is in both halves");
        let mut windows = halves.young.values().chain(halves.old.values());
        assert!(windows.all(|window| (1..=LINES_MAX).contains(&window.lines.len())));
    }
}

#[test]
fn a_talk_is_known_from_its_first_line_on() {
    let (recent, talk) = (Recent::default(), topic());
    assert_eq!(recent.seqs(&talk, 1, 10), None, "nobody has said anything");
    recent.hear_lines(&talk, 1..=3);
    assert_eq!(recent.seqs(&talk, 4, 10), Some(vec![1, 2, 3]));
    assert_eq!(recent.seqs(&talk, 4, 2), Some(vec![2, 3]), "the newest ones");
    assert_eq!(recent.seqs(&talk, 3, 10), Some(vec![1, 2]), "neither itself nor what came after it");
    assert_eq!(recent.seqs(&talk, 1, 10), Some(vec![]), "it was the first one");
    let before = recent.before(talk.conversation_id, 4, PartyId::new(), 1).expect("it is known");
    assert_eq!((&before.topic, before.lines[0].text.as_str()), (&talk, "line 3"));
    recent.check_bytes();
}

#[test]
fn of_one_that_began_before_that_is_known_which_was_said_since() {
    let (recent, talk) = (Recent::default(), topic());
    recent.hear_lines(&talk, 5..=8);
    assert_eq!((recent.seqs(&talk, 9, 4), recent.seqs(&talk, 9, 5)), (Some(vec![5, 6, 7, 8]), None));
    assert_eq!((recent.seqs(&talk, 7, 2), recent.seqs(&talk, 7, 3)), (Some(vec![5, 6]), None));
    assert_eq!(recent.seqs(&talk, 5, 1), None);
    for place in [-1, 0, 1, 4, 10, 100] {
        assert_eq!(recent.seqs(&talk, place, 1), None, "nothing is known of {place}");
    }
}

#[test]
fn whoever_wants_no_lines_is_told_what_the_talk_is_called() {
    let (recent, talk, other) = (Recent::default(), topic(), topic());
    let notice = Line { kind: Some(MessageKind::Notice), ..line(&talk, 5) };
    recent.publish(&[said(&talk, notice), said(&talk, line(&talk, 6))]);
    for seq in 5..=7 {
        assert_eq!(recent.seqs(&talk, seq, 0), Some(vec![]), "whatever was said before {seq}");
    }
    assert_eq!(recent.seqs(&other, 1, 0), None);
}

#[test]
fn behind_a_gap_it_begins_anew() {
    let (recent, talk) = (Recent::default(), topic());
    recent.hear_lines(&talk, 1..=3);
    recent.hear_lines(&talk, 5..=6);
    assert_eq!((recent.seqs(&talk, 7, 2), recent.seqs(&talk, 7, 3)), (Some(vec![5, 6]), None));
    assert_eq!(recent.seqs(&talk, 4, 3), None, "what was before it is not kept");
    recent.check_bytes();
    recent.hear_lines(&talk, 6..=6);
    assert_eq!((recent.seqs(&talk, 7, 1), recent.seqs(&talk, 7, 2)), (Some(vec![6]), None), "nor what comes again");
    recent.check_bytes();
}

#[test]
fn of_a_long_talk_the_newest_lines_are_known() {
    let (recent, talk) = (Recent::default(), topic());
    let last = LINES_MAX as i64 + 5;
    recent.hear_lines(&talk, 1..=last);
    recent.check_bytes();
    assert_eq!(recent.halves().young[&talk.conversation_id].lines.len(), LINES_MAX);
    assert_eq!(recent.seqs(&talk, last + 1, LINES_MAX), Some((6..=last).collect()));
    assert_eq!(recent.seqs(&talk, last + 1, LINES_MAX + 1), None);
    assert_eq!((recent.seqs(&talk, 8, 2), recent.seqs(&talk, 8, 3)), (Some(vec![6, 7]), None));
    assert_eq!(recent.seqs(&talk, 3, 1), None, "it is too far back");
}

#[test]
fn a_request_is_something_to_others_once_somebody_had_it() {
    for turned in [false, true] {
        let (recent, talk) = (Recent::default(), topic());
        let request = Line { kind: Some(MessageKind::Request), ..line(&talk, 2) };
        let (id, asker) = (request.id, request.sender_id);
        recent.publish(&[said(&talk, line(&talk, 1)), said(&talk, request), said(&talk, line(&talk, 3))]);
        assert_eq!(recent.shown(&talk, 4, asker, 3), Some(vec![1, 2, 3]), "it is the asker's own");
        assert_eq!((recent.seqs(&talk, 4, 1), recent.seqs(&talk, 2, 3)), (Some(vec![3]), Some(vec![1])));
        recent.hear(moved(&talk, MessageId::new(), DeliveryState::Leased));
        for state in DeliveryState::ALL.into_iter().filter(|state| *state != DeliveryState::Leased) {
            recent.hear(moved(&talk, id, state));
            assert_eq!(recent.seqs(&talk, 4, 3), None, "nobody had it: {state:?}");
        }
        if turned {
            recent.turn();
        }
        recent.hear(moved(&talk, id, DeliveryState::Leased));
        assert_eq!(recent.seqs(&talk, 4, 3), Some(vec![1, 2, 3]));
        recent.hear(moved(&talk, id, DeliveryState::Cancelled));
        assert_eq!(recent.seqs(&talk, 4, 3), Some(vec![1, 2, 3]), "it was had all the same");
    }
}

#[test]
fn a_notice_may_be_somebody_elses() {
    let (recent, talk) = (Recent::default(), topic());
    let notice = Line { kind: Some(MessageKind::Notice), ..line(&talk, 1) };
    let (id, sender) = (notice.id, notice.sender_id);
    recent.publish(&[said(&talk, notice), moved(&talk, id, DeliveryState::Leased)]);
    recent.hear(said(&talk, Line { kind: None, ..line(&talk, 2) }));
    assert_eq!((recent.seqs(&talk, 3, 2), recent.shown(&talk, 3, sender, 2)), (None, None));
    assert_eq!(recent.seqs(&talk, 3, 1), Some(vec![2]), "it is further back");
}

#[test]
fn what_was_deleted_is_not_known() {
    for turned in [false, true] {
        let (recent, gone, other) = (Recent::default(), topic(), topic());
        recent.hear_lines(&gone, 1..=3);
        recent.hear_lines(&other, 1..=3);
        if turned {
            recent.turn();
        }
        recent.publish(&[deleted(&gone), deleted(&topic())]);
        recent.check_bytes();
        assert_eq!((recent.knows(&gone), recent.seqs(&gone, 4, 0)), (false, None));
        assert_eq!(recent.seqs(&other, 4, 3), Some(vec![1, 2, 3]));
    }
}

#[test]
fn what_gateways_say_is_not_kept() {
    let recent = Recent::default();
    let gateway: GatewayId = "default".parse().expect("valid");
    let talk = Arc::new(Topic { gateway_id: Some(gateway), ..Topic::clone(&topic()) });
    recent.hear_lines(&talk, 1..=3);
    assert_eq!((recent.knows(&talk), recent.seqs(&talk, 4, 3)), (false, None));
}

#[test]
fn lines_go_when_their_sender_gets_another_name() {
    for turned in [false, true] {
        let (recent, its, others, ann) = (Recent::default(), topic(), topic(), agent("ann"));
        let hers = Line { sender_id: ann.party_id, ..line(&its, 1) };
        recent.publish(&[said(&its, hers), said(&its, line(&its, 2)), said(&others, line(&others, 1))]);
        if turned {
            recent.turn();
        }
        // Other things of it change, somebody else of her name gets another one, or she is removed.
        let paused = Agent { role_description: "tired".to_owned(), ..ann.clone() };
        recent.publish(&[changed(&paused), changed(&agent("anna"))]);
        recent.hear(Event::AgentChanged { agent_id: ann.id, now: None });
        assert!(recent.knows(&its) && recent.knows(&others));
        recent.hear(changed(&Agent { name: "anna".to_owned(), ..ann }));
        assert_eq!((recent.knows(&its), recent.knows(&others)), (false, true));
        recent.check_bytes();
        recent.hear_lines(&its, 3..=3);
        assert_eq!((recent.seqs(&its, 4, 1), recent.seqs(&its, 4, 2)), (Some(vec![3]), None));
    }
}

#[test]
fn lines_of_people_go_when_people_may_have_other_names() {
    let kinds = [PartyKind::Agent, PartyKind::User, PartyKind::Member, PartyKind::System];
    for (event, kind) in [(users_changed(), PartyKind::User), (relationships_changed(), PartyKind::Member)] {
        for turned in [false, true] {
            let recent = Recent::default();
            let talks = kinds.map(|sender_kind| {
                let talk = topic();
                recent.hear(said(&talk, Line { sender_kind, ..line(&talk, 1) }));
                recent.hear_lines(&talk, 2..=2);
                talk
            });
            if turned {
                recent.turn();
            }
            recent.hear(event.clone());
            recent.check_bytes();
            let expected = kinds.map(|other| other != kind);
            assert_eq!(talks.map(|talk| recent.knows(&talk)), expected, "{kind:?}");
        }
    }
}

#[test]
fn of_what_may_have_been_written_meanwhile_nothing_is_known() {
    for event in [Event::OutcomeUnknown, Event::SteppedDown] {
        let (recent, old, young, next) = (Recent::default(), topic(), topic(), topic());
        recent.hear_lines(&old, 1..=2);
        recent.turn();
        recent.hear_lines(&young, 1..=2);
        recent.publish(&[event, said(&next, line(&next, 1))]);
        assert_eq!([&old, &young, &next].map(|talk| recent.knows(talk)), [false, false, true]);
        recent.check_bytes();
        recent.hear_lines(&young, 3..=3);
        assert_eq!((recent.seqs(&young, 4, 1), recent.seqs(&young, 4, 2)), (Some(vec![3]), None));
    }
}

#[test]
fn what_is_asked_for_or_written_in_stays_when_there_is_no_room() {
    let recent = Recent::default();
    let talks = [topic(), topic(), topic()];
    let [asked, written, left] = &talks;
    talks.iter().for_each(|talk| recent.hear_lines(talk, 1..=2));
    for turn in 1..=3 {
        recent.turn();
        recent.check_bytes();
        assert_eq!(recent.knows(left), turn == 1, "it is kept for one turn");
        assert_eq!(recent.seqs(asked, 3, 2), Some(vec![1, 2]), "turn {turn}");
        recent.hear_lines(written, turn + 2..=turn + 2);
        recent.check_bytes();
    }
    assert_eq!(recent.seqs(written, 6, 5), Some(vec![1, 2, 3, 4, 5]));
    assert_eq!(recent.seqs(left, 3, 0), None);
}

#[test]
fn the_young_become_old_when_they_are_too_much() {
    let (recent, talks) = (Recent::default(), [topic(), topic(), topic()]);
    let [first, second, third] = &talks;
    let sized = |talk: &Topic, bytes: usize| Line { text: "x".repeat((bytes - LINE_BYTES) / 2), ..line(talk, 1) };
    let state = || {
        let halves = recent.halves();
        (halves.bytes, talks.each_ref().map(|talk| halves.old.contains_key(&talk.conversation_id)))
    };
    recent.hear(said(first, sized(first, HALF_BYTES_MAX - LINE_BYTES - 2)));
    recent.hear(said(second, sized(second, LINE_BYTES)));
    assert_eq!(state(), (HALF_BYTES_MAX - 2, [false; 3]));
    recent.hear(said(second, Line { seq: 2, ..sized(second, LINE_BYTES) }));
    assert_eq!(state(), (HALF_BYTES_MAX - 2 + LINE_BYTES, [false; 3]), "there was room");
    recent.hear(said(third, sized(third, LINE_BYTES)));
    assert_eq!(state(), (LINE_BYTES, [true, true, false]));
    assert_eq!(recent.seqs(second, 3, 2), Some(vec![1, 2]), "it is still known");
    assert_eq!(state(), (3 * LINE_BYTES, [true, false, false]));
    recent.check_bytes();
}

#[test]
fn one_conversation_takes_no_more_than_its_part() {
    let (recent, talk) = (Recent::default(), topic());
    let sized =
        |seq, bytes: usize| said(&talk, Line { text: "x".repeat((bytes - LINE_BYTES) / 2), ..line(&talk, seq) });
    for seq in 1..=5 {
        recent.hear(sized(seq, WINDOW_BYTES_MAX / 4));
        recent.check_bytes();
    }
    assert_eq!((recent.seqs(&talk, 6, 4), recent.seqs(&talk, 6, 5)), (Some(vec![2, 3, 4, 5]), None));
    recent.hear(sized(6, 2 * WINDOW_BYTES_MAX));
    recent.check_bytes();
    assert_eq!((recent.seqs(&talk, 7, 1), recent.seqs(&talk, 7, 2)), (Some(vec![6]), None), "the newest stays");
}
