//! Polls that wait: what each of them costs, and how soon one hears of a message. Beside them a bare server whose
//! answers wait as long.
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::agents::{self, Agent};
use super::broker::Broker;
use super::figures::{Times, resident, say};
use super::http::Http;
use super::naive::{BARE, Naive};

/// Each of an agent of its own; one file here and two in the broker, of the 20,000 that a process may often have.
const POLLS: usize = 9_800;
/// Polls whose price is not counted: what the first ones bring with them is not the price of one.
const WARM: usize = 100;
/// Connections made at once, and how long the broker has for each such round: it reads what is there for every agent, and
/// refuses with `store_busy` what would wait behind too many reads.
const AT_ONCE: usize = 100;
const ROUND: Duration = Duration::from_millis(100);
/// Messages to agents that wait.
const MESSAGES: usize = 1_000;
const EVERY: Duration = Duration::from_millis(5);

pub(crate) async fn run() {
    let dir = super::data_dir();
    say(&format!("  {}", agents::GUARDS));
    let broker = Broker::start_with(None, dir.path(), None, agents::SETTINGS).await;
    let agents = agents::register(&broker, POLLS + 1).await;
    let (sender, waiting) = agents.split_last().expect("one at least");
    let path = "/api/gateway/poll?wait=60&limit=1";
    let warm = open(&broker.address, &waiting[..WARM], path).await;
    let before = resident(broker.pid());
    let mut polls = open(&broker.address, &waiting[WARM..], path).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("clawbroker, each with the mailbox of an agent", before, resident(broker.pid()), polls.len());

    // The newest ones first: they wait longest from now on.
    let mut client = Http::agent(&broker.address, &sender.key).await;
    let (mut sent, mut woken) = (Times::default(), Times::default());
    for (poll, agent) in polls.iter_mut().zip(&waiting[WARM..]).rev().take(MESSAGES) {
        tokio::time::sleep(EVERY).await;
        let body = json!({ "target": agent.id, "content": "wake up" }).to_string();
        let began = Instant::now();
        let send = async {
            client.call("POST", "/api/gateway/send-message", &body, 200).await;
            began.elapsed()
        };
        let wake = async {
            let (status, answer) = poll.answer().await;
            assert!(status == 200 && answer.contains("wake up"), "{status}: {answer}");
            began.elapsed()
        };
        let (is_sent, is_woken) = futures_util::join!(send, wake);
        sent.add_us(is_sent.as_micros() as u64);
        woken.add_us(is_woken.as_micros() as u64);
    }
    let count = woken.count();
    say(&format!("  from the send to the answer of the poll that waited, {count} of them: {}", woken.shown()));
    say(&format!("  beside it: to the answer of the send itself, which is on disk: {}", sent.shown()));
    drop((warm, polls, client, broker));

    let bare = Naive::start(BARE).await;
    let warm = open(&bare.address, &waiting[..WARM], "/wait").await;
    let before = resident(bare.pid());
    let polls = open(&bare.address, &waiting[WARM..], "/wait").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("beside it: a bare actix-web handler that waits", before, resident(bare.pid()), polls.len());
    drop(warm);
}

fn show(what: &str, before: u64, after: u64, polls: usize) {
    let each = after.saturating_sub(before) as f64 / polls as f64 / 1_024.0;
    say(&format!("  {what}: {each:.1} KiB each ({polls} polls, {} -> {} MiB)", before >> 20, after >> 20));
}

/// Has each of these agents ask, and wait for its answer.
async fn open(address: &str, agents: &[Agent], path: &str) -> Vec<Http> {
    let mut polls = Vec::with_capacity(agents.len());
    for some in agents.chunks(AT_ONCE) {
        let next = some.iter().map(async |agent| {
            let mut poll = Http::agent(address, &agent.key).await;
            poll.ask("GET", path, "").await;
            poll
        });
        polls.extend(futures_util::future::join_all(next).await);
        tokio::time::sleep(ROUND).await;
    }
    polls
}
