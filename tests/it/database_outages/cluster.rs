//! A PostgreSQL server of the test's own, which it may break.
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

/// How long it may take until a start succeeds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ports below those that the system gives to whoever connects: while the server is away nobody gets its own by chance.
const PORTS: Range<u16> = 20_000..32_000;
/// Who runs the server when the test runs as root, which PostgreSQL refuses.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A running server; stopped with this value.
pub(super) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    password: String,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("clawbroker-pg-").tempdir_in("/tmp").expect("a temporary folder");
        let password = uuid::Uuid::now_v7().simple().to_string();
        std::fs::write(folder.path().join("password"), format!("{password}\n")).unwrap();
        let mut cluster = Self { programs: programs(), port: free_port(), password, folder };
        if let Some(user) = user() {
            let path = cluster.folder.path().to_string_lossy().into_owned();
            assert!(quiet(Command::new("chown").args(["-R", user, &path])), "the server's folder is given away");
        }
        cluster.run(
            "initdb",
            &[
                "-U",
                "clawbroker",
                "--pwfile",
                &cluster.path("password"),
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ],
        );
        let began = Instant::now();
        while !cluster.comes_up().await {
            assert!(began.elapsed() < PATIENCE, "the server does not start:\n{}", cluster.log());
            // Somebody has taken the port meanwhile.
            cluster.port = free_port();
        }
        cluster
    }

    /// Returns the URL of a database for a role.
    pub(super) fn url(&self, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the URL of its administrator.
    pub(super) fn admin(&self) -> String {
        self.url("clawbroker", &self.password)
    }

    /// Ends it like a crash.
    pub(super) async fn crash(&self) {
        let mut command = self.command("pg_ctl");
        command.args(["stop", "-w", "-t", "60", "-m", "immediate"]);
        assert!(aside(command).await, "the server does not end:\n{}", self.log());
    }

    /// Starts it again where it was; it recovers from its log.
    pub(super) async fn up(&self) {
        let began = Instant::now();
        while !self.comes_up().await {
            assert!(began.elapsed() < PATIENCE, "the server does not start again:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn comes_up(&self) -> bool {
        let mut command = self.command("pg_ctl");
        command.args(["start", "-w", "-t", "60", "-l", &self.path("log"), "-o", &self.options()]);
        aside(command).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn options(&self) -> String {
        // The machine does not lose its power in these tests, the server's processes end.
        format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c shared_buffers=16MB",
            self.port
        )
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = self.command(program);
        assert!(quiet(command.args(args)), "{program} {args:?}");
    }

    /// Returns a command of PostgreSQL on the data of this server, as a user that may run it.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match user() {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
        };
        command.args(["-D", &self.path("data")]).current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        quiet(self.command("pg_ctl").args(["stop", "-w", "-m", "immediate"]));
    }
}

/// Runs a command on a thread of its own: the clients and the broker feel what it does.
async fn aside(mut command: Command) -> bool {
    tokio::task::spawn_blocking(move || quiet(&mut command)).await.expect("a command does not panic")
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Finds the programs of the newest server, as `./test` does.
fn programs() -> PathBuf {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    folders.splice(0..0, std::env::split_paths(&in_path));
    folders.into_iter().rev().find(|folder| folder.join("initdb").exists()).expect("the PostgreSQL server is installed")
}

fn user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then(|| {
        let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let is_known = |user: &&&str| known.lines().any(|line| line.starts_with(&format!("{user}:")));
        USERS.iter().find(is_known).copied().expect("a user that may run PostgreSQL")
    })
}

/// Finds a port that nobody listens on; each process begins elsewhere, and never asks for the same one twice in a row.
fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let next = || {
        let place = std::process::id().wrapping_mul(97).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (place % u32::from(PORTS.end - PORTS.start)) as u16
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).take(PORTS.len()).find(is_free).expect("a free port")
}
