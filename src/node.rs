//! The broker put together: what `serve`, `demo` and whole-broker tests start.
//!
//! In this order: the lock on the data, the ports, the database with its migrations, the key of the secrets, the
//! writer's queues, the actors, the server. What a person has to mend (a second server, a port in use, a file of
//! another program) is found before anything of ours is changed.
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::{Extensions, ServerHandle};
use actix_web::{HttpServer, web};
use base64::Engine;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::actors::bootstrap::Bootstrapped;
use crate::actors::browser_session::Shared;
use crate::actors::directory::Directory;
use crate::actors::hub::Hubs;
use crate::actors::messages::ToLink;
use crate::actors::supervisor::{Shutdown, Supervisor, SupervisorParts};
use crate::config::{Config, DatabaseUrl, Durability, StoreConfig};
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, Publish};
use crate::domain::secret::Secret;
use crate::http::auth::{Limiter, Tickets};
use crate::http::edge::Edge;
use crate::http::server;
use crate::http::state::AppState;
use crate::http::ws::Cut;
use crate::store::lease::STANDBY;
use crate::store::vault::{KEY_FILE, Vault};
use crate::store::{
    Command, Location, Opener, Pooling, ServerLock, Settings, Store, Tx, WriterOptions, WriterParts, channels,
    gateways, lock_for_server, writer_queues,
};

mod home;
mod listeners;
mod memory;

use listeners::Listeners;
pub use listeners::check_port;

/// How long browsers have to take their close frames before the server goes on stopping.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long a start waits for the lock on the data before it says that another server has it.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// How often a start looks for the lock, and a stop whether the browsers have gone.
const LOOK: Duration = Duration::from_millis(20);

/// A running broker. It lives in the actix system that it was started in.
pub struct Node {
    /// Where it listens, in the order of the configuration, with the ports that the system chose.
    pub addresses: Vec<std::net::SocketAddr>,
    pub state: web::Data<AppState>,
    /// Stops the HTTP server alone; [`Node::stop`] stops everything in order.
    pub handle: ServerHandle,
    supervisor: Addr<Supervisor>,
    server: actix_rt::task::JoinHandle<std::io::Result<()>>,
    memory: actix_rt::task::JoinHandle<()>,
    /// Told when this node has become the active one.
    ready: oneshot::Receiver<Bootstrapped>,
    /// Last: another server may come when everything else has ended.
    _locks: Vec<ServerLock>,
}

impl Node {
    /// Starts a broker with the machine's clock.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    /// Starts a broker with a clock of the caller's. It answers at once, with 503 until [`Node::ready`].
    pub async fn start_at(config: Config, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        install_crypto();
        let opener = opener(&config.store);
        make_private_dir(&config.app.data_dir)?;
        let locks = lock(&config, &opener.location).await?;
        let home = home::of(&config.app.data_dir)?;
        let listeners = Listeners::bind(&config.server.listen)?;
        let opener = prepared(opener).await?;
        let orphaned = orphaned_secrets(&config, &opener)?;
        let vault = vault(&config)?;
        if orphaned > 0 {
            log::warn!(
                "there was no `{KEY_FILE}` in `{}`, so a new key was made: the secrets of {orphaned} gateways and channels \
                 cannot be opened; put the old file back and start again, or give them their secrets anew",
                config.app.data_dir.display()
            );
        }

        let directory = Arc::new(Directory::default());
        let hubs = Arc::new(Hubs::new(directory.clone(), config.limits.hub_queue_max));
        let epoch = Arc::new(AtomicI64::new(STANDBY));
        let (writer, seed) = writer_queues(WriterParts {
            opener: opener.clone(),
            options: writer_options(&config.store),
            clock: clock.clone(),
            publish: hubs.clone(),
            epoch: epoch.clone(),
        });
        let store = Store::new(writer, opener, readers(&config.store), epoch)?;

        let config = Arc::new(config);
        let (told, ready) = oneshot::channel();
        let supervisor = Supervisor::new(SupervisorParts {
            config: config.clone(),
            store: store.clone(),
            seed,
            directory: directory.clone(),
            hubs: hubs.clone(),
            clock: clock.clone(),
            vault: vault.clone(),
            home,
            ready: Some(told),
        })
        .start();
        let links: Recipient<ToLink> = supervisor.clone().recipient();
        let state = web::Data::new(AppState {
            sessions: Arc::new(Shared {
                store: store.clone(),
                directory: directory.clone(),
                clock: clock.clone(),
                links: links.clone(),
                limits: config.limits.clone(),
            }),
            tickets: Tickets::new(Duration::from_secs(config.auth.ws_ticket_ttl_s), config.auth.ws_tickets_max),
            limiter: Limiter::new(config.auth.wrong_credentials_per_minute, config.auth.counted_addresses_max),
            edge: Edge::default(),
            started_at: clock.now_ms(),
            links,
            mailboxes: supervisor.clone().recipient(),
            observe: supervisor.clone().recipient(),
            config,
            store,
            directory,
            hubs,
            clock,
            vault,
        });
        let addresses = listeners.addresses();
        let (handle, server) = serve(state.clone(), listeners)?;
        let memory = memory::keep_small();
        Ok(Self { addresses, state, handle, supervisor, server, memory, ready, _locks: locks })
    }

