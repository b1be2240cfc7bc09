//! The key that encrypts stored secrets: gateway tokens, device keys, channel credentials.
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::section::through_text;

/// 32 bytes, read from base64 (either alphabet, padded or not) or hex, wiped on drop, shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(Zeroizing<[u8; Self::BYTES]>);

const INDIFFERENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, INDIFFERENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, INDIFFERENT);

impl EncryptionKey {
    pub const BYTES: usize = 32;

    /// Wraps bytes that were just made at random.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Hands out the bytes; the name makes every use easy to find.
    pub fn reveal(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl FromStr for EncryptionKey {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let value = value.trim();
        // 64 hex digits are also valid base64, but of 48 bytes: the length tells which was meant.
        let bytes = match value.len() {
            64 => from_hex(value),
            _ => STANDARD.decode(value).or_else(|_| URL_SAFE.decode(value)).ok(),
        };
        let bytes = Zeroizing::new(bytes.unwrap_or_default());
        let key = <[u8; Self::BYTES]>::try_from(bytes.as_slice());
        key.map(Self::from_bytes)
            .map_err(|_| "must be 32 bytes in base64 or hex; `openssl rand -base64 32` makes such a key".to_owned())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())
}

impl fmt::Display for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[set]")
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

through_text!(EncryptionKey, secret: true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_any_common_form() {
        let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(255 - i).expect("a byte"));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let standard = STANDARD.encode(bytes);
        let url_safe = URL_SAFE.encode(bytes);
        assert_ne!(standard, url_safe);
        for text in [&hex, &hex.to_uppercase(), &standard, &url_safe, &standard.replace('=', ""), &format!("{hex}\n")] {
            assert_eq!(text.parse::<EncryptionKey>().expect(text).reveal(), &bytes);
        }
    }

    #[test]
    fn another_length_is_refused_and_not_repeated() {
        for wrong in ["", "c4n4ry", &"c4".repeat(31), &"zz".repeat(32), &STANDARD.encode([7; 33])] {
            let error = wrong.parse::<EncryptionKey>().expect_err(wrong);
            assert!(!error.contains("c4") && error.contains("32 bytes"), "{error}");
        }
    }
}
