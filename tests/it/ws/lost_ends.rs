//! A socket whose events were lost, or have not come yet, while the store was busy.
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use clawbroker::actors::browser_session::{
    BrowserSession, Deltas, FromTransport, Outgoing, Scope, SessionParts, Shared,
};
use clawbroker::actors::directory::Directory;
use clawbroker::actors::hub::{Hub, HubMessage, Hubs};
use clawbroker::actors::messages::ToLink;
use clawbroker::config::Limits;
use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::error::Error;
use clawbroker::domain::event::{Event, Live, LiveStep, Topic};
use clawbroker::domain::ids::TurnId;
use clawbroker::domain::turn::TurnState;
use clawbroker::store::turns::EndTurn;
use clawbroker::store::{Store, gateways};
use futures_util::future::poll_immediate;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::harness::TestStore;
use crate::harness::test_store::answer;

on_both_databases!(
    the_end_of_a_run_is_told_when_the_store_can_be_read_again,
    a_loss_while_lines_are_read_is_made_good,
    a_run_that_goes_on_is_shown_behind_the_lines,
    a_run_whose_answer_was_read_is_not_shown,
);

/// How long a test waits for what comes by itself.
const PATIENCE: Duration = Duration::from_secs(45);
/// More than a read waits for its turn.
const LONGER_THAN_A_READ_WAITS: Duration = Duration::from_millis(5_500);

/// Takes what the session writes.
struct Page {
    frames: mpsc::UnboundedSender<Value>,
    session: Rc<OnceCell<Addr<BrowserSession>>>,
}

impl Actor for Page {
    type Context = Context<Self>;
}

impl Handler<Outgoing> for Page {
    type Result = ();

    fn handle(&mut self, msg: Outgoing, _ctx: &mut Self::Context) {
        if let Outgoing::Frames(batch) = msg {
            for frame in batch {
                let _ = self.frames.send(serde_json::from_str(&frame).expect("frames are JSON"));
            }
            self.session.get().expect("started").do_send(FromTransport::Written);
        }
    }
}

/// Hears what is said to gateways and does nothing.
struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<ToLink> for Nobody {
    type Result = ();

    fn handle(&mut self, _: ToLink, _ctx: &mut Self::Context) {}
}

/// Has a reader busy until the returned sender speaks or goes; the receiver tells when it began.
fn occupy(store: &Store) -> (oneshot::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (began, begins) = oneshot::channel();
    let (release, held) = std::sync::mpsc::channel();
    let store = store.clone();
    actix::spawn(async move {
        let hold = move |_: &mut _| {
            let _ = began.send(());
            let _ = held.recv();
            Ok::<_, Error>(())
        };
        store.read(hold).await.expect("nothing but waiting");
    });
    (begins, release)
}

async fn frame(frames: &mut mpsc::UnboundedReceiver<Value>, what: &str) -> Value {
    let wanted = async {
        loop {
            let frame = frames.recv().await.expect("the page lives");
            if frame["type"] == what || frame["state"] == what {
                return frame;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("no `{what}` came"))
}

/// A browser's session on a thread of its own test, with a store that reads one thing at a time.
struct Scene {
    test: TestStore,
    store: Store,
    directory: Arc<Directory>,
    conversation: Conversation,
    turn_id: TurnId,
    session: Addr<BrowserSession>,
    frames: mpsc::UnboundedReceiver<Value>,
}

impl Scene {
    /// A question has begun its turn, and nobody watches.
    async fn on(test: TestStore) -> Self {
        let (caller, conversation) = test.chat().await;
        let (_, turn_id) = test.begun(&caller, conversation.id, "a question").await;
        let gateway_id = conversation.gateway_id.clone().unwrap();
        let id = gateway_id.clone();
        let directory = Arc::new(Directory::default());
        directory.set_active(true);
        directory.set_trusted(Some(caller.clone()));
        directory.set_gateway(test.read(move |db| gateways::get(db, &id)).await.unwrap().unwrap());
        let store = Store::new(test.writer().clone(), test.database.opener(), 1, test.epoch().clone()).unwrap();
        let (told, frames) = mpsc::unbounded_channel();
        let own = Rc::new(OnceCell::new());
        let session = BrowserSession::new(SessionParts {
            shared: Arc::new(Shared {
                store: store.clone(),
                directory: directory.clone(),
                clock: test.clock.clone(),
                links: Nobody.start().recipient(),
                limits: Limits::default(),
            }),
            hub: Hub::local(&Arc::new(Hubs::new(directory.clone(), 16))),
            caller: Arc::new(caller),
            scope: Scope::Gateway(gateway_id),
            deltas: Deltas::Cumulative,
            transport: Page { frames: told, session: own.clone() }.start().recipient(),
            kill: Box::new(|| {}),
        })
        .start();
        own.set(session.clone()).expect("once");
        Self { test, store, directory, conversation, turn_id, session, frames }
    }

    fn says(&self, frame: Value) {
        self.session.do_send(FromTransport::Text(frame.to_string().into()));
    }

    async fn hears(&mut self, what: &str) -> Value {
        frame(&mut self.frames, what).await
    }

    /// Returns what came until now.
    async fn heard(&mut self) -> Vec<Value> {
        self.says(json!({ "type": "ping" }));
        let mut heard = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, self.frames.recv()).await.expect("the ping is answered");
            match next.expect("the page lives") {
                frame if frame["type"] == "pong" => return heard,
                frame => heard.push(frame),
            }
        }
    }

    /// The run as it is told to whoever comes.
    fn live(&self) -> Arc<Live> {
        Arc::new(Live {
            turn_id: self.turn_id,
            message_id: None,
            delivery_id: None,
            started_at: 0,
            rev: 1,
            text: "so far".into(),
            step: LiveStep::Replace,
        })
    }
}

