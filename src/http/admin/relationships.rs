//! Relationships: which people and which other agents an agent knows.
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::member_input::{Description, Relation};
use crate::domain::agent::Agent;
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, MemberId, RelationshipId};
use crate::domain::member::{HUMAN, Known, Relationship};
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::http::auth::Operator;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::relationships::{self, AddRelationship, RemoveRelationship};
use crate::store::{Db, agents};

/// What an agent knows of a person or of another agent.
#[derive(Serialize, ToSchema)]
#[schema(as = Relationship)]
pub(super) struct View {
    id: String,
    /// `human` or `agent`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The person.
    member_id: Option<String>,
    /// The other agent.
    agent_id: Option<String>,
    /// What the person or the other agent is called.
    name: String,
    /// What it is to the agent, for example `collaborator`.
    relation: String,
    description: Option<String>,
    created_at: String,
}

impl View {
    fn of(relationship: Relationship, name: String) -> Self {
        let (kind, member_id, agent_id) = match relationship.known {
            Known::Member(id) => (HUMAN, Some(id.to_string()), None),
            Known::Agent(id) => ("agent", None, Some(id.to_string())),
        };
        Self {
            id: relationship.id.to_string(),
            kind,
            member_id,
            agent_id,
            name,
            relation: relationship.relation,
            description: relationship.description,
            created_at: iso(relationship.created_at),
        }
    }
}

/// List whom an agent knows, oldest first.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminListRelationships",
    params(("id" = String, Path), Paging),
    responses((status = 200, body = Page<View>), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/agents/{id}/relationships")]
pub(super) async fn list(
    call: Call<Operator, Agent, Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_time::<RelationshipId>(call.query.cursor.as_deref())?.map(|(_, id)| id);
    let agent = call.target.id;
    let read = move |db: &mut Db| {
        let mut found = relationships::page(db, agent, after, rows as i64 + 1)?;
        let more = page::cut(&mut found, rows);
        let names = relationships::names(db, &found)?;
        Ok::<_, Error>((found, more, names, relationships::count_of(db, agent)?))
    };
    let (found, more, mut names, total) = state.store.read(read).await?;
    let next = found.last().filter(|_| more).map(|last| page::time_cursor(last.created_at, last.id));
    let views = found.into_iter().map(|one| {
        let name = names.remove(&one.id).unwrap_or_default();
        View::of(one, name)
    });
    Ok(Listing::of(&req).total(total).page(views.collect(), next))
}

/// Whom an agent is to know: a person or another agent.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewRelationship)]
pub(super) struct New {
    /// A person. Either this or `agent_id`.
    #[schema(value_type = Option<String>)]
    member_id: Option<MemberId>,
    /// Another agent.
    #[schema(value_type = Option<String>)]
    agent_id: Option<AgentId>,
    /// What it is to the agent, 1 to 50 characters.
    #[schema(value_type = String)]
    relation: Relation,
    /// At most 1000 characters; the agent reads it.
    #[schema(value_type = Option<String>)]
    description: Option<Description>,
}

impl New {
    fn known(&self) -> Result<Known, Error> {
        match (self.member_id, self.agent_id) {
            (Some(id), None) => Ok(Known::Member(id)),
            (None, Some(id)) => Ok(Known::Agent(id)),
            (None, None) => {
                let message = "name a person by `member_id`, or another agent by `agent_id`";
                Err(Error::invalid_at("body", "member_id", message, "missing"))
            }
            (Some(_), Some(_)) => {
                Err(Error::invalid("agent_id", "name either a person by `member_id` or an agent by `agent_id`"))
            }
        }
    }
}

/// Let an agent know a person or another agent: it may write to it, and its polls tell of it. The other one knows nothing
/// of it.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateRelationship",
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = View), (status = 404, body = ErrorBody), (status = 409, description = "The agent knows it already", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/agents/{id}/relationships")]
pub(super) async fn create(
    call: Call<Operator, Agent>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/agents/relationships", &call.caller, new.digest);
    let new = new.value;
    let command = AddRelationship {
        agent_id: call.target.id,
        known: new.known()?,
        relation: new.relation.0,
        description: new.description.map(|text| text.0).filter(|text| !text.trim().is_empty()),
        actor: info.actor(&call.caller),
        idem,
        relationships_max: state.config.limits.relationships_per_agent_max,
    };
    let (relationship, name) = state.store.write(command).await?;
    Ok(HttpResponse::Created().json(View::of(relationship, name)))
}

impl Target for Relationship {
    type Path = (String, String);

    async fn find(state: &AppState, _: &Caller, (agent, relationship): Self::Path) -> Result<Self, Error> {
        let (agent_id, id): (AgentId, RelationshipId) = (call::id(&agent)?, call::id_called("rel_id", &relationship)?);
        let read = move |db: &mut Db| Ok::<_, Error>((agents::get(db, agent_id)?, relationships::get(db, id)?));
        let (agent, relationship) = state.store.read(read).await?;
        if agent.is_none() {
            return Err(Error::not_found("agent", agent_id));
        }
        relationship.filter(|one| one.agent_id == agent_id).ok_or_else(|| Error::not_found("relationship", id))
    }
}

/// End a relationship.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveRelationship",
    params(("id" = String, Path), ("rel_id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/agents/{id}/relationships/{rel_id}")]
pub(super) async fn remove(
    call: Call<Operator, Relationship>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RemoveRelationship { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
