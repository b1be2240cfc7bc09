use super::*;
use crate::domain::delivery::Move;
use crate::domain::ids::PartyId;
use crate::domain::message::{Block, MessageKind, MessageRole, Sender};
use crate::domain::party::PartyKind;

mod model;

/// All that one poll may take.
const ALL: Want = Want { rows: 100, bytes: usize::MAX };

fn delivery(conversation_id: ConversationId, n: i64, seq: i64) -> Delivery {
    Delivery {
        id: DeliveryId::new(),
        n,
        message_id: MessageId::new(),
        conversation_id,
        recipient_id: PartyId::new(),
        channel_id: None,
        seq,
        priority: 0,
        state: DeliveryState::Pending,
        outcome: None,
        reason: None,
        attempt: 0,
        attempts_max: 5,
        available_at: 0,
        lease_until: None,
        leased_at: None,
        expires_at: None,
        result_hash: None,
        created_at: 0,
        ended_at: None,
    }
}

fn line_of(delivery: &Delivery, text: &str) -> Arc<Line> {
    Arc::new(Line {
        id: delivery.message_id,
        conversation_id: delivery.conversation_id,
        seq: delivery.seq,
        role: MessageRole::User,
        blocks: vec![Block::text(text)],
        text: text.to_owned(),
        sender_id: PartyId::new(),
        sender: Sender { kind: "agent", id: "a".to_owned(), name: "A".to_owned() },
        sender_kind: PartyKind::Agent,
        said_at: 0,
        created_at: 0,
        late: false,
        supersedes: None,
        kind: Some(MessageKind::Request),
        in_reply_to: None,
        hops: 0,
        error: None,
    })
}

/// Does what the writer does, and tells the mailbox.
fn apply(state: &mut State, delivery: &mut Delivery, action: &Move, now_ms: i64) -> bool {
    delivery.apply(action, now_ms).expect("a legal move");
    state.on_delivery(delivery, None, now_ms)
}

fn lease() -> Move {
    Move::Lease { until: Some(1_000_000) }
}

fn nack(retry_at: i64) -> Move {
    Move::Nack { attempt: None, retry_at, reason: None }
}

/// The numbers of what a poll takes.
fn numbers(state: &mut State, want: Want, now_ms: i64) -> Vec<i64> {
    let picked = state.pick(want, now_ms);
    picked.items.iter().map(|item| state.slots[&item.delivery].n).collect()
}

#[test]
fn priority_goes_before_the_order_of_acceptance_but_not_within_a_conversation() {
    let (one, other) = (ConversationId::new(), ConversationId::new());
    let mut state = State::new(0);
    let all = [
        delivery(one, 1, 1),
        Delivery { priority: 2, ..delivery(one, 2, 2) },
        delivery(other, 3, 1),
        Delivery { priority: 1, ..delivery(ConversationId::new(), 4, 1) },
    ];
    for delivery in &all {
        state.on_delivery(delivery, None, 0);
    }
    assert_eq!(state.remaining(0), 4);
    assert_eq!(numbers(&mut state, ALL, 0), [4, 1, 2, 3], "2 may go before 3, but not before 1");
    assert_eq!((state.remaining(0), state.handing_out(), state.has_ready()), (0, 4, false));
}

#[test]
fn next_poll_gets_the_rest_of_a_conversation_once_its_beginning_is_leased() {
    let talk = ConversationId::new();
    let mut state = State::new(0);
    let mut all: Vec<Delivery> = (1..=3).map(|n| delivery(talk, n, n)).collect();
    for delivery in all.iter().rev() {
        assert!(state.on_delivery(delivery, None, 0), "each is the first of those that are known");
    }
    assert_eq!(numbers(&mut state, Want { rows: 1, ..ALL }, 0), [1]);
    assert_eq!(state.remaining(0), 2);
    assert_eq!(numbers(&mut state, ALL, 0), [0; 0], "the writer may yet refuse the first one");
    assert!(apply(&mut state, &mut all[0], &lease(), 0), "now the second is ready");
    assert_eq!(numbers(&mut state, ALL, 0), [2, 3]);
    assert_eq!(state.handing_out(), 2);
}

#[test]
fn a_delayed_one_holds_back_what_is_behind_it() {
    let (talk, other) = (ConversationId::new(), ConversationId::new());
    let mut state = State::new(0);
    assert!(state.on_delivery(&delivery(talk, 1, 1), None, 0));
    assert!(!state.on_delivery(&Delivery { available_at: 500, ..delivery(talk, 2, 2) }, None, 0));
    assert!(!state.on_delivery(&delivery(talk, 3, 3), None, 0));
    assert!(state.on_delivery(&delivery(other, 4, 1), None, 0));
    assert_eq!((state.remaining(0), state.next_at()), (2, Some(500)));
    let picked = state.pick(ALL, 0);
    assert_eq!(picked.items.len(), 2, "1 and 4");
    for item in &picked.items {
        let leased = Delivery {
            state: DeliveryState::Leased,
            attempt: 1,
            id: item.delivery,
            ..delivery(item.conversation, 0, 1)
        };
        assert!(!state.on_delivery(&leased, None, 0), "nothing of use became ready");
    }
    assert!(!state.on_time(499));
    assert_eq!(numbers(&mut state, ALL, 499), [0; 0]);
    assert!(state.on_time(500));
    assert_eq!((state.remaining(500), state.next_at()), (2, None));
    assert_eq!(numbers(&mut state, ALL, 500), [2, 3]);
}

