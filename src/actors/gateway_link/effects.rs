//! Does what the sessions of a link want: asks the gateway, writes to the store, tells the browsers, wakes them later.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;

use super::reading::Wanted;
use super::requests::{For, Request};
use super::session::{Effect, Question, Session, Wake};
use super::{GatewayLink, UNTRACKED_MAX};
use crate::domain::conversation::Conversation;
use crate::domain::delivery::Delivery;
use crate::domain::error::Error;
use crate::domain::event::Event;
use crate::domain::ids::{ConversationId, DeliveryId};
use crate::domain::message::Line;
use crate::domain::session_key::SessionKey;
use crate::domain::wire::set;
use crate::gateway::frames::SessionsList;
use crate::gateway::history::HistoryPage;
use crate::store::claims::ClaimSession;
use crate::store::conversations::SessionName;
use crate::store::track::TrackSession;
use crate::store::turns::EndTurn;
use crate::store::upstream::NoteContact;
use crate::store::{Lane, deliveries};

/// Wait before a write that the store could not take is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Characters of text that a history row may have; the gateway's own bound.
const CHARS_MAX: u32 = 500_000;

pub(super) fn question_of(delivery: &Delivery, line: &Line) -> Question {
    Question {
        delivery_id: delivery.id,
        message_id: delivery.message_id,
        seq: delivery.seq,
        text: line.text.as_str().into(),
    }
}

/// Ends a question that nobody wants to be asked any more.
fn cancel_of(id: DeliveryId) -> deliveries::Cancel {
    deliveries::Cancel { id, reason: Some("aborted".to_owned()) }
}

