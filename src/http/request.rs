//! What is known of a request besides its content: its id and where it came from.
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::guard::GuardContext;
use actix_web::http::header::HeaderMap;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use super::state::AppState;
use crate::domain::error::Error;
use crate::domain::user::Caller;
use crate::store::audit::Actor;

/// The header that carries the id, both ways.
pub const HEADER: &str = "x-request-id";
/// The header for the same of an ancestor; the mailbox family answers with it, too.
pub(super) const TRACE_HEADER: &str = "x-trace-id";
/// Longest id that is taken over from a caller: a UUID, or what a proxy makes.
const ID_BYTES_MAX: usize = 64;

/// Says of a request that only the head of its answer is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsHead;

/// Says of a request that its caller lets the answer wait for something to happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits;

/// Takes a request whose answer is wanted as a whole; for routes that hand something out with it.
pub(super) fn is_whole(ctx: &GuardContext<'_>) -> bool {
    ctx.req_data().get::<AsHead>().is_none()
}

/// Names a request in its answer, in the log and in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// Takes the caller's id if it is short and plain, else makes a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(given(headers, HEADER).map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Into::into))
    }

    /// Returns what the caller calls this request by in the ancestor's way, else this id.
    pub(super) fn traced(&self, headers: &HeaderMap) -> Self {
        given(headers, TRACE_HEADER).map_or_else(|| self.clone(), |id| Self(id.into()))
    }
}

/// The caller's id in this header, if it is short and plain.
fn given<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|id| is_plain(id))
}

fn is_plain(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

tokio::task_local! {
    /// The id of the request that this task answers.
    static CURRENT: Arc<str>;
}

/// Runs `work` as the answer to a request, so that its log lines can name it.
pub(super) async fn in_request<F: Future>(id: &RequestId, work: F) -> F::Output {
    CURRENT.scope(id.0.clone(), work).await
}

/// Returns the id of the request that is being answered on this task; for the formatter of log lines.
pub fn current_id() -> Option<Arc<str>> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Returns what every handler may use.
pub(super) fn state_of(req: &HttpRequest) -> Result<&AppState, Error> {
    req.app_data::<web::Data<AppState>>().map(|state| &***state).ok_or_else(|| Error::internal("no state"))
}

/// Who calls from where, for the audit log.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    pub address: Option<String>,
    pub request_id: Option<String>,
}

impl RequestInfo {
    /// Makes the actor of a change.
    pub fn actor(&self, caller: &Caller) -> Actor {
        Actor::caller(caller, self.address.clone(), self.request_id.clone())
    }
}

impl FromRequest for RequestInfo {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self {
            address: req.peer_addr().map(|peer| peer.ip().to_string()),
            request_id: req.extensions().get::<RequestId>().map(|id| id.0.to_string()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_callers_id_is_taken_over_if_it_is_short_and_plain() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(HEADER), HeaderValue::from_str(value).expect("a header"));
            RequestId::of(&headers).0
        };
        assert_eq!(&*of("abc-1.2_3"), "abc-1.2_3");
        for wrong in ["", "a b", "a\"b", "a/b", &"x".repeat(65)] {
            assert_eq!(of(wrong).len(), 36, "{wrong}");
        }
    }
}
