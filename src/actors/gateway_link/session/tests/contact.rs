//! First contact, import, and the newest rows.
use super::*;

fn rows(from: i64, to: i64) -> Vec<Value> {
    (from..=to).map(|seq| answer_row(seq, "old", "x")).collect()
}

fn part(from: i64, to: i64, next_offset: Option<i64>) -> Value {
    let mut page = idle(rows(from, to));
    page["hasMore"] = json!(next_offset.is_some());
    if let Some(offset) = next_offset {
        page["nextOffset"] = json!(offset);
    }
    page
}

fn fresh() -> Bench {
    let mut bench = Bench::of(conversation(false));
    bench.up();
    assert_eq!(bench.said(), ["history contact"]);
    bench
}

#[test]
fn log_is_read_before_anything_is_sent() {
    let mut bench = Bench::of(conversation(false));
    bench.ask();
    bench.up();
    bench.ask();
    assert_eq!(bench.said(), ["history contact"]);
    bench.history(Purpose::Contact, idle(Vec::new()));
    assert_eq!(bench.said(), ["contact 0", "send 0"]);
}

fn owned() -> Bench {
    let mut owned = conversation(false);
    owned.owner_id = Some(crate::domain::ids::UserId::new());
    let mut bench = Bench::of(owned);
    bench.ask();
    bench.up();
    assert_eq!(bench.said(), ["history contact"]);
    bench
}

/// SEC-2: nothing is sent into a session that is not the asker's to use.
#[test]
fn session_that_the_gateway_had_before_is_claimed_first() {
    let mut bench = owned();
    bench.may_have = false;
    bench.history(Purpose::Contact, part(1, 2, None));
    assert_eq!(bench.said(), ["claim false"]);
    bench.event("other", ChatState::Final, Some("x"));
    bench.pass(60_000);
    assert_eq!(bench.said(), Vec::<String>::new(), "the link removes it");

    let mut bench = owned();
    bench.history(Purpose::Contact, part(1, 2, None));
    assert_eq!(bench.said(), ["claim true", "contact 2", "import row-2,row-1 until None", "send 0"]);
    // A run that only begins shows that somebody uses it.
    let mut bench = owned();
    bench.may_have = false;
    let mut log = idle(Vec::new());
    log["sessionInfo"] = json!({"hasActiveRun": true, "activeRunIds": ["other"]});
    bench.history(Purpose::Contact, log);
    assert_eq!(bench.said(), ["claim false"]);
}

#[test]
fn new_session_is_used_at_once() {
    let mut bench = owned();
    bench.may_have = false;
    bench.history(Purpose::Contact, idle(Vec::new()));
    assert_eq!(bench.said(), ["contact 0", "send 0"]);
}

#[test]
fn claim_is_made_again_when_the_store_is_busy() {
    let mut bench = owned();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.history(Purpose::Contact, part(1, 2, None));
    bench.said.clear();
    bench.pass(1_000);
    assert_eq!(bench.said(), ["history contact"]);
    // A word of an old connection changes nothing.
    bench.down();
    let old = page(part(1, 2, None));
    assert!(bench.session.on_claimed(&old, Ok(true), bench.now).is_empty());
    bench.up();
    bench.history(Purpose::Contact, part(1, 3, None));
    assert_eq!(bench.said()[1..], ["claim true", "contact 3", "import row-3,row-2,row-1 until None", "send 0"]);
}

#[test]
fn rows_below_the_boundary_are_imported_newest_first() {
    let mut bench = fresh();
    bench.history(Purpose::Contact, part(4, 6, Some(3)));
    assert_eq!(bench.said(), ["contact 6", "import row-6,row-5,row-4 until Some(4)", "history import 3"]);
    bench.history(Purpose::Import, part(2, 4, Some(5)));
    assert_eq!(bench.said(), ["import row-3,row-2 until Some(2)", "history import 5"], "pages may overlap");
    bench.history(Purpose::Import, part(1, 1, None));
    assert_eq!(bench.said(), ["import row-1 until None"]);
    assert!(bench.session.is_idle());
}

