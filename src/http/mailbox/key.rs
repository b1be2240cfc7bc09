//! A call of a route of the mailbox family, by the key of an agent.
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde::de::DeserializeOwned;

use crate::domain::agent::KeyFacts;
use crate::domain::error::Error;
use crate::http::auth;
use crate::http::call::{self, NoQuery};

/// A call that an agent may make, whether it is paused or not. It is checked in the order of every call (`call.rs`):
/// the key, then the rest of the head; the body comes last, when the handler reads it.
pub(super) struct KeyCall<Q = NoQuery> {
    /// Which key it was, and whose.
    pub(super) key: Arc<KeyFacts>,
    pub(super) query: Q,
}

impl<Q: DeserializeOwned> KeyCall<Q> {
    fn of(req: &HttpRequest) -> Result<Self, Error> {
        let key = auth::authenticate_agent(req)?;
        let query = call::rest_of_head(req)?;
        Ok(Self { key, query })
    }
}

impl<Q: DeserializeOwned> FromRequest for KeyCall<Q> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req))
    }
}
