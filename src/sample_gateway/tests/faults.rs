//! Old gateways, strangers, restarts, crashes, lost connections.
use super::*;

#[actix_web::test]
async fn an_old_gateway_tells_less() {
    let gateway = gateway(|options| options.protocol = 3);
    let (mut peer, hello) = Peer::open(&gateway).await;
    assert_eq!((&hello["protocol"], hello["server"].get("bootId")), (&json!(3), None));
    peer.say("k", "say: hello").await;
    let events = peer.run("k").await;
    assert!(events.iter().all(|event| event["state"] != "status" && event.get("deltaText").is_none()));
    assert_eq!(last_text(&events), "hello");
    let page = peer.ask("chat.history", json!({ "sessionKey": "s" })).await["payload"].clone();
    assert_eq!((page.get("totalMessages"), page["messages"][0].get("idempotencyKey")), (None, None));
    assert_eq!(page["messages"][0]["content"][0]["text"], "say: hello");
}

/// The parameters of a device that proves itself.
fn signed_params(challenge: &Value) -> Value {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    let mut params = connect_params();
    let id: String = Sha256::digest(public).iter().map(|byte| format!("{byte:02x}")).collect();
    params["device"] = json!({
        "id": id, "publicKey": URL_SAFE_NO_PAD.encode(public), "signature": "", "signedAt": challenge["ts"],
        "nonce": challenge["nonce"],
    });
    let payload = devices::payload(&params, "v3", challenge["ts"].as_i64().expect("a time"));
    params["device"]["signature"] = json!(URL_SAFE_NO_PAD.encode(key.sign(payload.as_bytes()).to_bytes()));
    params
}

#[actix_web::test]
async fn a_device_is_let_in_once_it_is_approved() {
    let gateway = gateway(|options| options.pairing = true);
    let (_, hello) = Peer::open(&gateway).await;
    assert_eq!(hello["auth"]["scopes"], json!([]), "without a device: connected, but with nothing allowed");
    let (mut peer, challenge) = Peer::dial(&gateway.url).await;
    let refused = peer.ask("connect", signed_params(&challenge)).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["details"]["reason"]),
        (&json!("NOT_PAIRED"), &json!("not-paired"))
    );
    let request_id = refused["error"]["details"]["requestId"].as_str().expect("a request").to_owned();
    let closed = peer.next().await;
    assert!(
        closed["close"] == 1008 && closed["reason"].as_str().is_some_and(|reason| reason.contains(&request_id)),
        "{closed}"
    );
    assert_eq!(gateway.pending_pairings(), std::slice::from_ref(&request_id));
    assert!(gateway.approve(&request_id));
    let (mut peer, challenge) = Peer::dial(&gateway.url).await;
    let hello = peer.ask("connect", signed_params(&challenge)).await["payload"].clone();
    assert_eq!(hello["auth"]["scopes"].as_array().map(Vec::len), Some(3));
    assert!(hello["auth"]["deviceToken"].is_string());
}

#[actix_web::test]
async fn a_restart_lets_runs_finish_and_keeps_sessions() {
    let gateway = gateway(|_| {});
    let (mut peer, hello) = Peer::open(&gateway).await;
    peer.say("k", "gate g: one two").await;
    let watch = async {
        peer.until(|frame| frame["payload"]["message"]["content"][0]["text"] == "one ").await;
        assert_eq!(peer.say("late", "say: no").await["error"]["code"], "UNAVAILABLE");
        gateway.release("g");
        assert_eq!(last_text(&peer.run("k").await), "one two");
        let shutdown = peer.until(|frame| frame["event"] == "shutdown").await;
        assert_eq!(shutdown["payload"]["reason"], "gateway restarting");
        assert_eq!(peer.next().await, json!({ "close": 1012, "reason": "service restart" }));
        drop(peer);
    };
    let (restarted, ()) = tokio::join!(gateway.restart("second boot"), watch);
    restarted.expect("the same port");
    let (mut peer, again) = Peer::open(&gateway).await;
    assert_eq!(again["server"]["bootId"], "second boot");
    assert_ne!(again["server"]["bootId"], hello["server"]["bootId"]);
    assert_eq!(gateway.rows("s").len(), 2);
    assert_eq!(peer.say("k", "gate g: one two").await["payload"]["status"], "started");
    let events = peer.run("k").await;
    assert_eq!((events.len(), events[0].get("message")), (1, None), "only the history remembers");
    assert_eq!(gateway.rows("s").len(), 2);
}

