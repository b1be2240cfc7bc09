//! The order of checks: the credential, what the path names, then everything else. For every route of the description,
//! so that a new one is checked as well.
use actix_web::http::Method;
use clawbroker::channels::webhook;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::Role;
use serde_json::json;

use super::TestNode;
use super::access::{TABLE, Who, filled, method, routes};
use super::node::Call;

on_both_databases!(
    the_credential_comes_first_and_then_what_the_path_names,
    everything_else_is_checked_before_anything_is_done,
    the_admin_api_refuses_what_it_does_not_know_in_every_query,
);

/// The routes whose path names something of ours, each with the role that it wants.
fn naming() -> impl Iterator<Item = (&'static str, &'static str, Who)> {
    // Providers prove themselves in their own ways.
    let ours = |path: &str| !path.contains("{file}") && !path.starts_with("/hooks/");
    TABLE.iter().copied().filter(move |(_, path, _)| path.contains('{') && ours(path))
}

/// A call that is wrong in everything but its path: form of the answer, query, header, body.
fn wrong<'a>(node: &'a TestNode, name: &str, path: &str) -> Call<'a> {
    let query = "nonsense=1&limit=x&cursor=%ff&before=x&after=y&purge=perhaps&upstream=perhaps&deltas=x";
    node.call(method(name), &format!("{path}?{query}"))
        .header("accept", "text/html")
        .header("idempotency-key", "not plain")
        .body("text/plain", "{")
}

/// A role that is too low.
fn too_low(who: Who) -> Option<Role> {
    match who {
        Who::Anybody | Who::Agent | Who::From(Role::Viewer) => None,
        Who::From(Role::Member) => Some(Role::Viewer),
        Who::From(Role::Operator) | Who::Observer => Some(Role::Member),
        Who::From(Role::Admin) => Some(Role::Operator),
    }
}

async fn the_credential_comes_first_and_then_what_the_path_names(node: TestNode) {
    node.gateway("lab").await;
    let (_, key) = node.agent("ann").await;
    for (name, path, who) in naming() {
        let unknown = filled(path);
        wrong(&node, name, &unknown).send().await.expect_error(401, "unauthenticated");
        if let Some(role) = too_low(who) {
            wrong(&node, name, &unknown).by(role).await.expect_error(403, "forbidden");
        }
        // A session that does not exist has no messages, which is an answer; and what says where another path is says so
        // of every agent.
        let always_there = path.ends_with("/sessions/{key}/messages") || path.contains("/generate-key/");
        for unknown in [unknown, filled(&path.replace("{gw_id}/sessions/{key}", "lab/sessions/{key}"))] {
            let call = wrong(&node, name, &unknown);
            let reply = if who == Who::Agent { call.with_key(&key).await } else { call.by(Role::Admin).await };
            // The ancestor's clients know 403 here, for agents that do not exist as well, so that it tells nothing.
            let is_guide = path.contains("/setup-guide/");
            let expected = if always_there {
                406
            } else if is_guide {
                403
            } else {
                404
            };
            assert_eq!(reply.status.as_u16(), expected, "{name} {unknown}: {}", reply.text);
        }
    }
}

/// One of each thing that a path may name.
pub(super) struct Known {
    pub(super) conversation: String,
    message: String,
    pub(super) delivery: String,
    user: String,
    token: String,
    agent: String,
    key: String,
    /// A message that the agent has sent.
    agent_message: String,
    member: String,
    /// The agent knows the member.
    relationship: String,
    channel: String,
    /// Somebody who has written on the channel.
    sender: String,
    /// A key of the agent, as it says it.
    pub(super) agent_key: String,
}

impl Known {
    pub(super) async fn make(node: &TestNode) -> Self {
        node.gateway("lab").await;
        let post = async |path: &str, body| {
            let made = node.post(path).json(&body).by(Role::Admin).await;
            assert!(made.status.is_success(), "{path}: {}", made.text);
            made.json
        };
        let id = |value: &serde_json::Value| value["id"].as_str().unwrap().to_owned();
        let session = post("/api/gateways/lab/sessions", json!({ "session_key": "a" })).await;
        let path = format!("/api/admin/conversations/{}/messages", id(&session));
        let said = post(&path, json!({ "content": "hello" })).await;
        let user = post("/api/admin/users", json!({ "name": "eve", "role": "member" })).await;
        let token = post("/api/admin/tokens", json!({ "name": "t", "user": "eve" })).await;
        let agent = post("/api/admin/agents", json!({ "name": "Ann" })).await;
        let key = post(&format!("/api/admin/agents/{}/keys", id(&agent)), json!({ "label": "k" })).await;
        let other = post("/api/gateways/lab/sessions", json!({ "session_key": "b" })).await;
        let path = format!("/api/admin/conversations/{}/messages", id(&other));
        let by_agent = json!({ "content": "noted", "from": format!("agent:{}", id(&agent)), "deliver": false });
        let noted = post(&path, by_agent).await;
        let member = post("/api/admin/members", json!({ "name": "Eve" })).await;
        let path = format!("/api/admin/agents/{}/relationships", id(&agent));
        let relationship = post(&path, json!({ "member_id": member["id"], "relation": "boss" })).await;
        let hook = json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": "the secret of a hook" } });
        let channel = post("/api/admin/channels", hook).await;
        let sender = "crm-7".to_owned();
        let line = json!({ "id": "1", "text": "hello", "from": sender }).to_string();
        let time = (node.state.clock.now_ms() / 1_000).to_string();
        let signature = webhook::signature(&Secret::new("the secret of a hook"), &time, line.as_bytes());
        let call = node.call(Method::POST, &format!("/hooks/{}", id(&channel)));
        let call = call.header("x-clawbroker-timestamp", &time).header("x-clawbroker-signature", &signature);
        call.body("application/json", &line).send().await.expect_status(200);
        Self {
            conversation: id(&session),
            message: id(&said["message"]),
            delivery: id(&said["deliveries"][0]),
            user: id(&user),
            token: id(&token),
            agent: id(&agent),
            key: id(&key),
            agent_message: id(&noted["message"]),
            member: id(&member),
            relationship: id(&relationship),
            channel: id(&channel),
            sender,
            agent_key: key["api_key"].as_str().unwrap().to_owned(),
        }
    }

