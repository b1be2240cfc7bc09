//! An old gateway: deltas without increments, a log without keys.
use super::Replay;
use super::check::Stage;
use crate::harness::Database;

on_both_databases!(
    an_answer_streams,
    a_question_that_is_put_off_is_answered_under_another_id,
    a_question_that_is_put_off_for_long_is_not_sent_again,
    cleaned_texts_are_the_same_texts,
);

async fn an_answer_streams(database: Database) {
    let mut stage = Stage::of(database, &["protocol-3-connect-chat-stream-final"]).await;
    let question = stage.ask(0).await;
    stage.ends_as(&question, &question.key).await;
    stage.played().await;
    stage.agrees("v3").await;
    stage.holds(&question, &stage.replay.told(&question.key)).await;
    assert_eq!(stage.broker.get("/api/admin/gateways/gw").await.1["protocol"], 3);
}

async fn a_question_that_is_put_off_is_answered_under_another_id(database: Database) {
    let mut stage = Stage::of(database, &["protocol-3-send-right-after-final"]).await;
    stage.tell(0).await;
    let question = stage.ask(1).await;
    let run = stage.replay.run_answering("two");
    assert_ne!(run, question.key);
    stage.ends_as(&question, &run).await;
    stage.played().await;
    stage.agrees("ix-v3").await;
    stage.holds(&question, &stage.replay.told(&run)).await;
}

/// The gateway is slower than our look at its log, where the question does not stand yet.
async fn a_question_that_is_put_off_for_long_is_not_sent_again(database: Database) {
    let replay = Replay::look_by_look("protocol-3-send-right-after-final").await;
    let mut stage = Stage::with(database, replay).await;
    stage.tell(0).await;
    // From here on the log is read for nothing but the question that is put off.
    stage.has_rows("ix-v3", 2).await;
    let question = stage.ask(1).await;
    let run = stage.replay.run_answering("two");
    stage.ends_as(&question, &run).await;
    stage.played().await;
    stage.agrees("ix-v3").await;
    stage.holds(&question, &stage.replay.told(&run)).await;
}

async fn cleaned_texts_are_the_same_texts(database: Database) {
    let mut stage = Stage::of(database, &["protocol-3-text-cleaned"]).await;
    for at in 0..4 {
        stage.tell(at).await;
    }
    stage.played().await;
    stage.agrees("ix-v3-text").await;
}
