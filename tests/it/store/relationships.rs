use clawbroker::domain::agent::{Agent, AgentKind, fold};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{AgentId, MemberId, RelationshipId};
use clawbroker::domain::member::{Addresses, Known, Member, Relationship};
use clawbroker::store::agents::{self, ChangeAgent, RemoveAgent};
use clawbroker::store::audit::Actor;
use clawbroker::store::members::{AddMember, ChangeMember, Changes, RemoveMember};
use clawbroker::store::messages::Idem;
use clawbroker::store::relationships::{self, AddRelationship, Called, RemoveRelationship};

use crate::harness::TestStore;
use crate::harness::test_store::START_MS;

async fn agent(store: &TestStore, name: &str) -> Agent {
    store.agent(name, AgentKind::OpenClaw).await
}

async fn member(store: &TestStore, name: &str) -> Member {
    let (addresses, actor) = (Addresses::default(), Actor::system());
    store.write(AddMember { name: name.into(), user_id: None, addresses, actor, idem: None }).await.unwrap()
}

fn new(agent: &Agent, known: Known) -> AddRelationship {
    AddRelationship {
        agent_id: agent.id,
        known,
        relation: "peer".into(),
        description: None,
        actor: Actor::system(),
        idem: None,
        relationships_max: 1_000,
    }
}

async fn relate(store: &TestStore, agent: &Agent, known: Known) -> Relationship {
    store.write(new(agent, known)).await.unwrap().0
}

/// Whose relationships were told to have changed since the last call.
fn told(store: &TestStore) -> Vec<AgentId> {
    let changed = |event: &Event| match event {
        Event::RelationshipsChanged { agents } => agents.clone(),
        _ => Vec::new(),
    };
    store.events.take().iter().flat_map(changed).collect()
}

async fn an_agent_knows_a_person_and_another_agent(store: TestStore) {
    let (ann, ben, eve) = (agent(&store, "ann").await, agent(&store, "ben").await, member(&store, "Eve").await);
    told(&store);
    let described = AddRelationship { description: Some("asks".into()), ..new(&ann, Known::Member(eve.id)) };
    let (to_eve, name) = store.write(described).await.unwrap();
    assert_eq!((name.as_str(), to_eve.description.as_deref(), to_eve.created_at), ("Eve", Some("asks"), START_MS));
    let to_ben = relate(&store, &ann, Known::Agent(ben.id)).await;
    assert_eq!(told(&store), [ann.id, ann.id]);
    let id = ann.id;
    let both = store.read(move |db| relationships::page(db, id, None, 10)).await.unwrap();
    assert_eq!(both, [to_eve.clone(), to_ben.clone()]);
    let names = store.read(move |db| relationships::names(db, &both)).await.unwrap();
    assert_eq!((names[&to_eve.id].as_str(), names[&to_ben.id].as_str()), ("Eve", "ben"));
    let after = to_eve.id;
    let rest = store.read(move |db| relationships::page(db, id, Some(after), 10)).await.unwrap();
    assert_eq!(rest, std::slice::from_ref(&to_ben));
    assert_eq!(store.read(move |db| relationships::count_of(db, id)).await.unwrap(), 2);
    let people = store.read(move |db| relationships::people(db, id, Called::Anyhow, 10)).await.unwrap();
    assert_eq!(people, [(to_eve.clone(), eve.clone())]);
    let agents = store.read(move |db| relationships::agents(db, id, Called::Anyhow, 10)).await.unwrap();
    assert_eq!(agents, [(to_ben.clone(), ben.clone())]);
    // It has one direction.
    let (ben_id, eve_id) = (ben.id, eve.id);
    assert_eq!(store.read(move |db| relationships::count_of(db, ben_id)).await.unwrap(), 0);
    for (agent, known, expected) in [
        (id, Known::Agent(ben_id), true),
        (id, Known::Member(eve_id), true),
        (id, Known::Agent(id), false),
        (ben_id, Known::Agent(id), false),
    ] {
        assert_eq!(store.read(move |db| relationships::knows(db, agent, &known)).await.unwrap(), expected, "{known:?}");
    }
    assert_eq!(store.read(move |db| relationships::person(db, id, eve_id)).await.unwrap(), Some(eve));
    assert_eq!(store.read(move |db| relationships::person(db, ben_id, eve_id)).await.unwrap(), None);
    let remove = |id| RemoveRelationship { id, actor: Actor::system() };
    store.write(remove(to_eve.id)).await.unwrap();
    assert_eq!(told(&store), [ann.id]);
    assert_eq!(store.write(remove(to_eve.id)).await.unwrap_err().code(), ErrorCode::NotFound);
    let gone = to_eve.id;
    assert_eq!(store.read(move |db| relationships::get(db, gone)).await.unwrap(), None);
}

