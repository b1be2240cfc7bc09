//! Conversations of any kind.
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::party::PartyView;
use crate::domain::conversation::{Conversation, ConversationKind, agent_of_key};
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, ConversationId, GatewayId, UserId};
use crate::domain::party::PartyKind;
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::domain::wire::message_json;
use crate::http::auth::{Observer, Operator};
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing, Page};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::audit::Audited;
use crate::store::conversations::{self, DeleteConversation, Filter};
use crate::store::mailbox::OpenUserAgent;
use crate::store::messages::{self, Span};
use crate::store::parties;

/// Parties that are shown of one conversation; a session has a handful.
const PARTIES_MAX: i64 = 500;
/// Lines that an export reads at a time.
const EXPORT_ROWS: i64 = 500;
/// Bytes of text that an export holds at a time.
const EXPORT_BYTES: usize = 1 << 20;

/// A conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(super) struct View {
    id: String,
    /// `session`, `agents`, `user_agent`, `native` or `task`.
    kind: &'static str,
    gateway_id: Option<String>,
    key: String,
    canonical_key: Option<String>,
    title: Option<String>,
    /// The gateway's name of its agent, or the id of the agent that the owner talks to.
    agent_id: Option<String>,
    model: Option<String>,
    /// Whose it is: the user who made it, or who talks to an agent in it.
    owner_id: Option<String>,
    archived: bool,
    /// The ends of its log; `last_seq` is less than `first_seq` while it is empty.
    first_seq: i64,
    last_seq: i64,
    messages: i64,
    created_at: String,
    updated_at: String,
    /// The answer that is under way.
    run: Option<Run>,
    /// Who takes part, the gateway among them; only where one conversation is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    parties: Option<Vec<Participant>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Run {
    run_id: String,
    message_id: Option<String>,
    started_at: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Participant {
    #[serde(flatten)]
    party: PartyView,
    /// The last line it has read; `null` for the gateway, which is handed its lines.
    read_seq: Option<i64>,
}

