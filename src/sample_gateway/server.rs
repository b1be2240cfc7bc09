//! The machine room: one lock around the pure state, a port that opens and closes, a driver for each run.
//!
//! The HTTP server has a worker thread of its own; runs are driven on the arbiter, so that they go on while no connection
//! and no port is open.
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use actix_web::dev::ServerHandle;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws::WsResponseBuilder;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::connect::{self, Attempt};
use super::connection::Connection;
use super::devices::Devices;
use super::frames::{Request, response};
use super::gateway::{Effect, Gateway, Phase};
use super::peers::{CONNECTIONS_MAX, Out, Peers, Wire};
use super::run::Next;
use super::{FRAME_BYTES_MAX, Options, methods};
use crate::ws::frame_guard::FrameGuard;

/// Everything that changes; locked for moments, never across an await.
pub(super) struct Core {
    pub(super) gateway: Gateway,
    pub(super) devices: Devices,
    pub(super) peers: Peers,
}

pub(super) struct Shared {
    pub(super) options: Options,
    arbiter: ArbiterHandle,
    core: Mutex<Core>,
    /// Rings whenever something may have changed.
    changes: watch::Sender<()>,
    server: Mutex<Option<ServerHandle>>,
}

impl Shared {
    pub(super) fn new(options: Options, arbiter: ArbiterHandle) -> Arc<Self> {
        let gateway = Gateway::new(options.protocol, options.delta_ms, options.boot_id.clone());
        let core = Core { gateway, devices: Devices::default(), peers: Peers::default() };
        let (changes, _) = watch::channel(());
        Arc::new(Self { options, arbiter, core: Mutex::new(core), changes, server: Mutex::new(None) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, performs what follows from it, and wakes who waits for a change.
    pub(super) fn change<R>(self: &Arc<Self>, act: impl FnOnce(&mut Core, i64, &mut Vec<Effect>) -> R) -> R {
        let (result, _) = self.apply(act);
        self.changes.send_replace(());
        result
    }

    /// Changes the state and performs what follows from it, in one go. Tells also whether anything followed.
    fn apply<R>(self: &Arc<Self>, act: impl FnOnce(&mut Core, i64, &mut Vec<Effect>) -> R) -> (R, bool) {
        let now = self.options.clock.now_ms();
        let mut runs = Vec::new();
        let mut core = self.lock();
        let mut effects = Vec::new();
        let result = act(&mut core, now, &mut effects);
        let effective = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Answer { peer, frame } => core.peers.tell(peer, Out::Text(frame)),
                Effect::Event { name, payload } => core.peers.broadcast(name, &payload, Some("operator.read")),
                Effect::Close { peer, code, reason } => core.peers.tell(peer, Out::Close { code, reason }),
                Effect::Cut(peer) => core.peers.cut(peer),
                Effect::Drive(run) => runs.push(run),
            }
        }
        drop(core);
        for run in runs {
            self.spawn(drive(Arc::clone(self), run));
        }
        (result, effective)
    }

    /// Waits until the state is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&Core) -> bool) {
        let mut changes = self.changes.subscribe();
        while !wanted(&self.lock()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn admit(self: &Arc<Self>, out: mpsc::Sender<Out>, wire: Option<Wire>) -> Option<u64> {
        let gone = out.clone();
        let peer = self.change(|core, _, _| core.peers.admit(out, wire))?;
        let shared = Arc::clone(self);
        // Not in the actor's `stopped`, which must not lock.
        self.spawn(async move {
            gone.closed().await;
            shared.change(|core, _, _| core.peers.forget(peer));
        });
        Some(peer)
    }

    pub(super) fn connect(self: &Arc<Self>, peer: u64, attempt: &Attempt<'_>, request: &Request) {
        self.change(|core, _, out| {
            let checked = connect::check(&self.options, &core.gateway, &mut core.devices, attempt, &request.params);
            let (outcome, close) = match checked {
                Ok(granted) => {
                    core.peers.open(peer, granted.scopes);
                    (Ok(granted.hello), None)
                }
                Err(refused) => {
                    let close = Effect::Close { peer, code: refused.close, reason: refused.reason() };
                    (Err(refused.refusal), Some(close))
                }
            };
            out.push(Effect::Answer { peer, frame: response(&request.id, &outcome) });
            out.extend(close);
        });
    }

    pub(super) fn request(self: &Arc<Self>, peer: u64, request: &Request) {
        self.change(|core, now, out| {
            if let Some(scopes) = core.peers.scopes(peer) {
                methods::handle(&mut core.gateway, peer, scopes, request, now, out);
            }
        });
    }

    pub(super) fn answer(self: &Arc<Self>, peer: u64, frame: String) {
        self.change(|_, _, out| out.push(Effect::Answer { peer, frame }));
    }

    pub(super) fn tick(self: &Arc<Self>, peer: u64) {
        self.change(|core, now, _| core.peers.tell_event(peer, "tick", &json!({ "ts": now })));
    }

    /// Opens the port on a bound listener.
    pub(super) fn listen(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let shared = web::Data::from(Arc::clone(self));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/healthz", web::get().to(async || HttpResponse::Ok().json(json!({ "ok": true }))))
                .default_service(web::to(upgrade))
        })
        .workers(1)
        .on_connect(|stream, data| {
            if let Some(stream) = stream.downcast_ref::<TcpStream>()
                // Deltas are small: without this each waits 40 ms for the acknowledgement of the one before.
                && stream.set_nodelay(true).is_ok()
                && let Ok(socket) = socket2::SockRef::from(stream).try_clone()
            {
                data.insert(Wire(Arc::new(socket)));
            }
        })
        .disable_signals()
        .listen(listener)?
        .run();
        self.server.lock().unwrap_or_else(PoisonError::into_inner).replace(server.handle());
        self.spawn(async move {
            if let Err(error) = server.await {
                log::warn!(error:%; "sample gateway stopped listening: {error}");
            }
        });
        Ok(())
    }

