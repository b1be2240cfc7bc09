//! What comes in: bodies, and the parts of paths.
//!
//! A body is read when its handler asks for it, not before: the credential and what the path names are checked first,
//! as the contract says (`call.rs`), and nobody sends us a megabyte for nothing.
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, web};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::fields::{self, Unknown};
use super::request::state_of;
use super::state::AppState;
use crate::domain::error::{Error, ErrorCode};

/// How long a body may take to arrive: a megabyte over a slow line.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A body that was not read yet.
pub(super) struct Body {
    request: HttpRequest,
    payload: Payload,
}

impl FromRequest for Body {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self { request: req.clone(), payload: payload.take() }))
    }
}

impl Body {
    /// Reads the body as a JSON value within the limits.
    async fn json(&mut self) -> Result<Value, Error> {
        self.check_type()?;
        let bytes = self.bytes().await?;
        self.parse(&bytes)
    }

    /// Reads the body as a JSON value within the limits; nothing counts as an object without fields.
    async fn json_or_nothing(&mut self) -> Result<Value, Error> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        self.check_type()?;
        self.parse(&bytes)
    }

    /// Reads the fields of what came and digests it.
    fn received<T: DeserializeOwned>(&self, json: Value, unknown: Unknown) -> Result<Received<T>, Error> {
        let digest = state_of(&self.request)?.vault.digest(&canonical(&json))?;
        read_fields(json, unknown).map(|value| Received { value, digest })
    }

    /// Reads the body within the limits.
    async fn bytes(&mut self) -> Result<BytesMut, Error> {
        self.bytes_within(ARRIVAL).await
    }

    /// The same where it may take this long to arrive.
    async fn bytes_within(&mut self, patience: Duration) -> Result<BytesMut, Error> {
        let bytes_max = state_of(&self.request)?.config.limits.body_bytes_max;
        let too_large =
            || Error::new(ErrorCode::PayloadTooLarge, format!("the body must not be larger than {bytes_max} bytes"));
        let declared = self.request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: usize| length > bytes_max) {
            return Err(too_large());
        }
        let payload = &mut self.payload;
        let gather = async {
            let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(bytes_max));
            while let Some(chunk) = payload.next().await {
                let chunk = chunk
                    .map_err(|_| Error::new(ErrorCode::InvalidRequest, "the body ended too early or was garbled"))?;
                if bytes.len() + chunk.len() > bytes_max {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        tokio::time::timeout(patience, gather)
            .await
            .map_err(|_| Error::new(ErrorCode::InvalidRequest, "the body did not arrive in time").with_status(408))?
    }

    fn parse(&self, bytes: &[u8]) -> Result<Value, Error> {
        let depth_max = state_of(&self.request)?.config.limits.json_depth_max;
        if depth(bytes) > depth_max {
            return Err(Error::invalid_at(
                "body",
                "",
                format!("the body is nested deeper than {depth_max} levels"),
                "json_invalid",
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| {
            // Its text tells what was expected and where, never what stood there.
            Error::invalid_at("body", "", format!("the body is not valid JSON: {error}"), "json_invalid")
        })
    }

    /// Refuses what is not plain JSON. Nothing said counts as JSON, as the ancestors had it.
    fn check_type(&self) -> Result<(), Error> {
        let headers = self.request.headers();
        let kind = headers.get(CONTENT_TYPE).map_or(Ok("application/json"), |value| value.to_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
        if !json {
            return Err(Error::new(
                ErrorCode::UnsupportedMediaType,
                "the body must be JSON: send `Content-Type: application/json`",
            ));
        }
        if headers.get(CONTENT_ENCODING).is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(Error::new(ErrorCode::UnsupportedMediaType, "the body must not be compressed"));
        }
        Ok(())
    }
}

/// What a body held, with the digest that tells a repeat from another request.
pub(super) struct Received<T> {
    pub(super) value: T,
    pub(super) digest: [u8; 32],
}

macro_rules! json_body {
    ($(#[$doc:meta])* $name:ident, $unknown:expr) => {
        $(#[$doc])*
        pub(super) struct $name<T> {
            body: Body,
            of: PhantomData<fn() -> T>,
        }

        impl<T: DeserializeOwned> $name<T> {
            /// Reads the body.
            pub(super) async fn read(mut self) -> Result<T, Error> {
                read_fields(self.body.json().await?, $unknown)
            }

            /// Reads the body and digests it.
            pub(super) async fn receive(mut self) -> Result<Received<T>, Error> {
                let json = self.body.json().await?;
                self.body.received(json, $unknown)
            }
        }

        impl<T> FromRequest for $name<T> {
            type Error = Infallible;
            type Future = Ready<Result<Self, Infallible>>;

            fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
                let body = Body { request: req.clone(), payload: payload.take() };
                ready(Ok(Self { body, of: PhantomData }))
            }
        }
    };
}

json_body!(
    /// A body of the families' routes: fields that we do not know are ignored, since their clients send extras.
    ApiJson, Unknown::Ignored
);
json_body!(
    /// A body of the admin API: a field that we do not know is refused by name.
    StrictJson, Unknown::Refused
);

impl<T: DeserializeOwned> ApiJson<T> {
    /// Reads the body and digests all of it but the field that may carry the caller's key: the same call with its key
    /// in the header is a repeat.
    pub(super) async fn receive_but(mut self, key_field: &str) -> Result<Received<T>, Error> {
        let mut json = self.body.json().await?;
        let digest = digest_but(state_of(&self.body.request)?, &mut json, key_field)?;
        read_fields(json, Unknown::Ignored).map(|value| Received { value, digest })
    }
}

impl<T: DeserializeOwned> StrictJson<T> {
    /// Reads the body and digests it; no body is one without fields.
    pub(super) async fn receive_or_nothing(mut self) -> Result<Received<T>, Error> {
        let json = self.body.json_or_nothing().await?;
        self.body.received(json, Unknown::Refused)
    }
}

/// Reads the JSON object that a frame of a socket is, within the limits.
pub(super) fn frame(text: &str, depth_max: usize) -> Result<Map<String, Value>, Error> {
    let bad = |message: String| Error::new(ErrorCode::BadFrame, message);
    if depth(text.as_bytes()) > depth_max {
        return Err(bad(format!("the frame is nested deeper than {depth_max} levels")));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad("a frame is an object with a `type`, for example {\"type\":\"ping\"}".to_owned())),
        Err(error) => Err(bad(format!("the frame is not JSON (column {})", error.column()))),
    }
}

/// Reads the fields of a frame as those of a body, with the digest that a body of the same fields has.
pub(super) fn of_frame<T: DeserializeOwned>(
    state: &AppState,
    fields: Map<String, Value>,
) -> Result<Received<T>, Error> {
    let json = Value::Object(fields);
    let digest = state.vault.digest(&canonical(&json))?;
    read_fields(json, Unknown::Ignored).map(|value| Received { value, digest })
}

/// The same as [`ApiJson::receive_but`] for a frame.
pub(super) fn of_frame_but<T: DeserializeOwned>(
    state: &AppState,
    fields: Map<String, Value>,
    key_field: &str,
) -> Result<Received<T>, Error> {
    let mut json = Value::Object(fields);
    let digest = digest_but(state, &mut json, key_field)?;
    read_fields(json, Unknown::Ignored).map(|value| Received { value, digest })
}

/// Digests a body as if it did not have this field.
fn digest_but(state: &AppState, json: &mut Value, field: &str) -> Result<[u8; 32], Error> {
    let held = json.as_object_mut().and_then(|fields| fields.remove(field));
    let digest = state.vault.digest(&canonical(json))?;
    if let (Some(value), Some(fields)) = (held, json.as_object_mut()) {
        fields.insert(field.to_owned(), value);
    }
    Ok(digest)
}

fn read_fields<T: DeserializeOwned>(json: Value, unknown: Unknown) -> Result<T, Error> {
    let Value::Object(object) = json else {
        return Err(Error::invalid_at("body", "", "the body must be a JSON object", "type_error"));
    };
    fields::of_object(object, unknown)
}

/// A body of which a route asks nothing, though it may say something: whatever is no JSON object counts as one without
/// fields. Fields that we do not know are ignored.
pub(super) struct LooseJson<T> {
    body: Body,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LooseJson<T> {
    /// Reads the body.
    pub(super) async fn read(mut self) -> Result<T, Error> {
        let bytes = self.body.bytes().await?;
        let object = match self.body.parse(&bytes) {
            Ok(Value::Object(object)) => object,
            Ok(_) | Err(_) => serde_json::Map::new(),
        };
        fields::of_object(object, Unknown::Ignored)
    }
}

impl<T> FromRequest for LooseJson<T> {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = Body { request: req.clone(), payload: payload.take() };
        ready(Ok(Self { body, of: PhantomData }))
    }
}

/// The body of a route of the admin API that asks for none: nothing, or an object without fields.
pub(super) struct NoBody(Body);

impl NoBody {
    /// Refuses a field by name.
    pub(super) async fn check(mut self) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct NoFields {}
        let json = self.0.json_or_nothing().await?;
        read_fields(json, Unknown::Refused).map(|NoFields {}| ())
    }
}

impl FromRequest for NoBody {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self(Body { request: req.clone(), payload: payload.take() })))
    }
}

