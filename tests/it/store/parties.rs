use clawbroker::domain::user::Role;
use clawbroker::store::audit::Actor;
use clawbroker::store::gateways::{ChangeGateway, Changes};
use clawbroker::store::users::ChangeUser;

use crate::harness::TestStore;

async fn everyone_is_a_party_once(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    store.ask(&caller, conversation.id, "one").await;
    store.ask(&caller, conversation.id, "two").await;
    assert_eq!(store.number("SELECT count(*) AS value FROM parties").await, 2, "one user, one gateway");
    assert_eq!(store.number("SELECT count(*) AS value FROM parties WHERE kind = 1 AND reference = 'gw'").await, 1);
}

async fn a_party_is_shown_by_its_newest_name(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let line = store.ask(&caller, conversation.id, "one").await.line;
    assert_eq!((line.sender.kind, line.sender.name.as_str()), ("user", "ANN"));
    store
        .write(ChangeUser {
            id: caller.user_id,
            name: None,
            display_name: Some("Annette".into()),
            role: Some(Role::Member),
            password_hash: None,
            actor: Actor::system(),
        })
        .await
        .unwrap();
    let changes = Changes { name: Some("The new one".into()), ..Changes::default() };
    let id = conversation.gateway_id.clone().unwrap();
    store.write(ChangeGateway { id, changes, actor: Actor::system(), vault: store.vault.clone() }).await.unwrap();
    let line = store.ask(&caller, conversation.id, "two").await.line;
    assert_eq!(line.sender.name, "Annette");
    assert_eq!(store.number("SELECT count(*) AS value FROM parties WHERE display_name = 'The new one'").await, 1);
}

on_both_databases!(everyone_is_a_party_once, a_party_is_shown_by_its_newest_name);
