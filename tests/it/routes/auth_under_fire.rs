//! Credentials under fire: guesses by the thousand, tokens that end, pages of strangers, rebound names.
//!
//! `CLAWBROKER_TEST_WRONG_TOKENS` says how many guesses come over the wire, of tokens and again of agents' keys (2,000;
//! from 100,000 on the run has the machine to itself, and how soon a socket ends with its token is checked as well),
//! `CLAWBROKER_TEST_SEED` repeats a run.
use std::collections::HashMap;
use std::time::Duration;

use actix_web::http::header::HOST;
use clawbroker::domain::user::Role;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::TestNode;
use super::access::{TABLE, Who, method};
use super::node::Call;
use super::order::Known;
use crate::crash::{number_from, seeded};
use crate::harness::{Broker, Browser, Database, Seeded};
use crate::mailbox::client::Agent;
use crate::ws::connected;

on_both_databases!(
    guesses_are_counted_by_address_and_hold_up_nobody_else,
    a_flood_of_guesses_leaves_those_with_a_token_alone,
    a_flood_of_guessed_keys_leaves_the_agents_alone,
    a_revoked_token_ends_its_live_sockets,
    pages_of_strangers_change_nothing,
    a_page_of_the_public_address_is_ours,
    a_form_of_a_stranger_changes_nothing_where_local_clients_are_trusted,
    a_rebound_name_reaches_nothing,
);

const POLL: &str = "/api/gateway/poll";

/// Guesses of one address that are looked at a minute, at first all at once.
const A_MINUTE: u64 = 20;

/// What came of an address's guesses.
#[derive(Debug, Default)]
struct Guesser {
    looked_at: u64,
    limited: u64,
}

/// Guesses that come over the wire.
fn guesses() -> u64 {
    number_from("CLAWBROKER_TEST_WRONG_TOKENS", 2_000)
}

/// A guess in one of many forms.
fn guess<'a>(node: &'a TestNode, random: &mut Seeded) -> Call<'a> {
    let number = random.below(u64::MAX);
    let list = node.get("/api/gateways");
    match random.below(6) {
        0 => list.header("authorization", &format!("Bearer cbk_{number:x}")),
        1 => list.header("authorization", &format!("bearer {}", "x".repeat((number % 5_000) as usize))),
        2 => list.header("authorization", &format!("Basic {number}")),
        3 => list.header("authorization", ""),
        4 => node.get(POLL).header("x-api-key", &format!("oc-{number:x}")),
        _ => node.get("/ws/chat/federated").header("sec-websocket-protocol", &format!("ticket.{number:x}")),
    }
}

async fn guesses_are_counted_by_address_and_hold_up_nobody_else(node: TestNode) {
    let mut random = seeded(0xA07E);
    let right = node.token("viewer", Role::Viewer).await;
    let began = Instant::now();
    let mut guessers: HashMap<u64, Guesser> = HashMap::new();
    for _ in 0..600 {
        // One IPv6 customer has a whole network.
        let (who, address) = match random.below(6) {
            0 => (0, format!("[2001:db8:7:7::{:x}]:1", 1 + random.below(0xfff))),
            n => (n, format!("198.51.100.{n}:{}", 1 + random.below(60_000))),
        };
        let reply = guess(&node, &mut random).from(&address).send().await;
        let guesser = guessers.entry(who).or_default();
        if guesser.looked_at < A_MINUTE {
            reply.expect_error(401, "unauthenticated");
            guesser.looked_at += 1;
        } else if reply.status.as_u16() == 401 {
            guesser.looked_at += 1;
        } else {
            let wait: u64 = reply.expect_error(429, "rate_limited").header("retry-after").parse().expect("seconds");
            assert!((1..=60 / A_MINUTE).contains(&wait), "{wait}");
            guesser.limited += 1;
        }
        if random.below(20) == 0 {
            node.get("/api/gateways").from(&address).with_token(&right).await.expect_status(200);
            // Nothing was guessed, so there is nothing to count.
            node.get("/api/gateways").from(&address).send().await.expect_error(401, "unauthenticated");
        }
    }
    let looked_at_max = A_MINUTE + began.elapsed().as_secs() * A_MINUTE / 60 + 1;
    assert_eq!((guessers.len(), node.state.limiter.addresses()), (6, 6));
    for guesser in guessers.values() {
        assert!((A_MINUTE..=looked_at_max).contains(&guesser.looked_at) && guesser.limited > 0, "{guessers:?}");
    }
    let fresh = node.get("/api/gateways").from("203.0.113.9:1").with_token("cbk_first").await;
    fresh.expect_error(401, "unauthenticated");
}

