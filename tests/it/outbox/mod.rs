//! People reached by channels, through the real binary: out to providers that check what they are asked, and in from them.
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Broker, Database};
use crate::mailbox::client::Agent;

mod breaker;
mod feishu;
mod hooks;
mod inbound;
mod kills;
mod limits;
mod lists;
mod others;
mod polling;
mod proofs;
mod secrets;
mod setting_up;
mod tokens;
mod turns;
mod ways;

const SEND: &str = "/api/gateway/send-message";
const REPORT: &str = "/api/gateway/report";

/// How long something may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A broker with an agent that knows a person.
struct World {
    broker: Broker,
    ann: Agent,
    /// The person's id.
    eve: String,
}

/// The settings of most tests: a provider that is silent is soon given up, and webhooks may go to this machine.
const SETTINGS: &str = "[channels]\ntimeout_s = 1\nwebhook_plain = true\nwebhook_private = true\n";

impl World {
    /// Starts a broker with these settings; the person, Eve, has these addresses.
    async fn with(database: &Database, settings: &str, addresses: Value) -> Self {
        let file = database.data_dir().join("settings.toml");
        std::fs::write(&file, settings).expect("a file");
        let broker = Broker::start(database, &[], &[("CLAWBROKER_CONFIG", &file.to_string_lossy())]).await;
        let ann = Agent::register(&broker, "ann").await;
        let mut world = Self { broker, ann, eve: String::new() };
        world.eve = world.person("Eve", addresses).await;
        world
    }

    /// Keeps a person whom the agent knows; returns its id.
    async fn person(&self, name: &str, addresses: Value) -> String {
        let mut member = addresses;
        member["name"] = json!(name);
        let (status, made) = self.broker.post("/api/admin/members", member).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().expect("an id").to_owned();
        self.know(&self.ann, &id).await;
        id
    }

    /// Has an agent know a person.
    async fn know(&self, agent: &Agent, member: &str) {
        let knows = json!({ "member_id": member, "relation": "boss" });
        let path = format!("/api/admin/agents/{}/relationships", agent.id);
        let (status, known) = self.broker.post(&path, knows).await;
        assert_eq!(status, 201, "{known}");
    }

    /// Registers one more agent that knows Eve: its messages to her are another conversation.
    async fn acquaintance(&self, name: &str) -> Agent {
        let agent = Agent::register(&self.broker, name).await;
        self.know(&agent, &self.eve).await;
        agent
    }

    async fn new(database: &Database, addresses: Value) -> Self {
        Self::with(database, SETTINGS, addresses).await
    }

    /// Sets a channel up; returns its id.
    async fn channel(&self, body: Value) -> String {
        let (status, made) = self.broker.post("/api/admin/channels", body).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Has the agent write to the person; returns status and answer.
    async fn send(&self, content: &str) -> (u16, Value) {
        self.send_with(json!({ "content": content })).await
    }

    async fn send_with(&self, mut body: Value) -> (u16, Value) {
        body["target"] = json!("Eve");
        self.ann.call(&self.broker, "POST", SEND, Some(body)).await
    }

    /// Has another agent write to the person; returns the message's id.
    async fn send_as(&self, agent: &Agent, content: &str) -> Value {
        let body = json!({ "target": "Eve", "content": content });
        let (status, sent) = agent.call(&self.broker, "POST", SEND, Some(body)).await;
        assert_eq!(status, 200, "{sent}");
        sent["message_id"].clone()
    }

    /// Waits until the delivery of a message has ended; returns it.
    async fn ended(&self, message: &Value) -> Value {
        let path = format!("/api/admin/messages/{}", message.as_str().expect("an id"));
        let began = tokio::time::Instant::now();
        loop {
            let (_, receipt) = self.broker.get(&path).await;
            let delivery = &receipt["deliveries"][0];
            if !delivery["ended_at"].is_null() {
                return delivery.clone();
            }
            assert!(began.elapsed() < PATIENCE, "it has not ended: {receipt}\n{}", self.broker.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Calls a channel's hook as a provider does; returns the status and the answer.
    async fn hook(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let method = method.parse().expect("a method");
        let mut request =
            awc::Client::new().request(method, format!("http://{}{path}", self.broker.address)).timeout(PATIENCE);
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let mut response = request.send_body(body.to_owned()).await.expect("an answer");
        let bytes = response.body().await.expect("a whole body");
        (response.status().as_u16(), String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lets a sender in as the person.
    async fn allow(&self, channel: &str, sender: &str) {
        let path = format!("/api/admin/channels/{channel}/senders/{sender}/allow");
        let (status, allowed) = self.broker.post(&path, json!({ "member_id": self.eve })).await;
        assert_eq!((status, &allowed["member_id"]), (200, &json!(self.eve)), "{allowed}");
    }

    /// Returns the senders of a channel: ref and person.
    async fn senders(&self, channel: &str) -> Vec<(String, Value)> {
        let (_, list) = self.broker.get(&format!("/api/admin/channels/{channel}/senders")).await;
        let items = list["items"].as_array().expect("a list");
        items.iter().map(|one| (one["ref"].as_str().expect("a ref").to_owned(), one["member_id"].clone())).collect()
    }

    /// Has the agent answer a request.
    async fn report(&self, message: &Value, result: &str) {
        let done = json!({ "message_id": message["id"], "result": result });
        let (status, answer) = self.ann.call(&self.broker, "POST", REPORT, Some(done)).await;
        assert_eq!(status, 200, "{answer}");
    }
}

/// Waits until something is as it should be.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(LOOK).await;
    }
}
