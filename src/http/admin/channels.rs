//! Channels to people, as whoever runs the broker sets them up. Secrets go in and never come out.
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::channel_input::{BaseUrl, Config, Kind, Secrets};
use crate::actors::channels as live;
use crate::channels::setup;
use crate::domain::channel::{Channel, ChannelKind};
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, ChannelId};
use crate::domain::secret::Secret;
use crate::domain::time::iso;
use crate::domain::user::Caller;
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
use crate::store::agents;
use crate::store::channels::{self, AddChannel, ChangeChannel, Changes, RemoveChannel};

/// A channel to people.
#[derive(Serialize, ToSchema)]
#[schema(as = Channel)]
pub(super) struct View {
    id: String,
    /// `feishu`, `telegram`, `whatsapp`, `email` or `webhook`.
    #[schema(value_type = String)]
    kind: ChannelKind,
    name: String,
    /// Whose channel it is: this agent prefers it, and answers who writes there of their own accord.
    agent_id: Option<String>,
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Names of the secrets that are set; never their values.
    secrets: Vec<String>,
    base_url: Option<String>,
    enabled: bool,
    /// What people write there comes in.
    receives: bool,
    /// The path at which its provider calls.
    hook: String,
    /// Messages that wait for it.
    waiting: usize,
    /// It pauses after failures of its provider.
    paused: bool,
    created_at: String,
    updated_at: String,
}

impl View {
    pub(super) fn of(channel: Channel, state: &AppState) -> Self {
        let live = state.directory.channels().get(channel.id);
        let counts = live.as_ref().map(|live| &live.counts);
        Self {
            hook: format!("/hooks/{}", channel.id),
            receives: setup::is_receiving(&channel),
            waiting: counts.map_or(0, |counts| counts.waiting.load(Relaxed)),
            paused: counts.is_some_and(|counts| counts.paused.load(Relaxed)),
            id: channel.id.to_string(),
            kind: channel.kind,
            name: channel.name,
            agent_id: channel.agent_id.map(|id| id.to_string()),
            config: channel.config,
            secrets: channel.secrets,
            base_url: channel.base_url,
            enabled: channel.enabled,
            created_at: iso(channel.created_at),
            updated_at: iso(channel.updated_at),
        }
    }
}

/// List the channels, oldest first.
#[utoipa::path(tag = "admin", operation_id = "adminListChannels", params(Paging), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/channels")]
pub(super) async fn list(
    call: Call<Admin, (), Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_time::<ChannelId>(call.query.cursor.as_deref())?.map(|(_, id)| id);
    let all = state.store.read(channels::list).await?;
    let total = all.len();
    let rest = all.into_iter().filter(|channel| after.is_none_or(|after| channel.id > after));
    let mut rest: Vec<Channel> = rest.take(rows + 1).collect();
    let more = page::cut(&mut rest, rows);
    let next = rest.last().filter(|_| more).map(|last| page::time_cursor(last.created_at, last.id));
    let views = rest.into_iter().map(|channel| View::of(channel, &state)).collect();
    Ok(Listing::of(&req).total(total).page(views, next))
}

/// A channel that is to be set up.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewChannel)]
pub(super) struct New {
    /// `feishu`, `telegram`, `whatsapp`, `email` or `webhook`.
    #[schema(value_type = String)]
    kind: Kind,
    #[schema(value_type = String)]
    name: Name,
    /// Whose channel it is.
    #[schema(value_type = Option<String>)]
    agent_id: Option<AgentId>,
    /// What the kind asks for: `app_id` (feishu), `receive` (telegram), `phone_number_id` (whatsapp), `host`, `port`,
    /// `security`, `from` and `username` (email).
    #[schema(value_type = Option<Object>)]
    config: Option<Config>,
    /// What the kind asks for: `app_secret`, `verification_token`, `encrypt_key` (feishu), `bot_token`, `secret_token`
    /// (telegram), `access_token`, `app_secret`, `verify_token` (whatsapp), `password` (email), `secret` (webhook).
    #[schema(value_type = Option<Object>, write_only)]
    secret: Option<Secrets>,
    /// Where the provider is, if not at its usual place.
    #[schema(value_type = Option<String>)]
    base_url: Option<BaseUrl>,
    enabled: Option<bool>,
}

/// Set a channel up.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateChannel",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = View), (status = 409, description = "There are as many as there may be, or the key was used for something else", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/channels")]
pub(super) async fn create(
    call: Call<Admin>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/channels", &call.caller, new.digest);
    let New { kind, name, agent_id, config, secret, base_url, enabled } = new.value;
    let config = config.map(|config| config.0).unwrap_or_default();
    let given = secret.unwrap_or_default().checked()?;
    let secrets: BTreeMap<String, Secret> =
        given.into_iter().filter_map(|(name, secret)| Some((name, secret?))).collect();
    let base_url = base_url.map(|url| url.0);
    let names: Vec<String> = secrets.keys().cloned().collect();
    setup::check(kind.0, &config, &names, base_url.as_deref())?;
    let command = AddChannel {
        kind: kind.0,
        name: name.0,
        agent_id,
        config,
        secrets,
        base_url,
        enabled: enabled.unwrap_or(true),
        actor: info.actor(&call.caller),
        vault: state.vault.clone(),
        idem,
        channels_max: state.config.channels.channels_max,
    };
    let channel = state.store.write(command).await?;
    refresh(&state, channel.id).await;
    Ok(HttpResponse::Created().json(View::of(channel, &state)))
}

