//! Seals secrets before they are stored (XChaCha20-Poly1305) and opens them again. The key is 32 bytes from the
//! environment or from a file of mode 0600 beside the data; it is never in the database or in a backup of it.
use std::io::{Read, Write};
use std::path::Path;

use base64::Engine;
use blake2::Blake2sMac256;
use blake2::digest::Mac;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::domain::error::{Error, ErrorCode};
use crate::domain::secret::Secret;

/// Name of the key file in the data directory.
pub const KEY_FILE: &str = "secret.key";
const NONCE_BYTES: usize = 24;

/// Holds the key; wiped on drop by the cipher itself.
#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    /// Made from the key, for digests of what is secret.
    digest_key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault([redacted])")
    }
}

impl Vault {
    /// Takes the key from `given` (32 bytes in base64 or hex) or else from the key file, which is made if there is none.
    pub fn open(data_dir: &Path, given: Option<&Secret>) -> Result<Self, Error> {
        let key = match given {
            Some(text) => decode_key(text.reveal()).ok_or_else(|| {
                Error::new(ErrorCode::InvalidRequest, "CLAWBROKER_ENCRYPTION_KEY must be 32 bytes in base64 or hex")
            })?,
            None => key_from_file(&data_dir.join(KEY_FILE))?,
        };
        let cipher =
            XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| Error::internal("bad key length"))?;
        let digest_key = Zeroizing::new(keyed_digest(&key, b"digests")?);
        Ok(Self { cipher, digest_key })
    }

    /// Seals `secret`; it can be opened only in the same `place`, so that sealed values cannot be swapped.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0_u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Error::internal("no randomness"))?;
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: place.as_bytes() })
            .map_err(|_| Error::internal("a secret could not be sealed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Vault::seal`] made for the same `place`.
    pub fn unseal(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let damaged = || {
            Error::corrupt(format!("the secret `{place}` cannot be opened with this key; was `{KEY_FILE}` replaced?"))
        };
        let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        self.cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: place.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| damaged())
    }

    /// Digests bytes so that nobody without the key can tell what they were by trying.
    pub fn digest(&self, bytes: &[u8]) -> Result<[u8; 32], Error> {
        keyed_digest(&self.digest_key, bytes)
    }

    /// Seals a text.
    pub fn seal_text(&self, place: &str, secret: &Secret) -> Result<Vec<u8>, Error> {
        self.seal(place, secret.reveal().as_bytes())
    }

    /// Opens a text.
    pub fn unseal_text(&self, place: &str, sealed: &[u8]) -> Result<Secret, Error> {
        let plain = self.unseal(place, sealed)?;
        let text =
            std::str::from_utf8(&plain).map_err(|_| Error::corrupt(format!("the secret `{place}` is not text")))?;
        Ok(Secret::new(text))
    }
}

fn keyed_digest(key: &[u8; 32], bytes: &[u8]) -> Result<[u8; 32], Error> {
    let mac = Blake2sMac256::new_from_slice(key).map_err(|_| Error::internal("bad key length"))?;
    Ok(mac.chain_update(bytes).finalize().into_bytes().into())
}

fn decode_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    let bytes = if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut bytes = Zeroizing::new(Vec::with_capacity(32));
        for pair in text.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
        }
        bytes
    } else {
        let engines = [&base64::engine::general_purpose::STANDARD, &base64::engine::general_purpose::URL_SAFE_NO_PAD];
        Zeroizing::new(engines.into_iter().find_map(|engine| engine.decode(text).ok())?)
    };
    <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
}

fn key_from_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, Error> {
    let unreadable = |error: std::io::Error| {
        Error::new(ErrorCode::InvalidRequest, format!("the key file `{}` cannot be used: {error}", path.display()))
    };
    match std::fs::File::open(path) {
        Ok(mut file) => {
            let mut text = Zeroizing::new(String::new());
            file.read_to_string(&mut text).map_err(unreadable)?;
            decode_key(&text).ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidRequest,
                    format!(
                        "the key file `{}` does not hold 32 bytes in base64; restore it from its backup",
                        path.display()
                    ),
                )
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = Zeroizing::new([0_u8; 32]);
            getrandom::fill(key.as_mut_slice()).map_err(|_| Error::internal("no randomness"))?;
            let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(key.as_slice()));
            write_private(path, &text).map_err(unreadable)?;
            Ok(key)
        }
        Err(error) => Err(unreadable(error)),
    }
}

/// Writes a file that only its owner can read; it is on disk when this returns, and never seen half-written.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_secrets_open_in_their_own_place_only() {
        let key = Secret::new("00".repeat(32));
        let vault = Vault::open(Path::new("unused"), Some(&key)).expect("hex key");
        let sealed = vault.seal_text("gateway:a:token", &Secret::new("s3cret")).expect("seals");
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        assert_eq!(vault.unseal_text("gateway:a:token", &sealed).expect("opens").reveal(), "s3cret");
        assert!(vault.unseal_text("gateway:b:token", &sealed).is_err());
        assert!(vault.unseal("gateway:a:token", b"short").is_err());
        let mut broken = sealed;
        broken[30] ^= 1;
        assert!(vault.unseal("gateway:a:token", &broken).is_err());
    }

    #[test]
    fn a_digest_depends_on_the_key() {
        let vault = |key: &str| Vault::open(Path::new("unused"), Some(&Secret::new(key.repeat(32)))).expect("hex key");
        let digest = |key: &str, bytes: &[u8]| vault(key).digest(bytes).expect("digests");
        assert_eq!(digest("00", b"x"), digest("00", b"x"));
        assert_ne!(digest("00", b"x"), digest("01", b"x"));
        assert_ne!(digest("00", b"x"), digest("00", b"y"));
    }

    #[test]
    fn keys_are_read_from_hex_and_base64_and_nothing_else() {
        let text = base64::engine::general_purpose::STANDARD.encode([7_u8; 32]);
        assert_eq!(decode_key(&text).expect("base64").as_slice(), &[7; 32]);
        assert_eq!(decode_key(&"07".repeat(32)).expect("hex").as_slice(), &[7; 32]);
        assert!(decode_key("too short").is_none());
    }
}
