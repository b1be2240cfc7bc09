//! What each frame of a browser does.
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::inbound::{self, Inbound, Named};
use super::naming::{Open, Target};
use super::watch::{GoLive, found_with_turns, reason_to_reset};
use super::{BrowserSession, QUEUED_MAX, frames};
use crate::actors::messages::{LinkRequest, ToLink};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Topic;
use crate::domain::ids::{ConversationId, MessageId, TurnId};
use crate::domain::session_key::SessionKey;
use crate::domain::user::Role;
use crate::store::chat::{AcceptChat, Accepted, not_connected};
use crate::store::conversations::{self, MarkRead};
use crate::store::mailbox::Ask;
use crate::store::messages::{self, Span};

/// Lines of a page when the client does not say how many.
const PAGE_DEFAULT: i64 = 50;
/// How long an `abort` keeps the frames behind it waiting.
const ABORT_WAIT: Duration = Duration::from_secs(3);

type Done = ResponseActFuture<BrowserSession, ()>;
type Accepting = LocalBoxFuture<'static, Result<Accepted, Error>>;

impl BrowserSession {
    pub(super) fn handle_frame(&mut self, frame: Inbound) -> Done {
        match frame {
            Inbound::Ping => Box::pin(done().map(|(), this: &mut Self, ctx| this.send(frames::pong(), ctx))),
            Inbound::Approval(_) => self.refuse(
                Error::new(ErrorCode::UpstreamRefused, "this gateway's approvals cannot be answered here"),
                None,
                None,
            ),
            Inbound::Unsubscribe(named) => match self.name(&named) {
                Ok(target) => {
                    let id = self.known(&target);
                    Box::pin(done().map(move |(), this: &mut Self, _| {
                        if let Some(id) = id {
                            this.end_watch(id);
                        }
                    }))
                }
                Err(error) => self.refuse(error, Some(&named), None),
            },
            Inbound::Chat(chat) => self.chat(chat),
            Inbound::Abort(abort) => self.abort(abort),
            Inbound::History(history) => self.history(history),
            Inbound::Subscribe(named) => self.subscribe(named, None),
            Inbound::Resume(resume) => match resume.after {
                Some(after) => self.subscribe(resume.named, Some(after)),
                None => {
                    let error = Error::new(ErrorCode::BadFrame, "`resume` needs `after`: the last seq you have");
                    self.refuse(error, Some(&resume.named), None)
                }
            },
            Inbound::Read(read) => self.mark_read(read),
        }
    }

    fn refuse(&mut self, error: Error, named: Option<&Named>, client_key: Option<String>) -> Done {
        let named = named.cloned().unwrap_or_default();
        Box::pin(done().map(move |(), this: &mut Self, ctx| {
            this.tell_error(&error, &named, client_key.as_deref(), ctx);
        }))
    }

    pub(super) fn tell_error(
        &mut self,
        error: &Error,
        named: &Named,
        client_key: Option<&str>,
        ctx: &mut Context<Self>,
    ) {
        if let Some(source) = error.source() {
            log::error!("a frame could not be handled: {source}");
        }
        let key: Option<String> =
            named.session_key.as_deref().map(|key| key.chars().take(SessionKey::CHARS_MAX).collect());
        self.send(frames::error(error, key.as_deref(), client_key, named.gateway_id.as_deref()), ctx);
    }

    fn may_write(&self) -> Result<(), Error> {
        if self.parts.caller.role < Role::Member {
            return Err(Error::new(ErrorCode::Forbidden, "a viewer's socket is read-only"));
        }
        Ok(())
    }

    // ---- the frames --------------------------------------------------------------------------------------------------

