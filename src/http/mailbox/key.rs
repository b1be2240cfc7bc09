//! A call of a route of the mailbox family, by the key of an agent.
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use crate::domain::agent::KeyFacts;
use crate::domain::error::Error;
use crate::http::auth;
use crate::http::call::{self, NoQuery};

/// A call that an agent may make, whether it is paused or not. It is checked in the order of every call (`call.rs`):
/// the key, then the rest of the head; the body comes last, when the handler reads it.
pub(super) struct KeyCall {
    /// Which key it was, and whose.
    pub(super) key: Arc<KeyFacts>,
}

impl KeyCall {
    fn of(req: &HttpRequest) -> Result<Self, Error> {
        let key = auth::authenticate_agent(req)?;
        call::rest_of_head::<NoQuery>(req)?;
        Ok(Self { key })
    }
}

impl FromRequest for KeyCall {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req))
    }
}
