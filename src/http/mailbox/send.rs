//! Sending: an agent writes to another one, or to a person.
use std::sync::Arc;

use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, Schema, Type};

use super::key::KeyCall;
use super::options::Wishes;
use super::people::{self, Said, Told};
use super::target::{self, Asker, Meant};
use super::{loop_guards, mail_limits};
use crate::actors::agents::Name;
use crate::domain::agent::{AgentFacts, KeyFacts};
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::domain::message::check_length;
use crate::http::body::{ApiJson, Received};
use crate::http::error::ErrorBody;
use crate::http::idempotency::{IdempotencyKey, Key};
use crate::http::openapi;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::channels::ToMember;
use crate::store::mailbox::{self, SendMessage, sent_before};
use crate::store::messages::Idem;

/// The field that may carry the sender's key.
pub(super) const KEY_FIELD: &str = "message_id";
/// What agents call the kind of an agent that they write to.
const AGENT: &str = "openclaw_agent";

/// A message that is to be sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessageToSend)]
pub(super) struct New {
    /// An agent: its id, its slug, its name, or a part of its name that no other has. Or a person whom the sender knows.
    #[schema(min_length = 1)]
    target: String,
    #[schema(min_length = 1)]
    content: String,
    /// By which way: `agent`, or a channel to people. Without one agents are looked for first.
    channel: Option<String>,
    /// The sender's own key for it: the same message with the same key is sent once. As `Idempotency-Key`.
    #[schema(min_length = 1, max_length = 255)]
    message_id: Option<String>,
    /// The message that led to it: one that the sender wrote or was sent.
    #[schema(value_type = Option<String>)]
    in_reply_to: Option<MessageId>,
    /// How long it may wait to be handed out, from when it may be; then it expires, and its sender gets a `notice`.
    #[schema(minimum = 1, maximum = 31536000)]
    ttl_seconds: Option<i64>,
    /// Not before this time.
    #[schema(schema_with = time_or_number)]
    deliver_at: Option<Value>,
    /// Of what may be handed out the highest goes first. Default 0.
    #[schema(minimum = 0, maximum = 2)]
    priority: Option<i64>,
    /// It takes the place of what the same sender sent to the same target with the same key, if that still waits.
    #[schema(min_length = 1, max_length = 128)]
    coalesce_key: Option<String>,
}

fn time_or_number() -> Schema {
    let text = "Not before this time: ISO-8601, or epoch milliseconds. At most a year ahead; the past is now.";
    let kinds = SchemaType::from_iter([Type::String, Type::Integer, Type::Null]);
    Schema::Object(ObjectBuilder::new().schema_type(kinds).description(Some(text)).build())
}

/// That a message is on disk and waits for its recipient.
#[derive(Serialize, ToSchema)]
#[schema(as = SentMessage)]
pub(super) struct Accepted {
    status: &'static str,
    /// The recipient's name.
    target: String,
    #[serde(rename = "type")]
    #[schema(schema_with = type_of_agents)]
    kind: &'static str,
    message: String,
    message_id: String,
}

/// The one value by which an answer about an agent is told from one about a person.
fn type_of_agents() -> Schema {
    openapi::only(AGENT)
}

/// What came of a message: to an agent, or to a person. Their `type` tells which.
#[derive(Serialize, ToSchema)]
#[schema(as = SentTo)]
#[serde(untagged)]
pub(super) enum Answer {
    Agent(Accepted),
    Person(Told),
}