    /// Waits until this node is the active one and tells what it made sure of. `None` from the second call on.
    pub async fn ready(&mut self) -> Option<Bootstrapped> {
        (&mut self.ready).await.ok()
    }

    /// Waits for the HTTP server's end, which should come from [`Node::stop`] only.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match (&mut self.server).await {
            Ok(result) => result.map_err(Error::internal),
            Err(_) => Err(Error::internal("the HTTP server's task has died")),
        }
    }

    /// Stops in order, within `server.shutdown_timeout_s`: refuses new work, sends the browsers away (1012), lets the
    /// actors and the writer finish, then ends the server. Tells whether there was time enough for all of it.
    pub async fn stop(self) -> bool {
        let timeout = Duration::from_secs(self.state.config.server.shutdown_timeout_s);
        let deadline = Instant::now() + timeout;
        self.memory.abort();
        self.state.directory.set_stopping();
        self.state.hubs.publish(vec![Event::SteppedDown]);
        let goodbye = deadline.min(Instant::now() + GOODBYE);
        while self.state.directory.sockets() > 0 && Instant::now() < goodbye {
            tokio::time::sleep(LOOK).await;
        }
        let (state, supervisor, handle) = (self.state, self.supervisor, self.handle.clone());
        let orderly = async move {
            if supervisor.send(Shutdown { arrive_until: deadline - timeout / 4 }).await.is_err() {
                log::warn!("the supervisor had ended before it was told to");
            }
            // What the links wrote on their way out waits in the bulk lane; behind it nothing waits any more.
            if let Err(error) = state.store.write_bulk(Barrier).await {
                log::warn!("the last writes were not made: {error}");
            }
            handle.stop(true).await;
        };
        let in_time = tokio::time::timeout_at(deadline, orderly).await.is_ok();
        if !in_time {
            log::warn!("the stop took longer than {} s; what is still open is cut", timeout.as_secs());
            // Answers are on their way no longer: not waited for.
            drop(self.handle.stop(false));
        }
        in_time
    }
}

/// Takes the lock on the data; a command may hold it for a moment, or a server that is about to end.
async fn lock(config: &Config, location: &Location) -> Result<Vec<ServerLock>, Error> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match lock_for_server(&config.app.data_dir, location) {
            Err(_) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            taken_or_not => return taken_or_not,
        }
    }
}

/// Does nothing, behind everything that waits before it.
struct Barrier;

impl Command for Barrier {
    type Output = ();

    const IN_STANDBY: bool = true;

    fn apply(&self, _: &mut Tx<'_>) -> Result<(), Error> {
        Ok(())
    }
}

type ServerTask = (ServerHandle, actix_rt::task::JoinHandle<std::io::Result<()>>);

