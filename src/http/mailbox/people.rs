//! People, as agents reach them: by channels, whose outboxes do the sending.
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::loop_guards;
use crate::actors::channels::reach;
use crate::actors::directory::Directory;
use crate::channels::ssrf;
use crate::domain::agent::AgentFacts;
use crate::domain::channel::ChannelKind;
use crate::domain::delivery::{DeliveryState, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::MessageId;
use crate::domain::member::{Addresses, HUMAN, Member, Way};
use crate::http::openapi;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::channels::{SendToMember, ToMember, letter, unreachable};
use crate::store::deliveries::{self, DeliveryOptions};
use crate::store::messages::Idem;

/// What is said of a message that is too long for its channel.
const CUT: &str = "It is too long for this channel: only its beginning is sent, with `…` at its end.";

/// Returns the channels by which a person can be reached now, the first one first. The one place that decides it.
pub(super) fn channels(state: &AppState, addresses: &Addresses) -> Vec<&'static str> {
    let ways = addresses.ways(&state.directory.channels().usable()).into_iter();
    ways.filter(|way| *way != Way::Webhook || may_be_called(state, addresses)).map(Way::as_str).collect()
}

/// Tells whether webhooks may go to a person's address, as far as that can be said without looking its host up.
fn may_be_called(state: &AppState, addresses: &Addresses) -> bool {
    let url = addresses.webhook_url.as_ref();
    url.is_some_and(|url| ssrf::url(url.as_str(), reach(&state.config.channels)).is_ok())
}

/// What an agent says to a person.
pub(super) struct Said {
    pub(super) text: String,
    /// By which channel, in lower case; nothing if the agent did not say.
    pub(super) channel: String,
    pub(super) idem: Option<Idem>,
    pub(super) in_reply_to: Option<MessageId>,
    pub(super) options: DeliveryOptions,
}

/// What became of a message to a person.
#[derive(Serialize, ToSchema)]
#[schema(as = SentToPerson)]
pub(super) struct Told {
    /// `sent`: the provider has it. `accepted`: it is on disk, and its receipt tells what becomes of it.
    status: &'static str,
    /// The person's name.
    target: String,
    #[serde(rename = "type")]
    #[schema(schema_with = type_of_people)]
    kind: &'static str,
    /// By which kind of channel it goes.
    #[schema(value_type = Option<String>, required)]
    channel: Option<ChannelKind>,
    /// What it means that it was not sent yet, or that not all of it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    message_id: String,
}

/// The one value by which an answer about a person is told from one about an agent.
fn type_of_people() -> Schema {
    openapi::only(HUMAN)
}

/// Writes a message to a person: it is on disk when this returns, and [`told`] says what becomes of it.
pub(super) async fn write(state: &AppState, from: Arc<AgentFacts>, to: &Member, said: Said) -> Result<ToMember, Error> {
    accept(state, from, to, said).await.map_err(|refused| match refused.code() {
        // The sentence is the ancestor's.
        ErrorCode::InvalidRequest => {
            refused.with_details(serde_json::json!({ "channels": channels(state, &to.addresses) }))
        }
        _ => refused,
    })
}

async fn accept(state: &AppState, from: Arc<AgentFacts>, to: &Member, said: Said) -> Result<ToMember, Error> {
    let kind = match said.channel.as_str() {
        "" => None,
        // A channel that there is not reaches nobody; `agent` is said by whoever wants no person.
        name => Some(name.parse::<ChannelKind>().map_err(|_| unreachable_by_none(to))?),
    };
    check_webhook(state, to, kind)?;
    let working = |directory: &Directory| Some(directory.channels().working()).filter(|kinds| !kinds.is_empty());
    let command = SendToMember {
        from,
        to: to.id,
        kind,
        text: said.text,
        idem: said.idem,
        in_reply_to: said.in_reply_to,
        options: said.options,
        queue_max: state.config.channels.queue_max,
        working: Some(state.directory.known(working)?.unwrap_or_default()),
        guards: loop_guards(&state.config),
    };
    state.store.write(command).await
}

/// Refuses what only a webhook could bring that may not be called: it would be dead at once.
fn check_webhook(state: &AppState, to: &Member, kind: Option<ChannelKind>) -> Result<(), Error> {
    if to.addresses.webhook_url.is_none() || may_be_called(state, &to.addresses) {
        return Ok(());
    }
    match kind {
        Some(ChannelKind::Webhook) => Err(unreachable(to, kind)),
        None if channels(state, &to.addresses).is_empty() => Err(unreachable(to, kind)),
        Some(_) | None => Ok(()),
    }
}

