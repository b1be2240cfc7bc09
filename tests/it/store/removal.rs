//! Agents that are removed while something is open for them (DLV-2: nobody else would move it).
use clawbroker::domain::agent::AgentKind;
use clawbroker::domain::delivery::{DeliveryState, reason};
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::user::Role;
use clawbroker::store::agents::{self, EndMailStep, RemoveAgent};
use clawbroker::store::audit::Actor;
use clawbroker::store::deliveries::{self, Filter, Redrive};
use clawbroker::store::mailbox::{Ask, MailLimits, OpenUserAgent};

use super::ask::ask;
use super::mailbox::{LIMITS, agent, hand_out, mail, message, two};
use crate::harness::test_store::roomy;
use crate::harness::{TestStore, sql};

/// How many removed agents are left to be ended.
async fn left(store: &TestStore) -> i64 {
    store.read(agents::ending).await.expect("readable")
}

async fn a_removed_agent_gets_nothing_more_and_its_mail_dies(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let carl = agent(&store, "Carl", AgentKind::OpenClaw).await;
    for text in ["leased", "waits"] {
        store.write(message(&ann, &ben, text)).await.unwrap();
    }
    store.write(message(&ann, &carl, "another's")).await.unwrap();
    store.write(message(&ben, &ann, "from one who goes")).await.unwrap();
    let ids: Vec<_> = mail(&store, &ben).await.iter().map(|delivery| delivery.id).collect();
    let of_others = [mail(&store, &carl).await[0].id, mail(&store, &ann).await[0].id];
    assert_eq!(hand_out(&store, &ben, &ids[..1]).await.len(), 1);
    store.told();
    store.write(RemoveAgent { id: ben.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["agent removed"], "what is open is left to the upkeep");
    assert_eq!(left(&store).await, 1);
    // Whoever still asks for it, with what it remembers or afresh.
    assert!(hand_out(&store, &ben, &ids).await.is_empty());
    assert!(hand_out(&TestStore::with(store.database.clone(), roomy()), &ben, &ids).await.is_empty());
    assert_eq!(store.write(message(&ann, &ben, "x")).await.unwrap_err().code(), ErrorCode::NotFound);
    store.told();
    assert!(!store.write_bulk(EndMailStep).await.unwrap(), "nothing is left");
    let died: Vec<String> = store.told().into_iter().filter(|told| told.ends_with("-> dead")).collect();
    assert_eq!(died, ["delivery leased -> dead", "delivery pending -> dead"]);
    for id in &ids {
        let ended = store.delivery(*id).await.delivery;
        assert_eq!((ended.state, ended.reason.as_deref()), (DeliveryState::Dead, Some(reason::RECIPIENT_REMOVED)));
    }
    for id in of_others {
        assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Pending);
    }
    assert_eq!(left(&store).await, 0);
    assert!(!store.write_bulk(EndMailStep).await.unwrap());
    assert_eq!(store.told(), [""; 0]);
}

async fn much_mail_ends_in_steps_also_after_a_restart(store: TestStore) {
    let uma = store.user("uma", Role::Member).await;
    let limits = MailLimits { messages_max: 10_000, ..LIMITS };
    let mut removed = Vec::new();
    for (name, count) in [("Ben", 1_100), ("Carl", 3), ("Dan", 0)] {
        let agent = agent(&store, name, AgentKind::OpenClaw).await;
        let open = OpenUserAgent { user_id: uma.user_id, agent_id: agent.id, actor: Actor::system() };
        let (talk, _) = store.write(open).await.unwrap();
        let asked = (0..count).map(|n| store.write(Ask { limits, ..ask(&uma, &talk, &format!("question {n}")) }));
        assert!(futures_util::future::join_all(asked).await.iter().all(Result::is_ok));
        removed.push(agent);
    }
    for agent in &removed {
        store.write(RemoveAgent { id: agent.id, actor: Actor::system() }).await.unwrap();
    }
    assert_eq!(left(&store).await, 3);
    let open = "SELECT count(*) AS value FROM deliveries WHERE state < 2";
    assert!(store.write_bulk(EndMailStep).await.unwrap(), "more waits");
    assert_eq!((store.number(open).await, left(&store).await), (603, 3));
    // Another node goes on where this one stopped, and knows nothing but the rows.
    let other = TestStore::with(store.database.clone(), roomy());
    assert!(other.write_bulk(EndMailStep).await.unwrap());
    assert_eq!((other.number(open).await, left(&other).await), (103, 3));
    assert!(!other.write_bulk(EndMailStep).await.unwrap());
    assert_eq!((other.number(open).await, left(&other).await), (0, 0));
    let dead = "SELECT count(*) AS value FROM deliveries WHERE state = 3 AND reason = 'recipient_removed'";
    assert_eq!(other.number(dead).await, 1_103);
}

