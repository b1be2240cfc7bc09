//! Channels to people in the store: what is sent and heard on them.
use std::collections::BTreeMap;
use std::sync::Arc;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::channel::{Address, Channel, ChannelKind};
use clawbroker::domain::clock::Clock;
use clawbroker::domain::delivery::{Delivery, DeliveryState, Outcome, reason};
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{ChannelId, DeliveryId, MemberId};
use clawbroker::domain::member::{Addresses, Member};
use clawbroker::domain::message::MessageKind;
use clawbroker::domain::secret::Secret;
use clawbroker::store::audit::Actor;
use clawbroker::store::channel_refs::{self, Direction};
use clawbroker::store::channels::{
    self, AddChannel, AllowSender, Arrived, ChangeChannel, Changes, EndSend, Hear, HeardAs, LeaseSend, RecoverSends,
    RemoveChannel, RetrySend, SendEnd, SendToMember, ToMember,
};
use clawbroker::store::deliveries::{self, DeliveryOptions, Filter, FireDue, Redrive};
use clawbroker::store::mailbox::{LoopGuards, Report};
use clawbroker::store::members::{AddMember, RemoveMember};
use clawbroker::store::messages::{self, Idem, Span};
use clawbroker::store::vault::Vault;
use serde_json::json;

use super::mailbox::{LIMITS, agent};
use crate::harness::test_store::{START_MS, roomy};
use crate::harness::{TestStore, sql};

on_both_databases!(
    a_channel_is_kept_and_its_secrets_are_sealed,
    secrets_whose_key_is_lost_can_be_given_anew,
    a_message_to_a_person_is_a_line_and_a_delivery,
    what_cannot_be_sent_is_refused,
    the_end_of_a_sending_says_what_the_provider_calls_it,
    what_failed_waits_and_dies_with_the_providers_words,
    what_was_leased_at_the_start_is_settled,
    what_may_have_arrived_is_not_forgotten,
    what_may_have_arrived_is_not_said_to_be_late,
    what_cannot_be_read_holds_nobody_up,
    a_message_that_cannot_be_read_can_be_ended,
    what_is_on_its_way_when_its_channel_goes_is_of_unknown_outcome,
    a_removed_channel_ends_what_waits_for_it,
    a_line_is_heard_once,
    an_answer_goes_back_to_where_the_question_came_from,
    nobody_hears_what_others_talk_about,
);

pub(super) fn new_channel(store: &TestStore, kind: ChannelKind) -> AddChannel {
    AddChannel {
        kind,
        name: "A channel".into(),
        agent_id: None,
        config: json!({ "a": 1 }).as_object().unwrap().clone(),
        secrets: BTreeMap::from([("key".to_owned(), Secret::new("s3cret"))]),
        base_url: None,
        enabled: true,
        actor: Actor::system(),
        vault: store.vault.clone(),
        idem: None,
        channels_max: 10,
    }
}

pub(super) async fn member(store: &TestStore, name: &str) -> Member {
    let addresses = Addresses { telegram_chat_id: Some("7".into()), email: Some("e@x".into()), ..Addresses::default() };
    let new = AddMember { name: name.into(), user_id: None, addresses, actor: Actor::system(), idem: None };
    store.write(new).await.unwrap()
}

/// Ann, a person whom she writes to, and a bot of Telegram.
pub(super) async fn three(store: &TestStore) -> (Arc<AgentFacts>, Member, Channel) {
    let ann = agent(store, "Ann", AgentKind::OpenClaw).await;
    let eve = member(store, "Eve").await;
    let channel = store.write(new_channel(store, ChannelKind::Telegram)).await.unwrap();
    store.told();
    (ann, eve, channel)
}

pub(super) fn message(from: &Arc<AgentFacts>, to: MemberId, text: &str) -> SendToMember {
    SendToMember {
        from: from.clone(),
        to,
        kind: None,
        text: text.into(),
        idem: None,
        in_reply_to: None,
        options: DeliveryOptions::default(),
        queue_max: 2,
        working: None,
        guards: LoopGuards::default(),
    }
}

