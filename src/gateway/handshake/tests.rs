use serde_json::Value;

use super::super::fixtures;
use super::super::frames::{GatewayError, Inbound, decode};
use super::*;

fn attempt(scopes: &[String]) -> Attempt<'_> {
    Attempt { scopes, sent_device_token: false, has_device_token: false, has_shared_secret: true, switched: false }
}

/// The scopes that were asked for in a transcript, and the refusal that came.
fn refused(name: &str) -> (Vec<String>, GatewayError) {
    let scopes = serde_json::from_value(fixtures::sent(name, "connect")["scopes"].clone()).expect("scopes");
    (scopes, fixtures::answers(name, "connect").remove(0).expect_err("refused"))
}

fn judged(name: &str) -> Refusal {
    let (scopes, error) = refused(name);
    judge_refusal(&error, Some(1008), &attempt(&scopes))
}

fn error(details: Value) -> GatewayError {
    GatewayError { code: "INVALID_REQUEST".to_owned(), details, ..GatewayError::default() }
}

fn hello(name: &str) -> HelloOk {
    decode(fixtures::answers(name, "connect")[0].as_ref().expect("connected")).expect("a hello")
}

#[test]
fn connect_params_are_what_the_gateway_takes() {
    let device = DeviceIdentity::from_seed(&[119; 32]);
    let challenge = Challenge { nonce: "n-1".to_owned(), ts_ms: 17 };
    let scopes = scopes_asked(false);
    let auth = Auth { token: Some(Secret::new("fake")), password: Some(Secret::new("")), device_token: None };
    let connect = Connect { version: "0.1.0", scopes: &scopes, auth: &auth, challenge: &challenge, device: &device };
    let params = connect_params(&connect);
    let recorded = fixtures::sent("device-via-proxy-pairing-required", "connect");
    let keys = |value: &Value| {
        value.as_object().expect("an object").keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&params), keys(&recorded), "the gateway refuses unknown properties");
    assert_eq!(keys(&params["device"]), keys(&recorded["device"]));
    assert_eq!(params["auth"], json!({ "token": "fake" }));
    assert_eq!(params["device"]["id"], recorded["device"]["id"]);
    assert_eq!(params["scopes"], json!(["operator.read", "operator.write", "operator.approvals"]));
    assert_eq!((params["minProtocol"].as_u64(), params["maxProtocol"].as_u64()), (Some(3), Some(4)));
    assert!(!format!("{connect:?}").contains("fake"));

    let bare = connect_params(&Connect { auth: &Auth::default(), ..connect });
    assert!(bare.get("auth").is_none());
    assert_ne!(bare["device"]["signature"], params["device"]["signature"], "the token is signed");
    let device_only = Auth { device_token: Some(Secret::new("fake")), ..Auth::default() };
    let device_only = connect_params(&Connect { auth: &device_only, ..connect });
    assert_eq!(device_only["device"]["signature"], params["device"]["signature"]);
}

#[test]
fn hello_is_worth_its_scopes() {
    let verdict = judge_hello(&hello("connect-chat-stream-final"), false);
    assert_eq!(verdict.state, LinkState::Connected);
    assert_eq!(verdict.scopes_missing, ["operator.approvals"]);

    let verdict = judge_hello(&hello("backend-via-proxy-no-device"), true);
    assert_eq!((verdict.state, verdict.scopes_missing.len()), (LinkState::NotAuthorised, 4));
    assert!(verdict.problem.expect("a problem").message.contains("operator.read and operator.write"));

    let verdict = judge_hello(&hello("auth-missing-scope"), false);
    assert_eq!(verdict.state, LinkState::NotAuthorised);
    assert_eq!(verdict.retry, Some(Retry::After(RIGHTS_POLL_MS)));

    let mut admin = hello("connect-chat-stream-final");
    admin.auth.scopes = vec!["operator.admin".to_owned()];
    assert_eq!(judge_hello(&admin, true).scopes_missing, Vec::<String>::new());
}

#[test]
fn pairing_shows_the_command_and_asks_every_half_minute() {
    for name in ["device-pairing-required", "device-via-proxy-pairing-required", "device-metadata-change"] {
        let refusal = judged(name);
        assert_eq!((refusal.state, &refusal.retry), (LinkState::PairingRequired, &Retry::After(30_000)), "{name}");
        let id = refusal.problem.request_id.expect("a request");
        let command = format!("on the gateway's machine, run `openclaw devices approve {id}`");
        assert_eq!(refusal.problem.remedy, Some(command), "{name}");
        assert_eq!(refusal.problem.code, "PAIRING_REQUIRED", "{name}");
    }
}

#[test]
fn request_id_cannot_smuggle_a_command() {
    for id in ["x; rm -rf /", "", "a`b", "$(x)", "--latest", &"x".repeat(129)] {
        let refusal = judge_refusal(&error(json!({"code": "PAIRING_REQUIRED", "requestId": id})), None, &attempt(&[]));
        assert_eq!(refusal.problem.request_id, None, "{id}");
        assert!(refusal.problem.remedy.expect("a remedy").contains("devices list"));
    }
}

