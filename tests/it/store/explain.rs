//! None of the queries that run often scans a table. The plans are those of the queries as diesel sends them: each is
//! caught on its way, and explained with the values it was sent with.
mod fill;

use std::sync::{Arc, Mutex};

use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::error::Error;
use clawbroker::domain::ids::{
    AgentId, AgentKeyId, ConversationId, DeliveryId, GatewayId, MemberId, MessageId, PartyId, RelationshipId, StepId,
};
use clawbroker::domain::member::Known;
use clawbroker::domain::message::{Line, MessageKind};
use clawbroker::domain::search::Search;
use clawbroker::store::messages::{Idem, Span};
use clawbroker::store::relationships::Called;
use clawbroker::store::upstream::{Source, known_rows};
use clawbroker::store::{
    Db, agent_keys, agents, audit, conversations, deliveries, explain, mailbox, members, messages, purge,
    relationships, retention, search, turns, upstream, users,
};
use diesel::Connection;
use diesel::connection::InstrumentationEvent;

use self::fill::{ENOUGH, KEY, MANY, fill};
use crate::harness::{Database, Kind, TestStore, sql};

/// Runs a query and returns its statements with the values in their places.
fn caught<T>(db: &mut Db, query: impl FnOnce(&mut Db) -> Result<T, Error>) -> Vec<String> {
    let statements = Arc::new(Mutex::new(Vec::new()));
    let into = statements.clone();
    db.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            into.lock().unwrap().push(query.to_string());
        }
    });
    query(db).unwrap();
    db.set_instrumentation(|_: InstrumentationEvent<'_>| {});
    let sent = std::mem::take(&mut *statements.lock().unwrap());
    sent.iter().map(|statement| with_values(db, statement)).collect()
}

/// Puts the values that diesel shows behind a statement into it.
fn with_values(db: &Db, statement: &str) -> String {
    let (text, binds) = statement.split_once(" -- binds: ").unwrap_or_else(|| panic!("{statement}"));
    let binds: Vec<serde_json::Value> = serde_json::from_str(binds).unwrap_or_else(|_| panic!("{binds}"));
    let mut text = text.to_owned();
    for (index, value) in binds.iter().enumerate().rev() {
        let literal = literal(db, value);
        match db {
            // The last mark first, so that those before it keep their places.
            Db::Sqlite(_) => {
                let at = text.rfind('?').unwrap();
                text.replace_range(at..=at, &literal);
            }
            Db::Postgres(_) => text = text.replace(&format!("${}", index + 1), &literal),
        }
    }
    text
}

