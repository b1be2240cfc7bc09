//! A message between agents, over HTTP: sent, polled, reported on, and its reply polled. Beside it what the disk, a
//! bare server and, on PostgreSQL, pgbench do in the same run.
use std::path::Path;
use std::time::Duration;

use clawbroker::domain::secret::Secret;
use clawbroker::store::Location;
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

use super::agents::{self, Agent, field};
use super::broker::Broker;
use super::database;
use super::figures::{Times, cpu, say, syncs_per_s};
use super::http::Http;
use super::naive::{BARE, Naive};

const CLIENTS: usize = 32;
/// Clients of pgbench.
const PGBENCH_CLIENTS: usize = 16;
const FOR: Duration = Duration::from_secs(5);
/// Messages that are done before whole cycles are measured once more, and how long it may take until they are.
const DONE: usize = 100_000;
const DONE_MAX: Duration = Duration::from_secs(1_800);
const TEXT: &str = "a message as long as messages between agents usually are, with a question in it";
const SEND: &str = "/api/gateway/send-message";

pub(crate) async fn run() {
    let dir = super::data_dir();
    say(&format!("  {}", agents::GUARDS));
    let appends = syncs_per_s(dir.path());
    say(&format!("  the disk: {appends:.0} appends of 4 KiB with fdatasync a second, one after the other"));
    let at_best = appends * CLIENTS as f64 / 4.0;
    say(&format!(
        "    {at_best:.0} cycles/s, if four appends each were shared by {CLIENTS} clients and nothing else cost"
    ));
    measure("SQLite", None, dir.path()).await;
    if let Some(url) = database::postgres() {
        pgbench(&url, dir.path()).await;
        let dir = super::data_dir();
        database::empty(&Location::Postgres(Secret::new(url.as_str())));
        measure("PostgreSQL", Some(&url), dir.path()).await;
    }
}

async fn measure(what: &str, url: Option<&str>, dir: &Path) {
    let broker = Broker::start_with(url, dir, None, agents::SETTINGS).await;
    let agents = agents::register(&broker, 2 * CLIENTS).await;
    let pairs: Vec<&[Agent]> = agents.chunks(2).collect();
    let done = 2 * whole_cycles(what, &broker, &pairs).await;
    finish(&broker, &pairs, DONE.saturating_sub(done)).await;
    whole_cycles(&format!("{what} with {} messages that are done", done.max(DONE)), &broker, &pairs).await;
    // Of one client it is what a single commit takes.
    for clients in [1, CLIENTS] {
        let (times, per_s) = every(clients, async |n, until| sends(&broker, pairs[n], until).await).await;
        show(&format!("{what}, {clients} clients, send alone, on disk when answered"), "messages", times, per_s);
    }

    // The other half of each pair has nothing waiting.
    let polls =
        async |n: usize, until| asked(&broker.address, &pairs[n][0].key, "GET", "/api/gateway/poll", until).await;
    let (times, per_s) = every(CLIENTS, polls).await;
    show(&format!("{what}, {CLIENTS} clients, polls that find nothing"), "answers", times, per_s);
    let beats =
        async |n: usize, until| asked(&broker.address, &pairs[n][0].key, "POST", "/api/gateway/heartbeat", until).await;
    let (times, per_s) = every(CLIENTS, beats).await;
    show(&format!("{what}, {CLIENTS} clients, heartbeats"), "answers", times, per_s);
    drop(broker);

    let bare = Naive::start(BARE).await;
    let (times, per_s) = every(CLIENTS, async |_, until| asked(&bare.address, "none", "GET", "/", until).await).await;
    show(&format!("beside it: a bare actix-web handler, {CLIENTS} clients"), "answers", times, per_s);
}

/// Measures whole cycles, of one client and of all; returns how many there were.
async fn whole_cycles(what: &str, broker: &Broker, pairs: &[&[Agent]]) -> usize {
    let mut count = 0;
    for clients in [1, CLIENTS] {
        let before = cpu(broker.pid());
        let (times, per_s) = every(clients, async |n, until| cycles(broker, pairs[n], until, usize::MAX).await).await;
        let used = cpu(broker.pid()) - before;
        count += times.count();
        let each_us = used.as_secs_f64() * 1e6 / times.count() as f64;
        show(&format!("{what}, {clients} clients, send - poll - report - poll"), "cycles", times, per_s);
        say(&format!("    {:.0} messages/s, {each_us:.0} us of the broker's processor time a cycle", 2.0 * per_s));
    }
    count
}