#[test]
fn import_is_bounded() {
    for (max, expected) in
        [(0, vec!["contact 6", "import  until None"]), (2, vec!["contact 6", "import row-6,row-5 until None"])]
    {
        let mut bench = Bench::with(conversation(false), Options { import_lines_max: max, ..options() });
        bench.up();
        bench.said.clear();
        bench.history(Purpose::Contact, part(4, 6, Some(3)));
        assert_eq!(bench.said(), expected);
    }
    let mut bench = Bench::with(conversation(false), Options { import_lines_max: 5, ..options() });
    bench.up();
    bench.history(Purpose::Contact, part(7, 9, Some(3)));
    bench.said.clear();
    bench.history(Purpose::Import, part(4, 6, Some(6)));
    assert_eq!(bench.said(), ["import row-6,row-5 until None"]);
}

#[test]
fn import_goes_on_after_the_link_was_down_without_doubling() {
    let mut bench = fresh();
    bench.history(Purpose::Contact, part(4, 6, Some(3)));
    bench.down();
    bench.said.clear();
    bench.up();
    assert_eq!(bench.said(), ["history import"]);
    bench.up();
    assert_eq!(bench.said(), Vec::<String>::new(), "it is under way");
    bench.history(Purpose::Import, part(4, 6, Some(3)));
    assert_eq!(bench.said(), ["import  until Some(4)", "history import 3"]);
    bench.history(Purpose::Import, part(1, 3, None));
    assert_eq!(bench.said(), ["import row-3,row-2,row-1 until None"]);
}

#[test]
fn import_is_tried_again_when_the_store_or_the_gateway_is_busy() {
    let mut bench = fresh();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.history(Purpose::Contact, part(1, 3, None));
    bench.said.clear();
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history import"]);
    bench.unread(Purpose::Import, RequestError::TimedOut);
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history import"]);
    bench.history(Purpose::Import, part(1, 3, None));
    assert_eq!(bench.said(), ["import row-3,row-2,row-1 until None"]);
}

#[test]
fn gateway_that_gives_the_same_page_for_ever_is_not_asked_for_ever() {
    let mut bench = fresh();
    bench.history(Purpose::Contact, part(4, 6, Some(3)));
    bench.said.clear();
    bench.history(Purpose::Import, part(4, 6, Some(3)));
    assert_eq!(bench.said(), ["import  until None"]);
}

#[test]
fn rows_of_a_deleted_predecessor_stay_away() {
    let mut deleted = conversation(false);
    deleted.upstream.not_before_ms = START_MS + 4;
    let mut bench = Bench::of(deleted);
    bench.up();
    bench.said.clear();
    bench.history(Purpose::Contact, part(5, 7, Some(3)));
    assert_eq!(bench.said(), ["contact 7", "import row-7,row-6,row-5 until Some(5)", "history import 3"]);
    bench.history(Purpose::Import, part(3, 5, Some(5)));
    assert_eq!(bench.said(), ["import  until None"], "overlap is no reason to stop, an old row is");
}

#[test]
fn overlap_does_not_end_the_import_of_a_renamed_session() {
    let mut deleted = conversation(false);
    deleted.upstream.not_before_ms = START_MS;
    let mut bench = Bench::of(deleted);
    bench.up();
    bench.history(Purpose::Contact, part(5, 7, Some(3)));
    bench.said.clear();
    bench.history(Purpose::Import, part(4, 5, Some(4)));
    assert_eq!(bench.said(), ["import row-4 until Some(4)", "history import 4"]);
}

#[test]
fn reset_before_the_first_contact_is_no_news() {
    let log = |from: i64, to: i64| [vec![reset_row(from)], rows(from + 1, to)].concat();
    // Whatever keeps its rows from becoming lines: a deleted predecessor, or a limit.
    let mut deleted = conversation(false);
    deleted.upstream.not_before_ms = START_MS + 9;
    let mut bench = Bench::of(deleted);
    bench.up();
    bench.said.clear();
    bench.history(Purpose::Contact, idle(log(1, 3)));
    assert_eq!(bench.said(), ["contact 3", "import  after row-1 until None"]);

    let mut bench = Bench::with(conversation(false), Options { import_lines_max: 0, ..options() });
    bench.up();
    bench.said.clear();
    bench.history(Purpose::Contact, idle(log(1, 3)));
    assert_eq!(bench.said(), ["contact 3", "import  after row-1 until None"]);

    // Further down no pass over the tail comes by.
    let mut bench = fresh();
    bench.history(Purpose::Contact, part(4, 6, Some(3)));
    bench.said.clear();
    bench.history(Purpose::Import, idle(log(1, 3)));
    assert_eq!(bench.said(), ["import row-3,row-2,row-1 until None"]);
}

