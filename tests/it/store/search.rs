//! Conversations are found by what was said in them, in both databases alike.
use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::message::{Block, MessageRole};
use clawbroker::domain::search::{Search, words};
use clawbroker::domain::user::Caller;
use clawbroker::store::conversations::{self, DeleteConversation, Filter};
use clawbroker::store::search::{self, IndexLines};
use clawbroker::store::upstream::{ImportRows, RowLine, Source};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::harness::{TestStore, sql};

/// Finds the keys of the conversations with a line that has the words; both the page and its total.
async fn found(store: &TestStore, caller: &Caller, query: &str) -> Vec<String> {
    let (filter, reader) = (Filter { search: Some(Search::new(query)), ..Filter::default() }, caller.party_id);
    let (listed, count) = store
        .read(move |db| {
            let count = conversations::count(db, &filter)?;
            Ok::<_, clawbroker::domain::error::Error>((conversations::list(db, &filter, reader, 1_000)?, count))
        })
        .await
        .unwrap();
    assert_eq!(listed.len() as i64, count, "{query}");
    let mut keys: Vec<String> = listed.into_iter().map(|listed| listed.conversation.key).collect();
    keys.sort();
    keys
}

async fn behind(store: &TestStore) -> i64 {
    store.read(search::behind).await.unwrap()
}

async fn index_all(store: &TestStore) -> usize {
    let mut steps = 1;
    while store.write_bulk(IndexLines).await.unwrap() {
        steps += 1;
    }
    assert_eq!(behind(store).await, 0);
    steps
}

async fn import(store: &TestStore, conversation: &Conversation, texts: &[&str]) {
    let source = Source {
        conversation_id: conversation.id,
        gateway_id: conversation.gateway_id.clone().unwrap(),
        upstream_session: "s".into(),
    };
    let row = |text: &&str| RowLine {
        run: None,
        role: MessageRole::Assistant,
        blocks: vec![Block::text(*text)],
        said_at: 1,
        error: None,
    };
    let rows = texts.iter().map(|text| (format!("row {text}"), row(text))).collect();
    store.write_bulk(ImportRows { source, rows, resets: Vec::new(), import_below: None }).await.unwrap();
}

async fn every_committed_line_is_found_before_and_after_it_is_indexed(store: TestStore) {
    let (caller, first) = store.operators_chat().await;
    let second = store.session(&caller, first.gateway_id.as_ref().unwrap(), "second").await;
    store.ask(&caller, first.id, "The zebra crosses").await;
    let both_ways = async |when: &str| {
        assert_eq!(found(&store, &caller, "ZEBRA").await, [first.key.as_str()], "{when}");
        assert_eq!(found(&store, &caller, "\"zebra cro").await, [first.key.as_str()], "{when}");
        assert!(found(&store, &caller, "crosses-zebra").await.is_empty(), "{when}");
    };
    both_ways("at once").await;
    assert_eq!(behind(&store).await, 1);
    index_all(&store).await;
    both_ways("indexed").await;
    // Lines after and lines before those that are indexed.
    store.ask(&caller, second.id, "另一个网关").await;
    import(&store, &first, &["earlier okapi", "earliest 斑马"]).await;
    for when in ["at once", "indexed"] {
        both_ways(when).await;
        assert_eq!(found(&store, &caller, "okapi").await, [first.key.as_str()], "{when}");
        assert_eq!(found(&store, &caller, "斑").await, [first.key.as_str()], "{when}");
        assert_eq!(found(&store, &caller, "个网").await, ["second"], "{when}");
        // In one line, not in one conversation; or in the name.
        assert!(found(&store, &caller, "okapi zebra").await.is_empty(), "{when}");
        assert_eq!(found(&store, &caller, "seco").await, ["second"], "{when}");
        index_all(&store).await;
    }
    store.write(DeleteConversation { id: first.id }).await.unwrap();
    assert!(found(&store, &caller, "zebra").await.is_empty());
}

async fn the_index_follows_in_bounded_steps(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let mut db = store.database.connect();
    let id = sql::bytes(&db, conversation.id.as_bytes());
    let party = sql::bytes(&db, caller.party_id.as_bytes());
    for seq in 1..=450 {
        let line = sql::bytes(&db, format!("{seq:016}").as_bytes());
        sql::run(
            &mut db,
            &format!(
                "INSERT INTO messages (id, conversation_id, seq, role, text, sender_id, said_at, created_at, late, hops) \
                 VALUES ({line}, {id}, {seq}, 1, 'line number{seq}', {party}, 0, 0, FALSE, 0)"
            ),
        );
    }
    sql::run(&mut db, "UPDATE conversations SET last_seq = 450");
    drop(db);
    assert_eq!(index_all(&store).await, 3, "200 lines a step");
    assert_eq!(store.number("SELECT count(*) AS value FROM search_lines").await, 450);
    assert_eq!(found(&store, &caller, "number450").await, [conversation.key.as_str()]);
    assert!(found(&store, &caller, "number451").await.is_empty());
}

/// What the databases find is what the rules say, whatever the text.
async fn both_databases_keep_to_the_rules(store: TestStore) {
    let (caller, first) = store.operators_chat().await;
    let gateway = first.gateway_id.unwrap();
    let mut runner = TestRunner::deterministic();
    let text = "([abÄ网关启','\\-\\.0-2\\u{301}]{0,4}[ \u{3000}]){0,6}";
    let mut texts: Vec<(String, String)> = Vec::new();
    for n in 0..60 {
        let said = text_of(&mut runner, text);
        let key = format!("key-{n:03}");
        let conversation = store.session(&caller, &gateway, &key).await;
        store.ask(&caller, conversation.id, &said).await;
        texts.push((key, said));
    }
    // Some are in the index and some are not.
    for step in 0..2 {
        for _ in 0..150 {
            let query = text_of(&mut runner, "[ab\"Ä网关启' \\-0-2\\*\\\\:&|!()]{1,5}");
            let search = Search::new(&query);
            let named = |key: &str| key.contains(&query.to_lowercase());
            let expected: Vec<&str> = texts
                .iter()
                .filter(|(key, said)| named(key) || search.finds(&words(said)))
                .map(|(key, _)| key.as_str())
                .collect();
            let mut given = found(&store, &caller, &query).await;
            given.retain(|key| key.starts_with("key-"));
            assert_eq!(given, expected, "{query:?} in step {step}");
        }
        index_all(&store).await;
    }
}

fn text_of(runner: &mut TestRunner, pattern: &str) -> String {
    proptest::string::string_regex(pattern).unwrap().new_tree(runner).unwrap().current()
}

/// Long lines and strange ones can be stored and found.
async fn no_text_is_too_much_for_the_index(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let all_different: String = (0..60_000).map(|n| format!("w{n} ")).collect();
    for text in [
        &all_different[..],
        &"again ".repeat(40_000),
        &"x".repeat(200_000),
        &"网".repeat(80_000),
        "' \\ \" :* & | ! <-> \u{1F980}",
        "\u{301}\u{301}",
    ] {
        store.ask(&caller, conversation.id, text).await;
    }
    index_all(&store).await;
    for query in ["w15000", "again", "网网网", &"x".repeat(100)] {
        assert_eq!(found(&store, &caller, query).await, [conversation.key.as_str()], "{query}");
    }
    assert!(found(&store, &caller, "w59999").await.is_empty(), "the documented bound");
}

on_both_databases!(
    every_committed_line_is_found_before_and_after_it_is_indexed,
    the_index_follows_in_bounded_steps,
    both_databases_keep_to_the_rules,
    no_text_is_too_much_for_the_index,
);
