//! The chat family: an ancestor's calls, and what is ours beside them.
use std::collections::BTreeSet;

use clawbroker::actors::messages::UpstreamSession;
use clawbroker::domain::ids::{DeliveryId, TurnId};
use clawbroker::domain::turn::TurnState;
use clawbroker::domain::user::Role;
use clawbroker::store::chat::AcceptChat;
use clawbroker::store::conversations::{NewSession, OpenSession, SessionName};
use clawbroker::store::turns::{BeginTurn, EndTurn};
use serde_json::{Value, json};

use super::TestNode;
use crate::harness::test_store::answer;

on_both_databases!(
    the_ancestors_readme_works,
    gateways_are_made_once_for_each_key,
    a_gateway_takes_its_sessions_along_only_when_told,
    sessions_are_the_callers_own,
    a_session_goes_by_both_of_its_names,
    sessions_are_listed_by_page,
    what_only_the_gateway_has_is_shown_to_operators,
    messages_are_read_by_page,
    deleting_upstream_comes_first,
    a_gateway_that_is_silent_takes_nothing_along,
);

/// Asks something as this user and has it answered.
async fn talk(node: &TestNode, user: &str, gateway: &str, key: &str, text: &str) {
    let caller = node.user(user, Role::Member).await;
    let open = OpenSession {
        name: SessionName::new(gateway.parse().unwrap(), &key.parse().unwrap(), None),
        caller: caller.clone(),
        new: NewSession::default(),
        must_be_new: false,
    };
    let asked = AcceptChat {
        conversation_id: node.state.store.write(open).await.unwrap().id,
        caller,
        from: None,
        text: text.into(),
        client_key: None,
        socket_id: None,
        gateway_up: true,
        no_queue: false,
        queued_max: 100,
        line_only: None,
    };
    let delivery_id: DeliveryId = node.state.store.write(asked).await.unwrap().delivery.unwrap().id;
    let turn_id = TurnId::new();
    node.state.store.write(BeginTurn { turn_id, delivery_id }).await.unwrap();
    let end = EndTurn { state: TurnState::Final, ..answer(turn_id, &format!("re: {text}")) };
    node.state.store.write(end).await.unwrap();
}

