//! The audit log.
use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::error::Error;
use crate::domain::ids::{AuditId, UserId};
use crate::domain::time::iso;
use crate::http::auth::Observer;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing, Page};
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::audit::{self, Filter, Record};

/// Who changed what, from what to what.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditRow)]
pub(super) struct View {
    id: String,
    at: String,
    /// `null` for the broker itself.
    actor_id: Option<String>,
    actor: String,
    /// For example `gateway.change`.
    action: String,
    target_kind: String,
    target: String,
    /// Without secrets.
    #[schema(value_type = Option<Object>)]
    before: Option<serde_json::Value>,
    #[schema(value_type = Option<Object>)]
    after: Option<serde_json::Value>,
    /// Where the call came from.
    address: Option<String>,
    request_id: Option<String>,
}

impl TryFrom<Record> for View {
    type Error = Error;

    fn try_from(row: Record) -> Result<Self, Error> {
        let json = |text: Option<String>| {
            text.map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
        };
        Ok(Self {
            id: AuditId::try_from(row.id.as_slice())?.to_string(),
            at: iso(row.at),
            actor_id: row.actor_id.map(|id| UserId::try_from(id.as_slice()).map(|id| id.to_string())).transpose()?,
            actor: row.actor_name,
            action: row.action,
            target_kind: row.target_kind,
            target: row.target,
            before: json(row.before),
            after: json(row.after),
            address: row.address,
            request_id: row.request_id,
        })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// For example `token.add`.
    action: Option<String>,
    /// The id of what was changed.
    target: Option<String>,
    /// The name of who changed it.
    actor: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Read the audit log, newest first.
#[utoipa::path(tag = "admin", operation_id = "adminListAudit", params(Asked), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/audit")]
pub(super) async fn list(
    call: Call<Observer, (), Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let rows = page::rows(asked.limit, 100, state.config.limits.page_rows_max)?;
    let after = page::after_time::<AuditId>(asked.cursor.as_deref())?;
    let filter = Filter { action: asked.action, target: asked.target, actor: asked.actor, after };
    let read =
        move |db: &mut Db| Ok::<_, Error>((audit::list(db, &filter, rows as i64 + 1)?, audit::count(db, &filter)?));
    let (found, total) = state.store.read(read).await?;
    let mut views = Vec::with_capacity(found.len());
    let mut places = Vec::with_capacity(found.len());
    for row in found {
        places.push(row.at);
        views.push(View::try_from(row)?);
    }
    let more = page::cut(&mut views, rows);
    let next = views.last().zip(places.get(views.len().saturating_sub(1))).filter(|_| more);
    let next = next.map(|(last, at)| page::time_cursor(*at, &last.id));
    Ok(Listing::of(&req).total(total).page(views, next))
}
