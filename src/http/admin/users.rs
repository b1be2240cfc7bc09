//! People who sign in.
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::domain::error::Error;
use crate::domain::ids::UserId;
use crate::domain::secret::Secret;
use crate::domain::time::iso;
use crate::domain::user::{Caller, Role};
use crate::http::auth::Admin;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::{Name, sent};
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::users::{self, AddUser, ChangeUser, RemoveUser, User};

/// Longest name to sign in with.
const LOGIN_BYTES_MAX: usize = 64;

/// A user.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct View {
    id: String,
    name: String,
    display_name: String,
    /// `admin`, `operator`, `member` or `viewer`.
    role: &'static str,
    /// Whether a password is kept; never the password.
    password_set: bool,
    created_at: String,
    updated_at: String,
}

impl From<&User> for View {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            name: user.name.clone(),
            display_name: user.display_name.clone(),
            role: user.role.as_str(),
            password_set: user.has_password,
            created_at: iso(user.created_at),
            updated_at: iso(user.updated_at),
        }
    }
}

/// The name that a user signs in with; it stands in commands, so it is plain.
pub(super) struct Login(String);

impl<'de> Deserialize<'de> for Login {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let plain = (1..=LOGIN_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@'));
        if !plain {
            return Err(serde::de::Error::custom(format!(
                "must be 1 to {LOGIN_BYTES_MAX} of letters, digits, dot, underscore, hyphen and @"
            )));
        }
        Ok(Self(name))
    }
}

/// List the users, by name.
#[utoipa::path(tag = "admin", operation_id = "adminListUsers", params(Paging), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/users")]
pub(super) async fn list(
    call: Call<Admin, (), Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_name(call.query.cursor.as_deref())?;
    let read =
        move |db: &mut Db| Ok::<_, Error>((users::page(db, after.as_deref(), rows as i64 + 1)?, users::count(db)?));
    let (mut users, total) = state.store.read(read).await?;
    let more = page::cut(&mut users, rows);
    let next = users.last().filter(|_| more).map(|last| page::name_cursor(&last.name));
    Ok(Listing::of(&req).total(total).page(users.iter().map(View::from).collect(), next))
}

/// A user that is to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewUser)]
pub(super) struct New {
    #[schema(value_type = String)]
    name: Login,
    /// By default the name.
    #[schema(value_type = Option<String>)]
    display_name: Option<Name>,
    /// `admin`, `operator`, `member` or `viewer`.
    #[schema(value_type = String)]
    role: Role,
    /// At least 12 characters. Without one the user has tokens only.
    #[schema(value_type = Option<String>, write_only)]
    password: Option<Secret>,
}

/// Make a user.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateUser",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = View), (status = 409, description = "The name is taken", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/users")]
pub(super) async fn create(
    call: Call<Admin>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/users", &call.caller, new.digest);
    let new = new.value;
    let password_hash = match new.password {
        Some(password) => Some(state.edge.passwords.hash(password).await?),
        None => None,
    };
    let command = AddUser {
        display_name: new.display_name.map_or_else(|| new.name.0.clone(), |name| name.0),
        name: new.name.0,
        role: new.role,
        password_hash,
        actor: info.actor(&call.caller),
        idem,
        ensure: false,
    };
    let user = state.store.write(command).await?;
    Ok(HttpResponse::Created().json(View::from(&user)))
}

/// What may be changed; a field that is not sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = UserChange)]
pub(super) struct Change {
    /// The name to sign in with.
    #[schema(value_type = Option<String>)]
    name: Option<Login>,
    #[schema(value_type = Option<String>)]
    display_name: Option<Name>,
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// `null` removes it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>, write_only)]
    password: Option<Option<Secret>>,
}

/// Change a user. Its sockets close, so that a new role holds at once.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminChangeUser",
    params(("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = 409, description = "The name is taken, or it is the user `admin`, whose name and role stay", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/admin/users/{id}")]
pub(super) async fn patch(
    call: Call<Admin, User>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Change>,
) -> Result<HttpResponse, Error> {
    let change = body.read().await?;
    let password_hash = match change.password {
        Some(Some(password)) => Some(Some(state.edge.passwords.hash(password).await?)),
        Some(None) => Some(None),
        None => None,
    };
    let command = ChangeUser {
        id: call.target.id,
        name: change.name.map(|name| name.0),
        display_name: change.display_name.map(|name| name.0),
        role: change.role,
        password_hash,
        actor: info.actor(&call.caller),
    };
    let user = state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(View::from(&user)))
}

/// Refuses a `field` that names a user who is none.
pub(super) async fn check_user(state: &AppState, field: &str, id: Option<UserId>) -> Result<(), Error> {
    let Some(id) = id else { return Ok(()) };
    let found = state.store.read(move |db| users::get(db, id)).await?;
    found.map(drop).ok_or_else(|| Error::invalid(field, "there is no such user"))
}

impl Target for User {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| users::get(db, id)).await?.ok_or_else(|| Error::not_found("user", id))
    }
}

/// Remove a user: its tokens end, its lines stay.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveUser",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Done),
        (status = 404, body = ErrorBody),
        (status = 409, description = "The user `admin` stays", body = ErrorBody),
        (status = "default", body = ErrorBody),
    )
)]
#[delete("/api/admin/users/{id}")]
pub(super) async fn remove(
    call: Call<Admin, User>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RemoveUser { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
