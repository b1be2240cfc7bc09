//! Where providers call: what people wrote, believed by its signature or secret, and taken in once.
//!
//! Invariants
//! - Nothing of a call is looked at by the broker before the provider's proof of it; what it held is told to nobody.
//! - A provider is answered with 200 only when what it told is on disk (D9). A line of an unknown person is refused, and
//!   the provider is answered with 200 all the same: it would only come again.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use utoipa_actix_web::service_config::ServiceConfig;

use super::body::{ApiPath, RawBody};
use super::error::ErrorBody;
use super::state::AppState;
use crate::actors::channels::{self, Intake, LiveChannel};
use crate::channels::{Heard, Inbound, InboundCall, Method, Refused};
use crate::domain::error::{Error, ErrorCode};

/// Pairs of a query that are read.
const PAIRS_MAX: usize = 64;

/// Adds the routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(check).service(call);
}

/// A provider checks whether this address is ours.
#[utoipa::path(
    tag = "channels",
    operation_id = "checkChannelHook",
    security(()),
    params(("id" = String, Path)),
    responses((status = 200, description = "What the provider asked for", body = String, content_type = "text/plain"), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/hooks/{id}")]
async fn check(path: ApiPath<String>, state: web::Data<AppState>, req: HttpRequest) -> Result<HttpResponse, Error> {
    let live = find(&state, &path.0)?;
    take(&state, &live, Method::Get, &req, &[]).await
}

/// A provider tells what people wrote.
#[utoipa::path(
    tag = "channels",
    operation_id = "callChannelHook",
    security(()),
    params(("id" = String, Path)),
    request_body(content = String, description = "As the provider documents", content_type = "application/json"),
    responses((status = 200, description = "It is on disk, or will never be", body = String, content_type = "application/json"), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/hooks/{id}")]
async fn call(
    path: ApiPath<String>,
    state: web::Data<AppState>,
    req: HttpRequest,
    body: RawBody,
) -> Result<HttpResponse, Error> {
    let live = find(&state, &path.0)?;
    let Some(_place) = state.directory.channels().call(state.config.channels.calls_max) else {
        return Err(Error::store_busy());
    };
    let body = body.read().await?;
    take(&state, &live, Method::Post, &req, &body).await
}

/// Finds a channel that is enabled; what cannot be an id cannot exist.
fn find(state: &AppState, id: &str) -> Result<Arc<LiveChannel>, Error> {
    let unknown = || Error::new(ErrorCode::NotFound, "there is no such channel");
    let id = id.parse().map_err(|_| unknown())?;
    state.directory.channels().get(id).ok_or_else(unknown)
}

/// Believes a call or not, and does what it says.
async fn take(
    state: &AppState,
    live: &LiveChannel,
    method: Method,
    req: &HttpRequest,
    body: &[u8],
) -> Result<HttpResponse, Error> {
    let headers: Vec<(&str, &str)> =
        req.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(req.query_string().as_bytes()).into_owned().take(PAIRS_MAX).collect();
    let query: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let asked = InboundCall { method, headers: &headers, query: &query, body };
    match live.provider.channel().hear(&asked, state.clock.now_ms()) {
        Ok(Heard::Challenge { content_type, body }) => Ok(HttpResponse::Ok().content_type(content_type).body(body)),
        Ok(Heard::Messages(lines)) => {
            for line in lines {
                hear(state, live, line).await?;
            }
            Ok(HttpResponse::Ok().json(serde_json::json!({ "ok": true })))
        }
        Err(refused) => {
            live.counts.unproven.fetch_add(1, Ordering::Relaxed);
            Err(refusal(refused))
        }
    }
}

/// Takes a line in. A full mailbox and a busy store are passing: the provider calls again.
async fn hear(state: &AppState, live: &LiveChannel, line: Inbound) -> Result<(), Error> {
    let command = channels::hear(live.channel.id, line, Intake::of(&state.config));
    let heard = state.store.write(command).await.map_err(|error| match error.code() {
        ErrorCode::MailboxFull => Error::store_busy(),
        _ => error,
    })?;
    live.counts.count_heard(&heard);
    Ok(())
}

fn refusal(refused: Refused) -> Error {
    match refused {
        Refused::Unproven => {
            Error::new(ErrorCode::Unauthenticated, "this call is not proven to come from the provider")
        }
        Refused::Stale => {
            Error::new(ErrorCode::Unauthenticated, "this call was signed too long ago, or for the future")
        }
        Refused::Shape(what) => Error::new(ErrorCode::InvalidRequest, what),
        Refused::Closed => Error::new(ErrorCode::NotFound, "this channel takes no calls"),
    }
}
