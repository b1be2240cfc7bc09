//! A socket ends with the right it was opened with, also when the event that tells so went by (SEC-2).
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use clawbroker::actors::browser_session::{BrowserSession, Deltas, Outgoing, Scope, SessionParts};
use clawbroker::actors::hub::Hub;
use clawbroker::domain::event::{Event, Publish};
use clawbroker::domain::ids::UserId;
use clawbroker::domain::user::{Caller, Role};
use tokio::sync::mpsc;

use crate::routes::TestNode;

on_both_databases!(
    a_token_that_ended_while_its_socket_was_opened,
    a_role_that_changed_while_its_socket_was_opened,
    a_token_that_ended_while_the_hub_was_full,
    a_gateway_that_went_while_the_hub_was_full,
);

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A transport that notes how it was told to close.
struct Transport(mpsc::UnboundedSender<u16>);

impl Actor for Transport {
    type Context = Context<Self>;
}

impl Handler<Outgoing> for Transport {
    type Result = ();

    fn handle(&mut self, message: Outgoing, _: &mut Context<Self>) {
        if let Outgoing::Close { code, .. } = message {
            // The test may have ended.
            let _ = self.0.send(code);
        }
    }
}

/// A socket's session, and the codes it is closed with.
struct Socket {
    closed: mpsc::UnboundedReceiver<u16>,
    caller: Arc<Caller>,
}

impl Socket {
    /// Opens a socket of `ann` on the gateway `lab`; `meanwhile` happens between her credential and the socket.
    async fn open(node: &TestNode, meanwhile: impl FnOnce(&Caller)) -> Self {
        node.gateway("lab").await;
        let token = node.token("ann", Role::Member).await;
        let digest = clawbroker::actors::bootstrap::digest(&token);
        let caller = node.state.directory.caller(&digest, 0).expect("her token counts");
        meanwhile(&caller);
        let (told, closed) = mpsc::unbounded_channel();
        let session = BrowserSession::new(SessionParts {
            shared: node.state.sessions.clone(),
            hub: Hub::local(&node.state.hubs),
            caller: caller.clone(),
            scope: Scope::Gateway("lab".parse().expect("an id")),
            deltas: Deltas::Cumulative,
            transport: Transport(told).start().recipient(),
            kill: Box::new(|| {}),
        });
        node.state.directory.enter_socket(caller.user_id, 10, 10);
        session.start();
        Self { closed, caller }
    }

    /// Checks that it is open when its session has handled all that was published so far.
    async fn is_open(&mut self, node: &TestNode) {
        let told = async {
            loop {
                assert!(self.closed.try_recv().is_err(), "closed");
                // A hub whose queue is full is not asked, and a session that has not begun is not in it. What is asked
                // waits behind the events, and behind the call to catch up.
                let reports = node.state.hubs.observe(PATIENCE).await;
                if let Some(report) = reports.into_iter().find(|report| report.actor == "browser_session") {
                    break report;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let report = tokio::time::timeout(PATIENCE, told).await.expect("its session tells of itself");
        assert_eq!(report.state["closing"], false, "{}", report.state);
    }

    async fn closes(&mut self) -> Option<u16> {
        tokio::time::timeout(PATIENCE, self.closed.recv()).await.expect("it closes")
    }
}

/// Fills the queue of this thread's hub with what concerns nobody, so that what comes next finds no room.
fn fill_the_hub(node: &TestNode) {
    let before = node.state.hubs.lagged_total();
    while node.state.hubs.lagged_total() == before {
        node.state.hubs.publish(vec![Event::UserChanged { user_id: UserId::new(), now: None }]);
    }
}

async fn a_token_that_ended_while_its_socket_was_opened(node: TestNode) {
    let end = |caller: &Caller| {
        let token_id = caller.token_id.expect("a token");
        node.state.hubs.publish(vec![Event::TokenEnded { token_id }]);
    };
    assert_eq!(Socket::open(&node, end).await.closes().await, Some(1008));
}

async fn a_role_that_changed_while_its_socket_was_opened(node: TestNode) {
    let change = |caller: &Caller| {
        let now = Some((caller.name.clone(), Role::Viewer));
        node.state.hubs.publish(vec![Event::UserChanged { user_id: caller.user_id, now }]);
    };
    assert_eq!(Socket::open(&node, change).await.closes().await, Some(1008));
}

async fn a_token_that_ended_while_the_hub_was_full(node: TestNode) {
    let mut socket = Socket::open(&node, |_| {}).await;
    socket.is_open(&node).await;
    fill_the_hub(&node);
    socket.is_open(&node).await;
    fill_the_hub(&node);
    let lagged = node.state.hubs.lagged_total();
    node.state.hubs.publish(vec![Event::TokenEnded { token_id: socket.caller.token_id.expect("a token") }]);
    assert!(node.state.hubs.lagged_total() > lagged, "the event found room");
    assert_eq!(socket.closes().await, Some(1008));
}

async fn a_gateway_that_went_while_the_hub_was_full(node: TestNode) {
    let mut socket = Socket::open(&node, |_| {}).await;
    socket.is_open(&node).await;
    fill_the_hub(&node);
    node.state.directory.remove_gateway(&"lab".parse().expect("an id"));
    assert_eq!(socket.closes().await, Some(4404));
}
