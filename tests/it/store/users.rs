use clawbroker::actors::bootstrap;
use clawbroker::config::Config;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::UserId;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::Role;
use clawbroker::store::audit::Actor;
use clawbroker::store::messages::Idem;
use clawbroker::store::users::{self, AddToken, AddUser, ChangeUser, NoteTokensUsed, RemoveUser, RevokeToken};

use crate::harness::TestStore;

fn new_user(name: &str) -> AddUser {
    AddUser {
        name: name.into(),
        display_name: name.into(),
        role: Role::Member,
        password_hash: None,
        actor: Actor::system(),
        idem: None,
        ensure: false,
    }
}

fn new_token(user_id: UserId, digest: u8) -> AddToken {
    AddToken {
        user_id,
        name: "laptop".into(),
        prefix: "cbk_abcd".into(),
        digest: [digest; 32],
        expires_at: None,
        actor: Actor::system(),
        idem: None,
    }
}

fn idem(key: &str, hash: u8) -> Option<Idem> {
    Some(Idem { key: key.into(), hash: [hash; 32] })
}

async fn a_name_belongs_to_one_living_user(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    let refused = store.write(new_user("ann")).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    let same = store.write(AddUser { ensure: true, ..new_user("ann") }).await.unwrap();
    assert_eq!(same, ann);
    store.write(RemoveUser { id: ann.id, actor: Actor::system() }).await.unwrap();
    assert_ne!(store.write(new_user("ann")).await.unwrap().id, ann.id, "the name is free again");
}

async fn a_user_added_twice_with_one_key_is_one_user(store: TestStore) {
    let first = store.write(AddUser { idem: idem("k", 1), ..new_user("ann") }).await.unwrap();
    let again = store.write(AddUser { idem: idem("k", 1), ..new_user("ann") }).await.unwrap();
    assert_eq!(again, first);
    let other = store.write(AddUser { idem: idem("k", 2), ..new_user("ann") }).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
}

async fn the_admin_keeps_its_role_and_its_place(store: TestStore) {
    let admin = store.write(AddUser { role: Role::Admin, ..new_user(users::ADMIN) }).await.unwrap();
    let weaker = ChangeUser {
        id: admin.id,
        name: None,
        display_name: None,
        role: Some(Role::Viewer),
        password_hash: None,
        actor: Actor::system(),
    };
    assert_eq!(store.write(weaker).await.unwrap_err().http_status(), 409);
    assert_eq!(store.write(RemoveUser { id: admin.id, actor: Actor::system() }).await.unwrap_err().http_status(), 409);
    let kept = store.read(move |db| users::get(db, admin.id)).await.unwrap().unwrap();
    assert_eq!(kept.role, Role::Admin);
}

