//! The databases that the tools fill and measure: each is empty at first, and its store writes as a node does that holds
//! the lease.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use clawbroker::domain::clock::SystemClock;
use clawbroker::domain::event::{Event, Publish};
use clawbroker::domain::ids::{ConversationId, GatewayId, NodeId};
use clawbroker::domain::message::MessageRole;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::audit::Actor;
use clawbroker::store::chat::AcceptChat;
use clawbroker::store::conversations::{NewSession, OpenSession, SessionName};
use clawbroker::store::gateways::AddGateway;
use clawbroker::store::lease::{DropLease, Lease, STANDBY, TakeLease};
use clawbroker::store::users::{self, AddUser};
use clawbroker::store::vault::Vault;
use clawbroker::store::{Db, Location, Opener, Pooling, Settings, Store, WriterOptions, WriterParts, spawn_writer};
use diesel::connection::SimpleConnection;

use super::figures::say;
use super::gateway::SESSION;

/// Returns the URL of the PostgreSQL database whose schema `clawbroker` may be dropped; says so if there is none.
pub(crate) fn postgres() -> Option<String> {
    let url = std::env::var("CLAWBROKER_LOAD_POSTGRES").ok();
    if url.is_none() {
        say("  PostgreSQL: left out, CLAWBROKER_LOAD_POSTGRES names no database that may be emptied");
    }
    url
}

/// Connects as the store's writer does: with full durability.
pub(crate) fn opener(location: Location) -> Opener {
    Opener { location, settings: Settings { full_durability: true, busy_timeout_ms: 5_000, pooling: Pooling::Session } }
}

/// Makes an empty database of a PostgreSQL database that was used before; an SQLite file must be a new one.
pub(crate) fn empty(location: &Location) {
    match location {
        Location::Sqlite(path) => assert!(!path.exists(), "{} is not new", path.display()),
        Location::Postgres(_) => {
            let mut db = opener(location.clone()).writable().expect("the server answers");
            run(&mut db, "DROP SCHEMA IF EXISTS clawbroker CASCADE; CREATE SCHEMA clawbroker");
        }
    }
}

/// Runs statements that must succeed.
pub(crate) fn run(db: &mut Db, sql: &str) {
    let done = match db {
        Db::Sqlite(connection) => connection.batch_execute(sql),
        Db::Postgres(connection) => connection.batch_execute(sql),
    };
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A store that holds the lease, and in it a session to write in.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) caller: Caller,
    pub(crate) session: ConversationId,
    gateway_id: GatewayId,
    node_id: NodeId,
}

/// Empties a database and opens a store on it; what else a store keeps lies in `dir`.
pub(crate) async fn open(location: Location, dir: &Path) -> Opened {
    empty(&location);
    let opener = opener(location);
    opener.prepare().expect("an empty database");
    let epoch = Arc::new(AtomicI64::new(STANDBY));
    let parts = WriterParts {
        opener: opener.clone(),
        options: WriterOptions { queue_max: 4_096, batch_max: 256, bulk_queue_max: 4_096, bulk_batch_max: 64 },
        clock: Arc::new(SystemClock),
        publish: Arc::new(Nobody),
        epoch: epoch.clone(),
    };
    let (writer, _thread) = spawn_writer(parts).expect("the writer starts");
    let store = Store::new(writer, opener, 2, epoch).expect("the readers start");
    let node_id = NodeId::new();
    let take = TakeLease { node_id, address: "the load tools".into(), home: None, alone: false, afresh: true };
    let Lease::Ours { epoch } = store.write(take).await.expect("a lease") else { panic!("an empty database has none") };
    // From here on each transaction on PostgreSQL checks that the lease is still ours.
    store.epoch().store(epoch, Ordering::SeqCst);
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
    let session = session(&store, &caller, &gateway_id, SESSION).await;
    Opened { store, caller, session, gateway_id, node_id }
}

impl Opened {
    /// Makes so many sessions more.
    pub(crate) async fn sessions(&self, count: usize) -> Vec<ConversationId> {
        let mut sessions = Vec::with_capacity(count);
        for n in 0..count {
            sessions.push(session(&self.store, &self.caller, &self.gateway_id, &format!("{SESSION}-{n}")).await);
        }
        sessions
    }

    /// Gives the lease up, so that a broker need not wait for its end.
    pub(crate) async fn close(self) {
        self.store.write(DropLease { node_id: self.node_id }).await.expect("a disk that works");
    }
}

async fn session(store: &Store, caller: &Caller, gateway_id: &GatewayId, key: &str) -> ConversationId {
    let key = key.parse().expect("a key");
    let open = OpenSession {
        name: SessionName::new(gateway_id.clone(), &key, None),
        caller: caller.clone(),
        new: NewSession::default(),
        must_be_new: false,
    };
    store.write(open).await.expect("a session").id
}

/// Nobody hears of what is committed.
struct Nobody;

impl Publish for Nobody {
    fn publish(&self, _: Vec<Event>) {}
}

/// A line for nobody to answer: a row of `messages`, and the new end of its conversation.
pub(crate) fn line(caller: &Caller, session: ConversationId, text: String) -> AcceptChat {
    AcceptChat { line_only: Some(MessageRole::User), ..question(caller, session, text) }
}

/// A question, which waits for its gateway: a row of `deliveries` as well.
pub(crate) fn question(caller: &Caller, session: ConversationId, text: String) -> AcceptChat {
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
        line_only: None,
    }
}
