//! Agents that are registered: what each of them costs while it does nothing, what they cost a start, and what those
//! cost that call.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clawbroker::actors::bootstrap::{digest, new_agent_key, prefix};
use clawbroker::domain::agent::{AgentKind, AgentState};
use clawbroker::store::agent_keys::AddAgentKey;
use clawbroker::store::agents::AddAgent;
use clawbroker::store::audit::Actor;
use clawbroker::store::{Location, Store};
use futures_util::future::join_all;

use super::broker::Broker;
use super::database;
use super::figures::{resident, say};
use super::http::Http;

/// Each with one key.
const AGENTS: usize = 100_000;
/// So many of them call.
const ACTIVE: usize = 1_000;
const STARTS: usize = 5;
/// Agents that are registered at once.
const AT_ONCE: usize = 500;
/// First polls at once: the broker reads what is there for each, and refuses what would wait behind too many reads.
const POLLS_AT_ONCE: usize = 50;
/// How long a broker is left alone before its memory is looked at.
const SETTLED: Duration = Duration::from_secs(2);

pub(crate) async fn run() {
    let dir = super::data_dir();
    register(dir.path(), 0).await;
    let (broker, without) = start(dir.path(), 0).await;
    drop(broker);
    let dir = super::data_dir();
    let keys = register(dir.path(), AGENTS).await;
    let (broker, idle) = start(dir.path(), AGENTS).await;
    show("agent that is registered, with its key", without, idle, AGENTS);
    for some in keys[..ACTIVE].chunks(POLLS_AT_ONCE) {
        let polls = some.iter().map(async |key| {
            let mut client = Http::agent(&broker.address, key).await;
            client.call("GET", "/api/gateway/poll", "", 200).await;
        });
        join_all(polls).await;
    }
    tokio::time::sleep(SETTLED).await;
    show("agent that has called, with its mailbox", idle, resident(broker.pid()), ACTIVE);
}

fn show(what: &str, before: u64, after: u64, count: usize) {
    let each = after.saturating_sub(before) as f64 / count as f64 / 1_024.0;
    say(&format!("  each {what}: {each:.2} KiB ({count} of them, {} -> {} MiB)", before >> 20, after >> 20));
}

/// Starts a broker on this data, which is killed each time; returns the last one, and how much memory it has.
async fn start(dir: &Path, agents: usize) -> (Broker, u64) {
    // The first start makes what a new data directory needs.
    drop(Broker::start(dir, None).await);
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let broker = Broker::start(dir, None).await;
        starts.push(broker.ready_after);
    }
    starts.sort();
    let broker = Broker::start(dir, None).await;
    tokio::time::sleep(SETTLED).await;
    let memory = resident(broker.pid());
    let ready_ms = starts[STARTS / 2].as_millis();
    say(&format!("  {agents} agents: ready after {ready_ms} ms (middle of {STARTS} kills), {} MiB", memory >> 20));
    (broker, memory)
}

/// Makes a database with so many agents; returns a key of each.
async fn register(dir: &Path, count: usize) -> Vec<String> {
    let opened = database::open(Location::Sqlite(dir.join("clawbroker.db")), dir).await;
    let mut keys = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_ONCE) {
        let some = (first..(first + AT_ONCE).min(count)).map(|n| agent(&opened.store, n));
        keys.extend(join_all(some).await);
    }
    opened.close().await;
    keys
}

/// Registers an agent; returns a key of it.
async fn agent(store: &Store, n: usize) -> String {
    let new = AddAgent {
        name: format!("agent-{n}"),
        slug: None,
        kind: AgentKind::OpenClaw,
        state: AgentState::Running,
        role_description: String::new(),
        creator_id: None,
        labels: BTreeMap::new(),
        lease_seconds: None,
        attempts_max: None,
        model: None,
        actor: Actor::system(),
        idem: None,
        agents_max: AGENTS,
    };
    let agent = store.write(new).await.expect("a disk that works");
    let key = new_agent_key().expect("randomness");
    let new = AddAgentKey {
        agent_id: agent.id,
        label: String::new(),
        prefix: prefix(key.reveal()),
        digest: digest(key.reveal()),
        expires_at: None,
        actor: Actor::system(),
        idem: None,
        keys_max: 1,
    };
    store.write(new).await.expect("a disk that works");
    key.reveal().to_owned()
}
