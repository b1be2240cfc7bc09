//! The agents in `examples/`, each against a real broker.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::Agent;
use super::{POLL, REPORT};
use crate::harness::{Broker, Database};

on_both_databases!(
    an_example_answers_and_outlives_a_broker,
    an_example_reads_a_reply_and_does_not_answer_it,
    an_example_gives_back_what_it_holds_when_it_stops,
    an_example_gives_back_what_its_command_cannot_do,
    an_example_ends_when_its_poll_is_refused,
    the_example_in_python_says_what_is_wrong_with_its_lease,
);

const EXAMPLES: [&str; 2] = ["agent.sh", "agent.py"];
/// The same, and once more by another shell, which takes signals at other moments.
const BY_EACH_SHELL: [&str; 3] = ["agent.sh", "agent.sh by bash", "agent.py"];
/// Longest wait for anything that an example does by itself.
const LONG: Duration = Duration::from_secs(60);

/// An example that runs; killed with this value.
struct Example {
    child: Child,
    log: PathBuf,
}

impl Example {
    /// Starts an example as this agent, for whom this command does the work.
    fn start(script: &str, url: &str, agent: &Agent, command: &[&str], folder: &Path) -> Self {
        Self::start_with(script, url, agent, command, folder, "30")
    }

    /// The same with leases of so many seconds.
    fn start_with(script: &str, url: &str, agent: &Agent, command: &[&str], folder: &Path, lease_s: &str) -> Self {
        let log = folder.join(format!("{script}-{}.log", agent.id));
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut runs = match script.split_once(" by ") {
            Some((name, shell)) => {
                let mut runs = Command::new(shell);
                runs.arg("--posix").arg(examples.join(name));
                runs
            }
            None => Command::new(examples.join(script)),
        };
        let child = runs
            .args(command)
            .env_clear()
            // What python3 is called with may be a shim that needs a home.
            .envs(["PATH", "HOME", "TMPDIR"].iter().filter_map(|name| Some((name, std::env::var(name).ok()?))))
            .envs([("CLAWBROKER_URL", url), ("CLAWBROKER_API_KEY", agent.key.as_str()), ("CLAWBROKER_LEASE", lease_s)])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("one file, two handles"))
            .stderr(file)
            .spawn()
            .expect("the example starts");
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has printed this.
    async fn says(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < LONG, "no `{text}` in {}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks it to stop, and returns its exit code.
    async fn stop(self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        self.end().await
    }

    /// Waits until it ends, and returns its exit code.
    async fn end(mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(began.elapsed() < LONG, "it did not end: {}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a broker that also listens where it will listen again after a restart; returns that address, too.
async fn broker(database: &Database) -> (Broker, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    (Broker::start(database, &["--listen", &address], &[]).await, format!("http://{address}"))
}

/// Waits until the asker has the reply to this message; returns what it says.
async fn reply(broker: &Broker, asker: &Agent, id: &str, example: &Example) -> Value {
    let began = Instant::now();
    loop {
        let messages = asker.messages(broker).await;
        if let Some(found) = messages.iter().find(|message| message["in_reply_to"] == id) {
            assert_eq!(found["kind"], "reply", "{found}");
            return found["content"].clone();
        }
        assert!(began.elapsed() < LONG, "no reply; the example said:\n{}\n{}", example.log(), broker.log());
    }
}

/// Waits until so many deliveries are in this state.
async fn deliveries(broker: &Broker, state: &str, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let (_, list) = broker.get(&format!("/api/admin/deliveries?state={state}")).await;
        let found = list["items"].as_array().expect("a list");
        if found.len() == count {
            return found.clone();
        }
        assert!(began.elapsed() < LONG, "not {count} {state}: {list}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn an_example_answers_and_outlives_a_broker(database: Database) {
    let (mut broker, url) = broker(&database).await;
    let asker = Agent::register(&broker, "Asker").await;
    let mut running = Vec::new();
    let text = "It's \"me\":\n\n\\u0041 \\\\ \\\" {\"id\": [1, \"x\"]}\t\u{1}\u{7f} é 字 \u{1f680} $HOME `id` %s";
    for script in EXAMPLES {
        let worker = Agent::register(&broker, script).await;
        let example = Example::start(script, &url, &worker, &[], database.data_dir());
        let id = asker.send(&broker, &worker.id, text).await;
        assert_eq!(reply(&broker, &asker, &id, &example).await, text, "{script}: {}", example.log());
        running.push((script, worker, example));
    }
    // What was handed out is closed a moment later.
    deliveries(&broker, "leased", 0).await;
    broker.kill();
    broker.start_again().await;
    for (script, worker, example) in running {
        let id = asker.send(&broker, &worker.id, "still there?").await;
        assert_eq!(reply(&broker, &asker, &id, &example).await, "still there?", "{script}: {}", example.log());
        let log = example.log();
        assert!(!log.contains(&worker.key), "{script}: {log}");
        assert_eq!(example.stop().await, Some(0), "{script}: {log}");
    }
    deliveries(&broker, "leased", 0).await;
}

async fn an_example_reads_a_reply_and_does_not_answer_it(database: Database) {
    let (broker, url) = broker(&database).await;
    let asked = Agent::register(&broker, "Asked").await;
    for script in EXAMPLES {
        let worker = Agent::register(&broker, script).await;
        let id = worker.send(&broker, "Asked", "How are you?").await;
        let question = asked.messages(&broker).await;
        assert_eq!(question[0]["id"], id.as_str(), "{question:?}");
        let report = json!({ "message_id": id, "result": "Fine \"as\" ever" });
        assert_eq!(asked.call(&broker, "POST", REPORT, Some(report)).await.0, 200);
        let example = Example::start(script, &url, &worker, &[], database.data_dir());
        example.says(&format!("reply {id}: Fine \"as\" ever")).await;
        // What was acknowledged is leased no more, and has not come back.
        deliveries(&broker, "leased", 0).await;
        deliveries(&broker, "pending", 0).await;
        assert_eq!(asked.call(&broker, "GET", POLL, None).await.1["messages"], json!([]));
        assert_eq!(example.stop().await, Some(0), "{script}");
    }
}

async fn an_example_gives_back_what_it_holds_when_it_stops(database: Database) {
    let (broker, url) = broker(&database).await;
    let asker = Agent::register(&broker, "Asker").await;
    for script in BY_EACH_SHELL {
        let worker = Agent::register(&broker, script).await;
        let slow = Example::start(script, &url, &worker, &["sleep", "600"], database.data_dir());
        let id = asker.send(&broker, &worker.id, "take your time").await;
        deliveries(&broker, "leased", 1).await;
        assert_eq!(slow.stop().await, Some(0), "{script}");
        // At once, and not when the lease is over.
        let given_back = deliveries(&broker, "pending", 1).await;
        assert_eq!(given_back[0]["attempt"], 1, "{given_back:?}");
        let quick = Example::start(script, &url, &worker, &[], database.data_dir());
        assert_eq!(reply(&broker, &asker, &id, &quick).await, "take your time", "{script}: {}", quick.log());
        assert_eq!(quick.stop().await, Some(0), "{script}");
    }
}

async fn an_example_gives_back_what_its_command_cannot_do(database: Database) {
    let (broker, url) = broker(&database).await;
    let asker = Agent::register(&broker, "Asker").await;
    for (count, script) in EXAMPLES.into_iter().enumerate() {
        let worker = Agent::register(&broker, script).await;
        let example = Example::start(script, &url, &worker, &["false"], database.data_dir());
        let id = asker.send(&broker, &worker.id, "impossible").await;
        example.says(&format!("gave {id} back: the command ended with status 1")).await;
        // It waits for half a minute now.
        deliveries(&broker, "pending", count + 1).await;
        assert_eq!(example.stop().await, Some(0), "{script}");
    }
}

async fn an_example_ends_when_its_poll_is_refused(database: Database) {
    let (broker, url) = broker(&database).await;
    for script in EXAMPLES {
        let worker = Agent::register(&broker, script).await;
        let example = Example::start_with(script, &url, &worker, &[], database.data_dir(), "0");
        example.says("agent: 422 validation_error: ").await;
        let log = example.log.clone();
        assert_eq!(example.end().await, Some(1), "{script}");
        let said = std::fs::read_to_string(log).expect("a log file");
        assert_eq!(said.lines().count(), 1, "{script}: {said}");
    }
}

async fn the_example_in_python_says_what_is_wrong_with_its_lease(database: Database) {
    let (broker, url) = broker(&database).await;
    let worker = Agent::register(&broker, "Worker").await;
    let example = Example::start_with("agent.py", &url, &worker, &[], database.data_dir(), "x");
    let log = example.log.clone();
    assert_eq!(example.end().await, Some(2));
    let said = std::fs::read_to_string(log).expect("a log file");
    assert_eq!(said, "agent: CLAWBROKER_LEASE must be a whole number of seconds, not 'x'\n");
}