#[test]
fn first_rows_that_could_not_be_written_are_told_of_again_and_the_tail_waits() {
    let page = || idle(vec![reset_row(1), answer_row(2, "old", "x")]);
    let mut bench = fresh();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.history(Purpose::Contact, page());
    assert_eq!(bench.said(), ["contact 2", "import row-2,row-1 after row-1 until None"]);
    bench.event("other", ChatState::Final, Some("x"));
    bench.pass(5_000);
    assert_eq!(bench.said, ["history import"]);
    bench.history(Purpose::Import, page());
    assert_eq!(bench.said, ["history import", "import row-2,row-1 after row-1 until None", "history tail"]);

    // The process ended between the two writes of a first contact.
    let mut known = conversation(true);
    (known.upstream.mapped_seq, known.upstream.import_below) = (2, Some(3));
    let mut bench = Bench::of(known);
    bench.up();
    assert_eq!(bench.said, ["history import"]);
    bench.history(Purpose::Import, page());
    assert_eq!(bench.said, ["history import", "import row-2,row-1 after row-1 until None", "history tail"]);

    // What the gateway does not show keeps nobody waiting.
    let mut known = conversation(true);
    (known.upstream.mapped_seq, known.upstream.import_below) = (2, Some(3));
    let mut bench = Bench::of(known);
    bench.up();
    bench.unread(Purpose::Import, RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.said, ["history import", "history tail"]);
}

#[test]
fn rows_of_an_active_run_are_no_history_yet() {
    let mut bench = Bench::of(conversation(false));
    bench.ask();
    bench.up();
    bench.said.clear();
    let mut log = rows(1, 2);
    log.extend([asked_row(3, "other", "?"), answer_row(4, "other", "let me see")]);
    bench.history(Purpose::Contact, running(log, "other", "let me see"));
    assert_eq!(bench.said(), ["contact 2", "import row-2,row-1 until None"]);
    assert_eq!(bench.session.run_id(), Some("other"), "and it is waited for");
    bench.event("other", ChatState::Final, Some("seen"));
    assert_eq!(bench.said(), ["end answered: seen", "send 0"]);
}

#[test]
fn active_run_that_only_begins_is_waited_for() {
    let mut bench = Bench::of(conversation(false));
    bench.ask();
    bench.up();
    let mut log = idle(Vec::new());
    log["sessionInfo"] = json!({"hasActiveRun": true, "activeRunIds": ["other"]});
    bench.history(Purpose::Contact, log);
    assert_eq!(bench.session.run_id(), Some("other"));
    assert!(!bench.said().contains(&"send 0".to_owned()));
}

#[test]
fn name_that_the_gateway_does_not_tell_is_kept() {
    let mut named = conversation(false);
    named.canonical_key = Some("agent:main:s".to_owned());
    let mut bench = Bench::of(named);
    bench.up();
    bench.history(Purpose::Contact, json!({"messages": []}));
    assert_eq!(bench.session.upstream_key(), "agent:main:s");
}

#[test]
fn refused_session_lets_what_waits_for_it_die_without_being_known() {
    let mut bench = Bench::of(conversation(false));
    bench.ask();
    bench.ask();
    bench.up();
    bench.unread(Purpose::Contact, RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.said(), ["history contact", "end dead upstream_refused false: ", "history contact"]);
    bench.unread(Purpose::Contact, RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.said(), ["end dead upstream_refused false: ", "history contact"]);
    bench.unread(Purpose::Contact, RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.said(), Vec::<String>::new());
    assert!(!bench.session.conversation.upstream.contacted && bench.session.is_idle());
    // Once the agent exists, the log is read first as ever.
    bench.ask();
    assert_eq!(bench.said(), ["history contact"]);
    bench.history(Purpose::Contact, idle(Vec::new()));
    assert_eq!(bench.said(), ["contact 0", "send 2"]);
}

#[test]
fn contact_is_tried_again() {
    for failure in [RequestError::TimedOut, RequestError::Refused(refusal("UNAVAILABLE", true))] {
        let mut bench = fresh();
        bench.unread(Purpose::Contact, failure);
        bench.pass(1_000);
        assert_eq!(bench.said(), ["history contact"]);
    }
    let mut bench = fresh();
    bench.down();
    bench.unread(Purpose::Contact, RequestError::Closed);
    bench.up();
    assert_eq!(bench.said(), ["history contact"]);
}

