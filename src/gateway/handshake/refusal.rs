//! What a refusal means: which state to show, what a person can do, and whether and when to ask again.
use serde_json::Value;

use super::super::frames::GatewayError;
use super::{SCOPES_NEEDED, includes};
use crate::domain::gateway::{LinkState, Problem};

/// How often a link that waits for a person's approval asks again. The approval is not announced to a socket that was
/// refused, so asking is the only way to notice it. A repeated ask finds the same pending request, costs the gateway
/// one small handshake and does not count as a wrong password; half a minute is short enough for someone who watches
/// the console.
pub const APPROVAL_POLL_MS: u64 = 30_000;
/// Wait after too many wrong passwords (ten in a minute from one address) when the gateway does not say how long; its
/// default lock-out. Until then it refuses right ones, too.
pub const LOCKOUT_MS: u64 = 300_000;
/// Wait after a refusal that this release does not know: a gateway that said no is not asked often, but not given up.
const UNKNOWN_REFUSAL_MS: u64 = 300_000;
/// Characters of the gateway's own sentence that are kept.
const SENTENCE_CHARS_MAX: usize = 300;

/// What to do after a refusal or a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not by itself: a person or a changed setting must come first.
    Never,
    /// After this many milliseconds; the gateway said so, or a person's approval is awaited.
    After(u64),
    /// After the growing wait of [`super::super::backoff`].
    Backoff,
    /// At once, asking for these scopes only; the rest is shown as missing.
    WithScopes(Vec<String>),
    /// At once, with the stored device token instead of the shared token or password.
    WithDeviceToken,
    /// At once, with the shared token or password; the stored device token is worthless and should be forgotten.
    WithoutDeviceToken,
}

/// A refusal or a loss, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub state: LinkState,
    pub problem: Problem,
    pub retry: Retry,
}

/// What the refused `connect` was made with.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The scopes it asked for.
    pub scopes: &'a [String],
    /// It carried a device token instead of the shared token or password.
    pub sent_device_token: bool,
    /// A device token of this gateway is stored.
    pub has_device_token: bool,
    /// A shared token or password is configured.
    pub has_shared_secret: bool,
    /// The credentials were exchanged for the other kind since the last hello. That is done once, so that two wrong
    /// ones do not take turns for ever.
    pub switched: bool,
}

/// Judges a refused `connect`. `close_code` is the code of the close that came with it, if it came.
pub fn judge_refusal(error: &GatewayError, close_code: Option<u16>, attempt: &Attempt<'_>) -> Refusal {
    let code = error.detail_code().unwrap_or_default();
    match code {
        "PAIRING_REQUIRED" => judge_pairing(error, attempt),
        "AUTH_TOKEN_MISMATCH" if may_switch_to_device_token(error, attempt) => {
            let remedy =
                "its shared token is wrong: set the token of this gateway to `gateway.auth.token` of its configuration";
            refusal(LinkState::Connecting, error, Some(remedy), Retry::WithDeviceToken)
        }
        "AUTH_DEVICE_TOKEN_MISMATCH" | "AUTH_SCOPE_MISMATCH" => judge_device_token(error, code, attempt),
        "AUTH_RATE_LIMITED" => {
            let remedy = "too many wrong tokens or passwords came from the broker's address; it is let in again \
                          by itself, or at once when the gateway is restarted";
            refusal(LinkState::Waiting, error, Some(remedy), Retry::After(error.retry_after_ms.unwrap_or(LOCKOUT_MS)))
        }
        // The challenge was too old or not this connection's: a new connection brings a new one.
        "DEVICE_AUTH_SIGNATURE_EXPIRED" | "DEVICE_AUTH_NONCE_MISMATCH" | "DEVICE_AUTH_NONCE_REQUIRED" => {
            refusal(LinkState::Waiting, error, None, Retry::Backoff)
        }
        "PROTOCOL_MISMATCH" => judge_protocol(error),
        _ => match fixed_remedy(code) {
            Some(remedy) => refusal(LinkState::Refused, error, Some(remedy), Retry::Never),
            None => judge_unknown(error, close_code),
        },
    }
}

