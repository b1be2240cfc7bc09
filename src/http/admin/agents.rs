//! Agents, as whoever runs the broker registers them and sees them.
use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::agent_input::{AgentName, Attempts, Labels, LeaseSeconds, Model, RoleDescription};
use super::users::check_user;
use crate::domain::agent::{Agent, AgentKind, AgentState, Slug, fold};
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, UserId};
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::http::auth::Operator;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::sent;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::presence::Presence;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::agents::{self, AddAgent, ChangeAgent, Changes, Mailbox, RemoveAgent};

/// An agent with its presence and what waits for it.
#[derive(Serialize, ToSchema)]
#[schema(as = Agent)]
pub(super) struct View {
    id: String,
    slug: String,
    name: String,
    /// `openclaw`: it polls; `native`: it lives here.
    kind: &'static str,
    /// `running`, `paused` or `stopped`: what an operator wants.
    status: &'static str,
    /// `online` or `offline`: whether it called in the last five minutes.
    presence: &'static str,
    last_seen_at: Option<String>,
    role_description: String,
    creator_id: Option<String>,
    labels: BTreeMap<String, String>,
    lease_seconds: Option<i32>,
    max_attempts: Option<i32>,
    model: Option<String>,
    mailbox: MailboxView,
    created_at: String,
    updated_at: String,
}

/// How many messages an agent has in each state.
#[derive(Serialize, ToSchema)]
#[schema(as = Mailbox)]
pub(super) struct MailboxView {
    pending: i64,
    leased: i64,
    dead: i64,
}

impl View {
    fn of(agent: Agent, mailbox: Mailbox, state: &AppState) -> Self {
        let Presence { seen_at, is_online } = Presence::of(&agent, state);
        Self {
            id: agent.id.to_string(),
            slug: agent.slug,
            name: agent.name,
            kind: agent.kind.as_str(),
            status: agent.state.as_str(),
            presence: if is_online { "online" } else { "offline" },
            last_seen_at: seen_at.map(iso),
            role_description: agent.role_description,
            creator_id: agent.creator_id.map(|id| id.to_string()),
            labels: agent.labels,
            lease_seconds: agent.lease_seconds,
            max_attempts: agent.attempts_max,
            model: agent.model,
            mailbox: MailboxView { pending: mailbox.pending, leased: mailbox.leased, dead: mailbox.dead },
            created_at: iso(agent.created_at),
            updated_at: iso(agent.updated_at),
        }
    }
}

/// Counts what waits for an agent now.
async fn waiting(agent: &Agent, state: &AppState) -> Result<Mailbox, Error> {
    let party = agent.party_id;
    let mut mailboxes = state.store.read(move |db| agents::mailboxes(db, &[party])).await?;
    Ok(mailboxes.remove(&party).unwrap_or_default())
}

/// List the agents, by name.
#[utoipa::path(tag = "admin", operation_id = "adminListAgents", params(Paging), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/agents")]
pub(super) async fn list(
    call: Call<Operator, (), Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_named::<AgentId>(call.query.cursor.as_deref())?;
    let read = move |db: &mut Db| {
        let mut found = agents::page(db, after.as_ref(), rows as i64 + 1)?;
        let more = page::cut(&mut found, rows);
        let parties: Vec<_> = found.iter().map(|agent| agent.party_id).collect();
        Ok::<_, Error>((found, more, agents::mailboxes(db, &parties)?, agents::count(db)?))
    };
    let (found, more, mailboxes, total) = state.store.read(read).await?;
    let next = found.last().filter(|_| more).map(|last| page::named_cursor(&fold(&last.name), last.id));
    let views = found.into_iter().map(|agent| {
        let mailbox = mailboxes.get(&agent.party_id).copied().unwrap_or_default();
        View::of(agent, mailbox, &state)
    });
    Ok(Listing::of(&req).total(total).page(views.collect(), next))
}

/// An agent that is to be registered.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewAgent)]
pub(super) struct New {
    /// 1 to 100 characters; several agents may have the same.
    #[schema(value_type = String)]
    name: AgentName,
    /// 1 to 64 of lower-case letters, digits and hyphens. Made from the name if there is none.
    #[schema(value_type = Option<String>)]
    slug: Option<Slug>,
    /// `openclaw` (the default) or `native`; it stays as it is.
    #[schema(value_type = Option<String>)]
    kind: Option<AgentKind>,
    #[schema(value_type = Option<String>)]
    role_description: Option<RoleDescription>,
    /// A user's id. By default the caller.
    #[schema(value_type = Option<String>)]
    creator_id: Option<UserId>,
    /// `running` (the default), `paused` or `stopped`.
    #[schema(value_type = Option<String>)]
    status: Option<AgentState>,
    /// Texts by names of your own choice.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    labels: Option<Labels>,
    /// How long it keeps what it polls, 10 to 43200.
    #[schema(value_type = Option<i32>)]
    lease_seconds: Option<LeaseSeconds>,
    /// Hand-outs before a message is dead, 1 to 100.
    #[schema(value_type = Option<i32>)]
    max_attempts: Option<Attempts>,
    #[schema(value_type = Option<String>)]
    model: Option<Model>,
}