async fn what_makes_no_sense_is_refused(store: TestStore) {
    let (ann, ben, eve) = (agent(&store, "ann").await, agent(&store, "ben").await, member(&store, "Eve").await);
    let (gone, nobody) = (agent(&store, "gone").await, member(&store, "Nobody").await);
    store.write(RemoveAgent { id: gone.id, actor: Actor::system() }).await.unwrap();
    store.write(RemoveMember { id: nobody.id, actor: Actor::system() }).await.unwrap();
    for (known, field) in [
        (Known::Agent(ann.id), "agent_id"),
        (Known::Agent(gone.id), "agent_id"),
        (Known::Agent(AgentId::new()), "agent_id"),
        (Known::Member(nobody.id), "member_id"),
        (Known::Member(MemberId::new()), "member_id"),
    ] {
        let refused = store.write(new(&ann, known)).await.unwrap_err();
        assert_eq!((refused.code(), refused.fields()[0].field.as_str()), (ErrorCode::ValidationError, field));
    }
    assert_eq!(store.write(new(&gone, Known::Member(eve.id))).await.unwrap_err().code(), ErrorCode::NotFound);
    for known in [Known::Agent(ben.id), Known::Member(eve.id)] {
        relate(&store, &ann, known).await;
        let refused = store.write(new(&ann, known)).await.unwrap_err();
        assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    }
    let full = AddRelationship { relationships_max: 2, ..new(&ann, Known::Member(member(&store, "x").await.id)) };
    let refused = store.write(full).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::RateLimited, 429));
    assert!(refused.message().contains("relationships_per_agent_max"), "{refused}");
}

async fn a_repeat_makes_nothing(store: TestStore) {
    let (ann, eve) = (agent(&store, "ann").await, member(&store, "Eve").await);
    let keyed = |hash: u8| AddRelationship {
        idem: Some(Idem { key: "k".into(), hash: [hash; 32] }),
        relationships_max: 1,
        ..new(&ann, Known::Member(eve.id))
    };
    let first = store.write(keyed(1)).await.unwrap();
    assert_eq!(store.write(keyed(1)).await.unwrap(), first);
    assert_eq!(store.write(keyed(2)).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
}

async fn those_who_know_hear_of_new_names_and_of_ends(store: TestStore) {
    let (ann, ben, carl) = (agent(&store, "ann").await, agent(&store, "ben").await, agent(&store, "carl").await);
    let eve = member(&store, "Eve").await;
    for knowing in [&ann, &ben] {
        relate(&store, knowing, Known::Member(eve.id)).await;
        relate(&store, knowing, Known::Agent(carl.id)).await;
    }
    relate(&store, &carl, Known::Agent(ann.id)).await;
    told(&store);
    let both = || [ann.id, ben.id];
    let heard = || {
        let mut heard = told(&store);
        heard.sort_unstable();
        heard
    };
    let of_eve = |changes: Changes| ChangeMember { id: eve.id, changes, actor: Actor::system() };
    store.write(of_eve(Changes { name: Some("Eva".into()), ..Changes::default() })).await.unwrap();
    assert_eq!(heard(), both());
    // By what it is reached may be what a poll tells.
    store.write(of_eve(Changes { email: Some(Some("eva@example.com".into())), ..Changes::default() })).await.unwrap();
    assert_eq!(heard(), both());
    store.write(of_eve(Changes::default())).await.unwrap();
    assert!(heard().is_empty());
    let of_carl = |changes: agents::Changes| ChangeAgent { id: carl.id, changes, actor: Actor::system() };
    store.write(of_carl(agents::Changes { name: Some("Karl".into()), ..agents::Changes::default() })).await.unwrap();
    assert_eq!(heard(), both());
    store
        .write(of_carl(agents::Changes { model: Some(Some("m".into())), ..agents::Changes::default() }))
        .await
        .unwrap();
    assert!(heard().is_empty());
    store.write(RemoveMember { id: eve.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(heard(), both());
    store.write(RemoveAgent { id: carl.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(heard(), both());
    assert_eq!(store.number("SELECT count(*) AS value FROM relationships").await, 0, "its own are gone as well");
}

async fn names_are_found_among_those_who_are_known(store: TestStore) {
    let ann = agent(&store, "ann").await;
    for name in ["100% Sure", "Sure", "SURE", "snake_case"] {
        let (other, person) = (agent(&store, name).await, member(&store, name).await);
        relate(&store, &ann, Known::Agent(other.id)).await;
        relate(&store, &ann, Known::Member(person.id)).await;
        // Nobody knows these.
        agent(&store, name).await;
        member(&store, name).await;
    }
    let id = ann.id;
    for (called, expected) in [
        (Called::Just("Sure"), vec!["Sure"]),
        (Called::Just("sure"), vec![]),
        (Called::Part("sure"), vec!["100% Sure", "Sure", "SURE"]),
        (Called::Part("%"), vec!["100% Sure"]),
        (Called::Part("_"), vec!["snake_case"]),
        (Called::Part("s%e"), vec![]),
        (Called::Anyhow, vec!["100% Sure", "Sure", "SURE", "snake_case"]),
    ] {
        let people = store.read(move |db| relationships::people(db, id, called, 10)).await.unwrap();
        let names: Vec<&str> = people.iter().map(|(_, person)| person.name.as_str()).collect();
        assert_eq!(names, expected, "{called:?}");
        let agents = store.read(move |db| relationships::agents(db, id, called, 10)).await.unwrap();
        let names: Vec<&str> = agents.iter().map(|(_, agent)| agent.name.as_str()).collect();
        assert_eq!(names, expected, "{called:?}");
    }
    let two = store.read(move |db| relationships::agents(db, id, Called::Part("sure"), 2)).await.unwrap();
    assert_eq!(two.len(), 2);
    assert_eq!(fold("SURE"), "sure");
    let nothing = RelationshipId::new();
    assert_eq!(store.read(move |db| relationships::get(db, nothing)).await.unwrap(), None);
}

on_both_databases!(
    an_agent_knows_a_person_and_another_agent,
    what_makes_no_sense_is_refused,
    a_repeat_makes_nothing,
    those_who_know_hear_of_new_names_and_of_ends,
    names_are_found_among_those_who_are_known,
);
