//! A link by itself, on a store whose writer the test holds or has refuse: what comes between a link and its end.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use clawbroker::actors::directory::Directory;
use clawbroker::actors::gateway_link::{ConversationGone, DeliveryMoved, GatewayLink, Leave, LinkParts};
use clawbroker::actors::hub::Hubs;
use clawbroker::actors::messages::{LinkRequest, Observe, Stop, ToLink};
use clawbroker::actors::supervisor::ChildStopped;
use clawbroker::config::{GatewayConfig, Limits};
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::event::GatewayChange;
use clawbroker::domain::gateway::{Gateway, LinkState};
use clawbroker::domain::ids::TurnId;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::sample_gateway::Running;
use clawbroker::store::Lane;
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::gateways::{AddGateway, KeepDevice};
use clawbroker::store::lease::STANDBY;
use clawbroker::store::turns::BeginTurn;
use tokio::sync::oneshot;

use crate::harness::TestStore;
use crate::harness::test_store::question;
use crate::ws::sample_gateway;

on_both_databases!(
    a_turn_that_an_earlier_link_began_is_gone_on_with,
    every_question_of_a_long_queue_is_asked,
    a_session_of_an_older_gateway_is_known_by_the_next_link,
    a_session_deleted_while_it_is_read_is_not_joined,
    no_ghost_of_a_run_stays_behind,
    nothing_is_asked_past_the_lease,
    a_first_contact_is_written_when_the_store_can_again,
    a_device_token_is_stored_when_the_store_can_again,
    what_the_store_refused_is_written_before_a_link_ends,
);

/// Hears of the end of a link.
struct Parent;

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<ChildStopped> for Parent {
    type Result = ();

    fn handle(&mut self, _: ChildStopped, _: &mut Self::Context) {}
}

/// A registered gateway, with what its links share.
struct Stage {
    store: TestStore,
    upstream: Running,
    gateway: Gateway,
    directory: Arc<Directory>,
    caller: Caller,
}

impl Stage {
    async fn on(store: TestStore) -> Self {
        Self::below(sample_gateway(|_| {}), store).await
    }

