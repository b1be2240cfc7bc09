//! Agents and people on channels: who is let in, whom a channel is for, how much they may say, and what damaged rows stop.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::channel::{Channel, ChannelKind};
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{ChannelId, DeliveryId, MessageId};
use clawbroker::domain::member::{Addresses, Member};
use clawbroker::domain::message::{Line, MessageKind};
use clawbroker::domain::secret::Secret;
use clawbroker::store::agents::RemoveAgent;
use clawbroker::store::audit::Actor;
use clawbroker::store::channels::{
    self, AddChannel, ChangeChannel, Changes, ForgetSender, Hear, HeardAs, SendEnd, SendToMember,
};
use clawbroker::store::deliveries;
use clawbroker::store::mailbox::{Fail, LoopGuards};
use clawbroker::store::members::AddMember;

use super::channels::{allow, end, heard, leased, member, message, new_channel, sent, three};
use super::mailbox::{agent, hand_out, mail, report};
use crate::harness::test_store::roomy;
use crate::harness::{TestStore, sql};

on_both_databases!(
    whoever_was_written_to_is_let_in_at_just_that_address,
    what_is_no_address_of_a_person_lets_nobody_in,
    strangers_keep_nobody_out,
    a_permission_is_taken_back,
    a_person_is_slowed_down,
    an_agent_is_slowed_down_towards_a_person,
    a_channel_that_does_not_work_is_not_chosen,
    the_channels_of_a_removed_agent_are_nobodys,
    an_answer_goes_by_another_channel_when_its_own_is_disabled,
    what_was_sent_makes_room,
    damaged_rows_stop_no_answer,
    a_damaged_sender_is_unknown,
    a_channel_that_is_as_it_was_is_not_changed,
);

const GUARDS: LoopGuards = LoopGuards { hops_max: 2, pair_requests_max: 2, pair_window_ms: 600_000 };

/// Has an agent write to a person, whom the provider calls by this chat.
async fn written(store: &TestStore, from: &Arc<AgentFacts>, to: &Member, channel: &Channel, chat: &str) {
    let new = SendToMember { kind: Some(channel.kind), ..message(from, to.id, "How far?") };
    let delivery = store.write(new).await.unwrap().delivery.unwrap();
    let attempt = leased(store, channel, delivery.id).await;
    let known = format!("out-{}", delivery.id);
    store.write(end(channel, delivery.id, attempt, &[(chat, known.as_str())], SendEnd::Sent)).await.unwrap();
}

async fn person(store: &TestStore, name: &str, addresses: Addresses) -> Member {
    let new = AddMember { name: name.into(), user_id: None, addresses, actor: Actor::system(), idem: None };
    store.write(new).await.unwrap()
}

async fn channel_of(store: &TestStore, kind: ChannelKind) -> Channel {
    store.write(new_channel(store, kind)).await.unwrap()
}

async fn change(store: &TestStore, channel: &Channel, changes: Changes) {
    let change = ChangeChannel { id: channel.id, changes, actor: Actor::system(), vault: store.vault.clone() };
    store.write(change).await.unwrap();
}

async fn a_channel_that_is_as_it_was_is_not_changed(store: TestStore) {
    let channel = channel_of(&store, ChannelKind::Telegram).await;
    store.clock.advance_ms(1_000);
    store.events.take();
    let rows = "SELECT count(*) AS value FROM audit WHERE action = 'channel.change'";
    let nothing = Changes {
        name: Some(channel.name.clone()),
        config: Some(channel.config.clone()),
        secrets: BTreeMap::from([("another".to_owned(), None)]),
        enabled: Some(true),
        ..Changes::default()
    };
    for changes in [Changes::default(), nothing] {
        change(&store, &channel, changes).await;
    }
    let id = channel.id;
    assert_eq!(store.read(move |db| channels::get(db, id)).await.unwrap(), Some(channel.clone()));
    assert_eq!((store.events.take().len(), store.number(rows).await), (0, 0));
    // A secret that is given may be another one.
    let secrets = BTreeMap::from([("key".to_owned(), Some(Secret::new("s3cret")))]);
    change(&store, &channel, Changes { secrets, ..Changes::default() }).await;
    assert_eq!((store.events.take().len(), store.number(rows).await), (1, 1));
}