#[test]
fn approved_scopes_are_used_while_the_rest_waits() {
    let name = "device-scope-upgrade-required";
    let refusal = judged(name);
    let narrowed = vec!["operator.read".to_owned(), "operator.write".to_owned()];
    assert_eq!(refusal.retry, Retry::WithScopes(narrowed.clone()));
    assert!(refusal.problem.request_id.is_some(), "the rest can still be approved");

    // The same refusal for the narrowed scopes, or for approved ones that are not enough, waits for a person.
    let refusal = judge_refusal(&refused(name).1, Some(1008), &attempt(&narrowed));
    assert_eq!(refusal.state, LinkState::PairingRequired);
    let details = json!({"code": "PAIRING_REQUIRED", "reason": "scope-upgrade", "approvedScopes": ["operator.read"]});
    assert_eq!(judge_refusal(&error(details), None, &attempt(&scopes_asked(true))).state, LinkState::PairingRequired);
    // Never more than was asked for: an approved admin does not make us one.
    let details = json!({"code": "PAIRING_REQUIRED", "reason": "scope-upgrade", "approvedScopes": ["operator.admin"]});
    assert_eq!(judge_refusal(&error(details), None, &attempt(&scopes_asked(false))).state, LinkState::PairingRequired);
}

#[test]
fn wrong_secrets_stop_the_link() {
    for (name, setting) in [("auth-wrong-token", "gateway.auth.token"), ("auth-missing-token", "gateway.auth")] {
        let refusal = judged(name);
        assert_eq!((refusal.state, refusal.retry), (LinkState::Refused, Retry::Never), "{name}");
        assert!(refusal.problem.remedy.expect("a remedy").contains(setting), "{name}");
    }
    for code in ["AUTH_PASSWORD_MISMATCH", "AUTH_TOKEN_MISSING", "AUTH_TAILSCALE_WHOIS_FAILED", "DEVICE_AUTH_INVALID"] {
        assert_eq!(
            judge_refusal(&error(json!({"code": code})), Some(1008), &attempt(&[])).retry,
            Retry::Never,
            "{code}"
        );
    }
    assert_eq!(judged("origin-not-allowed").retry, Retry::Never);
}

#[test]
fn refusals_of_a_remote_gateway_are_understood() {
    let refusal = judged("auth-missing-token-with-device");
    assert_eq!((refusal.problem.code.as_str(), refusal.retry), ("AUTH_TOKEN_MISSING", Retry::Never));
    let refusal = judged("auth-rate-limited");
    assert_eq!((refusal.state, refusal.problem.code.as_str()), (LinkState::Waiting, "AUTH_RATE_LIMITED"));
    assert!(matches!(refusal.retry, Retry::After(290_000..=300_000)));

    let (scopes, stale) = refused("auth-device-token-mismatch");
    let sent = Attempt { sent_device_token: true, has_device_token: true, ..attempt(&scopes) };
    assert_eq!(judge_refusal(&stale, Some(1008), &sent).retry, Retry::WithoutDeviceToken);
    let (scopes, wrong) = refused("auth-wrong-token-known-device");
    let stored = Attempt { has_device_token: true, ..attempt(&scopes) };
    assert_eq!(judge_refusal(&wrong, Some(1008), &stored).retry, Retry::WithDeviceToken);
    assert_eq!(hello("auth-wrong-token-right-device-token").auth.method.as_deref(), Some("device-token"));
}

#[test]
fn credentials_are_exchanged_once() {
    let wrong = error(json!({"code": "AUTH_TOKEN_MISMATCH", "canRetryWithDeviceToken": true}));
    let stored = Attempt { has_device_token: true, ..attempt(&[]) };
    assert_eq!(judge_refusal(&wrong, Some(1008), &stored).retry, Retry::WithDeviceToken);
    assert_eq!(judge_refusal(&wrong, Some(1008), &attempt(&[])).retry, Retry::Never);

    let stale = error(json!({"code": "AUTH_DEVICE_TOKEN_MISMATCH"}));
    let sent = Attempt { sent_device_token: true, ..stored };
    assert_eq!(judge_refusal(&stale, Some(1008), &sent).retry, Retry::WithoutDeviceToken);
    let switched = Attempt { switched: true, ..sent };
    assert_eq!(judge_refusal(&stale, Some(1008), &switched).retry, Retry::Never);
    assert_eq!(
        judge_refusal(&wrong, Some(1008), &Attempt { sent_device_token: false, ..switched }).retry,
        Retry::Never
    );
}