/// What to do about refusals that end the matter.
fn fixed_remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "AUTH_TOKEN_MISMATCH" => {
            "set the token of this gateway to the value of `gateway.auth.token` in its configuration"
        }
        "AUTH_TOKEN_MISSING" => {
            "this gateway wants a token: set it to the value of `gateway.auth.token` in its configuration"
        }
        "AUTH_PASSWORD_MISMATCH" => {
            "set the password of this gateway to the value of `gateway.auth.password` in its configuration"
        }
        "AUTH_PASSWORD_MISSING" => {
            "this gateway wants a password: set it to the value of `gateway.auth.password` in its configuration"
        }
        "AUTH_TOKEN_NOT_CONFIGURED" => "on the gateway's machine, set `gateway.auth.token`, then connect again",
        "AUTH_PASSWORD_NOT_CONFIGURED" => "on the gateway's machine, set `gateway.auth.password`, then connect again",
        "DEVICE_IDENTITY_REQUIRED" | "AUTH_REQUIRED" | "AUTH_UNAUTHORIZED" => {
            "set the token or the password of this gateway to the value in its configuration (`gateway.auth`)"
        }
        "CONTROL_UI_ORIGIN_NOT_ALLOWED" | "CONTROL_UI_DEVICE_IDENTITY_REQUIRED" | "CONTROL_UI_BUILD_MISMATCH" => {
            "something between the broker and the gateway changes the connection, for example adds an `Origin` header; \
             connect to the gateway's own address"
        }
        "CLIENT_VERSION_MISMATCH" => "update clawbroker or the gateway, then connect again",
        "DEVICE_AUTH_INVALID"
        | "DEVICE_AUTH_SIGNATURE_INVALID"
        | "DEVICE_AUTH_DEVICE_ID_MISMATCH"
        | "DEVICE_AUTH_PUBLIC_KEY_INVALID" => {
            "the gateway does not accept clawbroker's device identity; remove the device there \
             (`openclaw devices list`), then connect again"
        }
        code if code.starts_with("AUTH_") => {
            "the gateway wants another way to sign in; allow a token or a password there (`gateway.auth.mode`)"
        }
        _ => return None,
    })
}

fn judge_pairing(error: &GatewayError, attempt: &Attempt<'_>) -> Refusal {
    let approved = texts(error.details.get("approvedScopes"));
    let narrowed: Vec<String> = attempt.scopes.iter().filter(|scope| includes(&approved, scope)).cloned().collect();
    let is_enough = SCOPES_NEEDED.iter().all(|scope| includes(&narrowed, scope));
    let request_id = error.detail("requestId").filter(|id| is_request_id(id));
    let remedy = match request_id {
        Some(id) => format!("on the gateway's machine, run `openclaw devices approve {id}`"),
        None => "on the gateway's machine, run `openclaw devices list`, then approve clawbroker's request".to_owned(),
    };
    // Asking for the same again would be refused again.
    let can_go_on = error.reason() == Some("scope-upgrade") && is_enough && narrowed.len() < attempt.scopes.len();
    let mut refusal = if can_go_on {
        refusal(LinkState::Connecting, error, Some(&remedy), Retry::WithScopes(narrowed))
    } else {
        let wait_ms = error.retry_after_ms.unwrap_or(APPROVAL_POLL_MS).max(APPROVAL_POLL_MS);
        refusal(LinkState::PairingRequired, error, Some(&remedy), Retry::After(wait_ms))
    };
    refusal.problem.request_id = request_id.map(str::to_owned);
    refusal
}

/// Tells whether a request id is safe to be shown as part of a command for a shell. The gateway's own rule, without
/// the first character's: letters, digits and `._:-`, at most 128.
fn is_request_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    !id.starts_with('-') && (1..=128).contains(&id.len()) && id.bytes().all(is_plain)
}

fn may_switch_to_device_token(error: &GatewayError, attempt: &Attempt<'_>) -> bool {
    let is_offered = error.details.get("canRetryWithDeviceToken").and_then(Value::as_bool).unwrap_or(false);
    is_offered && attempt.has_device_token && !attempt.sent_device_token && !attempt.switched
}

fn judge_device_token(error: &GatewayError, code: &str, attempt: &Attempt<'_>) -> Refusal {
    if attempt.sent_device_token && attempt.has_shared_secret && !attempt.switched {
        // With the shared secret a missing scope becomes a request that somebody can approve.
        return refusal(LinkState::Connecting, error, None, Retry::WithoutDeviceToken);
    }
    let needed: Vec<String> =
        attempt.scopes.iter().filter(|scope| SCOPES_NEEDED.contains(&scope.as_str())).cloned().collect();
    if code == "AUTH_SCOPE_MISMATCH" && needed.len() < attempt.scopes.len() {
        return refusal(LinkState::Connecting, error, None, Retry::WithScopes(needed));
    }
    let remedy =
        "set the token or the password of this gateway again, so that clawbroker's device can be approved anew";
    refusal(LinkState::Refused, error, Some(remedy), Retry::Never)
}