/// A body whose bytes count as they came: signatures are over them.
pub(super) struct RawBody(Body);

impl RawBody {
    /// Reads the body, which may take this long to arrive.
    pub(super) async fn read_within(mut self, patience: Duration) -> Result<BytesMut, Error> {
        self.0.bytes_within(patience).await
    }
}

impl FromRequest for RawBody {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self(Body { request: req.clone(), payload: payload.take() })))
    }
}

/// Counts how deep the brackets of a JSON text go, without building anything.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_text => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Writes a body down whatever the order of its fields and the spaces between them, for its digest.
fn canonical(json: &Value) -> Zeroizing<Vec<u8>> {
    fn feed(json: &Value, bytes: &mut Vec<u8>) {
        match json {
            Value::Object(object) => {
                let mut fields: Vec<(&String, &Value)> = object.iter().collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                bytes.push(b'{');
                for (name, value) in fields {
                    feed(&Value::from(name.as_str()), bytes);
                    feed(value, bytes);
                }
                bytes.push(b'}');
            }
            Value::Array(items) => {
                bytes.push(b'[');
                for item in items {
                    feed(item, bytes);
                }
                bytes.push(b']');
            }
            // Its own text is canonical, and a closing sign keeps neighbours apart.
            leaf => {
                bytes.extend_from_slice(leaf.to_string().as_bytes());
                bytes.push(b',');
            }
        }
    }
    let mut bytes = Zeroizing::default();
    feed(json, &mut bytes);
    bytes
}