/// Somebody says something on a chat.
fn said(channel: &Channel, id: &str, chat: &str, sender: &str, alias: Option<&str>) -> Hear {
    Hear {
        chat: chat.into(),
        sender_ref: sender.into(),
        sender_alias: alias.map(str::to_owned),
        ..heard(channel.id, id, "Ten miles")
    }
}

async fn taken(store: &TestStore, hear: Hear) -> Arc<Line> {
    match store.write(hear).await.unwrap() {
        HeardAs::Line(line) => line,
        other => panic!("it was not taken in: {other:?}"),
    }
}

async fn senders(store: &TestStore, channel: ChannelId) -> Vec<String> {
    let found = store.read(move |db| channels::senders(db, channel, None, 10)).await.unwrap();
    found.into_iter().map(|sender| sender.sender_ref).collect()
}

async fn whoever_was_written_to_is_let_in_at_just_that_address(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    // She has not been written to, so anybody may say so.
    assert!(matches!(store.write(said(&channel, "1", "7", "7", None)).await.unwrap(), HeardAs::Unknown));
    written(&store, &ann, &eve, &channel, "7").await;
    let line = taken(&store, said(&channel, "2", "7", "7", None)).await;
    assert_eq!((line.sender_id, line.kind), (eve.party_id, Some(MessageKind::Request)));
    assert_eq!(mail(&store, &ann).await[0].message_id, line.id);
    // In a group she is known, and whoever else is there is not.
    written(&store, &ann, &eve, &channel, "-100").await;
    assert!(matches!(store.write(said(&channel, "3", "-100", "8", Some("7"))).await.unwrap(), HeardAs::Unknown));
    assert_eq!(taken(&store, said(&channel, "4", "-100", "7", None)).await.sender_id, eve.party_id);
    // Of other chats and other channels nothing follows.
    assert!(matches!(store.write(said(&channel, "5", "9", "7", None)).await.unwrap(), HeardAs::Unknown));
    let other = channel_of(&store, ChannelKind::Telegram).await;
    assert!(matches!(store.write(said(&other, "6", "7", "7", None)).await.unwrap(), HeardAs::Unknown));

    let addresses =
        Addresses { feishu_user_id: Some("u1".into()), whatsapp: Some("+49 30 123456".into()), ..Addresses::default() };
    let mia = person(&store, "Mia", addresses).await;
    let (feishu, whatsapp) =
        (channel_of(&store, ChannelKind::Feishu).await, channel_of(&store, ChannelKind::WhatsApp).await);
    written(&store, &ann, &mia, &feishu, "oc_1").await;
    written(&store, &ann, &mia, &whatsapp, "4930123456").await;
    for line in [said(&feishu, "1", "oc_1", "ou_1", Some("u1")), said(&whatsapp, "1", "4930123456", "4930123456", None)]
    {
        assert_eq!(taken(&store, line).await.sender_id, mia.party_id);
    }
    // WhatsApp tells the number besides the id that was written to.
    let zoe = person(&store, "Zoe", Addresses { whatsapp: Some("US.1349".into()), ..Addresses::default() }).await;
    written(&store, &ann, &zoe, &whatsapp, "US.1349").await;
    let line = taken(&store, said(&whatsapp, "2", "4917", "4917", Some("US.1349"))).await;
    assert_eq!(line.sender_id, zoe.party_id);
    assert!(matches!(store.write(said(&whatsapp, "3", "4918", "4918", None)).await.unwrap(), HeardAs::Unknown));
    let stranger = said(&feishu, "2", "oc_1", "ou_2", Some("u2"));
    assert!(matches!(store.write(stranger).await.unwrap(), HeardAs::Unknown));
}

async fn what_is_no_address_of_a_person_lets_nobody_in(store: TestStore) {
    let (ann, _, channel) = three(&store).await;
    // A group as the person's address, and a name that may be somebody else's tomorrow.
    for (name, address, sender, alias) in [("Group", "-100", "8", None), ("Name", "mia", "9", Some("mia"))] {
        let addresses = Addresses { telegram_chat_id: Some(address.into()), ..Addresses::default() };
        let to = person(&store, name, addresses).await;
        written(&store, &ann, &to, &channel, address).await;
        let line = said(&channel, name, address, sender, alias);
        assert!(matches!(store.write(line).await.unwrap(), HeardAs::Unknown), "{name}");
    }
    let url = "https://example.org/in";
    let to =
        person(&store, "Hook", Addresses { webhook_url: Some(url.parse().unwrap()), ..Addresses::default() }).await;
    let hook = channel_of(&store, ChannelKind::Webhook).await;
    written(&store, &ann, &to, &hook, "c1").await;
    assert!(matches!(store.write(said(&hook, "1", "c1", url, None)).await.unwrap(), HeardAs::Unknown));
}

