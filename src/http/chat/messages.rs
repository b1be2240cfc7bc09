//! The messages of a session.
use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::domain::conversation::Conversation;
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::domain::user::Caller;
use crate::domain::wire::message_json;
use crate::http::auth::Viewer;
use crate::http::call::{Call, Target};
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing};
use crate::http::state::AppState;
use crate::store::conversations;
use crate::store::messages::{self, Span};

/// Lines of a page when the client does not say how many.
const ROWS_DEFAULT: usize = 50;

/// A line of a session, as `domain::wire` builds it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Message {
    id: String,
    session_id: String,
    /// Place in the log; dense. Lines imported from the gateway stand at 0 and below.
    seq: i64,
    /// `user`, `assistant`, `system`, `tool` or `marker`.
    role: String,
    /// Blocks such as `{"type": "text", "text": "…"}`.
    #[schema(value_type = Vec<Object>)]
    content: Vec<Value>,
    /// When it was said, in epoch milliseconds.
    timestamp: i64,
    created_at: String,
    sender: Sender,
    /// Found after lines that were said later.
    late: Option<bool>,
    /// The line that this one takes the place of.
    supersedes: Option<String>,
    /// `request`, `reply` or `notice`; only where an agent or a person is to handle it.
    kind: Option<String>,
    /// The message that it answers, or that led to it. Only with `kind`.
    in_reply_to: Option<String>,
    /// How many requests have followed from each other up to this one. Only with `kind`.
    hops: Option<i32>,
    /// The gateway's sentence when the answer ended in an error.
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Sender {
    /// `user`, `gateway`, `agent`, `member`, `channel` or `system`.
    kind: String,
    id: String,
    name: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// 1 to 500, by default 50.
    #[param(minimum = 1)]
    limit: Option<u32>,
    /// The id of a message: only older ones.
    #[param(value_type = Option<String>)]
    before: Option<String>,
}

/// A session that the caller may read, if there is one.
pub(super) struct Perhaps(Option<Conversation>);

impl Target for Perhaps {
    type Path = (String, String);

    async fn find(state: &AppState, caller: &Caller, (gateway, key): Self::Path) -> Result<Self, Error> {
        let Ok(gateway_id) = gateway.parse() else { return Ok(Self(None)) };
        super::find(state, caller, gateway_id, &key).await.map(Self)
    }
}

/// Read messages of a session, oldest first: the newest ones, or the newest ones before another.
///
/// A session that does not exist, or is not the caller's, has none.
#[utoipa::path(
    tag = "chat",
    operation_id = "listMessages",
    params(("gw_id" = String, Path), ("key" = String, Path), Asked),
    responses((status = 200, body = [Message]), (status = 404, description = "`before` is not of this session", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateways/{gw_id}/sessions/{key}/messages")]
pub(super) async fn list(
    call: Call<Viewer, Perhaps, Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let limits = &state.config.limits;
    let rows = page::rows(asked.limit, ROWS_DEFAULT, limits.page_rows_max)?;
    let before = asked.before.as_deref().map(before_id).transpose()?;
    let Perhaps(Some(found)) = call.target else { return Ok(nothing(&req)) };
    super::contact(&state, &found).await;
    let (id, bytes_max) = (found.id, limits.page_bytes_max);
    let found = state
        .store
        .read(move |db| {
            let span = match before {
                None => Span::Newest,
                Some(before) => match messages::place_of(db, before)? {
                    Some((conversation, seq)) if conversation == id => Span::Before(seq),
                    _ => return Err(Error::not_found("message", before)),
                },
            };
            let Some(conversation) = conversations::get(db, id)? else { return Ok(None) };
            Ok(Some((conversation, messages::page(db, id, span, rows as i64, bytes_max)?)))
        })
        .await?;
    // The first look may have shown that it is not the caller's to use.
    let Some((conversation, lines)) = found else { return Ok(nothing(&req)) };
    let session_id = id.to_string();
    let shown: Vec<Value> = lines.iter().map(|line| message_json(line, Some(&session_id))).collect();
    let older = lines.first().filter(|line| line.seq > conversation.first_seq).map(|line| line.id.to_string());
    let total = conversation.last_seq - conversation.first_seq + 1;
    Ok(Listing::of(&req).total(total).next("before", older.as_deref()).json(&shown))
}

fn before_id(text: &str) -> Result<MessageId, Error> {
    text.parse().map_err(|_| {
        Error::invalid_at("query", "before", "`before` must be the id of a message of this session", "value_error")
    })
}

fn nothing(req: &HttpRequest) -> HttpResponse {
    Listing::of(req).total(0_u64).json(&Vec::<Value>::new())
}