/// Reads the parts of a path as text, percent-decoded.
pub(super) fn path<T: DeserializeOwned>(req: &HttpRequest) -> Result<T, Error> {
    let decoded = web::Path::<T>::extract(req).into_inner();
    decoded
        .map(web::Path::into_inner)
        .map_err(|_| Error::invalid_at("path", "", "the path is not valid text", "value_error"))
}

/// The parts of a path, where nothing else of the request is looked at.
pub(super) struct ApiPath<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest for ApiPath<T> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(path(req).map(Self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts() {
        for (text, expected) in [("1", 0), ("{}", 1), ("[[],{\"a\":[1]}]", 3), (r#"{"a":"[[[\"[["}"#, 1), ("]]]][", 1)]
        {
            assert_eq!(depth(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_digested_does_not_depend_on_the_order_of_fields() {
        let same = canonical(&json!({ "a": 1, "b": [true, null] }));
        assert_eq!(same, canonical(&serde_json::from_str(r#"{ "b": [true, null], "a": 1 }"#).expect("JSON")));
        for other in [
            json!({ "a": 1 }),
            json!({ "a": 1, "b": [true] }),
            json!({ "a": "1", "b": [true, null] }),
            json!({ "a": 1, "b": [true, null], "password": "x" }),
        ] {
            assert_ne!(same, canonical(&other), "{other}");
        }
        assert_ne!(canonical(&json!({ "password": "a" })), canonical(&json!({ "password": "b" })));
        assert_ne!(canonical(&json!([1, 2])), canonical(&json!([12])));
    }
}
