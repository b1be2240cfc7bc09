//! Asks the running server, by its admin API.
use std::io::ErrorKind;
use std::time::Duration;

use awc::ClientRequest;
use awc::http::header::RETRY_AFTER;
use awc::http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::offline::Offline;
use super::server_file::ServerFile;
use crate::actors::bootstrap::ADMIN_TOKEN_FILE;
use crate::config::Config;
use crate::domain::secret::Secret;
use crate::node;
use crate::store::lock_for_server;

/// How long a call may take; a gateway's test waits for the gateway.
const CALL: Duration = Duration::from_secs(60);
/// How long a look at whether somebody answers may take.
const KNOCK: Duration = Duration::from_secs(2);
/// How long a server may be on its way up or down before a command gives up.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);
/// A page of a list ends at 4 MiB.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Where a command finds the data.
pub(super) enum Reach {
    Server(Client),
    Alone(Offline),
}

/// Finds the running server; opens the database itself when none runs.
pub(super) async fn reach(config: &Config) -> Result<Reach, Failure> {
    let location = node::opener(&config.store).location;
    node::make_private_dir(&config.app.data_dir)?;
    let until = Instant::now() + PATIENCE;
    loop {
        // Only a lock that is held says that the address in `server.json` is still our server's: the admin's token must
        // not go to whoever has taken its port since.
        let refused = match lock_for_server(&config.app.data_dir, &location) {
            Ok(locks) => return Offline::open_locked(config, locks).await.map(Reach::Alone),
            Err(error) => error,
        };
        if let Some(client) = Client::find(config).await {
            return Ok(Reach::Server(client));
        }
        if Instant::now() >= until {
            let file = ServerFile::path(&config.app.data_dir);
            return Err(Failure::new(format!("{refused}. It does not answer at the address in `{}`", file.display())));
        }
        // On its way up or down, or another command.
        sleep(LOOK).await;
    }
}

/// A running server.
pub(super) struct Client {
    pub(super) address: String,
    token: Option<Secret>,
    /// What to say where the server wants another token, or one at all.
    untaken: String,
    http: awc::Client,
}

impl Client {
    /// Finds the server that `server.json` names, if its process lives and it answers.
    pub(super) async fn find(config: &Config) -> Option<Self> {
        let file = ServerFile::read(&config.app.data_dir).filter(ServerFile::is_alive)?;
        let http = awc::Client::builder().timeout(CALL).disable_redirects().finish();
        let (token, untaken) = token(config);
        let client = Self { address: file.address, token, untaken, http };
        client.answers().await.then_some(client)
    }

    /// Tells whether a clawbroker answers there.
    async fn answers(&self) -> bool {
        let asked = self.http.get(format!("{}/health", self.address)).timeout(KNOCK).send().await;
        let Ok(mut response) = asked else { return false };
        let Ok(body) = response.json::<Value>().await else { return false };
        // An ancestor's server answers the same path without a version.
        response.status().is_success() && body.get("version").is_some()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.call(Method::POST, path, body).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, None).await
    }

    /// Reads all pages of a list.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let page = match &cursor {
                Some(cursor) => self.get(&format!("{path}?cursor={}", escaped(cursor))).await?,
                None => self.get(path).await?,
            };
            items.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.insert_header(("Authorization", format!("Bearer {}", token.reveal())));
        }
        let Answered { status, body, .. } = exchange(request, body, &self.address).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status, &body, &self.untaken))
    }
}

/// What a server answered.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// When a refused call may be tried again, if the server says so.
    pub(super) retry_after_s: Option<u64>,
    /// `null` if it is not JSON.
    pub(super) body: Value,
}

/// Sends a request and reads the answer.
pub(super) async fn exchange(request: ClientRequest, body: Option<&Value>, address: &str) -> Result<Answered, Failure> {
    let sent = match body {
        Some(body) => request.send_json(body).await,
        None => request.send().await,
    };
    let unreachable = |error: String| Failure::new(format!("the server at {address} does not answer: {error}"));
    let mut response = sent.map_err(|error| unreachable(error.to_string()))?;
    let bytes = response.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| unreachable(error.to_string()))?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Ok(Answered {
        status: response.status(),
        retry_after_s: retry_after.and_then(|seconds| seconds.parse().ok()),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
    })
}