/// Register an agent.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateAgent",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = View), (status = 409, description = "The slug is taken", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/agents")]
pub(super) async fn create(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/agents", &call.caller, new.digest);
    let new = new.value;
    check_user(&state, "creator_id", new.creator_id).await?;
    let command = AddAgent {
        name: new.name.0,
        slug: new.slug,
        kind: new.kind.unwrap_or_default(),
        state: new.status.unwrap_or_default(),
        role_description: new.role_description.map(|text| text.0).unwrap_or_default(),
        creator_id: Some(new.creator_id.unwrap_or(call.caller.user_id)),
        labels: new.labels.unwrap_or_default().0,
        lease_seconds: new.lease_seconds.map(|seconds| seconds.0),
        attempts_max: new.max_attempts.map(|attempts| attempts.0),
        model: new.model.map(|model| model.0),
        actor: info.actor(&call.caller),
        idem,
        agents_max: state.config.limits.agents_max,
    };
    let agent = state.store.write(command).await?;
    // Nothing is read after the commit: a refusal now would deny what was done. And nothing waits for a new one.
    Ok(HttpResponse::Created().json(View::of(agent, Mailbox::default(), &state)))
}

impl Target for Agent {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| agents::get(db, id)).await?.ok_or_else(|| Error::not_found("agent", id))
    }
}

/// Read an agent.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetAgent",
    params(("id" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/agents/{id}")]
pub(super) async fn get(call: Call<Operator, Agent>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let mailbox = waiting(&call.target, &state).await?;
    Ok(HttpResponse::Ok().json(View::of(call.target, mailbox, &state)))
}

/// What may be changed; a field that is not sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = AgentChange)]
pub(super) struct Change {
    #[schema(value_type = Option<String>)]
    name: Option<AgentName>,
    #[schema(value_type = Option<String>)]
    slug: Option<Slug>,
    #[schema(value_type = Option<String>)]
    role_description: Option<RoleDescription>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    creator_id: Option<Option<UserId>>,
    /// `running`, `paused` or `stopped`. A paused agent may call, but is handed out nothing.
    #[schema(value_type = Option<String>)]
    status: Option<AgentState>,
    /// All of them; those that are not named go.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    labels: Option<Labels>,
    /// 10 to 43200; `null`: as the settings have it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<i32>)]
    lease_seconds: Option<Option<LeaseSeconds>>,
    /// 1 to 100; `null`: as the settings have it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<i32>)]
    max_attempts: Option<Option<Attempts>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<Model>>,
}

/// Change an agent; its keys stay.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminChangeAgent",
    params(("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = 409, description = "The slug is taken", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/admin/agents/{id}")]
pub(super) async fn patch(
    call: Call<Operator, Agent>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Change>,
) -> Result<HttpResponse, Error> {
    let change = body.read().await?;
    check_user(&state, "creator_id", change.creator_id.flatten()).await?;
    let changes = Changes {
        name: change.name.map(|name| name.0),
        slug: change.slug,
        state: change.status,
        role_description: change.role_description.map(|text| text.0),
        creator_id: change.creator_id,
        labels: change.labels.map(|labels| labels.0),
        lease_seconds: change.lease_seconds.map(|sent| sent.map(|seconds| seconds.0)),
        attempts_max: change.max_attempts.map(|sent| sent.map(|attempts| attempts.0)),
        model: change.model.map(|sent| sent.map(|model| model.0)),
    };
    let command = ChangeAgent { id: call.target.id, changes, actor: info.actor(&call.caller) };
    // Counted first: a refusal after the commit would deny what was done.
    let mailbox = waiting(&call.target, &state).await?;
    let agent = state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(View::of(agent, mailbox, &state)))
}

/// Remove an agent: its keys end at once, its lines stay.
///
/// What waits for it, or is leased to it, dies a moment later, with the reason `recipient_removed`.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveAgent",
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/agents/{id}")]
pub(super) async fn remove(
    call: Call<Operator, Agent>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RemoveAgent { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
