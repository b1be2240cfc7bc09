//! Keys of agents. A key is told once, when it is made.
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::agent::Agent;
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, AgentKeyId};
use crate::domain::time::{iso, parse_iso};
use crate::domain::user::Caller;
use crate::http::agent_keys::{self as making, NewKey};
use crate::http::auth::Admin;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::Name;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::agent_keys::{self, AgentKey, RevokeAgentKey};
use crate::store::{Db, agents};

/// A key of an agent, without what it says.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentKey)]
pub(super) struct View {
    id: String,
    /// What it is for.
    label: String,
    /// Its first characters, to tell keys apart.
    prefix: String,
    created_at: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl From<&AgentKey> for View {
    fn from(key: &AgentKey) -> Self {
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            prefix: key.prefix.clone(),
            created_at: iso(key.created_at),
            last_used_at: key.last_used_at.map(iso),
            expires_at: key.expires_at.map(iso),
            revoked_at: key.revoked_at.map(iso),
        }
    }
}

/// List the keys of an agent, newest first, revoked ones among them.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminListAgentKeys",
    params(("id" = String, Path), Paging),
    responses((status = 200, body = Page<View>), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/agents/{id}/keys")]
pub(super) async fn list(
    call: Call<Admin, Agent, Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let before = page::after_time::<AgentKeyId>(call.query.cursor.as_deref())?.map(|(_, id)| id);
    let agent = call.target.id;
    let read = move |db: &mut Db| {
        Ok::<_, Error>((agent_keys::of(db, agent, before, rows as i64 + 1)?, agent_keys::count_of(db, agent)?))
    };
    let (mut keys, total) = state.store.read(read).await?;
    let more = page::cut(&mut keys, rows);
    let next = keys.last().filter(|_| more).map(|last| page::time_cursor(last.created_at, last.id));
    Ok(Listing::of(&req).total(total).page(keys.iter().map(View::from).collect(), next))
}

/// A key that is to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewAgentKey)]
pub(super) struct New {
    /// What it is for. By default nothing is said.
    #[schema(value_type = Option<String>)]
    label: Option<Name>,
    /// ISO-8601. Without one the key lasts until it is revoked.
    expires_at: Option<String>,
}

/// A key that was made just now.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentKeyMade)]
pub(super) struct Made {
    /// The key itself: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    /// `true` on a repeat of the call: the key was shown the first time.
    secret_shown: bool,
    #[serde(flatten)]
    view: View,
}

/// Make a key of an agent. Keys that it has go on, so that it can change over in its own time.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateAgentKey",
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = Made), (status = 404, body = ErrorBody), (status = 409, description = "A native agent has no keys", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/agents/{id}/keys")]
pub(super) async fn create(
    call: Call<Admin, Agent>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive_or_nothing().await?;
    let idem = key.of("admin/agents/keys", &call.caller, new.digest);
    let new = new.value;
    let expires_at = new.expires_at.map(|text| parse_iso("expires_at", &text)).transpose()?;
    if expires_at.is_some_and(|at| at <= state.clock.now_ms()) {
        return Err(Error::invalid("expires_at", "must be a time to come"));
    }
    let new = NewKey {
        agent_id: call.target.id,
        label: new.label.map(|label| label.0).unwrap_or_default(),
        expires_at,
        actor: info.actor(&call.caller),
        idem,
    };
    let made = making::make(&state, new).await?;
    Ok(HttpResponse::Created().json(Made {
        secret_shown: made.secret.is_none(),
        api_key: made.secret.map(|secret| secret.reveal().to_owned()),
        view: View::from(&made.key),
    }))
}

impl Target for AgentKey {
    type Path = (String, String);

    async fn find(state: &AppState, _: &Caller, (agent, key): Self::Path) -> Result<Self, Error> {
        let (agent_id, id): (AgentId, AgentKeyId) = (call::id(&agent)?, call::id_called("key_id", &key)?);
        let read = move |db: &mut Db| Ok::<_, Error>((agents::get(db, agent_id)?, agent_keys::get(db, id)?));
        let (agent, key) = state.store.read(read).await?;
        if agent.is_none() {
            return Err(Error::not_found("agent", agent_id));
        }
        key.filter(|key| key.agent_id == agent_id).ok_or_else(|| Error::not_found("agent key", id))
    }
}

/// Revoke a key: it ends at once.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRevokeAgentKey",
    params(("id" = String, Path), ("key_id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/agents/{id}/keys/{key_id}")]
pub(super) async fn revoke(
    call: Call<Admin, AgentKey>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RevokeAgentKey { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