fn texts(messages: &Value) -> Vec<String> {
    let text = |message: &Value| message["content"][0]["text"].as_str().unwrap().to_owned();
    messages.as_array().unwrap().iter().map(text).collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

async fn the_ancestors_readme_works(node: TestNode) {
    let by = Role::Operator;
    assert_eq!(node.get("/api/gateways").by(by).await.expect_status(200).json, json!([]));
    let new = json!({ "id": "gw-1", "name": "Lab", "url": "ws://10.0.0.1:18789", "token": "t0ken", "password": "" });
    let made = node.post("/api/gateways").json(&new).by(by).await.expect_status(200);
    let shown = json!({ "id": "gw-1", "name": "Lab", "url": "ws://10.0.0.1:18789", "connected": false });
    assert_eq!(made.json, shown, "these four and nothing else");
    let twice = node.post("/api/gateways").json(&new).by(by).await.expect_error(400, "already_exists");
    assert!(twice.json["detail"].is_string());
    let list = node.get("/api/gateways").by(by).await.expect_status(200);
    assert_eq!((list.json, list.headers.get("x-total-count").unwrap().to_str().unwrap()), (json!([shown]), "1"));

    node.connect(&"gw-1".parse().unwrap());
    let status = node.get("/api/gateways/gw-1/status").by(by).await.expect_status(200).json;
    assert_eq!(
        status,
        json!({
            "id": "gw-1", "connected": true, "agents": [{ "id": "main" }], "models": [{ "id": "model-1" }],
            "default_model": "model-1", "state": "connected",
        })
    );
    let unknown = node.get("/api/gateways/none/status").by(by).await.expect_error(404, "gateway_not_found");
    assert_eq!(unknown.json["detail"], "Gateway not found");

    let new =
        json!({ "session_key": "webchat-123", "title": "First", "agent_id": "main", "model": "model-1", "extra": 1 });
    let session = node.post("/api/gateways/gw-1/sessions").json(&new).by(by).await.expect_status(200).json;
    let fields = [
        "id",
        "gateway_id",
        "session_key",
        "title",
        "agent_id",
        "model",
        "created_at",
        "last_activity",
        "canonical_key",
        "tracked",
        "unread",
        "first_seq",
        "last_seq",
        "archived",
    ];
    assert_eq!(keys(&session), BTreeSet::from(fields));
    assert_eq!(
        (&session["session_key"], &session["title"], &session["unread"]),
        (&json!("webchat-123"), &json!("First"), &json!(0))
    );
    node.post("/api/gateways/gw-1/sessions").json(&new).by(by).await.expect_error(400, "already_exists");
    assert_eq!(node.get("/api/gateways/gw-1/sessions/webchat-123").by(by).await.expect_status(200).json, session);
    assert_eq!(node.get("/api/gateways/gw-1/sessions").by(by).await.expect_status(200).json, json!([session]));
    node.get("/api/gateways/gw-1/sessions/none").by(by).await.expect_error(404, "not_found");

    talk(&node, "operator", "gw-1", "webchat-123", "hello").await;
    let messages =
        node.get("/api/gateways/gw-1/sessions/webchat-123/messages?limit=50").by(by).await.expect_status(200).json;
    assert_eq!(texts(&messages), ["hello", "re: hello"]);
    let first = &messages[0];
    assert_eq!(
        keys(first),
        BTreeSet::from(["id", "session_id", "seq", "role", "content", "timestamp", "created_at", "sender"])
    );
    assert_eq!(
        (&first["session_id"], &first["role"], &first["sender"]["kind"]),
        (&session["id"], &json!("user"), &json!("user"))
    );
    assert!(first["timestamp"].is_i64() && first["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(messages[1]["role"], "assistant");

    let changed = node
        .patch("/api/gateways/gw-1/sessions/webchat-123")
        .json(&json!({ "title": null, "archived": true }))
        .by(by)
        .await;
    let changed = changed.expect_status(200).json;
    assert_eq!((&changed["title"], &changed["archived"], &changed["unread"]), (&Value::Null, &json!(true), &json!(1)));
    let nothing =
        node.patch("/api/gateways/gw-1/sessions/webchat-123").json(&json!({})).by(by).await.expect_status(200).json;
    assert_eq!(nothing["archived"], true);

    let gone = "/api/gateways/gw-1/sessions/webchat-123";
    assert_eq!(node.delete(gone).by(by).await.expect_status(200).json, json!({ "ok": true }));
    node.delete(gone).by(by).await.expect_error(404, "not_found");
    node.get(gone).by(by).await.expect_error(404, "not_found");
    assert_eq!(node.get(&format!("{gone}/messages")).by(by).await.expect_status(200).json, json!([]));
    assert_eq!(node.delete("/api/gateways/gw-1").by(by).await.expect_status(200).json, json!({ "ok": true }));
    node.delete("/api/gateways/gw-1").by(by).await.expect_error(404, "gateway_not_found");
    assert_eq!(node.get("/api/gateways").by(by).await.expect_status(200).json, json!([]));
}

async fn gateways_are_made_once_for_each_key(node: TestNode) {
    let send = |key: &'static str, body: Value| {
        node.post("/api/gateways").header("idempotency-key", key).json(&body).by(Role::Operator)
    };
    let body = json!({ "name": "My Lab", "url": "wss://gw.example", "token": "a" });
    let first = send("k-1", body.clone()).await.expect_status(200).json;
    assert_eq!(first["id"], "my-lab");
    assert_eq!(send("k-1", body.clone()).await.expect_status(200).json, first);
    send("k-1", json!({ "name": "Other", "url": "wss://gw.example" })).await.expect_error(409, "idempotency_conflict");
    assert_eq!(send("k-2", body).await.expect_status(200).json["id"], "my-lab-2");
    for (wrong, field) in [
        (json!({ "url": "ws://x" }), "name"),
        (json!({ "name": "x" }), "url"),
        (json!({ "name": "x", "url": "http://x" }), "url"),
        (json!({ "name": "x", "url": "ws://user:pw@x" }), "url"),
        (json!({ "name": "x", "url": "ws://x", "id": "federated" }), "id"),
        (json!({ "name": "x", "url": "ws://x", "track": "some" }), "track"),
    ] {
        let refused =
            node.post("/api/gateways").json(&wrong).by(Role::Operator).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field]);
        assert!(!refused.text.contains("user:pw"));
    }
}

