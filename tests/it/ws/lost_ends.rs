//! A socket whose events were lost while the store was busy.
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
use clawbroker::domain::error::Error;
use clawbroker::domain::event::{Event, Live, LiveStep, Topic};
use clawbroker::domain::turn::TurnState;
use clawbroker::store::turns::EndTurn;
use clawbroker::store::{Store, gateways};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::harness::TestStore;
use crate::harness::test_store::answer;

on_both_databases!(the_end_of_a_run_is_told_when_the_store_can_be_read_again);

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
    tokio::time::timeout(Duration::from_secs(20), wanted).await.unwrap_or_else(|_| panic!("no `{what}` came"))
}

async fn the_end_of_a_run_is_told_when_the_store_can_be_read_again(test: TestStore) {
    let (caller, conversation) = test.chat().await;
    let (_, turn_id) = test.begun(&caller, conversation.id, "a question").await;
    let gateway_id = conversation.gateway_id.clone().unwrap();
    let id = gateway_id.clone();
    let directory = Arc::new(Directory::default());
    directory.set_active(true);
    directory.set_trusted(Some(caller.clone()));
    directory.set_gateway(test.read(move |db| gateways::get(db, &id)).await.unwrap().unwrap());
    let store = Store::new(test.writer().clone(), test.database.opener(), 1, test.epoch().clone()).unwrap();
    let (told, mut frames) = mpsc::unbounded_channel();
    let own = Rc::new(OnceCell::new());
    let session = BrowserSession::new(SessionParts {
        shared: Arc::new(Shared {
            store: store.clone(),
            directory: directory.clone(),
            clock: test.clock.clone(),
            links: Nobody.start().recipient(),
            limits: Limits::default(),
        }),
        hub: Hub::local(&Arc::new(Hubs::new(directory, 16))),
        caller: Arc::new(caller),
        scope: Scope::Gateway(gateway_id.clone()),
        deltas: Deltas::Cumulative,
        transport: Page { frames: told, session: own.clone() }.start().recipient(),
        kill: Box::new(|| {}),
    })
    .start();
    own.set(session.clone()).expect("once");
    session.do_send(FromTransport::Text(r#"{"type":"subscribe","sessionKey":"webchat-1"}"#.into()));
    frame(&mut frames, "subscribed").await;
    let topic = Arc::new(Topic {
        conversation_id: conversation.id,
        gateway_id: Some(gateway_id),
        key: conversation.key.as_str().into(),
    });
    let live = Arc::new(Live {
        turn_id,
        message_id: None,
        delivery_id: None,
        started_at: 0,
        rev: 1,
        text: "so far".into(),
        step: LiveStep::Replace,
    });
    session.do_send(HubMessage::Events(Arc::new(vec![Arc::new(Event::Live { topic, live })])));
    frame(&mut frames, "delta").await;
    // The run ends without a line, and the event of it does not arrive.
    test.write(EndTurn { state: TurnState::Aborted, ..answer(turn_id, "") }).await.unwrap();
    let (before_lines, lines_go_on) = occupy(&store);
    before_lines.await.unwrap();
    session.send(HubMessage::CatchUp).await.unwrap();
    let (before_end, end_goes_on) = occupy(&store);
    drop(lines_go_on);
    before_end.await.unwrap();
    tokio::time::sleep(LONGER_THAN_A_READ_WAITS).await;
    drop(end_goes_on);
    let end = frame(&mut frames, "aborted").await;
    assert_eq!(end["runId"], serde_json::json!(turn_id));
}