pub(super) async fn sent(store: &TestStore, from: &Arc<AgentFacts>, to: MemberId, text: &str) -> Delivery {
    store.write(message(from, to, text)).await.unwrap().delivery.unwrap()
}

async fn now(store: &TestStore, id: DeliveryId) -> Delivery {
    store.read(move |db| deliveries::get(db, id)).await.unwrap().unwrap().delivery
}

pub(super) async fn leased(store: &TestStore, channel: &Channel, id: DeliveryId) -> i32 {
    store.write(LeaseSend { channel_id: channel.id, id }).await.unwrap().unwrap()
}

pub(super) fn end(channel: &Channel, id: DeliveryId, attempt: i32, arrived: &[(&str, &str)], end: SendEnd) -> EndSend {
    let arrived = arrived.iter().map(|(chat, id)| Arrived { chat: (*chat).into(), external_id: (*id).into() });
    EndSend { channel_id: channel.id, id, attempt, arrived: arrived.collect(), end }
}

pub(super) fn heard(channel: ChannelId, id: &str, text: &str) -> Hear {
    Hear {
        channel_id: channel,
        external_id: id.into(),
        chat: "7".into(),
        sender_ref: "7".into(),
        sender_alias: Some("eve".into()),
        sender_name: Some("Eve S.".into()),
        text: text.into(),
        reply_to: None,
        said_at: Some(5),
        limits: LIMITS,
        guards: LoopGuards::default(),
        senders_max: 2,
    }
}

pub(super) async fn allow(store: &TestStore, channel: ChannelId, sender: &str, member: &Member) {
    let command =
        AllowSender { channel_id: channel, sender_ref: sender.into(), member_id: member.id, actor: Actor::system() };
    assert_eq!(store.write(command).await.unwrap().member_id, Some(member.id));
}