#[test]
fn what_is_given_back_comes_again_when_it_may_and_waits_for_nothing_else() {
    let talk = ConversationId::new();
    let mut state = State::new(0);
    let mut all: Vec<Delivery> = (1..=3).map(|n| delivery(talk, n, n)).collect();
    for delivery in &all {
        state.on_delivery(delivery, None, 0);
    }
    assert_eq!(numbers(&mut state, Want { rows: 2, ..ALL }, 0), [1, 2]);
    apply(&mut state, &mut all[0], &lease(), 0);
    apply(&mut state, &mut all[1], &lease(), 0);
    assert!(!apply(&mut state, &mut all[0], &nack(50), 0), "not before its time");
    assert!(apply(&mut state, &mut all[1], &nack(0), 0));
    assert_eq!(numbers(&mut state, ALL, 10), [2, 3], "the third one was next whatever becomes of the first");
    assert_eq!(numbers(&mut state, ALL, 50), [1]);
}

#[test]
fn older_word_and_the_same_again_change_nothing() {
    let mut state = State::new(0);
    let mut one = delivery(ConversationId::new(), 1, 1);
    let mut heard = vec![one.clone()];
    state.on_delivery(&one, None, 0);
    assert_eq!(numbers(&mut state, ALL, 0), [1]);
    assert!(!state.on_delivery(&one, None, 0), "it is on its way all the same");
    assert_eq!(numbers(&mut state, ALL, 0), [0; 0]);
    for action in [lease(), nack(0), lease()] {
        apply(&mut state, &mut one, &action, 0);
        heard.push(one.clone());
    }
    for old in &heard {
        assert!(!state.on_delivery(old, None, 0));
        assert_eq!((state.remaining(0), state.slots[&one.id].place), (0, Place::Leased), "{old:?}");
    }
    apply(&mut state, &mut one, &nack(0), 0);
    for old in &heard {
        assert!(!state.on_delivery(old, None, 0));
        assert_eq!((state.remaining(0), state.slots[&one.id].attempt), (1, 2), "{old:?}");
    }
}

#[test]
fn what_ended_or_went_elsewhere_is_not_picked() {
    let talk = ConversationId::new();
    let mut state = State::new(0);
    let mut all: Vec<Delivery> = (1..=4).map(|n| delivery(talk, n, n)).collect();
    for delivery in &all {
        state.on_delivery(delivery, None, 0);
    }
    assert!(apply(&mut state, &mut all[0], &lease(), 0), "another actor has it; the second is next");
    assert!(!apply(&mut state, &mut all[2], &Move::Cancel { reason: None }, 0));
    assert!(apply(&mut state, &mut all[1], &Move::Fail { attempt: None, reason: "no".to_owned() }, 0));
    assert_eq!(numbers(&mut state, ALL, 0), [4]);
    apply(&mut state, &mut all[3], &Move::Cancel { reason: None }, 0);
    assert_eq!((state.handing_out(), state.slots.len()), (0, 1), "of what ended nothing is kept");
    // An operator starts a dead one afresh; it was never handed out.
    all[1] = Delivery { state: DeliveryState::Pending, reason: None, ended_at: None, ..all[1].clone() };
    assert!(state.on_delivery(&all[1], None, 0));
    assert_eq!(numbers(&mut state, ALL, 0), [2]);
}

#[test]
fn what_is_taken_back_is_ready_at_once_and_what_is_refused_after_a_while() {
    let talk = ConversationId::new();
    let mut state = State::new(100);
    let all: Vec<Delivery> = (1..=3).map(|n| delivery(talk, n, n)).collect();
    for delivery in &all {
        state.on_delivery(delivery, Some(line_of(delivery, "text")), 0);
    }
    let ids: Vec<DeliveryId> = all.iter().map(|delivery| delivery.id).collect();
    assert_eq!(numbers(&mut state, ALL, 0), [1, 2, 3]);
    assert!(!state.taken_back(&ids[1..], 0), "behind the first, which is on its way");
    assert_eq!((state.remaining(0), state.handing_out()), (2, 1));
    assert!(state.taken_back(&ids[..1], 0));
    assert!(!state.taken_back(&ids, 0), "they are not on their way any more");
    let picked = state.pick(ALL, 0);
    assert_eq!(picked.items.iter().map(|item| item.delivery).collect::<Vec<_>>(), ids, "in the order of lines");
    assert!(picked.missing.is_empty(), "their texts were kept");
    assert!(!state.refused(&ids, 0));
    assert_eq!((state.has_ready(), state.next_at()), (false, Some(REFUSED_WAIT_MS)));
    assert_eq!(numbers(&mut state, ALL, REFUSED_WAIT_MS), [1, 2, 3]);
}