async fn a_change_of_a_user_closes_its_sockets(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    store.told();
    let change = ChangeUser {
        id: ann.id,
        name: None,
        display_name: None,
        role: Some(Role::Operator),
        password_hash: Some(Some("phc".into())),
        actor: Actor::system(),
    };
    let changed = store.write(change).await.unwrap();
    assert_eq!((changed.role, changed.has_password), (Role::Operator, true));
    assert_eq!(store.told(), ["user changed"]);
    store.write(RemoveUser { id: ann.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["user changed"]);
    assert_eq!(store.read(move |db| users::get(db, ann.id)).await.unwrap(), None);
}

async fn what_is_as_it_was_is_no_change(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    store.told();
    store.clock.advance_ms(1_000);
    let change = |role: Role, password_hash: Option<Option<String>>| ChangeUser {
        id: ann.id,
        name: Some("ann".into()),
        display_name: None,
        role: Some(role),
        password_hash,
        actor: Actor::system(),
    };
    let rows = "SELECT count(*) AS value FROM audit WHERE action = 'user.change'";
    for nothing in [None, Some(None)] {
        assert_eq!(store.write(change(Role::Member, nothing)).await.unwrap(), ann);
    }
    assert_eq!((store.told().len(), store.number(rows).await), (0, 0));
    // A password that is given may be another one.
    for count in 1..=2 {
        store.write(change(Role::Member, Some(Some("phc".into())))).await.unwrap();
        assert_eq!((store.told(), store.number(rows).await), (vec!["user changed".to_owned()], count));
    }
}

async fn a_digest_is_one_token(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    store.told();
    let (first, repeated) = store.write(new_token(ann.id, 1)).await.unwrap();
    assert!(!repeated);
    assert_eq!(store.told(), ["token added"], "the sockets of its user stay open");
    let (again, repeated) = store.write(new_token(ann.id, 1)).await.unwrap();
    assert!(repeated, "its secret was shown before");
    assert_eq!(again, first);
    assert_eq!(store.number("SELECT count(*) AS value FROM tokens").await, 1);
}

async fn a_token_asked_for_twice_with_one_key_is_made_once(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    let (first, _) = store.write(AddToken { idem: idem("k", 1), ..new_token(ann.id, 1) }).await.unwrap();
    // The repeat comes with a secret of its own, which is thrown away.
    let (again, repeated) = store.write(AddToken { idem: idem("k", 1), ..new_token(ann.id, 2) }).await.unwrap();
    assert_eq!((again.id, repeated), (first.id, true));
    let other = store.write(AddToken { idem: idem("k", 2), ..new_token(ann.id, 3) }).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
}

async fn callers_are_those_whose_token_still_counts(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    let ben = store.write(new_user("ben")).await.unwrap();
    let (kept, _) = store.write(new_token(ann.id, 1)).await.unwrap();
    let (revoked, _) = store.write(new_token(ann.id, 2)).await.unwrap();
    store.write(AddToken { expires_at: Some(100), ..new_token(ann.id, 3) }).await.unwrap();
    store.write(new_token(ben.id, 4)).await.unwrap();
    store.told();
    store.write(RevokeToken { id: revoked.id, actor: Actor::system() }).await.unwrap();
    store.write(RevokeToken { id: revoked.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["token ended"], "the second time nothing ends");
    store.write(RemoveUser { id: ben.id, actor: Actor::system() }).await.unwrap();
    let now: Vec<_> = store.read(|db| users::callers(db, 100)).await.unwrap();
    assert_eq!(now.len(), 1);
    assert_eq!((now[0].0, now[0].1.token_id), ([1; 32], Some(kept.id)));
    assert_eq!(store.read(|db| users::callers(db, 99)).await.unwrap().len(), 2, "one had not expired then");
}

async fn the_last_use_of_a_token_is_noted(store: TestStore) {
    let ann = store.write(new_user("ann")).await.unwrap();
    let (token, _) = store.write(new_token(ann.id, 1)).await.unwrap();
    store.write_bulk(NoteTokensUsed { used: vec![(token.id, 77)] }).await.unwrap();
    let tokens = store.read(move |db| users::tokens_of(db, Some(ann.id))).await.unwrap();
    assert_eq!(tokens[0].last_used_at, Some(77));
}

/// SEC-1: whoever may read the list of tokens learns nothing of one that somebody has thought of.
async fn a_configured_token_shows_nothing_of_itself(store: TestStore) {
    let mut config = Config::default();
    config.app.data_dir = store.database.data_dir().to_owned();
    config.auth.admin_token = Some(Secret::new("correct-horse-battery-staple-and-more"));
    config.auth.operator_token = Some(Secret::new(format!("cbk_{}", "correct-horse-battery".repeat(2))));
    bootstrap::run(&store, &config, &store.vault).await.unwrap();
    let tokens = store.read(|db| users::tokens_of(db, None)).await.unwrap();
    let prefixes: Vec<&str> = tokens.iter().map(|token| token.prefix.as_str()).collect();
    assert_eq!(prefixes, ["(configured)"; 2]);
    assert_eq!(bootstrap::prefix("correct-horse-battery-staple-and-more"), "(configured)");
    let made = bootstrap::new_token().unwrap();
    assert_eq!(bootstrap::prefix(made.reveal()), made.reveal()[..12]);
}

on_both_databases!(
    a_name_belongs_to_one_living_user,
    a_user_added_twice_with_one_key_is_one_user,
    the_admin_keeps_its_role_and_its_place,
    a_change_of_a_user_closes_its_sockets,
    what_is_as_it_was_is_no_change,
    a_digest_is_one_token,
    a_token_asked_for_twice_with_one_key_is_made_once,
    callers_are_those_whose_token_still_counts,
    the_last_use_of_a_token_is_noted,
    a_configured_token_shows_nothing_of_itself,
);