async fn a_channel_is_kept_and_its_secrets_are_sealed(store: TestStore) {
    let keyed = |hash: u8| AddChannel {
        idem: Some(Idem { key: "k".into(), hash: [hash; 32] }),
        ..new_channel(&store, ChannelKind::Feishu)
    };
    let made = store.write(keyed(1)).await.unwrap();
    assert_eq!((made.secrets.clone(), made.enabled, made.created_at), (vec!["key".to_owned()], true, START_MS));
    assert_eq!(store.write(keyed(1)).await.unwrap(), made);
    assert_eq!(store.write(keyed(2)).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    let (id, vault) = (made.id, store.vault.clone());
    let open = async || {
        let vault = vault.clone();
        store.read(move |db| channels::secrets(db, &vault, id)).await.unwrap()
    };
    assert_eq!(open().await.get("key").unwrap().reveal(), "s3cret");
    let rows = "SELECT count(*) AS value FROM channels WHERE secret IS NOT NULL AND config NOT LIKE '%s3cret%'";
    assert_eq!(store.number(rows).await, 1);
    let secrets = BTreeMap::from([("key".to_owned(), None), ("other".to_owned(), Some(Secret::new("n3w")))]);
    let changes = Changes { secrets, enabled: Some(false), ..Changes::default() };
    let change = ChangeChannel { id, changes, actor: Actor::system(), vault: store.vault.clone() };
    let changed = store.write(change).await.unwrap();
    assert_eq!((changed.secrets, changed.enabled, changed.config), (vec!["other".to_owned()], false, made.config));
    assert_eq!(open().await.keys().collect::<Vec<_>>(), ["other"]);
    let told = store.events.take();
    assert!(told.iter().all(|event| matches!(event, Event::ChannelChanged { channel_id } if *channel_id == id)));
    assert_eq!(told.len(), 2, "a repeat changes nothing");
    assert_eq!(store.number("SELECT count(*) AS value FROM audit WHERE after LIKE '%n3w%'").await, 0);
    let full = AddChannel { channels_max: 1, ..new_channel(&store, ChannelKind::Email) };
    assert_eq!(store.write(full).await.unwrap_err().code(), ErrorCode::InvalidRequest);
}

async fn secrets_whose_key_is_lost_can_be_given_anew(store: TestStore) {
    let two = ["key", "other"].map(|name| (name.to_owned(), Secret::new("s3cret")));
    let new = AddChannel { secrets: BTreeMap::from(two), ..new_channel(&store, ChannelKind::Feishu) };
    let id = store.write(new).await.unwrap().id;
    let vault = Vault::open(store.database.data_dir(), Some(&Secret::new("08".repeat(32)))).unwrap();
    let change = |names: &[&str]| {
        let secrets = names.iter().map(|name| ((*name).to_owned(), Some(Secret::new("n3w")))).collect();
        let changes = Changes { secrets, ..Changes::default() };
        ChangeChannel { id, changes, actor: Actor::system(), vault: vault.clone() }
    };
    assert!(store.write(change(&["key"])).await.unwrap_err().is_unreadable(), "the other one cannot be kept");
    store.write(change(&["key", "other"])).await.unwrap();
    let known = vault.clone();
    let secrets = store.read(move |db| channels::secrets(db, &known, id)).await.unwrap();
    assert!(secrets.len() == 2 && secrets.values().all(|secret| secret.reveal() == "n3w"));
}

async fn a_message_to_a_person_is_a_line_and_a_delivery(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let new = SendToMember { idem: Some(Idem { key: "m".into(), hash: [1; 32] }), ..message(&ann, eve.id, "hello") };
    let first = store.write(new).await.unwrap();
    let delivery = first.delivery.clone().unwrap();
    assert_eq!((first.target.as_str(), first.kind), ("Eve", Some(ChannelKind::Telegram)));
    assert_eq!((delivery.recipient_id, delivery.channel_id), (eve.party_id, Some(channel.id)));
    assert_eq!((delivery.state, delivery.attempts_max), (DeliveryState::Pending, channels::ATTEMPTS_MAX));
    let read = channel.clone();
    let letter = store.read(move |db| channels::letter(db, &read, delivery.id)).await.unwrap().unwrap();
    assert_eq!((letter.text.as_str(), letter.from.as_str()), ("Ann: hello", "Ann"));
    assert_eq!((letter.to, letter.reply_to), (vec![Address::Telegram("7".into())], None));
    // A repeat tells what became of it since.
    let attempt = leased(&store, &channel, delivery.id).await;
    store.write(end(&channel, delivery.id, attempt, &[("7", "41")], SendEnd::Sent)).await.unwrap();
    let again = SendToMember { idem: Some(Idem { key: "m".into(), hash: [1; 32] }), ..message(&ann, eve.id, "hello") };
    let ToMember { message_id, delivery, .. } = store.write(again).await.unwrap();
    assert_eq!((message_id, delivery.unwrap().state), (first.message_id, DeliveryState::Completed));
    let other = SendToMember { idem: Some(Idem { key: "m".into(), hash: [2; 32] }), ..message(&ann, eve.id, "bye") };
    assert_eq!(store.write(other).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 1);
}

async fn what_cannot_be_sent_is_refused(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let by = |kind| SendToMember { kind: Some(kind), ..message(&ann, eve.id, "hello") };
    for kind in [ChannelKind::Email, ChannelKind::Feishu, ChannelKind::Webhook] {
        let refused = store.write(by(kind)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{kind:?}");
        assert!(refused.message().starts_with("No available channel to reach Eve."), "{}", refused.message());
    }
    let gone = store.write(message(&ann, MemberId::new(), "hello")).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
    for _ in 0..2 {
        sent(&store, &ann, eve.id, "hello").await;
    }
    assert_eq!(store.write(message(&ann, eve.id, "three")).await.unwrap_err().code(), ErrorCode::MailboxFull);
    let changes = Changes { enabled: Some(false), ..Changes::default() };
    let off = ChangeChannel { id: channel.id, changes, actor: Actor::system(), vault: store.vault.clone() };
    store.write(off).await.unwrap();
    assert_eq!(store.write(message(&ann, eve.id, "hello")).await.unwrap_err().code(), ErrorCode::InvalidRequest);
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 2);
}

async fn the_end_of_a_sending_says_what_the_provider_calls_it(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let delivery = sent(&store, &ann, eve.id, "hello").await;
    let (id, message_id) = (delivery.id, delivery.message_id);
    let other = LeaseSend { channel_id: ChannelId::new(), id };
    assert_eq!(store.write(other).await.unwrap(), None, "it is not that channel's");
    assert_eq!(leased(&store, &channel, id).await, 1);
    assert_eq!(store.write(LeaseSend { channel_id: channel.id, id }).await.unwrap(), None, "DLV-1");
    for _ in 0..2 {
        store.write(end(&channel, id, 1, &[("7", "41"), ("7", "42"), ("", "")], SendEnd::Sent)).await.unwrap();
    }
    let ended = now(&store, id).await;
    assert_eq!((ended.state, ended.outcome), (DeliveryState::Completed, Some(Outcome::Sent)));
    let refs = store.read(move |db| channel_refs::of_message(db, message_id)).await.unwrap();
    let known: Vec<(&str, &str)> = refs.iter().map(|one| (one.chat.as_str(), one.external_id.as_str())).collect();
    assert_eq!(known, [("7", "41"), ("7", "42")]);
    assert!(refs.iter().all(|one| one.direction == Direction::Out && one.channel_id == channel.id));
    // Nobody is told of what went well.
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 1);
}

