//! Members: people who are reached on channels, as whoever runs the broker keeps them.
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::agent_input::AgentName;
use super::member_input::{ChannelId, ChatId, Email, Phone, Webhook, WhatsApp};
use super::users::check_user;
use crate::domain::agent::fold;
use crate::domain::error::Error;
use crate::domain::ids::{MemberId, UserId};
use crate::domain::member::{Addresses, Member};
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::http::auth::Operator;
use crate::http::body::StrictJson;
use crate::http::call::{self, Call, Target};
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::fields::{self, Unknown};
use crate::http::gateway_input::sent;
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::members::{self, AddMember, ChangeMember, Changes, RemoveMember};

/// A person who is reached on channels.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(super) struct View {
    id: String,
    name: String,
    /// The user that this person is, if it signs in as well.
    user_id: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    feishu: Option<FeishuView>,
    telegram_chat_id: Option<String>,
    whatsapp: Option<String>,
    /// All of it: its path or query may hold a secret.
    webhook_url: Option<String>,
    created_at: String,
    updated_at: String,
}

/// A person's ids at Feishu.
#[derive(Serialize, ToSchema)]
#[schema(as = FeishuIds)]
pub(super) struct FeishuView {
    user_id: Option<String>,
    open_id: Option<String>,
}

impl From<Member> for View {
    fn from(member: Member) -> Self {
        let Addresses { email, phone, feishu_user_id, feishu_open_id, telegram_chat_id, whatsapp, webhook_url } =
            member.addresses;
        let has_feishu = feishu_user_id.is_some() || feishu_open_id.is_some();
        Self {
            id: member.id.to_string(),
            name: member.name,
            user_id: member.user_id.map(|id| id.to_string()),
            email,
            phone,
            feishu: has_feishu.then_some(FeishuView { user_id: feishu_user_id, open_id: feishu_open_id }),
            telegram_chat_id,
            whatsapp,
            webhook_url: webhook_url.map(|url| url.as_str().to_owned()),
            created_at: iso(member.created_at),
            updated_at: iso(member.updated_at),
        }
    }
}

/// List the people who are reached on channels, by name.
#[utoipa::path(tag = "admin", operation_id = "adminListMembers", params(Paging), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/members")]
pub(super) async fn list(
    call: Call<Operator, (), Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_named::<MemberId>(call.query.cursor.as_deref())?;
    let read =
        move |db: &mut Db| Ok::<_, Error>((members::page(db, after.as_ref(), rows as i64 + 1)?, members::count(db)?));
    let (mut found, total) = state.store.read(read).await?;
    let more = page::cut(&mut found, rows);
    let next = found.last().filter(|_| more).map(|last| page::named_cursor(&fold(&last.name), last.id));
    Ok(Listing::of(&req).total(total).page(found.into_iter().map(View::from).collect(), next))
}

/// A person who is to be kept.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewMember)]
pub(super) struct New {
    /// 1 to 100 characters; several people may have the same.
    #[schema(value_type = String)]
    name: AgentName,
    /// A user's id, if this person signs in as well.
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    #[schema(value_type = Option<String>)]
    email: Option<Email>,
    #[schema(value_type = Option<String>)]
    phone: Option<Phone>,
    feishu: Option<NewFeishu>,
    /// A number or the name of a channel.
    #[schema(value_type = Option<String>)]
    telegram_chat_id: Option<ChatId>,
    /// An international number of 5 to 15 digits, or an id such as `US.1349`.
    #[schema(value_type = Option<String>)]
    whatsapp: Option<WhatsApp>,
    /// `http://` or `https://`. Of one that holds a secret only operators see all.
    #[schema(value_type = Option<String>)]
    webhook_url: Option<Webhook>,
}

/// A person's ids at Feishu.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewFeishuIds)]
pub(super) struct NewFeishu {
    #[schema(value_type = Option<String>)]
    user_id: Option<ChannelId>,
    #[schema(value_type = Option<String>)]
    open_id: Option<ChannelId>,
}

/// Keep a person, and by what it is reached.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateMember",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses((status = 201, body = View), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/members")]
pub(super) async fn create(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/members", &call.caller, new.digest);
    let (name, user_id, addresses) = new.value.parts();
    check_user(&state, "user_id", user_id).await?;
    let command = AddMember { name, user_id, addresses, actor: info.actor(&call.caller), idem };
    let member = state.store.write(command).await?;
    Ok(HttpResponse::Created().json(View::from(member)))
}