/// Returns the address of the server that runs on this data directory.
pub(super) async fn address(config: &Config) -> Option<String> {
    // Locking makes the folder: where no server has ever run nothing is made.
    ServerFile::read(&config.app.data_dir).filter(ServerFile::is_alive)?;
    let location = node::opener(&config.store).location;
    // As in `reach`: an agent's key must not go to whoever has taken the port since.
    lock_for_server(&config.app.data_dir, &location).err()?;
    Client::find(config).await.map(|client| client.address)
}

/// Returns the admin's token, and what to say where it is not taken.
fn token(config: &Config) -> (Option<Secret>, String) {
    let dir = config.app.data_dir.display();
    let kept = std::fs::read_to_string(config.app.data_dir.join(ADMIN_TOKEN_FILE));
    let (missing, remedy) = match kept.map(|text| Secret::new(text.trim())) {
        Ok(token) if !token.is_empty() => {
            let untaken = format!(
                "the server does not take the token in `{ADMIN_TOKEN_FILE}` of the data directory: if it was revoked, \
                 remove the file and start the server again, which makes a new one"
            );
            return (Some(token), untaken);
        }
        Err(error) if error.kind() != ErrorKind::NotFound => (
            format!("`{ADMIN_TOKEN_FILE}` in `{dir}` cannot be read ({error})"),
            "run the command as the user that the server runs as",
        ),
        Ok(_) | Err(_) => {
            (format!("there is no `{ADMIN_TOKEN_FILE}` in `{dir}`"), "start the server again, which makes one")
        }
    };
    match config.auth.admin_token.clone() {
        Some(token) => {
            let untaken = "the server does not take the token of CLAWBROKER_ADMIN_TOKEN (`auth.admin_token`)";
            (Some(token), format!("{untaken}, and {missing}: {remedy}"))
        }
        None => (None, format!("{missing}: {remedy}, or set CLAWBROKER_ADMIN_TOKEN")),
    }
}

/// Makes one sentence of a refusal.
fn refused(status: StatusCode, answer: &Value, untaken: &str) -> Failure {
    if status == StatusCode::UNAUTHORIZED {
        return Failure::new(untaken);
    }
    let error = answer.get("error");
    // The API keeps its ancestor's words for this.
    if let Some(id) = error.and_then(|error| error.pointer("/details/gateway_id")).and_then(Value::as_str) {
        return no_gateway(id);
    }
    sentence(status, answer)
}

/// Makes one sentence of what a server says to a call that it refused.
pub(super) fn sentence(status: StatusCode, answer: &Value) -> Failure {
    let error = answer.get("error");
    let message = error.and_then(|error| error.get("message")).and_then(Value::as_str);
    let items = error.and_then(|error| error.pointer("/details/items")).and_then(Value::as_array);
    let fields: Vec<String> = items
        .into_iter()
        .flatten()
        .filter_map(|item| Some(format!("{}: {}", item.get("field")?.as_str()?, item.get("message")?.as_str()?)))
        .collect();
    match (message, fields.is_empty()) {
        (Some(message), true) => Failure::new(message),
        (_, false) => Failure::new(fields.join("; ")),
        (None, true) => Failure::new(format!("the server answered {status}")),
    }
}

/// Says that a gateway is not registered.
pub(super) fn no_gateway(id: &str) -> Failure {
    Failure::new(format!("there is no gateway `{id}`; `clawbroker gateway list` shows those that are registered"))
}

/// Escapes a text for a path or a query.
pub(super) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_become_one_sentence() {
        let plain = json!({ "error": { "code": "already_exists", "message": "gateway `a` exists already" } });
        assert_eq!(refused(StatusCode::BAD_REQUEST, &plain, "").to_string(), "gateway `a` exists already");
        let items =
            json!([{ "field": "url", "message": "must be a web address" }, { "field": "x", "message": "is unknown" }]);
        let fields = json!({ "error": { "message": "m", "details": { "items": items } } });
        let sentence = refused(StatusCode::UNPROCESSABLE_ENTITY, &fields, "").to_string();
        assert_eq!(sentence, "url: must be a web address; x: is unknown");
        let unread = refused(StatusCode::BAD_GATEWAY, &Value::Null, "");
        assert_eq!(unread.to_string(), "the server answered 502 Bad Gateway");
        assert_eq!(refused(StatusCode::UNAUTHORIZED, &plain, "no token").to_string(), "no token");
    }

    #[test]
    fn names_are_escaped_for_paths() {
        assert_eq!(escaped("a b/c?d"), "a%20b%2Fc%3Fd");
    }
}
