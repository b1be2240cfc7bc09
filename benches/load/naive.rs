//! What the figures are compared with: the plainest servers that actix-web's own pieces make, in a process of their own.
//! One sends each frame it gets to all of its sockets, one frame after the other; one sends it back; one answers
//! requests, at once or after a minute.
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws;
use bytestring::ByteString;
use tokio::io::{AsyncBufReadExt, BufReader};

pub(crate) const BROADCAST: &str = "naive-broadcast";
pub(crate) const ECHO: &str = "naive-echo";
pub(crate) const BARE: &str = "naive-bare";
/// Each of them.
pub(crate) const ALL: [&str; 3] = [BROADCAST, ECHO, BARE];

/// As long as the answer of a poll that finds nothing.
const NOTHING: &str = r#"{"messages":[],"relationships":[],"relationships_version":"0","remaining":0,"paused":false}"#;

/// A comparison server; killed with this value.
pub(crate) struct Naive {
    child: tokio::process::Child,
    pub(crate) address: String,
}

impl Naive {
    pub(crate) async fn start(kind: &str) -> Self {
        let this = std::env::current_exe().expect("this tool");
        let mut command = tokio::process::Command::from(Command::new(this));
        command.arg(kind).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let mut address = String::new();
        let out = child.stdout.take().expect("it was piped");
        BufReader::new(out).read_line(&mut address).await.expect("it says where it is");
        Self { child, address: address.trim().to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it lives")
    }
}

/// The process of a comparison server.
pub(crate) fn serve(kind: &str) {
    if kind == BARE {
        return serve_bare();
    }
    let everybody: Option<Everybody> = (kind == BROADCAST).then(Everybody::default);
    actix::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            App::new().app_data(web::Data::new(everybody.clone())).route("/", web::get().to(open))
        })
        .workers(2)
        .bind("127.0.0.1:0")
        .expect("a free port");
        println!("{}", server.addrs()[0]);
        server.run().await.expect("it serves");
    });
}

/// The process of the one that answers requests.
fn serve_bare() {
    actix::System::new().block_on(async move {
        let app = || App::new().route("/", web::get().to(nothing)).route("/wait", web::get().to(wait));
        let server = HttpServer::new(app).workers(2).tcp_nodelay(true).bind("127.0.0.1:0").expect("a free port");
        println!("{}", server.addrs()[0]);
        server.run().await.expect("it serves");
    });
}

async fn nothing() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(NOTHING)
}

async fn wait() -> HttpResponse {
    tokio::time::sleep(Duration::from_secs(60)).await;
    nothing().await
}

type Everybody = Arc<Mutex<Vec<Addr<Member>>>>;

async fn open(
    req: HttpRequest,
    stream: web::Payload,
    everybody: web::Data<Option<Everybody>>,
) -> actix_web::Result<actix_web::HttpResponse> {
    ws::start(Member { everybody: everybody.get_ref().clone() }, &req, stream)
}

struct Member {
    everybody: Option<Everybody>,
}

impl Actor for Member {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(everybody) = &self.everybody {
            everybody.lock().expect("nobody panics").push(ctx.address());
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Said(ByteString);

impl Handler<Said> for Member {
    type Result = ();

    fn handle(&mut self, said: Said, ctx: &mut Self::Context) {
        ctx.text(said.0);
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Member {
    fn handle(&mut self, item: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match (item, &self.everybody) {
            (Ok(ws::Message::Text(text)), Some(everybody)) => {
                for member in everybody.lock().expect("nobody panics").iter() {
                    member.do_send(Said(text.clone()));
                }
            }
            (Ok(ws::Message::Text(text)), None) => ctx.text(text),
            (Ok(ws::Message::Ping(payload)), _) => ctx.pong(&payload),
            (Ok(ws::Message::Close(_)), _) | (Err(_), _) => ctx.stop(),
            _ => {}
        }
    }
}