async fn a_gateway_takes_its_sessions_along_only_when_told(node: TestNode) {
    node.gateway("lab").await;
    talk(&node, "ann", "lab", "a", "hello").await;
    node.delete("/api/gateways/lab").by(Role::Operator).await.expect_status(200);
    let ann = |path: &str| node.get(path).by_user("ann", Role::Member);
    assert_eq!(ann("/api/gateways/lab/sessions").await.expect_status(200).json.as_array().unwrap().len(), 1);
    assert_eq!(texts(&ann("/api/gateways/lab/sessions/a/messages").await.json), ["hello", "re: hello"]);
    node.post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "b" }))
        .by_user("ann", Role::Member)
        .await
        .expect_error(404, "gateway_not_found");
    node.gateway("lab").await;
    node.delete("/api/gateways/lab?purge=perhaps").by(Role::Operator).await.expect_error(422, "validation_error");
    node.delete("/api/gateways/lab?purge=true").by(Role::Operator).await.expect_status(200);
    ann("/api/gateways/lab/sessions").await.expect_error(404, "gateway_not_found");
}

async fn sessions_are_the_callers_own(node: TestNode) {
    node.gateway("lab").await;
    talk(&node, "ann", "lab", "ann-1", "secret plan").await;
    let base = "/api/gateways/lab/sessions";
    // Bob learns nothing of it, but that the name is taken.
    assert_eq!(node.get(base).by_user("bob", Role::Member).await.expect_status(200).json, json!([]));
    node.get(&format!("{base}/ann-1")).by_user("bob", Role::Member).await.expect_error(404, "not_found");
    assert_eq!(
        node.get(&format!("{base}/ann-1/messages")).by_user("bob", Role::Member).await.expect_status(200).json,
        json!([])
    );
    node.patch(&format!("{base}/ann-1"))
        .json(&json!({ "title": "x" }))
        .by_user("bob", Role::Member)
        .await
        .expect_error(404, "not_found");
    node.delete(&format!("{base}/ann-1")).by_user("bob", Role::Member).await.expect_error(404, "not_found");
    let taken = node.post(base).json(&json!({ "session_key": "ann-1" })).by_user("bob", Role::Member).await;
    taken.expect_error(409, "already_exists");
    // A viewer reads everything and changes nothing; an operator does both.
    assert_eq!(node.get(base).by(Role::Viewer).await.expect_status(200).json.as_array().unwrap().len(), 1);
    node.get(&format!("{base}/ann-1")).by(Role::Viewer).await.expect_status(200);
    node.delete(&format!("{base}/ann-1")).by(Role::Viewer).await.expect_error(403, "forbidden");
    node.patch(&format!("{base}/ann-1")).json(&json!({ "title": "seen" })).by(Role::Operator).await.expect_status(200);
    let ann = node.get(&format!("{base}/ann-1")).by_user("ann", Role::Member).await.expect_status(200);
    assert_eq!(ann.json["title"], "seen");
}

async fn a_session_goes_by_both_of_its_names(node: TestNode) {
    node.gateway("lab").await;
    for key in ["Web Chat/1", "agent:main:direct", "ключ:1"] {
        node.post("/api/gateways/lab/sessions")
            .json(&json!({ "session_key": key }))
            .by(Role::Member)
            .await
            .expect_status(200);
    }
    let found = |path: &'static str| node.get(path).by(Role::Member);
    for (path, key) in [
        ("/api/gateways/lab/sessions/Web%20Chat%2F1", "Web Chat/1"),
        ("/api/gateways/lab/sessions/agent:main:direct", "agent:main:direct"),
        ("/api/gateways/lab/sessions/agent%3Amain%3Adirect", "agent:main:direct"),
        // The gateway would call it so.
        ("/api/gateways/lab/sessions/direct", "agent:main:direct"),
        ("/api/gateways/lab/sessions/%D0%BA%D0%BB%D1%8E%D1%87:1", "ключ:1"),
    ] {
        assert_eq!(found(path).await.expect_status(200).json["session_key"], key, "{path}");
    }
    found("/api/gateways/lab/sessions/%20").await.expect_error(404, "not_found");
}

