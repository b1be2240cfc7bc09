use std::collections::BTreeMap;

use clawbroker::domain::agent::{Agent, AgentKind, AgentState, fold};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::AgentId;
use clawbroker::domain::party::PartyKind;
use clawbroker::store::agent_keys::{self, AddAgentKey, NoteAgentKeysUsed, RevokeAgentKey};
use clawbroker::store::agents::{self, AddAgent, ChangeAgent, Changes, Mailbox, RemoveAgent};
use clawbroker::store::audit::{self, Actor};
use clawbroker::store::messages::Idem;
use clawbroker::store::parties;

use crate::harness::TestStore;
use crate::harness::sql;
use crate::harness::test_store::START_MS;

fn new_agent(name: &str) -> AddAgent {
    AddAgent {
        name: name.into(),
        slug: None,
        kind: AgentKind::OpenClaw,
        state: AgentState::Running,
        role_description: "answers".into(),
        creator_id: None,
        labels: BTreeMap::from([("team".to_owned(), "ops".to_owned())]),
        lease_seconds: Some(60),
        attempts_max: None,
        model: None,
        actor: Actor::system(),
        idem: None,
        agents_max: 1_000,
    }
}

fn new_key(agent_id: AgentId, digest: u8) -> AddAgentKey {
    AddAgentKey {
        agent_id,
        label: "laptop".into(),
        prefix: "oc-abcd".into(),
        digest: [digest; 32],
        expires_at: None,
        actor: Actor::system(),
        idem: None,
        keys_max: 16,
    }
}

fn idem(key: &str, hash: u8) -> Option<Idem> {
    Some(Idem { key: key.into(), hash: [hash; 32] })
}

fn change(agent: &Agent, changes: Changes) -> ChangeAgent {
    ChangeAgent { id: agent.id, changes, actor: Actor::system() }
}

async fn an_agent_is_registered_with_its_party(store: TestStore) {
    let ann = store.write(new_agent("Ann's Lab")).await.unwrap();
    assert_eq!((ann.slug.as_str(), ann.kind, ann.state), ("ann-s-lab", AgentKind::OpenClaw, AgentState::Running));
    assert_eq!((ann.labels["team"].as_str(), ann.lease_seconds, ann.created_at), ("ops", Some(60), START_MS));
    assert_eq!(store.told(), ["agent changed"]);
    let (id, party) = (ann.id, ann.party_id);
    let read = store.read(move |db| agents::get(db, id)).await.unwrap();
    assert_eq!(read.as_ref(), Some(&ann));
    assert_eq!(store.read(|db| agents::by_slug(db, "ann-s-lab")).await.unwrap(), read);
    let party = store.read(move |db| parties::get(db, party)).await.unwrap().unwrap();
    assert_eq!((party.kind, party.reference, party.display_name), (PartyKind::Agent, id.to_string(), ann.name));
}

async fn a_slug_belongs_to_one_living_agent(store: TestStore) {
    let with_slug = |slug: &str| AddAgent { slug: Some(slug.parse().unwrap()), ..new_agent("x") };
    let first = store.write(with_slug("ops")).await.unwrap();
    let refused = store.write(with_slug("ops")).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    // One that is made from the name gives way.
    let mut slugs = Vec::new();
    for _ in 0..12 {
        slugs.push(store.write(new_agent("Ops")).await.unwrap().slug);
    }
    assert_eq!((slugs[0].as_str(), slugs[1].as_str(), slugs[7].as_str()), ("ops-2", "ops-3", "ops-9"));
    assert!(slugs[8..].iter().all(|slug| slug.starts_with("ops-") && slug.len() == "ops-".len() + 12), "{slugs:?}");
    let other = store.write(with_slug("other")).await.unwrap();
    let renamed = Changes { slug: Some("ops".parse().unwrap()), ..Changes::default() };
    let refused = store.write(change(&other, renamed.clone())).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    store.write(change(&first, renamed.clone())).await.unwrap();
    store.write(RemoveAgent { id: first.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.write(change(&other, renamed)).await.unwrap().slug, "ops", "it is free again");
}

async fn an_agent_added_twice_with_one_key_is_one_agent(store: TestStore) {
    let first = store.write(AddAgent { idem: idem("k", 1), ..new_agent("ann") }).await.unwrap();
    // Also when there is no room for more.
    let again = AddAgent { idem: idem("k", 1), agents_max: 1, ..new_agent("ann") };
    assert_eq!(store.write(again).await.unwrap(), first);
    let other = store.write(AddAgent { idem: idem("k", 2), ..new_agent("ann") }).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
    assert_eq!(store.number("SELECT count(*) AS value FROM agents").await, 1);
}

async fn registered_agents_are_bounded(store: TestStore) {
    let bounded = |name: &str| AddAgent { agents_max: 2, ..new_agent(name) };
    let first = store.write(bounded("a")).await.unwrap();
    store.write(bounded("b")).await.unwrap();
    let refused = store.write(bounded("c")).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::RateLimited, 429));
    assert!(refused.message().contains("agents_max"), "{refused}");
    store.write(RemoveAgent { id: first.id, actor: Actor::system() }).await.unwrap();
    store.write(bounded("c")).await.unwrap();
    assert_eq!(store.write(bounded("d")).await.unwrap_err().code(), ErrorCode::RateLimited);
}

