//! An agent of a real broker, as a client of its own sees it.
use std::time::Duration;

use serde_json::{Value, json};

use super::{POLL, SEND};
use crate::harness::Broker;

/// How long an answer may take: longer than a poll may wait.
const ANSWERED: Duration = Duration::from_secs(90);

/// A registered agent.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) key: String,
}

impl Agent {
    /// Registers an agent and makes a key of it.
    pub(crate) async fn register(broker: &Broker, name: &str) -> Self {
        let (status, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
        assert_eq!(status, 201, "{agent}");
        let id = agent["id"].as_str().expect("an id").to_owned();
        let (status, made) = broker.post(&format!("/api/admin/agents/{id}/keys"), json!({})).await;
        assert_eq!(status, 201, "{made}");
        Self { id, key: made["api_key"].as_str().expect("a key").to_owned() }
    }

    /// Calls the API by the key; returns the status and the body.
    pub(crate) async fn call(&self, broker: &Broker, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let request = awc::Client::new()
            .request(method, format!("http://{}{path}", broker.address))
            .timeout(ANSWERED)
            .insert_header(("X-Api-Key", self.key.as_str()));
        let sent = match body {
            Some(body) => request.send_json(&body).await,
            None => request.send().await,
        };
        let mut response = sent.expect("an answer");
        let bytes = response.body().limit(8 << 20).await.expect("a whole body");
        (response.status().as_u16(), serde_json::from_slice(&bytes).expect("JSON"))
    }

    /// Sends a message; returns its id.
    pub(crate) async fn send(&self, broker: &Broker, target: &str, content: &str) -> String {
        let body = json!({ "target": target, "content": content });
        let (status, sent) = self.call(broker, "POST", SEND, Some(body)).await;
        assert_eq!(status, 200, "{sent}");
        sent["message_id"].as_str().expect("an id").to_owned()
    }

    /// Polls, and waits for a message for half a minute; what comes is done with it.
    pub(crate) async fn messages(&self, broker: &Broker) -> Vec<Value> {
        let (status, polled) = self.call(broker, "GET", &format!("{POLL}?wait=30"), None).await;
        assert_eq!(status, 200, "{polled}");
        polled["messages"].as_array().expect("a list").clone()
    }

    /// Returns the skill that the agent is to follow.
    pub(crate) async fn skill(&self, broker: &Broker) -> String {
        let (status, guide) = self.call(broker, "GET", &format!("/api/gateway/setup-guide/{}", self.id), None).await;
        assert_eq!(status, 200, "{guide}");
        guide["skill_content"].as_str().expect("a text").to_owned()
    }
}
