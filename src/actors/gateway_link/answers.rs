//! What the gateway says: events, the handshake, and the answers to our requests.
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;

use super::requests::{For, Request};
use super::{GatewayLink, NAMES_PER_SESSION_MAX, Phase, SESSIONS_LISTED, TICK_INTERVAL_MAX, session};
use crate::actors::messages::UpstreamSession;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::LinkChange;
use crate::domain::gateway::LinkState;
use crate::domain::ids::ConversationId;
use crate::domain::secret::Secret;
use crate::gateway::frames::{
    self, AgentsList, Challenge, ChatEvent, HelloOk, Inbound, ModelsList, SessionsList, Shutdown, TerminalReply,
};
use crate::gateway::handshake::{self, Attempt, Auth, Connect};
use crate::store::gateways::KeepDevice;

impl GatewayLink {
    pub(super) fn on_text(&mut self, text: &str, ctx: &mut Context<Self>) {
        let inbound = match Inbound::parse(text) {
            Ok(inbound) => inbound,
            Err(error) => {
                log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}");
                return;
            }
        };
        match inbound {
            Inbound::Event { event, payload, seq } => {
                if let Some(seq) = seq {
                    self.check_seq(seq, ctx);
                }
                self.on_event(&event, &payload, ctx);
            }
            Inbound::Response { id, result } => {
                let Some((why, took_ms)) = self.requests.take(&id) else { return };
                self.answered(why, result.map_err(session::RequestError::Refused), took_ms, ctx);
                self.pump();
            }
            Inbound::Other => {}
        }
    }

    /// Events are counted per connection; a hole means that the gateway dropped some for us.
    pub(super) fn check_seq(&mut self, seq: u64, ctx: &mut Context<Self>) {
        let hole = self.last_seq > 0 && seq > self.last_seq.saturating_add(1);
        self.last_seq = self.last_seq.max(seq);
        if hole && matches!(self.phase, Phase::Up) {
            self.holes_total += 1;
            let protocol = self.status.protocol.unwrap_or(4);
            // Nobody knows whose events were dropped: each log is read when its session is used next.
            for session in self.sessions.values_mut() {
                session.note_link_up(protocol);
            }
            let busy: Vec<ConversationId> =
                self.sessions.iter().filter(|(_, session)| session.run_id().is_some()).map(|(id, _)| *id).collect();
            for id in busy {
                self.with_session(id, ctx, |session, now_ms| session.on_link_up(protocol, now_ms));
            }
        }
    }

    pub(super) fn on_event(&mut self, event: &str, payload: &serde_json::value::RawValue, ctx: &mut Context<Self>) {
        match event {
            "connect.challenge" => match frames::decode::<Challenge>(payload) {
                Ok(challenge) if matches!(self.phase, Phase::AwaitingChallenge { .. }) => self.sign_in(&challenge, ctx),
                Ok(_) => {}
                Err(error) => log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}"),
            },
            "chat" => match frames::decode::<ChatEvent>(payload) {
                Ok(event) => self.on_chat(event, ctx),
                Err(error) => log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}"),
            },
            // Most of them tell nothing that `chat` does not tell.
            "agent" => {
                if let Some(reply) = TerminalReply::of(payload) {
                    self.on_reply(reply, ctx);
                }
            }
            "shutdown" => {
                if let Ok(shutdown) = frames::decode::<Shutdown>(payload) {
                    log::info!(gateway_id = self.parts.gateway.id.as_str();
                        "gateway `{}` says it is going down: {}", self.parts.gateway.id, shutdown.reason);
                }
            }
            _ => {}
        }
    }

    pub(super) fn sign_in(&mut self, challenge: &Challenge, ctx: &mut Context<Self>) {
        let Some(device) = &self.device else { return };
        let scopes = self.scopes.clone().unwrap_or_else(|| handshake::scopes_asked(self.parts.gateway.admin));
        let auth = if self.use_device_token || !self.has_shared_secret() {
            Auth { device_token: self.credentials.device_token.clone(), ..Auth::default() }
        } else {
            Auth {
                token: self.credentials.token.clone(),
                password: self.credentials.password.clone(),
                device_token: None,
            }
        };
        let params = handshake::connect_params(&Connect {
            version: env!("CARGO_PKG_VERSION"),
            scopes: &scopes,
            auth: &auth,
            challenge,
            device,
        });
        self.phase = Phase::AwaitingHello { since: tokio::time::Instant::now() };
        self.requests.reset();
        self.ask(Request { method: "connect", params, why: For::Connect }, ctx);
    }

    pub(super) fn has_shared_secret(&self) -> bool {
        self.credentials.token.is_some() || self.credentials.password.is_some()
    }

    pub(super) fn on_hello(&mut self, hello: &HelloOk, took_ms: u64, ctx: &mut Context<Self>) {
        let verdict = handshake::judge_hello(hello, self.parts.gateway.admin);
        self.phase = Phase::Up;
        self.connects_total += 1;
        self.switched = false;
        self.tick_interval = Duration::from_millis(hello.policy.tick_interval_ms).min(TICK_INTERVAL_MAX);
        if self.boot_id.is_some() && self.boot_id != hello.server.boot_id {
            log::info!(gateway_id = self.parts.gateway.id.as_str(); "gateway `{}` was started anew", self.parts.gateway.id);
        }
        self.boot_id.clone_from(&hello.server.boot_id);
        self.status.protocol = Some(hello.protocol);
        self.status.version = Some(hello.server.version.clone());
        self.status.scopes.clone_from(&hello.auth.scopes);
        self.status.scopes_missing = verdict.scopes_missing;
        self.status.default_agent.clone_from(&hello.snapshot.session_defaults.default_agent_id);
        self.status.latency_ms = u32::try_from(took_ms).ok();
        self.status.retry_at_ms = None;
        if let Some(token) = &hello.auth.device_token {
            self.keep_device_token(token.clone(), hello.auth.scopes.clone(), ctx);
        }
        if let Some(retry) = verdict.retry {
            let wait = self.plan(retry);
            self.set_state(verdict.state, verdict.problem);
            if let Some(ms) = wait {
                // Rights are given to new connections only, so this one is ended and made anew after a while.
                self.retry = Some(ctx.run_later(Duration::from_millis(ms), |this, ctx| {
                    this.retry = None;
                    this.lost(Some(1000), "asking for the missing rights again", ctx);
                    this.dial(ctx);
                }));
            }
            return;
        }
        self.lists_awaited = 2;
        for (method, why) in [("agents.list", For::Agents), ("models.list", For::Models)] {
            self.ask(Request { method, params: json!({}), why }, ctx);
        }
        self.pump();
    }

    /// One of the gateway's lists has come, or will not come. With both the connection is complete: whoever sees
    /// "connected" sees the agents and models as well.
    pub(super) fn on_list(&mut self, ctx: &mut Context<Self>) {
        if self.lists_awaited == 0 || !matches!(self.phase, Phase::Up) {
            return;
        }
        self.lists_awaited -= 1;
        if self.lists_awaited > 0 {
            return;
        }
        self.name_sessions();
        self.backoff.reset();
        self.set_state(LinkState::Connected, None);
        let protocol = self.status.protocol.unwrap_or(4);
        log::info!(gateway_id = self.parts.gateway.id.as_str(), protocol; "connected to gateway `{}`", self.parts.gateway.id);
        self.tell_link(LinkChange::Up);
        let params = json!({ "limit": SESSIONS_LISTED });
        self.ask(Request { method: "sessions.list", params, why: For::SessionList }, ctx);
        for session in self.sessions.values_mut() {
            session.note_link_up(protocol);
        }
        // Only sessions with something under way at once; the others when the gateway's list says that they moved.
        let busy: Vec<ConversationId> =
            self.sessions.iter().filter(|(_, session)| !session.is_idle()).map(|(id, _)| *id).collect();
        for id in busy {
            self.with_session(id, ctx, |session, now_ms| session.on_link_up(protocol, now_ms));
        }
        self.pump();
    }

    /// Stores what the gateway gave us for our device. Until that is done the link knows it no better than the store, so
    /// that it is stored with a later hello if it cannot be now.
    fn keep_device_token(&mut self, token: Secret, scopes: Vec<String>, ctx: &mut Context<Self>) {
        if self.credentials.device_token.as_ref() == Some(&token) && self.credentials.device_scopes == scopes {
            return;
        }
        let keep = KeepDevice {
            id: self.parts.gateway.id.clone(),
            seed: None,
            token: Some(token.clone()),
            scopes: scopes.clone(),
            vault: self.parts.vault.clone(),
        };
        let store = self.parts.store.clone();
        async move { store.write(keep).await }
            .into_actor(self)
            .map(move |kept, this, _| match kept {
                Ok(()) => {
                    this.credentials.device_token = Some(token);
                    this.credentials.device_scopes = scopes;
                }
                Err(error) => {
                    log::warn!(gateway_id = this.parts.gateway.id.as_str(); "a device token could not be kept: {error}");
                }
            })
            .spawn(ctx);
    }

    pub(super) fn on_chat(&mut self, event: ChatEvent, ctx: &mut Context<Self>) {
        let of_run = self.runs.session_of(&event.run_id);
        let id = match of_run.or_else(|| self.by_canonical.get(&event.session_key).copied()) {
            Some(id) => id,
            None => {
                if self.parts.gateway.track == crate::domain::gateway::Track::All {
                    self.open_untracked(&event.session_key, ctx);
                }
                return;
            }
        };
        // The gateway's own name of the session is learned at first contact; a run of ours may tell it before.
        let has_room = self.by_canonical.len() < NAMES_PER_SESSION_MAX * self.sessions.len();
        if has_room && !event.session_key.is_empty() && !self.by_canonical.contains_key(&event.session_key) {
            self.by_canonical.insert(event.session_key.clone(), id);
        }
        self.with_session(id, ctx, |session, now_ms| session.on_event(event, now_ms));
    }

    fn on_reply(&mut self, reply: TerminalReply, ctx: &mut Context<Self>) {
        let of_run = self.runs.session_of(&reply.run_id);
        if let Some(id) = of_run.or_else(|| self.by_canonical.get(&reply.session_key).copied()) {
            self.with_session(id, ctx, |session, now_ms| {
                session.on_reply(reply, now_ms);
                Vec::new()
            });
        }
    }

    /// Queues a request. Without a connection, and with too many that wait, it fails at once.
    pub(super) fn ask(&mut self, request: Request, ctx: &mut Context<Self>) {
        let up = self.outgoing.is_some() && (matches!(self.phase, Phase::Up) || matches!(request.why, For::Connect));
        if !up {
            self.refuse(request.why);
            return;
        }
        match self.requests.push(request, self.parts.config.requests_waiting_max) {
            Ok(()) => self.pump(),
            Err(request) => self.answered(request.why, Err(session::RequestError::Busy), 0, ctx),
        }
    }

    /// Fails a request that cannot be made without a connection, of whose end sessions hear by itself.
    fn refuse(&self, why: For) {
        // Whoever asked may have gone.
        match why {
            For::List(reply) => drop(reply.send(Err(self.unavailable()))),
            For::Delete(reply) => drop(reply.send(Err(self.unavailable()))),
            For::Test(reply) => drop(reply.send(Err(self.unavailable()))),
            _ => {}
        }
    }

    /// Sends what waits, as far as there is room. A node past its lease asks for nothing any more (D5).
    pub(super) fn pump(&mut self) {
        if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) {
            return;
        }
        while let Some(outgoing) = &self.outgoing
            && let Some(frame) = self.requests.next_frame(self.parts.config.requests_in_flight_max)
        {
            if !outgoing.text(frame) {
                break;
            }
        }
    }

    pub(super) fn answered(
        &mut self,
        why: For,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
        took_ms: u64,
        ctx: &mut Context<Self>,
    ) {
        match why {
            For::Connect => self.on_connect_answer(result, took_ms, ctx),
            For::Agents => {
                if let Some(list) = self.decoded::<AgentsList>(result) {
                    self.status.default_model =
                        list.default_model().map(str::to_owned).or(self.status.default_model.take());
                    self.status.default_agent = list.default_id.clone().or(self.status.default_agent.take());
                    self.status.agents = list.agents;
                    self.publish_status();
                }
                self.on_list(ctx);
            }
            For::Models => {
                if let Some(list) = self.decoded::<ModelsList>(result) {
                    self.status.models = list.models;
                    self.publish_status();
                }
                self.on_list(ctx);
            }
            For::SessionList => {
                if let Some(list) = self.decoded::<SessionsList>(result) {
                    self.status.default_model = self.status.default_model.take().or(list.defaults.default_model());
                    self.publish_status();
                    self.catch_up(&list, ctx);
                }
            }
            For::Send { conversation_id } => {
                let ack = decode(result);
                self.with_session(conversation_id, ctx, |session, now_ms| session.on_sent(ack, now_ms));
            }
            // The event tells; an abort that finds nothing means that the end is on its way.
            For::Abort => {}
            For::History { conversation_id, purpose } => {
                let page = decode(result);
                let is_refused = page.is_err() && purpose == session::Purpose::Contact;
                self.with_session(conversation_id, ctx, |session, now_ms| session.on_history(purpose, page, now_ms));
                if is_refused {
                    // Whoever waits for the session's log gets what there is.
                    self.answer_touches(conversation_id);
                }
                self.contacted(conversation_id);
            }
            For::List(reply) => {
                let list = decode::<SessionsList>(result).map(upstream_sessions).map_err(|e| self.upstream_error(&e));
                let _ = reply.send(list);
            }
            For::Delete(reply) => {
                let done = decode::<serde_json::Value>(result).map(drop).map_err(|e| self.upstream_error(&e));
                let _ = reply.send(done);
            }
            For::Test(reply) => {
                let done = decode::<serde_json::Value>(result).map(|_| u32::try_from(took_ms).unwrap_or(u32::MAX));
                let _ = reply.send(done.map_err(|e| self.upstream_error(&e)));
            }
        }
    }

    pub(super) fn on_connect_answer(
        &mut self,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
        took_ms: u64,
        ctx: &mut Context<Self>,
    ) {
        match result {
            Ok(payload) => match frames::decode::<HelloOk>(&payload) {
                Ok(hello) => self.on_hello(&hello, took_ms, ctx),
                Err(error) => self.lost(Some(4000), &error.to_string(), ctx),
            },
            Err(session::RequestError::Refused(error)) => {
                let scopes = self.scopes.clone().unwrap_or_else(|| handshake::scopes_asked(self.parts.gateway.admin));
                let attempt = Attempt {
                    scopes: &scopes,
                    sent_device_token: self.use_device_token || !self.has_shared_secret(),
                    has_device_token: self.credentials.device_token.is_some(),
                    has_shared_secret: self.has_shared_secret(),
                    switched: self.switched,
                };
                self.refused = Some(handshake::judge_refusal(&error, None, &attempt));
                self.lost(Some(1000), "the gateway refused the handshake", ctx);
            }
            // The end of the connection, which is told by itself, or the tick's own timeout.
            Err(_) => {}
        }
    }

    pub(super) fn decoded<T: serde::de::DeserializeOwned>(
        &self,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
    ) -> Option<T> {
        match decode(result) {
            Ok(value) => Some(value),
            Err(error) => {
                log::debug!(gateway_id = self.parts.gateway.id.as_str(); "a list could not be had: {error:?}");
                None
            }
        }
    }

    pub(super) fn upstream_error(&self, error: &session::RequestError) -> Error {
        match error {
            session::RequestError::Refused(refusal) => {
                Error::new(ErrorCode::UpstreamRefused, format!("the gateway refused: {}", refusal.message))
            }
            session::RequestError::Busy => {
                let sentence = format!("too many requests wait for gateway `{}`; try again", self.parts.gateway.id);
                Error::new(ErrorCode::GatewayUnavailable, sentence)
            }
            _ => self.unavailable(),
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
) -> Result<T, session::RequestError> {
    let payload = result?;
    frames::decode(&payload).map_err(|error| session::RequestError::Unreadable(error.to_string()))
}

fn upstream_sessions(list: SessionsList) -> Vec<UpstreamSession> {
    list.sessions
        .into_iter()
        .map(|row| UpstreamSession {
            title: row.title().map(str::to_owned),
            key: row.key,
            agent_id: row.agent_id,
            model: row.model,
            updated_at: row.updated_at,
            archived: row.archived,
        })
        .collect()
}
