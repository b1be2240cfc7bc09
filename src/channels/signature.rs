//! HMAC-SHA-256 in hex, and comparing secrets in constant time.
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Signs the parts as if they were one text; lower-case hex.
pub fn hmac_sha256_hex(key: &[u8], parts: &[&[u8]]) -> String {
    hex(&mac(key, parts).finalize().into_bytes())
}

/// Tells whether this is the parts' signature; hex in either case.
pub fn is_hmac_sha256(key: &[u8], parts: &[&[u8]], signature: &str) -> bool {
    from_hex(signature).is_some_and(|signature| mac(key, parts).verify_slice(&signature).is_ok())
}

/// Compares what someone said with a secret. An empty secret is like nothing.
pub fn same_secret(secret: &[u8], said: &[u8]) -> bool {
    // Digests have one length, so neither content nor length shows in the time.
    let same = Sha256::digest(secret).as_slice().ct_eq(Sha256::digest(said).as_slice());
    !secret.is_empty() && bool::from(same)
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some((digit(high)? << 4) | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hmac_sha256_hex(b"Jefe", &[b"what do ya want ", b"for nothing?"]), signature);
        let message: &[&[u8]] = &[b"what do ya want for nothing?"];
        assert!(is_hmac_sha256(b"Jefe", message, signature));
        assert!(is_hmac_sha256(b"Jefe", message, &signature.to_uppercase()));
        for wrong in ["", "5b", "zz", "5bd", &signature[2..], &signature.replace('5', "6"), "ää"] {
            assert!(!is_hmac_sha256(b"Jefe", message, wrong), "{wrong}");
        }
        assert!(!is_hmac_sha256(b"Jefe", &[b"what do ya want for nothing!"], signature));
        assert!(!is_hmac_sha256(b"jefe", message, signature));
    }

    #[test]
    fn an_empty_secret_is_like_nothing() {
        assert!(same_secret(b"s", b"s"));
        assert!(!same_secret(b"s", b"t") && !same_secret(b"s", b"") && !same_secret(b"", b""));
    }
}
