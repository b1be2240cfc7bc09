//! Who is calling, and what they may do.
//!
//! A route names the right it needs ([`Viewer`], [`Member`], [`Operator`], [`Admin`], [`Observer`]) in the type of its
//! call (`call.rs`), so that no route can forget it, and so that a credential is checked before anything else.
//!
//! Invariants
//! - SEC-1: a token, like an agent's key, is turned into its digest at once; it is never stored, logged or told.
//! - A long-lived secret is never taken from a URL.
mod limiter;
mod tickets;

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN, SEC_WEBSOCKET_PROTOCOL};

pub use crate::actors::bootstrap::digest;
pub use limiter::Limiter;
pub use tickets::Tickets;

use super::request::state_of;
use super::state::AppState;
use crate::config::LocalClients;
use crate::domain::agent::KeyFacts;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::user::{Caller, Role};

/// The header that carries an agent's key.
pub(super) const AGENT_KEY: &str = "x-api-key";
/// The WebSocket subprotocol that the server selects; also the version of its frames.
pub const SUBPROTOCOL: &str = "clawbroker.v1";
/// Begins the subprotocol that carries a ticket.
const TICKET: &str = "ticket.";

/// Finds out who is calling: by bearer token, or as the trusted local client. A page of a foreign origin may change
/// nothing, whatever it has got hold of.
pub fn authenticate(req: &HttpRequest) -> Result<Arc<Caller>, Error> {
    let state = state_of(req)?;
    let caller = identify(state, req)?;
    check_page(state, req)?;
    Ok(caller)
}

/// Finds out which agent is calling, by its key. In the ancestor's words, which its clients may know. A page of a foreign
/// origin may not even read: a poll takes mail.
pub(super) fn authenticate_agent(req: &HttpRequest) -> Result<Arc<KeyFacts>, Error> {
    let state = state_of(req)?;
    let value = req.headers().get(AGENT_KEY);
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        // An empty header is a missing one only where the ancestor read it so. Nothing was guessed.
        let is_missing = value.is_none() || req.path() == "/api/gateway/report";
        let message = if is_missing { "Missing X-Api-Key header" } else { "Invalid API key" };
        return Err(Error::new(ErrorCode::Unauthenticated, message));
    };
    let key = value.to_str().unwrap_or_default();
    let (digest, now_ms) = (digest(key), state.clock.now_ms());
    let found = state.directory.known(|directory| directory.agents().key(&digest, now_ms))?;
    let key = found.ok_or_else(|| wrong_credential(state, req, "Invalid API key"))?;
    if origin(state, req.headers()) == Origin::Foreign {
        return Err(foreign_page());
    }
    Ok(key)
}

/// Refuses a change by a page that may not call.
fn check_page(state: &AppState, req: &HttpRequest) -> Result<(), Error> {
    if !req.method().is_safe() && origin(state, req.headers()) == Origin::Foreign {
        return Err(foreign_page());
    }
    Ok(())
}

fn identify(state: &AppState, req: &HttpRequest) -> Result<Arc<Caller>, Error> {
    match req.headers().get(AUTHORIZATION) {
        Some(value) => {
            let token = value.to_str().ok().and_then(bearer).unwrap_or_default();
            state
                .directory
                .caller(&digest(token), state.clock.now_ms())
                .ok_or_else(|| wrong_credential(state, req, "the token is wrong, has expired or was revoked"))
        }
        None => trusted(state, req).ok_or_else(missing_credential),
    }
}

/// The same for a WebSocket handshake, which may also bring a ticket. Its origin is checked: a socket is not protected
/// by CORS.
pub fn authenticate_socket(req: &HttpRequest) -> Result<Arc<Caller>, Error> {
    let state = state_of(req)?;
    if origin(state, req.headers()) == Origin::Foreign {
        return Err(foreign_page());
    }
    let Some(ticket) = offered_ticket(req.headers()) else { return authenticate(req) };
    state
        .tickets
        .redeem(ticket)
        // What it stood for may have ended since.
        .and_then(|caller| state.directory.current(&caller, state.clock.now_ms()))
        .ok_or_else(|| wrong_credential(state, req, "the ticket is wrong, was used or has expired; get a new one"))
}

