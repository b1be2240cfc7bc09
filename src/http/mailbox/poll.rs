//! Polls: an agent gets its messages, each leased to it for a while.
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asking::{self, Polled};
use super::handed_out::HandedOut;
use super::key::KeyCall;
use super::message::{self, Message, Room};
use super::{lease_s, related, within};
use crate::actors::agent_mailbox::{Ask, Related};
use crate::config::MailboxConfig;
use crate::domain::agent::{AgentState, KeyFacts, LEASE_S};
use crate::domain::error::Error;
use crate::http::error::ErrorBody;
use crate::http::page;
use crate::http::request::Waits;
use crate::http::state::AppState;

/// Fewest bytes of text that a poll may allow; one message always comes.
const BYTES_MIN: i64 = 1_024;
/// Longest wait, in seconds, and most messages that a poll may ask for; the settings may give less.
const WAIT_MAX_S: u32 = 60;
const ROWS_MAX: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Seconds to wait for a message if none is there.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u32>,
    /// Messages at most.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Bytes of text at most, with the lines before the messages; one message always comes.
    #[param(minimum = 1024)]
    max_bytes: Option<i64>,
    /// Seconds for which the messages are not handed out again.
    #[param(minimum = 10, maximum = 43200)]
    lease: Option<u32>,
    /// `explicit`: replies and notices stay leased, too.
    #[param(value_type = Option<String>)]
    ack: Option<Ack>,
    /// The version of the relationships that the caller has; they are left out if it is the newest.
    relationships: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ack {
    Explicit,
}

/// What a poll brings.
#[derive(Serialize, ToSchema)]
#[schema(as = Poll)]
pub(super) struct Answer {
    messages: Vec<Message>,
    /// Whom the agent is related to. Left out if the caller has the newest version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<related::View>>)]
    relationships: Option<Arc<Related>>,
    relationships_version: String,
    /// How many more could be polled now.
    remaining: usize,
    /// The agent gets nothing until an operator says otherwise.
    paused: bool,
}

impl Asked {
    /// Reads what the mailbox is asked for, and for how long the caller waits.
    fn ask(&self, key: &KeyFacts, config: &MailboxConfig) -> Result<(Ask, Duration), Error> {
        let wait = within("query", "wait", self.wait, 0..=WAIT_MAX_S)?.unwrap_or(0).min(config.poll_wait_max_s);
        let rows = page::rows(self.limit, config.poll_rows_default, ROWS_MAX)?;
        let bytes = within("query", "max_bytes", self.max_bytes, BYTES_MIN..=i64::MAX)?;
        let asked = within("query", "lease", self.lease, config.lease_min_s..=*LEASE_S.end())?;
        let lease_s = lease_s(asked, &key.agent, config);
        let ask = Ask {
            key_id: key.key_id,
            rows: rows.min(config.poll_rows_max),
            bytes: bytes.map_or(config.poll_bytes_max, |bytes| {
                config.poll_bytes_max.min(usize::try_from(bytes).unwrap_or(usize::MAX))
            }),
            lease_ms: i64::from(lease_s) * 1_000,
            waits: wait > 0,
            explicit_ack: self.ack == Some(Ack::Explicit),
        };
        Ok((ask, Duration::from_secs(u64::from(wait))))
    }
}

/// How a socket wants its messages.
#[derive(Deserialize)]
pub(super) struct Window {
    /// Messages that may be out at a time.
    window: u32,
    lease: Option<u32>,
    ack: Option<Ack>,
}

impl Window {
    /// Reads what the mailbox is asked for whenever a place is free; its rows are all the places.
    pub(super) fn ask(&self, key: &KeyFacts, config: &MailboxConfig) -> Result<Ask, Error> {
        within("body", "window", Some(self.window), 1..=ROWS_MAX as u32)?;
        let asked = Asked {
            wait: None,
            limit: Some(self.window),
            max_bytes: None,
            lease: self.lease,
            ack: self.ack,
            relationships: None,
        };
        let (ask, _) = asked.ask(key, config).map_err(|error| error.at("body"))?;
        Ok(Ask { waits: true, ..ask })
    }
}

