//! Providers of channels, played over real sockets: each checks what is asked of it as its documentation says, keeps
//! what was sent, and fails as a test wants it to.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Value;
use tokio::time::Instant;

pub(crate) mod feishu;
pub(crate) mod hook;
pub(crate) mod smtp;
pub(crate) mod telegram;
pub(crate) mod whatsapp;

/// A request as it came.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: web::Bytes,
}

impl Asked {
    /// A header by its name in small letters; an absent one is empty.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// The body; null when it is no JSON or says that it is something else.
    pub(crate) fn json(&self) -> Value {
        let is_json = self.header("content-type").starts_with("application/json");
        serde_json::from_slice(&self.body).ok().filter(|_| is_json).unwrap_or_default()
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Value,
    /// How long it takes.
    pub(crate) after: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body, after: Duration::ZERO }
    }
}

/// What goes wrong with one message; the next one goes well again.
pub(crate) enum Fault {
    /// It acts and never answers.
    Silent,
    /// It acts and breaks off in its answer.
    Cut,
    /// It acts and takes its time.
    Slow(Duration),
    /// It does not act and answers this.
    Says(Reply),
}

/// What one provider does.
pub(crate) trait Rules: Send + 'static {
    /// Whether this is a message: faults are for those.
    fn is_message(&self, _asked: &Asked) -> bool {
        true
    }

    fn answer(&mut self, asked: &Asked) -> Reply;
}

struct State<R> {
    rules: R,
    faults: VecDeque<Fault>,
    /// Messages that came, also those with which something went wrong.
    messages: usize,
}

/// A provider; its port is closed with this value.
pub(crate) struct Provider<R> {
    pub(crate) url: String,
    state: Arc<Mutex<State<R>>>,
    server: ServerHandle,
}

impl<R: Rules> Provider<R> {
    /// Opens a port of this machine. Must run inside an actix system.
    pub(crate) fn start(rules: R) -> Self {
        let state = Arc::new(Mutex::new(State { rules, faults: VecDeque::new(), messages: 0 }));
        let shared = state.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::PayloadConfig::new(4 << 20))
                .app_data(web::Data::from(shared.clone()))
                .default_service(web::to(serve::<R>))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix::spawn(server);
        Self { url, state, server: handle }
    }

    /// Says what goes wrong with the next message that has no fault yet.
    pub(crate) fn fail(&self, fault: Fault) {
        locked(&self.state).faults.push_back(fault);
    }

    /// How many messages came, also those with which something went wrong.
    pub(crate) fn messages(&self) -> usize {
        locked(&self.state).messages
    }

    /// Looks at the provider, or changes what it does.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut R) -> T) -> T {
        look(&mut locked(&self.state).rules)
    }
}

impl<R> Drop for Provider<R> {
    fn drop(&mut self) {
        // The command is on its way when the future is made; nobody waits for it.
        drop(self.server.stop(false));
    }
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("nobody panicked with it")
}

async fn serve<R: Rules>(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<State<R>>>) -> HttpResponse {
    let headers = request.headers().iter();
    let asked = Asked {
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: headers.map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned())).collect(),
        body,
    };
    let (reply, fault) = {
        let mut state = locked(&state);
        let is_message = state.rules.is_message(&asked);
        state.messages += usize::from(is_message);
        let fault = if is_message { state.faults.pop_front() } else { None };
        match fault {
            Some(Fault::Says(reply)) => (reply, None),
            fault => (state.rules.answer(&asked), fault),
        }
    };
    match fault {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Cut) => {
            let broken = std::io::Error::other("cut off");
            let body = futures_util::stream::iter([Ok(web::Bytes::from_static(b"{\"")), Err(broken)]);
            return HttpResponse::Ok().streaming(body);
        }
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Says(_)) | None => {}
    }
    if reply.after > Duration::ZERO {
        tokio::time::sleep(reply.after).await;
    }
    let mut response = HttpResponse::build(StatusCode::from_u16(reply.status).expect("a status"));
    for header in reply.headers {
        response.insert_header(header);
    }
    response.json(reply.body)
}

/// Counts what comes within a time, by whom it is for.
pub(crate) struct Pace {
    pub(crate) count: usize,
    pub(crate) per: Duration,
    came: Vec<(String, Instant)>,
}

impl Pace {
    pub(crate) fn new(count: usize, per: Duration) -> Self {
        Self { count, per, came: Vec::new() }
    }

    /// Counts one more, unless it is too many.
    pub(crate) fn allows(&mut self, whom: &str) -> bool {
        let now = Instant::now();
        let per = self.per;
        self.came.retain(|(_, at)| now.duration_since(*at) < per);
        let allowed = self.came.iter().filter(|(found, _)| found == whom).count() < self.count;
        if allowed {
            self.came.push((whom.to_owned(), now));
        }
        allowed
    }
}
