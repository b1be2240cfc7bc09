//! Agents of a broker, registered by the admin; the guards against agents that never stop talking are off.
use serde_json::{Value, json};

use super::broker::Broker;
use super::http::Http;

/// Off, so that one pair may ask each other as fast as it can; and no mailbox is full.
pub(crate) const SETTINGS: &str = "mailbox_messages_max = 1000000\n[mailbox]\nhops_max = 0\npair_requests_max = 0\n";
/// What a report of a run says of it.
pub(crate) const GUARDS: &str = "loop guards off: hops_max = 0, pair_requests_max = 0";
/// Connections that register at a time.
const AT_ONCE: usize = 32;

/// An agent and its key.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) key: String,
}

/// Registers so many agents.
pub(crate) async fn register(broker: &Broker, count: usize) -> Vec<Agent> {
    let each = (0..AT_ONCE).map(async |first| {
        let mut admin = Http::open(&broker.address, &format!("Authorization: Bearer {}", broker.token)).await;
        let mut agents = Vec::with_capacity(count.div_ceil(AT_ONCE));
        for n in (first..count).step_by(AT_ONCE) {
            let new = json!({ "name": format!("agent-{n}") }).to_string();
            let id = field(admin.call("POST", "/api/admin/agents", &new, 201).await, "id");
            let path = format!("/api/admin/agents/{id}/keys");
            let key = field(admin.call("POST", &path, "{}", 201).await, "api_key");
            agents.push(Agent { id, key });
        }
        agents
    });
    futures_util::future::join_all(each).await.into_iter().flatten().collect()
}

/// Returns a text of a JSON object.
pub(crate) fn field(body: &str, name: &str) -> String {
    let value: Value = serde_json::from_str(body).expect("JSON");
    value[name].as_str().unwrap_or_else(|| panic!("{name}: {body}")).to_owned()
}
