//! Which conversation a frame names, and how a socket begins to watch it.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::inbound::{self, Named};
use super::watch::GoLive;
use super::{BrowserSession, Scope, Talk};
use crate::actors::messages::{LinkRequest, ToLink};
use crate::domain::agent::AgentFacts;
use crate::domain::conversation::{Conversation, user_agent_key};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Topic;
use crate::domain::ids::{ConversationId, GatewayId};
use crate::domain::session_key::SessionKey;
use crate::domain::user::Role;
use crate::store::audit::Actor as Author;
use crate::store::conversations::{self, NewSession, OpenSession, SessionName};
use crate::store::mailbox::OpenUserAgent;

/// How long the first `history` of a session waits for the gateway's own log, so that a client that asks once gets it.
const CONTACT_WAIT: Duration = Duration::from_secs(3);

/// What a frame names.
#[derive(Clone)]
pub(super) enum Target {
    /// A session on a gateway.
    Session(SessionName),
    /// The user's conversation with the socket's agent.
    Talk(Arc<Talk>),
}

impl Target {
    pub(super) fn gateway_id(&self) -> Option<&GatewayId> {
        match self {
            Self::Session(name) => Some(&name.gateway_id),
            Self::Talk(_) => None,
        }
    }
}

/// Whether a session that is not known here is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    Find,
    FindOrMake,
}

pub(super) type Opened = ResponseActFuture<BrowserSession, Result<Option<ConversationId>, Error>>;
type Found = LocalBoxFuture<'static, Result<Option<Conversation>, Error>>;

impl BrowserSession {
    /// Finds out which session a frame names.
    pub(super) fn name(&self, named: &Named) -> Result<Target, Error> {
        let gateway_id: GatewayId = match (&self.parts.scope, &named.gateway_id) {
            (Scope::Agent(talk), _) => return self.name_talk(talk, named),
            (Scope::Gateway(own), None) => own.clone(),
            (Scope::Gateway(own), Some(id)) if id == own.as_str() => own.clone(),
            (Scope::Gateway(own), Some(_)) => {
                return Err(Error::new(ErrorCode::BadFrame, format!("this socket talks to gateway `{own}` only")));
            }
            // What cannot be a gateway's id is no gateway's id.
            (Scope::Federated, Some(id)) => id.parse().map_err(|_| inbound::unknown_gateway(id))?,
            (Scope::Federated, None) => {
                return Err(Error::new(ErrorCode::BadFrame, "on a federated socket a frame needs `gatewayId`"));
            }
        };
        let directory = &self.parts.shared.directory;
        let card = directory.known(|directory| directory.gateway(&gateway_id))?;
        let card = card.ok_or_else(|| inbound::unknown_gateway(gateway_id.as_str()))?;
        let key = named.session_key.as_deref().unwrap_or_default();
        let key: SessionKey =
            key.parse().map_err(|error: Error| Error::new(ErrorCode::BadFrame, error.message().to_owned()))?;
        Ok(Target::Session(SessionName::new(gateway_id, &key, card.status.default_agent.as_deref())))
    }

    /// With an agent a user has one conversation, which needs no name.
    fn name_talk(&self, talk: &Arc<Talk>, named: &Named) -> Result<Target, Error> {
        let target = Target::Talk(talk.clone());
        match named.session_key.as_deref() {
            None | Some("") => Ok(target),
            Some(key) if key == self.key_of(&target) => Ok(target),
            Some(_) => Err(Error::new(
                ErrorCode::NotFound,
                "on this socket there is one session, your own with the agent; leave `sessionKey` out",
            )),
        }
    }

    /// Returns what frames call it by.
    pub(super) fn key_of(&self, target: &Target) -> String {
        match target {
            Target::Session(name) => name.key.clone(),
            Target::Talk(talk) => user_agent_key(self.parts.caller.user_id, talk.agent.id),
        }
    }

    /// Returns the conversation of a name that was opened before.
    pub(super) fn known(&self, target: &Target) -> Option<ConversationId> {
        match target {
            Target::Session(name) => self.names.get(&(name.gateway_id.clone(), name.key.clone())).copied(),
            Target::Talk(_) => self.talk,
        }
    }

    pub(super) fn forget_names_of(&mut self, id: ConversationId) {
        self.names.retain(|_, named| *named != id);
        self.talk = self.talk.filter(|known| *known != id);
    }