#[test]
fn what_outlived_its_ttl_is_left_to_its_end() {
    let talk = ConversationId::new();
    let mut state = State::new(0);
    let mut first = Delivery { expires_at: Some(100), ..delivery(talk, 1, 1) };
    state.on_delivery(&first, None, 0);
    state.on_delivery(&delivery(talk, 2, 2), None, 0);
    state.on_delivery(&delivery(ConversationId::new(), 3, 1), None, 0);
    assert_eq!(numbers(&mut state, ALL, 100), [3]);
    assert!(apply(&mut state, &mut first, &Move::Expire, 100));
    assert_eq!(numbers(&mut state, ALL, 100), [2]);
}

#[test]
fn a_poll_takes_one_message_at_least_and_no_more_bytes_than_asked() {
    let mut state = State::new(1_000);
    for (n, text) in [(1, "a longer text"), (2, "abc"), (3, "def"), (4, "g")] {
        let delivery = delivery(ConversationId::new(), n, 1);
        state.on_delivery(&delivery, Some(line_of(&delivery, text)), 0);
    }
    let want = |rows, bytes| Want { rows, bytes };
    assert_eq!(numbers(&mut state, want(9, 5), 0), [1], "larger than all that may be taken");
    assert_eq!(numbers(&mut state, want(9, 5), 0), [2], "4 would fit, but it does not overtake 3");
    assert_eq!(numbers(&mut state, want(9, 4), 0), [3, 4]);
}

#[test]
fn texts_are_bounded_and_those_needed_first_are_kept() {
    let talk = ConversationId::new();
    let mut state = State::new(10);
    let mut all: Vec<Delivery> = (1..=4).map(|n| delivery(talk, n, n)).collect();
    for delivery in all.iter().rev() {
        state.on_delivery(delivery, Some(line_of(delivery, "1234")), 0);
    }
    assert_eq!(state.text_bytes, 8, "two of them have room");
    let mut picked = state.pick(ALL, 0);
    assert_eq!(picked.items.iter().map(|item| item.line.is_some()).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(picked.missing, [all[2].message_id, all[3].message_id]);
    // With the texts that were read there is too much for one answer.
    let read = all.iter().map(|delivery| (delivery.message_id, line_of(delivery, "1234"))).collect();
    assert_eq!(picked.fill(&read, 12), [all[3].id]);
    assert!(picked.items.len() == 3 && picked.missing.is_empty() && picked.items.iter().all(|i| i.line.is_some()));
    assert_eq!(picked.fill(&HashMap::new(), 3), [all[1].id, all[2].id], "one is always left");
    state.taken_back(&[all[3].id], 0);
    // What is leased needs its text no more.
    for delivery in &mut all[..2] {
        apply(&mut state, delivery, &lease(), 0);
    }
    assert_eq!((state.text_bytes, state.texts.len()), (0, 0));
    // The same word again, with its text this time.
    state.on_delivery(&all[3], Some(line_of(&all[3], "1234")), 0);
    assert_eq!(state.text_bytes, 4);
}

#[test]
fn what_cannot_be_read_leaves_the_pick() {
    let mut state = State::new(0);
    let (gone, there) = (delivery(ConversationId::new(), 1, 1), delivery(ConversationId::new(), 2, 1));
    state.on_delivery(&gone, None, 0);
    state.on_delivery(&there, None, 0);
    let mut picked = state.pick(ALL, 0);
    assert_eq!(picked.missing, [gone.message_id, there.message_id]);
    let read = HashMap::from([(there.message_id, line_of(&there, "text"))]);
    assert_eq!(picked.fill(&read, 100), [gone.id]);
    assert_eq!(picked.items.iter().map(|item| item.delivery).collect::<Vec<_>>(), [there.id]);
}

/// STO-3: what cannot be read holds nothing back, also for whoever takes one message at a time.
#[test]
fn what_has_no_text_is_forgotten() {
    let talk = ConversationId::new();
    let mut state = State::new(0);
    let all: Vec<Delivery> = (1..=2).map(|n| delivery(talk, n, n)).collect();
    for delivery in &all {
        state.on_delivery(delivery, None, 0);
    }
    let picked = state.pick(Want { rows: 1, ..ALL }, 0);
    let lines = HashMap::from([(all[0].message_id, line_of(&all[0], "one"))]);
    assert!(picked.without_line(&lines).is_empty());
    assert_eq!(picked.without_line(&HashMap::new()), [all[0].id]);
    assert!(state.forget(&[all[0].id], 0), "what is behind it is ready");
    assert_eq!((state.remaining(0), state.handing_out()), (1, 0));
    assert!(!state.forget(&[all[1].id], 0), "what was not picked stays");
    assert_eq!(numbers(&mut state, ALL, 0), [2]);
}
