//! The real binary, started as a user starts it, on a free port with a data directory of its own.
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clawbroker::store::Location;
use serde_json::Value;

use super::{Browser, Database};

/// How long a start may take before a test gives up.
const READY: Duration = Duration::from_secs(30);
/// How long an answer may take before a test gives it up.
const ANSWERED: Duration = Duration::from_secs(45);

/// A running broker; killed with this value.
pub(crate) struct Broker {
    child: Process,
    data_dir: PathBuf,
    pub(crate) address: String,
    pub(crate) token: String,
    start: Start,
}

/// A process; killed with this value, also when a start is given up before there is a broker.
struct Process(Child);

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a broker is started, so that it can be started again.
#[derive(Clone)]
struct Start {
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Broker {
    /// Starts a broker on a database and waits until it answers.
    pub(crate) async fn start(database: &Database, args: &[&str], env: &[(&str, &str)]) -> Self {
        let start = Self::settings(database, database.data_dir(), args, env);
        Self::launch(database.data_dir(), start).await
    }

    /// Starts one more broker on a database, with a data directory of its own; it stands by.
    pub(crate) async fn standby(database: &Database, data_dir: &Path, env: &[(&str, &str)]) -> Self {
        Self::spawn(data_dir, Self::settings(database, data_dir, &[], env)).await
    }

    fn settings(database: &Database, data_dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Start {
        let url = match database.location() {
            Location::Sqlite(path) => format!("sqlite:////{}", path.to_string_lossy().trim_start_matches('/')),
            Location::Postgres(url) => url.reveal().to_owned(),
        };
        let mut settings: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings.push(("DATABASE_URL".into(), url));
        settings.push(("CLAWBROKER_DATA_DIR".into(), data_dir.to_string_lossy().into_owned()));
        Start { args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: settings }
    }

    async fn launch(data_dir: &Path, start: Start) -> Self {
        let mut broker = Self::spawn(data_dir, start).await;
        broker.ready(READY).await;
        broker
    }

    /// Waits until it answers as the active node.
    pub(crate) async fn ready(&mut self, time: Duration) {
        let began = tokio::time::Instant::now();
        while self.get("/ready").await.0 != 200 {
            assert!(began.elapsed() < time, "the broker did not become ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let path = self.data_dir.join("admin.token");
        self.token = std::fs::read_to_string(path).expect("the first start wrote it").trim().to_owned();
    }

    async fn spawn(data_dir: &Path, start: Start) -> Self {
        let server_file = data_dir.join("server.json");
        // What an earlier, killed broker left there must not be taken for the new one's.
        let _ = std::fs::remove_file(&server_file);
        let mut child = Self::child(data_dir, &start);
        let began = tokio::time::Instant::now();
        let address = loop {
            if let Some(status) = child.try_wait().expect("the child can be asked") {
                panic!("the broker ended with {status}:\n{}", read_log(data_dir));
            }
            if let Ok(text) = std::fs::read_to_string(&server_file)
                && let Ok(server) = serde_json::from_str::<Value>(&text)
                && let Some(address) = server["address"].as_str()
            {
                break address.trim_start_matches("http://").trim_end_matches('/').to_owned();
            }
            assert!(began.elapsed() < READY, "the broker did not start:\n{}", read_log(data_dir));
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self { child, data_dir: data_dir.to_owned(), address, token: String::new(), start }
    }

    fn child(data_dir: &Path, start: &Start) -> Process {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(data_dir.join("broker.log"))
            .expect("a log file beside the data");
        let child = Command::new(env!("CARGO_BIN_EXE_clawbroker"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(&start.args)
            .current_dir(data_dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one file, two handles"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        Process(child)
    }

    /// Kills it like a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is gone");
    }

    /// Starts it on the same data and kills it after `time`, whether it was up by then or not.
    pub(crate) async fn start_and_kill(&mut self, time: Duration) {
        self.child = Self::child(&self.data_dir, &self.start);
        tokio::time::sleep(time).await;
        self.kill();
    }

    /// Starts it again on the same data.
    pub(crate) async fn start_again(&mut self) {
        let fresh = Self::launch(&self.data_dir.clone(), self.start.clone()).await;
        *self = fresh;
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Stops its time.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Has its time go on.
    pub(crate) fn unpause(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Limits the size that its files may have, as `ulimit -f` does.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).expect("it runs");
    }

    /// Asks it to stop, and returns its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let began = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(began.elapsed() < READY, "the broker did not stop:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Counts what the process has in a folder of `/proc`: `fd` its open files, `task` its threads.
    pub(crate) fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{folder}", self.child.id())).expect("the broker lives").count()
    }

    pub(crate) fn log(&self) -> String {
        read_log(&self.data_dir)
    }

    /// Counts the peak of its memory from now on.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("it runs");
    }

    /// Returns how many KiB of the process are in memory now.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// Returns how many KiB of the process were in memory at most.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Counts the connections that were made to it and that it still holds.
    pub(crate) fn connections(&self) -> usize {
        let own: u16 = self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        held_sockets().filter(|(local, _)| *local == own).count()
    }

    /// Calls the API as the admin; returns the status and the body, which is JSON or a text. Without an answer the status
    /// is 0.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request =
            awc::Client::new().request(method, format!("http://{}{path}", self.address)).timeout(ANSWERED);
        if !self.token.is_empty() {
            request = request.insert_header(("Authorization", format!("Bearer {}", self.token)));
        }
        let sent = match body {
            Some(body) => request.send_json(&body).await,
            None => request.send().await,
        };
        let Ok(mut response) = sent else { return (0, Value::Null) };
        let bytes = response.body().limit(64 << 20).await.unwrap_or_default();
        let value =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        (response.status().as_u16(), value)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("POST", path, Some(body)).await
    }

    /// Opens a browser's socket as the admin.
    pub(crate) async fn browser(&self, path: &str) -> Browser {
        Browser::open(&self.address, path, Some(&self.token)).await
    }

    /// Waits until a gateway's connection is in this state.
    pub(crate) async fn gateway_is(&self, id: &str, state: &str) -> Value {
        self.gateway_within(id, state, READY).await
    }

    /// The same with a time of the test's own.
    pub(crate) async fn gateway_within(&self, id: &str, state: &str, time: Duration) -> Value {
        let began = tokio::time::Instant::now();
        loop {
            let (_, gateway) = self.get(&format!("/api/admin/gateways/{id}")).await;
            if gateway["state"] == state {
                return gateway;
            }
            assert!(began.elapsed() < time, "gateway {id} is not {state}: {gateway}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Lists the TCP connections of this machine that some process still holds: local and remote port.
pub(crate) fn held_sockets() -> impl Iterator<Item = (u16, u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a Linux machine");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let sockets: Vec<(u16, u16)> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Listening ones, and those that only the system still knows.
            let is_held = fields.get(3) != Some(&"0A") && fields.get(9) != Some(&"0");
            is_held.then(|| Some((port(fields.get(1)?)?, port(fields.get(2)?)?))).flatten()
        })
        .collect();
    sockets.into_iter()
}

fn read_log(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("broker.log")).unwrap_or_default()
}