/// A flood of guesses over the wire, from this machine.
struct Flood {
    began: Instant,
    guessers: JoinHandle<Vec<Result<Guesser, JoinError>>>,
}

impl Flood {
    /// Begins to ask for `url` with made-up values of this header.
    fn begin(url: &str, header: &'static str, prefix: &'static str) -> Self {
        const GUESSERS: u64 = 8;
        let mut random = seeded(0xA07E);
        let guessers = (0..GUESSERS).map(|_| {
            let (mut random, url) = (random.part(), url.to_owned());
            actix::spawn(async move {
                let client = awc::Client::builder().timeout(Duration::from_secs(20)).finish();
                let mut told = Guesser::default();
                for _ in 0..guesses() / GUESSERS {
                    let guess = format!("{prefix}{:x}", random.below(u64::MAX));
                    let mut reply = client.get(&url).insert_header((header, guess)).send().await.expect("an answer");
                    match reply.status().as_u16() {
                        401 => told.looked_at += 1,
                        429 => told.limited += 1,
                        other => panic!("a guess was answered with {other}"),
                    }
                    reply.body().await.expect("a whole body");
                }
                told
            })
        });
        Self { began: Instant::now(), guessers: actix::spawn(join_all(guessers.collect::<Vec<_>>())) }
    }

    /// Tells whether it goes on, which is not for ever.
    fn goes_on(&self) -> bool {
        let guesses = guesses();
        assert!(self.began.elapsed() < Duration::from_secs(60 + guesses / 200), "{guesses} guesses take too long");
        !self.guessers.is_finished()
    }

    /// Waits for its end, and checks that no more guesses were looked at than may be.
    async fn end(self, rounds: u32) {
        let told: Vec<Guesser> = self.guessers.await.unwrap().into_iter().map(|told| told.unwrap()).collect();
        let sum = |of: fn(&Guesser) -> u64| told.iter().map(of).sum::<u64>();
        let (looked_at, limited) = (sum(|told| told.looked_at), sum(|told| told.limited));
        let took = self.began.elapsed();
        println!("{looked_at} guesses were looked at and {limited} limited in {took:?}; {rounds} rounds");
        let looked_at_max = A_MINUTE + took.as_secs() * A_MINUTE / 60 + 1;
        assert!((A_MINUTE..=looked_at_max).contains(&looked_at) && limited > 0, "{looked_at} of {looked_at_max}");
    }
}

async fn a_flood_of_guesses_leaves_those_with_a_token_alone(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let flood = Flood::begin(&format!("http://{}/api/gateways", broker.address), "Authorization", "Bearer cbk_");
    // From the same address, with the right token.
    let mut tab = broker.browser("/ws/chat/gw").await;
    let mut rounds = 0;
    while flood.goes_on() || rounds < 3 {
        let text = format!("round {rounds}");
        tab.ask("a", &format!("say: {text}")).await;
        assert_eq!(tab.until_terminal().await["text"], text);
        assert_eq!(broker.get("/api/gateways").await.0, 200);
        rounds += 1;
    }
    flood.end(rounds).await;
}

