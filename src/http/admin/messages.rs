//! Messages of any conversation, and their receipts.
use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::deliveries::{Shown, WithRecipient};
use super::party::PartyName;
use crate::domain::conversation::{Conversation, ConversationKind};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, MessageId};
use crate::domain::message::{Block, MessageRole, check_length, plain_text};
use crate::domain::party::{Party, PartyKind};
use crate::domain::wire::message_json;
use crate::http::auth::{Observer, Operator};
use crate::http::body::StrictJson;
use crate::http::call::Call;
use crate::http::chat::Message;
use crate::http::error::ErrorBody;
use crate::http::fields;
use crate::http::idempotency::IdempotencyKey;
use crate::http::mailbox::mail_limits;
use crate::http::page::{self, Listing, Page};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::audit::{Actor, Audited};
use crate::store::chat::{AcceptChat, Accepted};
use crate::store::mailbox::Ask;
use crate::store::messages::{self, Span};
use crate::store::{Command, Db, Store, deliveries};

/// Lines of a page when the caller does not say how many.
const ROWS_DEFAULT: usize = 50;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Lines after this one: a message's id, or its `seq`.
    after: Option<String>,
    /// Lines before this one: a message's id, or its `seq`.
    before: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
}

/// A line, as a caller names it.
enum Place {
    Id(MessageId),
    Seq(i64),
}

impl Place {
    fn of(field: &str, text: &str) -> Result<Self, Error> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Seq(seq));
        }
        text.parse().map(Self::Id).map_err(|_| {
            Error::invalid_at("query", field, format!("`{field}` must be a message's id or its `seq`"), "value_error")
        })
    }

    fn seq(&self, db: &mut Db, conversation: ConversationId) -> Result<i64, Error> {
        match self {
            Self::Seq(seq) => Ok(*seq),
            Self::Id(id) => match messages::place_of(db, *id)? {
                Some((place, seq)) if place == conversation => Ok(seq),
                _ => Err(Error::not_found("message", id)),
            },
        }
    }
}

/// Read the log of a conversation, oldest first: the newest lines, or those before or after another.
///
/// `next` is what to send as `before` for older lines, or as `after` if that was asked for.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminListMessages",
    params(("id" = String, Path), Asked),
    responses((status = 200, body = Page<Message>), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/conversations/{id}/messages")]
pub(super) async fn list(
    call: Call<Observer, Conversation, Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let (conversation, asked) = (call.target, call.query);
    let id = conversation.id;
    let limits = &state.config.limits;
    let rows = page::rows(asked.limit, ROWS_DEFAULT, limits.page_rows_max)?;
    let after = asked.after.as_deref().map(|text| Place::of("after", text)).transpose()?;
    let before = asked.before.as_deref().map(|text| Place::of("before", text)).transpose()?;
    if after.is_some() && before.is_some() {
        return Err(Error::invalid_at(
            "query",
            "after",
            "ask for lines `after` one or `before` one, not both",
            "value_error",
        ));
    }
    let (forward, bytes_max) = (after.is_some(), limits.page_bytes_max);
    let lines = state
        .store
        .read(move |db| {
            let span = match (after, before) {
                (Some(place), _) => Span::After(place.seq(db, id)?),
                (None, Some(place)) => Span::Before(place.seq(db, id)?),
                (None, None) => Span::Newest,
            };
            messages::page(db, id, span, rows as i64, bytes_max)
        })
        .await?;
    let session_id = id.to_string();
    let shown: Vec<Value> = lines.iter().map(|line| message_json(line, Some(&session_id))).collect();
    let end = if forward {
        lines.last().filter(|line| line.seq < conversation.last_seq)
    } else {
        lines.first().filter(|line| line.seq > conversation.first_seq)
    };
    let next = end.map(|line| line.id.to_string());
    let listing = Listing::of(&req)
        .total(conversation.last_seq - conversation.first_seq + 1)
        .next(if forward { "after" } else { "before" }, next.as_deref());
    Ok(listing.json(&Page { items: shown, next }))
}

/// A message that is to be added.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewMessage)]
pub(super) struct New {
    /// A text, or blocks such as `{"type": "text", "text": "…"}`.
    #[schema(value_type = Value)]
    content: Value,
    /// `user` (the default), `assistant`, `system` or `tool`; others than `user` only with `deliver: false`.
    #[schema(value_type = Option<String>)]
    role: Option<MessageRole>,
    /// Who says it, if not the caller: any party that exists, as `kind:id` (for example `user:<id>`), as its UUID, or as
    /// `{kind, id}`. It gives the caller no rights of that party.
    #[schema(value_type = Option<Value>)]
    from: Option<PartyName>,
    /// Whether the gateway or the agent is to answer. `false` only adds the line.
    #[serde(default = "yes")]
    deliver: bool,
}

fn yes() -> bool {
    true
}

/// A message that was accepted, with what it set going.
#[derive(Serialize, ToSchema)]
pub(super) struct AcceptedMessage {
    #[schema(value_type = Message)]
    message: Value,
    deliveries: Vec<Shown>,
}

/// Add a message to a conversation, as the caller or as another party, and have it answered.
///
/// The audit log tells who did it and who is shown as its sender. An `Idempotency-Key` counts for the sender and the
/// conversation. What agents say to each other can only be read.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateMessage",
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses(
        (status = 201, body = AcceptedMessage),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is a conversation of agents, or the key was used for another message", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/admin/conversations/{id}/messages")]