fn literal(db: &Db, value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        serde_json::Value::Array(items) if items.iter().all(serde_json::Value::is_u64) && items.len() == 16 => {
            let bytes: Vec<u8> = items.iter().map(|item| u8::try_from(item.as_u64().unwrap()).unwrap()).collect();
            sql::bytes(db, &bytes)
        }
        serde_json::Value::Array(items) => {
            format!("ARRAY[{}]", items.iter().map(|item| literal(db, item)).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn assert_no_scan(db: &mut Db, name: &str, statement: &str) {
    let plan = explain(db, statement).unwrap_or_else(|error| panic!("{name}: {statement}: {error}"));
    let scans = match db {
        // `SCAN x USING INDEX` walks an index in its order, which is right only for what ends early; an index of words
        // is asked through a table of its own.
        Db::Sqlite(_) => plan.lines().any(|line| {
            line.starts_with("SCAN") && !line.contains("USING") && !line.contains("VIRTUAL TABLE INDEX 0:M")
        }),
        Db::Postgres(_) => plan.contains("Seq Scan"),
    };
    assert!(!scans, "{name} scans a table:\n{statement}\n{plan}");
}

async fn no_frequent_query_scans_a_table(database: Database) {
    // The plans are a reader's: the writer's connection is told not to scan, which would hide a missing index.
    fill(&mut database.connect(), MANY);
    let mut db = database.opener().read_only().unwrap();
    let id = |kind: u8, n: u32| <[u8; 16]>::try_from(format!("{kind:02}{n:014}").as_bytes()).unwrap();
    let (conversation, recipient) = (ConversationId::from_bytes(id(2, 7)), PartyId::from_bytes(id(1, 7)));
    let message = MessageId::from_bytes(id(3, 7));
    let delivery = DeliveryId::from_bytes(id(4, 7));
    let (agent, key) = (AgentId::from_bytes(id(7, 7)), AgentKeyId::from_bytes(id(8, 7)));
    let after_agent = ("agent 7".to_owned(), agent);
    let (member, relationship) = (MemberId::from_bytes(id(10, 7)), RelationshipId::from_bytes(id(11, 7)));
    let after_member = ("member 7".to_owned(), member);
    // Whom this agent knows: members 7, 5007 …, and agents of the same numbers.
    let knowing = AgentId::from_bytes(id(7, 8));
    let recipients = [recipient, PartyId::from_bytes(id(1, 8))];
    let gateway: GatewayId = "gw7".parse().unwrap();
    let source = Source { conversation_id: conversation, gateway_id: gateway.clone(), upstream_session: "s7".into() };
    let rows = ["row7".to_owned(), "row2007".to_owned()];
    let runs = ["run6".to_owned(), delivery.to_string()];
    let keys = [delivery.to_string(), DeliveryId::new().to_string()];
    let old_turns = [id(5, 7).to_vec(), id(5, 8).to_vec()];
    let (step, completed) = (StepId::from_bytes(id(10, 7)), DeliveryState::Completed);
    let list = conversations::Filter { gateway_id: Some(gateway.clone()), ..Default::default() };
    let everywhere = conversations::Filter::default();
    // One conversation is not indexed to its end, and its text is found.
    let said = conversations::Filter { search: Some(Search::new("text")), ..Default::default() };
    let further = conversations::Filter { after: Some((1_000, conversation)), ..list.clone() };
    let of_thing = audit::Filter { target: Some("thing7".into()), ..Default::default() };
    let name = |canonical: &str| {
        let mut name = conversations::SessionName::told(gateway.clone(), canonical, None);
        name.key = "k99999".into();
        name
    };
    let cancelled = deliveries::Filter { state: Some(DeliveryState::Cancelled), ..Default::default() };
    let dead = deliveries::Filter { state: Some(DeliveryState::Dead), ..Default::default() };
    // Its delivery has been removed, and its sender is the tenth party.
    let (kept, its_sender) = (MessageId::from_bytes(id(3, 9)), PartyId::from_bytes(id(1, 10)));
    let its_key = Idem { key: KEY.0.into(), hash: KEY.1 };
    // As many as a poll hands out.
    let polled: Vec<MessageId> = (1..=20).map(|n| MessageId::from_bytes(id(3, n * 41))).collect();

    type Query<'a> = Box<dyn FnOnce(&mut Db) -> Result<(), Error> + 'a>;
    let queries: Vec<(&str, Query<'_>)> = vec![
        ("newest page", Box::new(|db| messages::page(db, conversation, Span::Newest, 50, 1).map(drop))),
        ("page before", Box::new(|db| messages::page(db, conversation, Span::Before(50), 50, 1).map(drop))),
        ("page after", Box::new(|db| messages::page(db, conversation, Span::After(5), 50, 1).map(drop))),
        ("one message", Box::new(|db| messages::get(db, message).map(drop))),
        ("messages of a poll", Box::new(|db| messages::by_ids(db, &polled).map(drop))),
        (
            "what of a talk is nothing to a reader",
            Box::new(|db| {
                let asked = |line: &Arc<Line>| Arc::new(Line { kind: Some(MessageKind::Request), ..Line::clone(line) });
                let lines: Vec<Arc<Line>> = messages::by_ids(db, &polled)?.values().map(asked).collect();
                mailbox::hidden_from(db, recipient, lines.iter()).map(drop)
            }),
        ),
        ("end of a message", Box::new(|db| messages::ended(db, kept).map(drop))),
        ("place of a message", Box::new(|db| messages::place_of(db, message).map(drop))),
        ("whether a message was sent to somebody", Box::new(|db| mailbox::was_sent_to(db, kept, recipient).map(drop))),
        (
            "what a key has sent",
            Box::new(|db| {
                // All that is asked for it, up to the recipient: nobody is called like its conversation.
                assert!(mailbox::sent_before(db, its_sender, &its_key).is_err());
                Ok(())
            }),
        ),
        (
            "recipients of a message",
            Box::new(|db| {
                let its = deliveries::of_message(db, message)?;
                assert_eq!(deliveries::with_recipients(db, its)?.len(), 1);
                Ok(())
            }),
        ),
        ("one session", Box::new(|db| conversations::get(db, conversation).map(drop))),
        ("reply", Box::new(|db| messages::reply_to(db, conversation, 5, message).map(drop))),
        ("open of recipient", Box::new(|db| deliveries::open_of_recipient(db, recipient, 0, 50).map(drop))),
        ("open of conversation", Box::new(|db| deliveries::open_of_conversation(db, conversation, 50).map(drop))),
        ("due", Box::new(|db| deliveries::due(db, 50).map(drop))),
        ("of message", Box::new(|db| deliveries::of_message(db, message).map(drop))),
        ("one delivery", Box::new(|db| deliveries::get(db, delivery).map(drop))),
        ("counts", Box::new(|db| deliveries::counts(db).map(drop))),
        ("dead letters", Box::new(|db| deliveries::list(db, &dead, 50).map(drop))),
        ("cancelled deliveries", Box::new(|db| deliveries::list(db, &cancelled, 50).map(drop))),
        ("newest deliveries", Box::new(|db| deliveries::list(db, &deliveries::Filter::default(), 50).map(drop))),
        ("session by name", Box::new(|db| conversations::find(db, &name("agent:main:none")).map(drop))),
        ("sessions of a gateway", Box::new(|db| conversations::list(db, &list, recipient, 50).map(drop))),
        ("next page of them", Box::new(|db| conversations::list(db, &further, recipient, 50).map(drop))),
        ("sessions everywhere", Box::new(|db| conversations::list(db, &everywhere, recipient, 50).map(drop))),
        ("sessions by their words", Box::new(|db| conversations::list(db, &said, recipient, 50).map(drop))),
        ("how far the index is behind", Box::new(|db| search::behind(db).map(drop))),
        ("what waits for its removal", Box::new(|db| purge::waiting(db).map(drop))),
        ("sessions for the link", Box::new(|db| conversations::of_gateway(db, &gateway, None, 50).map(drop))),
        ("turn by run", Box::new(|db| turns::by_run(db, conversation, &delivery.to_string()).map(drop))),
        ("turns by runs", Box::new(|db| turns::by_runs(db, conversation, &runs).map(drop))),
        ("unmapped turns", Box::new(|db| upstream::unmapped(db, conversation, upstream::Asker::Us, 10).map(drop))),
        (
            "unmapped turns of others",
            Box::new(|db| upstream::unmapped(db, conversation, upstream::Asker::Others, 10).map(drop)),
        ),
        ("open turns", Box::new(|db| turns::open_of_conversation(db, conversation).map(drop))),
        ("open turns of a gateway", Box::new(|db| turns::open_of_gateway(db, &gateway).map(drop))),
        ("history of a thing", Box::new(|db| audit::list(db, &of_thing, 50).map(drop))),
        ("origins", Box::new(|db| known_rows(db, &source, &rows).map(drop))),
        ("keys of ours", Box::new(|db| upstream::our_keys(db, keys.iter().cloned()).map(drop))),
        ("old deliveries", Box::new(|db| deliveries::ended_of(db, completed, 7, 50).map(drop))),
        ("old rows of the log", Box::new(|db| audit::oldest(db, 10_000, 50).map(drop))),
        ("old steps", Box::new(|db| retention::steps_after(db, step, 50).map(drop))),
        ("their turns", Box::new(|db| retention::ended_turns(db, &old_turns, 10_000).map(drop))),
        ("agents by name", Box::new(|db| agents::page(db, None, 50).map(drop))),
        ("next page of agents", Box::new(|db| agents::page(db, Some(&after_agent), 50).map(drop))),
        ("one agent", Box::new(|db| agents::get(db, agent).map(drop))),
        ("agent by slug", Box::new(|db| agents::by_slug(db, "agent-7").map(drop))),
        ("agents of a name", Box::new(|db| agents::by_name(db, "Agent 7", 10).map(drop))),
        ("mailboxes", Box::new(|db| agents::mailboxes(db, &recipients).map(drop))),
        ("removed agents with mail", Box::new(|db| agents::ending(db).map(drop))),
        ("keys of an agent", Box::new(|db| agent_keys::of(db, agent, Some(key), 50).map(drop))),
        ("how many keys", Box::new(|db| agent_keys::count_of(db, agent).map(drop))),
        ("one key", Box::new(|db| agent_keys::get(db, key).map(drop))),
        ("members by name", Box::new(|db| members::page(db, None, 50).map(drop))),
        ("next page of members", Box::new(|db| members::page(db, Some(&after_member), 50).map(drop))),
        ("one member", Box::new(|db| members::get(db, member).map(drop))),
        ("relationships of an agent", Box::new(|db| relationships::page(db, agent, Some(relationship), 50).map(drop))),
        ("how many relationships", Box::new(|db| relationships::count_of(db, agent).map(drop))),
        ("one relationship", Box::new(|db| relationships::get(db, relationship).map(drop))),
        (
            "what they are called",
            Box::new(|db| {
                let known = relationships::page(db, knowing, None, 50)?;
                assert_eq!(relationships::names(db, &known)?.len(), 8);
                Ok(())
            }),
        ),
        ("people known", Box::new(|db| relationships::people(db, knowing, Called::Anyhow, 50).map(drop))),
        ("people of a name", Box::new(|db| relationships::people(db, knowing, Called::Just("Member 7"), 9).map(drop))),
        ("people of a part", Box::new(|db| relationships::people(db, knowing, Called::Part("ber 7"), 9).map(drop))),
        ("one person", Box::new(|db| relationships::person(db, knowing, member).map(drop))),
        ("agents known", Box::new(|db| relationships::agents(db, knowing, Called::Anyhow, 50).map(drop))),
        (
            "agents known of a name",
            Box::new(|db| relationships::agents(db, knowing, Called::Just("Agent 7"), 9).map(drop)),
        ),
        ("agents known of a part", Box::new(|db| relationships::agents(db, knowing, Called::Part("t 7"), 9).map(drop))),
        ("whether an agent is known", Box::new(|db| relationships::knows(db, knowing, &Known::Agent(agent)).map(drop))),
    ];
    for (name, query) in queries {
        let statements = caught(&mut db, query);
        assert!(!statements.is_empty(), "{name}");
        for statement in statements {
            assert_no_scan(&mut db, name, &statement);
        }
    }
    // What answers a request is not looked for among all that was said since.
    for statement in caught(&mut db, |db| messages::reply_of(db, message)) {
        let plan = explain(&mut db, &statement).unwrap();
        assert!(plan.contains("messages_reply"), "{statement}\n{plan}");
    }
}

/// Totals of lists that grow for ever: an index alone tells them, whatever is filtered by.
async fn totals_are_counted_in_an_index(database: Database) {
    let mut db = database.connect();
    fill(&mut db, ENOUGH);
    if matches!(db, Db::Postgres(_)) {
        // The rows of the test are so short that the table is hardly longer than the index.
        for statement in ["VACUUM", "SET enable_seqscan = off", "SET enable_bitmapscan = off"] {
            sql::run(&mut db, statement);
        }
    }
    let recipient = Some(PartyId::from_bytes(*b"0100000000000007"));
    let text = |text: &str| Some(text.to_owned());
    let mut statements = Vec::new();
    // The open ones are few, and have indexes of their own.
    for state in DeliveryState::ALL.into_iter().filter(|state| !state.is_open()).map(Some).chain([None]) {
        for (recipient, created_before) in [(None, None), (recipient, None), (None, Some(1)), (recipient, Some(1))] {
            let filter = deliveries::Filter { state, recipient, created_before, ..Default::default() };
            statements.extend(caught(&mut db, |db| deliveries::count(db, &filter)));
        }
    }
    for (action, target, actor) in [
        (None, None, None),
        (text("action1"), None, None),
        (None, text("thing1"), None),
        (None, None, text("name1")),
        (text("action1"), text("thing1"), text("name1")),
    ] {
        let filter = audit::Filter { action, target, actor, after: None };
        statements.extend(caught(&mut db, |db| audit::count(db, &filter)));
    }
    statements.retain(|statement| !statement.contains("state < 2"));
    assert_eq!(statements.len(), 5 * 4 + 5);
    for statement in statements {
        let plan = explain(&mut db, &statement).unwrap();
        let in_index = match &db {
            Db::Sqlite(_) => plan.contains("COVERING INDEX"),
            Db::Postgres(_) => plan.contains("Index") && !plan.contains("Seq Scan"),
        };
        assert!(in_index, "{statement}\n{plan}");
    }
}

/// A delivery with what its moves must know of its message.
const MAIL: &str = "SELECT deliveries.id, deliveries.state, messages.kind, messages.sender_id, messages.hops \
                    FROM deliveries INNER JOIN messages ON messages.id = deliveries.message_id";

/// The condition that an id of this kind is one of as many as a poll hands out, as diesel writes it.
fn any_of(db: &Db, kind: u8) -> String {
    let ids = (1..=20).map(|n| sql::bytes(db, format!("{kind:02}{:014}", n * 41).as_bytes()));
    let ids = ids.collect::<Vec<_>>().join(", ");
    match db {
        Db::Sqlite(_) => format!("IN ({ids})"),
        Db::Postgres(_) => format!("= ANY(ARRAY[{ids}])"),
    }
}

/// Queries that only the writer can ask, written out.
async fn no_query_of_the_writer_scans_a_table(database: Database) {
    fill(&mut database.connect(), MANY);
    let mut db = database.opener().read_only().unwrap();
    let party = sql::bytes(&db, b"0100000000000007");
    let conversation = sql::bytes(&db, b"0200000000000007");
    let agent = sql::bytes(&db, b"0700000000000007");
    let message = sql::bytes(&db, b"0300000000000007");
    let delivery = sql::bytes(&db, b"0400000000000007");
    let member = sql::bytes(&db, b"1000000000000007");
    let channel = sql::bytes(&db, b"1300000000000007");
    let queries = [
        format!("SELECT id, idem_hash FROM messages WHERE sender_id = {party} AND idem_key = 'key7' LIMIT 1"),
        "SELECT n FROM deliveries ORDER BY n DESC LIMIT 1".to_owned(),
        format!("SELECT count(*) FROM deliveries WHERE conversation_id = {conversation} AND state < 2"),
        "SELECT id FROM parties WHERE kind = 1 AND reference = 'p7' LIMIT 1".to_owned(),
        "SELECT deleted_at FROM conversations WHERE gateway_id = 'gw7' AND deleted_at IS NOT NULL AND key = 'k7' \
         ORDER BY deleted_at DESC LIMIT 1"
            .to_owned(),
        "SELECT id FROM conversations WHERE deleted_at IS NULL AND (conversations.last_seq - conversations.first_seq \
         <> conversations.searched_last - conversations.searched_first) ORDER BY id LIMIT 100"
            .to_owned(),
        "SELECT id FROM conversations WHERE purge ORDER BY gateway_id, id LIMIT 1".to_owned(),
        "SELECT 1 FROM conversations WHERE purge AND gateway_id = 'gw7'".to_owned(),
        format!("SELECT n FROM search_lines WHERE conversation_id = {conversation} ORDER BY n LIMIT 500"),
        format!("DELETE FROM message_origins WHERE step_id IN ({conversation})"),
        format!("UPDATE message_origins SET step_id = NULL WHERE step_id IN ({conversation})"),
        format!("SELECT text FROM messages WHERE (messages.kind = 2) AND in_reply_to = {conversation}"),
        // Whose a session was.
        "SELECT owner_id FROM conversations WHERE gateway_id = 'gw7' AND contacted = TRUE AND deleted_at IS NULL \
         AND canonical_key = 'agent:main:k7' LIMIT 1"
            .to_owned(),
        "SELECT owner_id FROM conversations WHERE gateway_id = 'gw7' AND contacted = TRUE AND deleted_at IS NOT NULL \
         AND canonical_key = 'agent:main:k7' ORDER BY deleted_at DESC LIMIT 1"
            .to_owned(),
        format!("SELECT 1 FROM turns WHERE conversation_id = {conversation} AND state <> 7 LIMIT 1"),
        "SELECT id, idem_hash FROM agents WHERE idem_key = 'agents/7' AND deleted_at IS NULL LIMIT 1".to_owned(),
        format!("SELECT id, idem_hash FROM agent_keys WHERE agent_id = {agent} AND idem_key = 'keys/7' LIMIT 1"),
        "SELECT id, party_id FROM agents WHERE ending ORDER BY id LIMIT 1".to_owned(),
        // What waits for a channel, and what was said on it.
        format!(
            "SELECT id FROM deliveries WHERE channel_id = {channel} AND (deliveries.state < 2) AND n > 0 \
             ORDER BY n LIMIT 1000"
        ),
        format!("SELECT count(*) FROM deliveries WHERE channel_id = {channel} AND (deliveries.state < 2)"),
        format!(
            "SELECT message_id FROM channel_refs WHERE channel_id = {channel} AND chat = 'chat7' AND external_id = 'm7'"
        ),
        format!(
            "SELECT message_id FROM channel_refs WHERE channel_id = {channel} AND chat = 'chat7' \
             ORDER BY created_at DESC LIMIT 20"
        ),
        format!("SELECT channel_id FROM channel_refs WHERE message_id = {message} ORDER BY created_at"),
        format!("SELECT name FROM channel_senders WHERE channel_id = {channel} AND sender_ref = 's7'"),
        // What two agents wrote to each other of late.
        format!(
            "SELECT seq, kind, hops, created_at FROM messages WHERE conversation_id = {conversation} \
             AND seq < 9223372036854775807 ORDER BY seq DESC LIMIT 500"
        ),
        format!(
            "SELECT messages.hops FROM deliveries INNER JOIN messages ON messages.id = deliveries.message_id \
             WHERE deliveries.conversation_id = {conversation} AND (deliveries.state < 2) AND deliveries.state = 1 \
             AND deliveries.recipient_id = {party} AND messages.kind = 1"
        ),
        format!("SELECT count(*) FROM deliveries WHERE message_id = {message} AND recipient_id = {party}"),
        // Mail: what a report, a hand-out and an acknowledgement are judged by; how full a mailbox is, and what led to a
        // message.
        format!("{MAIL} WHERE deliveries.message_id = {message} AND deliveries.recipient_id = {party} LIMIT 1"),
        format!("{MAIL} WHERE deliveries.id {}", any_of(&db, 4)),
        format!("{MAIL} WHERE deliveries.message_id {} AND deliveries.recipient_id = {party}", any_of(&db, 3)),
        format!("SELECT count(*) FROM deliveries WHERE recipient_id = {party} AND (deliveries.state < 2)"),
        format!("SELECT sender_id, hops FROM messages WHERE id = {message} LIMIT 1"),
        // In which conversation two agents write.
        "SELECT id FROM conversations WHERE kind = 2 AND gateway_id = '' AND key = 'k7' AND deleted_at IS NULL LIMIT 1"
            .to_owned(),
        "SELECT created_at FROM deliveries ORDER BY n DESC LIMIT 1".to_owned(),
        // What is done is removed by its numbers, and each message keeps how it ended.
        format!("DELETE FROM deliveries WHERE id {}", any_of(&db, 4)),
        // What a newer message takes the place of.
        format!(
            "SELECT id FROM deliveries WHERE recipient_id = {party} AND (deliveries.state < 2) \
             AND coalesce_key = 'ann/news' AND state = 0 ORDER BY n"
        ),
        "SELECT id, idem_hash FROM members WHERE idem_key = 'members/7' AND deleted_at IS NULL LIMIT 1".to_owned(),
        format!("SELECT id FROM relationships WHERE agent_id = {agent} AND idem_key = 'relationships/7' LIMIT 1"),
        format!("SELECT agent_id FROM relationships WHERE member_id = {member}"),
        format!("SELECT agent_id FROM relationships WHERE target_id = {agent}"),
        format!("DELETE FROM relationships WHERE member_id = {member}"),
        format!("DELETE FROM relationships WHERE target_id = {agent}"),
        format!("DELETE FROM relationships WHERE agent_id = {agent}"),
    ];
    for query in queries {
        assert_no_scan(&mut db, "the writer", &query);
    }
    if database.kind() == Kind::Postgres {
        // On the writer's own connection, whose settings keep the planner from a scan.
        let mut db = database.opener().writable().unwrap();
        let ends = format!(
            "UPDATE conversations SET last_seq = new.last FROM unnest(ARRAY[{conversation}], ARRAY[8]) AS new (id, last) \
             WHERE conversations.id = new.id"
        );
        assert_no_scan(&mut db, "the writer", &ends);
        let searched = format!(
            "UPDATE conversations SET searched_last = new.last FROM unnest(ARRAY[{conversation}], ARRAY[8]) \
             AS new (id, last) WHERE conversations.id = new.id"
        );
        assert_no_scan(&mut db, "the writer", &searched);
        let moves = format!(
            "UPDATE deliveries SET state = new.state, due_at = new.due_at \
             FROM unnest(ARRAY[{delivery}], ARRAY[2], ARRAY[NULL::bigint]) AS new (id, state, due_at) \
             WHERE deliveries.id = new.id"
        );
        assert_no_scan(&mut db, "the writer", &moves);
        let old = format!(
            "UPDATE messages SET end_state = new.state FROM unnest(ARRAY[{conversation}], ARRAY[2]) AS new (id, state) \
             WHERE messages.id = new.id"
        );
        assert_no_scan(&mut db, "the writer", &old);
        for lock in ["FOR SHARE", "FOR UPDATE"] {
            let lease = format!("SELECT epoch FROM node_lease WHERE id = 1 {lock}");
            let plan = explain(&mut db, &lease).unwrap();
            assert!(plan.contains("Index") && !plan.contains("JIT"), "{plan}");
        }
    }
}

/// The test would see a scan if there were one.
async fn a_scan_is_noticed(store: TestStore) {
    fill(&mut store.database.connect(), ENOUGH);
    let mut db = store.database.opener().read_only().unwrap();
    let plan = explain(&mut db, "SELECT id FROM messages WHERE text = 'x'").unwrap();
    let scan = match store.database.kind() {
        Kind::Sqlite => "SCAN messages",
        Kind::Postgres => "Seq Scan on messages",
    };
    assert!(plan.contains(scan), "{plan}");
    // And it does see what diesel sends.
    let statements = caught(&mut db, |db| users::by_name(db, "o'hara"));
    assert!(statements[0].contains("'o''hara'"), "{statements:?}");
}

on_both_databases!(
    no_frequent_query_scans_a_table,
    totals_are_counted_in_an_index,
    no_query_of_the_writer_scans_a_table,
    a_scan_is_noticed
);