    fn chat(&mut self, chat: inbound::Chat) -> Done {
        let key = chat.idempotency_key.clone();
        let checked = self.may_write().and_then(|()| {
            let text = chat.checked_text(self.parts.shared.limits.message_bytes_max)?;
            Ok((self.name(&chat.named)?, text))
        });
        let (target, text) = match checked {
            Ok(checked) => checked,
            Err(error) => return self.refuse(error, Some(&chat.named), key),
        };
        let no_queue = chat.queue == Some(false);
        let named = chat.named;
        // What is going to be refused makes no session; a key that was used before is found in the one there is.
        let open = if no_queue && !self.is_up(&target) { Open::Find } else { Open::FindOrMake };
        let opened = self.open(target.clone(), open, GoLive::AtOnce);
        Box::pin(opened.then(move |opened, this: &mut Self, _| -> Done {
            let id = match opened {
                Ok(Some(id)) => id,
                Ok(None) if open == Open::Find => return this.refuse(not_connected(), Some(&named), key),
                Ok(None) => {
                    let error = Error::new(ErrorCode::Forbidden, "you may not write here");
                    return this.refuse(error, Some(&named), key);
                }
                Err(error) => return this.refuse(error, Some(&named), key),
            };
            // What is said meanwhile to an agent comes behind what the store says about this.
            let held = if matches!(target, Target::Talk(_)) { this.hold(id) } else { None };
            let accepting = this.accept(id, &target, text, key.clone(), no_queue);
            Box::pin(accepting.into_actor(this).map(move |result, this, ctx| {
                match result {
                    // The acknowledgement comes as the event of the line, in its place among the others.
                    Ok(accepted) if !accepted.repeated => {
                        this.on_accepted(id, &accepted.line, key, accepted.sent, ctx);
                    }
                    Ok(accepted) => {
                        let pending = accepted.delivery.as_ref().is_some_and(|d| d.attempt == 0 && d.state.is_open());
                        if pending && this.queued.len() < QUEUED_MAX {
                            this.queued.insert(accepted.line.id);
                        }
                        let frame =
                            frames::ack(&accepted.topic, &accepted.line, key.as_deref(), !pending, this.federated());
                        this.send(frame, ctx);
                    }
                    Err(error) => {
                        this.tell_error(&error, &named, key.as_deref(), ctx);
                    }
                }
                if let Some(last_seq) = held {
                    this.go_live(id, last_seq, ctx);
                }
            }))
        }))
    }

    /// Tells whether a question can go out at once. A mailbox can always take it.
    fn is_up(&self, target: &Target) -> bool {
        target.gateway_id().is_none_or(|id| self.parts.shared.directory.is_connected(id))
    }

    /// Has the store accept a question.
    fn accept(
        &self,
        conversation_id: ConversationId,
        target: &Target,
        text: String,
        client_key: Option<String>,
        no_queue: bool,
    ) -> Accepting {
        let (store, caller) = (self.parts.shared.store.clone(), (*self.parts.caller).clone());
        match target {
            Target::Session(_) => {
                let command = AcceptChat {
                    conversation_id,
                    caller,
                    from: None,
                    text,
                    client_key,
                    socket_id: Some(self.id),
                    gateway_up: self.is_up(target),
                    no_queue,
                    queued_max: self.parts.shared.limits.queued_per_session_max,
                    line_only: None,
                };
                Box::pin(async move { store.write(command).await })
            }
            Target::Talk(talk) => {
                let limits = talk.limits;
                let command = Ask { conversation_id, caller, from: None, text, client_key, line_only: None, limits };
                Box::pin(async move { store.write(command).await })
            }
        }
    }

    fn abort(&mut self, abort: inbound::Abort) -> Done {
        let target = match self.may_write().and_then(|()| self.name(&abort.named)) {
            Ok(target) => target,
            Err(error) => return self.refuse(error, Some(&abort.named), None),
        };
        let Some(gateway_id) = target.gateway_id().cloned() else {
            let error = Error::new(ErrorCode::InvalidRequest, "what an agent works on cannot be ended from here");
            return self.refuse(error, Some(&abort.named), None);
        };
        let opened = self.open(target, Open::Find, GoLive::AtOnce);
        Box::pin(opened.then(move |opened, this: &mut Self, _| -> Done {
            let id = match opened {
                Ok(Some(id)) => id,
                Ok(None) => return Box::pin(done()),
                Err(error) => return this.refuse(error, Some(&abort.named), None),
            };
            let turn_id = match abort.run_id.as_deref().map(str::parse::<TurnId>).transpose() {
                Ok(turn_id) => turn_id,
                // No run of ours has such an id.
                Err(_) => return Box::pin(done()),
            };
            let (reply, taken) = oneshot::channel();
            let request =
                LinkRequest::Abort { conversation_id: id, turn_id, queued: abort.queued == Some(true), reply };
            if this.parts.shared.links.try_send(ToLink { gateway_id: gateway_id.clone(), request }).is_err() {
                return this.refuse(Error::store_busy(), Some(&abort.named), None);
            }
            let taken = tokio::time::timeout(ABORT_WAIT, taken).into_actor(this);
            Box::pin(taken.then(move |taken, this: &mut Self, _| -> Done {
                let error = match taken {
                    // A link that still reads what is stored takes it up when it has.
                    Ok(Ok(Ok(()))) | Err(_) => return Box::pin(done()),
                    Ok(Ok(Err(error))) => error,
                    Ok(Err(_)) => Error::new(
                        ErrorCode::GatewayUnavailable,
                        format!("gateway `{gateway_id}` is being started anew; abort again"),
                    ),
                };
                this.refuse(error, Some(&abort.named), None)
            }))
        }))
    }

