use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::MemberId;
use clawbroker::domain::member::{Addresses, Member};
use clawbroker::domain::party::PartyKind;
use clawbroker::domain::user::Role;
use clawbroker::store::audit::{self, Actor};
use clawbroker::store::members::{self, AddMember, ChangeMember, Changes, RemoveMember};
use clawbroker::store::messages::Idem;
use clawbroker::store::parties;

use crate::harness::TestStore;
use crate::harness::test_store::START_MS;

fn new_member(name: &str) -> AddMember {
    AddMember { name: name.into(), user_id: None, addresses: Addresses::default(), actor: Actor::system(), idem: None }
}

fn change(member: &Member, changes: Changes) -> ChangeMember {
    ChangeMember { id: member.id, changes, actor: Actor::system() }
}

fn all_addresses() -> Addresses {
    Addresses {
        email: Some("eve@example.com".into()),
        phone: Some("+49 30 1".into()),
        feishu_user_id: Some("u".into()),
        feishu_open_id: Some("o".into()),
        telegram_chat_id: Some("-1".into()),
        whatsapp: Some("4930123".into()),
        webhook_url: Some("https://example.com/s3cret".parse().unwrap()),
    }
}

async fn a_member_is_kept_with_its_party(store: TestStore) {
    let user = store.user("eve", Role::Member).await;
    let new = AddMember { user_id: Some(user.user_id), addresses: all_addresses(), ..new_member("Eve") };
    let eve = store.write(new).await.unwrap();
    assert_eq!((eve.name.as_str(), eve.user_id, eve.created_at), ("Eve", Some(user.user_id), START_MS));
    assert_eq!(eve.addresses, all_addresses());
    let (id, party) = (eve.id, eve.party_id);
    assert_eq!(store.read(move |db| members::get(db, id)).await.unwrap(), Some(eve));
    let party = store.read(move |db| parties::get(db, party)).await.unwrap().unwrap();
    assert_eq!(
        (party.kind, party.reference, party.display_name),
        (PartyKind::Member, id.to_string(), "Eve".to_owned())
    );
}

async fn a_member_made_twice_with_one_key_is_one_member(store: TestStore) {
    let keyed = |hash: u8| AddMember { idem: Some(Idem { key: "k".into(), hash: [hash; 32] }), ..new_member("Eve") };
    let first = store.write(keyed(1)).await.unwrap();
    assert_eq!(store.write(keyed(1)).await.unwrap(), first);
    assert_eq!(store.write(keyed(2)).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    assert_eq!(store.number("SELECT count(*) AS value FROM members").await, 1);
}

async fn members_are_listed_by_name_page_by_page(store: TestStore) {
    for name in ["bob", "Ann", "bob", "carl", "Bob"] {
        store.write(new_member(name)).await.unwrap();
    }
    let gone = store.write(new_member("aaa")).await.unwrap();
    store.write(RemoveMember { id: gone.id, actor: Actor::system() }).await.unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let from = after.clone();
        let page = store.read(move |db| members::page(db, from.as_ref(), 2)).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.name.to_lowercase(), last.id));
        names.extend(page.into_iter().map(|member| member.name));
    }
    assert_eq!(names, ["Ann", "bob", "bob", "Bob", "carl"], "those of one name in the order in which they came");
    assert_eq!(store.read(members::count).await.unwrap(), 5);
}

async fn a_change_leaves_what_it_does_not_name(store: TestStore) {
    let eve = store.write(AddMember { addresses: all_addresses(), ..new_member("Eve") }).await.unwrap();
    store.clock.advance_ms(1_000);
    let changes = Changes {
        name: Some("Eva".into()),
        email: Some(None),
        feishu_open_id: Some(Some("other".into())),
        webhook_url: Some(Some("https://example.com/s3cret-2".parse().unwrap())),
        ..Changes::default()
    };
    let changed = store.write(change(&eve, changes)).await.unwrap();
    let expected = Member {
        name: "Eva".into(),
        addresses: Addresses {
            email: None,
            feishu_open_id: Some("other".into()),
            webhook_url: Some("https://example.com/s3cret-2".parse().unwrap()),
            ..all_addresses()
        },
        updated_at: START_MS + 1_000,
        ..eve
    };
    assert_eq!(changed, expected);
    let (id, party) = (expected.id, expected.party_id);
    assert_eq!(store.read(move |db| members::get(db, id)).await.unwrap(), Some(expected));
    assert_eq!(store.read(move |db| parties::get(db, party)).await.unwrap().unwrap().display_name, "Eva");
    let nobody = ChangeMember { id: MemberId::new(), changes: Changes::default(), actor: Actor::system() };
    assert_eq!(store.write(nobody).await.unwrap_err().code(), ErrorCode::NotFound);
}

async fn what_is_as_it_was_is_no_change(store: TestStore) {
    let eve = store.write(AddMember { addresses: all_addresses(), ..new_member("Eve") }).await.unwrap();
    store.clock.advance_ms(1_000);
    let same = Changes { name: Some("Eve".into()), email: Some(all_addresses().email), ..Changes::default() };
    for changes in [Changes::default(), same] {
        assert_eq!(store.write(change(&eve, changes)).await.unwrap(), eve);
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM audit WHERE action = 'member.change'").await, 0);
}

async fn a_removed_member_leaves_no_address_behind(store: TestStore) {
    let eve = store.write(AddMember { addresses: all_addresses(), ..new_member("Eve") }).await.unwrap();
    let (id, party) = (eve.id, eve.party_id);
    store.write(RemoveMember { id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.read(move |db| members::get(db, id)).await.unwrap(), None);
    assert_eq!(store.number("SELECT count(*) AS value FROM members WHERE addresses = '{}'").await, 1);
    // Lines have their sender still.
    assert!(store.read(move |db| parties::get(db, party)).await.unwrap().is_some());
    let again = RemoveMember { id, actor: Actor::system() };
    assert_eq!(store.write(again).await.unwrap_err().code(), ErrorCode::NotFound);
}

async fn the_audit_log_tells_no_webhook(store: TestStore) {
    let eve = store.write(AddMember { addresses: all_addresses(), ..new_member("Eve") }).await.unwrap();
    store.write(change(&eve, Changes { phone: Some(None), ..Changes::default() })).await.unwrap();
    store.write(RemoveMember { id: eve.id, actor: Actor::system() }).await.unwrap();
    let filter = audit::Filter { target: Some(eve.id.to_string()), ..audit::Filter::default() };
    let rows = store.read(move |db| audit::list(db, &filter, 10)).await.unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["member.remove", "member.change", "member.add"]);
    for shown in rows.iter().flat_map(|row| [&row.before, &row.after]).flatten() {
        assert!(shown.contains("https://example.com/…") && !shown.contains("s3cret"), "{shown}");
    }
}

on_both_databases!(
    a_member_is_kept_with_its_party,
    a_member_made_twice_with_one_key_is_one_member,
    members_are_listed_by_name_page_by_page,
    a_change_leaves_what_it_does_not_name,
    what_is_as_it_was_is_no_change,
    a_removed_member_leaves_no_address_behind,
    the_audit_log_tells_no_webhook,
);
