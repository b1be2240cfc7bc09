//! The handshake: what we ask for with `connect`, and what the answer means.
//!
//! The gateway speaks first (`connect.challenge`); we send one `connect`; it answers with a hello or a refusal and a
//! close. A refusal says whether asking again can help: [`judge_refusal`] turns it into what to show and when to come
//! back, so that a gateway that said no is never hammered.
use serde_json::{Value, json};

use super::device::{ConnectClaim, DeviceIdentity};
use super::frames::{Challenge, HelloOk};
use crate::domain::gateway::{LinkState, Problem};
use crate::domain::secret::Secret;

mod refusal;

pub use refusal::{
    APPROVAL_POLL_MS, Attempt, LOCKOUT_MS, Refusal, Retry, judge_close, judge_http_status, judge_refusal,
};

/// Lowest and highest protocol we speak; the gateway picks its own if it lies between.
pub const PROTOCOLS: std::ops::RangeInclusive<u32> = 3..=4;
/// Ours of the gateway's closed list of client names; a name of our own goes into `displayName`.
pub const CLIENT_ID: &str = "gateway-client";
/// A program, not a person's screen: needs no `Origin` header and no loopback.
pub const CLIENT_MODE: &str = "backend";
/// Shown to the person who approves the device.
pub const DISPLAY_NAME: &str = "clawbroker";
/// A constant: another platform than the approved one needs a new approval, so the broker may move to another machine.
pub const PLATFORM: &str = "linux";
/// The only role for people and programs that chat.
pub const ROLE: &str = "operator";

const READ: &str = "operator.read";
const WRITE: &str = "operator.write";
const APPROVALS: &str = "operator.approvals";
const ADMIN: &str = "operator.admin";

/// How often a connection without rights is made anew: rights are given to new connections only. Less often than for an
/// approval, because here the gateway does not know that anything is awaited.
pub const RIGHTS_POLL_MS: u64 = 60_000;

/// Without these there is no chat.
pub const SCOPES_NEEDED: [&str; 2] = [READ, WRITE];

/// The scopes to ask for; scopes are never implied by a token. `admin` is the gateway row's own setting.
pub fn scopes_asked(admin: bool) -> Vec<String> {
    let mut scopes = vec![READ, WRITE, APPROVALS];
    if admin {
        scopes.push(ADMIN);
    }
    scopes.into_iter().map(str::to_owned).collect()
}

/// Tells whether a set of scopes includes one: `admin` implies all, `write` implies `read`.
pub fn includes(granted: &[String], scope: &str) -> bool {
    granted.iter().any(|held| held == scope || held == ADMIN || (held == WRITE && scope == READ))
}

/// What to authenticate with in one `connect`. Absent fields are not sent. A gateway that gets both kinds (2026.9.6)
/// takes the device token when the shared secret is wrong.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    pub token: Option<Secret>,
    pub password: Option<Secret>,
    /// From an earlier hello of this gateway.
    pub device_token: Option<Secret>,
}

impl Auth {
    fn to_json(&self) -> Option<Value> {
        let fields = [("token", &self.token), ("password", &self.password), ("deviceToken", &self.device_token)];
        let sent: serde_json::Map<String, Value> = fields
            .into_iter()
            .filter_map(|(name, secret)| Some((name.to_owned(), Value::from(present(secret)?.reveal()))))
            .collect();
        (!sent.is_empty()).then_some(Value::Object(sent))
    }

    /// The secret that the device's signature covers.
    fn signed(&self) -> &str {
        present(&self.token).or_else(|| present(&self.device_token)).map_or("", Secret::reveal)
    }
}

fn present(secret: &Option<Secret>) -> Option<&Secret> {
    secret.as_ref().filter(|secret| !secret.is_empty())
}

/// One `connect`.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Our own version, for the gateway's logs.
    pub version: &'a str,
    pub scopes: &'a [String],
    pub auth: &'a Auth,
    pub challenge: &'a Challenge,
    pub device: &'a DeviceIdentity,
}

/// Builds the parameters of `connect`. They hold secrets: never log them.
pub fn connect_params(connect: &Connect<'_>) -> Value {
    let claim = ConnectClaim {
        client_id: CLIENT_ID,
        client_mode: CLIENT_MODE,
        role: ROLE,
        scopes: connect.scopes,
        signed_at_ms: connect.challenge.ts_ms,
        token: connect.auth.signed(),
        nonce: &connect.challenge.nonce,
        platform: PLATFORM,
        device_family: "",
    };
    let mut params = json!({
        "minProtocol": PROTOCOLS.start(),
        "maxProtocol": PROTOCOLS.end(),
        "client": {
            "id": CLIENT_ID,
            "displayName": DISPLAY_NAME,
            "version": connect.version,
            "platform": PLATFORM,
            "mode": CLIENT_MODE,
        },
        "role": ROLE,
        "scopes": connect.scopes,
        // No capabilities: then the events of all sessions come, whoever started them.
        "caps": [],
        "device": {
            "id": connect.device.device_id(),
            "publicKey": connect.device.public_key_base64url(),
            "signature": connect.device.sign_connect(&claim),
            "signedAt": connect.challenge.ts_ms,
            "nonce": connect.challenge.nonce,
        },
    });
    if let (Some(auth), Some(fields)) = (connect.auth.to_json(), params.as_object_mut()) {
        fields.insert("auth".to_owned(), auth);
    }
    params
}

/// What a hello is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Connected`, or `NotAuthorised` when a needed scope is missing: the socket is open and every call would be
    /// refused.
    pub state: LinkState,
    /// Asked for and not granted.
    pub scopes_missing: Vec<String>,
    /// Set when the state is `NotAuthorised`.
    pub problem: Option<Problem>,
    /// Set when the state is `NotAuthorised`: when to connect again.
    pub retry: Option<Retry>,
}

/// Looks at what was granted; "it connected" proves nothing. `admin` as given to [`scopes_asked`].
pub fn judge_hello(hello: &HelloOk, admin: bool) -> Verdict {
    let granted = &hello.auth.scopes;
    let scopes_missing: Vec<String> =
        scopes_asked(admin).into_iter().filter(|scope| !includes(granted, scope)).collect();
    let lacking: Vec<&str> = SCOPES_NEEDED.into_iter().filter(|scope| !includes(granted, scope)).collect();
    if lacking.is_empty() {
        return Verdict { state: LinkState::Connected, scopes_missing, problem: None, retry: None };
    }
    let problem = Problem {
        code: "scopes_missing".to_owned(),
        message: format!("the gateway accepted the connection without {}, which chat needs", lacking.join(" and ")),
        remedy: Some(
            "run `openclaw devices list` on the gateway's machine and approve clawbroker's device with these scopes; \
             if it is not listed, a proxy before the gateway hides who is calling: see `gateway.trustedProxies` there"
                .to_owned(),
        ),
        request_id: None,
    };
    Verdict {
        state: LinkState::NotAuthorised,
        scopes_missing,
        problem: Some(problem),
        retry: Some(Retry::After(RIGHTS_POLL_MS)),
    }
}

#[cfg(test)]
mod tests;