async fn what_failed_waits_and_dies_with_the_providers_words(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let id = sent(&store, &ann, eve.id, "hello").await.id;
    let attempts = channels::ATTEMPTS_MAX;
    for attempt in 1..=attempts {
        assert_eq!(leased(&store, &channel, id).await, attempt);
        let retry = RetrySend { channel_id: channel.id, id, attempt, wait_ms: 1_000, why: "HTTP 503: not now".into() };
        let moved = store.write(retry).await.unwrap().unwrap();
        if attempt < attempts {
            assert_eq!((moved.state, moved.available_at), (DeliveryState::Pending, store.clock.now_ms() + 1_000));
            assert_eq!(store.write(LeaseSend { channel_id: channel.id, id }).await.unwrap(), None, "it waits");
            store.clock.advance_ms(1_000);
            store.write(FireDue { ids: vec![id] }).await.unwrap();
        }
    }
    let dead = now(&store, id).await;
    let words = format!("given up after {attempts} attempts: HTTP 503: not now");
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(words.as_str())));
    let conversation = dead.conversation_id;
    let log = store.read(move |db| messages::page(db, conversation, Span::Newest, 10, 1 << 20)).await.unwrap();
    let notice = log.last().unwrap();
    assert_eq!((notice.kind, notice.in_reply_to), (Some(MessageKind::Notice), Some(dead.message_id)));
    assert_eq!(notice.text, format!("Your message to Eve was not sent: {words}"));
}

async fn what_was_leased_at_the_start_is_settled(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let recover = |id: DeliveryId, repeat_ms: i64| RecoverSends { channel_id: channel.id, ids: vec![id], repeat_ms };
    let id = sent(&store, &ann, eve.id, "one").await.id;
    leased(&store, &channel, id).await;
    store.clock.advance_ms(5_000);
    // The provider still knows our id: it is sent again.
    store.write(recover(id, 6_000)).await.unwrap();
    assert_eq!(now(&store, id).await.state, DeliveryState::Pending);
    assert_eq!(leased(&store, &channel, id).await, 2);
    // By the first hand-out, not by the newest.
    store.clock.advance_ms(1_000);
    store.write(recover(id, 6_000)).await.unwrap();
    let dead = now(&store, id).await;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(reason::OUTCOME_UNKNOWN)));
    let two = sent(&store, &ann, eve.id, "two").await.id;
    store.write(recover(two, 0)).await.unwrap();
    assert_eq!(now(&store, two).await.state, DeliveryState::Pending, "it was not leased");
    leased(&store, &channel, two).await;
    store.write(recover(two, 0)).await.unwrap();
    assert_eq!(now(&store, two).await.reason.as_deref(), Some(reason::OUTCOME_UNKNOWN));
}