async fn names_are_found_as_they_are_written_and_in_any_case(store: TestStore) {
    for name in ["Ärger", "ärger", "A\u{308}RGER", "Arger"] {
        store.write(new_agent(name)).await.unwrap();
    }
    let in_any_case = |limit| store.read(move |db| agents::part_of_name(db, &fold("ÄrGeR"), limit));
    let found = in_any_case(10).await.unwrap();
    let names: Vec<&str> = found.iter().map(|agent| agent.name.as_str()).collect();
    assert_eq!(names, ["Ärger", "ärger", "A\u{308}RGER"]);
    assert_eq!(in_any_case(2).await.unwrap().len(), 2);
    // Or just as they are written: those of another form do not take the places.
    let just_so = |name: &'static str| store.read(move |db| agents::by_name(db, name, 1));
    for (name, agent) in ["Ärger", "ärger"].into_iter().zip(&found) {
        assert_eq!(just_so(name).await.unwrap(), std::slice::from_ref(agent));
    }
    assert!(just_so("ÄRGER").await.unwrap().is_empty());
    let renamed = Changes { name: Some("Zorn".into()), ..Changes::default() };
    store.write(change(&found[0], renamed)).await.unwrap();
    assert_eq!(in_any_case(10).await.unwrap().len(), 2);
    assert_eq!(just_so("Zorn").await.unwrap()[0].id, found[0].id);
}

async fn agents_are_listed_by_name_page_by_page(store: TestStore) {
    for name in ["bob", "Ann", "bob", "carl", "Bob"] {
        store.write(new_agent(name)).await.unwrap();
    }
    let gone = store.write(new_agent("aaa")).await.unwrap();
    store.write(RemoveAgent { id: gone.id, actor: Actor::system() }).await.unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let from = after.clone();
        let page = store.read(move |db| agents::page(db, from.as_ref(), 2)).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.name.to_lowercase(), last.id));
        names.extend(page.into_iter().map(|agent| agent.name));
    }
    assert_eq!(names, ["Ann", "bob", "bob", "Bob", "carl"], "those of one name in the order in which they came");
    assert_eq!(store.read(agents::count).await.unwrap(), 5);
}

async fn a_change_tells_what_was_and_what_is(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    store.told();
    store.clock.advance_ms(1_000);
    let changes = Changes {
        name: Some("Anna".into()),
        state: Some(AgentState::Paused),
        lease_seconds: Some(None),
        attempts_max: Some(Some(3)),
        model: Some(Some("m".into())),
        labels: Some(BTreeMap::new()),
        ..Changes::default()
    };
    let changed = store.write(change(&ann, changes)).await.unwrap();
    assert_eq!(store.told(), ["agent changed"]);
    let (id, party) = (ann.id, ann.party_id);
    assert_eq!(store.read(move |db| agents::get(db, id)).await.unwrap(), Some(changed.clone()));
    let expected = Agent {
        name: "Anna".into(),
        state: AgentState::Paused,
        lease_seconds: None,
        attempts_max: Some(3),
        model: Some("m".into()),
        labels: BTreeMap::new(),
        updated_at: START_MS + 1_000,
        ..ann
    };
    assert_eq!(changed, expected, "the slug and the rest stay");
    assert_eq!(store.read(move |db| parties::get(db, party)).await.unwrap().unwrap().display_name, "Anna");
    let filter = audit::Filter { target: Some(id.to_string()), ..audit::Filter::default() };
    let rows = store.read(move |db| audit::list(db, &filter, 10)).await.unwrap();
    let shown = |text: &Option<String>| serde_json::from_str::<serde_json::Value>(text.as_ref().unwrap()).unwrap();
    assert_eq!((rows[0].action.as_str(), rows[1].action.as_str()), ("agent.change", "agent.add"));
    let (was, is) = (shown(&rows[0].before), shown(&rows[0].after));
    assert_eq!((was["status"].as_str(), is["status"].as_str()), (Some("running"), Some("paused")));
    let nobody = ChangeAgent { id: AgentId::new(), changes: Changes::default(), actor: Actor::system() };
    assert_eq!(store.write(nobody).await.unwrap_err().code(), ErrorCode::NotFound);
}

