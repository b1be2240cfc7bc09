//! A store on a fresh database, with a clock that stands still and a recorder of its events.
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use clawbroker::domain::agent::{Agent, AgentKind, AgentState};
use clawbroker::domain::clock::ManualClock;
use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::delivery::{Delivery, Outcome};
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{ConversationId, GatewayId, TurnId};
use clawbroker::domain::secret::Secret;
use clawbroker::domain::turn::TurnState;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::agents::AddAgent;
use clawbroker::store::audit::Actor;
use clawbroker::store::chat::{AcceptChat, Accepted};
use clawbroker::store::conversations::{NewSession, OpenSession, SessionName};
use clawbroker::store::deliveries::{self, Stored};
use clawbroker::store::gateways::AddGateway;
use clawbroker::store::messages::{self, Span};
use clawbroker::store::turns::{BeginTurn, DeliveryEnd, EndTurn};
use clawbroker::store::users::{self, AddUser, ChangeUser};
use clawbroker::store::vault::Vault;
use clawbroker::store::{Opener, Store, WriterOptions, WriterParts, spawn_writer};

use super::{Database, Recorder};

/// What the clock of every test shows at first.
pub(crate) const START_MS: i64 = 1_795_189_101_062;

pub(crate) struct TestStore {
    store: Store,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) events: Arc<Recorder>,
    pub(crate) vault: Vault,
    /// Last: it goes away when nobody uses it any more.
    pub(crate) database: Arc<Database>,
}

impl Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl From<Database> for TestStore {
    fn from(database: Database) -> Self {
        Self::with(Arc::new(database), roomy())
    }
}

/// Connections for reading.
pub(crate) const CONNECTIONS: u32 = 4;

/// Bounds that no test meets by accident.
pub(crate) fn roomy() -> WriterOptions {
    WriterOptions { queue_max: 4_096, batch_max: 256, bulk_queue_max: 4_096, bulk_batch_max: 32 }
}

impl TestStore {
    /// Opens a store on a database that others may use as well.
    pub(crate) fn with(database: Arc<Database>, options: WriterOptions) -> Self {
        let opener = database.opener();
        Self::by(opener, database, options)
    }

    /// Opens a store by connections of a special kind.
    pub(crate) fn by(opener: Opener, database: Arc<Database>, options: WriterOptions) -> Self {
        let clock = Arc::new(ManualClock::at(START_MS));
        let events = Arc::new(Recorder::default());
        let epoch = Arc::new(AtomicI64::new(0));
        let parts = WriterParts {
            opener: opener.clone(),
            options,
            clock: clock.clone(),
            publish: events.clone(),
            epoch: epoch.clone(),
        };
        let (writer, _thread) = spawn_writer(parts).expect("the writer starts");
        let store = Store::new(writer, opener, CONNECTIONS, epoch).expect("the readers start");
        let key = Secret::new("07".repeat(32));
        let vault = Vault::open(database.data_dir(), Some(&key)).expect("a key in hex");
        Self { store, clock, events, vault, database }
    }

    /// Registers an agent of this name.
    pub(crate) async fn agent(&self, name: &str, kind: AgentKind) -> Agent {
        let new = AddAgent {
            name: name.into(),
            slug: None,
            kind,
            state: AgentState::Running,
            role_description: String::new(),
            creator_id: None,
            labels: BTreeMap::new(),
            lease_seconds: None,
            attempts_max: None,
            model: None,
            actor: Actor::system(),
            idem: None,
            agents_max: 1_000,
        };
        self.write(new).await.expect("a new agent")
    }

    /// Makes a user of this role and returns it as a caller.
    pub(crate) async fn user(&self, name: &str, role: Role) -> Caller {
        let user = self
            .write(AddUser {
                name: name.into(),
                display_name: name.to_uppercase(),
                role,
                password_hash: None,
                actor: Actor::system(),
                idem: None,
                ensure: false,
            })
            .await
            .expect("a new user");
        users::caller_of(&user, None)
    }

    pub(crate) fn new_gateway(&self, id: &str) -> AddGateway {
        let name = format!("Gateway {id}");
        AddGateway::by_system(id.parse().expect("a gateway id"), &name, "ws://127.0.0.1:1", None, self.vault.clone())
    }

    pub(crate) async fn gateway(&self, id: &str) -> GatewayId {
        self.write(self.new_gateway(id)).await.expect("a new gateway").id
    }

    /// Makes an operator with a session, who may read what others said in it before.
    pub(crate) async fn operators_chat(&self) -> (Caller, Conversation) {
        let (caller, conversation) = self.chat().await;
        let change = ChangeUser {
            id: caller.user_id,
            name: None,
            display_name: None,
            role: Some(Role::Operator),
            password_hash: None,
            actor: Actor::system(),
        };
        self.write(change).await.expect("the user exists");
        (Caller { role: Role::Operator, ..caller }, conversation)
    }

    /// Makes a gateway, a member and its session on it.
    pub(crate) async fn chat(&self) -> (Caller, Conversation) {
        let caller = self.user("ann", Role::Member).await;
        let gateway = self.gateway("gw").await;
        let conversation = self.session(&caller, &gateway, "webchat-1").await;
        (caller, conversation)
    }

