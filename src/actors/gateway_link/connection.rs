//! The life of a connection: dialled, lost, dialled again; and the state that everybody sees of it.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::socket::{self, DialError, Incoming, Outgoing};
use super::{GatewayLink, Phase, SILENCE_MAX, load, session};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, LinkChange, Publish};
use crate::domain::gateway::{LinkState, Problem};
use crate::domain::ids::ConversationId;
use crate::gateway::handshake::{self, Refusal, Retry};

impl GatewayLink {
    /// Reads the secrets, what is open and what was running; then dials. Messages wait meanwhile: a run that is shown
    /// from the disk already can be aborted.
    pub(super) fn load(&mut self, ctx: &mut Context<Self>) {
        let parts = self.parts.clone();
        async move { load::load(&parts).await }
            .into_actor(self)
            .map(|loaded, this, ctx| match loaded {
                Ok(loaded) => {
                    this.restore(loaded, ctx);
                    this.loaded = true;
                    if this.parts.gateway.enabled {
                        this.dial(ctx);
                    }
                }
                Err(error) => {
                    log::error!(gateway_id = this.parts.gateway.id.as_str(); "a gateway's state could not be read: {}", error.cause());
                    if error.code() == ErrorCode::Internal {
                        // What is stored cannot be read; it is left as it is (STO-3), and an admin is told.
                        let problem = Problem {
                            code: "state_unreadable".to_owned(),
                            message: "this gateway's stored secrets or sessions cannot be read; the log tells more".to_owned(),
                            remedy: Some("restore the key file `secret.key`, or set this gateway's secrets anew".to_owned()),
                            request_id: None,
                        };
                        let is_enabled = this.parts.gateway.enabled;
                        this.set_state(if is_enabled { LinkState::Refused } else { LinkState::Disabled }, Some(problem));
                        return;
                    }
                    ctx.run_later(Duration::from_secs(2), Self::load);
                }
            })
            .wait(ctx);
    }

