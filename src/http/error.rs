//! How an error leaves: one body that every ancestor's client can read.
//!
//! `{"detail": "<sentence>", "error": {"code", "message", "details"?}}`; for 422 `detail` is the list those clients
//! expect. A fault of our own is logged once, here, with the request's id, and leaves without its text (SEC-1).
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::domain::error::{Error, ErrorCode, FieldError};

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        if let Some(cause) = self.source().filter(|_| self.status_code().is_server_error()) {
            let request_id = super::request::current_id();
            log::error!(request_id = request_id.as_deref().unwrap_or("-"); "a request failed: {cause}");
        }
        let mut response = HttpResponse::build(self.status_code()).json(body_of(self));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.code() == ErrorCode::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"clawbroker\""));
        }
        response
    }
}

/// Builds the body of an error; WebSocket frames carry its `error` part.
pub fn body_of(error: &Error) -> Value {
    let detail = if error.code() == ErrorCode::ValidationError {
        error.fields().iter().map(listed).collect()
    } else {
        Value::from(error.message())
    };
    let mut details = match error.details() {
        Some(Value::Object(details)) => details.clone(),
        Some(other) => Map::from_iter([("value".to_owned(), other.clone())]),
        None => Map::new(),
    };
    if let Some(seconds) = error.retry_after_s() {
        // Not everybody sees the header: a command that shows the body, or a model that runs one.
        details.insert("retry_after_s".to_owned(), seconds.into());
    }
    if !error.fields().is_empty() {
        details.insert("items".to_owned(), json!(error.fields()));
    }
    let mut inner = Map::from_iter([
        ("code".to_owned(), json!(error.code())),
        ("message".to_owned(), Value::from(error.message())),
    ]);
    if !details.is_empty() {
        inner.insert("details".to_owned(), Value::Object(details));
    }
    json!({ "detail": detail, "error": inner })
}

/// One refused field in the form of the ancestors' framework.
fn listed(field: &FieldError) -> Value {
    let mut place = vec![field.place];
    if !field.field.is_empty() {
        place.push(&field.field);
    }
    json!({ "type": field.code, "loc": place, "msg": field.message })
}

/// Makes the error for an answer that came from below without one of our bodies.
pub(super) fn of_status(status: StatusCode) -> Error {
    let (code, message) = match status.as_u16() {
        401 => (ErrorCode::Unauthenticated, "this needs a token"),
        403 => (ErrorCode::Forbidden, "this is not allowed"),
        404 => (ErrorCode::NotFound, "there is nothing at this path"),
        405 => (ErrorCode::MethodNotAllowed, "this path does not know this method"),
        406 => (ErrorCode::NotAcceptable, "this cannot be answered in a form that you accept"),
        413 => (ErrorCode::PayloadTooLarge, "the body is too large"),
        415 => (ErrorCode::UnsupportedMediaType, "the body must be JSON"),
        429 => (ErrorCode::RateLimited, "too many requests"),
        431 => (ErrorCode::HeaderTooLarge, "the headers are too large"),
        400..500 => (ErrorCode::InvalidRequest, "the request is not valid"),
        503 => (ErrorCode::StoreBusy, "this cannot be answered now, try again in a second"),
        _ => (ErrorCode::Internal, "internal error; the server's log tells more under this request id"),
    };
    Error::new(code, message).with_status(status.as_u16())
}

/// An error, as described for clients.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody {
    #[schema(schema_with = detail)]
    detail: Value,
    error: ErrorInside,
}

fn detail() -> Schema {
    let text = || Object::with_type(Type::String);
    let place = ArrayBuilder::new().items(text()).description(Some("Where it stands, for example `body` and its name"));
    let field = ObjectBuilder::new()
        .property("type", text())
        .property("loc", place)
        .property("msg", text())
        .required("type")
        .required("loc")
        .required("msg");
    OneOfBuilder::new()
        .item(text())
        .item(ArrayBuilder::new().items(field))
        .description(Some("A sentence; for 422 the list of refused fields."))
        .into()
}

#[derive(Serialize, ToSchema)]
pub(super) struct ErrorInside {
    /// A stable code, for example `gateway_not_found`; `docs/errors/` has a page for each.
    code: String,
    message: String,
    /// For 422 it has `items`: `[{"field", "message", "code"}]`. With the header `Retry-After` it has `retry_after_s`.
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_named_in_both_forms() {
        let body = body_of(&Error::invalid_at("query", "limit", "must be 1 to 500", "value_error"));
        assert_eq!(
            body,
            json!({
                "detail": [{ "type": "value_error", "loc": ["query", "limit"], "msg": "must be 1 to 500" }],
                "error": {
                    "code": "validation_error",
                    "message": "must be 1 to 500",
                    "details": { "items": [{ "field": "limit", "message": "must be 1 to 500", "code": "value_error" }] },
                },
            })
        );
    }

    #[test]
    fn a_fault_of_our_own_tells_nothing() {
        let error = Error::internal("postgres://user:s3cret@db");
        let text = body_of(&error).to_string();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(error.error_response().status(), 500);
    }

    #[test]
    fn whoever_must_wait_is_told_how_long() {
        for (code, _, status) in ErrorCode::ALL {
            let response = Error::new(*code, "x").error_response();
            let told = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(told, matches!(status, 429 | 503 | 507), "{code:?}");
            let in_body = body_of(&Error::new(*code, "x"))["error"]["details"]["retry_after_s"].is_u64();
            assert_eq!(in_body, told, "{code:?}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), *status == 401, "{code:?}");
        }
    }

    #[test]
    fn foreign_answers_keep_their_status() {
        for status in [400, 401, 404, 405, 406, 413, 414, 415, 431, 500, 502, 503] {
            let status = StatusCode::from_u16(status).expect("valid");
            assert_eq!(of_status(status).status_code(), status);
        }
    }
}
