use clawbroker::domain::ids::AuditId;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::Role;
use clawbroker::store::audit::{self, Actor, Filter};
use clawbroker::store::gateways::{AddGateway, ChangeGateway, Changes, RemoveGateway};

use crate::harness::TestStore;

async fn changes_are_logged_with_who_and_what_and_without_secrets(store: TestStore) {
    let admin = store.user("root", Role::Admin).await;
    let actor = || Actor::caller(&admin, Some("10.0.0.1".into()), Some("req-1".into()));
    store.clock.advance_ms(1);
    let token = Some(Secret::new("canary-token-4f1c"));
    let id = store.write(AddGateway { token, actor: actor(), ..store.new_gateway("gw") }).await.unwrap().id;
    store.clock.advance_ms(1);
    let changes =
        Changes { name: Some("New".into()), password: Some(Some(Secret::new("canary-2"))), ..Changes::default() };
    store.write(ChangeGateway { id: id.clone(), changes, actor: actor(), vault: store.vault.clone() }).await.unwrap();
    store.clock.advance_ms(1);
    store.write(RemoveGateway { id, purge: false, actor: actor() }).await.unwrap();

    let by_root = Filter { actor: Some("root".into()), ..Filter::default() };
    let rows = store.read(move |db| audit::list(db, &by_root, 10)).await.unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["gateway.remove", "gateway.change", "gateway.add"], "newest first");
    for row in &rows {
        assert_eq!((row.target_kind.as_str(), row.target.as_str()), ("gateway", "gw"));
        assert_eq!((row.address.as_deref(), row.request_id.as_deref()), (Some("10.0.0.1"), Some("req-1")));
        assert!(!format!("{row:?}").contains("canary"));
    }
    let (before, after) = (rows[1].before.as_deref().unwrap(), rows[1].after.as_deref().unwrap());
    assert!(before.contains("Gateway gw") && before.contains(r#""password":false"#), "{before}");
    assert!(after.contains("New") && after.contains(r#""password":true"#), "{after}");

    let adds = Filter { action: Some("gateway.add".into()), target: Some("gw".into()), ..Filter::default() };
    assert_eq!(store.read(move |db| audit::list(db, &adds, 10)).await.unwrap().len(), 1);
    let last = AuditId::try_from(rows[0].id.as_slice()).unwrap();
    let rest = Filter { after: Some((rows[0].at, last)), ..Filter::default() };
    let rest = store.read(move |db| audit::list(db, &rest, 10)).await.unwrap();
    assert_eq!(
        rest.iter().map(|row| row.action.as_str()).collect::<Vec<_>>(),
        ["gateway.change", "gateway.add", "user.add"]
    );
}

async fn a_refused_change_leaves_no_trace(store: TestStore) {
    store.gateway("gw").await;
    let before = store.number("SELECT count(*) AS value FROM audit").await;
    store.write(store.new_gateway("gw")).await.unwrap_err();
    assert_eq!(store.number("SELECT count(*) AS value FROM audit").await, before);
}

on_both_databases!(changes_are_logged_with_who_and_what_and_without_secrets, a_refused_change_leaves_no_trace);
