//! The guide for setting an agent up: a skill file that a language model can follow, made out for the agent that asks.
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{CACHE_CONTROL, HOST};
use actix_web::{FromRequest, HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::agent::AgentFacts;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::AgentId;
use crate::domain::secret::Secret;
use crate::http::auth::{self, AGENT_KEY};
use crate::http::error::ErrorBody;
use crate::http::request::state_of;
use crate::http::{body, call};

/// The skill; `{{skill}}`, `{{agent}}`, `{{id}}`, `{{url}}`, `{{key}}`, `{{held_s}}` and `{{hops}}` are filled in.
const SKILL: &str = include_str!("skill.md");
/// What stands for the key where the text is not to have it.
const KEY_FROM_ENV: &str = "$CLAWBROKER_API_KEY";
/// Says that a proxy before us speaks TLS.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// What the skill is called: `clawith_sync` (the default, which agents of the ancestor have) or `clawbroker_sync`.
    #[param(value_type = Option<String>)]
    name: Option<SkillName>,
    /// `env`: the key does not stand in the text; the agent takes it from `$CLAWBROKER_API_KEY` into its file.
    #[param(value_type = Option<String>)]
    key: Option<KeyFrom>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SkillName {
    #[default]
    ClawithSync,
    ClawbrokerSync,
}

impl SkillName {
    fn as_str(self) -> &'static str {
        match self {
            Self::ClawithSync => "clawith_sync",
            Self::ClawbrokerSync => "clawbroker_sync",
        }
    }

    /// Returns what the agent's owner calls the server.
    fn platform(self) -> &'static str {
        match self {
            Self::ClawithSync => "Clawith",
            Self::ClawbrokerSync => "clawbroker",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeyFrom {
    Env,
}

/// A call for the guide of the agent whose key it carries. It is checked in the order of every call (`call.rs`): the
/// key, what the path names, then the rest of the head.
pub(super) struct GuideCall {
    agent: Arc<AgentFacts>,
    /// The key that the caller sent; it counts.
    key: Secret,
    url: String,
    query: Asked,
    /// How long a message may be held in all, in seconds.
    held_s: u32,
    /// Requests that may follow from each other; 0 for any number.
    hops_max: u32,
}

impl GuideCall {
    fn of(req: &HttpRequest) -> Result<Self, Error> {
        let agent = auth::authenticate_agent(req)?.agent.clone();
        let id: AgentId = call::id(&body::path::<String>(req)?)?;
        if id != agent.id {
            // The same words whether there is such an agent or not.
            return Err(Error::new(ErrorCode::Forbidden, "Key does not match this agent"));
        }
        let query = call::rest_of_head(req)?;
        let sent = req.headers().get(AGENT_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let settings = &state_of(req)?.config.mailbox;
        Ok(Self {
            agent,
            key: Secret::new(sent),
            url: base_url(req)?,
            query,
            held_s: settings.lease_total_max_s,
            hops_max: settings.hops_max,
        })
    }
}

impl FromRequest for GuideCall {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req))
    }
}

