//! A PostgreSQL server of the test's own, which it may break.
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

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
    pub(super) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("clawbroker-pg-").tempdir_in("/tmp").expect("a temporary folder");
        let password = uuid::Uuid::now_v7().simple().to_string();
        std::fs::write(folder.path().join("password"), format!("{password}\n")).unwrap();
        let cluster = Self { programs: programs(), port: free_port(), password, folder };
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
        cluster.up();
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

    /// Ends it like a crash and starts it again, which recovers from its log.
    pub(super) fn crash(&self) {
        self.run(
            "pg_ctl",
            &["restart", "-w", "-t", "60", "-m", "immediate", "-l", &self.path("log"), "-o", &self.options()],
        );
    }

    fn up(&self) {
        self.run("pg_ctl", &["start", "-w", "-t", "60", "-l", &self.path("log"), "-o", &self.options()]);
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
