//! The HTTP application on a fresh database, with gateways' links that answer as a test tells them to.
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use actix::prelude::*;
use actix_http::Request;
use actix_web::dev::Service;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use actix_web::test::{self, TestRequest};
use actix_web::{body, web};
use clawbroker::actors::agent_mailbox::{self, Card, MailboxParts, OpenMailbox};
use clawbroker::actors::bootstrap::{digest, new_token, prefix};
use clawbroker::actors::browser_session::Shared;
use clawbroker::actors::directory::Directory;
use clawbroker::actors::hub::Hubs;
use clawbroker::actors::messages::{LinkRequest, Report, ToLink, UpstreamSession};
use clawbroker::actors::supervisor::{ChildStopped, ObserveAll};
use clawbroker::config::Config;
use clawbroker::domain::clock::ManualClock;
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::gateway::{LinkState, LinkStatus};
use clawbroker::domain::ids::GatewayId;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::http::auth::{Limiter, Tickets};
use clawbroker::http::edge::Edge;
use clawbroker::http::server::app;
use clawbroker::http::state::AppState;
use clawbroker::store::audit::Actor;
use clawbroker::store::users::{self, AddToken, AddUser};
use clawbroker::store::vault::Vault;
use clawbroker::store::{Db, Store, WriterParts, spawn_writer};
use futures_util::future::{join_all, poll_immediate};
use serde_json::Value;

use crate::harness::Database;
use crate::harness::test_store::{START_MS, roomy};

/// Connections that the node reads with.
const READERS: u32 = 4;

/// What the links were asked, and what they answer.
#[derive(Default)]
pub(crate) struct Upstream {
    pub(crate) sessions: Vec<UpstreamSession>,
    /// The keys of sessions that were to be deleted upstream.
    pub(crate) deleted: Vec<String>,
    /// How many sessions somebody looked at.
    pub(crate) touched: usize,
    /// The gateway refuses to delete.
    pub(crate) refuses: bool,
    /// No link is there: whatever is asked is dropped.
    pub(crate) silent: bool,
}

struct Links(Arc<Mutex<Upstream>>);

impl actix::Actor for Links {
    type Context = Context<Self>;
}

impl Handler<ToLink> for Links {
    type Result = ();

    fn handle(&mut self, message: ToLink, _: &mut Context<Self>) {
        let mut upstream = self.0.lock().unwrap();
        if upstream.silent {
            return;
        }
        // Whoever asked may have gone.
        match message.request {
            LinkRequest::Touch { reply, .. } => {
                upstream.touched += 1;
                let _ = reply.send(Ok(()));
            }
            LinkRequest::Sessions { reply } => drop(reply.send(Ok(upstream.sessions.clone()))),
            LinkRequest::DeleteSession { key, reply } => {
                upstream.deleted.push(key);
                let refusal = Error::new(ErrorCode::UpstreamRefused, "the gateway said no");
                let _ = reply.send(if upstream.refuses { Err(refusal) } else { Ok(()) });
            }
            LinkRequest::Abort { .. } => {}
            LinkRequest::Test { reply } => drop(reply.send(Ok(7))),
            LinkRequest::Reconnect => {}
        }
    }
}

impl Handler<ObserveAll> for Links {
    type Result = MessageResult<ObserveAll>;

    fn handle(&mut self, _: ObserveAll, _: &mut Context<Self>) -> Self::Result {
        MessageResult(vec![Report { actor: "supervisor", id: String::new(), state: serde_json::json!({ "links": 0 }) }])
    }
}

/// Opens the mailboxes of agents, as the supervisor does.
struct Mailboxes {
    store: Store,
    directory: Arc<Directory>,
    clock: Arc<ManualClock>,
    config: Arc<Config>,
}

impl actix::Actor for Mailboxes {
    type Context = Context<Self>;
}

impl Handler<OpenMailbox> for Mailboxes {
    type Result = Result<Arc<Card>, Error>;

    fn handle(&mut self, OpenMailbox(agent): OpenMailbox, ctx: &mut Context<Self>) -> Self::Result {
        let parts = MailboxParts {
            store: self.store.clone(),
            directory: self.directory.clone(),
            clock: self.clock.clone(),
            config: self.config.mailbox.clone(),
            parent: ctx.address().recipient(),
        };
        Ok(agent_mailbox::open(&agent, parts))
    }
}

impl Handler<ChildStopped> for Mailboxes {
    type Result = ();

    fn handle(&mut self, stopped: ChildStopped, _: &mut Context<Self>) {
        assert!(stopped.clean, "{:?} ended unexpectedly", stopped.child);
    }
}

type Answer = LocalBoxFuture<Reply>;
type LocalBoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;
type Serve = Rc<dyn Fn(Request) -> Answer>;

