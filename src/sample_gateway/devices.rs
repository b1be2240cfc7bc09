//! Device identities: the proof a client brings, and who has been paired. Pure.
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::frames::{Refusal, merge};
use super::session::fresh_id;

/// A proof may be this much older or newer than the gateway's clock.
const SKEW_MS_MAX: u64 = 120_000;
const DEVICES_MAX: usize = 64;

/// What a proof is checked against.
pub(super) struct Challenge<'a> {
    pub(super) nonce: &'a str,
    pub(super) now: i64,
}

/// What a client says of itself, as far as a device is approved for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) device_id: String,
    pub(super) role: String,
    pub(super) scopes: Vec<String>,
    /// Platform and device family; a change of them needs a new approval.
    pub(super) machine: (String, String),
}

struct Paired {
    claim: Claim,
    token: String,
}

/// The devices that are paired and those that wait for approval.
#[derive(Default)]
pub(super) struct Devices {
    paired: BTreeMap<String, Paired>,
    pending: BTreeMap<String, Claim>,
}

impl Devices {
    /// Returns the device token if the device is approved for what it claims; else opens a request, or finds the open one.
    pub(super) fn admit(&mut self, claim: &Claim) -> Result<String, Refusal> {
        let (reason, message, hint) = match self.paired.get(&claim.device_id) {
            None => {
                ("not-paired", "device is not approved yet", "Approve this device from the pending pairing requests.")
            }
            Some(paired) if paired.claim.machine != claim.machine => (
                "metadata-upgrade",
                "device identity changed and must be re-approved",
                "Review the refreshed device details, then approve the pending request.",
            ),
            Some(paired) if claim.scopes.iter().any(|scope| !paired.claim.scopes.contains(scope)) => (
                "scope-upgrade",
                "device is asking for more scopes than currently approved",
                "Review the requested scopes, then approve the pending upgrade.",
            ),
            Some(paired) => return Ok(paired.token.clone()),
        };
        let open =
            self.pending.iter().find(|(_, pending)| pending.device_id == claim.device_id).map(|(id, _)| id.clone());
        if open.is_none() && self.pending.len() >= DEVICES_MAX {
            return Err(Refusal::unavailable("too many pairing requests", "pairing-full"));
        }
        let request_id = open.unwrap_or_else(fresh_id);
        self.pending.insert(request_id.clone(), claim.clone());
        let mut details = json!({
            "code": "PAIRING_REQUIRED", "reason": reason, "requestId": request_id, "remediationHint": hint,
            "deviceId": claim.device_id, "requestedRole": claim.role, "requestedScopes": claim.scopes,
        });
        if let Some(paired) = self.paired.get(&claim.device_id) {
            merge(&mut details, json!({ "approvedRoles": [paired.claim.role], "approvedScopes": paired.claim.scopes }));
        }
        let mut refusal = Refusal::invalid(format!("pairing required: {message}")).with_details(details);
        refusal.code = "NOT_PAIRED";
        Err(refusal)
    }

    /// Approves a pending request; tells whether there was one.
    pub(super) fn approve(&mut self, request_id: &str) -> bool {
        let full = self.paired.len() >= DEVICES_MAX;
        let Some(claim) = self.pending.remove(request_id) else { return false };
        if full && !self.paired.contains_key(&claim.device_id) {
            return false;
        }
        let token = match self.paired.remove(&claim.device_id) {
            Some(paired) => paired.token,
            None => format!("sample-device-token-{}", fresh_id()),
        };
        self.paired.insert(claim.device_id.clone(), Paired { claim, token });
        true
    }

    /// Returns the ids of the requests that wait for approval.
    pub(super) fn pending(&self) -> Vec<String> {
        self.pending.keys().cloned().collect()
    }

    pub(super) fn token_of(&self, device_id: &str) -> Option<&str> {
        self.paired.get(device_id).map(|paired| paired.token.as_str())
    }

    pub(super) fn approved_scopes(&self, device_id: &str) -> &[String] {
        self.paired.get(device_id).map_or(&[], |paired| &paired.claim.scopes)
    }
}

/// Checks the proof in the parameters of a `connect`; returns whose it is.
pub(super) fn verify(params: &Value, challenge: &Challenge<'_>) -> Result<String, Refusal> {
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let bad = |code: &str, message: &str| {
        Err(Refusal::invalid(message).with_details(json!({ "code": code, "reason": message.replace(' ', "-") })))
    };
    let key = URL_SAFE_NO_PAD.decode(text("/device/publicKey")).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
    let Some(key) = key else { return bad("DEVICE_AUTH_PUBLIC_KEY_INVALID", "device public key invalid") };
    let device_id: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    if text("/device/id") != device_id {
        return bad("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device identity mismatch");
    }
    if text("/device/nonce") != challenge.nonce {
        return bad("DEVICE_AUTH_NONCE_MISMATCH", "device nonce mismatch");
    }
    let signed_at = params.pointer("/device/signedAt").and_then(Value::as_i64).unwrap_or_default();
    if signed_at.abs_diff(challenge.now) > SKEW_MS_MAX {
        return bad("DEVICE_AUTH_SIGNATURE_EXPIRED", "device signature expired");
    }
    let signature =
        URL_SAFE_NO_PAD.decode(text("/device/signature")).ok().and_then(|bytes| Signature::from_slice(&bytes).ok());
    let genuine = VerifyingKey::from_bytes(&key).ok().zip(signature).is_some_and(|(key, signature)| {
        ["v3", "v2"]
            .iter()
            .any(|version| key.verify_strict(payload(params, version, signed_at).as_bytes(), &signature).is_ok())
    });
    if genuine { Ok(device_id) } else { bad("DEVICE_AUTH_SIGNATURE_INVALID", "device signature invalid") }
}