/// Get the messages that wait for an agent, each leased to it: while the lease lasts it is not handed out again.
///
/// A `request` is done when it was reported on; when its lease ends before, it comes again with the next
/// `delivery_attempt`. A `reply` or a `notice` is done when it was handed out, unless `ack=explicit`. A paused agent gets
/// nothing.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "pollMessages",
    security(("agentKey" = [])),
    params(Asked),
    responses((status = 200, body = Answer), (status = 507, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateway/poll", guard = "crate::http::request::is_whole")]
pub(super) async fn poll(
    call: KeyCall<Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let (agent, asked) = (&call.key.agent, &call.query);
    let config = &state.config.mailbox;
    let (ask, wait) = asked.ask(&call.key, config)?;
    if ask.waits {
        req.extensions_mut().insert(Waits);
    }
    // First: what is handed out must not come back because this cannot be read.
    let known = related::of(&state, agent).await?;
    let polled = if agent.state != AgentState::Running && !ask.waits {
        Polled { handed_out: None, remaining: 0, is_paused: true }
    } else {
        asking::poll(&state, agent, ask, wait).await?
    };
    // They may have changed while the caller waited.
    let known = if ask.waits { related::of(&state, agent).await.unwrap_or(known) } else { known };
    let Polled { handed_out, remaining, is_paused } = polled;
    let answer = |messages: Vec<Message>| Answer {
        messages,
        relationships: (asked.relationships.as_ref() != Some(&known.version)).then(|| known.clone()),
        relationships_version: known.version.clone(),
        remaining,
        paused: is_paused,
    };
    let Some((leased, ticket)) = handed_out else {
        return Ok(HttpResponse::Ok().json(answer(Vec::new())));
    };
    let room = Room { lines: config.history_lines, line_bytes: config.history_bytes_max, bytes: ask.bytes };
    let messages = message::shown(&state, agent.party_id, &leased, room).await;
    let bytes = serde_json::to_vec(&answer(messages)).map_err(Error::internal)?;
    let body = HandedOut::new(bytes, move || ticket.taken());
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::agent::{AgentFacts, AgentKind};
    use crate::domain::ids::{AgentId, AgentKeyId, PartyId};

    fn key(lease_seconds: Option<i32>) -> KeyFacts {
        let agent = AgentFacts {
            id: AgentId::new(),
            party_id: PartyId::new(),
            name: "ann".into(),
            kind: AgentKind::OpenClaw,
            state: AgentState::Running,
            lease_seconds,
            attempts_max: None,
        };
        KeyFacts { key_id: AgentKeyId::new(), agent: Arc::new(agent), expires_at: None }
    }

    fn asked() -> Asked {
        Asked { wait: None, limit: None, max_bytes: None, lease: None, ack: None, relationships: None }
    }

    #[test]
    fn what_is_not_said_is_as_the_agent_and_the_settings_have_it() {
        let config = MailboxConfig::default();
        let its = key(None);
        let (ask, wait) = asked().ask(&its, &config).expect("nothing is asked");
        let key_id = its.key_id;
        let plain = Ask { key_id, rows: 20, bytes: 4 << 20, lease_ms: 3_600_000, waits: false, explicit_ack: false };
        assert_eq!((ask, wait), (plain, Duration::ZERO));
        let its = key(Some(30));
        let (ask, _) = asked().ask(&its, &config).expect("nothing is asked");
        assert_eq!(ask.lease_ms, 30_000);
        let all = Asked {
            wait: Some(60),
            limit: Some(100),
            max_bytes: Some(1_024),
            lease: Some(10),
            ack: Some(Ack::Explicit),
            relationships: None,
        };
        let (ask, wait) = all.ask(&its, &config).expect("allowed");
        let key_id = its.key_id;
        let asked = Ask { key_id, rows: 100, bytes: 1_024, lease_ms: 10_000, waits: true, explicit_ack: true };
        assert_eq!((ask, wait), (asked, Duration::from_secs(60)));
    }

    #[test]
    fn the_settings_give_less_than_the_contract_allows() {
        let config = MailboxConfig {
            lease_total_max_s: 3_600,
            poll_wait_max_s: 5,
            poll_rows_default: 3,
            poll_rows_max: 3,
            poll_bytes_max: 2_048,
            ..MailboxConfig::default()
        };
        let most =
            Asked { wait: Some(60), limit: Some(100), max_bytes: Some(i64::MAX), lease: Some(43_200), ..asked() };
        let (ask, wait) = most.ask(&key(None), &config).expect("it is capped");
        assert_eq!((ask.rows, ask.bytes, wait), (3, 2_048, Duration::from_secs(5)));
        assert_eq!(ask.lease_ms, 3_600_000);
    }

    #[test]
    fn the_settings_may_allow_shorter_leases() {
        let config = MailboxConfig { lease_min_s: 1, ..MailboxConfig::default() };
        let (ask, _) = Asked { lease: Some(1), ..asked() }.ask(&key(None), &config).expect("allowed");
        assert_eq!(ask.lease_ms, 1_000);
        assert!(Asked { lease: Some(0), ..asked() }.ask(&key(None), &config).is_err());
    }

    #[test]
    fn a_window_is_a_poll_that_waits() {
        let config = MailboxConfig { poll_rows_max: 50, ..MailboxConfig::default() };
        let its = key(Some(30));
        let ask = |window: u32, lease: Option<u32>| Window { window, lease, ack: None }.ask(&its, &config);
        let key_id = its.key_id;
        let plain = Ask { key_id, rows: 7, bytes: 4 << 20, lease_ms: 30_000, waits: true, explicit_ack: false };
        assert_eq!(ask(7, None).expect("allowed"), plain);
        assert_eq!(ask(100, Some(10)).expect("it is capped"), Ask { rows: 50, lease_ms: 10_000, ..plain });
        for (window, lease, field) in [(0, None, "window"), (101, None, "window"), (1, Some(9), "lease")] {
            let error = ask(window, lease).expect_err(field);
            assert_eq!((error.fields()[0].field.as_str(), error.fields()[0].place), (field, "body"));
        }
    }

    #[test]
    fn what_is_too_much_is_refused_by_name() {
        let config = MailboxConfig::default();
        for (asked, field) in [
            (Asked { wait: Some(61), ..asked() }, "wait"),
            (Asked { limit: Some(0), ..asked() }, "limit"),
            (Asked { limit: Some(101), ..asked() }, "limit"),
            (Asked { max_bytes: Some(1_023), ..asked() }, "max_bytes"),
            (Asked { lease: Some(9), ..asked() }, "lease"),
            (Asked { lease: Some(43_201), ..asked() }, "lease"),
        ] {
            let error = asked.ask(&key(None), &config).expect_err(field);
            assert_eq!((error.fields()[0].field.as_str(), error.fields()[0].place), (field, "query"));
        }
    }
}