/// A node: state, application, and a token for each role.
pub(crate) struct TestNode {
    pub(crate) state: web::Data<AppState>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) upstream: Arc<Mutex<Upstream>>,
    tokens: RefCell<HashMap<String, String>>,
    service: RefCell<Option<Serve>>,
    pub(crate) database: Database,
}

impl From<Database> for TestNode {
    fn from(database: Database) -> Self {
        Self::with(database, |_| {})
    }
}

impl TestNode {
    /// Makes a node with a changed configuration.
    pub(crate) fn with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.app.data_dir = database.data_dir().to_path_buf();
        change(&mut config);
        config.validate().expect("a valid configuration");
        let clock = Arc::new(ManualClock::at(START_MS));
        let directory = Arc::new(Directory::default());
        directory.set_active(true);
        directory.set_lease_until(i64::MAX, None);
        let hubs = Arc::new(Hubs::new(directory.clone(), 1_024));
        let opener = database.opener();
        let epoch = Arc::new(AtomicI64::new(0));
        let parts = WriterParts {
            opener: opener.clone(),
            options: roomy(),
            clock: clock.clone(),
            publish: hubs.clone(),
            epoch: epoch.clone(),
        };
        let (writer, _thread) = spawn_writer(parts).expect("the writer starts");
        let upstream = Arc::<Mutex<Upstream>>::default();
        let links = actix::Actor::start(Links(upstream.clone()));
        let vault = Vault::open(database.data_dir(), Some(&Secret::new("07".repeat(32)))).expect("a key in hex");
        let store = Store::new(writer, opener, READERS, epoch).expect("the readers start");
        let config = Arc::new(config);
        let mailboxes = actix::Actor::start(Mailboxes {
            store: store.clone(),
            directory: directory.clone(),
            clock: clock.clone(),
            config: config.clone(),
        });
        let state = web::Data::new(AppState {
            sessions: Arc::new(Shared {
                store: store.clone(),
                directory: directory.clone(),
                clock: clock.clone(),
                links: links.clone().recipient(),
                limits: config.limits.clone(),
            }),
            tickets: Tickets::new(Duration::from_secs(config.auth.ws_ticket_ttl_s), config.auth.ws_tickets_max),
            limiter: Limiter::new(config.auth.wrong_credentials_per_minute, config.auth.counted_addresses_max),
            edge: Edge::default(),
            config,
            store,
            directory,
            hubs,
            clock: clock.clone(),
            vault,
            links: links.clone().recipient(),
            mailboxes: mailboxes.recipient(),
            observe: links.recipient(),
            started_at: START_MS,
        });
        let (tokens, service) = (RefCell::default(), RefCell::default());
        Self { state, clock, upstream, tokens, service, database }
    }

    async fn service(&self) -> Serve {
        if let Some(service) = &*self.service.borrow() {
            return service.clone();
        }
        let service = Rc::new(test::init_service(app(self.state.clone())).await);
        let serve: Serve = Rc::new(move |request| {
            let service = service.clone();
            Box::pin(
                async move { Reply::of(service.call(request).await.expect("an answer").map_into_boxed_body()).await },
            )
        });
        *self.service.borrow_mut() = Some(serve.clone());
        serve
    }

    /// Returns the token of the user of this name, who is made with this role if there is none.
    pub(crate) async fn token(&self, name: &str, role: Role) -> String {
        if let Some(token) = self.tokens.borrow().get(name) {
            return token.clone();
        }
        let caller = self.user(name, role).await;
        let token = new_token().expect("randomness").reveal().to_owned();
        let command = AddToken {
            user_id: caller.user_id,
            name: "test".into(),
            prefix: prefix(&token),
            digest: digest(&token),
            expires_at: None,
            actor: Actor::system(),
            idem: None,
        };
        self.state.store.write(command).await.expect("a token");
        self.tokens.borrow_mut().insert(name.to_owned(), token.clone());
        token
    }

    /// Finds the user of this name, or makes it.
    pub(crate) async fn user(&self, name: &str, role: Role) -> Caller {
        let command = AddUser {
            name: name.to_owned(),
            display_name: name.to_uppercase(),
            role,
            password_hash: None,
            actor: Actor::system(),
            idem: None,
            ensure: true,
        };
        users::caller_of(&self.state.store.write(command).await.expect("a user"), None)
    }

    /// Registers an agent; returns its id and a key of it.
    pub(crate) async fn agent(&self, name: &str) -> (String, String) {
        let body = serde_json::json!({ "name": name });
        let made = self.post("/api/admin/agents").json(&body).by(Role::Admin).await.expect_status(201).json;
        let id = made["id"].as_str().expect("an id").to_owned();
        let key = self.agent_key(&id).await;
        (id, key)
    }

    /// Makes one more key of an agent.
    pub(crate) async fn agent_key(&self, id: &str) -> String {
        let path = format!("/api/admin/agents/{id}/keys");
        let made = self.post(&path).json(&serde_json::json!({})).by(Role::Admin).await.expect_status(201).json;
        made["api_key"].as_str().expect("a key").to_owned()
    }

    /// Registers a gateway and has it be connected.
    pub(crate) async fn gateway(&self, id: &str) -> GatewayId {
        let body = serde_json::json!({ "id": id, "name": format!("Gateway {id}"), "url": "ws://127.0.0.1:1" });
        self.post("/api/gateways").json(&body).by(Role::Admin).await.expect_status(200);
        let id: GatewayId = id.parse().expect("an id");
        self.connect(&id);
        id
    }

    pub(crate) fn connect(&self, id: &GatewayId) {
        let status = LinkStatus {
            state: LinkState::Connected,
            since_ms: START_MS,
            default_agent: Some("main".into()),
            default_model: Some("model-1".into()),
            agents: vec![serde_json::json!({ "id": "main" })],
            models: vec![serde_json::json!({ "id": "model-1" })],
            ..LinkStatus::default()
        };
        self.state.directory.set_status(id, Arc::new(status));
    }

    pub(crate) fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'_> {
        let request = TestRequest::default().method(method).uri(path);
        Call { node: self, request: request.peer_addr("192.0.2.7:4711".parse().expect("an address")) }
    }
}