/// Spells what a device has signed.
pub(super) fn payload(params: &Value, version: &str, signed_at: i64) -> String {
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let token = if text("/auth/token").is_empty() { text("/auth/deviceToken") } else { text("/auth/token") };
    let scopes = params.get("scopes").and_then(Value::as_array).into_iter().flatten();
    let scopes = scopes.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let role = if text("/role").is_empty() { "operator" } else { text("/role") };
    let signed_at = signed_at.to_string();
    let mut parts = vec![version, text("/device/id"), text("/client/id"), text("/client/mode"), role, &scopes];
    parts.extend([signed_at.as_str(), token, text("/device/nonce")]);
    let (platform, family) = machine(params);
    if version == "v3" {
        parts.extend([platform.as_str(), family.as_str()]);
    }
    parts.join("|")
}

/// Returns platform and device family the way they are signed.
pub(super) fn machine(params: &Value) -> (String, String) {
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    (text("/client/platform").trim().to_ascii_lowercase(), text("/client/deviceFamily").trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the recorded session `device-pairing-required.jsonl`; its signature is a real one.
    fn recorded() -> Value {
        let nonce = "66fd20e6-12a2-49a5-b258-0bac7fcba3bd";
        json!({
            "client": { "id": "cli", "version": "0.1.0", "platform": "linux", "mode": "cli" }, "role": "operator",
            "scopes": ["operator.read", "operator.write"], "auth": { "token": "fake-token-two" },
            "device": {
                "id": "f7b7676c94df7e8fd9998e38f9fff04d8588b00d1801764e3f1877a3feae4477",
                "publicKey": "NLTZBDFWy23PC-sKKUm3VZyUDSvLbb6MU6mzAnjjp0Y", "signedAt": 1_795_189_357_008_i64, "nonce": nonce,
                "signature": "f5d420rCR5VZ1zeeswx6k6RIEtl2wRdrHuBRWDkZN587KK3FmM1MFgigkcM8PC-L2MkbsZDL6pZYE16KhtjDDA",
            },
        })
    }

    #[test]
    fn a_recorded_proof_is_accepted_and_a_changed_one_refused() {
        let challenge = Challenge { nonce: "66fd20e6-12a2-49a5-b258-0bac7fcba3bd", now: 1_795_189_357_100 };
        assert!(verify(&recorded(), &challenge).expect("genuine").starts_with("f7b7676c"));
        for (pointer, value, code) in [
            ("/scopes/1", json!("operator.admin"), "DEVICE_AUTH_SIGNATURE_INVALID"),
            ("/auth/token", json!("other"), "DEVICE_AUTH_SIGNATURE_INVALID"),
            ("/device/nonce", json!("other"), "DEVICE_AUTH_NONCE_MISMATCH"),
            ("/device/id", json!("other"), "DEVICE_AUTH_DEVICE_ID_MISMATCH"),
            ("/device/signedAt", json!(1_795_189_000_000_i64), "DEVICE_AUTH_SIGNATURE_EXPIRED"),
        ] {
            let mut params = recorded();
            *params.pointer_mut(pointer).expect("pointer") = value;
            let refusal = verify(&params, &challenge).expect_err(pointer);
            assert_eq!(refusal.details.expect("details")["code"], code);
        }
    }

    #[test]
    fn a_device_is_admitted_for_what_was_approved() {
        let mut devices = Devices::default();
        let mut claim = Claim {
            device_id: "d".to_owned(),
            role: "operator".to_owned(),
            scopes: vec!["operator.read".to_owned()],
            machine: ("linux".to_owned(), String::new()),
        };
        let refusal = devices.admit(&claim).expect_err("not paired");
        let request_id = devices.pending().pop().expect("a request");
        assert_eq!(refusal.details.expect("details")["requestId"], request_id.as_str());
        assert!(devices.admit(&claim).is_err());
        assert_eq!(devices.pending(), std::slice::from_ref(&request_id), "the open request is reused");
        assert!(devices.approve(&request_id) && !devices.approve(&request_id));
        let token = devices.admit(&claim).expect("paired");
        assert_eq!(devices.admit(&claim), Ok(token), "the token stays the same");
        claim.scopes.push("operator.admin".to_owned());
        assert_eq!(
            devices.admit(&claim).expect_err("more scopes").details.expect("details")["reason"],
            "scope-upgrade"
        );
    }
}