impl GatewayLink {
    /// Runs a method of a session and does what it wants.
    pub(super) fn with_session(
        &mut self,
        id: ConversationId,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut Session, i64) -> Vec<Effect>,
    ) {
        let now_ms = self.parts.clock.now_ms();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for effect in work(session, now_ms) {
            self.perform(id, effect, ctx);
        }
    }

    /// Adds a session, told whether the gateway is there.
    pub(super) fn add_session(&mut self, conversation: Conversation) {
        let id = conversation.id;
        if self.sessions.contains_key(&id) {
            return;
        }
        if let Some(name) = self.name_upstream(&conversation) {
            self.by_canonical.entry(name).or_insert(id);
        }
        self.sessions.insert(id, Session::new(conversation, self.options.clone()));
    }

    /// What the gateway calls a session, or would as far as is known.
    fn name_upstream(&self, conversation: &Conversation) -> Option<String> {
        if conversation.canonical_key.is_some() {
            return conversation.canonical_key.clone();
        }
        let agent = self.status.default_agent.as_deref()?;
        let key: SessionKey = conversation.key.parse().ok()?;
        Some(key.canonical(agent).as_str().to_owned())
    }

    /// Names the sessions as the gateway does, now that its default agent is known.
    pub(super) fn name_sessions(&mut self) {
        let named: Vec<(String, ConversationId)> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((self.name_upstream(&session.conversation)?, *id)))
            .collect();
        for (name, id) in named {
            self.by_canonical.entry(name).or_insert(id);
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.status.is_connected()
    }

    /// The gateway may have told its own name of a session.
    pub(super) fn contacted(&mut self, id: ConversationId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if let Some(canonical) = &session.conversation.canonical_key {
            self.by_canonical.insert(canonical.clone(), id);
        }
    }

    /// Answers those who waited for a session's first contact, once what it brought is on disk.
    pub(super) fn answer_touches(&mut self, id: ConversationId) {
        for reply in self.touches.remove(&id).into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(()));
        }
    }

    /// Reads the logs of the sessions that moved while we were away.
    pub(super) fn catch_up(&mut self, list: &SessionsList, ctx: &mut Context<Self>) {
        let protocol = self.status.protocol.unwrap_or(4);
        for row in &list.sessions {
            let Some(id) = self.by_canonical.get(&row.key).copied() else {
                if self.parts.gateway.track == crate::domain::gateway::Track::All {
                    self.open_untracked(&row.key, ctx);
                }
                continue;
            };
            self.with_session(id, ctx, |session, now_ms| {
                let moved = row.updated_at.is_none_or(|at| at > session.conversation.updated_at - 60_000);
                if moved || row.has_active_run { session.on_link_up(protocol, now_ms) } else { Vec::new() }
            });
        }
    }

    /// Tracks a session that somebody else uses on the gateway.
    pub(super) fn open_untracked(&mut self, key: &str, ctx: &mut Context<Self>) {
        if self.untracked.len() >= UNTRACKED_MAX {
            self.untracked.clear();
        }
        if !self.untracked.insert(key.to_owned()) {
            return;
        }
        let name = SessionName::told(self.parts.gateway.id.clone(), key, self.status.default_agent.as_deref());
        let (store, key) = (self.parts.store.clone(), key.to_owned());
        async move {
            let Some(conversation) = store.write(TrackSession { name }).await? else { return Ok(None) };
            // It waits for its place before it counts as being read: whoever asks in it meanwhile does not wait with it.
            Ok(Some((conversation, store.readers().background_place().await?)))
        }
        .into_actor(self)
        .map(move |tracked: Result<_, Error>, this, ctx| match tracked {
            Ok(Some((conversation, place))) => {
                this.untracked.remove(&key);
                // Read anew: it may have been deleted while this was on its way.
                this.want(conversation.id, Wanted::Join(place), ctx);
            }
            // It was deleted here.
            Ok(None) => {}
            Err(error) => {
                this.untracked.remove(&key);
                log::warn!("a session could not be tracked: {error}");
            }
        })
        .spawn(ctx);
    }

    fn perform(&mut self, id: ConversationId, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Send { delivery_id, text } => {
                if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) {
                    return;
                }
                let Some(session) = self.sessions.get(&id) else { return };
                let params = json!({
                    "sessionKey": session.upstream_key(),
                    "message": &*text,
                    "deliver": false,
                    "idempotencyKey": delivery_id.to_string(),
                });
                self.ask(Request { method: "chat.send", params, why: For::Send { conversation_id: id } }, ctx);
            }
            Effect::Abort { run_id } => {
                let Some(session) = self.sessions.get(&id) else { return };
                let params = json!({ "sessionKey": session.upstream_key(), "runId": run_id });
                self.ask(Request { method: "chat.abort", params, why: For::Abort }, ctx);
            }
            Effect::History { purpose, limit, offset } => {
                let Some(session) = self.sessions.get(&id) else { return };
                let mut params = json!({ "sessionKey": session.upstream_key(), "limit": limit, "maxChars": CHARS_MAX });
                if offset > 0 {
                    set(&mut params, "offset", offset.into());
                }
                let why = For::History { conversation_id: id, purpose };
                self.ask(Request { method: "chat.history", params, why }, ctx);
            }
            Effect::Begin(command) => {
                self.write(id, command, ctx, |session, result, now| session.on_begun(result, now))
            }
            Effect::BeginForeign(command) => {
                self.write(id, command, ctx, |session, result, now| session.on_begun(result, now));
            }
            Effect::End(command) => self.write(id, *command, ctx, |session, result, now| {
                session.on_ended(result.map(|line| line.is_some()), now)
            }),
            Effect::Claim(page) => self.claim(id, page, ctx),
            Effect::NoteContact(command) => self.note_contact(command, ctx),
            Effect::Import(command) => {
                let store = self.parts.store.clone();
                async move { store.write_bulk(command).await }
                    .into_actor(self)
                    .map(move |result, this, ctx| {
                        this.answer_touches(id);
                        this.with_session(id, ctx, |session, _| session.on_imported(result));
                    })
                    .spawn(ctx);
            }
            Effect::Map(page) => {
                let Some(session) = self.sessions.get(&id) else { return };
                let store = self.parts.store.clone();
                let source = session.source(page.session_id.as_deref());
                let upstream = session.conversation.upstream.clone();
                let protocol = session.protocol;
                async move {
                    super::tail::map(&store, source, *page, upstream.mapped_seq, upstream.session_id, protocol).await
                }
                .into_actor(self)
                .map(move |result, this, ctx| this.with_session(id, ctx, |session, _| session.on_mapped(result)))
                .spawn(ctx);
            }
            Effect::Checkpoint(command) => {
                // A lost checkpoint is made up for by the next one.
                let _ = self.parts.store.write_later(Lane::Bulk, command);
            }
            // A node past its lease does not speak any more (D5).
            Effect::Tell(_) if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) => {}
            Effect::Tell(live) => {
                let Some(session) = self.sessions.get(&id) else { return };
                self.parts.hubs.publish_live(Event::Live { topic: session.topic.clone(), live: Arc::new(live) });
            }
            Effect::WakeIn { ms, wake } => {
                ctx.run_later(Duration::from_millis(ms), move |this, ctx| this.wake(id, wake, ctx));
            }
            Effect::Cancel(ids) => {
                for delivery in ids {
                    self.cancel(delivery, ctx);
                }
            }
            Effect::RunId(run_id) => self.runs.insert(run_id, id),
        }
    }

    /// Has the store decide whether a session may be used; those who wait for its log wait on, unless it may not.
    fn claim(&mut self, id: ConversationId, page: Box<HistoryPage>, ctx: &mut Context<Self>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (gateway_id, agent) = (self.parts.gateway.id.clone(), self.status.default_agent.as_deref());
        let name = match (&page.canonical_key, session.conversation.key.parse::<SessionKey>()) {
            (Some(told), _) => SessionName::told(gateway_id, told, agent),
            (None, Ok(key)) => SessionName::new(gateway_id, &key, agent),
            (None, Err(_)) => SessionName::told(gateway_id, &session.conversation.key, agent),
        };
        let command = ClaimSession { conversation_id: id, name };
        let store = self.parts.store.clone();
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| {
                if matches!(result, Ok(false)) {
                    log::info!(gateway_id = this.parts.gateway.id.as_str();
                        "a member named a session that gateway `{}` has of its own; it was refused", this.parts.gateway.id);
                    this.answer_touches(id);
                }
                this.with_session(id, ctx, |session, now_ms| session.on_claimed(&page, result, now_ms));
                this.contacted(id);
            })
            .spawn(ctx);
    }

    /// Writes a first contact down; tried again while the store cannot take it, so that the session has its name and its
    /// boundary also after a restart (D1).
    fn note_contact(&mut self, command: NoteContact, ctx: &mut Context<Self>) {
        let id = command.conversation_id;
        if !self.sessions.contains_key(&id) {
            return;
        }
        let (store, again) = (self.parts.store.clone(), command.clone());
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| match result {
                Err(error) if error.http_status() >= 500 => {
                    log::warn!("a first contact could not be written down and is tried again: {}", error.cause());
                    ctx.run_later(STORE_RETRY, move |this, ctx| this.note_contact(again, ctx));
                }
                result => {
                    if let Err(error) = result {
                        log::warn!("a first contact could not be written down: {error}");
                    }
                    // With an import, those who wait are answered when its first page is on disk.
                    if again.import_below.is_none() {
                        this.answer_touches(id);
                    }
                }
            })
            .spawn(ctx);
    }

    /// Ends a waiting delivery; tried again while the store cannot take it, so that it is not sent after all (DLV-2).
    fn cancel(&mut self, id: DeliveryId, ctx: &mut Context<Self>) {
        let store = self.parts.store.clone();
        self.cancels.insert(id);
        async move { store.write(cancel_of(id)).await }
            .into_actor(self)
            .map(move |result, this, ctx| match result {
                Err(error) if error.http_status() >= 500 => {
                    log::warn!("a waiting question could not be cancelled and is tried again: {}", error.cause());
                    ctx.run_later(STORE_RETRY, move |this, ctx| this.cancel(id, ctx));
                }
                // Done, or it has ended otherwise.
                Ok(_) | Err(_) => {
                    this.cancels.remove(&id);
                }
            })
            .spawn(ctx);
    }

    /// Queues what the store has not taken yet: a link that ends does not try again. The next one reads what is open
    /// behind that; what was written after all is not written twice.
    pub(super) fn write_what_is_left(&mut self) {
        let (mut ends, mut cancels): (Vec<EndTurn>, Vec<DeliveryId>) = (Vec::new(), self.cancels.drain().collect());
        for session in self.sessions.values_mut() {
            let (end, unsent) = session.left_over();
            ends.extend(end.map(|end| *end));
            cancels.extend(unsent);
        }
        let store = &self.parts.store;
        let ended = ends.into_iter().map(|end| store.write_later(Lane::Interactive, end));
        let cancelled = cancels.into_iter().map(|id| store.write_later(Lane::Interactive, cancel_of(id)));
        for error in ended.chain(cancelled).filter_map(Result::err) {
            log::warn!("what a link had still to write could not be queued: {error}");
        }
    }

    fn wake(&mut self, id: ConversationId, wake: Wake, ctx: &mut Context<Self>) {
        self.with_session(id, ctx, |session, now_ms| session.on_wake(wake, now_ms));
    }

    fn write<C: crate::store::Command>(
        &mut self,
        id: ConversationId,
        command: C,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Session, Result<C::Output, Error>, i64) -> Vec<Effect> + 'static,
    ) {
        let store = self.parts.store.clone();
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| this.with_session(id, ctx, |session, now_ms| then(session, result, now_ms)))
            .spawn(ctx);
    }
}