/// STO-3: what cannot be read is left as it is, however much, and nothing behind it waits for ever.
async fn damaged_mail_of_a_removed_agent_holds_nobody_up(store: TestStore) {
    let uma = store.user("uma", Role::Member).await;
    let limits = MailLimits { messages_max: 10_000, ..LIMITS };
    for (name, count) in [("Ben", 1_010), ("Carl", 3)] {
        let agent = agent(&store, name, AgentKind::OpenClaw).await;
        let open = OpenUserAgent { user_id: uma.user_id, agent_id: agent.id, actor: Actor::system() };
        let (talk, _) = store.write(open).await.unwrap();
        let asked = (0..count).map(|n| store.write(Ask { limits, ..ask(&uma, &talk, &format!("question {n}")) }));
        assert!(futures_util::future::join_all(asked).await.iter().all(Result::is_ok));
        store.write(RemoveAgent { id: agent.id, actor: Actor::system() }).await.unwrap();
    }
    let first = "SELECT n FROM deliveries ORDER BY n LIMIT 1000";
    sql::run(&mut store.database.connect(), &format!("UPDATE deliveries SET events = 'x' WHERE n IN ({first})"));
    assert!(!store.write_bulk(EndMailStep).await.unwrap(), "nothing is left that can be ended");
    assert_eq!(left(&store).await, 0);
    for (sql, expected) in [("state = 0 AND events = 'x'", 1_000), ("state = 3", 13), ("state < 2", 1_000)] {
        let number = store.number(&format!("SELECT count(*) AS value FROM deliveries WHERE {sql}")).await;
        assert_eq!(number, expected, "{sql}");
    }
}

/// STO-3: the same where it is not the row itself that cannot be read.
async fn damage_around_mail_of_a_removed_agent_holds_nobody_up(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let cat = agent(&store, "Cat", AgentKind::OpenClaw).await;
    let dan = agent(&store, "Dan", AgentKind::OpenClaw).await;
    for from in [&ann, &cat, &dan] {
        store.write(message(from, &ben, "x")).await.unwrap();
    }
    let ids: Vec<_> = mail(&store, &ben).await.iter().map(|delivery| delivery.id).collect();
    store.write(RemoveAgent { id: ben.id, actor: Actor::system() }).await.unwrap();
    let key = format!("gw_agent_{}_{}", ann.id, ben.id);
    for damage in [
        format!("UPDATE conversations SET gateway_id = '..' WHERE \"key\" = '{key}'"),
        format!("UPDATE parties SET reference = 'x' WHERE reference = '{}'", cat.id),
    ] {
        sql::run(&mut store.database.connect(), &damage);
    }
    // Another writer, which remembers nothing of it.
    let afresh = TestStore::with(store.database.clone(), roomy());
    assert!(!afresh.write_bulk(EndMailStep).await.unwrap(), "nothing is left that can be ended");
    let mut states = Vec::new();
    for id in ids {
        states.push(afresh.delivery(id).await.delivery.state);
    }
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Dead, DeliveryState::Dead]);
    assert_eq!((left(&afresh).await, mail(&afresh, &dan).await.len()), (0, 1), "one of them is told");
    assert_eq!(afresh.number("SELECT count(*) AS value FROM messages WHERE kind = 3").await, 2);
}

async fn what_died_with_its_agent_stays_dead(store: TestStore) {
    let (ann, ben) = two(&store).await;
    store.write(message(&ann, &ben, "x")).await.unwrap();
    let id = mail(&store, &ben).await[0].id;
    store.write(RemoveAgent { id: ben.id, actor: Actor::system() }).await.unwrap();
    store.write_bulk(EndMailStep).await.unwrap();
    let refused = store.write(Redrive { id }).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DeliveryEnded);
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Dead);
    // It is not in the way of those that can be started afresh.
    let (caller, conversation) = store.chat().await;
    let fresh = store.dead(&caller, conversation.id, false).await;
    let dead = Filter { state: Some(DeliveryState::Dead), ..Filter::default() };
    let redrivable = Filter { redrivable: true, ..dead.clone() };
    let (all, found) = store
        .read(move |db| Ok::<_, Error>((deliveries::count(db, &dead)?, deliveries::list(db, &redrivable, 10)?)))
        .await
        .unwrap();
    assert_eq!((all, found.iter().map(|(stored, _)| stored.delivery.id).collect::<Vec<_>>()), (2, vec![fresh.id]));
}

on_both_databases!(
    a_removed_agent_gets_nothing_more_and_its_mail_dies,
    much_mail_ends_in_steps_also_after_a_restart,
    damaged_mail_of_a_removed_agent_holds_nobody_up,
    damage_around_mail_of_a_removed_agent_holds_nobody_up,
    what_died_with_its_agent_stays_dead,
);