/// Waits on this very thread for what another one does, so that no actor here does anything meanwhile.
#[expect(clippy::disallowed_methods, reason = "nobody else on this thread may have a turn")]
async fn without_a_turn_of_others<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(tokio::task::unconstrained(work));
    let began = tokio::time::Instant::now();
    loop {
        if let Some(done) = poll_immediate(&mut work).await {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "another thread does it in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn the_end_of_a_run_is_told_when_the_store_can_be_read_again(test: TestStore) {
    let mut scene = Scene::on(test).await;
    scene.says(json!({ "type": "subscribe", "sessionKey": "webchat-1" }));
    scene.hears("subscribed").await;
    let topic = Arc::new(Topic {
        conversation_id: scene.conversation.id,
        gateway_id: scene.conversation.gateway_id.clone(),
        key: scene.conversation.key.as_str().into(),
    });
    let live = Event::Live { topic, live: scene.live() };
    scene.session.do_send(HubMessage::Events(Arc::new(vec![Arc::new(live)])));
    scene.hears("delta").await;
    // The run ends without a line, and the event of it does not arrive.
    scene.test.write(EndTurn { state: TurnState::Aborted, ..answer(scene.turn_id, "") }).await.unwrap();
    let (before_lines, lines_go_on) = occupy(&scene.store);
    before_lines.await.unwrap();
    scene.session.send(HubMessage::CatchUp).await.unwrap();
    let (before_end, end_goes_on) = occupy(&scene.store);
    drop(lines_go_on);
    before_end.await.unwrap();
    tokio::time::sleep(LONGER_THAN_A_READ_WAITS).await;
    drop(end_goes_on);
    let end = scene.hears("aborted").await;
    assert_eq!(end["runId"], json!(scene.turn_id));
}

/// CNV-1: what was lost behind the snapshot that is being read is read as well.
async fn a_loss_while_lines_are_read_is_made_good(test: TestStore) {
    let mut scene = Scene::on(test).await;
    scene.says(json!({ "type": "subscribe", "sessionKey": "webchat-1" }));
    scene.hears("subscribed").await;
    scene.heard().await;
    scene.session.send(HubMessage::CatchUp).await.unwrap();
    // Its lines are read, without the answer, once the only reader is free again; the session has not heard of them yet.
    without_a_turn_of_others(scene.store.read(|_: &mut _| Ok::<_, Error>(()))).await.unwrap();
    without_a_turn_of_others(scene.test.write(answer(scene.turn_id, "the answer"))).await.unwrap();
    scene.session.do_send(HubMessage::CatchUp);
    let line = scene.hears("message").await;
    assert_eq!(line["message"]["content"][0]["text"], "the answer", "{line}");
}

/// Returns what whoever comes back is told behind its lines, of which there are so many.
async fn told_behind(scene: &mut Scene, lines: usize) -> Vec<Value> {
    scene.directory.set_run(scene.conversation.id, scene.live());
    scene.says(json!({ "type": "resume", "sessionKey": "webchat-1", "after": 0 }));
    scene.hears("resumed").await;
    for _ in 0..lines {
        scene.hears("message").await;
    }
    scene.heard().await
}

async fn a_run_that_goes_on_is_shown_behind_the_lines(test: TestStore) {
    let mut scene = Scene::on(test).await;
    let told = told_behind(&mut scene, 1).await;
    assert_eq!((&told[0]["state"], told.len()), (&json!("snapshot"), 1), "{told:?}");
}

/// The answer is among the lines, and its event is on its way: the text that was told last would come behind it.
async fn a_run_whose_answer_was_read_is_not_shown(test: TestStore) {
    let mut scene = Scene::on(test).await;
    scene.test.write(answer(scene.turn_id, "the answer")).await.unwrap();
    let told = told_behind(&mut scene, 2).await;
    assert!(told.is_empty(), "{told:?}");
}
