//! Rows that reach the disk with full durability: one writer at a time, and 64 at once, through the store's own queue.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use clawbroker::domain::clock::SystemClock;
use clawbroker::domain::event::{Event, Publish};
use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::message::MessageRole;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::audit::Actor;
use clawbroker::store::chat::AcceptChat;
use clawbroker::store::conversations::{NewSession, OpenSession, SessionName};
use clawbroker::store::gateways::AddGateway;
use clawbroker::store::users::{self, AddUser};
use clawbroker::store::vault::Vault;
use clawbroker::store::{
    Location, Opener, Pooling, Settings, Store, WriterOptions, WriterParts, migrate_all, spawn_writer,
};
use tokio::time::Instant;

use super::figures::{say, syncs_per_s};

const WRITERS: usize = 64;
const FOR: Duration = Duration::from_secs(5);

pub(crate) async fn run() {
    let dir = super::data_dir();
    say(&format!(
        "  the disk: {:.0} appends of 4 KiB with fdatasync a second, one after the other",
        syncs_per_s(dir.path())
    ));
    measure("SQLite", Location::Sqlite(dir.path().join("load.db")), dir.path()).await;
    match std::env::var("CLAWBROKER_LOAD_POSTGRES") {
        Ok(url) => measure("PostgreSQL", Location::Postgres(Secret::new(url)), dir.path()).await,
        Err(_) => say("  PostgreSQL: left out, CLAWBROKER_LOAD_POSTGRES names no empty database"),
    }
}

async fn measure(what: &str, location: Location, dir: &Path) {
    let (store, caller, session) = open(location, dir).await;
    let alone = rate(&store, &caller, session, 1).await;
    let together = rate(&store, &caller, session, WRITERS).await;
    say(&format!(
        "  {what}: 1 writer {alone:.0} messages/s; {WRITERS} writers {together:.0} messages/s, {:.1} times as many",
        together / alone,
    ));
}

/// Opens a store with full durability, and in it a session to write in.
pub(crate) async fn open(location: Location, dir: &Path) -> (Store, Caller, ConversationId) {
    let settings = Settings { full_durability: true, busy_timeout_ms: 5_000, pooling: Pooling::Session };
    let opener = Opener { location, settings };
    migrate_all(&mut opener.writable().expect("a database")).expect("an empty one");
    let epoch = Arc::new(AtomicI64::new(0));
    let parts = WriterParts {
        opener: opener.clone(),
        options: WriterOptions { queue_max: 4_096, batch_max: 256, bulk_queue_max: 4_096, bulk_batch_max: 64 },
        clock: Arc::new(SystemClock),
        publish: Arc::new(Nobody),
        epoch: epoch.clone(),
    };
    let (writer, _thread) = spawn_writer(parts).expect("the writer starts");
    let store = Store::new(writer, opener, 2, epoch).expect("the readers start");
    let vault = Vault::open(dir, Some(&Secret::new("07".repeat(32)))).expect("a key in hex");
    let user = AddUser {
        name: "load".into(),
        display_name: "Load".into(),
        role: Role::Admin,
        password_hash: None,
        actor: Actor::system(),
        idem: None,
        ensure: false,
    };
    let caller = users::caller_of(&store.write(user).await.expect("a new user"), None);
    let id = "default".parse().expect("a name");
    let gateway = AddGateway::by_system(id, "Load", "ws://127.0.0.1:1", None, vault);
    let gateway_id = store.write(gateway).await.expect("a new gateway").id;
    let key = super::gateway::SESSION.parse().expect("a key");
    let open = OpenSession {
        name: SessionName::new(gateway_id, &key, None),
        caller: caller.clone(),
        new: NewSession::default(),
        must_be_new: false,
    };
    let session = store.write(open).await.expect("a session").id;
    (store, caller, session)
}

/// Nobody hears of what is committed.
struct Nobody;

impl Publish for Nobody {
    fn publish(&self, _: Vec<Event>) {}
}

/// A line for nobody to answer: a row of `messages`, and the new end of its conversation.
pub(crate) fn line(caller: &Caller, session: ConversationId, text: String) -> AcceptChat {
    AcceptChat {
        conversation_id: session,
        caller: caller.clone(),
        from: None,
        text,
        client_key: None,
        socket_id: None,
        gateway_up: false,
        no_queue: false,
        queued_max: usize::MAX,
        line_only: Some(MessageRole::User),
    }
}

/// Messages a second when so many writers each wait for one to be on disk before they bring the next.
async fn rate(store: &Store, caller: &Caller, session: ConversationId, writers: usize) -> f64 {
    let began = Instant::now();
    let each = (0..writers).map(async |writer| {
        let mut count = 0_u32;
        while began.elapsed() < FOR {
            let text = format!("message {count} of writer {writer}, as long as messages usually are");
            store.write(line(caller, session, text)).await.expect("a disk that works");
            count += 1;
        }
        count
    });
    let counts = futures_util::future::join_all(each).await;
    f64::from(counts.iter().sum::<u32>()) / began.elapsed().as_secs_f64()
}