    async fn below(upstream: Running, store: TestStore) -> Self {
        // The gateway's rows have the time of now.
        let behind_ms = SystemClock.now_ms() - store.clock.now_ms();
        store.clock.advance_ms(u32::try_from(behind_ms).expect("weeks at most"));
        let token = Some(Secret::new("sample-token".to_owned()));
        let id = "gw".parse().expect("a gateway id");
        let gateway = AddGateway::by_system(id, "Sample", &upstream.url, token, store.vault.clone());
        let gateway = store.write(gateway).await.expect("a new gateway");
        let keep = KeepDevice {
            id: gateway.id.clone(),
            seed: Some(Secret::new("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned())),
            token: None,
            scopes: Vec::new(),
            vault: store.vault.clone(),
        };
        store.write(keep).await.expect("the gateway is there");
        let directory = Arc::new(Directory::default());
        directory.set_lease_until(i64::MAX, None);
        directory.set_gateway(gateway.clone());
        let caller = store.user("ann", Role::Admin).await;
        Self { store, upstream, gateway, directory, caller }
    }

    fn link(&self) -> Addr<GatewayLink> {
        let parts = LinkParts {
            gateway: self.gateway.clone(),
            store: (*self.store).clone(),
            directory: self.directory.clone(),
            hubs: Arc::new(Hubs::new(self.directory.clone(), 64)),
            clock: Arc::new(SystemClock),
            vault: self.store.vault.clone(),
            config: GatewayConfig::default(),
            limits: Limits::default(),
            parent: Parent.start().recipient(),
        };
        GatewayLink::new(parts).start()
    }

    async fn is(&self, state: LinkState) {
        until("the link's state", || self.directory.gateway(&self.gateway.id).is_some_and(|c| c.status.state == state))
            .await;
    }

    async fn session(&self, key: &str) -> Conversation {
        self.store.session(&self.caller, &self.gateway.id, key).await
    }

    /// Asks what does not end, and waits until the run is to be seen.
    async fn running(&self, link: &Addr<GatewayLink>, key: &str) -> Conversation {
        let conversation = self.session(key).await;
        let asked = self.store.ask(&self.caller, conversation.id, "gate g: first half, second half").await;
        let delivery = Arc::new(asked.delivery.expect("a delivery"));
        link.send(DeliveryMoved { delivery, line: Some(asked.line) }).await.expect("the link lives");
        until("the run", || self.directory.run(conversation.id).is_some_and(|run| !run.text.is_empty())).await;
        conversation
    }

    /// Has the store refuse every write, or no more.
    fn refuse_writes(&self, refuse: bool) {
        self.store.epoch().store(if refuse { STANDBY } else { 0 }, Ordering::SeqCst);
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a number is as wanted; while it moves it may take its time.
async fn until_number(store: &TestStore, sql: &str, number: i64) {
    let (mut last, mut moved) = (None, tokio::time::Instant::now());
    loop {
        let now = store.number(sql).await;
        if now == number {
            return;
        }
        if last != Some(now) {
            (last, moved) = (Some(now), tokio::time::Instant::now());
        }
        assert!(moved.elapsed() < Duration::from_secs(60), "{sql} stays at {now}, and is not {number}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// DLV-2: the beginning of a turn was on its way to the disk when its link was told to stop.
async fn a_turn_that_an_earlier_link_began_is_gone_on_with(store: TestStore) {
    let stage = Stage::on(store).await;
    let (other, conversation) = (stage.session("other").await, stage.session("a").await);
    let asked = stage.store.ask(&stage.caller, conversation.id, "say: here it is").await;
    let delivery_id = asked.delivery.expect("a delivery").id;
    let mut held = stage.store.events.hold();
    let busy = question(&stage.caller, other.id, "say: something else");
    stage.store.write_later(Lane::Interactive, busy).expect("room in the queue");
    held.arrived().await;
    let begin = BeginTurn { turn_id: TurnId::new(), delivery_id };
    stage.store.write_later(Lane::Interactive, begin).expect("room in the queue");
    let link = stage.link();
    until("the link", || stage.upstream.connections() > 0 || stage.store.writer().queued().0 > 1).await;
    drop(held);
    let began = tokio::time::Instant::now();
    while stage.store.delivery(delivery_id).await.delivery.state != DeliveryState::Completed {
        assert!(began.elapsed() < Duration::from_secs(30), "the question was never answered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = stage.store.log(conversation.id).await;
    assert_eq!(log.last().map(|(_, text)| text.as_str()), Some("here it is"));
    link.send(Leave(GatewayChange::Changed)).await.expect("the link lives");
}

/// What waits for a gateway is read in pages of 1,000 sessions and of 1,000 deliveries.
async fn every_question_of_a_long_queue_is_asked(store: TestStore) {
    let stage = Stage::on(store).await;
    let sessions = futures_util::future::join_all((0..1_010).map(async |n| stage.session(&format!("s{n}")).await));
    let sessions = sessions.await;
    // The first sessions wait with the last deliveries, too.
    let asked =
        sessions.iter().chain(&sessions[..20]).map(|session| stage.store.ask(&stage.caller, session.id, "say: ok"));
    futures_util::future::join_all(asked).await;
    let link = stage.link();
    until_number(&stage.store, "SELECT count(*) AS value FROM deliveries WHERE state = 2", 1_030).await;
    assert_eq!(stage.store.number("SELECT count(*) AS value FROM messages WHERE text = 'ok'").await, 1_030);
    link.send(Leave(GatewayChange::Changed)).await.expect("the link lives");
}

/// An older gateway does not tell its names of the sessions; what others do in them is heard all the same.
async fn a_session_of_an_older_gateway_is_known_by_the_next_link(store: TestStore) {
    let stage = Stage::below(sample_gateway(|options| options.protocol = 3), store).await;
    let conversation = stage.session("a").await;
    stage.store.ask(&stage.caller, conversation.id, "say: first").await;
    let link = stage.link();
    until_number(&stage.store, "SELECT count(*) AS value FROM messages WHERE text = 'first'", 1).await;
    link.send(Leave(GatewayChange::Changed)).await.expect("the link lives");
    let link = stage.link();
    stage.upstream.connected(1).await;
    stage.is(LinkState::Connected).await;
    stage.upstream.foreign_send("a", "say: by others").expect("it is taken");
    until_number(&stage.store, "SELECT count(*) AS value FROM messages WHERE text = 'by others'", 1).await;
    // The row of the first has come by with that of the second: it is no other line.
    stage.upstream.foreign_send("a", "say: by others as well").expect("it is taken");
    until_number(&stage.store, "SELECT count(*) AS value FROM message_origins", 6).await;
    assert_eq!(stage.store.number("SELECT count(*) AS value FROM messages").await, 6);
    link.send(Leave(GatewayChange::Changed)).await.expect("the link lives");
}

/// A session that is deleted while it is being read, or tracked, is not joined after all.
async fn a_session_deleted_while_it_is_read_is_not_joined(store: TestStore) {
    let stage = Stage::on(store).await;
    let link = stage.link();
    stage.is(LinkState::Connected).await;
    let conversation = stage.session("a").await;
    // In one turn of the link's arbiter: the read is under way when the deletion is told.
    let (reply, answer) = oneshot::channel();
    let request = LinkRequest::Touch { conversation_id: conversation.id, reply };
    link.do_send(ToLink { gateway_id: stage.gateway.id.clone(), request });
    link.do_send(ConversationGone(conversation.id));
    assert!(answer.await.expect("an answer").is_err());
    let report = link.send(Observe).await.expect("the link lives").state;
    assert_eq!(report["sessions"], 0, "{report}");
    // What comes for the name afterwards is read anew.
    let (reply, answer) = oneshot::channel();
    let request = LinkRequest::Touch { conversation_id: conversation.id, reply };
    link.send(ToLink { gateway_id: stage.gateway.id.clone(), request }).await.expect("the link lives");
    answer.await.expect("an answer").expect("it is there");
}

/// The writer forgets the runs of what was deleted or removed before the links hear of it.
async fn no_ghost_of_a_run_stays_behind(store: TestStore) {
    let stage = Stage::on(store).await;
    let link = stage.link();
    stage.is(LinkState::Connected).await;
    let (deleted, left) = (stage.running(&link, "a").await, stage.running(&link, "b").await);
    stage.store.write(DeleteConversation { id: deleted.id }).await.expect("it is there");
    link.send(ConversationGone(deleted.id)).await.expect("the link lives");
    assert!(stage.directory.run(deleted.id).is_none());
    assert!(stage.directory.run(left.id).is_some());
    link.send(Leave(GatewayChange::Removed)).await.expect("the link lives");
    assert!(stage.directory.run(left.id).is_none());
}

/// D5: what waits for its turn is not sent by a node whose lease has run out.
async fn nothing_is_asked_past_the_lease(store: TestStore) {
    let stage = Stage::on(store).await;
    let link = stage.link();
    stage.is(LinkState::Connected).await;
    stage.directory.set_lease_until(0, None);
    let (reply, answer) = oneshot::channel();
    let request = LinkRequest::Sessions { reply };
    link.send(ToLink { gateway_id: stage.gateway.id.clone(), request }).await.expect("the link lives");
    assert!(answer.await.expect("an answer").is_err());
    stage.upstream.connected(0).await;
}

async fn a_first_contact_is_written_when_the_store_can_again(store: TestStore) {
    let stage = Stage::on(store).await;
    let link = stage.link();
    stage.is(LinkState::Connected).await;
    let conversation = stage.session("a").await;
    stage.refuse_writes(true);
    let (reply, answer) = oneshot::channel();
    let request = LinkRequest::Touch { conversation_id: conversation.id, reply };
    link.send(ToLink { gateway_id: stage.gateway.id.clone(), request }).await.expect("the link lives");
    // Behind the answer to `chat.history`, the only request of a session's, the contact has been submitted.
    let began = tokio::time::Instant::now();
    loop {
        let report = link.send(Observe).await.expect("the link lives").state;
        if report["requests_sent_total"] == 5 && report["requests_in_flight"] == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the log was not asked for: {report}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.refuse_writes(false);
    answer.await.expect("an answer").expect("the log is known");
    until_number(&stage.store, "SELECT count(*) AS value FROM conversations WHERE canonical_key = 'agent:main:a'", 1)
        .await;
}

/// A gateway gives tokens to approved devices, with each hello.
async fn a_device_token_is_stored_when_the_store_can_again(store: TestStore) {
    let stage = Stage::below(sample_gateway(|options| options.pairing = true), store).await;
    let link = stage.link();
    stage.is(LinkState::PairingRequired).await;
    stage.refuse_writes(true);
    assert!(stage.upstream.approve(&stage.upstream.pending_pairings()[0]));
    let request = LinkRequest::Reconnect;
    link.send(ToLink { gateway_id: stage.gateway.id.clone(), request }).await.expect("the link lives");
    stage.is(LinkState::Connected).await;
    let stored = "SELECT count(*) AS value FROM gateways WHERE device_token IS NOT NULL";
    assert_eq!(stage.store.number(stored).await, 0);
    stage.refuse_writes(false);
    stage.upstream.restart("boot-2").await.expect("the port is free again");
    until_number(&stage.store, stored, 1).await;
}

/// LIM-1: an abort that was taken, while the store refuses, of a run that leaves no row in the log.
async fn what_the_store_refused_is_written_before_a_link_ends(store: TestStore) {
    let stage = Stage::on(store).await;
    let link = stage.link();
    stage.is(LinkState::Connected).await;
    let conversation = stage.running(&link, "a").await;
    let asked = stage.store.ask(&stage.caller, conversation.id, "say: too late").await;
    let delivery = Arc::new(asked.delivery.expect("a delivery"));
    link.send(DeliveryMoved { delivery, line: Some(asked.line) }).await.expect("the link lives");
    stage.refuse_writes(true);
    let (reply, answer) = oneshot::channel();
    let request = LinkRequest::Abort { conversation_id: conversation.id, turn_id: None, queued: true, reply };
    link.send(ToLink { gateway_id: stage.gateway.id.clone(), request }).await.expect("the link lives");
    answer.await.expect("an answer").expect("it is taken");
    // Both the end of the run and that of the question which waits have been tried, and more than once.
    let tried = || stage.store.writer().stats().commands_total.load(Ordering::Relaxed);
    let before = tried();
    until("the link's tries", || tried() > before + 12).await;
    stage.refuse_writes(false);
    link.do_send(Stop);
    until_number(&stage.store, "SELECT count(*) AS value FROM turns WHERE state < 5", 0).await;
    until_number(&stage.store, "SELECT count(*) AS value FROM deliveries WHERE state < 2", 0).await;
}
