//! The chat family: gateways, their sessions, and the sessions' messages.
//!
//! Shapes and paths are an ancestor's (`design/api-chat.md`). A caller sees its own sessions, an operator and a viewer
//! all; what is not the caller's does not exist (SEC-2).
mod gateways;
mod messages;
mod session_list;
mod sessions;

pub(super) use messages::Message;

use std::time::Duration;

use utoipa_actix_web::service_config::ServiceConfig;

use super::call::Target;
use super::state::AppState;
use crate::actors::messages::{LinkRequest, ToLink};
use crate::domain::conversation::Conversation;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, GatewayId};
use crate::domain::session_key::SessionKey;
use crate::domain::user::Caller;
use crate::store::conversations::{self, SessionName};

/// Adds the family's routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(gateways::list)
        .service(gateways::create)
        .service(gateways::remove)
        .service(gateways::status)
        .service(session_list::list)
        .service(sessions::create)
        .service(sessions::get)
        .service(sessions::patch)
        .service(sessions::remove)
        .service(messages::list);
}

/// Reads a gateway's id out of a path. What cannot be an id cannot exist.
fn gateway_id(text: &str) -> Result<GatewayId, Error> {
    text.parse().map_err(|_| unknown_gateway())
}

/// The ancestor's words.
fn unknown_gateway() -> Error {
    Error::new(ErrorCode::GatewayNotFound, "Gateway not found")
}

fn unknown_session(key: &str) -> Error {
    Error::not_found("session", key)
}

/// Returns the names that a session may go by here.
fn name_of(state: &AppState, gateway_id: GatewayId, key: &SessionKey) -> SessionName {
    let default_agent = state.directory.gateway(&gateway_id).and_then(|card| card.status.default_agent.clone());
    SessionName::new(gateway_id, key, default_agent.as_deref())
}

/// Finds the session that a path names, if the caller may see it.
async fn find(
    state: &AppState,
    caller: &Caller,
    gateway_id: GatewayId,
    key: &str,
) -> Result<Option<Conversation>, Error> {
    // What cannot be a key names no session.
    let Ok(key) = key.parse::<SessionKey>() else { return Ok(None) };
    let name = name_of(state, gateway_id, &key);
    let found = state.store.read(move |db| conversations::find(db, &name)).await?;
    Ok(found.filter(|found| caller.may_read(found.owner_id)))
}

/// A session that the caller may read.
struct Readable(Conversation);

impl Target for Readable {
    type Path = (String, String);

    async fn find(state: &AppState, caller: &Caller, (gateway, key): Self::Path) -> Result<Self, Error> {
        let found = find(state, caller, gateway_id(&gateway)?, &key).await?;
        found.map(Self).ok_or_else(|| unknown_session(&key))
    }
}

/// A session that the caller may change; one that it may only read does not exist for a change.
struct Changeable(Conversation);

impl Target for Changeable {
    type Path = (String, String);

    async fn find(state: &AppState, caller: &Caller, (gateway, key): Self::Path) -> Result<Self, Error> {
        let found = find(state, caller, gateway_id(&gateway)?, &key).await?;
        let found = found.filter(|found| caller.may_write(found.owner_id));
        found.map(Self).ok_or_else(|| unknown_session(&key))
    }
}

/// How long the first look at a session waits for the gateway's own log, so that a client that asks once gets it.
const CONTACT_WAIT: Duration = Duration::from_secs(3);

/// Has a session that was never looked at contacted first, if its gateway is there.
async fn contact(state: &AppState, conversation: &Conversation) {
    let Some(gateway_id) = &conversation.gateway_id else { return };
    if conversation.upstream.contacted || !state.directory.is_connected(gateway_id) {
        return;
    }
    let conversation_id = conversation.id;
    let touched = state.ask_link(gateway_id, |reply| LinkRequest::Touch { conversation_id, reply }, CONTACT_WAIT).await;
    if let Err(error) = touched {
        let gateway = gateway_id.as_str();
        log::debug!(gateway_id = gateway; "a session of gateway `{gateway}` was not contacted in time: {error}");
    }
}

/// Tells the link that someone opened the session; nobody waits for it.
fn touch(state: &AppState, gateway_id: &GatewayId, conversation_id: ConversationId) {
    let (reply, _) = tokio::sync::oneshot::channel();
    let request = LinkRequest::Touch { conversation_id, reply };
    // A supervisor that is overrun does not hear it; the next look or question contacts the session all the same.
    let _ = state.links.try_send(ToLink { gateway_id: gateway_id.clone(), request });
}