async fn strangers_keep_nobody_out(store: TestStore) {
    let (_, eve, channel) = three(&store).await;
    for (n, sender) in ["a", "b", "c", "b", "d"].into_iter().enumerate() {
        store.clock.advance_ms(1_000);
        store.write(said(&channel, &n.to_string(), sender, sender, None)).await.unwrap();
        if sender == "a" {
            allow(&store, channel.id, "a", &eve).await;
        }
    }
    assert_eq!(senders(&store, channel.id).await, ["a", "b", "d"], "who has not written for longest goes");
    let none = Hear { senders_max: 0, ..said(&channel, "9", "e", "e", None) };
    assert!(matches!(store.write(none).await.unwrap(), HeardAs::Unknown));
    assert_eq!(senders(&store, channel.id).await, ["a", "b", "d"]);
}

async fn a_permission_is_taken_back(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    change(&store, &channel, Changes { agent_id: Some(Some(ann.id)), ..Changes::default() }).await;
    store.write(said(&channel, "1", "8", "8", None)).await.unwrap();
    allow(&store, channel.id, "8", &eve).await;
    taken(&store, said(&channel, "2", "8", "8", None)).await;
    let forget = |channel_id| ForgetSender { channel_id, sender_ref: "8".into(), actor: Actor::system() };
    assert!(store.write(forget(channel.id)).await.unwrap());
    assert!(!store.write(forget(channel.id)).await.unwrap(), "there is none any more");
    assert_eq!(store.write(forget(ChannelId::new())).await.unwrap_err().code(), ErrorCode::NotFound);
    assert!(matches!(store.write(said(&channel, "3", "8", "8", None)).await.unwrap(), HeardAs::Unknown));
    let audited = "SELECT count(*) AS value FROM audit WHERE action = 'channel.forget' AND before LIKE '%\"8\"%'";
    assert_eq!(store.number(audited).await, 1);
}

async fn a_person_is_slowed_down(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    written(&store, &ann, &eve, &channel, "7").await;
    let line = |id: &str| Hear { guards: GUARDS, ..said(&channel, id, "7", "7", None) };
    for id in ["1", "2"] {
        assert_eq!(taken(&store, line(id)).await.hops, 0, "a person begins anew");
    }
    assert!(matches!(store.write(line("3")).await.unwrap(), HeardAs::TooMany));
    // What is read again after a restart counts as well; what the agent says does not.
    let again = TestStore::with(store.database.clone(), roomy());
    assert!(matches!(again.write(line("3")).await.unwrap(), HeardAs::TooMany));
    again.clock.advance_ms(600_000);
    taken(&again, line("3")).await;
}

async fn an_agent_is_slowed_down_towards_a_person(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let guarded = |in_reply_to: Option<MessageId>| SendToMember {
        guards: GUARDS,
        queue_max: 10,
        in_reply_to,
        ..message(&ann, eve.id, "hello")
    };
    let first = store.write(guarded(None)).await.unwrap().message_id;
    let second = store.write(guarded(Some(first))).await.unwrap().message_id;
    let hops = "SELECT coalesce(sum(hops), 0) AS value FROM messages";
    assert_eq!(store.number(hops).await, 1 + 2);
    assert_eq!(store.write(guarded(Some(second))).await.unwrap_err().code(), ErrorCode::HopLimit);
    let refused = store.write(guarded(None)).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_s()), (ErrorCode::PairRateLimited, Some(600)));
    let stats = store.writer().stats();
    let counted =
        (stats.hop_limit_total.load(Ordering::Relaxed), stats.pair_rate_limited_total.load(Ordering::Relaxed));
    assert_eq!(counted, (1, 1));
    // To others it may write, and its lines are not the person's.
    let mia = member(&store, "Mia").await;
    store.write(SendToMember { to: mia.id, ..guarded(None) }).await.unwrap();
    let line = Hear { guards: GUARDS, ..said(&channel, "1", "7", "7", None) };
    store.write(line).await.unwrap();
    allow(&store, channel.id, "7", &eve).await;
    change(&store, &channel, Changes { agent_id: Some(Some(ann.id)), ..Changes::default() }).await;
    taken(&store, Hear { guards: GUARDS, ..said(&channel, "2", "7", "7", None) }).await;
    let again = TestStore::with(store.database.clone(), roomy());
    assert_eq!(again.write(guarded(None)).await.unwrap_err().code(), ErrorCode::PairRateLimited);
    again.clock.advance_ms(600_000);
    again.write(guarded(None)).await.unwrap();
}

