//! The handshake: whether a `connect` is accepted, with which scopes, and what the gateway tells of itself. Pure.
use serde_json::{Map, Value, json};

use super::Options;
use super::devices::{Challenge, Claim, Devices, machine, verify};
use super::frames::{Refusal, merge, set};
use super::gateway::{Gateway, Phase};
use super::methods::{METHODS, closed};
use super::session::AGENT;

const VERSION: &str = "2026.9.6";
const VERSION_OF_PROTOCOL_3: &str = "2026.4.27";
const CLIENT_IDS: [&str; 17] = [
    "webchat-ui",
    "openclaw-control-ui",
    "openclaw-browser-copilot",
    "openclaw-tui",
    "webchat",
    "cli",
    "gateway-client",
    "openclaw-macos",
    "openclaw-linux",
    "openclaw-ios",
    "openclaw-watchos",
    "openclaw-android",
    "node-host",
    "openclaw-worker",
    "test",
    "fingerprint",
    "openclaw-probe",
];
const CLIENT_MODES: [&str; 8] = ["webchat", "cli", "ui", "backend", "node", "worker", "probe", "test"];

/// What the connection knows before it reads the request.
pub(super) struct Attempt<'a> {
    pub(super) conn_id: &'a str,
    pub(super) nonce: &'a str,
    /// The upgrade carried an `Origin`: a browser speaks.
    pub(super) from_browser: bool,
    pub(super) now: i64,
}

/// A connection that may go on.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) scopes: Vec<String>,
    pub(super) hello: Value,
}

/// A refusal, and the close that follows it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) close: u16,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, close: 1008 }
    }
}

impl Refused {
    /// Returns the reason that the close frame gives.
    pub(super) fn reason(&self) -> String {
        let request_id = self.refusal.details.as_ref().and_then(|details| details.get("requestId")?.as_str());
        match request_id {
            Some(request_id) => format!("{} (requestId: {request_id})", self.refusal.message),
            None => self.refusal.message.clone(),
        }
    }
}

/// Decides on a `connect`.
pub(super) fn check(
    options: &Options,
    gateway: &Gateway,
    devices: &mut Devices,
    attempt: &Attempt<'_>,
    params: &Value,
) -> Result<Granted, Refused> {
    if gateway.phase != Phase::Up {
        return Err(Refusal::unavailable("gateway starting; retry shortly", "startup-sidecars").into());
    }
    check_shape(params)?;
    check_protocol(gateway.protocol, params)?;
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("/role"), "" | "operator" | "node") {
        return Err(Refusal::invalid("invalid role").into());
    }
    let device_id = match params.get("device") {
        Some(_) => Some(verify(params, &Challenge { nonce: attempt.nonce, now: attempt.now })?),
        None => None,
    };
    let method = authenticate(options, devices, device_id.as_deref(), params)?;
    let mut scopes: Vec<String> = params
        .get("scopes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let mut device_token = None;
    match device_id {
        Some(device_id) if options.pairing => {
            let claim =
                Claim { device_id, role: "operator".to_owned(), scopes: scopes.clone(), machine: machine(params) };
            if method == "device-token"
                && scopes.iter().any(|scope| !devices.approved_scopes(&claim.device_id).contains(scope))
            {
                return Err(unauthorized(
                    "AUTH_SCOPE_MISMATCH",
                    "device token scope mismatch (re-pair or approve scope upgrade)",
                    "review_auth_configuration",
                )
                .into());
            }
            device_token = Some(devices.admit(&claim)?);
        }
        // To the real gateway this client would look remote: it connects, and may do nothing.
        None if options.pairing => scopes.clear(),
        _ if attempt.from_browser => scopes.clear(),
        _ if !matches!((text("/client/id"), text("/client/mode")), ("gateway-client", "backend") | ("cli", "cli")) => {
            scopes.clear();
        }
        _ => {}
    }
    if let Some(granted) = &options.grant_scopes {
        scopes.retain(|scope| granted.contains(scope));
    }
    let mut auth = json!({ "role": "operator", "scopes": scopes });
    if gateway.protocol > 3 {
        set(&mut auth, "method", json!(method));
    }
    if let Some(token) = device_token {
        merge(&mut auth, json!({ "deviceToken": token, "issuedAtMs": attempt.now }));
    }
    Ok(Granted { hello: hello(options, gateway, attempt.conn_id, auth), scopes })
}

fn check_shape(params: &Value) -> Result<(), Refusal> {
    let root = closed(
        "connect",
        params,
        &["minProtocol", "maxProtocol", "client"],
        &["role", "scopes", "caps", "commands", "permissions", "auth", "device", "locale", "userAgent", "pathEnv"],
    )?;
    let part = |key: &str, required: &[&str], optional: &[&str]| match root.get(key) {
        Some(value) => closed("connect", value, required, optional).map(|_: &Map<String, Value>| ()),
        None => Ok(()),
    };
    part(
        "client",
        &["id", "version", "platform", "mode"],
        &["displayName", "deviceFamily", "modelIdentifier", "instanceId", "timeZone", "buildId"],
    )?;
    part("auth", &[], &["token", "password", "deviceToken", "bootstrapToken"])?;
    part("device", &["id", "publicKey", "signature", "signedAt", "nonce"], &[])?;
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !CLIENT_IDS.contains(&text("/client/id")) {
        return Err(Refusal::invalid(
            "invalid connect params: at /client/id: must be equal to one of the allowed values",
        ));
    }
    if !CLIENT_MODES.contains(&text("/client/mode")) {
        return Err(Refusal::invalid(
            "invalid connect params: at /client/mode: must be equal to one of the allowed values",
        ));
    }
    Ok(())
}