    fn history(&mut self, history: inbound::History) -> Done {
        let rows_max = self.parts.shared.limits.page_rows_max as i64;
        let limit = history.limit.unwrap_or(PAGE_DEFAULT);
        let before = history.before.as_deref().map(str::parse::<MessageId>).transpose();
        let checked = match (self.name(&history.named), before) {
            (Err(error), _) => Err(error),
            (_, Err(_)) => Err(Error::new(ErrorCode::NotFound, "`before` must be the id of a message of this session")),
            _ if !(1..=rows_max).contains(&limit) => {
                Err(Error::new(ErrorCode::ValidationError, format!("`limit` must lie between 1 and {rows_max}")))
            }
            (Ok(target), Ok(before)) => Ok((target, before)),
        };
        let (target, before) = match checked {
            Ok(checked) => checked,
            Err(error) => return self.refuse(error, Some(&history.named), None),
        };
        let unknown = Topic {
            conversation_id: ConversationId::new(),
            gateway_id: target.gateway_id().cloned(),
            key: self.key_of(&target).into(),
        };
        let opened = self.open(target, Open::FindOrMake, GoLive::AfterContact);
        Box::pin(opened.then(move |opened, this: &mut Self, _| -> Done {
            let id = match opened {
                Ok(Some(id)) => id,
                // A session that is not there, or is another's, has no lines to show.
                Ok(None) => return this.empty_history(unknown),
                Err(error) if error.code() == ErrorCode::AlreadyExists => return this.empty_history(unknown),
                Err(error) => return this.refuse(error, Some(&history.named), None),
            };
            let (store, bytes) = (this.parts.shared.store.clone(), this.parts.shared.limits.page_bytes_max);
            let page = async move {
                store
                    .read(move |db| {
                        let span = match before {
                            None => Span::Newest,
                            Some(message) => match messages::place_of(db, message)? {
                                Some((place, seq)) if place == id => Span::Before(seq),
                                _ => return Err(Error::not_found("message", message)),
                            },
                        };
                        let lines = messages::page(db, id, span, limit, bytes)?;
                        let first_seq = conversations::get(db, id)?.map_or(0, |conversation| conversation.first_seq);
                        Ok((lines, first_seq))
                    })
                    .await
            };
            Box::pin(page.into_actor(this).map(move |page, this: &mut Self, ctx| match page {
                Ok((lines, first_seq)) => {
                    let Some(topic) = this.watches.get(&id).map(|watch| watch.topic.clone()) else { return };
                    let has_more = lines.first().is_some_and(|line| line.seq > first_seq);
                    let frame = frames::history(&topic, &lines, has_more, this.federated());
                    this.send(frame, ctx);
                }
                Err(error) => {
                    this.tell_error(&error, &history.named, None, ctx);
                }
            }))
        }))
    }

    fn empty_history(&mut self, topic: Topic) -> Done {
        Box::pin(done().map(move |(), this: &mut Self, ctx| {
            let frame = frames::history(&topic, &[], false, this.federated());
            this.send(frame, ctx);
        }))
    }