async fn what_may_have_arrived_is_not_forgotten(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let id = sent(&store, &ann, eve.id, "hello").await.id;
    let may_have = async || {
        let read = channel.clone();
        store.read(move |db| channels::letter(db, &read, id)).await.unwrap().unwrap().may_have_arrived
    };
    let give_back = async |why: &str| {
        let attempt = leased(&store, &channel, id).await;
        let back = RetrySend { channel_id: channel.id, id, attempt, wait_ms: 0, why: why.into() };
        store.write(back).await.unwrap().unwrap()
    };
    give_back("HTTP 503").await;
    assert!(!may_have().await, "it was refused");
    give_back(&format!("{}: no answer", reason::OUTCOME_UNKNOWN)).await;
    assert!(may_have().await);
    let mut last = give_back("HTTP 503").await;
    assert!(may_have().await, "whatever came of a later attempt");
    while last.state.is_open() {
        last = give_back("HTTP 503").await;
    }
    assert_eq!((last.attempt, last.reason.as_deref()), (channels::ATTEMPTS_MAX, Some(reason::OUTCOME_UNKNOWN)));
    // An operator wants it sent, whatever has arrived.
    store.write(Redrive { id }).await.unwrap();
    assert!(!may_have().await);
    leased(&store, &channel, id).await;
    let recover = RecoverSends { channel_id: channel.id, ids: vec![id], repeat_ms: 1_000 };
    store.write(recover).await.unwrap();
    assert_eq!((now(&store, id).await.state, may_have().await), (DeliveryState::Pending, true));
}

async fn what_may_have_arrived_is_not_said_to_be_late(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let late = || SendToMember {
        options: DeliveryOptions { expires_at: Some(store.clock.now_ms() + 1_000), ..DeliveryOptions::default() },
        ..message(&ann, eve.id, "hello")
    };
    let silent = format!("{}: no answer", reason::OUTCOME_UNKNOWN);
    let unknown = Some(reason::OUTCOME_UNKNOWN);
    for (why, state, of) in [("HTTP 503", DeliveryState::Expired, None), (&silent, DeliveryState::Dead, unknown)] {
        let id = store.write(late()).await.unwrap().delivery.unwrap().id;
        let attempt = leased(&store, &channel, id).await;
        let back = RetrySend { channel_id: channel.id, id, attempt, wait_ms: 5_000, why: why.into() };
        store.write(back).await.unwrap();
        store.clock.advance_ms(1_000);
        store.write(FireDue { ids: vec![id] }).await.unwrap();
        let ended = now(&store, id).await;
        assert_eq!((ended.state, ended.reason.as_deref()), (state, of), "{why}");
    }
}

async fn what_cannot_be_read_holds_nobody_up(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let mia = member(&store, "Mia").await;
    let damaged = sent(&store, &ann, mia.id, "hello").await.id;
    let sound = sent(&store, &ann, eve.id, "hello").await.id;
    for id in [damaged, sound] {
        leased(&store, &channel, id).await;
    }
    let damage = format!("UPDATE parties SET kind = 99 WHERE reference = '{}'", mia.id);
    sql::run(&mut store.database.connect(), &damage);
    // Another process, which remembers nothing.
    let store = TestStore::with(store.database.clone(), roomy());
    let recover = RecoverSends { channel_id: channel.id, ids: vec![damaged, sound], repeat_ms: 0 };
    store.write(recover).await.unwrap();
    assert_eq!(now(&store, sound).await.reason.as_deref(), Some(reason::OUTCOME_UNKNOWN));
    assert_eq!(now(&store, damaged).await.state, DeliveryState::Leased);
    store.write(RemoveChannel { id: channel.id, actor: Actor::system() }).await.unwrap();
    let removed = channel.id;
    assert_eq!(store.read(move |db| channels::get(db, removed)).await.unwrap(), None);
    assert_eq!(now(&store, damaged).await.state, DeliveryState::Leased);
}

