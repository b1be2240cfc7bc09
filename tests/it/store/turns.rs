use clawbroker::domain::delivery::{DeliveryState, Outcome, reason};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{DeliveryId, TurnId};
use clawbroker::domain::turn::TurnState;
use clawbroker::store::deliveries::{Cancel, Entry};
use clawbroker::store::turns::{self, BeginForeignTurn, BeginTurn, Checkpoint, DeliveryEnd, EndTurn, Turn};

use crate::harness::test_store::{START_MS, answer};
use crate::harness::{TestStore, sql};

async fn turn(store: &TestStore, id: TurnId) -> Turn {
    store.read(move |db| turns::get(db, id)).await.unwrap().unwrap()
}

/// DLV-1, D4: the lease and the turn are one commit, made before anything is sent.
async fn beginning_a_turn_leases_its_delivery_once(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let delivery_id = asked.delivery.unwrap().id;
    let leased = store.delivery(delivery_id).await.delivery;
    assert_eq!((leased.state, leased.attempt, leased.lease_until), (DeliveryState::Leased, 1, None));
    let begun = turn(&store, turn_id).await;
    assert_eq!((begun.state, begun.message_id), (TurnState::Started, Some(asked.line.id)));
    assert_eq!(begun.run_id, delivery_id.to_string(), "the key that goes out is the delivery's id");
    let second = store.write(BeginTurn { turn_id: TurnId::new(), delivery_id }).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::NotLeased);
    let id = conversation.id;
    assert_eq!(store.read(move |db| turns::open_of_conversation(db, id)).await.unwrap(), vec![begun.clone()]);
    let gateway = conversation.gateway_id.unwrap();
    assert_eq!(store.read(move |db| turns::open_of_gateway(db, &gateway)).await.unwrap(), vec![begun]);
}

async fn a_checkpoint_keeps_the_text_of_a_running_turn(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let checkpoint = |text: &str| Checkpoint { turn_id, text: text.into(), run_id: "run-2".into(), sent_at: None };
    store.write_bulk(checkpoint("The ans")).await.unwrap();
    let kept = turn(&store, turn_id).await;
    assert_eq!((kept.state, kept.text.as_str()), (TurnState::Streaming, "The ans"));
    // Found by the gateway's id of the run and by our key.
    for run in ["run-2".to_owned(), asked.delivery.unwrap().id.to_string()] {
        let found = store.read(move |db| turns::by_run(db, conversation.id, &run)).await.unwrap();
        assert_eq!(found.map(|turn| turn.id), Some(turn_id));
    }
    store.write(answer(turn_id, "The answer")).await.unwrap();
    store.write_bulk(checkpoint("late")).await.unwrap();
    let ended = turn(&store, turn_id).await;
    assert_eq!((ended.state, ended.text.as_str()), (TurnState::Final, ""), "a late one changes nothing");
}