#[actix_web::test]
async fn a_crash_loses_runs_and_a_recovery_takes_them_up() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    peer.say("k", "gate g: one two").await;
    peer.until(|frame| frame["payload"]["message"]["content"][0]["text"] == "one ").await;
    gateway.crash().await;
    assert_eq!(peer.until(|frame| frame.get("close").is_some()).await, json!({ "gone": true }), "no close frame");
    let address = gateway.url.strip_prefix("ws://").expect("a URL");
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
    assert_eq!(gateway.rows("s").len(), 1, "the half answer is lost");
    gateway.recover("second boot").await.expect("the same port");
    let (mut peer, _) = Peer::open(&gateway).await;
    let rows = gateway.rows("s");
    assert_eq!(rows[1]["provenance"]["sourceTool"], "main_session_restart_recovery");
    let run_id =
        rows[1]["idempotencyKey"].as_str().and_then(|key| key.strip_suffix(":user")).expect("a key").to_owned();
    assert_eq!(peer.say("k", "gate g: one two").await["payload"]["status"], "started", "acknowledged, but never ended");
    gateway.release("g");
    assert_eq!(last_text(&peer.run(&run_id).await), "one two");
    gateway.idle().await;
    assert_eq!(gateway.rows("s").len(), 3);
}

#[actix_web::test]
async fn a_lost_connection_does_not_stop_a_run() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    peer.say("1", "drop: one two").await;
    assert_eq!(peer.until(|frame| frame.get("close").is_some()).await, json!({ "gone": true }));
    gateway.idle().await;
    assert_eq!(gateway.rows("s")[1]["content"][0]["text"], "one two");

    let (mut peer, _) = Peer::open(&gateway).await;
    let (mut other, _) = Peer::open(&gateway).await;
    assert_eq!(gateway.connections(), 2);
    peer.say("2", "gate g: one two").await;
    gateway.kill();
    for peer in [&mut peer, &mut other] {
        assert_eq!(peer.until(|frame| frame.get("close").is_some()).await, json!({ "gone": true }));
    }
    gateway.connected(0).await;
    let (mut peer, _) = Peer::open(&gateway).await;
    gateway.stop_listening().await;
    assert_eq!(peer.until(|frame| frame.get("close").is_some()).await, json!({ "gone": true }));
    gateway.release("g");
    gateway.idle().await;
    gateway.listen_again().await.expect("the same port");
    let (mut peer, _) = Peer::open(&gateway).await;
    let page = peer.ask("chat.history", json!({ "sessionKey": "s", "limit": 1 })).await;
    assert_eq!(page["payload"]["messages"][0]["content"][0]["text"], "one two");
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn a_closed_port_is_given_to_nobody_else() {
    use socket2::{Domain, Socket, Type};
    let gateway = gateway(|_| {});
    gateway.stop_listening().await;
    let address = gateway.url.strip_prefix("ws://").expect("a URL");
    let address: std::net::SocketAddr = address.parse().expect("an address");
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    assert!(other.bind(&address.into()).is_err(), "the port is the gateway's");
    gateway.listen_again().await.expect("the same port");
    Peer::open(&gateway).await;
}

#[actix_web::test]
async fn a_starting_gateway_asks_to_come_back() {
    let gateway = gateway(|_| {});
    gateway.hold_starting(true);
    let (mut peer, _) = Peer::dial(&gateway.url).await;
    let refused = peer.ask("connect", connect_params()).await;
    assert_eq!(
        (&refused["error"]["details"]["reason"], &refused["error"]["retryAfterMs"]),
        (&json!("startup-sidecars"), &json!(500))
    );
    gateway.hold_starting(false);
    Peer::open(&gateway).await;
}

#[actix_web::test]
async fn limits_hold_and_a_stop_frees_the_port() {
    let gateway = gateway(|options| options.tick_ms = 20);
    let (mut peer, hello) = Peer::open(&gateway).await;
    assert_eq!(hello["policy"]["tickIntervalMs"], 20);
    let tick = peer.until(|frame| frame["event"] == "tick").await;
    assert_eq!(tick["seq"], 1);
    peer.send("x".repeat(super::super::FRAME_BYTES_MAX + 1)).await;
    assert_eq!(peer.until(|frame| frame.get("close").is_some()).await["close"], 1009);

    let mut peers = Vec::new();
    gateway.connected(0).await;
    for _ in 0..super::super::peers::CONNECTIONS_MAX {
        peers.push(Peer::open(&gateway).await.0);
    }
    assert!(Client::default().ws(&gateway.url).connect().await.is_err(), "one too many");
    let mut last = peers.pop().expect("a peer");
    drop(peers);
    gateway.connected(1).await;
    let url = gateway.url.clone();
    let farewell = async {
        last.until(|frame| frame["event"] == "shutdown").await;
        assert_eq!(last.next().await["close"], 1012);
        drop(last);
    };
    tokio::join!(gateway.stop(), farewell);
    assert!(TcpStream::connect(url.strip_prefix("ws://").expect("a URL")).is_err());
}

#[actix_web::test]
async fn a_forwarded_request_is_refused_and_a_browser_may_do_nothing() {
    let gateway = gateway(|_| {});
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert!(Client::default().ws(&gateway.url).header("X-Forwarded-For", "10.0.0.1").connect().await.is_err());
    let origin = Client::default().ws(&gateway.url).header("Origin", "http://localhost").connect().await;
    let mut peer = Peer { socket: origin.expect("an upgrade").1, requests: 0 };
    peer.next().await;
    assert_eq!(peer.ask("connect", connect_params()).await["payload"]["auth"]["scopes"], json!([]));
}
