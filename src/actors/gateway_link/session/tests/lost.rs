//! Questions that a gateway takes up again under another id, and those it does not.
use super::*;

fn ids(rows: Vec<Value>, active: &[&str]) -> Value {
    let mut page = idle(rows);
    page["sessionInfo"] = json!({"key": "agent:main:s", "hasActiveRun": true, "activeRunIds": active});
    page
}

#[test]
fn question_is_taken_up_again_under_another_id() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    let log = vec![asked_row(1, &key, "question 0")];
    bench.looked(ids(log.clone(), &["new"]));
    assert_eq!(bench.said(), Vec::<String>::new(), "an id alone may be anybody's");
    bench.event("new", ChatState::Delta, Some("af"));
    assert_eq!(bench.said(), ["history reconcile"], "maybe it is ours");
    bench.event("new", ChatState::Delta, Some("afresh"));
    let mut rows = log;
    rows.push(recovery_row(2, "new"));
    bench.looked(running(rows, "new", "afre"));
    bench.event("new", ChatState::Delta, Some("afresh, and"));
    assert_eq!(bench.session.run_id(), Some("new"));
    bench.said.clear();
    bench.event("new", ChatState::Final, Some("afresh, and done"));
    assert_eq!(bench.said()[0], "end answered: afresh, and done");
    bench.own(ChatState::Final, None);
    bench.event("new", ChatState::Final, None);
    assert_eq!(bench.ends.len(), 1);
}

#[test]
fn run_that_resumed_and_ended_before_it_was_known_is_found() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    let log = vec![asked_row(1, &key, "question 0")];
    bench.event("new", ChatState::Final, Some("afresh"));
    bench.looked(idle(log.clone()));
    assert_eq!(bench.said(), ["history reconcile"], "the end came while the page was on its way");
    let mut rows = log;
    rows.extend([recovery_row(2, "new"), answer_row(3, "new", "afresh")]);
    bench.looked(idle(rows));
    assert_eq!(bench.said(), ["end answered: afresh"]);
    assert_eq!(bench.ends[0].run_id.as_deref(), Some("new"), "by which its row is known");
}

#[test]
fn lost_question_is_given_up_after_the_wait_with_its_text() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    for _ in 0..17 {
        bench.pass(5_000);
        assert_eq!(bench.said(), ["history reconcile"]);
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    }
    bench.pass(5_000);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    assert_eq!(bench.said(), ["history reconcile", "end dead outcome_unknown true: so"]);
    assert_eq!(bench.ends[0].state, TurnState::Interrupted);
}

#[test]
fn strangers_do_not_make_a_storm_of_looks() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.said.clear();
    let mut looks = 0;
    for n in 0..800 {
        bench.event("stranger", ChatState::Delta, Some(&"x".repeat(n + 1)));
        bench.pass(100);
        let asked = bench.said().iter().filter(|word| *word == "history reconcile").count();
        looks += asked;
        for _ in 0..asked {
            bench.looked(running(
                vec![asked_row(1, &key, "question 0"), asked_row(2, "stranger", "?")],
                "stranger",
                "x",
            ));
        }
    }
    assert!(looks <= 18, "{looks} looks in 80 seconds");
}