async fn what_is_as_it_was_is_no_change(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    store.told();
    store.clock.advance_ms(1_000);
    let same = Changes { slug: Some("ann".parse().unwrap()), lease_seconds: Some(Some(60)), ..Changes::default() };
    for changes in [Changes::default(), same] {
        assert_eq!(store.write(change(&ann, changes)).await.unwrap(), ann);
    }
    assert!(store.told().is_empty());
    assert_eq!(store.number("SELECT count(*) AS value FROM audit WHERE action = 'agent.change'").await, 0);
}

async fn keys_end_with_their_agent(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    store.write(new_key(ann.id, 1)).await.unwrap();
    store.write(new_key(ann.id, 2)).await.unwrap();
    store.told();
    store.write(RemoveAgent { id: ann.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["agent removed"]);
    let id = ann.id;
    assert_eq!(store.read(move |db| agents::get(db, id)).await.unwrap(), None);
    assert!(store.read(|db| agent_keys::all_live(db, 0)).await.unwrap().is_empty());
    let keys = store.read(move |db| agent_keys::of(db, id, None, 10)).await.unwrap();
    assert_eq!(keys.iter().filter(|key| key.revoked_at == Some(START_MS)).count(), 2);
    let again = store.write(RemoveAgent { id, actor: Actor::system() }).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::NotFound);
    assert_eq!(store.write(new_key(id, 3)).await.unwrap_err().code(), ErrorCode::NotFound);
}

async fn a_key_asked_for_twice_with_one_key_is_made_once(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    let ben = store.write(new_agent("ben")).await.unwrap();
    store.told();
    let (first, repeated) = store.write(AddAgentKey { idem: idem("k", 1), ..new_key(ann.id, 1) }).await.unwrap();
    assert!(!repeated);
    // The repeat comes with a secret of its own, which is thrown away.
    let (again, repeated) = store.write(AddAgentKey { idem: idem("k", 1), ..new_key(ann.id, 2) }).await.unwrap();
    assert_eq!((&again, repeated), (&first, true));
    let other = store.write(AddAgentKey { idem: idem("k", 2), ..new_key(ann.id, 3) }).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
    let (of_ben, repeated) = store.write(AddAgentKey { idem: idem("k", 1), ..new_key(ben.id, 4) }).await.unwrap();
    assert!(!repeated && of_ben.id != first.id, "it counts for one agent");
    assert_eq!(store.told(), ["agent key added", "agent key added"]);
}

async fn keys_that_count_are_bounded(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    let bounded = |digest: u8| AddAgentKey { keys_max: 2, ..new_key(ann.id, digest) };
    store.write(AddAgentKey { expires_at: Some(START_MS + 1), ..bounded(1) }).await.unwrap();
    let (second, _) = store.write(bounded(2)).await.unwrap();
    let refused = store.write(bounded(3)).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::RateLimited, 429));
    store.clock.advance_ms(1);
    store.write(bounded(3)).await.unwrap();
    assert_eq!(store.write(bounded(4)).await.unwrap_err().code(), ErrorCode::RateLimited);
    store.write(RevokeAgentKey { id: second.id, actor: Actor::system() }).await.unwrap();
    store.write(bounded(4)).await.unwrap();
}