async fn sessions_are_listed_by_page(node: TestNode) {
    node.gateway("lab").await;
    for index in 0..5 {
        node.clock.advance_ms(1_000);
        let body = json!({ "session_key": format!("s-{index}"), "title": if index == 3 { "Über 100%" } else { "x" } });
        node.post("/api/gateways/lab/sessions").json(&body).by(Role::Member).await.expect_status(200);
    }
    let archived = json!({ "archived": true });
    node.patch("/api/gateways/lab/sessions/s-0").json(&archived).by(Role::Member).await.expect_status(200);
    let mut path = "/api/gateways/lab/sessions?limit=2&archived=false".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = node.get(&path).by(Role::Member).await.expect_status(200);
        assert_eq!(page.header("x-total-count"), "4");
        seen.extend(
            page.json.as_array().unwrap().iter().map(|session| session["session_key"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.header("link").strip_prefix('<').and_then(|link| link.split('>').next()) else { break };
        path = next.to_owned();
    }
    assert_eq!(seen, ["s-4", "s-3", "s-2", "s-1"]);
    let found = node.get("/api/gateways/lab/sessions?q=100%25").by(Role::Member).await.expect_status(200).json;
    assert_eq!((found.as_array().unwrap().len(), &found[0]["session_key"]), (1, &json!("s-3")));
    node.get("/api/gateways/lab/sessions?limit=501").by(Role::Member).await.expect_error(422, "validation_error");
    node.get("/api/gateways/lab/sessions?cursor=xyz").by(Role::Member).await.expect_error(422, "validation_error");
    // The same key gives the same session, another body a conflict.
    let send = |body: Value| {
        node.post("/api/gateways/lab/sessions").header("idempotency-key", "k").json(&body).by(Role::Member)
    };
    let first = send(json!({ "session_key": "once" })).await.expect_status(200).json;
    assert_eq!(send(json!({ "session_key": "once" })).await.expect_status(200).json["id"], first["id"]);
    send(json!({ "session_key": "twice" })).await.expect_error(409, "idempotency_conflict");
}

async fn what_only_the_gateway_has_is_shown_to_operators(node: TestNode) {
    node.gateway("lab").await;
    node.post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "Ours" }))
        .by(Role::Operator)
        .await
        .expect_status(200);
    node.clock.advance_ms(1_000);
    let newer = json!({ "session_key": "agent:main:newer" });
    node.post("/api/gateways/lab/sessions").json(&newer).by(Role::Operator).await.expect_status(200);
    let upstream = |key: &str| UpstreamSession {
        key: key.into(),
        title: Some(format!("Title of {key}")),
        agent_id: Some("main".into()),
        model: None,
        updated_at: Some(0),
        archived: false,
    };
    let keys = ["agent:main:ours", "agent:main:newer", "agent:main:x", "agent:main:y", "agent:main:z"];
    node.upstream.lock().unwrap().sessions = keys.map(upstream).to_vec();
    let mut path = "/api/gateways/lab/sessions?limit=1".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = node.get(&path).by(Role::Operator).await.expect_status(200);
        assert_eq!(page.header("x-total-count"), "5");
        for session in page.json.as_array().unwrap() {
            seen.push((session["session_key"].as_str().unwrap().to_owned(), session["tracked"].as_bool().unwrap()));
        }
        let Some(next) = page.header("link").strip_prefix('<').and_then(|link| link.split('>').next()) else { break };
        path = next.to_owned();
    }
    let expected = [
        ("agent:main:newer", true),
        ("Ours", true),
        ("agent:main:x", false),
        ("agent:main:y", false),
        ("agent:main:z", false),
    ];
    assert_eq!(seen, expected.map(|(key, tracked)| (key.to_owned(), tracked)));
    let one = node
        .get("/api/gateways/lab/sessions?q=title%20of%20agent:main:y")
        .by(Role::Operator)
        .await
        .expect_status(200)
        .json;
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(
        (&one[0]["id"], &one[0]["created_at"], &one[0]["last_activity"]),
        (&Value::Null, &Value::Null, &json!("1970-01-01T00:00:00.000Z"))
    );
    for role in [Role::Viewer, Role::Member] {
        let list = node.get("/api/gateways/lab/sessions").by(role).await.expect_status(200).json;
        assert!(list.as_array().unwrap().iter().all(|session| session["tracked"] == true), "{role:?}");
    }
}

