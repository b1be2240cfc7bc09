//! Who has written on a channel, and letting them in.
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::channel::Channel;
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, MemberId};
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::http::auth::Admin;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::channels::{self, AllowSender, ForgetSender, Sender};

/// Somebody who has written on a channel.
#[derive(Serialize, ToSchema)]
#[schema(as = ChannelSender)]
pub(super) struct View {
    /// Who it is, in the provider's words.
    #[serde(rename = "ref")]
    sender_ref: String,
    name: Option<String>,
    /// The person it is; `null` as long as nobody has let it in.
    member_id: Option<String>,
    first_seen_at: String,
    last_seen_at: String,
    allowed_at: Option<String>,
}

impl From<Sender> for View {
    fn from(sender: Sender) -> Self {
        Self {
            sender_ref: sender.sender_ref,
            name: sender.name,
            member_id: sender.member_id.map(|id| id.to_string()),
            first_seen_at: iso(sender.first_seen_at),
            last_seen_at: iso(sender.last_seen_at),
            allowed_at: sender.allowed_at.map(iso),
        }
    }
}

/// List who has written on a channel, by their refs.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminListChannelSenders",
    params(("id" = String, Path), Paging),
    responses((status = 200, body = Page<View>), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/channels/{id}/senders")]
pub(super) async fn list(
    call: Call<Admin, Channel, Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_name(call.query.cursor.as_deref())?;
    let id = call.target.id;
    let read = move |db: &mut Db| {
        let found = channels::senders(db, id, after.as_deref(), rows as i64 + 1)?;
        Ok::<_, Error>((found, channels::count_senders(db, id)?))
    };
    let (mut found, total) = state.store.read(read).await?;
    let more = page::cut(&mut found, rows);
    let next = found.last().filter(|_| more).map(|last| page::name_cursor(&last.sender_ref));
    Ok(Listing::of(&req).total(total).page(found.into_iter().map(View::from).collect(), next))
}

/// A sender of a channel.
pub(super) struct OfChannel {
    channel_id: ChannelId,
    sender_ref: String,
}

impl Target for OfChannel {
    type Path = (String, String);

    async fn find(state: &AppState, _: &Caller, (channel, sender_ref): Self::Path) -> Result<Self, Error> {
        let channel_id = call::id(&channel)?;
        // PostgreSQL has no NUL in a text, so nobody is called so.
        let wanted = (!sender_ref.contains('\0')).then(|| sender_ref.clone());
        let read = move |db: &mut Db| {
            let channel = channels::get(db, channel_id)?;
            let sender = wanted.map(|wanted| channels::sender(db, channel_id, &wanted)).transpose()?.flatten();
            Ok::<_, Error>((channel, sender))
        };
        match state.store.read(read).await? {
            (None, _) => Err(Error::not_found("channel", channel_id)),
            (Some(_), None) => Err(unknown(&sender_ref)),
            (Some(_), Some(_)) => Ok(Self { channel_id, sender_ref }),
        }
    }
}

fn unknown(sender_ref: &str) -> Error {
    let shown: String = sender_ref.chars().take(64).collect();
    Error::not_found("sender", shown)
}

/// Which person a sender is.
#[derive(Deserialize, ToSchema)]
#[schema(as = AllowedSender)]
pub(super) struct Allow {
    #[schema(value_type = String)]
    member_id: MemberId,
}

/// Let a sender in, as this person: its lines are taken from now on.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminAllowChannelSender",
    params(("id" = String, Path), ("ref" = String, Path)),
    request_body = Allow,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/channels/{id}/senders/{ref}/allow")]
pub(super) async fn allow(
    call: Call<Admin, OfChannel>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Allow>,
) -> Result<HttpResponse, Error> {
    let Allow { member_id } = body.read().await?;
    let OfChannel { channel_id, sender_ref } = call.target;
    let command = AllowSender { channel_id, sender_ref, member_id, actor: info.actor(&call.caller) };
    let sender = state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(View::from(sender)))
}

/// Forget a sender, and that it was let in: what it writes is refused until somebody lets it in again.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminForgetChannelSender",
    params(("id" = String, Path), ("ref" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/channels/{id}/senders/{ref}")]
pub(super) async fn forget(
    call: Call<Admin, OfChannel>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let OfChannel { channel_id, sender_ref } = call.target;
    let command = ForgetSender { channel_id, sender_ref: sender_ref.clone(), actor: info.actor(&call.caller) };
    if !state.store.write(command).await? {
        return Err(unknown(&sender_ref));
    }
    Ok(HttpResponse::Ok().json(Done::OK))
}
