//! The one error type. [`ErrorCode`] is the public contract: its names are never changed and never used again for
//! something else; each has a page under `docs/errors/`. [`Error`] adds the sentence and the details.
use std::fmt;

use serde::Serialize;

/// A stable code on the wire, in `snake_case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    Unauthenticated,
    Forbidden,
    NotFound,
    GatewayNotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    InvalidRequest,
    IdempotencyConflict,
    ResultConflict,
    StaleAttempt,
    NotLeased,
    DeliveryEnded,
    AmbiguousTarget,
    SessionBusy,
    PayloadTooLarge,
    MessageTooLarge,
    UnsupportedMediaType,
    ValidationError,
    RateLimited,
    PairRateLimited,
    HopLimit,
    MailboxFull,
    HeaderTooLarge,
    Internal,
    ChannelFailed,
    UpstreamRefused,
    StoreBusy,
    Standby,
    ShuttingDown,
    GatewayUnavailable,
    StorageFull,
    BadFrame,
    FrameTooLarge,
    ScopeMissing,
}

impl ErrorCode {
    /// All codes with their wire name and HTTP status, in the order of the contract.
    pub const ALL: &'static [(Self, &'static str, u16)] = &[
        (Self::Unauthenticated, "unauthenticated", 401),
        (Self::Forbidden, "forbidden", 403),
        (Self::NotFound, "not_found", 404),
        (Self::GatewayNotFound, "gateway_not_found", 404),
        (Self::MethodNotAllowed, "method_not_allowed", 405),
        (Self::NotAcceptable, "not_acceptable", 406),
        (Self::AlreadyExists, "already_exists", 400),
        (Self::InvalidRequest, "invalid_request", 400),
        (Self::IdempotencyConflict, "idempotency_conflict", 409),
        (Self::ResultConflict, "result_conflict", 409),
        (Self::StaleAttempt, "stale_attempt", 409),
        (Self::NotLeased, "not_leased", 409),
        (Self::DeliveryEnded, "delivery_ended", 409),
        (Self::AmbiguousTarget, "ambiguous_target", 409),
        (Self::SessionBusy, "session_busy", 409),
        (Self::PayloadTooLarge, "payload_too_large", 413),
        (Self::MessageTooLarge, "message_too_large", 413),
        (Self::UnsupportedMediaType, "unsupported_media_type", 415),
        (Self::ValidationError, "validation_error", 422),
        (Self::RateLimited, "rate_limited", 429),
        (Self::PairRateLimited, "pair_rate_limited", 429),
        (Self::HopLimit, "hop_limit", 429),
        (Self::MailboxFull, "mailbox_full", 429),
        (Self::HeaderTooLarge, "header_too_large", 431),
        (Self::Internal, "internal", 500),
        (Self::ChannelFailed, "channel_failed", 502),
        (Self::UpstreamRefused, "upstream_refused", 502),
        (Self::StoreBusy, "store_busy", 503),
        (Self::Standby, "standby", 503),
        (Self::ShuttingDown, "shutting_down", 503),
        (Self::GatewayUnavailable, "gateway_unavailable", 503),
        (Self::StorageFull, "storage_full", 507),
        (Self::BadFrame, "bad_frame", 400),
        (Self::FrameTooLarge, "frame_too_large", 413),
        (Self::ScopeMissing, "scope_missing", 403),
    ];

    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Returns the HTTP status that goes with the code, unless the route's contract says another.
    pub fn http_status(self) -> u16 {
        self.row().2
    }

    fn row(self) -> &'static (Self, &'static str, u16) {
        // The table lists the variants in the order of declaration; a test walks it.
        Self::ALL.get(self as usize).unwrap_or(&(Self::Internal, "internal", 500))
    }
}

/// One field of a refused request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where it stands: `body`, `query`, `path` or `header`.
    #[serde(skip)]
    pub place: &'static str,
    pub field: String,
    pub message: String,
    /// What kind of fault it is, for example `missing`, `unknown_field`, `value_error`.
    pub code: &'static str,
}

/// What went wrong, for the caller and for the log.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    /// A sentence for people. It never holds a secret or an exception text.
    message: String,
    /// The HTTP status where a contract says another than the code's own.
    status: Option<u16>,
    fields: Vec<FieldError>,
    /// Boxed, so that a `Result` stays small.
    details: Option<Box<serde_json::Value>>,
    retry_after_s: Option<u32>,
    /// What happened inside; logged once at the edge, never sent.
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What is wrong with a stored record.
#[derive(Debug)]
struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable record: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Error {
    /// Makes an error of `code` with a sentence for the caller.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry_after_s = match code.http_status() {
            429 | 503 => Some(1),
            507 => Some(30),
            _ => None,
        };
        Self {
            code,
            message: message.into(),
            status: None,
            fields: Vec::new(),
            details: None,
            retry_after_s,
            source: None,
        }
    }

    /// Refuses one field of a request with 422.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_at("body", field, message, "value_error")
    }

    /// Refuses one field of a request with 422, telling where it stands and what kind of fault it is.
    pub fn invalid_at(place: &'static str, field: &str, message: impl Into<String>, code: &'static str) -> Self {
        let message = message.into();
        let mut error = Self::new(ErrorCode::ValidationError, message.clone());
        error.fields.push(FieldError { place, field: field.to_owned(), message, code });
        error
    }

    /// Says that something with this id does not exist, or is not the caller's.
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        let id: String = id.to_string().chars().take(128).collect();
        Self::new(ErrorCode::NotFound, format!("{what} `{id}` does not exist"))
    }

    /// Reports a fault of our own; `source` goes to the log and nowhere else.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error =
            Self::new(ErrorCode::Internal, "internal error; the server's log tells more under this request id");
        error.source = Some(source.into());
        error
    }

    /// Reports a stored record that cannot be read (STO-3).
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::internal(Unreadable(what.into()))
    }

    /// Tells whether it is about a stored record that cannot be read. The database itself has not failed then: whoever works
    /// through many may leave one out.
    pub fn is_unreadable(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is::<Unreadable>())
    }

    /// Says that this node is not the active one (D5).
    pub fn stands_by() -> Self {
        Self::new(ErrorCode::Standby, "this node stands by; another one is active, or will be in a moment")
    }

    /// Says that the store has no room for the call now.
    pub fn store_busy() -> Self {
        Self::new(ErrorCode::StoreBusy, "the store is busy now, try again in a second")
    }

    /// Sets the HTTP status where a route's contract differs from the code's own.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds details that a program can read.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Tells the caller after how many seconds to try again.
    #[must_use]
    pub fn with_retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// Moves the refused fields to another part of the request, for values that were parsed out of it.
    #[must_use]
    pub fn at(mut self, place: &'static str) -> Self {
        for field in &mut self.fields {
            field.place = place;
        }
        self
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn http_status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.code.http_status())
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn fields(&self) -> &[FieldError] {
        &self.fields
    }

    pub fn details(&self) -> Option<&serde_json::Value> {
        self.details.as_deref()
    }

    pub fn retry_after_s(&self) -> Option<u32> {
        self.retry_after_s
    }

    /// Returns what happened, for the log: the inner cause where there is one, else the sentence.
    pub fn cause(&self) -> String {
        self.source.as_ref().map_or_else(|| self.message.clone(), ToString::to_string)
    }

    pub fn source(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        self.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_own_place_in_the_table() {
        for (index, (code, name, _)) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index, "{name}");
            assert_eq!(serde_json::to_value(code).expect("a plain name"), *name);
        }
    }
}
