//! Sessions of a gateway.
use std::time::Duration;

use actix_web::{HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Changeable, Readable};
use crate::actors::directory::GatewayCard;
use crate::actors::messages::{LinkRequest, UpstreamSession};
use crate::domain::conversation::{Conversation, foreign_session};
use crate::domain::error::Error;
use crate::domain::ids::GatewayId;
use crate::domain::session_key::SessionKey;
use crate::domain::time::iso;
use crate::domain::user::{Caller, Role};
use crate::http::auth::{Member, Viewer};
use crate::http::body::ApiJson;
use crate::http::call::Call;
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::sent;
use crate::http::idempotency::IdempotencyKey;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::audit::Audited;
use crate::store::conversations::{self, DeleteConversation, Listed, NewSession};
use crate::store::sessions::{CreateSession, PatchSession};

/// How long a deletion upstream may take.
const DELETE_WAIT: Duration = Duration::from_secs(15);
/// Longest title in bytes.
const TITLE_BYTES_MAX: usize = 512;
/// Longest name of an agent or a model in bytes.
const NAME_BYTES_MAX: usize = 256;

/// A session. `id` and `created_at` are `null` for one that only the gateway has.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct View {
    id: Option<String>,
    gateway_id: String,
    session_key: String,
    title: Option<String>,
    agent_id: Option<String>,
    model: Option<String>,
    created_at: Option<String>,
    last_activity: Option<String>,
    /// The gateway's own name of it, once it was contacted.
    canonical_key: Option<String>,
    /// `false`: it is on the gateway only, nothing of it is kept here.
    tracked: bool,
    /// Lines after the last one that the caller has read.
    unread: i64,
    /// The ends of its log; `last_seq` is less than `first_seq` while it is empty.
    first_seq: i64,
    last_seq: i64,
    archived: bool,
}

impl From<Listed> for View {
    fn from(Listed { conversation, unread }: Listed) -> Self {
        Self {
            id: Some(conversation.id.to_string()),
            gateway_id: conversation.gateway_id.map(|id| id.to_string()).unwrap_or_default(),
            session_key: conversation.key,
            title: conversation.title,
            agent_id: conversation.agent_id,
            model: conversation.model,
            created_at: Some(iso(conversation.created_at)),
            last_activity: Some(iso(conversation.updated_at)),
            canonical_key: conversation.canonical_key,
            tracked: true,
            unread,
            first_seq: conversation.first_seq,
            last_seq: conversation.last_seq,
            archived: conversation.archived,
        }
    }
}

pub(super) fn untracked(gateway_id: &GatewayId, session: UpstreamSession) -> View {
    View {
        id: None,
        gateway_id: gateway_id.to_string(),
        session_key: session.key.clone(),
        title: session.title,
        agent_id: session.agent_id,
        model: session.model,
        created_at: None,
        last_activity: session.updated_at.map(iso),
        canonical_key: Some(session.key),
        tracked: false,
        unread: 0,
        first_seq: 1,
        last_seq: 0,
        archived: session.archived,
    }
}

/// A session that is to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewSession)]
pub(super) struct New {
    /// Any name up to 512 characters; the gateway makes its own form of it.
    #[schema(value_type = String)]
    session_key: SessionKey,
    title: Option<String>,
    agent_id: Option<String>,
    model: Option<String>,
}