impl View {
    fn of(conversation: &Conversation, state: &AppState) -> Self {
        let agent_id = match conversation.kind {
            ConversationKind::UserAgent => agent_of_key(&conversation.key).map(|id| id.to_string()),
            _ => conversation.agent_id.clone(),
        };
        Self {
            id: conversation.id.to_string(),
            kind: conversation.kind.as_str(),
            gateway_id: conversation.gateway_id.as_ref().map(ToString::to_string),
            key: conversation.key.clone(),
            canonical_key: conversation.canonical_key.clone(),
            title: conversation.title.clone(),
            agent_id,
            model: conversation.model.clone(),
            owner_id: conversation.owner_id.map(|id| id.to_string()),
            archived: conversation.archived,
            first_seq: conversation.first_seq,
            last_seq: conversation.last_seq,
            messages: conversation.last_seq - conversation.first_seq + 1,
            created_at: iso(conversation.created_at),
            updated_at: iso(conversation.updated_at),
            run: state.directory.run(conversation.id).map(|live| Run {
                run_id: live.turn_id.to_string(),
                message_id: live.message_id.map(|id| id.to_string()),
                started_at: iso(live.started_at),
            }),
            parties: None,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// `session`, `agents`, `user_agent`, `native` or `task`.
    kind: Option<String>,
    #[param(value_type = Option<String>)]
    gateway_id: Option<GatewayId>,
    #[param(value_type = Option<String>)]
    owner_id: Option<UserId>,
    archived: Option<bool>,
    /// Words that a line has: all of them, the last letters of each may be missing, words in quotes in this order. Or
    /// part of the key or the title.
    q: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// List conversations, newest activity first.
#[utoipa::path(tag = "admin", operation_id = "adminListConversations", params(Asked), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/conversations")]
pub(super) async fn list(
    call: Call<Observer, (), Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let rows = page::rows(asked.limit, 100, state.config.limits.page_rows_max)?;
    let after = page::after_time::<ConversationId>(asked.cursor.as_deref())?;
    let filter = Filter {
        gateway_id: asked.gateway_id,
        kind: asked.kind.as_deref().map(kind_of).transpose()?,
        owner_id: asked.owner_id,
        archived: asked.archived,
        search: page::search(asked.q.as_deref())?,
        after: None,
    };
    let reader = call.caller.party_id;
    let (mut found, total) = state
        .store
        .read(move |db| {
            let total = conversations::count(db, &filter)?;
            Ok::<_, Error>((conversations::list(db, &Filter { after, ..filter }, reader, rows as i64 + 1)?, total))
        })
        .await?;
    let more = page::cut(&mut found, rows);
    let next =
        found.last().filter(|_| more).map(|last| page::time_cursor(last.conversation.updated_at, last.conversation.id));
    let views = found.iter().map(|listed| View::of(&listed.conversation, &state)).collect();
    Ok(Listing::of(&req).total(total).page(views, next))
}

fn kind_of(text: &str) -> Result<ConversationKind, Error> {
    (0..=16).filter_map(ConversationKind::from_code).find(|kind| kind.as_str() == text).ok_or_else(|| {
        Error::invalid_at(
            "query",
            "kind",
            "must be `session`, `agents`, `user_agent`, `native` or `task`",
            "value_error",
        )
    })
}

/// What a conversation with an agent is made of.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewConversation)]
pub(super) struct New {
    #[schema(value_type = String)]
    agent_id: AgentId,
    /// Who talks to the agent, and whose the conversation is. By default the caller.
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
}

/// Begin a conversation of a user with an agent, or find the one that there is.
///
/// A user has one with each agent, so that a repeat gives the same one. A session on a gateway is made with
/// `POST /api/gateways/{gw_id}/sessions`.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateConversation",
    request_body = New,
    responses(
        (status = 200, description = "It was there already", body = View),
        (status = 201, description = "It was made", body = View),
        (status = 404, description = "There is no such agent, or no such user", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/admin/conversations")]
pub(super) async fn create(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let New { agent_id, user_id } = body.read().await?;
    let command =
        OpenUserAgent { user_id: user_id.unwrap_or(call.caller.user_id), agent_id, actor: info.actor(&call.caller) };
    let (conversation, is_new) = state.store.write(command).await?;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(View::of(&conversation, &state)))
}

/// A conversation that was not deleted.
impl Target for Conversation {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        let found = state.store.read(move |db| conversations::get(db, id)).await?;
        found.ok_or_else(|| Error::not_found("conversation", id))
    }
}

/// Read a conversation and who takes part in it.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetConversation",
    params(("id" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/conversations/{id}")]
pub(super) async fn get(call: Call<Observer, Conversation>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let conversation = call.target;
    let id = conversation.id;
    let gateway = conversation.gateway_id.clone();
    let read = move |db: &mut Db| {
        let gateway = match gateway {
            Some(gateway) => parties::find(db, PartyKind::Gateway, gateway.as_str())?,
            None => None,
        };
        Ok::<_, Error>((gateway, parties::of_conversation(db, id, PARTIES_MAX)?))
    };
    let (own, found) = state.store.read(read).await?;
    let others = found
        .iter()
        .filter(|(party, _)| own.as_ref().is_none_or(|own| own.id != party.id))
        .map(|(party, seq)| Participant { party: party.into(), read_seq: Some(*seq) });
    let own = own.iter().map(|party| Participant { party: party.into(), read_seq: None });
    let parties = others.chain(own).collect();
    Ok(HttpResponse::Ok().json(View { parties: Some(parties), ..View::of(&conversation, &state) }))
}

/// Delete a conversation: what waits in it is cancelled, a running answer is aborted.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveConversation",
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/conversations/{id}")]
pub(super) async fn remove(
    call: Call<Operator, Conversation>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let id = call.target.id;
    let command = Audited {
        change: DeleteConversation { id },
        actor: info.actor(&call.caller),
        action: "conversation.delete",
        target: ("conversation", id.to_string()),
        shown: |deleted| serde_json::json!({ "gateway_id": deleted.gateway_id, "key": deleted.key }),
    };
    state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}

/// The whole log as JSON Lines, one message a line, oldest first.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminExportConversation",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson"),
        (status = 404, body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[get("/api/admin/conversations/{id}/export")]
pub(super) async fn export(
    call: Call<Operator, Conversation>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Error> {
    let conversation = call.target;
    let id = conversation.id;
    let lines = futures_util::stream::try_unfold(
        (state.store.clone(), conversation.first_seq - 1),
        move |(store, after)| async move {
            let lines = store
                .read(move |db| messages::page(db, id, Span::After(after), EXPORT_ROWS, EXPORT_BYTES))
                .await
                // The head has gone out; a broken connection tells the reader that the log is not whole.
                .inspect_err(|error| log::warn!("an export of conversation `{id}` broke off: {error}"))?;
            let Some(last) = lines.last().map(|line| line.seq) else { return Ok::<_, Error>(None) };
            let session_id = id.to_string();
            let mut text = String::new();
            for line in &lines {
                text.push_str(&message_json(line, Some(&session_id)).to_string());
                text.push('\n');
            }
            Ok(Some((Bytes::from(text), (store, last))))
        },
    );
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .insert_header(("content-disposition", format!("attachment; filename=\"conversation-{id}.jsonl\"")))
        .streaming(lines))
}