/// Refuses a page that may not call.
fn foreign_page() -> Error {
    Error::new(ErrorCode::Forbidden, "this page's origin is not on the list of allowed origins (`server.cors_origins`)")
}

/// Refuses a caller without a credential.
fn missing_credential() -> Error {
    Error::new(ErrorCode::Unauthenticated, "this needs a token: send the header `Authorization: Bearer cbk_…`")
}

/// Counts a wrong credential and refuses it; after too many from one address with `rate_limited`.
pub(super) fn wrong_credential(state: &AppState, req: &HttpRequest, message: &str) -> Error {
    match state.limiter.wrong(req.peer_addr().map(|peer| peer.ip())) {
        Ok(()) => Error::new(ErrorCode::Unauthenticated, message),
        Err(wait) => Error::new(
            ErrorCode::RateLimited,
            "too many wrong credentials came from this address; a right one still works",
        )
        .with_retry_after_s(u32::try_from(wait.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX)),
    }
}

/// Cuts the token out of an `Authorization` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn offered_ticket(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .find_map(|offered| offered.trim().strip_prefix(TICKET))
}

/// Headers that a proxy adds: who comes through one is not a local client, wherever the proxy runs.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Finds whom a local client stands for, if it is trusted at all. Its `Host` was checked before.
fn trusted(state: &AppState, req: &HttpRequest) -> Option<Arc<Caller>> {
    let local = state.config.auth.local_clients == LocalClients::Trusted
        && is_local(req)
        && origin(state, req.headers()) != Origin::Foreign;
    if local { state.directory.trusted() } else { None }
}

/// Tells whether the caller is on this machine, and not behind a proxy there.
pub(super) fn is_local(req: &HttpRequest) -> bool {
    req.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback())
        && !FORWARDED.iter().any(|name| req.headers().contains_key(*name))
}

/// Where the page that calls comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Not a page of another host: no origin, our own or public one, or one on the CORS list.
    Known,
    Foreign,
}

fn origin(state: &AppState, headers: &HeaderMap) -> Origin {
    let Some(value) = headers.get(ORIGIN) else { return Origin::Known };
    let Ok(value) = value.to_str() else { return Origin::Foreign };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok()).is_some_and(|host| {
        let page = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
        page.is_some_and(|page| page.eq_ignore_ascii_case(host))
    });
    // A proxy may put another name into `Host`.
    let public = state.config.app.public_url.as_ref().is_some_and(|url| url.origin() == value);
    if own || public || state.config.server.cors_origins.iter().any(|allowed| allowed.as_str() == value) {
        Origin::Known
    } else {
        Origin::Foreign
    }
}

/// What a caller may do, as a type that a route names.
pub trait Right: 'static {
    /// Refuses a caller who has not got it.
    fn check(caller: &Caller) -> Result<(), Error>;
}

macro_rules! rights {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Right for $name {
            fn check(caller: &Caller) -> Result<(), Error> {
                caller.require(Role::$name)
            }
        }
    )+};
}

rights! {
    /// Anybody who signed in.
    Viewer,
    /// Whoever may chat.
    Member,
    /// Whoever runs the broker.
    Operator,
    /// Whoever says who may do what.
    Admin,
}

/// Whoever may read everything: a viewer, or whoever runs the broker. A member sees its own things only, elsewhere.
#[derive(Clone, Copy, Debug)]
pub enum Observer {}

impl Right for Observer {
    fn check(caller: &Caller) -> Result<(), Error> {
        match caller.role {
            Role::Member => caller.require(Role::Operator),
            Role::Viewer | Role::Operator | Role::Admin => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn only_bearer_credentials_are_read() {
        assert_eq!(bearer("Bearer cbk_x"), Some("cbk_x"));
        assert_eq!(bearer("bearer  cbk_x "), Some("cbk_x"));
        for wrong in ["", "Bearer", "cbk_x", "Basic cbk_x"] {
            assert_eq!(bearer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_ticket_is_found_among_the_offered_subprotocols() {
        let mut headers = HeaderMap::new();
        assert_eq!(offered_ticket(&headers), None);
        headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("clawbroker.v1, ticket.abc"));
        assert_eq!(offered_ticket(&headers), Some("abc"));
    }
}