    pub(super) fn restore(&mut self, loaded: load::Loaded, ctx: &mut Context<Self>) {
        self.credentials = loaded.credentials;
        self.device = Some(loaded.device);
        let now_ms = self.parts.clock.now_ms();
        for (conversation, turn, questions) in loaded.sessions {
            let id = conversation.id;
            self.add_session(conversation);
            if let Some((turn, question)) = turn {
                self.runs.insert(turn.run_id.clone(), id);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.restore(turn, question, now_ms);
                }
            }
            for question in questions {
                self.with_session(id, ctx, |session, now_ms| session.on_question(question, now_ms));
            }
        }
    }

    pub(super) fn dial(&mut self, ctx: &mut Context<Self>) {
        if let Some(retry) = self.retry.take() {
            ctx.cancel_future(retry);
        }
        if self.leaving || !self.loaded || !self.parts.gateway.enabled || !matches!(self.phase, Phase::Idle) {
            return;
        }
        if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) {
            self.retry = Some(ctx.run_later(Duration::from_secs(1), Self::dial));
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        self.phase = Phase::Dialling;
        self.refused = None;
        self.set_state(LinkState::Connecting, self.status.problem.clone());
        let client = self.client.clone();
        let url = self.parts.gateway.url.clone();
        let timeout = Duration::from_millis(self.parts.config.connect_timeout_ms);
        let frame_bytes_max = self.parts.config.frame_bytes_max;
        async move { socket::dial(&client, &url, timeout, frame_bytes_max).await }
            .into_actor(self)
            .map(move |dialled, this, ctx| {
                if this.generation != generation {
                    return;
                }
                match dialled {
                    Ok((outgoing, incoming)) => {
                        this.outgoing = Some(outgoing);
                        this.heard_at = tokio::time::Instant::now();
                        this.told_at = this.heard_at;
                        this.phase = Phase::AwaitingChallenge { since: this.heard_at };
                        this.last_seq = 0;
                        ctx.add_stream(futures_util::StreamExt::map(incoming, move |item| FromSocket {
                            generation,
                            item,
                        }));
                    }
                    Err(DialError::Refused(refusal)) => {
                        this.refused = Some(*refusal);
                        this.lost(None, "the gateway refused the connection", ctx);
                    }
                    Err(DialError::Unreachable(sentence)) => this.lost(None, &sentence, ctx),
                }
            })
            .spawn(ctx);
    }

    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = tokio::time::Instant::now();
        if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) && self.outgoing.is_some() {
            self.lost(Some(1001), "this node's lease has run out", ctx);
            return;
        }
        let challenge_timeout = Duration::from_millis(self.parts.config.challenge_timeout_ms);
        match self.phase {
            Phase::AwaitingChallenge { since } if now - since > challenge_timeout => {
                self.lost(Some(4000), "no challenge came", ctx);
                return;
            }
            Phase::AwaitingHello { since } if now - since > challenge_timeout => {
                self.lost(Some(4000), "no answer to the handshake came", ctx);
                return;
            }
            Phase::Up if now - self.heard_at > self.silence_max() => {
                self.lost(Some(4000), "the gateway fell silent", ctx);
                return;
            }
            Phase::Up => {
                // For liveness, and to measure the way.
                let ping_every = Duration::from_secs(self.parts.config.health_check_interval_s);
                let due = self.pinged_at.is_none_or(|at| now - at >= ping_every);
                if due && self.outgoing.as_ref().is_some_and(Outgoing::ping) {
                    self.pinged_at = Some(now);
                }
            }
            _ => {}
        }
        let timeout = Duration::from_millis(self.parts.config.request_timeout_ms);
        let timed_out = self.requests.take_timed_out(timeout);
        if !timed_out.is_empty() && now - self.told_at > self.silence_max() {
            self.lost(Some(4000), "the gateway answers pings and nothing else", ctx);
            return;
        }
        for why in timed_out {
            self.answered(why, Err(session::RequestError::TimedOut), 0, ctx);
        }
        self.pump();
        let now_ms = self.parts.clock.now_ms();
        let busy: Vec<ConversationId> =
            self.sessions.iter().filter(|(_, session)| session.run_id().is_some()).map(|(id, _)| *id).collect();
        for id in busy {
            self.with_session(id, ctx, |session, _| session.on_tick(now_ms));
        }
    }

    /// How long nothing need come on a connection that is up.
    fn silence_max(&self) -> Duration {
        let two_pings = Duration::from_secs(self.parts.config.health_check_interval_s.saturating_mul(2));
        two_pings.min(SILENCE_MAX).max(self.tick_interval * 2)
    }

    /// The connection has ended, or is ended by us with `close`; decides when to come back.
    pub(super) fn lost(&mut self, close: Option<u16>, reason: &str, ctx: &mut Context<Self>) {
        self.generation += 1;
        if let Some(outgoing) = self.outgoing.take()
            && let Some(code) = close
        {
            outgoing.close(code, reason);
        }
        let was_up = self.status.is_connected();
        self.phase = Phase::Idle;
        self.lists_awaited = 0;
        self.pinged_at = None;
        for session in self.sessions.values_mut() {
            session.on_link_down();
        }
        for why in self.requests.take_all() {
            self.answered(why, Err(session::RequestError::Closed), 0, ctx);
        }
        for replies in std::mem::take(&mut self.touches).into_values() {
            for reply in replies {
                // Whoever asked may have gone.
                let _ = reply.send(Err(self.unavailable()));
            }
        }
        let refusal = self.refused.take().unwrap_or_else(|| Refusal {
            state: LinkState::Waiting,
            problem: Problem {
                code: "unreachable".into(),
                message: reason.to_owned(),
                remedy: Some("see that the gateway runs and can be reached from the broker's machine".to_owned()),
                request_id: None,
            },
            retry: Retry::Backoff,
        });
        let wait = self.plan(refusal.retry);
        self.status.retry_at_ms = wait.map(|ms| self.parts.clock.now_ms() + i64::try_from(ms).unwrap_or(0));
        let state =
            if wait.is_none() && refusal.state == LinkState::Waiting { LinkState::Refused } else { refusal.state };
        log::info!(gateway_id = self.parts.gateway.id.as_str(), state = state.as_str(), retry_in_ms = wait.unwrap_or(0);
            "the connection to gateway `{}` ended: {}", self.parts.gateway.id, refusal.problem.message);
        self.set_state(state, Some(refusal.problem));
        if was_up {
            self.status.reconnects += 1;
            let change = LinkChange::Down { reason: reason.to_owned(), retry_in_ms: wait };
            self.tell_link(change);
        }
        if let Some(ms) = wait.filter(|_| !self.leaving) {
            self.retry = Some(ctx.run_later(Duration::from_millis(ms), Self::dial));
        }
    }

    pub(super) fn plan(&mut self, retry: Retry) -> Option<u64> {
        match retry {
            Retry::Never => None,
            Retry::After(ms) => Some(self.backoff.asked_ms(ms)),
            Retry::Backoff => {
                let mut random = [0_u8; 4];
                if let Err(error) = getrandom::fill(&mut random) {
                    // The wait is the shortest one then, which is still a wait.
                    log::warn!(gateway_id = self.parts.gateway.id.as_str(); "the wait before the next dial is not random: {error}");
                }
                Some(self.backoff.next_ms(u32::from_le_bytes(random)))
            }
            Retry::WithScopes(scopes) => {
                self.scopes = Some(scopes);
                Some(self.backoff.asked_ms(0))
            }
            Retry::WithDeviceToken => {
                self.use_device_token = true;
                self.switched = true;
                Some(self.backoff.asked_ms(0))
            }
            Retry::WithoutDeviceToken => {
                self.use_device_token = false;
                self.switched = true;
                self.credentials.device_token = None;
                Some(self.backoff.asked_ms(0))
            }
        }
    }

    pub(super) fn unavailable(&self) -> Error {
        Error::new(ErrorCode::GatewayUnavailable, format!("gateway `{}` is not connected now", self.parts.gateway.id))
    }

    pub(super) fn set_state(&mut self, state: LinkState, problem: Option<Problem>) {
        if self.status.state != state {
            self.status.since_ms = self.parts.clock.now_ms();
        }
        let changed = self.status.state != state || self.status.problem != problem;
        self.status.state = state;
        self.status.problem = problem;
        self.publish_status();
        if changed && state != LinkState::Connecting && state != LinkState::Connected {
            self.tell_link(LinkChange::Changed);
        }
    }

    pub(super) fn publish_status(&self) {
        self.parts.directory.set_status(&self.parts.gateway.id, Arc::new(self.status.clone()));
    }

    pub(super) fn tell_link(&self, change: LinkChange) {
        let gateway_id = self.parts.gateway.id.clone();
        self.parts.hubs.publish(vec![Event::Link { gateway_id, status: Arc::new(self.status.clone()), change }]);
    }
}

/// A word of the socket, with the connection it belongs to.
struct FromSocket {
    generation: u64,
    item: Incoming,
}

impl StreamHandler<FromSocket> for GatewayLink {
    fn handle(&mut self, msg: FromSocket, ctx: &mut Self::Context) {
        if msg.generation != self.generation {
            return;
        }
        self.heard_at = tokio::time::Instant::now();
        match msg.item {
            Incoming::Text(text) => {
                self.told_at = self.heard_at;
                self.on_text(&text, ctx);
            }
            Incoming::Ping(payload) => {
                if let Some(outgoing) = &self.outgoing {
                    outgoing.pong(payload);
                }
            }
            Incoming::Pong => {
                if let Some(at) = self.pinged_at {
                    self.status.latency_ms = u32::try_from(at.elapsed().as_millis()).ok();
                    self.publish_status();
                }
            }
            Incoming::Closed(code, reason) => {
                if self.refused.is_none() {
                    self.refused = Some(handshake::judge_close(code, &reason));
                }
                let sentence = match code {
                    Some(code) => format!("closed with {code} {reason}"),
                    None => reason,
                };
                self.lost(None, &sentence, ctx);
            }
        }
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {
        // The default would stop the actor; the end was handled with the last word of the socket.
    }
}