/// STO-2: answer, delivery and turn end together, and only the first end counts.
async fn the_first_end_of_a_turn_counts(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    store.told();
    // The gateway has resumed it under another id: its rows are known by both.
    let end = EndTurn { run_id: Some("resumed".into()), ..answer(turn_id, "hi") };
    let line = store.write(end).await.unwrap().unwrap();
    let runs = ["resumed".to_owned(), asked.delivery.as_ref().unwrap().id.to_string()];
    let found = store.read(move |db| turns::by_runs(db, conversation.id, &runs)).await.unwrap();
    let of: Vec<_> = found.iter().map(|(_, turn, answer)| (turn.id, answer.as_deref())).collect();
    assert_eq!(of, [(turn_id, Some("hi")); 2]);
    assert_eq!((line.seq, line.in_reply_to), (2, Some(asked.line.id)));
    assert_eq!((line.sender.kind, line.sender.id.as_str()), ("gateway", "gw"));
    assert_eq!(store.told(), ["line 2 final", "delivery leased -> completed"]);
    assert_eq!(turn(&store, turn_id).await.answer_id, Some(line.id));
    let late = EndTurn { state: TurnState::Error, error: Some("too late".into()), ..answer(turn_id, "other") };
    assert!(store.write(late).await.unwrap().is_none());
    assert!(store.told().is_empty());
    assert_eq!(turn(&store, turn_id).await.state, TurnState::Final);
    assert_eq!(store.log(conversation.id).await.len(), 2);
    let unknown = store.write(answer(TurnId::new(), "hi")).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

/// STO-3: the answer is there, and the delivery is left as it is.
async fn a_turn_ends_whatever_its_delivery_looks_like(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (_, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    sql::run(&mut store.database.connect(), "UPDATE deliveries SET events = 'x'");
    store.told();
    let sent_at = Some(START_MS);
    let checkpoint = Checkpoint { turn_id, text: "The ans".into(), run_id: "run-2".into(), sent_at };
    store.write_bulk(checkpoint).await.unwrap();
    assert_eq!(turn(&store, turn_id).await.text, "The ans");
    store.write(EndTurn { sent_at, ..answer(turn_id, "The answer") }).await.unwrap();
    assert_eq!(store.told(), ["line 2 final"]);
    assert_eq!(turn(&store, turn_id).await.state, TurnState::Final);
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries WHERE state = 1 AND events = 'x'").await, 1);
}

/// D4: final, aborted and error all complete the delivery.
async fn every_end_of_a_run_completes_its_delivery(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let ends = [
        (TurnState::Final, Outcome::Answered),
        (TurnState::Aborted, Outcome::Aborted),
        (TurnState::Error, Outcome::Error),
    ];
    for (state, outcome) in ends {
        let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
        let end = EndTurn { state, delivery: DeliveryEnd::Completed(outcome), ..answer(turn_id, "text") };
        store.write(end).await.unwrap();
        let ended = store.delivery(asked.delivery.unwrap().id).await.delivery;
        assert_eq!((ended.state, ended.outcome), (DeliveryState::Completed, Some(outcome)));
    }
}

async fn an_unknown_outcome_is_dead_and_has_started(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let end = DeliveryEnd::Dead { reason: reason::OUTCOME_UNKNOWN.into(), started: true };
    let line = store
        .write(EndTurn { state: TurnState::Interrupted, delivery: end, ..answer(turn_id, "the part that ca") })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line.text, "the part that ca");
    let dead = store.delivery(asked.delivery.unwrap().id).await;
    assert_eq!((dead.delivery.state, dead.delivery.reason.as_deref()), (DeliveryState::Dead, Some("outcome_unknown")));
    assert!(dead.started);
}

async fn an_error_without_an_answer_is_a_line_that_says_so(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (_, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let error = Some("the model is overloaded".to_owned());
    let end = EndTurn { state: TurnState::Error, error, ..answer(turn_id, "") };
    let line = store.write(end).await.unwrap().unwrap();
    assert_eq!(line.text, "the model is overloaded");
    assert_eq!(line.error.as_deref(), Some("the model is overloaded"));
}

async fn an_empty_answer_has_no_line(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    store.events.take();
    assert!(store.write(answer(turn_id, "")).await.unwrap().is_none());
    let events = store.events.take();
    let [Event::TurnEnded { end, .. }, Event::Delivery { .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((end.turn_id, end.state), (turn_id, TurnState::Final));
    assert_eq!(turn(&store, turn_id).await.state, TurnState::Final);
    assert_eq!(store.delivery(asked.delivery.unwrap().id).await.delivery.state, DeliveryState::Completed);
    assert_eq!(store.log(conversation.id).await.len(), 1);
}

async fn a_cancelled_delivery_keeps_its_end_when_its_run_answers(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let id = asked.delivery.unwrap().id;
    store.write(Cancel { id, reason: None }).await.unwrap();
    assert!(store.write(answer(turn_id, "hi")).await.unwrap().is_some(), "an answer that exists is stored");
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Cancelled);
}

/// What a delivery has gone through, with the times of what was sent.
async fn history(store: &TestStore, id: DeliveryId) -> Vec<(String, Option<i64>)> {
    let sent_at = |entry: &Entry| (entry.what == "sent").then_some(entry.at);
    store.delivery(id).await.events.iter().map(|entry| (entry.what.clone(), sent_at(entry))).collect()
}

fn steps(of: &[(&str, Option<i64>)]) -> Vec<(String, Option<i64>)> {
    of.iter().map(|(what, at)| ((*what).to_owned(), *at)).collect()
}

async fn a_receipt_tells_once_when_the_gateway_took_the_question(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "hello").await;
    let id = asked.delivery.unwrap().id;
    let checkpoint = || Checkpoint { turn_id, text: String::new(), run_id: "run".into(), sent_at: Some(START_MS + 3) };
    store.told();
    store.write_bulk(checkpoint()).await.unwrap();
    store.write_bulk(checkpoint()).await.unwrap();
    let sent = [("accepted", None), ("leased", None), ("sent", Some(START_MS + 3))];
    assert_eq!(history(&store, id).await, steps(&sent));
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Leased);
    assert!(store.told().is_empty(), "it is no move");
    store.write(EndTurn { sent_at: Some(START_MS + 7), ..answer(turn_id, "hi") }).await.unwrap();
    assert_eq!(history(&store, id).await, steps(&[&sent[..], &[("completed", None)]].concat()));

    // A short run has its end only.
    let (asked, turn_id) = store.begun(&caller, conversation.id, "again").await;
    store.write(EndTurn { sent_at: Some(START_MS), ..answer(turn_id, "hi") }).await.unwrap();
    let events = store.delivery(asked.delivery.as_ref().unwrap().id).await.events;
    assert_eq!(
        events.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>(),
        ["accepted", "leased", "sent", "completed"]
    );
    assert_eq!(events[2].attempt, Some(1));

    // One that was cancelled meanwhile was sent all the same.
    let (asked, turn_id) = store.begun(&caller, conversation.id, "never mind").await;
    let id = asked.delivery.unwrap().id;
    store.clock.advance_ms(10);
    store.write(Cancel { id, reason: None }).await.unwrap();
    store.write(EndTurn { sent_at: Some(START_MS + 1), ..answer(turn_id, "hi") }).await.unwrap();
    let cancelled = [("accepted", None), ("leased", None), ("sent", Some(START_MS + 1)), ("cancelled", None)];
    assert_eq!(history(&store, id).await, steps(&cancelled));
}

async fn a_run_of_somebody_else_is_one_turn(store: TestStore) {
    let (_, conversation) = store.chat().await;
    let begin =
        || BeginForeignTurn { turn_id: TurnId::new(), conversation_id: conversation.id, run_id: "run-9".into() };
    let first = store.write(begin()).await.unwrap();
    assert_eq!(store.write(begin()).await.unwrap().id, first.id);
    assert_eq!((first.delivery_id, first.message_id), (None, None));
    let line = store.write(answer(first.id, "by the way")).await.unwrap().unwrap();
    assert_eq!((line.seq, line.in_reply_to), (1, None));
    let gone = DeliveryId::new().to_string();
    assert!(store.read(move |db| turns::by_run(db, conversation.id, &gone)).await.unwrap().is_none());
}

on_both_databases!(
    beginning_a_turn_leases_its_delivery_once,
    a_checkpoint_keeps_the_text_of_a_running_turn,
    the_first_end_of_a_turn_counts,
    a_turn_ends_whatever_its_delivery_looks_like,
    every_end_of_a_run_completes_its_delivery,
    an_unknown_outcome_is_dead_and_has_started,
    an_error_without_an_answer_is_a_line_that_says_so,
    an_empty_answer_has_no_line,
    a_cancelled_delivery_keeps_its_end_when_its_run_answers,
    a_receipt_tells_once_when_the_gateway_took_the_question,
    a_run_of_somebody_else_is_one_turn,
);
