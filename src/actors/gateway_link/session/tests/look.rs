//! How far back the log is read for a question.
use super::*;

/// A page of rows that are not ours, with more of them further up at `next_offset`.
fn foreign_page(from: i64, next_offset: Option<u64>) -> Value {
    let mut page = idle((from..from + 3).map(|n| answer_row(n, "other", "x")).collect());
    page["hasMore"] = json!(next_offset.is_some());
    page["nextOffset"] = json!(next_offset);
    page
}

/// A look that has read its first page of a thousand rows, and asks for the one before it.
fn looking_back() -> Bench {
    let mut bench = cut_in("running");
    bench.looked(foreign_page(1_000, Some(3)));
    assert_eq!(bench.said(), ["history reconcile wide"]);
    bench.looked(foreign_page(1_000, Some(3)));
    assert_eq!(bench.said(), ["history reconcile wide 3"]);
    bench
}

#[test]
fn a_look_goes_back_as_far_as_it_must() {
    let mut bench = looking_back();
    // The log grew in between: a row comes twice.
    bench.looked(foreign_page(998, Some(5)));
    assert_eq!(bench.said(), ["history reconcile wide 5"]);
    bench.looked(foreign_page(995, None));
    assert_eq!(bench.said(), ["send 0"], "it stands nowhere, so it goes out under its key");
}

#[test]
fn a_look_ends_where_the_log_does_not_go_on() {
    let reset = {
        let mut page = idle(Vec::new());
        page["totalMessages"] = json!(0);
        page
    };
    let other = {
        let mut page = foreign_page(997, None);
        page["sessionId"] = json!("another");
        page
    };
    let again = foreign_page(1_000, Some(3));
    let back = foreign_page(997, Some(3));
    for (page, what) in [(reset, "reset"), (other, "another log"), (again, "the same rows"), (back, "the same offset")]
    {
        let mut bench = looking_back();
        bench.looked(page);
        assert_eq!(bench.said(), Vec::<String>::new(), "{what}: neither asked on nor sent");
        bench.pass(5_000);
        assert_eq!(bench.said(), ["history reconcile wide"], "{what}: it is looked for anew");
        bench.looked(foreign_page(1_000, None));
        assert_eq!(bench.said(), ["send 0"], "{what}");
    }
}

#[test]
fn a_log_that_does_not_go_on_is_not_waited_for_without_end() {
    let mut bench = looking_back();
    for _ in 0..30 {
        bench.looked(foreign_page(1_000, Some(3)));
        bench.pass(5_000);
    }
    assert!(bench.said().iter().any(|said| said.starts_with("end dead outcome_unknown true")));
}

#[test]
fn what_is_active_is_told_by_the_page_that_was_read_last() {
    let mut bench = looking_back();
    let mut last = foreign_page(997, None);
    last["sessionInfo"] = json!({"key": "agent:main:s", "hasActiveRun": true, "activeRunIds": ["others"]});
    bench.looked(last);
    assert_eq!(bench.said(), Vec::<String>::new(), "it would be steered into the run of somebody else");
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history reconcile wide"]);
    // A run that is heard of while the log is read, and of which the page cannot know yet.
    bench.event("others", ChatState::Delta, Some("x"));
    bench.looked(foreign_page(1_000, None));
    assert_eq!(bench.said(), ["history reconcile wide"]);
    bench.looked(foreign_page(1_000, None));
    assert_eq!(bench.said(), ["send 0"], "it is over");
}

#[test]
fn a_look_goes_back_no_further_than_it_may() {
    let mut bench = looking_back();
    let mut long = foreign_page(997, Some(6));
    long["messages"][0]["content"][0]["text"] = json!("x".repeat(17 << 20));
    bench.looked(long);
    assert_eq!(bench.said(), Vec::<String>::new(), "so much text is not kept for one look");
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history reconcile wide"]);
    bench.looked(foreign_page(1_000, Some(3)));
    assert_eq!(bench.said(), Vec::<String>::new(), "the newest rows are looked at from now on");
    bench.down();
    bench.up();
    bench.said();
    bench.looked(foreign_page(1_000, Some(3)));
    bench.looked(foreign_page(1_000, Some(3)));
    assert!(bench.said().contains(&"history reconcile wide 3".to_owned()), "and all of it behind a new connection");
}

#[test]
fn question_in_a_long_log_is_looked_for_further_up() {
    let mut bench = cut_in("running");
    let rows: Vec<Value> = (0..3).map(|n| answer_row(1_000 + n, "other", "x")).collect();
    let mut short = idle(rows.clone());
    short["hasMore"] = json!(true);
    bench.looked(short.clone());
    assert_eq!(bench.said(), ["history reconcile wide"]);
    bench.looked(short);
    assert_eq!(bench.said(), Vec::<String>::new(), "not seen, not sent: it waits");
    bench.pass(100_000);
    for _ in 0..30 {
        bench.looked({
            let mut page = idle(rows.clone());
            page["hasMore"] = json!(true);
            page
        });
        bench.pass(5_000);
    }
    assert!(bench.said().contains(&"end dead outcome_unknown true: so".to_owned()), "the text so far is kept");
}