/// Tells whether a text may be longer than what some channel carries: 8 parts of Telegram's or WhatsApp's, each at least
/// half full, and the name of who speaks.
pub(super) fn is_long(text: &str) -> bool {
    text.len() > 16_000
}

/// The refusal where the wanted channel is none: nobody has an address for it.
fn unreachable_by_none(person: &Member) -> Error {
    // Not one of Feishu, so the words that are not about it.
    unreachable(person, Some(ChannelKind::Webhook))
}

/// Tells whether only the beginning of a message goes out. Nothing is lost by not knowing it.
async fn is_cut(state: &AppState, sent: &ToMember) -> bool {
    let Some(delivery) = &sent.delivery else { return false };
    let Some(live) = delivery.channel_id.and_then(|id| state.directory.channels().get(id)) else { return false };
    let (channel, id) = (live.channel.clone(), delivery.id);
    let found = state.store.read(move |db: &mut Db| letter(db, &channel, id)).await.ok().flatten();
    found.is_some_and(|found| live.provider.channel().cuts(&found.text))
}

/// Waits a bounded time for what becomes of a message to a person; `long` as [`is_long`] has it.
pub(super) async fn told(state: &AppState, sent: ToMember, long: bool) -> Result<Told, Error> {
    let ended = match &sent.delivery {
        Some(delivery) => {
            let id = delivery.id;
            let told = state.directory.channels().watch(id);
            // It may have ended before anybody watched. The message is on disk, whether this can be read or not.
            let now = state.store.read(move |db| deliveries::get(db, id)).await.ok().flatten();
            let now = now.map(|stored| stored.delivery).filter(|delivery| !delivery.state.is_open());
            let waits_long = delivery.must_wait(state.clock.now_ms());
            match now {
                Some(delivery) => Some((delivery.state, delivery.reason)),
                None if waits_long => None,
                None => {
                    let wait = Duration::from_millis(state.config.channels.send_wait_ms);
                    // Too late, or this node stands by now: it is on disk all the same.
                    let told = tokio::time::timeout(wait, told).await.ok().and_then(Result::ok);
                    told.map(|delivery| (delivery.state, delivery.reason.clone()))
                }
            }
        }
        None => sent.ended.clone(),
    };
    let accepted = |message: String| Told {
        status: "accepted",
        target: sent.target.clone(),
        kind: HUMAN,
        channel: sent.kind,
        message: Some(message),
        message_id: sent.message_id.to_string(),
    };
    let cut = if long && is_cut(state, &sent).await { Some(CUT) } else { None };
    match ended {
        Some((DeliveryState::Completed, _)) => {
            Ok(Told { status: "sent", message: cut.map(str::to_owned), ..accepted(String::new()) })
        }
        Some((DeliveryState::Dead, Some(why))) if why == reason::OUTCOME_UNKNOWN => Ok(accepted(format!(
            "Whether the message to {} arrived is not known, so it is not sent again.",
            sent.target
        ))),
        Some((DeliveryState::Dead, why)) => Err(failed(&sent, why.as_deref().unwrap_or("no reason was given"))),
        Some((DeliveryState::Expired | DeliveryState::Cancelled, _)) => {
            Ok(accepted(format!("The message to {} was not sent; its receipt tells why.", sent.target)))
        }
        Some((DeliveryState::Pending | DeliveryState::Leased, _)) | None => Ok(accepted(format!(
            "Message to {} accepted. GET /api/gateway/messages/{} tells what becomes of it.{}",
            sent.target,
            sent.message_id,
            cut.map(|cut| format!(" {cut}")).unwrap_or_default()
        ))),
    }
}

/// Says that the provider will never take it, in its words.
fn failed(sent: &ToMember, why: &str) -> Error {
    let provider = match sent.kind {
        Some(ChannelKind::Feishu) => "Feishu",
        Some(ChannelKind::Telegram) => "Telegram",
        Some(ChannelKind::WhatsApp) => "WhatsApp",
        Some(ChannelKind::Email) => "Email",
        Some(ChannelKind::Webhook) => "Webhook",
        None => "Channel",
    };
    let begin = format!("{provider} send failed: ");
    let message = if why.starts_with(&begin) { why.to_owned() } else { format!("{begin}{why}") };
    Error::new(ErrorCode::ChannelFailed, message)
        .with_details(serde_json::json!({ "message_id": sent.message_id, "channel": sent.kind }))
}
