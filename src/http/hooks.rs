//! Where providers call: what people wrote, believed by its signature or secret, and taken in once.
//!
//! Invariants
//! - Nothing of a call is looked at by the broker before the provider's proof of it; what it held is told to nobody.
//! - A provider is answered with 200 only when what it told is on disk (D9). A line of an unknown person is refused, and
//!   the provider is answered with 200 all the same: it would only come again.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use utoipa_actix_web::service_config::ServiceConfig;

use super::auth;
use super::body::{ApiPath, RawBody};
use super::error::ErrorBody;
use super::state::AppState;
use crate::actors::channels::{self, Intake, LiveChannel};
use crate::channels::{Heard, Inbound, InboundCall, Method, Refused, Undelivered};
use crate::domain::error::{Error, ErrorCode};
use crate::store::channels::{HeardAs, NoteUndelivered, UndeliveredAs};

/// How long the body of a call may take to arrive: providers send it at once, and nobody is known before it is here.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long after a failure a provider is told to come again with it where we do not know the message. It may tell us
/// sooner than we have written down that it took it.
const TOO_EARLY_MS: u64 = 10 * 60_000;
/// How many bodies of one channel may be on their way for each call that is worked on.
const READING: usize = 4;
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
    request_body(content = Object, description = "As the provider documents", content_type = "application/json"),
    responses((status = 200, description = "It is on disk, or will never be: `ok`; or what the provider asked for", body = Object, content_type = "application/json"), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/hooks/{id}")]
async fn call(
    path: ApiPath<String>,
    state: web::Data<AppState>,
    req: HttpRequest,
    body: RawBody,
) -> Result<HttpResponse, Error> {
    let live = find(&state, &path.0)?;
    // Whoever is slow takes nobody's place, and of one channel not too many may be.
    let body = {
        let Some(_reading) = live.reading(state.config.channels.calls_max.saturating_mul(READING)) else {
            return Err(Error::store_busy());
        };
        body.read_within(ARRIVAL).await?
    };
    let Some(_place) = state.directory.channels().call(state.config.channels.calls_max) else {
        return Err(Error::store_busy());
    };
    take(&state, &live, Method::Post, &req, &body).await
}

/// Finds a channel that is enabled; what cannot be an id cannot exist.
fn find(state: &AppState, id: &str) -> Result<Arc<LiveChannel>, Error> {
    let unknown = || Error::new(ErrorCode::NotFound, "there is no such channel");
    let id = id.parse().map_err(|_| unknown())?;
    state.directory.known(|directory| directory.channels().get(id))?.ok_or_else(unknown)
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
    let (lines, failed) = match live.provider.channel().hear(&asked, state.clock.now_ms()) {
        Ok(Heard::Challenge { content_type, body }) => {
            return Ok(HttpResponse::Ok().content_type(content_type).body(body));
        }
        Ok(Heard::Messages(lines)) => (lines, Vec::new()),
        Ok(Heard::WithFailures { lines, failed }) => (lines, failed),
        Err(refused) => return Err(refusal(state, live, req, refused)),
    };
    for line in lines {
        hear(state, live, line).await?;
    }
    let mut is_early = false;
    for one in failed {
        is_early |= note_undelivered(state, live, one).await?;
    }
    if is_early {
        // They come again, and by then we may know them; the others are known then.
        return Err(Error::store_busy());
    }
    Ok(HttpResponse::Ok().json(serde_json::json!({ "ok": true })))
}

/// Takes a line in. A full mailbox and a busy store are passing: the provider calls again.
async fn hear(state: &AppState, live: &LiveChannel, line: Inbound) -> Result<(), Error> {
    let command = channels::hear(live.channel.id, line, Intake::of(&state.config));
    let heard = state.store.write(command).await.map_err(|error| match error.code() {
        ErrorCode::MailboxFull => Error::store_busy(),
        _ => error,
    })?;
    live.counts.count_heard(&heard);
    match heard {
        // It comes again, and may find the channel open then.
        HeardAs::Closed => Err(Error::new(ErrorCode::NotFound, "there is no such channel")),
        HeardAs::Line(_) | HeardAs::Repeated | HeardAs::Unknown | HeardAs::ForNobody | HeardAs::TooMany => Ok(()),
    }
}

/// Notes that the provider could not deliver what it had taken. Tells whether it may have told us sooner than we know the
/// message.
async fn note_undelivered(state: &AppState, live: &LiveChannel, failed: Undelivered) -> Result<bool, Error> {
    let Undelivered { chats, external_id, why, at } = failed;
    let why = live.provider.without_secrets(&why);
    let channel_id = live.channel.id;
    let command = NoteUndelivered { channel_id, chats, external_id, why: why.clone() };
    match state.store.write(command).await {
        Ok(UndeliveredAs::New(message_id)) => {
            live.counts.undelivered.fetch_add(1, Ordering::Relaxed);
            log::warn!(channel:% = channel_id, message:% = message_id; "a message was not delivered: {why}");
            Ok(false)
        }
        Ok(UndeliveredAs::Repeated) => Ok(false),
        Ok(UndeliveredAs::Unknown) => Ok(at.is_some_and(|at| state.clock.now_ms().abs_diff(at) < TOO_EARLY_MS)),
        // The others are told all the same (STO-3).
        Err(error) if error.is_unreadable() => {
            log::error!(channel:% = channel_id; "what was not delivered cannot be read: {}", error.cause());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Refuses a call. Wrong proofs are counted, by the address that they come from as well.
fn refusal(state: &AppState, live: &LiveChannel, req: &HttpRequest, refused: Refused) -> Error {
    if matches!(refused, Refused::Unproven | Refused::Stale) {
        live.counts.unproven.fetch_add(1, Ordering::Relaxed);
    }
    match refused {
        Refused::Unproven => auth::wrong_credential(state, req, "this call is not proven to come from the provider"),
        // Its signature was right: nobody guessed.
        Refused::Stale => {
            Error::new(ErrorCode::Unauthenticated, "this call was signed too long ago, or for the future")
        }
        Refused::Shape(what) => Error::new(ErrorCode::InvalidRequest, what),
        Refused::Closed => Error::new(ErrorCode::NotFound, "this channel takes no calls"),
    }
}