    /// `subscribe`, or `resume` after a line the client has.
    fn subscribe(&mut self, named: Named, after: Option<i64>) -> Done {
        let target = match self.name(&named) {
            Ok(target) => target,
            Err(error) => return self.refuse(error, Some(&named), None),
        };
        // CNV-1: a line that comes while the log is read belongs behind `resumed` and what was missed.
        let (make, live) =
            if after.is_some() { (Open::Find, GoLive::Later) } else { (Open::FindOrMake, GoLive::AtOnce) };
        // It may be watched already under another of its names.
        let watched: Vec<ConversationId> = self.watches.keys().copied().collect();
        let opened = self.open(target, make, live);
        Box::pin(opened.then(move |opened, this: &mut Self, _| -> Done {
            let hidden = |error: &Error| error.code() == ErrorCode::AlreadyExists;
            let id = match opened {
                Ok(Some(id)) => id,
                Err(error) if !hidden(&error) => return this.refuse(error, Some(&named), None),
                _ => {
                    let error = Error::new(ErrorCode::NotFound, "the session does not exist");
                    return this.refuse(error, Some(&named), None);
                }
            };
            let held = live == GoLive::Later && !watched.contains(&id);
            let store = this.parts.shared.store.clone();
            let next_seq = this.watches.get(&id).and_then(|watch| watch.next_seq());
            let found = async move { store.read(move |db| found_with_turns(db, id)).await };
            Box::pin(found.into_actor(this).map(move |found, this: &mut Self, ctx| {
                let (found, open) = match found {
                    Ok(found) => found,
                    Err(error) => {
                        if held {
                            this.end_watch(id);
                        }
                        this.tell_error(&error, &named, None, ctx);
                        return;
                    }
                };
                // What the socket sends by itself begins at its own next line.
                let last_seq = next_seq.map_or(found.last_seq, |next| next - 1);
                let federated = this.federated();
                let Some(topic) = this.watches.get(&id).map(|watch| watch.topic.clone()) else { return };
                let run = this.parts.shared.directory.run(id).filter(|live| open.contains(&live.turn_id));
                let Some(after) = after else {
                    this.send(frames::watching("subscribed", &topic, last_seq, run.as_deref(), federated), ctx);
                    this.show_run(id, &open, ctx);
                    return;
                };
                let lines_max = this.parts.shared.limits.resume_lines_max as i64;
                if let Some(reason) = reason_to_reset(after, &found, last_seq, lines_max) {
                    this.send(frames::reset(&topic, reason, found.first_seq, found.last_seq, federated), ctx);
                    if held {
                        this.go_live(id, last_seq, ctx);
                    }
                    return;
                }
                this.send(frames::watching("resumed", &topic, found.last_seq, run.as_deref(), federated), ctx);
                this.go_back(id, after, ctx);
            }))
        }))
    }

    fn mark_read(&mut self, read: inbound::Read) -> Done {
        let (target, seq) = match (self.name(&read.named), read.seq) {
            (Ok(_), _) if self.parts.caller.role < Role::Member => {
                let error = Error::new(ErrorCode::Forbidden, "a viewer's socket is read-only");
                return self.refuse(error, Some(&read.named), None);
            }
            (Ok(target), Some(seq)) => (target, seq),
            (Ok(_), None) => {
                let error = Error::new(ErrorCode::BadFrame, "`read` needs `seq`: the last line that was read");
                return self.refuse(error, Some(&read.named), None);
            }
            (Err(error), _) => return self.refuse(error, Some(&read.named), None),
        };
        let opened = self.open(target, Open::Find, GoLive::AtOnce);
        Box::pin(opened.then(move |opened, this: &mut Self, _| -> Done {
            let id = match opened {
                Ok(Some(id)) => id,
                Ok(None) => {
                    let error = Error::new(ErrorCode::NotFound, "the session does not exist");
                    return this.refuse(error, Some(&read.named), None);
                }
                Err(error) => return this.refuse(error, Some(&read.named), None),
            };
            let (store, party) = (this.parts.shared.store.clone(), this.parts.caller.party_id);
            let marked = async move { store.write_bulk(MarkRead { id, party, seq }).await };
            Box::pin(marked.into_actor(this).map(move |marked, this: &mut Self, ctx| {
                if let Err(error) = marked {
                    this.tell_error(&error, &read.named, None, ctx);
                }
            }))
        }))
    }
}

/// A future of the actor that is done.
fn done() -> actix::fut::Ready<()> {
    actix::fut::ready(())
}