async fn live_keys_are_those_that_still_count(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    let ben = store.write(AddAgent { state: AgentState::Stopped, ..new_agent("ben") }).await.unwrap();
    let (kept, _) = store.write(new_key(ann.id, 1)).await.unwrap();
    let (revoked, _) = store.write(new_key(ann.id, 2)).await.unwrap();
    store.write(AddAgentKey { expires_at: Some(100), ..new_key(ann.id, 3) }).await.unwrap();
    let (of_stopped, _) = store.write(new_key(ben.id, 4)).await.unwrap();
    store.told();
    store.write(RevokeAgentKey { id: revoked.id, actor: Actor::system() }).await.unwrap();
    store.write(RevokeAgentKey { id: revoked.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["agent key ended"], "the second time nothing ends");
    let mut now = store.read(|db| agent_keys::all_live(db, 100)).await.unwrap();
    now.sort_by_key(|(digest, _)| *digest);
    let found: Vec<_> = now.iter().map(|(digest, key)| (digest[0], key.key_id, key.agent.id)).collect();
    assert_eq!(found, [(1, kept.id, ann.id), (4, of_stopped.id, ben.id)]);
    assert_eq!(now[1].1.agent.state, AgentState::Stopped);
    assert_eq!(store.read(|db| agent_keys::all_live(db, 99)).await.unwrap().len(), 3, "one had not expired then");
    // Whatever a row says: an agent that lives here is not called from outside.
    sql::run(&mut store.database.connect(), "UPDATE agents SET kind = 2");
    assert!(store.read(|db| agent_keys::all_live(db, 99)).await.unwrap().is_empty());
    let refused = store.write(new_key(ann.id, 5)).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::InvalidRequest, 409));
}

async fn keys_are_listed_newest_first(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    let ben = store.write(new_agent("ben")).await.unwrap();
    let mut ids = Vec::new();
    for digest in 1..=3 {
        ids.push(store.write(new_key(ann.id, digest)).await.unwrap().0.id);
    }
    store.write(new_key(ben.id, 9)).await.unwrap();
    let id = ann.id;
    let first = store.read(move |db| agent_keys::of(db, id, None, 2)).await.unwrap();
    assert_eq!(first.iter().map(|key| key.id).collect::<Vec<_>>(), [ids[2], ids[1]]);
    let before = first[1].id;
    let rest = store.read(move |db| agent_keys::of(db, id, Some(before), 2)).await.unwrap();
    assert_eq!(rest.iter().map(|key| key.id).collect::<Vec<_>>(), [ids[0]]);
    assert_eq!(store.read(move |db| agent_keys::count_of(db, id)).await.unwrap(), 3);
}

async fn the_last_use_is_noted_in_parts(store: TestStore) {
    let ann = store.write(new_agent("ann")).await.unwrap();
    let (key, _) = store.write(new_key(ann.id, 1)).await.unwrap();
    let parts = NoteAgentKeysUsed::in_parts(&[(key.id, 77); 501], &[(ann.id, 78)]);
    let rows: Vec<_> = parts.iter().map(|part| (part.keys.len(), part.agents.len())).collect();
    assert_eq!(rows, [(500, 0), (1, 0), (0, 1)]);
    for part in parts {
        store.write_bulk(part).await.unwrap();
    }
    let id = ann.id;
    assert_eq!(store.read(move |db| agent_keys::get(db, key.id)).await.unwrap().unwrap().last_used_at, Some(77));
    assert_eq!(store.read(move |db| agents::get(db, id)).await.unwrap().unwrap().last_seen_at, Some(78));
}

async fn messages_are_counted_by_their_state(store: TestStore) {
    let (caller, conversation) = store.operators_chat().await;
    store.dead(&caller, conversation.id, false).await;
    store.begun(&caller, conversation.id, "one").await;
    let asked = store.ask(&caller, conversation.id, "two").await;
    store.ask(&caller, conversation.id, "three").await;
    // Whoever the recipient is: agents get theirs in the same way.
    let recipient = asked.delivery.unwrap().recipient_id;
    let nobody = store.write(new_agent("ann")).await.unwrap().party_id;
    let counted = store.read(move |db| agents::mailboxes(db, &[recipient, nobody])).await.unwrap();
    assert_eq!(counted.get(&recipient), Some(&Mailbox { pending: 2, leased: 1, dead: 1 }));
    assert_eq!(counted.get(&nobody), None);
    assert!(store.read(|db| agents::mailboxes(db, &[])).await.unwrap().is_empty());
}

on_both_databases!(
    an_agent_is_registered_with_its_party,
    a_slug_belongs_to_one_living_agent,
    an_agent_added_twice_with_one_key_is_one_agent,
    registered_agents_are_bounded,
    names_are_found_as_they_are_written_and_in_any_case,
    agents_are_listed_by_name_page_by_page,
    a_change_tells_what_was_and_what_is,
    what_is_as_it_was_is_no_change,
    keys_end_with_their_agent,
    a_key_asked_for_twice_with_one_key_is_made_once,
    keys_that_count_are_bounded,
    live_keys_are_those_that_still_count,
    keys_are_listed_newest_first,
    the_last_use_is_noted_in_parts,
    messages_are_counted_by_their_state,
);