/// Write to another agent, or to a person. An agent's answer comes as a message of the kind `reply`, a person's as a
/// `request`, by a poll.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "sendMessage",
    security(("agentKey" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses(
        (status = 200, body = Answer),
        (status = 404, body = ErrorBody),
        (status = 409, description = "The target may mean several, or the key was used for another message", body = ErrorBody),
        (status = 502, description = "The channel's provider will not take it", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/send-message")]
pub(super) async fn send_message(
    call: KeyCall,
    state: web::Data<AppState>,
    key: IdempotencyKey,
    body: ApiJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let received = body.receive_but(KEY_FIELD).await?;
    let answer = match write(&state, &call.key, key, received).await? {
        Written::Answer(answer) => answer,
        Written::ToPerson { sent, long } => people::told(&state, *sent, long).await.map(Answer::Person)?,
    };
    Ok(HttpResponse::Ok().json(answer))
}

/// What came of a message when it is on disk.
pub(super) enum Written {
    Answer(Answer),
    /// What becomes of it is still to be [`told`](people::told): the message, and whether it is long as
    /// [`is_long`](people::is_long) has it.
    ToPerson {
        sent: Box<ToMember>,
        long: bool,
    },
}

/// Writes a message, whichever way it came; `key` is the sender's for it, where it does not stand in the message.
pub(super) async fn write(
    state: &AppState,
    by: &KeyFacts,
    key: Key,
    received: Received<New>,
) -> Result<Written, Error> {
    let hash = received.digest;
    let New { target, content, channel, message_id, in_reply_to, ttl_seconds, deliver_at, priority, coalesce_key } =
        received.value;
    let (target, text) = (stripped("target", &target)?, stripped("content", &content)?);
    check_length(&text, state.config.limits.message_bytes_max)?;
    let wishes = Wishes { ttl_seconds, deliver_at, priority, coalesce_key };
    let options = wishes.checked(state.clock.now_ms(), &state.config.mailbox)?;
    let idem = key.plain_or(KEY_FIELD, message_id)?.map(|key| Idem { key, hash });
    let channel = channel.unwrap_or_default().trim().to_lowercase();
    let by_channel = channel.clone();
    let asker = Asker { id: by.agent.id, reach: state.config.mailbox.reach, channel };
    let sent = match before(state, &by.agent, idem.as_ref(), asker, &target).await? {
        Before::Sent(mailbox::Before::ToAgent(sent)) => sent,
        Before::Sent(mailbox::Before::ToMember(sent)) => {
            return Ok(Written::ToPerson { sent, long: people::is_long(&text) });
        }
        Before::For(Meant::Several(choices)) => return Err(target::several(&target, &choices)),
        Before::For(Meant::Person(person)) => {
            let long = people::is_long(&text);
            let said = Said { text, channel: by_channel, idem, in_reply_to, options };
            let sent = people::write(state, by.agent.clone(), &person, said).await?;
            return Ok(Written::ToPerson { sent: Box::new(sent), long });
        }
        Before::For(Meant::Nobody) => return Err(target::nobody(&target)),
        Before::For(Meant::One(to)) => {
            let command = SendMessage {
                from: by.agent.clone(),
                to,
                text,
                idem,
                in_reply_to,
                options,
                limits: mail_limits(&state.config),
                guards: loop_guards(&state.config),
            };
            state.store.write(command).await?
        }
    };
    Ok(Written::Answer(Answer::Agent(Accepted {
        status: "accepted",
        kind: AGENT,
        message: format!("Message sent to {}. Reply will appear in your next poll.", sent.target),
        target: sent.target,
        message_id: sent.line.id.to_string(),
    })))
}

/// What is known of a message before it is written.
enum Before {
    /// It was sent already.
    Sent(mailbox::Before),
    For(Meant),
}

/// Finds out what is known of a message. That a plain name means an agent is kept in memory.
async fn before(
    state: &AppState,
    sender: &Arc<AgentFacts>,
    idem: Option<&Idem>,
    asker: Asker,
    target: &str,
) -> Result<Before, Error> {
    let named = state.directory.agents().named();
    let name = Name { asker: asker.id, channel: asker.channel.clone(), text: target.to_owned() };
    // What was committed and told nobody may have changed it.
    let is_sure = state.is_store_sure();
    let changes = match named.get(&name) {
        Ok(agent) if idem.is_none() && is_sure => return Ok(Before::For(Meant::One(agent))),
        Ok(_) => None,
        Err(changes) => Some(changes),
    };
    let (sender, idem, text) = (sender.clone(), idem.cloned(), target.to_owned());
    let found = state.store.read(move |db| look_up(db, &sender, idem.as_ref(), &asker, &text)).await?;
    if let (Before::For(Meant::One(agent)), Some(changes)) = (&found, changes) {
        named.keep(name, *agent, changes);
    }
    Ok(found)
}

/// Looks up the sender's key first: a repeat is answered as the first time, whomever the name means by now (D10).
fn look_up(
    db: &mut Db,
    sender: &AgentFacts,
    idem: Option<&Idem>,
    asker: &Asker,
    target: &str,
) -> Result<Before, Error> {
    if let Some(idem) = idem
        && let Some(sent) = sent_before(db, sender.party_id, idem)?
    {
        return Ok(Before::Sent(sent));
    }
    target::find(db, asker, target).map(Before::For)
}

/// Takes the space around a text away; nothing must not be left.
fn stripped(field: &str, text: &str) -> Result<String, Error> {
    match text.trim() {
        "" => Err(Error::invalid(field, format!("`{field}` must not be empty"))),
        text => Ok(text.to_owned()),
    }
}