async fn a_message_that_cannot_be_read_can_be_ended(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let id = sent(&store, &ann, eve.id, "hello").await.id;
    let unreadable = async |store: &TestStore| {
        let read = channel.clone();
        let refused = store.read(move |db| channels::letter(db, &read, id)).await.map(drop).unwrap_err();
        refused.is_unreadable()
    };
    let whose = format!("UPDATE parties SET reference = 'x' WHERE reference = '{}'", eve.id);
    let back = format!("UPDATE parties SET reference = '{}' WHERE reference = 'x'", eve.id);
    sql::run(&mut store.database.connect(), &whose);
    assert!(unreadable(&store).await, "nobody knows to whom");
    sql::run(&mut store.database.connect(), &back);
    sql::run(&mut store.database.connect(), "UPDATE messages SET blocks = 'not blocks'");
    // Another process, which remembers nothing.
    let store = TestStore::with(store.database.clone(), roomy());
    assert!(unreadable(&store).await);
    store.write(end(&channel, id, 0, &[], SendEnd::Dead("lost".into()))).await.unwrap();
    let dead = now(&store, id).await;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some("lost")));
}

async fn what_is_on_its_way_when_its_channel_goes_is_of_unknown_outcome(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let (out, waits) = (sent(&store, &ann, eve.id, "one").await.id, sent(&store, &ann, eve.id, "two").await.id);
    let attempt = leased(&store, &channel, out).await;
    store.write(RemoveChannel { id: channel.id, actor: Actor::system() }).await.unwrap();
    for (id, why) in [(out, reason::OUTCOME_UNKNOWN), (waits, reason::CHANNEL_REMOVED)] {
        let dead = now(&store, id).await;
        assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(why)));
    }
    // Nobody was told that it was not sent, so its end may come.
    store.write(end(&channel, out, attempt, &[("7", "41")], SendEnd::Sent)).await.unwrap();
    let message_id = now(&store, out).await.message_id;
    let refs = store.read(move |db| channel_refs::of_message(db, message_id)).await.unwrap();
    assert_eq!(refs.len(), 1, "the person may answer it");
}

async fn a_removed_channel_ends_what_waits_for_it(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let id = sent(&store, &ann, eve.id, "hello").await.id;
    store.write(RemoveChannel { id: channel.id, actor: Actor::system() }).await.unwrap();
    let dead = now(&store, id).await;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(reason::CHANNEL_REMOVED)));
    assert_eq!(
        store.write(Redrive { id }).await.unwrap_err().code(),
        ErrorCode::DeliveryEnded,
        "nobody would bring it"
    );
    let dead_ones = |redrivable| Filter { state: Some(DeliveryState::Dead), redrivable, ..Filter::default() };
    for (redrivable, count) in [(false, 1), (true, 0)] {
        let filter = dead_ones(redrivable);
        assert_eq!(store.read(move |db| deliveries::count(db, &filter)).await.unwrap(), count);
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM channels WHERE secret IS NOT NULL").await, 0);
    let removed = channel.id;
    assert_eq!(store.read(move |db| channels::get(db, removed)).await.unwrap(), None);
    assert_eq!(store.read(move |db| channels::kind_of(db, removed)).await.unwrap(), Some(ChannelKind::Telegram));
    assert!(matches!(store.write(heard(channel.id, "1", "hello")).await.unwrap(), HeardAs::Closed));
}