    /// Closes the port; whatever is still connected is cut.
    pub(super) async fn close_port(self: &Arc<Self>) {
        self.change(|core, _, _| core.peers.cut_all());
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.stop(false).await;
        }
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if !self.arbiter.spawn(future) {
            log::debug!("sample gateway has stopped");
        }
    }
}

/// Takes a run from step to step until it has ended.
async fn drive(shared: Arc<Shared>, run: u64) {
    let mut changes = shared.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let (next, effective) = shared.apply(|core, now, out| core.gateway.step(run, now, out));
        if effective || next != Next::Blocked {
            // Not for a run that only found its gate still shut: it would wake itself, and all the others, for ever.
            shared.changes.send_replace(());
        }
        match next {
            Next::AfterMs(0) => tokio::task::yield_now().await,
            Next::AfterMs(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Next::Blocked => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            Next::Done => return,
        }
    }
}

async fn upgrade(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, actix_web::Error> {
    let headers = request.headers();
    if ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip"]
        .iter()
        .any(|name| headers.contains_key(*name))
    {
        let error =
            json!({ "error": { "type": "proxy_attribution_required", "message": "the peer is not a trusted proxy" } });
        return Ok(HttpResponse::Forbidden().json(error));
    }
    let (phase, connections) = {
        let core = shared.lock();
        (core.gateway.phase, core.peers.len())
    };
    if phase == Phase::Draining || connections >= CONNECTIONS_MAX {
        return Ok(HttpResponse::ServiceUnavailable().json(json!({ "error": { "type": "unavailable" } })));
    }
    let wire = request.conn_data::<Wire>().cloned();
    let connection = Connection::new(shared.into_inner(), wire, headers.contains_key("origin"));
    let payload = FrameGuard::new(payload, FRAME_BYTES_MAX);
    WsResponseBuilder::new(connection, &request, payload).frame_size(FRAME_BYTES_MAX).start()
}

/// Ends the gateway's own thread once nobody holds the gateway any more.
pub(super) async fn end_with(shared: Arc<Shared>, owner: tokio::sync::oneshot::Receiver<()>) {
    // An error is what we wait for: the owner has let go.
    let _ = owner.await;
    shared.close_port().await;
    Arbiter::current().stop();
}