/// A request that is being put together.
pub(crate) struct Call<'a> {
    node: &'a TestNode,
    request: TestRequest,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.insert_header((name, value));
        self
    }

    pub(crate) fn json(mut self, value: &Value) -> Self {
        self.request = self.request.set_json(value);
        self
    }

    pub(crate) fn body(mut self, kind: &str, text: &str) -> Self {
        self.request = self.request.insert_header(("content-type", kind)).set_payload(text.to_owned());
        self
    }

    pub(crate) fn from(mut self, address: &str) -> Self {
        self.request = self.request.peer_addr(address.parse().expect("an address"));
        self
    }

    /// Sends it as the user who is named like this role.
    pub(crate) async fn by(self, role: Role) -> Reply {
        self.by_user(role.as_str(), role).await
    }

    /// Sends it as a user.
    pub(crate) async fn by_user(self, name: &str, role: Role) -> Reply {
        let token = self.node.token(name, role).await;
        self.with_token(&token).await
    }

    pub(crate) async fn with_token(self, token: &str) -> Reply {
        self.header("authorization", &format!("Bearer {token}")).send().await
    }

    /// Sends it with the key of an agent.
    pub(crate) async fn with_key(self, key: &str) -> Reply {
        self.header("x-api-key", key).send().await
    }

    /// Sends it without a credential.
    pub(crate) async fn send(self) -> Reply {
        let serve = self.node.service().await;
        serve(self.request.to_request()).await
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// `null` if it is not JSON.
    pub(crate) json: Value,
}

impl Reply {
    async fn of(response: actix_web::dev::ServiceResponse) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = body::to_bytes(response.into_body()).await.expect("a whole body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, text, json }
    }

    /// Checks the status and hands itself on.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// Checks that it is an error of ours with this code.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
        assert!(self.json["error"]["message"].is_string() && !self.json["detail"].is_null(), "{}", self.text);
        let told = self.headers.contains_key("retry-after");
        assert_eq!(told, matches!(status, 429 | 503 | 507), "Retry-After: {}", self.text);
        self
    }

    pub(crate) fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the fields that were refused.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let items = self.json["error"]["details"]["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(|item| item["field"].as_str().unwrap_or_default()).collect()
    }
}

/// Reads that hold every connection for reading until they are let go.
pub(crate) struct HeldReaders {
    gates: Vec<mpsc::Sender<()>>,
    reads: Vec<LocalBoxFuture<Result<(), Error>>>,
}

impl TestNode {
    /// Has nobody else read for a while.
    pub(crate) async fn hold_readers(&self) -> HeldReaders {
        let mut held = HeldReaders { gates: Vec::new(), reads: Vec::new() };
        for _ in 0..READERS {
            let (gate, opened) = mpsc::channel();
            let store = self.state.store.clone();
            let query = move |_: &mut Db| {
                // Nothing is ever sent: the error is what ends the wait.
                opened.recv().unwrap_err();
                Ok::<_, Error>(())
            };
            let mut read: LocalBoxFuture<_> = Box::pin(async move { store.read(query).await });
            assert!(poll_immediate(&mut read).await.is_none(), "it holds its connection");
            held.gates.push(gate);
            held.reads.push(read);
        }
        held
    }
}

impl HeldReaders {
    pub(crate) async fn let_go(self) {
        drop(self.gates);
        for read in join_all(self.reads).await {
            read.expect("it waited as long as it took");
        }
    }
}
