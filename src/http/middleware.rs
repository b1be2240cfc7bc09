//! What every request passes: its id, its line in the log, the checks that come before any route, the headers on every
//! answer. `server.rs` says in which order.
use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, ResponseError, web};

use super::edge::ApiFamily;
use super::error::of_status;
use super::request::{self, RequestId};
use super::state::AppState;
use crate::config::AllowedHosts;
use crate::domain::error::{Error, ErrorCode};

type Answer<B> = Result<ServiceResponse<B>, actix_web::Error>;

/// Gives the request its id, counts and logs it, and sees to it that every answer has our headers and every error our
/// body. The outermost layer.
pub(super) async fn frame(mut req: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Answer<BoxBody> {
    let began = tokio::time::Instant::now();
    let id = RequestId::of(req.headers());
    req.extensions_mut().insert(id.clone());
    let family = ApiFamily::of(req.path());
    // The ancestor's agents log it.
    let trace = (family == ApiFamily::mailbox).then(|| id.traced(req.headers()));
    let (method, path) = (req.method().clone(), req.path().to_owned());
    if method == Method::HEAD {
        // Routed as GET; the encoder knows what came over the wire and leaves the body out.
        req.extensions_mut().insert(request::AsHead);
        req.head_mut().method = Method::GET;
    }
    let state = req.app_data::<web::Data<AppState>>().cloned();
    let header_bytes_max = state.as_ref().map_or(usize::MAX, |state| state.config.limits.header_bytes_max);
    let answer = request::in_request(&id, async {
        if header_bytes(&req) > header_bytes_max {
            let error = Error::new(
                ErrorCode::HeaderTooLarge,
                format!("all headers together must not be larger than {header_bytes_max} bytes"),
            );
            return Ok(refused(req, &error));
        }
        next.call(req).await.map(|answer| with_our_body(answer.map_into_boxed_body()))
    });
    let mut answer = answer.await?;
    let status = answer.status().as_u16();
    let took = began.elapsed();
    if let Some(state) = state {
        // How long something takes to happen says nothing about us.
        let waits = answer.request().extensions().get::<request::Waits>().is_some();
        state.edge.count(family, status, (!waits).then_some(took));
    }
    add_headers(answer.headers_mut(), &id);
    if let Some(value) = trace.and_then(|trace| HeaderValue::from_str(&trace.0).ok()) {
        answer.headers_mut().insert(TRACE_ID, value);
    }
    let (request_id, duration_ms) = (&*id.0, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    // Without its query: that is content.
    log::debug!(request_id, method = method.as_str(), path = path.as_str(), status, duration_ms;
        "{method} {path} answered {status} in {duration_ms} ms");
    Ok(answer)
}

/// Answers with an error instead of going on.
fn refused(req: ServiceRequest, error: &Error) -> ServiceResponse<BoxBody> {
    req.into_response(error.error_response())
}

/// Bytes that the headers took on the wire.
fn header_bytes(req: &ServiceRequest) -> usize {
    // `: ` and the end of the line.
    req.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Gives an error that came from below without one of our bodies its body.
fn with_our_body(answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = answer.status();
    let has_body =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if has_body || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let ours = of_status(status).error_response();
    let mut answer = answer.map_body(|_, _| ours.into_body());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

const REQUEST_ID: HeaderName = HeaderName::from_static(request::HEADER);
const TRACE_ID: HeaderName = HeaderName::from_static(request::TRACE_HEADER);
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Answers that are not pages load nothing and are shown in no frame.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

fn add_headers(headers: &mut HeaderMap, id: &RequestId) {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (OPENER_POLICY, HeaderValue::from_static("same-origin")),
        (RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
    ] {
        headers.insert(name, value);
    }
    // An id is letters, digits and `._-`, so it always fits.
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, value);
    }
    // Pages and their files say their own.
    if !headers.contains_key(CONTENT_SECURITY_POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, NO_PAGE);
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Refuses a request that was made for another host: a stranger's name that was pointed at us (DNS rebinding). Only
/// browsers can be led astray so, and they always send the header; a request without one is let in.
pub(super) async fn hosts<B: MessageBody + 'static>(
    allowed: Arc<AllowedHosts>,
    req: ServiceRequest,
    next: Next<B>,
) -> Answer<BoxBody> {
    let mut named = req.headers().get_all(HOST).map(|host| host.to_str().unwrap_or_default());
    let fine = named.next().is_none_or(|host| allowed.allows(host))
        && named.next().is_none()
        && req.uri().authority().is_none_or(|authority| allowed.allows(authority.as_str()));
    if !fine {
        let error = Error::new(
            ErrorCode::InvalidRequest,
            "this server does not answer for the host you named; `server.trusted_hosts` lists those it does",
        );
        return Ok(refused(req, &error));
    }
    next.call(req).await.map(ServiceResponse::map_into_boxed_body)
}

/// Paths that answer whatever state the node is in.
const ALWAYS: [&str; 4] = ["/health", "/api/health", "/ready", "/metrics"];

/// Refuses everything while this node stands by or is about to stop (D5).
pub(super) async fn gate(req: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Answer<BoxBody> {
    if !ALWAYS.contains(&req.path())
        && let Some(error) = req.app_data::<web::Data<AppState>>().and_then(|state| not_answering(state))
    {
        return Ok(refused(req, &error));
    }
    next.call(req).await.map(ServiceResponse::map_into_boxed_body)
}

/// Why this node does not answer now.
pub(super) fn not_answering(state: &AppState) -> Option<Error> {
    if state.directory.is_stopping() {
        return Some(Error::new(ErrorCode::ShuttingDown, "the server is stopping; try again in a moment"));
    }
    if !state.directory.is_active() || !state.directory.lease_holds(state.clock.now_ms()) {
        return Some(Error::stands_by());
    }
    None
}

/// Tells what is wrong when no route took a request: the path, or only its method.
pub(super) fn no_route(allowed: &[Method]) -> Error {
    if allowed.is_empty() {
        return of_status(StatusCode::NOT_FOUND);
    }
    of_status(StatusCode::METHOD_NOT_ALLOWED)
}