fn check_protocol(protocol: u8, params: &Value) -> Result<(), Refused> {
    let bound = |key: &str| params.get(key).and_then(Value::as_u64).unwrap_or_default();
    let (min, max) = (bound("minProtocol"), bound("maxProtocol"));
    if (min..=max).contains(&u64::from(protocol)) {
        return Ok(());
    }
    let details = if protocol > 3 {
        json!({
            "code": "PROTOCOL_MISMATCH", "clientMinProtocol": min, "clientMaxProtocol": max, "expectedProtocol": protocol,
            "minimumProbeProtocol": 3,
        })
    } else {
        json!({ "expectedProtocol": protocol })
    };
    Err(Refused { refusal: Refusal::invalid("protocol mismatch").with_details(details), close: 1002 })
}

/// Returns by which method the client is who it says.
fn authenticate(
    options: &Options,
    devices: &Devices,
    device_id: Option<&str>,
    params: &Value,
) -> Result<&'static str, Refusal> {
    let given = |key: &str| params.pointer(&format!("/auth/{key}")).and_then(Value::as_str);
    let (kind, secret) = match (&options.token, &options.password) {
        (Some(token), _) => ("token", token),
        (None, Some(password)) => ("password", password),
        (None, None) => return Ok("none"),
    };
    // The real gateway takes the secret in either place.
    let shared = given("token").or_else(|| given("password"));
    let device_token = device_id.and_then(|device_id| devices.token_of(device_id));
    match (shared, given("deviceToken"), device_id) {
        (Some(shared), _, _) if shared == secret => Ok(kind),
        (Some(shared), _, _) if Some(shared) == device_token => Ok("device-token"),
        (Some(_), _, _) => Err(unauthorized(
            if kind == "token" { "AUTH_TOKEN_MISMATCH" } else { "AUTH_PASSWORD_MISMATCH" },
            &format!("gateway {kind} mismatch (provide gateway auth {kind})"),
            if device_id.is_some() { "retry_with_device_token" } else { "update_auth_credentials" },
        )),
        (None, Some(given), Some(_)) if Some(given) == device_token => Ok("device-token"),
        (None, Some(_), Some(_)) => Err(unauthorized(
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "device token mismatch (rotate/reissue device token)",
            "update_auth_credentials",
        )),
        (None, None, Some(_)) => Err(unauthorized(
            if kind == "token" { "AUTH_TOKEN_MISSING" } else { "AUTH_PASSWORD_MISSING" },
            &format!("gateway {kind} missing (provide gateway auth {kind})"),
            "update_auth_credentials",
        )),
        (None, _, None) => {
            let refusal = Refusal::invalid("device identity required");
            let refusal = refusal.with_details(json!({ "code": "DEVICE_IDENTITY_REQUIRED" }));
            Err(Refusal { code: "NOT_PAIRED", ..refusal })
        }
    }
}

fn unauthorized(code: &str, message: &str, next_step: &str) -> Refusal {
    let reason = code.trim_start_matches("AUTH_").to_lowercase();
    Refusal::invalid(format!("unauthorized: {message}")).with_details(json!({
        "code": code, "authReason": reason, "canRetryWithDeviceToken": next_step == "retry_with_device_token",
        "recommendedNextStep": next_step,
    }))
}

fn hello(options: &Options, gateway: &Gateway, conn_id: &str, auth: Value) -> Value {
    let methods: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
    let main_session = format!("agent:{AGENT}:{AGENT}");
    let defaults = json!({
        "defaultAgentId": AGENT, "mainKey": AGENT, "mainSessionKey": main_session, "scope": "per-sender",
    });
    let new = gateway.protocol > 3;
    let mut server = json!({ "version": if new { VERSION } else { VERSION_OF_PROTOCOL_3 }, "connId": conn_id });
    if new {
        set(&mut server, "bootId", json!(gateway.boot_id));
    }
    json!({
        "type": "hello-ok", "protocol": gateway.protocol, "server": server,
        "features": { "methods": methods, "events": ["connect.challenge", "agent", "chat", "tick", "shutdown"] },
        "snapshot": {
            "presence": [], "health": { "ok": true }, "stateVersion": { "presence": 1, "health": 1 }, "uptimeMs": 0,
            "sessionDefaults": defaults, "suspension": { "phase": "accepting" },
        },
        "auth": auth,
        "policy": {
            "maxPayload": super::FRAME_BYTES_MAX, "maxBufferedBytes": 2 * super::FRAME_BYTES_MAX,
            "tickIntervalMs": options.tick_ms,
        },
    })
}