    pub(crate) async fn session(&self, caller: &Caller, gateway: &GatewayId, key: &str) -> Conversation {
        self.write(OpenSession {
            name: session_name(gateway, key),
            caller: caller.clone(),
            new: NewSession::default(),
            must_be_new: false,
        })
        .await
        .expect("a session")
    }

    pub(crate) async fn ask(&self, caller: &Caller, conversation: ConversationId, text: &str) -> Accepted {
        self.write(question(caller, conversation, text)).await.expect("an accepted question")
    }

    /// Asks and hands the question to its gateway.
    pub(crate) async fn begun(&self, caller: &Caller, conversation: ConversationId, text: &str) -> (Accepted, TurnId) {
        let asked = self.ask(caller, conversation, text).await;
        let turn_id = TurnId::new();
        let delivery_id = asked.delivery.as_ref().expect("a delivery").id;
        self.write(BeginTurn { turn_id, delivery_id }).await.expect("a turn");
        (asked, turn_id)
    }

    /// Asks and has the gateway refuse it: a dead delivery.
    pub(crate) async fn dead(&self, caller: &Caller, conversation: ConversationId, started: bool) -> Delivery {
        let (asked, turn_id) = self.begun(caller, conversation, "to nobody").await;
        let end = DeliveryEnd::Dead { reason: "refused".into(), started };
        self.write(EndTurn {
            delivery: end,
            state: TurnState::Error,
            error: Some("refused".into()),
            ..answer(turn_id, "")
        })
        .await
        .expect("an end");
        self.delivery(asked.delivery.expect("a delivery").id).await.delivery
    }

    pub(crate) async fn delivery(&self, id: clawbroker::domain::ids::DeliveryId) -> Stored {
        self.read(move |db| deliveries::get(db, id)).await.expect("readable").expect("the delivery is there")
    }

    /// Reads the whole log of a conversation: `seq` and text of each line.
    pub(crate) async fn log(&self, id: ConversationId) -> Vec<(i64, String)> {
        let lines = self.read(move |db| messages::page(db, id, Span::After(i64::MIN), 100_000, usize::MAX)).await;
        lines.expect("readable").iter().map(|line| (line.seq, line.text.clone())).collect()
    }

    /// Reads one number by SQL.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = sql.to_owned();
        let number: Result<i64, clawbroker::domain::error::Error> =
            self.read(move |db| Ok::<_, clawbroker::domain::error::Error>(super::sql::number(db, &sql))).await;
        number.expect("readable")
    }

    /// Hands out the events since the last call, each as a short text.
    pub(crate) fn told(&self) -> Vec<String> {
        self.events.take().iter().map(in_short).collect()
    }
}

pub(crate) fn session_name(gateway: &GatewayId, key: &str) -> SessionName {
    SessionName::new(gateway.clone(), &key.parse().expect("a session key"), None)
}

/// A question that waits for nothing and minds no queue.
pub(crate) fn question(caller: &Caller, conversation_id: ConversationId, text: &str) -> AcceptChat {
    AcceptChat {
        conversation_id,
        caller: caller.clone(),
        from: None,
        text: text.into(),
        client_key: None,
        socket_id: None,
        gateway_up: true,
        no_queue: false,
        queued_max: 100_000,
        line_only: None,
    }
}

/// A plain final answer.
pub(crate) fn answer(turn_id: TurnId, text: &str) -> EndTurn {
    EndTurn {
        turn_id,
        run_id: None,
        state: TurnState::Final,
        text: text.into(),
        thinking: None,
        error: None,
        code: None,
        usage: None,
        said_at: None,
        late: false,
        sent_at: None,
        delivery: DeliveryEnd::Completed(Outcome::Answered),
    }
}

fn in_short(event: &Event) -> String {
    match event {
        Event::Line { line, end, .. } => {
            let end = end.as_ref().map_or(String::new(), |end| format!(" {}", end.state.as_str()));
            format!("line {}{end}", line.seq)
        }
        Event::TurnEnded { end, .. } => format!("turn {}", end.state.as_str()),
        Event::Delivery { delivery, from, .. } => {
            format!("delivery {} -> {}", from.map_or("new", |from| from.as_str()), delivery.state.as_str())
        }
        Event::Imported { first_seq, done, .. } => format!("imported {first_seq} {done}"),
        Event::SessionRefused { .. } => "refused".into(),
        Event::ConversationDeleted { first_seq, last_seq, .. } => format!("deleted {first_seq}..{last_seq}"),
        Event::GatewayChanged { gateway_id, change } => format!("gateway {gateway_id} {change:?}").to_lowercase(),
        Event::TokenEnded { .. } => "token ended".into(),
        Event::UserChanged { .. } => "user changed".into(),
        Event::TokenAdded { .. } => "token added".into(),
        Event::AgentKeyAdded { .. } => "agent key added".into(),
        Event::AgentKeyEnded { .. } => "agent key ended".into(),
        Event::AgentChanged { now: Some(_), .. } => "agent changed".into(),
        Event::AgentChanged { now: None, .. } => "agent removed".into(),
        Event::RelationshipsChanged { agents } => format!("relationships of {} changed", agents.len()),
        Event::ChannelChanged { .. } => "channel changed".into(),
        // The store tells of nothing else.
        other => format!("{other:?}"),
    }
}