async fn messages_are_read_by_page(node: TestNode) {
    node.gateway("lab").await;
    for index in 1..=3 {
        talk(&node, "ann", "lab", "a", &index.to_string()).await;
    }
    talk(&node, "ann", "lab", "b", "elsewhere").await;
    let base = "/api/gateways/lab/sessions/a/messages";
    let get = async |path: String| node.get(&path).by_user("ann", Role::Member).await;
    let newest = get(format!("{base}?limit=2")).await.expect_status(200);
    assert_eq!((texts(&newest.json), newest.header("x-total-count")), (vec!["3".to_owned(), "re: 3".to_owned()], "6"));
    let before = newest.json[0]["id"].as_str().unwrap();
    let older = get(format!("{base}?limit=3&before={before}")).await.expect_status(200);
    assert_eq!(texts(&older.json), ["re: 1", "2", "re: 2"]);
    let next = older.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    let oldest = get(next).await.expect_status(200);
    assert_eq!((texts(&oldest.json), oldest.header("link")), (vec!["1".to_owned()], ""));
    let elsewhere =
        get("/api/gateways/lab/sessions/b/messages".into()).await.json[0]["id"].as_str().unwrap().to_owned();
    get(format!("{base}?before={elsewhere}")).await.expect_error(404, "not_found");
    get(format!("{base}?before=7")).await.expect_error(422, "validation_error");
    for limit in ["0", "501", "x", "-1"] {
        get(format!("{base}?limit={limit}")).await.expect_error(422, "validation_error");
    }
    // An unknown session, an unknown gateway, a name that cannot be one.
    for path in [
        "/api/gateways/lab/sessions/none/messages",
        "/api/gateways/none/sessions/a/messages",
        "/api/gateways/federated/sessions/a/messages",
    ] {
        assert_eq!(get(path.into()).await.expect_status(200).json, json!([]), "{path}");
    }
    assert!(node.upstream.lock().unwrap().touched > 0, "a session that was not contacted yet is contacted");
}

async fn deleting_upstream_comes_first(node: TestNode) {
    node.gateway("lab").await;
    node.post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "Mine" }))
        .by(Role::Member)
        .await
        .expect_status(200);
    node.upstream.lock().unwrap().refuses = true;
    let path = "/api/gateways/lab/sessions/Mine?upstream=true";
    node.delete(path).by(Role::Member).await.expect_error(502, "upstream_refused");
    node.get("/api/gateways/lab/sessions/Mine").by(Role::Member).await.expect_status(200);
    node.upstream.lock().unwrap().refuses = false;
    node.delete(path).by(Role::Member).await.expect_status(200);
    assert_eq!(node.upstream.lock().unwrap().deleted, ["agent:main:mine", "agent:main:mine"]);
    node.get("/api/gateways/lab/sessions/Mine").by(Role::Member).await.expect_error(404, "not_found");
    // The name is free again.
    node.post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "Mine" }))
        .by_user("bob", Role::Member)
        .await
        .expect_status(200);
}

async fn a_gateway_that_is_silent_takes_nothing_along(node: TestNode) {
    node.gateway("lab").await;
    let new = json!({ "session_key": "a" });
    node.post("/api/gateways/lab/sessions").json(&new).by(Role::Operator).await.expect_status(200);
    node.upstream.lock().unwrap().silent = true;
    let path = "/api/gateways/lab/sessions/a?upstream=true";
    node.delete(path).by(Role::Operator).await.expect_error(503, "gateway_unavailable");
    let list = node.get("/api/gateways/lab/sessions").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(list.as_array().unwrap().len(), 1);
    node.get("/api/gateways/lab/sessions/a/messages").by(Role::Operator).await.expect_status(200);
    let tested = node.post("/api/admin/gateways/lab/test").by(Role::Operator).await.expect_status(200).json;
    assert_eq!((&tested["ok"], &tested["gateway"]["state"]), (&json!(false), &json!("connected")));
}