async fn a_channel_that_does_not_work_is_not_chosen(store: TestStore) {
    let (ann, eve, first) = three(&store).await;
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    let of = |agent: &AgentFacts| AddChannel { agent_id: Some(agent.id), ..new_channel(&store, ChannelKind::Telegram) };
    let (bens, anns) = (store.write(of(&ben)).await.unwrap(), store.write(of(&ann)).await.unwrap());
    let mails = channel_of(&store, ChannelKind::Email).await;
    let all = [bens.id, first.id, anns.id, mails.id];
    // Its own, then nobody's, then another agent's, then another kind.
    for (working, expected) in
        [(&all[..], anns.id), (&all[..2], first.id), (&[mails.id, bens.id][..], bens.id), (&all[3..], mails.id)]
    {
        let new = SendToMember { working: Some(working.to_vec()), queue_max: 10, ..message(&ann, eve.id, "hello") };
        assert_eq!(store.write(new).await.unwrap().delivery.unwrap().channel_id, Some(expected));
    }
    let nowhere = SendToMember { working: Some(vec![]), ..message(&ann, eve.id, "hello") };
    assert_eq!(store.write(nowhere).await.unwrap_err().code(), ErrorCode::InvalidRequest);
}

async fn the_channels_of_a_removed_agent_are_nobodys(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let bens = channel_of(&store, ChannelKind::Telegram).await;
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    change(&store, &channel, Changes { agent_id: Some(Some(ann.id)), ..Changes::default() }).await;
    change(&store, &bens, Changes { agent_id: Some(Some(ben.id)), ..Changes::default() }).await;
    store.events.take();
    store.write(RemoveAgent { id: ann.id, actor: Actor::system() }).await.unwrap();
    let owner = async |id: ChannelId| {
        let found = store.read(move |db| channels::get(db, id)).await.unwrap();
        found.expect("it is there").agent_id
    };
    assert_eq!((owner(channel.id).await, owner(bens.id).await), (None, Some(ben.id)));
    let told = store.events.take();
    let changed = told.iter().filter_map(|event| match event {
        Event::ChannelChanged { channel_id } => Some(*channel_id),
        _ => None,
    });
    assert_eq!(changed.collect::<Vec<_>>(), [channel.id]);
    let late = store.write(message(&ann, eve.id, "hello")).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::Unauthenticated);
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 0);
}

/// Has a person ask on a channel; returns the question.
async fn asked(store: &TestStore, ann: &Arc<AgentFacts>, eve: &Member, channel: &Channel, id: &str) -> MessageId {
    written(store, ann, eve, channel, "7").await;
    taken(store, said(channel, id, "7", "7", None)).await.id
}

async fn by_which(store: &TestStore, line: MessageId) -> Vec<Option<ChannelId>> {
    let found = store.read(move |db| deliveries::of_message(db, line)).await.unwrap();
    found.into_iter().map(|stored| stored.delivery.channel_id).collect()
}

async fn an_answer_goes_by_another_channel_when_its_own_is_disabled(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let questions = [
        asked(&store, &ann, &eve, &channel, "1").await,
        asked(&store, &ann, &eve, &channel, "2").await,
        asked(&store, &ann, &eve, &channel, "3").await,
    ];
    let answered = async |question: MessageId| {
        let reply = store.write(report(&ann, question, None, "Thanks")).await.unwrap().reply.unwrap();
        by_which(&store, reply.id).await
    };
    assert_eq!(answered(questions[0]).await, [Some(channel.id)]);
    change(&store, &channel, Changes { enabled: Some(false), ..Changes::default() }).await;
    assert_eq!(answered(questions[1]).await, [Some(channel.id)], "there is no other: it waits");
    let mails = channel_of(&store, ChannelKind::Email).await;
    assert_eq!(answered(questions[2]).await, [Some(mails.id)]);
}