/// Starts the HTTP server on listeners that are bound.
fn serve(state: web::Data<AppState>, listeners: Listeners) -> Result<ServerTask, Error> {
    let config = state.config.server.clone();
    let mut http = HttpServer::new(move || server::app(state.clone()))
        .on_connect(keep_socket)
        .workers(config.worker_threads())
        .tcp_nodelay(true)
        // Else a poll would go on for a client that has gone, and hand its messages to nobody.
        .h1_allow_half_closed(false)
        .client_request_timeout(Duration::from_millis(config.client_request_timeout_ms))
        .shutdown_timeout(config.shutdown_timeout_s)
        .disable_signals();
    for listener in listeners.open()? {
        http = http.listen(listener).map_err(Error::internal)?;
    }
    let server = http.run();
    Ok((server.handle(), actix_rt::spawn(server)))
}

/// Keeps a second hold on a connection's socket, so that it can be cut while its own task is stuck in a write.
fn keep_socket(connection: &dyn Any, data: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
    match socket2::SockRef::from(stream).try_clone() {
        Ok(socket) => {
            data.insert(Cut(Arc::new(socket)));
        }
        Err(error) => log::warn!("a connection cannot be cut from outside: {error}"),
    }
}

/// Chooses the process's TLS implementation, for gateways behind `wss://`. May be called again.
pub fn install_crypto() {
    // An error says that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes a directory that only we can look into; leaves one that exists as it is.
pub fn make_private_dir(path: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| {
        Error::new(
            ErrorCode::InvalidRequest,
            format!("the data directory `{}` cannot be made: {error}", path.display()),
        )
    })
}

/// Returns what makes connections to the configured database.
pub fn opener(config: &StoreConfig) -> Opener {
    let location = match &config.url {
        DatabaseUrl::Sqlite(path) => Location::Sqlite(path.clone()),
        DatabaseUrl::Postgres(url) => Location::Postgres(url.clone()),
    };
    let settings = Settings {
        full_durability: config.durability == Durability::Full,
        // The section's range ends far below.
        busy_timeout_ms: u32::try_from(config.busy_timeout_ms).unwrap_or(u32::MAX),
        pooling: if config.prepared_statements { Pooling::Session } else { Pooling::Transaction },
    };
    Opener { location, settings }
}

/// Brings the database to the newest schema, on a thread that may block.
async fn prepared(opener: Opener) -> Result<Opener, Error> {
    let work = move || opener.prepare().map(|()| opener);
    actix_rt::task::spawn_blocking(work).await.map_err(|_| Error::internal("the migrations panicked"))?
}

/// Returns the writer's bounds.
pub fn writer_options(config: &StoreConfig) -> WriterOptions {
    WriterOptions {
        queue_max: config.writer_queue_max,
        batch_max: config.writer_batch_max,
        bulk_queue_max: config.bulk_queue_max,
        bulk_batch_max: config.bulk_batch_max,
    }
}

/// Returns how many connections read: on PostgreSQL all of the pool but the writer's.
pub fn readers(config: &StoreConfig) -> u32 {
    if config.url.is_sqlite() { config.readers } else { config.postgres_pool.saturating_sub(1).max(1) }
}

/// Counts the gateways and channels whose secrets nothing here can open: the key file is gone, and a vault that is opened
/// now makes another key.
pub fn orphaned_secrets(config: &Config, opener: &Opener) -> Result<i64, Error> {
    if config.store.encryption_key.is_some() || config.app.data_dir.join(KEY_FILE).exists() {
        return Ok(0);
    }
    let mut db = opener.read_only()?;
    Ok(gateways::count_sealed(&mut db)? + channels::count_sealed(&mut db)?)
}

/// Opens the vault with the configured key, or with the key file.
pub fn vault(config: &Config) -> Result<Vault, Error> {
    let given = config.store.encryption_key.as_ref().map(|key| {
        let text = zeroize::Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(key.reveal()));
        Secret::new(text.as_str())
    });
    Vault::open(&config.app.data_dir, given.as_ref())
}