/// Returns where the caller reaches us, without a slash at the end: as the settings say, else as it has reached us now.
fn base_url(req: &HttpRequest) -> Result<String, Error> {
    if let Some(url) = &state_of(req)?.config.app.public_url {
        return Ok(url.as_str().to_owned());
    }
    // The host is one that we answer for: that was checked before.
    let host = req.headers().get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let host = host.map_or_else(|| req.app_config().local_addr().to_string(), str::to_owned);
    // If it were forgotten, the key would go in the clear to a proxy that wants it sealed.
    let proto = req.headers().get(FORWARDED_PROTO).and_then(|proto| proto.to_str().ok());
    // Of several proxies the first is the one that the caller speaks to.
    let first = proto.and_then(|proto| proto.split(',').next()).map(str::trim);
    let scheme = if first.is_some_and(|proto| proto.eq_ignore_ascii_case("https")) { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}

/// What an agent needs to know to use its mailbox.
#[derive(Serialize, ToSchema)]
#[schema(as = SetupGuide)]
pub(super) struct Guide {
    skill_filename: String,
    /// The skill, as Markdown with front matter. Unless `key=env` was asked for, the key stands in it.
    skill_content: String,
    /// A line for the list of things that the agent does in each of its heartbeats.
    heartbeat_addition: String,
}

/// Get a skill file for an agent, made out for the key that asks: it tells a language model how to poll, report and
/// send, and what to do when a call is refused.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "agentSetupGuide",
    security(("agentKey" = [])),
    params(("id" = String, Path, description = "The agent's own id"), Asked),
    responses(
        (status = 200, body = Guide),
        (status = 403, description = "The key is another agent's, or there is no such agent", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[get("/api/gateway/setup-guide/{id}")]
pub(super) async fn setup_guide(call: GuideCall) -> HttpResponse {
    let name = call.query.name.unwrap_or_default();
    let key = if call.query.key == Some(KeyFrom::Env) { KEY_FROM_ENV } else { call.key.reveal() };
    let (agent, id) = (in_a_line(&call.agent.name), call.agent.id.to_string());
    let (held_s, hops) = (call.held_s.to_string(), hops(call.hops_max));
    let skill_content = filled(SKILL, |place| match place {
        "skill" => name.as_str(),
        "agent" => agent.as_str(),
        "id" => id.as_str(),
        "url" => call.url.as_str(),
        "key" => key,
        "held_s" => held_s.as_str(),
        "hops" => hops.as_str(),
        _ => "",
    });
    let guide = Guide {
        skill_filename: format!("{}.md", name.as_str()),
        skill_content,
        heartbeat_addition: format!(
            "- Check {} inbox using the {} skill and process any pending messages",
            name.platform(),
            name.as_str()
        ),
    };
    // A key stands in it: nobody on the way keeps a copy.
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(guide)
}

/// Says how often a matter may be passed on.
fn hops(max: u32) -> String {
    if max == 0 { "here there is no bound.".to_owned() } else { format!("more than {max} are refused.") }
}

/// Fills the places of a template, `{{…}}`, in one pass: what is filled in is not looked at again.
fn filled<'a>(template: &'a str, of: impl Fn(&'a str) -> &'a str) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (place, rest) = part.split_once("}}").unwrap_or(("", part));
        text.push_str(of(place));
        text.push_str(rest);
    }
    text
}

/// Makes a name safe to stand between backticks in a line: whatever breaks lines becomes a space, backticks go.
fn in_a_line(name: &str) -> String {
    let breaks = |c: char| c.is_control() || c.is_whitespace();
    name.replace('`', "'").split(breaks).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let text = filled("a {{x}} b {{y}}{{x}}.", |place| if place == "x" { "{{y}}" } else { "2" });
        assert_eq!(text, "a {{y}} b 2{{y}}.");
        assert_eq!(filled("nothing", |_| "x"), "nothing");
    }

    #[test]
    fn the_template_has_no_place_that_nobody_fills() {
        let known = ["skill", "agent", "id", "url", "key", "held_s", "hops"];
        let mut places: Vec<&str> = SKILL.split("{{").skip(1).filter_map(|part| part.split("}}").next()).collect();
        assert!(places.len() > 20, "{places:?}");
        places.retain(|place| !known.contains(place));
        assert_eq!(places, [] as [&str; 0]);
    }

    #[test]
    fn a_name_breaks_neither_its_line_nor_its_frame() {
        for (name, shown) in [
            ("Ann", "Ann"),
            ("Ann\n---\nname: evil", "Ann --- name: evil"),
            ("a\u{2028}b\u{85}c\r\nd\te", "a b c d e"),
            ("`rm -rf`  x", "'rm -rf' x"),
        ] {
            assert_eq!(in_a_line(name), shown);
        }
    }
}