async fn a_line_is_heard_once(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    assert!(matches!(store.write(heard(channel.id, "1", "let me in")).await.unwrap(), HeardAs::Unknown));
    let id = channel.id;
    let senders = store.read(move |db| channels::senders(db, id, None, 10)).await.unwrap();
    let refs: Vec<&str> = senders.iter().map(|sender| sender.sender_ref.as_str()).collect();
    assert_eq!(refs, ["7"]);
    assert_eq!((senders[0].name.as_deref(), senders[0].member_id), (Some("Eve S."), None));
    allow(&store, channel.id, "7", &eve).await;
    assert!(matches!(store.write(heard(channel.id, "2", "hello")).await.unwrap(), HeardAs::ForNobody));
    let changes = Changes { agent_id: Some(Some(ann.id)), ..Changes::default() };
    let own = ChangeChannel { id: channel.id, changes, actor: Actor::system(), vault: store.vault.clone() };
    store.write(own).await.unwrap();
    // Two calls at once, of which one comes again.
    let lines = [heard(channel.id, "3", "hello"), heard(channel.id, "3", "hello")].map(|line| store.write(line));
    let [one, two] = futures_util::future::join_all(lines).await.try_into().map_err(|_| ()).unwrap();
    let (HeardAs::Line(line), HeardAs::Repeated) = (one.unwrap(), two.unwrap()) else { panic!("each once") };
    assert_eq!((line.text.as_str(), line.sender_id, line.said_at), ("hello", eve.party_id, 5));
    assert_eq!(line.kind, Some(MessageKind::Request));
    let open = store.read(move |db| deliveries::open_of_recipient(db, ann.party_id, 0, 10)).await.unwrap();
    assert_eq!((open.len(), open[0].delivery.message_id), (1, line.id));
    store.write(RemoveMember { id: eve.id, actor: Actor::system() }).await.unwrap();
    assert!(matches!(store.write(heard(channel.id, "4", "hello")).await.unwrap(), HeardAs::Unknown));
}

async fn an_answer_goes_back_to_where_the_question_came_from(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let asked = sent(&store, &ann, eve.id, "How far?").await;
    let attempt = leased(&store, &channel, asked.id).await;
    store.write(end(&channel, asked.id, attempt, &[("-100", "41")], SendEnd::Sent)).await.unwrap();
    store.write(heard(channel.id, "1", "let me in")).await.unwrap();
    allow(&store, channel.id, "7", &eve).await;
    let line = Hear { chat: "-100".into(), reply_to: Some("41".into()), ..heard(channel.id, "42", "Ten miles") };
    let HeardAs::Line(line) = store.write(line).await.unwrap() else { panic!("it is for Ann") };
    assert_eq!((line.conversation_id, line.in_reply_to), (asked.conversation_id, Some(asked.message_id)));
    let (reporter, message_id) = (ann.clone(), line.id);
    let report = Report { reporter, message_id, attempt: None, result: "Thanks".into(), limits: LIMITS };
    let reply = store.write(report).await.unwrap().reply.unwrap();
    let back = store.read(move |db| deliveries::of_message(db, reply.id)).await.unwrap();
    assert_eq!((back.len(), back[0].delivery.channel_id), (1, Some(channel.id)));
    let (id, read) = (back[0].delivery.id, channel.clone());
    let letter = store.read(move |db| channels::letter(db, &read, id)).await.unwrap().unwrap();
    assert_eq!((letter.to, letter.reply_to.as_deref()), (vec![Address::Telegram("-100".into())], Some("42")));
}

async fn nobody_hears_what_others_talk_about(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let asked = sent(&store, &ann, eve.id, "How far?").await;
    let attempt = leased(&store, &channel, asked.id).await;
    store.write(end(&channel, asked.id, attempt, &[("-100", "41")], SendEnd::Sent)).await.unwrap();
    let mia = member(&store, "Mia").await;
    let of_mia = |id: &str| Hear {
        chat: "-100".into(),
        sender_ref: "8".into(),
        sender_alias: None,
        reply_to: Some("41".into()),
        ..heard(channel.id, id, "me, too")
    };
    assert!(matches!(store.write(of_mia("50")).await.unwrap(), HeardAs::Unknown));
    allow(&store, channel.id, "8", &mia).await;
    // She is in the group, and the talk is not hers.
    let heard: Result<HeardAs, Error> = store.write(of_mia("51")).await;
    assert!(matches!(heard.unwrap(), HeardAs::ForNobody));
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 1);
}