async fn what_was_sent_makes_room(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    let first = sent(&store, &ann, eve.id, "one").await.id;
    sent(&store, &ann, eve.id, "two").await;
    let full = async || store.write(message(&ann, eve.id, "three")).await.map_err(|error| error.code());
    assert_eq!(full().await.unwrap_err(), ErrorCode::MailboxFull);
    let attempt = leased(&store, &channel, first).await;
    assert_eq!(full().await.unwrap_err(), ErrorCode::MailboxFull, "it is on its way");
    store.write(end(&channel, first, attempt, &[], SendEnd::Sent)).await.unwrap();
    assert!(full().await.is_ok());
    assert_eq!(full().await.unwrap_err(), ErrorCode::MailboxFull);
}

async fn damaged_rows_stop_no_answer(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    channel_of(&store, ChannelKind::Email).await;
    let questions = [
        asked(&store, &ann, &eve, &channel, "1").await,
        asked(&store, &ann, &eve, &channel, "2").await,
        asked(&store, &ann, &eve, &channel, "3").await,
    ];
    let damage = |statement: &str| sql::run(&mut store.database.connect(), statement);
    // One channel is not all of them.
    damage("UPDATE channels SET kind = 99 WHERE kind = 4");
    let listed = store.read(channels::list).await.unwrap();
    assert_eq!(listed.iter().map(|channel| channel.id).collect::<Vec<_>>(), [channel.id]);
    let before = sent(&store, &ann, eve.id, "hello").await;
    assert_eq!(before.channel_id, Some(channel.id));
    // Nobody knows by what the question came.
    damage("UPDATE channels SET kind = 99");
    let reply = store.write(report(&ann, questions[0], None, "Thanks")).await.unwrap().reply.unwrap();
    assert!(by_which(&store, reply.id).await.is_empty());
    damage("UPDATE channels SET kind = 2");
    // Nor who is to be told.
    damage("UPDATE members SET addresses = 'nonsense'");
    let reply = store.write(report(&ann, questions[1], None, "Thanks")).await.unwrap().reply.unwrap();
    assert!(by_which(&store, reply.id).await.is_empty());
    let open = mail(&store, &ann).await;
    let id: DeliveryId = open.iter().find(|one| one.message_id == questions[2]).expect("it waits").id;
    assert_eq!(hand_out(&store, &ann, &[id]).await.len(), 1);
    let fail = Fail { recipient: ann.party_id, message_id: questions[2], attempt: None, reason: "never".into() };
    store.write(fail).await.unwrap();
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Dead);
    let notices = format!("SELECT count(*) AS value FROM messages WHERE kind = {}", MessageKind::Notice as i32);
    assert_eq!(store.number(&notices).await, 1);
}

async fn a_damaged_sender_is_unknown(store: TestStore) {
    let (ann, eve, channel) = three(&store).await;
    change(&store, &channel, Changes { agent_id: Some(Some(ann.id)), ..Changes::default() }).await;
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    written(&store, &ann, &eve, &channel, "7").await;
    written(&store, &ben, &eve, &channel, "9").await;
    store.write(said(&channel, "1", "8", "8", None)).await.unwrap();
    allow(&store, channel.id, "8", &eve).await;
    sql::run(&mut store.database.connect(), "UPDATE members SET addresses = 'nonsense'");
    for (id, sender) in [("2", "7"), ("3", "8")] {
        let line = said(&channel, id, sender, sender, None);
        assert!(matches!(store.write(line).await.unwrap(), HeardAs::Unknown), "{sender}");
    }
    // An old conversation that cannot be read is not the one: the line is for the channel's agent.
    sql::run(&mut store.database.connect(), "UPDATE members SET addresses = '{}'");
    sql::run(&mut store.database.connect(), "UPDATE conversations SET kind = 99 WHERE title LIKE 'Ben%'");
    let line = taken(&store, said(&channel, "4", "9", "8", None)).await;
    assert_eq!(line.sender_id, eve.party_id);
    assert_eq!(mail(&store, &ann).await[0].message_id, line.id);
}
