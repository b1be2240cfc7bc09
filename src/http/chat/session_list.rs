//! The list of a gateway's sessions: those that are kept here, and for operators those that only the gateway has.
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::sessions::{View, untracked};
use crate::actors::messages::{LinkRequest, UpstreamSession};
use crate::domain::conversation::ConversationKind;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, GatewayId};
use crate::domain::user::{Caller, Role};
use crate::http::auth::Viewer;
use crate::http::call::{Call, Target};
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing};
use crate::http::state::AppState;
use crate::store::conversations::{self, Filter, SessionName};
use crate::store::sessions;

/// How long a list waits for what the gateway itself has.
const UPSTREAM_WAIT: Duration = Duration::from_secs(3);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only archived ones, or only those that are not.
    archived: Option<bool>,
    /// Words that a line has: all of them, the last letters of each may be missing, words in quotes in this order. Or
    /// part of the key or the title.
    q: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    /// From the header `Link` of the page before.
    cursor: Option<String>,
}

/// Where a list goes on: first what is kept here, by activity; then what only the gateway has, by place.
enum Position {
    Tracked(Option<(i64, ConversationId)>),
    Untracked(usize),
}

impl Position {
    fn of(cursor: Option<&str>) -> Result<Self, Error> {
        match page::after_number(cursor) {
            Ok(Some(place)) => Ok(Self::Untracked(usize::try_from(place).unwrap_or(usize::MAX))),
            _ => page::after_time(cursor).map(Self::Tracked),
        }
    }
}

/// List the sessions of a gateway, newest activity first.
///
/// An operator also sees those that only the gateway has (`tracked: false`), after the others.
#[utoipa::path(
    tag = "chat",
    operation_id = "listSessions",
    params(("gw_id" = String, Path), Asked),
    responses((status = 200, body = [View]), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateways/{gw_id}/sessions")]
pub(super) async fn list(
    call: Call<Viewer, WithSessions, Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let Call { caller, target: WithSessions(gateway_id), query: asked, .. } = call;
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(asked.limit, rows_max, rows_max)?;
    let position = Position::of(asked.cursor.as_deref())?;
    let filter = Filter {
        gateway_id: Some(gateway_id.clone()),
        kind: Some(ConversationKind::Session),
        owner_id: (caller.role == Role::Member).then_some(caller.user_id),
        archived: asked.archived,
        search: page::search(asked.q.as_deref())?,
        after: None,
    };
    let (reader, wanted) = (caller.party_id, filter.clone());
    let after = match position {
        Position::Tracked(after) => Some(after),
        Position::Untracked(_) => None,
    };
    let (mut found, mut total) = state
        .store
        .read(move |db| {
            let count = conversations::count(db, &wanted)?;
            let found = match after {
                Some(after) => conversations::list(db, &Filter { after, ..wanted }, reader, rows as i64 + 1)?,
                None => Vec::new(),
            };
            Ok::<_, Error>((found, count))
        })
        .await?;
    let more = page::cut(&mut found, rows);
    let mut next =
        found.last().filter(|_| more).map(|last| page::time_cursor(last.conversation.updated_at, last.conversation.id));
    let mut views: Vec<View> = found.into_iter().map(View::from).collect();
    if caller.role >= Role::Operator {
        let rest = only_upstream(&state, &gateway_id, &filter).await?;
        // Each page tells the same total.
        total += rest.len() as i64;
        if !more {
            let place = if let Position::Untracked(place) = position { place } else { 0 };
            let room = rows - views.len();
            if rest.len() > place.saturating_add(room) {
                next = Some(page::number_cursor((place + room) as i64));
            }
            views.extend(rest.into_iter().skip(place).take(room).map(|session| untracked(&gateway_id, session)));
        }
    }
    Ok(Listing::of(&req).total(total).next("cursor", next.as_deref()).json(&views))
}

/// A gateway that is registered now, or has left sessions behind that the caller may see.
pub(super) struct WithSessions(GatewayId);

impl Target for WithSessions {
    type Path = String;

    async fn find(state: &AppState, caller: &Caller, path: String) -> Result<Self, Error> {
        let gateway_id = super::gateway_id(&path)?;
        if state.directory.known(|directory| directory.gateway(&gateway_id))?.is_some() {
            return Ok(Self(gateway_id));
        }
        let filter = Filter {
            gateway_id: Some(gateway_id.clone()),
            owner_id: (caller.role == Role::Member).then_some(caller.user_id),
            ..Filter::default()
        };
        let reader = caller.party_id;
        let left = state.store.read(move |db| conversations::list(db, &filter, reader, 1)).await?;
        if left.is_empty() { Err(super::unknown_gateway()) } else { Ok(Self(gateway_id)) }
    }
}

/// Asks the gateway for its sessions and leaves out those that are kept here. A gateway that does not answer in time has
/// none to show.
async fn only_upstream(
    state: &AppState,
    gateway_id: &GatewayId,
    filter: &Filter,
) -> Result<Vec<UpstreamSession>, Error> {
    if !state.directory.is_connected(gateway_id) {
        return Ok(Vec::new());
    }
    let sessions = state.ask_link(gateway_id, |reply| LinkRequest::Sessions { reply }, UPSTREAM_WAIT).await;
    let mut sessions = match sessions {
        Ok(sessions) => sessions,
        Err(error) => {
            let gateway = gateway_id.as_str();
            log::debug!(gateway_id = gateway; "gateway `{gateway}` did not list its sessions: {error}");
            return Ok(Vec::new());
        }
    };
    let part = filter.search.as_ref().map(|search| search.text().to_lowercase());
    sessions.retain(|session| {
        let title = session.title.as_deref().unwrap_or_default();
        filter.archived.is_none_or(|wanted| wanted == session.archived)
            && part
                .as_ref()
                .is_none_or(|part| session.key.to_lowercase().contains(part) || title.to_lowercase().contains(part))
    });
    let default_agent = state.directory.gateway(gateway_id).and_then(|card| card.status.default_agent.clone());
    let name =
        |session: &UpstreamSession| SessionName::told(gateway_id.clone(), &session.key, default_agent.as_deref());
    let names: Vec<SessionName> = sessions.iter().map(name).collect();
    let gateway_id = gateway_id.clone();
    let kept = state.store.read(move |db| sessions::kept(db, &gateway_id, &names)).await?;
    sessions.retain(|session| !kept.contains(&session.key));
    Ok(sessions)
}