impl New {
    fn parts(self) -> (String, Option<UserId>, Addresses) {
        let Self { name, user_id, email, phone, feishu, telegram_chat_id, whatsapp, webhook_url } = self;
        let (feishu_user_id, feishu_open_id) = feishu.map(|ids| (ids.user_id, ids.open_id)).unwrap_or_default();
        let addresses = Addresses {
            email: email.map(|email| email.0),
            phone: phone.map(|phone| phone.0),
            feishu_user_id: feishu_user_id.map(|id| id.0),
            feishu_open_id: feishu_open_id.map(|id| id.0),
            telegram_chat_id: telegram_chat_id.map(|id| id.0),
            whatsapp: whatsapp.map(|number| number.0),
            webhook_url: webhook_url.map(|webhook| webhook.0),
        };
        (name.0, user_id, addresses)
    }
}

/// Reads name and addresses of a new person from a body, for a command that keeps it without a server.
pub(crate) fn new_of(body: Map<String, Value>) -> Result<(String, Addresses), Error> {
    let (name, _, addresses) = fields::of_object::<New>(body, Unknown::Refused)?.parts();
    Ok((name, addresses))
}

/// Reads what changes of a person from a body, for a command that changes it without a server.
pub(crate) fn changes_of(body: Map<String, Value>) -> Result<Changes, Error> {
    fields::of_object::<Change>(body, Unknown::Refused).map(Changes::from)
}

impl Target for Member {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| members::get(db, id)).await?.ok_or_else(|| Error::not_found("member", id))
    }
}

/// Read a person.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetMember",
    params(("id" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/members/{id}")]
pub(super) async fn get(call: Call<Operator, Member>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(View::from(call.target)))
}

/// What may be changed; a field that is not sent stays as it is, and `null` clears it.
#[derive(Deserialize, ToSchema)]
#[schema(as = MemberChange)]
pub(super) struct Change {
    #[schema(value_type = Option<String>)]
    name: Option<AgentName>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    user_id: Option<Option<UserId>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<Email>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    phone: Option<Option<Phone>>,
    /// `null` clears both ids.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<FeishuChange>)]
    feishu: Option<Option<FeishuChange>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    telegram_chat_id: Option<Option<ChatId>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    whatsapp: Option<Option<WhatsApp>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    webhook_url: Option<Option<Webhook>>,
}

/// What changes of a person's ids at Feishu.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FeishuIdsChange)]
pub(super) struct FeishuChange {
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    user_id: Option<Option<ChannelId>>,
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>)]
    open_id: Option<Option<ChannelId>>,
}

impl From<Change> for Changes {
    fn from(change: Change) -> Self {
        let id = |sent: Option<Option<ChannelId>>| sent.map(|given| given.map(|id| id.0));
        let (feishu_user_id, feishu_open_id) = match change.feishu {
            None => (None, None),
            Some(None) => (Some(None), Some(None)),
            Some(Some(ids)) => (id(ids.user_id), id(ids.open_id)),
        };
        Self {
            name: change.name.map(|name| name.0),
            user_id: change.user_id,
            email: change.email.map(|sent| sent.map(|email| email.0)),
            phone: change.phone.map(|sent| sent.map(|phone| phone.0)),
            feishu_user_id,
            feishu_open_id,
            telegram_chat_id: change.telegram_chat_id.map(|sent| sent.map(|id| id.0)),
            whatsapp: change.whatsapp.map(|sent| sent.map(|number| number.0)),
            webhook_url: change.webhook_url.map(|sent| sent.map(|webhook| webhook.0)),
        }
    }
}

/// Change a person, or by what it is reached.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminChangeMember",
    params(("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/admin/members/{id}")]
pub(super) async fn patch(
    call: Call<Operator, Member>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Change>,
) -> Result<HttpResponse, Error> {
    let change = body.read().await?;
    check_user(&state, "user_id", change.user_id.flatten()).await?;
    let command = ChangeMember { id: call.target.id, changes: change.into(), actor: info.actor(&call.caller) };
    let member = state.store.write(command).await?;
    Ok(HttpResponse::Ok().json(View::from(member)))
}

/// Remove a person: no agent knows it any more, and what it was reached by is forgotten; its lines stay.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveMember",
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/members/{id}")]
pub(super) async fn remove(
    call: Call<Operator, Member>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    state.store.write(RemoveMember { id: call.target.id, actor: info.actor(&call.caller) }).await?;
    Ok(HttpResponse::Ok().json(Done::OK))
}