    pub(super) fn filled(&self, path: &str) -> String {
        let id = match path.trim_start_matches("/api/admin/").split('/').next() {
            Some("conversations") => &self.conversation,
            Some("messages") => &self.message,
            Some("deliveries") => &self.delivery,
            Some("users") => &self.user,
            Some("tokens") => &self.token,
            Some("agents") => &self.agent,
            Some("members") => &self.member,
            Some("channels") => &self.channel,
            _ if path.starts_with("/api/gateway/messages/") => &self.agent_message,
            _ if path.starts_with("/api/gateway/") => &self.agent,
            _ => "lab",
        };
        let path = path.replace("{id}", id).replace("{gw_id}", "lab").replace("{key}", "a");
        path.replace("{key_id}", &self.key).replace("{rel_id}", &self.relationship).replace("{ref}", &self.sender)
    }

    /// Checks that all of it is as it was.
    pub(super) async fn check(&self, node: &TestNode) {
        let get = async |path: String| node.get(&path).by(Role::Admin).await.expect_status(200).json;
        get("/api/gateways/lab/sessions/a".into()).await;
        let receipt = get(format!("/api/admin/messages/{}", self.message)).await;
        assert_eq!(receipt["deliveries"][0]["state"], "pending");
        let log = get(format!("/api/admin/conversations/{}/messages", self.conversation)).await;
        assert_eq!(log["items"].as_array().unwrap().len(), 1);
        let users = get("/api/admin/users".into()).await;
        let eve = users["items"].as_array().unwrap().iter().find(|user| user["id"] == self.user.as_str()).unwrap();
        assert_eq!(eve["role"], "member");
        let tokens = get(format!("/api/admin/tokens?user_id={}", self.user)).await;
        assert_eq!((tokens["items"].as_array().unwrap().len(), &tokens["items"][0]["revoked_at"]), (1, &json!(null)));
        let agent = get(format!("/api/admin/agents/{}", self.agent)).await;
        assert_eq!((&agent["name"], &agent["status"]), (&json!("Ann"), &json!("running")));
        assert_eq!(get(format!("/api/admin/members/{}", self.member)).await["name"], "Eve");
        let known = get(format!("/api/admin/agents/{}/relationships", self.agent)).await;
        assert_eq!((known["items"].as_array().unwrap().len(), &known["items"][0]["relation"]), (1, &json!("boss")));
        let channel = get(format!("/api/admin/channels/{}", self.channel)).await;
        assert_eq!((&channel["name"], &channel["enabled"]), (&json!("Hook"), &json!(true)));
        let senders = get(format!("/api/admin/channels/{}/senders", self.channel)).await;
        assert_eq!(senders["items"][0]["member_id"], json!(null));
        let keys = get(format!("/api/admin/agents/{}/keys", self.agent)).await;
        assert_eq!((keys["items"].as_array().unwrap().len(), &keys["items"][0]["revoked_at"]), (1, &json!(null)));
    }

    /// Sends a call as somebody who may make it.
    pub(super) async fn allowed(&self, call: Call<'_>, who: Who) -> super::node::Reply {
        match who {
            Who::Agent => call.with_key(&self.agent_key).await,
            _ => call.by(Role::Admin).await,
        }
    }
}

async fn everything_else_is_checked_before_anything_is_done(node: TestNode) {
    let known = Known::make(&node).await;
    for (name, path, who) in naming() {
        let reply = known.allowed(wrong(&node, name, &known.filled(path)), who).await;
        // A socket's answer has no form; it is no handshake.
        let expected = if path.starts_with("/ws/") { (400, "invalid_request") } else { (406, "not_acceptable") };
        assert_eq!((reply.status.as_u16(), reply.code()), expected, "{name} {path}: {}", reply.text);
    }
    known.check(&node).await;
}

async fn the_admin_api_refuses_what_it_does_not_know_in_every_query(node: TestNode) {
    let known = Known::make(&node).await;
    for (name, path) in routes().into_iter().filter(|(_, path)| path.starts_with("/api/admin/")) {
        let call = || node.call(method(&name), &format!("{}?nonsense=1", known.filled(&path))).header("accept", "*/*");
        call().send().await.expect_error(401, "unauthenticated");
        let refused = call().by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(
            (refused.fields(), &refused.json["detail"][0]["loc"]),
            (vec!["nonsense"], &json!(["query", "nonsense"])),
            "{name} {path}"
        );
    }
    known.check(&node).await;
    // The families' clients send extras.
    node.get("/api/gateways?nonsense=1").by(Role::Viewer).await.expect_status(200);
    node.get("/api/gateways/lab/sessions?nonsense=1").by(Role::Viewer).await.expect_status(200);
}