/// Refuses an agent that there is not.
async fn check_agent(state: &AppState, id: Option<AgentId>) -> Result<(), Error> {
    let Some(id) = id else { return Ok(()) };
    let found = state.store.read(move |db| agents::get(db, id)).await?;
    found.map(drop).ok_or_else(|| Error::invalid("agent_id", "there is no such agent"))
}

/// Takes a channel in as it is now. The supervisor does the same when it hears of it; the caller may ask before. It is on
/// disk already, so that a failure here is no failure of the call.
async fn refresh(state: &AppState, id: ChannelId) {
    let (vault, reach) = (state.vault.clone(), live::reach(&state.config.channels));
    let reading = state.directory.channels().begin_reading();
    match state.store.read(move |db| live::load(db, &vault, reach, id)).await {
        Ok(found) => state.directory.set_channel(id, reading, found),
        Err(error) => log::warn!(channel:% = id; "a changed channel is not taken in yet: {}", error.cause()),
    }
}

impl Target for Channel {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| channels::get(db, id)).await?.ok_or_else(|| Error::not_found("channel", id))
    }
}

/// Makes the provider of a channel, whether it is enabled or not.
pub(super) async fn provider(state: &AppState, channel: &Channel) -> Result<setup::Provider, Error> {
    if let Some(live) = state.directory.channels().get(channel.id) {
        return Ok(live.provider.clone());
    }
    let (vault, id) = (state.vault.clone(), channel.id);
    let secrets = state.store.read(move |db| channels::secrets(db, &vault, id)).await?;
    let reach = live::reach(&state.config.channels);
    setup::build(channel.kind, &channel.config, &secrets, channel.base_url.as_deref(), reach)
}

/// Read a channel.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetChannel",
    params(("id" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/channels/{id}")]
pub(super) async fn get(call: Call<Admin, Channel>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(View::of(call.target, &state)))
}

/// What may be changed; a field that is not sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChannelChange)]
pub(super) struct Change {
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    /// `null` takes it from its agent.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    agent_id: Option<Option<AgentId>>,
    /// All of it.
    #[schema(value_type = Option<Object>)]
    config: Option<Config>,
    /// Those that change; `null` removes one.
    #[schema(value_type = Option<Object>, write_only)]
    secret: Option<Secrets>,
    /// `null` for the provider's usual place.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    base_url: Option<Option<BaseUrl>>,
    enabled: Option<bool>,
}

/// Change a channel; what is on its way goes by the old settings, what waits by the new ones.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminChangeChannel",
    params(("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/admin/channels/{id}")]
pub(super) async fn patch(
    call: Call<Admin, Channel>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Change>,
) -> Result<HttpResponse, Error> {
    let before = call.target;
    let Change { name, agent_id, config, secret, base_url, enabled } = body.read().await?;
    let config = config.map(|config| config.0);
    let secrets = secret.unwrap_or_default().checked()?;
    let base_url = base_url.map(|url| url.map(|url| url.0));
    let mut names: Vec<String> = before.secrets.iter().filter(|name| !secrets.contains_key(*name)).cloned().collect();
    names.extend(secrets.iter().filter(|(_, secret)| secret.is_some()).map(|(name, _)| name.clone()));
    let url = base_url.as_ref().map_or(before.base_url.as_deref(), Option::as_deref);
    let after = config.as_ref().unwrap_or(&before.config);
    setup::check(before.kind, after, &names, url)?;
    setup::check_move(&before, after, url, &secrets)?;
    check_agent(&state, agent_id.flatten()).await?;
    let command = ChangeChannel {
        id: before.id,
        changes: Changes { name: name.map(|name| name.0), agent_id, config, secrets, base_url, enabled },
        actor: info.actor(&call.caller),
        vault: state.vault.clone(),
    };
    let channel = state.store.write(command).await?;
    refresh(&state, channel.id).await;
    Ok(HttpResponse::Ok().json(View::of(channel, &state)))
}

/// Remove a channel and its secrets. What was said on it stays; what waits for it is dead.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveChannel",
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/channels/{id}")]
pub(super) async fn remove(
    call: Call<Admin, Channel>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let id = call.target.id;
    state.store.write(RemoveChannel { id, actor: info.actor(&call.caller) }).await?;
    state.directory.remove_channel(id);
    Ok(HttpResponse::Ok().json(Done::OK))
}