pub(super) async fn create(
    call: Call<Operator, Conversation>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let (caller, conversation) = (call.caller, call.target);
    let id = conversation.id;
    let client_key = key.read()?.plain();
    let new = body.read().await?;
    let text = text_of(new.content, state.config.limits.message_bytes_max)?;
    let role = new.role.unwrap_or(MessageRole::User);
    if role == MessageRole::Marker || (new.deliver && role != MessageRole::User) {
        return Err(Error::invalid(
            "role",
            "must be `user` if it is to be answered; `marker` is never said by anybody",
        ));
    }
    let sender = match new.from {
        Some(name) => Some(sender(&state.store, name, &conversation, new.deliver).await?),
        None => None,
    };
    let (from, line_only) = (sender.map(|party| party.id), (!new.deliver).then_some(role));
    let actor = info.actor(&caller);
    let caller = (*caller).clone();
    let accepted = match conversation.kind {
        ConversationKind::Agents | ConversationKind::AgentMember => return Err(of_agents()),
        ConversationKind::UserAgent => {
            let limits = mail_limits(&state.config);
            let change = Ask { conversation_id: id, caller, from, text, client_key, line_only, limits };
            state.store.write(audited(change, id, actor)).await?
        }
        ConversationKind::Session | ConversationKind::Native | ConversationKind::Task => {
            let gateway = conversation.gateway_id.as_ref();
            let change = AcceptChat {
                conversation_id: id,
                caller,
                from,
                text,
                client_key,
                socket_id: None,
                gateway_up: gateway.is_some_and(|gateway| state.directory.is_connected(gateway)),
                no_queue: false,
                queued_max: state.config.limits.queued_per_session_max,
                line_only,
            };
            state.store.write(audited(change, id, actor)).await?
        }
    };
    let message_id = accepted.line.id;
    let found = state.store.read(move |db| of_message(db, message_id)).await?;
    Ok(HttpResponse::Created().json(AcceptedMessage {
        message: message_json(&accepted.line, Some(&id.to_string())),
        deliveries: found.iter().map(Shown::from).collect(),
    }))
}

/// What was said is in the log of the conversation, not in the audit.
fn audited<C: Command<Output = Accepted>>(change: C, id: ConversationId, actor: Actor) -> Audited<C> {
    Audited {
        change,
        actor,
        action: "message.add",
        target: ("conversation", id.to_string()),
        shown: |accepted| {
            let Accepted { line, repeated, .. } = accepted;
            serde_json::json!({ "message_id": line.id, "sender": line.sender, "repeated": repeated })
        },
    }
}