async fn a_flood_of_guessed_keys_leaves_the_agents_alone(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (Agent::register(&broker, "ann").await, Agent::register(&broker, "ben").await);
    let flood = Flood::begin(&format!("http://{}{POLL}", broker.address), "X-Api-Key", "oc-");
    // From the same address, with the right keys; no more than a pair may write.
    let mut rounds = 0;
    while flood.goes_on() || rounds < 3 {
        if rounds < 50 {
            let id = ann.send(&broker, "ben", "hello").await;
            let got = ben.messages(&broker).await;
            assert_eq!((got.len(), &got[0]["id"]), (1, &json!(id)), "{got:?}");
        }
        let (status, polled) = ann.call(&broker, "GET", POLL, None).await;
        assert_eq!((status, &polled["messages"]), (200, &json!([])), "{polled}");
        rounds += 1;
        // Each call is a connection of its own.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    flood.end(rounds).await;
}

/// How long a socket may outlive its token, on a machine that has nothing else to do.
const OUTLIVES: Duration = Duration::from_secs(1);
/// So many guesses are asked for where the machine has nothing else to do.
const BIG_RUN: u64 = 100_000;

/// Checks that sockets which are closed by now did not outlive their token, which ended when that was `answered`.
fn check_outlived(answered: Instant) {
    let outlived = answered.elapsed();
    println!("sockets outlived their token by {outlived:?}");
    assert!(guesses() < BIG_RUN || outlived <= OUTLIVES, "{outlived:?}");
}

async fn a_revoked_token_ends_its_live_sockets(database: Database) {
    let (mut broker, gateway) = connected(&database).await;
    let (status, user) = broker.post("/api/admin/users", json!({ "name": "ann", "role": "member" })).await;
    assert_eq!(status, 201, "{user}");
    let token = async || {
        let (status, made) = broker.post("/api/admin/tokens", json!({ "name": "t", "user": "ann" })).await;
        assert_eq!(status, 201, "{made}");
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    };
    let ((id, first), (_, second)) = (token().await, token().await);
    let open = async |path: &str, token: &str| Browser::open(&broker.address, path, Some(token)).await;
    let mut asking = open("/ws/chat/gw", &first).await;
    let idle = open("/ws/chat/federated", &first).await;
    let mut other = open("/ws/chat/gw", &second).await;
    let admin = std::mem::replace(&mut broker.token, first.clone());
    let (_, ticket) = broker.post("/api/ws-ticket", json!({})).await;
    broker.token = admin;
    let paged = Browser::by_ticket(&broker.address, "/ws/chat/gw", ticket["ticket"].as_str().unwrap()).await;
    asking.ask("a", "gate g: half, whole").await;
    asking.until("a delta", |frame| frame["state"] == "delta").await;
    other.send(json!({ "type": "subscribe", "sessionKey": "a" })).await;
    other.until_type("subscribed").await;

    let (status, _) = broker.call("DELETE", &format!("/api/admin/tokens/{id}"), None).await;
    assert_eq!(status, 200);
    let answered = Instant::now();
    for mut socket in [asking, idle, paged] {
        while socket.next().await.is_some() {}
        assert_eq!(socket.closed, Some(1008), "{}", socket.transcript());
    }
    check_outlived(answered);
    assert!(Browser::try_open(&broker.address, "/ws/chat/gw", Some(&first)).await.is_none());
    // What the socket had set going comes to its end, and the other token's socket hears of it.
    gateway.release("g");
    assert_eq!(other.until_terminal().await["text"], "half, whole");

    let path = format!("/api/admin/users/{}", user["id"].as_str().unwrap());
    assert_eq!(broker.call("DELETE", &path, None).await.0, 200);
    let answered = Instant::now();
    while other.next().await.is_some() {}
    assert_eq!(other.closed, Some(1008), "{}", other.transcript());
    check_outlived(answered);
}

/// The routes that change something for whoever may call them. Calls of providers prove themselves, from wherever they come.
fn changing() -> impl Iterator<Item = (&'static str, &'static str, Who)> {
    TABLE.iter().copied().filter(|(name, _, who)| *name != "get" && !matches!(who, Who::Anybody))
}

const STRANGERS: [&str; 6] = [
    "http://evil.example",
    "https://localhost:8000.evil.example",
    "null",
    "http://localhost:8001",
    "http://127.0.0.1:8000",
    "file://",
];

async fn pages_of_strangers_change_nothing(node: TestNode) {
    let known = Known::make(&node).await;
    for (name, path, who) in changing() {
        let call = |origin: &str| {
            let call = node.call(method(name), &known.filled(path)).header("host", "localhost:8000");
            call.header("origin", origin).json(&json!({ "nonsense": 1 }))
        };
        for origin in STRANGERS {
            known.allowed(call(origin), who).await.expect_error(403, "forbidden");
            // Who they are is asked first.
            call(origin).send().await.expect_error(401, "unauthenticated");
        }
    }
    known.check(&node).await;
    // Our own page, and one that is on the list.
    for origin in ["http://localhost:8000", "http://localhost:3000"] {
        let call = node.post("/api/admin/users").header("host", "localhost:8000").header("origin", origin);
        call.json(&json!({})).by(Role::Admin).await.expect_error(422, "validation_error");
    }
    // A socket is refused before its ticket is looked at, so the ticket is still good.
    let ticket = node.post("/api/ws-ticket").by(Role::Viewer).await.expect_status(200).json["ticket"].clone();
    let offered = format!("clawbroker.v1, ticket.{}", ticket.as_str().unwrap());
    let shake = |origin: &str| {
        let call = node.get("/ws/chat/lab").header("host", "localhost:8000").header("origin", origin);
        call.header("upgrade", "websocket").header("connection", "upgrade").header("sec-websocket-protocol", &offered)
    };
    for origin in STRANGERS {
        shake(origin).send().await.expect_error(403, "forbidden");
        shake(origin).by(Role::Admin).await.expect_error(403, "forbidden");
    }
    // Let in; it is no whole handshake.
    shake("http://localhost:8000").send().await.expect_error(400, "invalid_request");
}

/// A proxy may put its own name for the broker into `Host`.
async fn a_page_of_the_public_address_is_ours(database: Database) {
    let public = "https://Chat.example.com/broker";
    let node = TestNode::with(database, |config| config.app.public_url = Some(public.parse().unwrap()));
    for (origin, status) in [
        ("https://chat.example.com", 422),
        ("http://chat.example.com", 403),
        ("https://chat.example.com:8443", 403),
        ("https://chat.example.com.evil.example", 403),
    ] {
        let call = node.post("/api/admin/users").header("host", "127.0.0.1:8000").header("origin", origin);
        call.json(&json!({})).by(Role::Admin).await.expect_status(status);
    }
}

async fn a_form_of_a_stranger_changes_nothing_where_local_clients_are_trusted(database: Database) {
    let node = TestNode::with(database, |config| config.auth.local_clients = clawbroker::config::LocalClients::Trusted);
    let admin = node.user("admin", Role::Admin).await;
    node.state.directory.set_trusted(Some(admin));
    let known = Known::make(&node).await;
    let forms = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""];
    let posts = changing().filter(|(name, ..)| *name == "post");
    for (name, path, _) in posts {
        let call = |form: &str| {
            let call = node.call(method(name), &known.filled(path)).from("127.0.0.1:5000");
            // The body of such a form can be made to look like JSON.
            call.header("host", "localhost:8000").body(form, r#"{"name":"="}"#)
        };
        for form in forms {
            for origin in STRANGERS {
                let reply = call(form).header("origin", origin).send().await;
                reply.expect_error(401, "unauthenticated");
            }
        }
    }
    // A browser that tells no origin still sends no JSON without asking first.
    for form in &forms[..3] {
        let call = node.post("/api/admin/users").from("127.0.0.1:5000").header("host", "localhost:8000");
        call.body(form, r#"{"name":"x","role":"admin"}"#).send().await.expect_error(415, "unsupported_media_type");
    }
    known.check(&node).await;
    let shake = node.get("/ws/chat/lab").from("127.0.0.1:5000").header("host", "localhost:8000");
    shake.header("origin", "http://evil.example").send().await.expect_error(403, "forbidden");
    let program = node.get("/api/admin/users").from("127.0.0.1:5000").header("host", "localhost:8000").send().await;
    assert!(!program.expect_status(200).text.contains("\"=\""));
}

async fn a_rebound_name_reaches_nothing(database: Database) {
    let node = TestNode::with(database, |config| config.auth.local_clients = clawbroker::config::LocalClients::Trusted);
    let admin = node.user("admin", Role::Admin).await;
    node.state.directory.set_trusted(Some(admin));
    let known = Known::make(&node).await;
    let rebound = [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost:8000, evil.example",
        "127.1",
        "2130706433",
        "0x7f.1",
    ];
    for (name, path, _) in TABLE {
        for host in rebound {
            let call = || {
                let call = node.call(method(name), &known.filled(path)).from("127.0.0.1:5000");
                call.header(HOST.as_str(), host).json(&json!({}))
            };
            // Its page is of the same origin as it seems, and the caller would be let in.
            call().send().await.expect_error(400, "invalid_request");
            call().header("origin", &format!("http://{host}")).send().await.expect_error(400, "invalid_request");
            call().by(Role::Admin).await.expect_error(400, "invalid_request");
        }
    }
    known.check(&node).await;
    let whole = node.get("http://evil.example/api/admin/users").from("127.0.0.1:5000").header("host", "localhost:8000");
    whole.send().await.expect_error(400, "invalid_request");
    let list: Value =
        node.get("/api/admin/users").from("127.0.0.1:5000").header("host", "localhost:8000").send().await.json;
    assert!(list["items"].is_array(), "{list}");
}