#[test]
fn tail_waits_until_the_first_rows_are_on_disk() {
    let mut session = Session::new(conversation(false), Arc::new(options()));
    session.on_link_up(4, START_MS);
    let effects = session.on_history(Purpose::Contact, Ok(page(part(1, 3, None))), START_MS);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Import(_))));
    let effects = session.on_event(chat("other", ChatState::Final, Some("x")), START_MS);
    assert!(effects.is_empty(), "a pass would take rows for new that are being imported");
    let effects = session.on_imported(Ok(3));
    assert!(matches!(effects.as_slice(), [Effect::History { purpose: Purpose::Tail, .. }]));
}

#[test]
fn first_transcript_of_a_session_is_no_reset() {
    let mut bench = Bench::of(conversation(true));
    bench.session.conversation.upstream.session_id = None;
    bench.up();
    bench.tail(json!({"messages": []}));
    assert_eq!(bench.session.conversation.upstream.session_id, None);
    assert_eq!(bench.session.source(None).upstream_session, "s", "its name stands in");
    bench.up();
    bench.tail(idle(rows(1, 1)));
    assert_eq!(bench.session.conversation.upstream.session_id.as_deref(), Some("log"));
}

#[test]
fn answer_row_that_is_late_is_looked_for_a_few_times() {
    let mut bench = Bench::answering();
    bench.own(ChatState::Final, Some("a"));
    bench.said.clear();
    let mut reads = 0;
    for _ in 0..20 {
        bench.tail(idle(Vec::new()));
        bench.pass(10_000);
        reads += bench.said.drain(..).filter(|word| word == "history tail").count();
    }
    assert_eq!(reads, 5);

    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Final, Some("a"));
    bench.said.clear();
    bench.tail(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "a")]));
    bench.pass(60_000);
    assert_eq!(bench.said, Vec::<String>::new(), "it is there");
}

#[test]
fn pass_over_the_tail_that_failed_is_tried_again_a_few_times() {
    let mut bench = Bench::ready();
    bench.up();
    bench.said.clear();
    bench.unread(Purpose::Tail, RequestError::TimedOut);
    bench.pass(5_000);
    assert_eq!(bench.said, ["history tail"]);
    for _ in 0..10 {
        bench.fail = vec![ErrorCode::Internal];
        bench.tail(idle(Vec::new()));
        bench.pass(60_000);
    }
    assert_eq!(bench.said.len(), 6);
}

#[test]
fn pass_that_outlives_its_connection_is_not_overtaken() {
    let mut session = Session::new(conversation(true), Arc::new(options()));
    session.on_link_up(4, START_MS);
    let effects = session.on_history(Purpose::Tail, Ok(page(idle(rows(1, 2)))), START_MS);
    assert!(matches!(effects.as_slice(), [Effect::Map(_)]));
    session.on_link_down();
    let effects = session.on_link_up(4, START_MS);
    assert!(effects.is_empty(), "its rows are still being written down");
    let mapped = Mapped { up_to: 2, upstream_session: "log".to_owned(), answers: 0 };
    let effects = session.on_mapped(Ok(mapped));
    assert!(matches!(effects.as_slice(), [Effect::History { purpose: Purpose::Tail, .. }]));
}

#[test]
fn rows_become_lines_of_their_role() {
    use crate::domain::message::{Block, MessageRole};
    let row = |value: Value| page(json!({"messages": [value]})).rows.remove(0);
    let role = |value: Value| line_of(&row(value)).role;
    assert_eq!(role(asked_row(1, "k", "hello")), MessageRole::User);
    assert_eq!(role(recovery_row(1, "k")), MessageRole::System);
    assert_eq!(role(answer_row(1, "k", "hi")), MessageRole::Assistant);
    assert_eq!(role(json!({"role": "toolResult", "content": "x"})), MessageRole::Tool);
    assert_eq!(role(json!({"role": "system", "__openclaw": {"kind": "reset"}})), MessageRole::Marker);
    assert_eq!(role(json!({"role": "narrator", "content": "x"})), MessageRole::System);
    let thought = line_of(&row(answer_row(1, "k", "<think>hm</think>hi")));
    assert_eq!(thought.blocks, [Block::text("hi")]);
    let asked = line_of(&row(asked_row(1, "k", "what is <think> for?")));
    assert_eq!(asked.blocks, [Block::text("what is <think> for?")], "people may write of the tags");
}