#[test]
fn device_token_that_covers_less_asks_for_less() {
    let (scopes, error) = refused("device-token-scope-mismatch");
    let alone =
        Attempt { sent_device_token: true, has_device_token: true, has_shared_secret: false, ..attempt(&scopes) };
    let needed: Vec<String> = SCOPES_NEEDED.map(str::to_owned).to_vec();
    let judge = |attempt: &Attempt<'_>| judge_refusal(&error, Some(1008), attempt).retry;
    assert_eq!(judge(&alone), Retry::WithScopes(needed.clone()));
    assert_eq!(judge(&Attempt { has_shared_secret: true, ..alone }), Retry::WithoutDeviceToken);
    assert_eq!(judge(&Attempt { scopes: &needed, ..alone }), Retry::Never);
}

#[test]
fn versions_are_named() {
    let old = judged("protocol-mismatch-new-client");
    assert_eq!(old.problem.message, "the gateway speaks protocol 4, clawbroker 3 to 4");
    let new =
        judge_refusal(&error(json!({"code": "PROTOCOL_MISMATCH", "expectedProtocol": 5})), Some(1002), &attempt(&[]));
    assert_eq!((new.state, new.retry), (LinkState::Refused, Retry::Never));
    assert!(new.problem.remedy.expect("a remedy").starts_with("update clawbroker"));
}

#[test]
fn busy_and_unknown_refusals_are_asked_again_at_their_own_pace() {
    let starting =
        fixtures::answers("gateway-restart-midstream", "connect").into_iter().find_map(Result::err).expect("starting");
    let refusal = judge_refusal(&starting, Some(1008), &attempt(&[]));
    assert_eq!((refusal.state, refusal.retry), (LinkState::Waiting, Retry::After(500)));
    assert_eq!(refusal.problem.code, "UNAVAILABLE");

    let mut limited = error(json!({"code": "AUTH_RATE_LIMITED", "recommendedNextStep": "wait_then_retry"}));
    assert_eq!(judge_refusal(&limited, Some(1008), &attempt(&[])).retry, Retry::After(LOCKOUT_MS));
    limited.retry_after_ms = Some(297_000);
    assert_eq!(judge_refusal(&limited, Some(1008), &attempt(&[])).retry, Retry::After(297_000));

    let waits = error(json!({"code": "SOMETHING_NEW", "pauseReconnect": false}));
    assert_eq!(judge_refusal(&waits, Some(1008), &attempt(&[])).retry, Retry::Backoff);
    let unknown = judge_refusal(&error(json!({"code": "SOMETHING_NEW"})), Some(1008), &attempt(&[]));
    assert_eq!((unknown.state, unknown.retry), (LinkState::Refused, Retry::After(300_000)));
    let empty = judge_refusal(&GatewayError::default(), None, &attempt(&[]));
    assert_eq!(empty.problem.code, "refused");
}

#[test]
fn http_statuses_and_closes_are_judged() {
    let forbidden = judge_http_status(403);
    assert_eq!((forbidden.state, forbidden.retry), (LinkState::Refused, Retry::Never));
    assert!(forbidden.problem.remedy.expect("a remedy").contains("gateway.trustedProxies"));
    for status in [429, 500, 502, 503, 504] {
        assert_eq!(judge_http_status(status).retry, Retry::Backoff, "{status}");
    }
    for status in [200, 302, 401, 404] {
        assert_eq!(judge_http_status(status).retry, Retry::Never, "{status}");
    }
    for (code, reason) in
        [(1000, ""), (1006, ""), (1008, "slow consumer"), (1009, ""), (1011, "x"), (1012, "service restart")]
    {
        let refusal = judge_close(Some(code), reason);
        assert_eq!((refusal.state, refusal.retry), (LinkState::Waiting, Retry::Backoff), "{code}");
    }
    assert_eq!(judge_close(None, "").problem.code, "connection_lost");
    assert_eq!(judge_close(Some(1002), "protocol mismatch").retry, Retry::Never);
    assert_eq!(judge_close(Some(1008), "invalid request frame").retry, Retry::After(300_000));
}

#[test]
fn gateways_words_are_cut_and_cleaned() {
    let long = GatewayError { message: format!("a\n\u{1b}[31m{}", "x".repeat(1_000)), ..error(Value::Null) };
    let message = judge_refusal(&long, None, &attempt(&[])).problem.message;
    assert!(message.starts_with("a[31mx") && message.chars().count() == 300);
}

#[test]
fn no_refusal_can_do_harm() {
    let error = json!({"code": "NOT_PAIRED", "message": "m", "retryable": true, "retryAfterMs": 5, "details": {
        "code": "PAIRING_REQUIRED", "reason": "scope-upgrade", "requestId": "r", "approvedScopes": ["operator.read"]}});
    let scopes = scopes_asked(true);
    for variant in fixtures::spoiled(&error) {
        let frame = json!({"type": "res", "id": "c", "ok": false, "error": variant}).to_string();
        let Ok(Inbound::Response { result: Err(error), .. }) = Inbound::parse(frame) else { panic!("a refusal") };
        assert_ne!(judge_refusal(&error, None, &attempt(&scopes)).retry, Retry::Never, "{variant}");
    }
}