fn judge_protocol(error: &GatewayError) -> Refusal {
    let theirs = error.details.get("expectedProtocol").and_then(Value::as_u64);
    let (lowest, highest) = (*super::PROTOCOLS.start(), *super::PROTOCOLS.end());
    let (theirs, remedy) = match theirs {
        Some(theirs) if theirs > u64::from(highest) => {
            (format!("protocol {theirs}"), "update clawbroker, then connect again")
        }
        Some(theirs) => (format!("protocol {theirs}"), "update the gateway, then connect again"),
        None => ("another protocol".to_owned(), "update the older of the two, then connect again"),
    };
    let mut refusal = refusal(LinkState::Refused, error, Some(remedy), Retry::Never);
    refusal.problem.message = format!("the gateway speaks {theirs}, clawbroker {lowest} to {highest}");
    refusal
}

fn judge_unknown(error: &GatewayError, close_code: Option<u16>) -> Refusal {
    let is_patient = error.retryable
        || error.code == "UNAVAILABLE"
        || error.detail("recommendedNextStep") == Some("wait_then_retry")
        || error.details.get("pauseReconnect").and_then(Value::as_bool) == Some(false)
        || matches!(close_code, Some(1001 | 1011 | 1012 | 1013));
    match error.retry_after_ms {
        Some(wait_ms) if is_patient => refusal(LinkState::Waiting, error, None, Retry::After(wait_ms)),
        _ if is_patient => refusal(LinkState::Waiting, error, None, Retry::Backoff),
        _ => refusal(LinkState::Refused, error, None, Retry::After(UNKNOWN_REFUSAL_MS)),
    }
}

/// Judges an upgrade that was answered with an HTTP status instead of a socket.
pub fn judge_http_status(status: u16) -> Refusal {
    let (message, remedy) = match status {
        403 => (
            "the gateway, or a proxy before it, forbids the connection",
            "if a proxy stands before the gateway, name it in `gateway.trustedProxies` there \
             (`proxy_attribution_required`), or connect to the gateway's own address",
        ),
        401 | 407 => (
            "something before the gateway wants its own sign-in",
            "connect to the gateway's own address, or let the broker through",
        ),
        300..=399 => ("the address answers with a redirection", "set the URL of this gateway to where it leads"),
        200..=299 | 400 | 404 | 405 | 426 => (
            "no WebSocket answers at this address",
            "check the URL of this gateway: host, port (18789 by default) and `ws://` or `wss://`",
        ),
        // 503 while it stops or starts; what else a proxy says while its gateway is away.
        _ => return loss("gateway_starting", format!("the gateway answered with HTTP status {status}")),
    };
    own(LinkState::Refused, "upgrade_refused", format!("{message} (HTTP status {status})"), Some(remedy), Retry::Never)
}

/// Judges the end of a socket that brought no refusal with it. `None`: it ended without a close frame.
pub fn judge_close(code: Option<u16>, reason: &str) -> Refusal {
    let reason = sentence(reason);
    let detail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match code {
        Some(1002) if reason.contains("protocol mismatch") => {
            own(LinkState::Refused, "PROTOCOL_MISMATCH", reason, Some("update the older of the two"), Retry::Never)
        }
        // Our own first frame was wrong, or something else than a gateway answers; soon again would not help.
        Some(1008) if reason.starts_with("invalid ") => {
            own(LinkState::Refused, "handshake_failed", reason, None, Retry::After(UNKNOWN_REFUSAL_MS))
        }
        // Any other 1008 (slow consumer, rights taken away): the next handshake tells in a form that can be judged.
        Some(1009) => loss("frame_too_large", format!("the gateway refused a frame as too large{detail}")),
        Some(1012) => loss("gateway_restarting", format!("the gateway restarts{detail}")),
        Some(code) => loss("connection_closed", format!("the gateway closed the connection with code {code}{detail}")),
        None => loss("connection_lost", "the connection to the gateway was lost".to_owned()),
    }
}

fn loss(code: &str, message: String) -> Refusal {
    own(LinkState::Waiting, code, message, None, Retry::Backoff)
}

fn own(state: LinkState, code: &str, message: String, remedy: Option<&str>, retry: Retry) -> Refusal {
    let problem = Problem { code: code.to_owned(), message, remedy: remedy.map(str::to_owned), request_id: None };
    Refusal { state, problem, retry }
}

/// A refusal in the gateway's own words, made safe to show.
fn refusal(state: LinkState, error: &GatewayError, remedy: Option<&str>, retry: Retry) -> Refusal {
    let code = error.detail_code().unwrap_or(&error.code);
    let code = if code.is_empty() { "refused".to_owned() } else { sentence(code) };
    own(state, &code, sentence(&error.message), remedy, retry)
}

fn sentence(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SENTENCE_CHARS_MAX).collect()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
