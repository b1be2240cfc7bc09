//! Tokens of users. A token is told once, when it is made.
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::actors::bootstrap::{new_token, prefix};
use crate::domain::error::Error;
use crate::domain::ids::{TokenId, UserId};
use crate::domain::time::{iso, parse_iso};
use crate::domain::user::Caller;
use crate::http::auth::{Admin, digest};
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::Name;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::users::{self, AddToken, RevokeToken, Token, User};

/// A token, without what it says.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct View {
    id: String,
    user_id: String,
    /// The user's name; `null` for one that was removed.
    user: Option<String>,
    name: String,
    /// Its first characters, to tell tokens apart.
    prefix: String,
    created_at: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl View {
    fn of(token: &Token, users: &[User]) -> Self {
        Self {
            id: token.id.to_string(),
            user_id: token.user_id.to_string(),
            user: users.iter().find(|user| user.id == token.user_id).map(|user| user.name.clone()),
            name: token.name.clone(),
            prefix: token.prefix.clone(),
            created_at: iso(token.created_at),
            last_used_at: token.last_used_at.map(iso),
            expires_at: token.expires_at.map(iso),
            revoked_at: token.revoked_at.map(iso),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Those of one user.
    #[param(value_type = Option<String>)]
    user_id: Option<UserId>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// List tokens, newest first, revoked ones among them.
#[utoipa::path(tag = "admin", operation_id = "adminListTokens", params(Asked), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/tokens")]
pub(super) async fn list(
    call: Call<Admin, (), Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(asked.limit, rows_max, rows_max)?;
    let after = page::after_time::<TokenId>(asked.cursor.as_deref())?;
    let read =
        move |db: &mut crate::store::Db| Ok::<_, Error>((users::tokens_of(db, asked.user_id)?, users::list(db)?));
    let (tokens, users) = state.store.read(read).await?;
    let total = tokens.len();
    let mut rest: Vec<&Token> = tokens.iter().filter(|token| after.is_none_or(|(_, id)| token.id < id)).collect();
    let more = page::cut(&mut rest, rows);
    let next = rest.last().filter(|_| more).map(|token| page::time_cursor(token.created_at, token.id));
    let views = rest.into_iter().map(|token| View::of(token, &users)).collect();
    Ok(Listing::of(&req).total(total).page(views, next))
}

/// A token that is to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewToken)]
pub(super) struct New {
    /// What it is for.
    #[schema(value_type = String)]
    name: Name,
    /// The user's id. By default the caller.
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    /// The user's name, instead of its id.
    user: Option<String>,
    /// ISO-8601. Without one the token lasts until it is revoked.
    expires_at: Option<String>,
}

/// A token that was made just now.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenMade)]
pub(super) struct Made {
    /// The token itself: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// `true` on a repeat of the call: the token was shown the first time.
    secret_shown: bool,
    #[serde(flatten)]
    view: View,
}

/// Make a token.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateToken",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = Made), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/tokens")]
pub(super) async fn create(
    call: Call<Admin>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let (caller, key) = (call.caller, key.read()?);
    let new = body.receive().await?;
    let idem = key.of("admin/tokens", &caller, new.digest);
    let new = new.value;
    let expires_at = new.expires_at.map(|text| parse_iso("expires_at", &text)).transpose()?;
    if expires_at.is_some_and(|at| at <= state.clock.now_ms()) {
        return Err(Error::invalid("expires_at", "must be a time to come"));
    }
    let user = owner(&state, new.user_id, new.user, caller.user_id).await?;
    let token = new_token()?;
    let command = AddToken {
        user_id: user.id,
        name: new.name.0,
        prefix: prefix(token.reveal()),
        digest: digest(token.reveal()),
        expires_at,
        actor: info.actor(&caller),
        idem,
    };
    let (made, repeated) = state.store.write(command).await?;
    Ok(HttpResponse::Created().json(Made {
        token: (!repeated).then(|| token.reveal().to_owned()),
        secret_shown: repeated,
        view: View::of(&made, std::slice::from_ref(&user)),
    }))
}

/// Finds whose token it is to be.
async fn owner(state: &AppState, id: Option<UserId>, name: Option<String>, caller: UserId) -> Result<User, Error> {
    let unknown = |field: &str| Error::invalid(field, "there is no such user");
    match (id, name) {
        (Some(_), Some(_)) => Err(Error::invalid("user", "name the user by `user_id` or by `user`, not by both")),
        (Some(id), None) => state.store.read(move |db| users::get(db, id)).await?.ok_or_else(|| unknown("user_id")),
        (None, Some(name)) => {
            state.store.read(move |db| users::by_name(db, &name)).await?.ok_or_else(|| unknown("user"))
        }
        (None, None) => {
            state.store.read(move |db| users::get(db, caller)).await?.ok_or_else(|| Error::not_found("user", caller))
        }
    }
}

impl Target for Token {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| users::token(db, id)).await?.ok_or_else(|| Error::not_found("token", id))
    }
}

/// Revoke a token: it ends at once, its sockets close within a second.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRevokeToken",
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/tokens/{id}")]
pub(super) async fn revoke(
    call: Call<Admin, Token>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RevokeToken { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