    /// Finds the session of this name, or makes it, and begins to watch it.
    pub(super) fn open(&mut self, target: Target, open: Open, live: GoLive) -> Opened {
        if let Some(id) = self.known(&target) {
            return Box::pin(actix::fut::ready(Ok(Some(id))));
        }
        let found = match &target {
            Target::Session(name) => self.find_session(name.clone(), open),
            Target::Talk(talk) => self.find_talk(&talk.agent),
        };
        Box::pin(found.into_actor(self).then(move |found, this: &mut Self, _| -> Opened {
            match found {
                Ok(Some(conversation)) => this.begin(target, conversation, live),
                Ok(None) => Box::pin(actix::fut::ready(Ok(None))),
                Err(error) => Box::pin(actix::fut::ready(Err(error))),
            }
        }))
    }

    fn find_session(&self, wanted: SessionName, open: Open) -> Found {
        let (store, caller) = (self.parts.shared.store.clone(), self.parts.caller.clone());
        Box::pin(async move {
            let found = {
                let name = wanted.clone();
                store.read(move |db| conversations::find(db, &name)).await?
            };
            match found {
                Some(found) if caller.may_read(found.owner_id) => Ok(Some(found)),
                // What is not yours does not exist (SEC-2); only whoever would make it hears that the name is taken.
                Some(_) if open == Open::Find => Ok(None),
                Some(_) => Err(Error::new(
                    ErrorCode::AlreadyExists,
                    format!("the session key `{}` is taken on gateway `{}`", wanted.key, wanted.gateway_id),
                )),
                None if open == Open::Find || caller.role < Role::Member => Ok(None),
                None => {
                    let command = OpenSession {
                        name: wanted,
                        caller: (*caller).clone(),
                        new: NewSession::default(),
                        must_be_new: false,
                    };
                    store.write(command).await.map(Some)
                }
            }
        })
    }

    /// Finds the user's conversation with an agent, which is made when it is used first; a viewer has none.
    fn find_talk(&self, agent: &AgentFacts) -> Found {
        let (store, caller) = (self.parts.shared.store.clone(), self.parts.caller.clone());
        let agent_id = agent.id;
        Box::pin(async move {
            if caller.role < Role::Member {
                return Ok(None);
            }
            let actor = Author::caller(&caller, None, None);
            let opened = store.write(OpenUserAgent { user_id: caller.user_id, agent_id, actor }).await;
            opened.map(|(conversation, _)| Some(conversation))
        })
    }

    /// Begins to watch a session that was found; it is live when this is done, unless that is the caller's to say.
    fn begin(&mut self, target: Target, conversation: Conversation, live: GoLive) -> Opened {
        let id = conversation.id;
        let gateway_id = target.gateway_id().cloned();
        match target {
            Target::Session(name) => drop(self.names.insert((name.gateway_id, name.key), id)),
            Target::Talk(_) => self.talk = Some(id),
        }
        if self.watches.contains_key(&id) {
            return Box::pin(actix::fut::ready(Ok(Some(id))));
        }
        let topic = Arc::new(Topic {
            conversation_id: id,
            gateway_id: gateway_id.clone(),
            key: conversation.key.as_str().into(),
        });
        if let Err(error) = self.begin_watch(topic) {
            self.forget_names_of(id);
            return Box::pin(actix::fut::ready(Err(error)));
        }
        let contacted = conversation.upstream.contacted;
        let touched = gateway_id.map(|gateway_id| self.touch(gateway_id, id));
        let store = self.parts.shared.store.clone();
        let ends = async move {
            if live == GoLive::AfterContact
                && !contacted
                && let Some(touched) = touched
            {
                // Without an answer in time the history is what there is; `imported` tells when more has come.
                let _ = tokio::time::timeout(CONTACT_WAIT, touched).await;
            }
            store.read(move |db| conversations::get(db, id)).await
        };
        Box::pin(ends.into_actor(self).map(move |ends, this: &mut Self, ctx| match ends {
            Ok(Some(found)) => {
                if live != GoLive::Later {
                    this.go_live(id, found.last_seq, ctx);
                }
                Ok(Some(id))
            }
            Ok(None) => {
                this.end_watch(id);
                Ok(None)
            }
            Err(error) => {
                this.end_watch(id);
                Err(error)
            }
        }))
    }

    /// Tells the link that someone looks at the session.
    fn touch(&self, gateway_id: GatewayId, conversation_id: ConversationId) -> oneshot::Receiver<Result<(), Error>> {
        let (reply, touched) = oneshot::channel();
        let request = LinkRequest::Touch { conversation_id, reply };
        // A supervisor that is overrun does not hear it; the next question contacts the session all the same.
        let _ = self.parts.shared.links.try_send(ToLink { gateway_id, request });
        touched
    }
}