/// Refuses to speak where two agents do: whoever is to answer there would be answered in the name of the other.
fn of_agents() -> Error {
    let message = "this conversation is between two agents and can only be read; write to one of them in a conversation \
                   of your own, see `POST /api/admin/conversations`";
    Error::new(ErrorCode::InvalidRequest, message).with_status(409)
}

/// Finds who is to be shown as the sender.
async fn sender(store: &Store, name: PartyName, to: &Conversation, deliver: bool) -> Result<Party, Error> {
    let found = store.read(move |db| name.find(db)).await?;
    let party = found.ok_or_else(|| {
        Error::invalid("from", "there is no such party; a user is `user:<id>`, a gateway `gateway:<id>`")
    })?;
    let is_refused = match (to.kind, party.kind) {
        // Its answer would go to that agent's mailbox, out of a conversation that is not its own.
        (ConversationKind::UserAgent, PartyKind::Agent) => true,
        (_, PartyKind::Gateway) => to.gateway_id.as_ref().is_some_and(|id| party.reference == id.to_string()),
        _ => false,
    };
    if deliver && is_refused {
        let message = match party.kind {
            PartyKind::Agent => "no agent is answered in a person's conversation",
            _ => "the gateway cannot answer itself",
        };
        return Err(Error::invalid("from", format!("{message}; add its line with `deliver: false`")));
    }
    Ok(party)
}

/// Reads the text of a message out of a text or of text blocks.
fn text_of(content: Value, bytes_max: usize) -> Result<String, Error> {
    let text = match content {
        Value::String(text) => text,
        Value::Array(blocks) => {
            // What kind of block it is stands in a field of it; a list would be read by its first item.
            if !blocks.iter().all(Value::is_object) {
                let message = "must be a text or a list of blocks: each must be an object";
                return Err(Error::invalid_at("body", "content", message, "type_error"));
            }
            let blocks: Vec<Block> = fields::of_value(Value::Array(blocks))
                .map_err(|error| Error::invalid("content", format!("is not a list of blocks: {error}")))?;
            if blocks.iter().any(|block| !matches!(block, Block::Text { .. })) {
                return Err(Error::invalid("content", "only blocks of text can be sent now"));
            }
            plain_text(&blocks)
        }
        _ => return Err(Error::invalid_at("body", "content", "must be a text or a list of blocks", "type_error")),
    };
    if text.trim().is_empty() {
        return Err(Error::invalid("content", "must not be empty"));
    }
    check_length(&text, bytes_max)?;
    Ok(text)
}

/// Reads the deliveries of a message with their recipients.
pub(super) fn of_message(db: &mut Db, id: MessageId) -> Result<Vec<WithRecipient>, Error> {
    let stored = deliveries::of_message(db, id)?;
    deliveries::with_recipients(db, stored)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::error::ErrorCode;

    #[test]
    fn content_is_a_text_or_blocks_of_text() {
        assert_eq!(text_of(json!("hi"), 10).expect("a text"), "hi");
        assert_eq!(
            text_of(json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]), 10).expect("blocks"),
            "ab"
        );
        for (wrong, code) in [
            (json!(1), ErrorCode::ValidationError),
            (json!(null), ErrorCode::ValidationError),
            (json!(" "), ErrorCode::ValidationError),
            (json!([]), ErrorCode::ValidationError),
            (json!([{ "type": "image", "sha256": "x", "media_type": "y" }]), ErrorCode::ValidationError),
            (json!([{ "type": "other" }]), ErrorCode::ValidationError),
            (json!([["text", "hello"]]), ErrorCode::ValidationError),
            (json!([{ "type": { "text": null }, "text": "hello" }]), ErrorCode::ValidationError),
            (json!("x".repeat(11)), ErrorCode::MessageTooLarge),
        ] {
            assert_eq!(text_of(wrong.clone(), 10).expect_err("refused").code(), code, "{wrong}");
        }
    }
}
