//! A real OpenClaw gateway with a scripted model, started by the peer kit.
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use awc::ws::{Frame, Message};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A real gateway; stopped with this value.
pub(crate) struct Peer {
    kit: PathBuf,
    state: TempDir,
    port: u16,
    env: Vec<(String, String)>,
    pub(crate) url: String,
    pub(crate) token: String,
    model: String,
}

impl Peer {
    /// The folder of its agent's files.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.state.path().join("state/workspace")
    }

    /// Starts a gateway on a free port; `env` are the kit's own options.
    pub(crate) async fn start(env: &[(&str, &str)]) -> Self {
        let kit = std::env::var("OPENCLAW_PEER").map_or_else(
            |_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/peers/openclaw-gateway")),
            PathBuf::from,
        );
        let state = tempfile::Builder::new().prefix("clawbroker-peer-").tempdir().expect("a temporary folder");
        let mut peer = Self {
            kit,
            state,
            port: free_port(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            url: String::new(),
            token: "fake-token-of-the-peer".into(),
            model: String::new(),
        };
        peer.start_again().await;
        peer
    }

    /// Starts it, or starts it again with the same state and port.
    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new(self.kit.join("start"));
        command
            .arg(self.port.to_string())
            .arg(self.state.path().join("state"))
            .arg(&self.token)
            .env("PEER_TIMEOUT", "240")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = blocking(command).await;
        assert!(output.status.success(), "the gateway did not start: {}", String::from_utf8_lossy(&output.stderr));
        let told: HashMap<String, String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        self.url = told["url"].clone();
        self.model = told["model"].clone();
    }

    /// Stops it gracefully; answers that run are finished first.
    pub(crate) async fn stop(&self) {
        self.stop_with(&["--gateway-only"]).await;
    }

    /// Kills it.
    pub(crate) async fn kill(&self) {
        self.stop_with(&["--kill", "--gateway-only"]).await;
    }

    async fn stop_with(&self, options: &[&str]) {
        let mut command = Command::new(self.kit.join("stop"));
        command.arg(self.state.path().join("state")).args(options);
        blocking(command).await;
    }

    /// Opens a gate of the scripted model.
    pub(crate) async fn release(&self, gate: &str) {
        let url = format!("{}/__release?name={gate}", self.model);
        awc::Client::new().post(url).send().await.expect("the scripted model answers");
    }

    /// Runs the gateway's own command line.
    pub(crate) async fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.state.path().join("state/run/cli"));
        command.args(args);
        let output = blocking(command).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Reads the whole history of a session over a connection of the test's own.
    pub(crate) async fn history(&self, session: &str) -> Vec<Value> {
        let page =
            self.request("chat.history", json!({ "sessionKey": session, "limit": 1000, "maxChars": 500_000 })).await;
        page["messages"].as_array().cloned().unwrap_or_default()
    }

    /// Makes one request over a connection of the test's own.
    pub(crate) async fn request(&self, method: &str, params: Value) -> Value {
        let (_, mut socket) =
            awc::Client::new().ws(&self.url).max_frame_size(32 << 20).connect().await.expect("the gateway answers");
        let connect = json!({
            "minProtocol": 3, "maxProtocol": 4, "role": "operator",
            "client": { "id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend" },
            "scopes": ["operator.read", "operator.write", "operator.admin"], "auth": { "token": self.token },
        });
        let mut sent = 0;
        while let Some(Ok(frame)) = socket.next().await {
            let Frame::Text(bytes) = frame else { continue };
            let frame: Value = serde_json::from_slice(&bytes).expect("frames are JSON");
            let (id, method, params) = match (frame["event"].as_str(), frame["id"].as_str()) {
                (Some("connect.challenge"), _) => ("1", "connect", connect.clone()),
                (_, Some("1")) => ("2", method, params.clone()),
                (_, Some("2")) => {
                    assert_eq!(frame["ok"], true, "{method}: {frame}");
                    return frame["payload"].clone();
                }
                _ => continue,
            };
            sent += 1;
            assert!(sent < 4, "{frame}");
            let request = json!({ "type": "req", "id": id, "method": method, "params": params });
            socket.send(Message::Text(request.to_string().into())).await.expect("the gateway listens");
        }
        panic!("the gateway closed before it answered {method}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Best effort: the state directory goes away with it.
        let _ = Command::new(self.kit.join("stop")).arg(self.state.path().join("state")).arg("--kill").output();
    }
}

async fn blocking(mut command: Command) -> std::process::Output {
    let name = format!("{command:?}");
    let run = tokio::task::spawn_blocking(move || command.output());
    match tokio::time::timeout(Duration::from_secs(600), run).await {
        Ok(Ok(Ok(output))) => output,
        failed => panic!("{name}: {failed:?}"),
    }
}

fn free_port() -> u16 {
    // The gateway derives other ports from its own; far from the ephemeral ones they are free.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let random = taken.local_addr().expect("it is bound").port();
    19_000 + (random % 60) * 200
}
