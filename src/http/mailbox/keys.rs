//! Keys of agents on the ancestor's paths. There anybody could make one; here it takes an operator.
use actix_web::{HttpResponse, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::agent::{Agent, AgentKind};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::user::Caller;
use crate::http::agent_keys::{self, NewKey};
use crate::http::auth::Operator;
use crate::http::call::{self, Call, Target};
use crate::http::error::ErrorBody;
use crate::http::idempotency::IdempotencyKey;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::agents;

/// An agent that may have keys; no other is found here.
pub(super) struct OpenClaw(Agent);

impl Target for OpenClaw {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        let found = state.store.read(move |db| agents::get(db, id)).await?;
        let found = found.filter(|agent| agent.kind == AgentKind::OpenClaw).map(Self);
        found.ok_or_else(|| Error::new(ErrorCode::NotFound, "OpenClaw agent not found"))
    }
}

/// A key that was made just now.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct Made {
    /// The key itself: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    message: &'static str,
    /// Only on a repeat of the call, `true`: the key was shown the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_shown: Option<bool>,
}

/// Make a key of an agent. Keys that it has go on, so that it can change over in its own time.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "createAgentApiKey",
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Made), (status = "default", body = ErrorBody))
)]
#[post("/api/gateway/agents/{id}/api-key")]
pub(super) async fn api_key(
    call: Call<Operator, OpenClaw>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
) -> Result<HttpResponse, Error> {
    let OpenClaw(agent) = call.target;
    let new = NewKey {
        agent_id: agent.id,
        label: "api-key".to_owned(),
        expires_at: None,
        actor: info.actor(&call.caller),
        idem: key.read()?.of("gateway/api-key", &call.caller, [0; 32]),
    };
    let made = agent_keys::make(&state, new).await?;
    Ok(HttpResponse::Ok().json(match made.secret {
        Some(secret) => Made {
            api_key: Some(secret.reveal().to_owned()),
            message: "Save this key — it won't be shown again.",
            secret_shown: None,
        },
        None => Made {
            api_key: None,
            message: "This key was shown before; if it is lost, make another one.",
            secret_shown: Some(true),
        },
    }))
}

/// Say where keys are made; the ancestor never made one here.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "generateAgentKey",
    params(("id" = String, Path)),
    responses((status = 501, description = "There is another path for it", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/gateway/generate-key/{id}")]
pub(super) async fn generate_key(_call: Call<Operator>) -> Result<HttpResponse, Error> {
    let message = "Use the /agents/{id}/api-key endpoint instead";
    Err(Error::new(ErrorCode::InvalidRequest, message).with_status(501))
}