/// Has the pairs talk until so many messages more are done: sent, polled, and reported on or acknowledged.
async fn finish(broker: &Broker, pairs: &[&[Agent]], messages: usize) {
    // Two of each cycle.
    let each = messages.div_ceil(2 * pairs.len());
    let until = Instant::now() + DONE_MAX;
    let all = futures_util::future::join_all(pairs.iter().map(|pair| cycles(broker, pair, until, each))).await;
    let count: usize = all.iter().map(Times::count).sum();
    assert!(2 * count >= messages, "{count} cycles in {DONE_MAX:?} are too few");
}

fn show(what: &str, unit: &str, mut times: Times, per_s: f64) {
    say(&format!("  {what}: {per_s:.0} {unit}/s; {}", times.shown()));
}

/// Has so many clients work side by side; returns how long each thing took, and how many there were in a second.
async fn every(clients: usize, work: impl AsyncFn(usize, Instant) -> Times) -> (Times, f64) {
    let began = Instant::now();
    let until = began + FOR;
    let all = futures_util::future::join_all((0..clients).map(|n| work(n, until))).await;
    let seconds = began.elapsed().as_secs_f64();
    let mut times = Times::default();
    all.into_iter().for_each(|of_one| times.add(of_one));
    let per_s = times.count() as f64 / seconds;
    (times, per_s)
}

/// Asks the second one of a pair, and has the answer, again and again until then, or until so many are done.
async fn cycles(broker: &Broker, pair: &[Agent], until: Instant, most: usize) -> Times {
    let mut asker = Http::agent(&broker.address, &pair[0].key).await;
    let mut worker = Http::agent(&broker.address, &pair[1].key).await;
    let send = json!({ "target": pair[1].id, "content": TEXT }).to_string();
    let mut times = Times::default();
    while times.count() < most && Instant::now() < until {
        let began = Instant::now();
        let id = field(asker.call("POST", SEND, &send, 200).await, "message_id");
        let polled = worker.call("GET", "/api/gateway/poll?limit=1", "", 200).await;
        assert!(polled.contains(&id), "{id}: {polled}");
        let report = json!({ "message_id": id, "result": TEXT }).to_string();
        worker.call("POST", "/api/gateway/report", &report, 200).await;
        let reply = asker.call("GET", "/api/gateway/poll?limit=1", "", 200).await;
        assert!(reply.contains(&format!("\"in_reply_to\":\"{id}\"")), "{id}: {reply}");
        times.add_us(began.elapsed().as_micros() as u64);
    }
    times
}

/// Sends to the second one of a pair, who does not look.
async fn sends(broker: &Broker, pair: &[Agent], until: Instant) -> Times {
    let mut asker = Http::agent(&broker.address, &pair[0].key).await;
    let send = json!({ "target": pair[1].id, "content": TEXT }).to_string();
    let mut times = Times::default();
    while Instant::now() < until {
        let began = Instant::now();
        asker.call("POST", SEND, &send, 200).await;
        times.add_us(began.elapsed().as_micros() as u64);
    }
    times
}

/// Asks the same again and again.
async fn asked(address: &str, key: &str, method: &str, path: &str, until: Instant) -> Times {
    let mut client = Http::agent(address, key).await;
    let mut times = Times::default();
    while Instant::now() < until {
        let began = Instant::now();
        client.call(method, path, "", 200).await;
        times.add_us(began.elapsed().as_micros() as u64);
    }
    times
}

/// Lets pgbench insert one row after the other, in a transaction each, as fast as the server takes them.
async fn pgbench(url: &str, dir: &Path) {
    let Some(program) = find_pgbench() else {
        say("  pgbench: left out, it is not installed");
        return;
    };
    let location = Location::Postgres(Secret::new(url));
    database::empty(&location);
    let mut db = database::opener(location).writable().expect("a database");
    database::run(&mut db, "CREATE TABLE clawbroker.bare (n BIGSERIAL PRIMARY KEY, text TEXT NOT NULL)");
    let script = dir.join("insert.sql");
    std::fs::write(&script, format!("INSERT INTO clawbroker.bare (text) VALUES ('{TEXT}');\n"))
        .expect("room on the disk");
    let mut command = Command::new(program);
    command.args(["-n", "-M", "prepared", "-j", "2", "-c"]).arg(PGBENCH_CLIENTS.to_string());
    command.arg("-T").arg(FOR.as_secs().to_string()).arg("-f").arg(&script).arg(url);
    let output = command.output().await.expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    let tps = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    let tps = tps.unwrap_or_else(|| panic!("pgbench: {told}{}", String::from_utf8_lossy(&output.stderr)));
    say(&format!("  pgbench: {tps} single-row inserts/s with {PGBENCH_CLIENTS} clients"));
}

/// Debian keeps it beside the server's programs, out of PATH.
fn find_pgbench() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(servers.map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join("pgbench")).find(|program| program.is_file())
}
