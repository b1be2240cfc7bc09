//! Testing a channel: asks its provider who we are, and tells what is wrong.
use std::time::Duration;

use actix_web::{HttpResponse, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::channels::{View, provider};
use crate::actors::channel_outbox::carry::Carrier;
use crate::channels::setup::Provider;
use crate::channels::{Answer, Outcome, Outgoing, Step, email};
use crate::domain::channel::Channel;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, DeliveryId};
use crate::http::auth::Admin;
use crate::http::body::NoBody;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::state::AppState;

/// How long a provider has to answer.
const TEST_WAIT: Duration = Duration::from_secs(10);

/// What came of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = ChannelTest)]
pub(super) struct Tested {
    /// Whether the provider knows us.
    ok: bool,
    /// What is wrong, or what was not asked.
    message: Option<String>,
    channel: View,
}

/// Ask the provider for a token, or who we are, and tell what is wrong. Nobody is written to.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminTestChannel",
    params(("id" = String, Path)),
    responses((status = 200, body = Tested), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/channels/{id}/test")]
pub(super) async fn test(
    call: Call<Admin, Channel>,
    state: web::Data<AppState>,
    body: NoBody,
) -> Result<HttpResponse, Error> {
    body.check().await?;
    let asked = match provider(&state, &call.target).await {
        Ok(provider) => ask(&provider).await,
        // The key that sealed them is lost.
        Err(error) if error.is_unreadable() => Err("its secrets cannot be opened: give all of them anew".to_owned()),
        Err(error) => return Err(error),
    };
    let (ok, message) = match asked {
        Ok(message) => (true, message),
        Err(why) => (false, Some(why)),
    };
    Ok(HttpResponse::Ok().json(Tested { ok, message, channel: View::of(call.target, &state) }))
}

/// Asks a provider; returns what was not asked, or what is wrong.
async fn ask(provider: &Provider) -> Result<Option<String>, String> {
    let (channel, carrier) = (provider.channel(), Carrier::new(TEST_WAIT));
    if let Some(request) = channel.token_request() {
        let answer = carrier.http(request, None).await;
        return provider.token(&answer).map(|_| None).map_err(why);
    }
    if let Some(request) = provider.who_am_i() {
        let answer = carrier.http(request, None).await;
        if matches!(&answer, Answer::Http(answer) if (200..300).contains(&answer.status)) {
            return Ok(None);
        }
        // The provider's words are read as in an answer to a message.
        let nobody = Outgoing {
            id: DeliveryId::new(),
            to: &[],
            text: "",
            from: "",
            subject: "",
            conversation_id: ConversationId::new(),
            created_at: 0,
            now_ms: 0,
            reply_to: None,
        };
        return Err(why(provider.outcome(&nobody, Step::default(), None, &answer)));
    }
    match provider {
        Provider::Email(email) => {
            let greeted = email::greet(email, TEST_WAIT).await;
            greeted.map(|()| None).map_err(|why| provider.without_secrets(&why))
        }
        _ => Ok(Some("a webhook's recipients have addresses of their own: nobody was asked".to_owned())),
    }
}

fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::Sent { .. } => String::new(),
        Outcome::Retry { why, .. }
        | Outcome::RenewToken { why }
        | Outcome::NextAddress { why }
        | Outcome::Permanent { why }
        | Outcome::Unknown { why } => why,
    }
}
