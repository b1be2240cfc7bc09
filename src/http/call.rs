//! A call of a route: who makes it, what its path names, what its query asks.
//!
//! The one place that knows the contract's order of checks: the credential, then what the path names, in the caller's
//! scope (SEC-2), then the rest of the head; the body comes last, when the handler reads it. A route says all of it in
//! the type of its first argument, so that it can forget nothing: `Call<Operator, Conversation>` has no query, and under
//! `/api/admin` refuses one. An agent's call (`mailbox/key.rs`) is checked in the same order.
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::auth::{self, Right};
use super::fields::{self, Unknown};
use super::request::state_of;
use super::state::AppState;
use super::{accept, body};
use crate::domain::error::Error;
use crate::domain::user::Caller;

/// A call that may be made.
pub(super) struct Call<R, T = (), Q = NoQuery> {
    pub(super) caller: Arc<Caller>,
    /// What the path names.
    pub(super) target: T,
    pub(super) query: Q,
    right: PhantomData<R>,
}

/// Something that a path names.
pub(super) trait Target: Sized + 'static {
    /// The parts of the path that name it, percent-decoded: a text, or a pair of them.
    type Path: DeserializeOwned;

    /// Finds it in the caller's scope; 404 if there is none.
    async fn find(state: &AppState, caller: &Caller, path: Self::Path) -> Result<Self, Error>;
}

/// The path names nothing.
impl Target for () {
    type Path = ();

    async fn find(_: &AppState, _: &Caller, (): ()) -> Result<Self, Error> {
        Ok(())
    }
}

/// The query of a route that asks for nothing.
#[derive(Debug, Deserialize)]
pub(super) struct NoQuery {}

impl<R: Right, T: Target, Q: DeserializeOwned + 'static> FromRequest for Call<R, T, Q> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let req = req.clone();
        async move {
            let caller = auth::authenticate(&req)?;
            R::check(&caller)?;
            let target = T::find(state_of(&req)?, &caller, body::path(&req)?).await?;
            let query = rest_of_head(&req)?;
            Ok(Self { caller, target, query, right: PhantomData })
        }
        .boxed_local()
    }
}

/// Checks what comes after the credential and the path, whatever the credential was: the form of the answer, then the
/// query, which is handed out.
pub(super) fn rest_of_head<Q: DeserializeOwned>(req: &HttpRequest) -> Result<Q, Error> {
    accept::check(req)?;
    fields::of_query(req.query_string(), unknown_at(req.path()))
}

/// What happens to fields of a query that a route does not know: the admin API is strict, the families' clients send
/// extras.
fn unknown_at(path: &str) -> Unknown {
    if path.starts_with("/api/admin/") { Unknown::Refused } else { Unknown::Ignored }
}

/// Reads the id in a path, where its route calls it `id`.
pub(super) fn id<T: FromStr<Err = Error>>(text: &str) -> Result<T, Error> {
    id_called("id", text)
}

/// Reads the id in a path that its route calls `name`: a refusal names it as the API's description does.
pub(super) fn id_called<T: FromStr<Err = Error>>(name: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error: Error| Error::invalid_at("path", name, error.message(), "value_error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_query_refuses_one_only_where_it_is_strict() {
        assert!(fields::of_query::<NoQuery>("", Unknown::Refused).is_ok());
        let refused = fields::of_query::<NoQuery>("x=1", unknown_at("/api/admin/users")).expect_err("unknown");
        assert_eq!((refused.fields()[0].field.as_str(), refused.fields()[0].code), ("x", "unknown_field"));
        assert!(fields::of_query::<NoQuery>("x=1", unknown_at("/api/gateways/a")).is_ok());
    }
}