/// Make a session; it is the caller's.
#[utoipa::path(
    tag = "chat",
    operation_id = "createSession",
    params(("gw_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses(
        (status = 200, body = View),
        (status = 400, description = "The session exists", body = ErrorBody),
        (status = 403, description = "It exists on the gateway and was not begun here, so it takes an operator", body = ErrorBody),
        (status = 409, description = "The key is somebody else's", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateways/{gw_id}/sessions")]
pub(super) async fn create(
    call: Call<Member, GatewayCard>,
    state: web::Data<AppState>,
    key: IdempotencyKey,
    body: ApiJson<New>,
) -> Result<HttpResponse, Error> {
    let (caller, gateway_id) = (call.caller, call.target.gateway.id.clone());
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of(&format!("sessions/{gateway_id}"), &caller, new.digest);
    let new = new.value;
    let name = super::name_of(&state, gateway_id.clone(), &new.session_key);
    let command = CreateSession {
        name,
        caller: (*caller).clone(),
        new: NewSession {
            title: bounded("title", new.title, TITLE_BYTES_MAX)?,
            agent_id: bounded("agent_id", new.agent_id, NAME_BYTES_MAX)?,
            model: bounded("model", new.model, NAME_BYTES_MAX)?,
        },
        idem,
    };
    let mut conversation = state.store.write(command).await?;
    if caller.role >= Role::Operator {
        super::touch(&state, &gateway_id, conversation.id);
    } else {
        // What the gateway has of its own is not a member's: the first look tells, and the store takes it back.
        super::contact(&state, &conversation).await;
        let id = conversation.id;
        let found = state.store.read(move |db| conversations::get(db, id)).await?;
        conversation = found.ok_or_else(|| foreign_session(&conversation.key))?;
    }
    Ok(HttpResponse::Ok().json(seen(&state, &caller, conversation).await?))
}

fn bounded(field: &str, text: Option<String>, bytes_max: usize) -> Result<Option<String>, Error> {
    match text {
        Some(text) if text.len() > bytes_max || text.chars().any(char::is_control) => {
            Err(Error::invalid(field, format!("must be at most {bytes_max} bytes of text without control characters")))
        }
        text => Ok(text),
    }
}

/// Adds what the caller has not read.
async fn seen(state: &AppState, caller: &Caller, conversation: Conversation) -> Result<View, Error> {
    let (id, reader) = (conversation.id, caller.party_id);
    let mut listed = state.store.read(move |db| conversations::with_unread(db, vec![conversation], reader)).await?;
    listed.pop().map(View::from).ok_or_else(|| Error::not_found("session", id))
}

/// Read a session. The key may be the one it was made with or the gateway's own.
#[utoipa::path(
    tag = "chat",
    operation_id = "getSession",
    params(("gw_id" = String, Path), ("key" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateways/{gw_id}/sessions/{key}")]
pub(super) async fn get(call: Call<Viewer, Readable>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(seen(&state, &call.caller, call.target.0).await?))
}

/// What may be changed of a session; a field that is not sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = SessionChange)]
pub(super) struct Change {
    /// `null` removes it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    archived: Option<bool>,
}

/// Change the title of a session, or archive it.
#[utoipa::path(
    tag = "chat",
    operation_id = "changeSession",
    params(("gw_id" = String, Path), ("key" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/gateways/{gw_id}/sessions/{key}")]
pub(super) async fn patch(
    call: Call<Member, Changeable>,
    state: web::Data<AppState>,
    body: ApiJson<Change>,
) -> Result<HttpResponse, Error> {
    let change = body.read().await?;
    let title = change.title.map(|title| bounded("title", title, TITLE_BYTES_MAX)).transpose()?;
    let command = PatchSession { id: call.target.0.id, title, archived: change.archived };
    let changed = state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(seen(&state, &call.caller, changed).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// Deletes it on the gateway, too; else only here.
    #[serde(default)]
    upstream: bool,
}

/// Delete a session: what waits in it is cancelled, a running answer is aborted, its messages are gone from here.
#[utoipa::path(
    tag = "chat",
    operation_id = "removeSession",
    params(("gw_id" = String, Path), ("key" = String, Path), Removal),
    responses(
        (status = 200, body = Done),
        (status = 404, body = ErrorBody),
        (status = 502, description = "The gateway refuses to delete it", body = ErrorBody),
        (status = "default", body = ErrorBody),
    )
)]
#[delete("/api/gateways/{gw_id}/sessions/{key}")]
pub(super) async fn remove(
    call: Call<Member, Changeable, Removal>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let Changeable(found) = call.target;
    if let Some(gateway_id) = found.gateway_id.as_ref().filter(|_| call.query.upstream) {
        // First: if the gateway refuses or is down, nothing is deleted, and the call can be repeated.
        let key: SessionKey = found.canonical_key.as_ref().unwrap_or(&found.key).parse()?;
        let key = super::name_of(&state, gateway_id.clone(), &key).canonical;
        state.ask_link(gateway_id, |reply| LinkRequest::DeleteSession { key, reply }, DELETE_WAIT).await?;
    }
    let command = Audited {
        change: DeleteConversation { id: found.id },
        actor: info.actor(&call.caller),
        action: "conversation.delete",
        target: ("conversation", found.id.to_string()),
        shown: |deleted| serde_json::json!({ "gateway_id": deleted.gateway_id, "key": deleted.key }),
    };
    state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
