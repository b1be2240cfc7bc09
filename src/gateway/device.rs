//! The broker's device identity towards one gateway: an Ed25519 key, and the proof that `connect` carries.
//!
//! A gateway on another machine grants scopes to approved devices only, whatever token they bring. The identity is
//! made once per gateway; losing it means a new approval. A signature covers the challenge's nonce and time, so it is
//! good for one connection.
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::error::Error;

/// An Ed25519 key pair. The private half is wiped when it is dropped and never printed.
#[derive(Clone)]
pub struct DeviceIdentity(SigningKey);

impl DeviceIdentity {
    /// Makes a new identity from the system's random numbers.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// Restores an identity from its seed, the 32 bytes of [`DeviceIdentity::seed`].
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The private key, to be stored encrypted.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The device's name on the gateway: the SHA-256 of the public key in lower-case hex.
    pub fn device_id(&self) -> String {
        hex(&Sha256::digest(self.0.verifying_key().as_bytes()))
    }

    /// The raw 32 bytes of the public key in base64url without padding.
    pub fn public_key_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Signs a `connect`; returns the 64 bytes of the signature in base64url without padding.
    pub fn sign_connect(&self, claim: &ConnectClaim<'_>) -> String {
        let payload = Zeroizing::new(claim.payload(&self.device_id()));
        URL_SAFE_NO_PAD.encode(self.0.sign(payload.as_bytes()).to_bytes())
    }
}

impl fmt::Debug for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceIdentity({})", self.device_id())
    }
}

/// What a proof of identity says. Each field must be what the same `connect` sends beside it.
#[derive(Clone, Copy)]
pub struct ConnectClaim<'a> {
    pub client_id: &'a str,
    pub client_mode: &'a str,
    pub role: &'a str,
    /// In the order sent.
    pub scopes: &'a [String],
    /// The challenge's time in epoch milliseconds; the gateway allows 120 s to either side of its own clock.
    pub signed_at_ms: i64,
    /// The `auth.token` that is sent, else the device token that is sent, else empty. A password does not count.
    pub token: &'a str,
    /// The challenge's.
    pub nonce: &'a str,
    /// The device's description; another one than the approved needs a new approval.
    pub platform: &'a str,
    /// Empty when absent.
    pub device_family: &'a str,
}

impl ConnectClaim<'_> {
    /// The text that is signed, version 3. It holds the token.
    fn payload(&self, device_id: &str) -> String {
        let normal = |text: &str| text.trim().to_ascii_lowercase();
        [
            "v3",
            device_id,
            self.client_id,
            self.client_mode,
            self.role,
            &self.scopes.join(","),
            &self.signed_at_ms.to_string(),
            self.token,
            self.nonce,
            &normal(self.platform),
            &normal(self.device_family),
        ]
        .join("|")
    }
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixtures;
    use super::*;

    /// Finds the all-same-byte seed whose device id this is.
    fn identity_of(device_id: &str) -> DeviceIdentity {
        let identities = (0..=u8::MAX).map(|byte| DeviceIdentity::from_seed(&[byte; 32]));
        identities.into_iter().find(|identity| identity.device_id() == device_id).expect("a fixed seed")
    }

    #[test]
    fn recorded_signatures_are_reproduced() {
        let mut signed = 0;
        for name in fixtures::names().iter().filter(|name| name.starts_with("device-")) {
            let params = fixtures::sent(name, "connect");
            let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let identity = identity_of(text("/device/id"));
            assert_eq!(identity.public_key_base64url(), text("/device/publicKey"), "{name}");
            // A device token is the gateway's own; it was replaced after the recording, so its signature covers
            // another.
            if !text("/auth/deviceToken").is_empty() {
                continue;
            }
            let scopes: Vec<String> = serde_json::from_value(params["scopes"].clone()).expect("scopes");
            let claim = ConnectClaim {
                client_id: text("/client/id"),
                client_mode: text("/client/mode"),
                role: text("/role"),
                scopes: &scopes,
                signed_at_ms: params["device"]["signedAt"].as_i64().expect("a time"),
                token: text("/auth/token"),
                nonce: text("/device/nonce"),
                platform: text("/client/platform"),
                device_family: text("/client/deviceFamily"),
            };
            assert_eq!(identity.sign_connect(&claim), text("/device/signature"), "{name}");
            signed += 1;
        }
        assert_eq!(signed, 6);
    }

    #[test]
    fn payload_keeps_empty_fields_and_lowers_the_description() {
        let claim = ConnectClaim {
            client_id: "gateway-client",
            client_mode: "backend",
            role: "operator",
            scopes: &["operator.read".to_owned(), "operator.write".to_owned()],
            signed_at_ms: 17,
            token: "",
            nonce: "n",
            platform: " Linux ",
            device_family: "",
        };
        let expected = "v3|id|gateway-client|backend|operator|operator.read,operator.write|17||n|linux|";
        assert_eq!(claim.payload("id"), expected);
    }

    #[test]
    fn identity_survives_storing_and_is_never_printed() {
        let made = DeviceIdentity::generate().expect("random numbers");
        let restored = DeviceIdentity::from_seed(&made.seed());
        assert_eq!(made.device_id(), restored.device_id());
        assert_ne!(made.device_id(), DeviceIdentity::generate().expect("random numbers").device_id());
        let printed = format!("{:?}", DeviceIdentity::from_seed(&[102; 32]));
        assert_eq!(printed, "DeviceIdentity(f7b7676c94df7e8fd9998e38f9fff04d8588b00d1801764e3f1877a3feae4477)");
    }
}
