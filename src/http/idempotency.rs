//! `Idempotency-Key`: the same key with the same body is answered as the first time (D10).
use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::HeaderValue;
use actix_web::{FromRequest, HttpRequest};

use crate::domain::error::Error;
use crate::domain::user::Caller;
use crate::store::messages::Idem;

const HEADER: &str = "idempotency-key";
/// Longest key in bytes; a UUID has 36.
const BYTES_MAX: usize = 255;

/// The header, if there is one. Read when the handler asks for it: what the path names comes first.
pub(super) struct IdempotencyKey(Option<HeaderValue>);

/// The caller's key for this call, if it sent one; by default it did not.
#[derive(Default)]
pub(super) struct Key(Option<String>);

impl FromRequest for IdempotencyKey {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(req.headers().get(HEADER).cloned())))
    }
}

fn is_plain(value: &[u8]) -> bool {
    (1..=BYTES_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

fn read(value: &[u8]) -> Result<String, Error> {
    match std::str::from_utf8(value) {
        Ok(key) if is_plain(value) => Ok(key.to_owned()),
        _ => Err(Error::invalid_at(
            "header",
            "Idempotency-Key",
            format!("the idempotency key must be 1 to {BYTES_MAX} visible ASCII characters"),
            "value_error",
        )),
    }
}

impl IdempotencyKey {
    pub(super) fn read(self) -> Result<Key, Error> {
        self.0.map(|value| read(value.as_bytes())).transpose().map(Key)
    }
}

impl Key {
    /// Returns what is stored with the row that the call makes: the key counts for this user and this route alone.
    pub(super) fn of(self, route: &str, caller: &Caller, digest: [u8; 32]) -> Option<Idem> {
        self.0.map(|key| Idem { key: format!("{route}/{}/{key}", caller.user_id), hash: digest })
    }

    /// Returns the key itself, where the store scopes it.
    pub(super) fn plain(self) -> Option<String> {
        self.0
    }

    /// The same where the body may carry it, too, in this field.
    pub(super) fn plain_or(self, field: &str, given: Option<String>) -> Result<Option<String>, Error> {
        let Some(given) = given else { return Ok(self.0) };
        if !is_plain(given.as_bytes()) {
            let message = format!("`{field}` must be 1 to {BYTES_MAX} visible ASCII characters");
            return Err(Error::invalid(field, message));
        }
        if self.0.is_some_and(|key| key != given) {
            return Err(Error::invalid(field, format!("`{field}` and `Idempotency-Key` must be the same")));
        }
        Ok(Some(given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_visible_text() {
        assert_eq!(read(b"9b2e-x_1!").expect("plain"), "9b2e-x_1!");
        for wrong in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), &[b'x'; 256]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_in_the_body_is_the_same_as_in_the_header() {
        let of = |header: Option<&str>, body: Option<&str>| {
            Key(header.map(str::to_owned)).plain_or("message_id", body.map(str::to_owned))
        };
        assert_eq!(of(None, None).expect("none"), None);
        for (header, body) in [(Some("k"), None), (None, Some("k")), (Some("k"), Some("k"))] {
            assert_eq!(of(header, body).expect("one key").as_deref(), Some("k"));
        }
        for (header, body) in [(Some("k"), Some("j")), (None, Some("")), (None, Some("a b"))] {
            let error = of(header, body).expect_err("refused");
            assert_eq!(error.fields()[0].field, "message_id");
        }
    }
}
