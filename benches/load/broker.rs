//! The real binary as the tools need it: a directory of its own, a port of its own, room for many sockets of one user.
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A running broker; killed with this value.
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    /// From the start of the process to the first `GET /ready` that was answered with 200.
    pub(crate) ready_after: Duration,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself, which some tool has noticed by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    /// Starts it on the SQLite file in `dir`; with a gateway, it registers that one as `default`.
    pub(crate) async fn start(dir: &Path, gateway: Option<&str>) -> Self {
        Self::start_on(None, dir, gateway).await
    }

    /// Starts it on the PostgreSQL database of this URL, or on the SQLite file; the rest of its data is in `dir`.
    pub(crate) async fn start_on(url: Option<&str>, dir: &Path, gateway: Option<&str>) -> Self {
        Self::start_with(url, dir, gateway, "").await
    }

    /// The same with more settings, which begin among the limits.
    pub(crate) async fn start_with(url: Option<&str>, dir: &Path, gateway: Option<&str>, more: &str) -> Self {
        let config = dir.join("load.toml");
        let limits = "[limits]\nsockets_per_user_max = 20000\nframes_per_second_max = 100000\n\
                      frames_burst_max = 100000\npage_rows_max = 10000\n";
        std::fs::write(&config, format!("{limits}{more}")).expect("room on the disk");
        let server_file = dir.join("server.json");
        // What an earlier broker left must not be taken for the new one's.
        let _ = std::fs::remove_file(&server_file);
        let log = std::fs::File::create(dir.join("broker.log")).expect("room on the disk");
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawbroker"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config).arg("--data-dir").arg(dir);
        command.env_clear().env("LOG_LEVEL", "warn");
        if let Some(url) = url {
            command.env("DATABASE_URL", url);
        }
        if let Some(url) = gateway {
            command.env("OPENCLAW_GATEWAY_URL", url).env("AUTH_TOKEN", "a-token-for-the-load-gateway");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let mut child = command.spawn().expect("the binary starts");
        let address = loop {
            if let Some(status) = child.try_wait().expect("it can be asked") {
                let log = std::fs::read_to_string(dir.join("broker.log")).unwrap_or_default();
                panic!("the broker ended with {status}:\n{log}");
            }
            let server = std::fs::read_to_string(&server_file).ok();
            let server = server.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(address) = server.as_ref().and_then(|server| server["address"].as_str()) {
                break address.trim_start_matches("http://").trim_end_matches('/').to_owned();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        while get(&address, "/ready", "").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ready_after = began.elapsed();
        let token = std::fs::read_to_string(dir.join("admin.token")).expect("the first start wrote it");
        Self { child, address, token: token.trim().to_owned(), ready_after }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks as the admin; returns the body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let (status, body) = get(&self.address, path, &self.token).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Waits until the gateway `default` is connected.
    pub(crate) async fn connected(&self) {
        let began = Instant::now();
        loop {
            let shown = self.get("/api/admin/gateways/default").await;
            if shown.contains("\"state\":\"connected\"") {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the gateway is not connected: {shown}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One request on a connection of its own; 0 stands for a server that is not there.
async fn get(address: &str, path: &str, token: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return (0, String::new()) };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_end(&mut answer).await.is_err() {
        return (0, String::new());
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
}
