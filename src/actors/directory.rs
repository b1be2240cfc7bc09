//! What everybody may read without asking an actor: the gateways' live status, the runs in progress, who may call. The
//! agents among them are in `agents.rs`.
//!
//! Written by the actors that own the facts, read by the edge. Locks are held for a look-up, never across an await.
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::agents::Agents;
use super::channels::Channels;
use super::digests::Digests;
use crate::channels::setup::Provider;
use crate::domain::channel::Channel;
use crate::domain::error::Error;
use crate::domain::event::{Event, Live};
use crate::domain::gateway::{Gateway, LinkState, LinkStatus};
use crate::domain::ids::{AgentId, ChannelId, ConversationId, GatewayId, TokenId, TurnId, UserId};
use crate::domain::user::{Caller, Role};

/// A registered gateway with its live status.
#[derive(Clone, Debug)]
pub struct GatewayCard {
    pub gateway: Arc<Gateway>,
    pub status: Arc<LinkStatus>,
}

/// The live facts of this node.
#[derive(Default)]
pub struct Directory {
    gateways: RwLock<HashMap<GatewayId, GatewayCard>>,
    runs: RwLock<HashMap<ConversationId, Arc<Live>>>,
    /// Who may call by a token.
    callers: RwLock<Digests<TokenId, Arc<Caller>>>,
    agents: Agents,
    channels: Channels,
    /// Whom a trusted local client stands for; `None` where local clients need a token like everybody.
    trusted: RwLock<Option<Arc<Caller>>>,
    /// Tokens used since they were written down last, with the time.
    used: RwLock<HashMap<TokenId, i64>>,
    /// Counts what changes who may call, what is served and which runs are in progress.
    changes: AtomicU64,
    /// Something may have been committed that nobody was told of, and the node has not begun anew since.
    in_doubt: AtomicBool,
    active: AtomicBool,
    stopping: AtomicBool,
    /// Until when this node may speak for the database, in wall-clock milliseconds; `i64::MAX` where no other can (D5).
    lease_until: AtomicI64,
    /// The same on the monotonic clock, which no correction of the time moves.
    lease_until_instant: RwLock<Option<tokio::time::Instant>>,
    sockets: AtomicU64,
    sockets_by_user: RwLock<HashMap<UserId, usize>>,
    sockets_by_agent: RwLock<HashMap<AgentId, usize>>,
}

/// A socket's place among those of its agent; free again when it is dropped.
pub struct AgentSeat {
    directory: Arc<Directory>,
    agent: AgentId,
}

impl Drop for AgentSeat {
    fn drop(&mut self) {
        self.directory.count_out(&self.directory.sockets_by_agent, self.agent);
    }
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    // A writer that panicked left plain data behind; it is still the best there is.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    /// Takes in what was committed, before whoever made the change is answered: a new credential works at once, an ended
    /// one no more.
    pub fn on_event(&self, event: &Event) {
        // Before it is taken in: whoever replaces what is known sees the number moved, or the change comes after it.
        if matches!(
            event,
            Event::TokenAdded { .. }
                | Event::TokenEnded { .. }
                | Event::UserChanged { .. }
                | Event::AgentKeyAdded { .. }
                | Event::AgentKeyEnded { .. }
                | Event::AgentChanged { .. }
                | Event::GatewayChanged { .. }
                | Event::ChannelChanged { .. }
                | Event::Line { end: Some(_), .. }
                | Event::TurnEnded { .. }
                | Event::ConversationDeleted { .. }
                | Event::OutcomeUnknown
        ) {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        match event {
            Event::Line { topic, end: Some(end), .. } | Event::TurnEnded { topic, end } => {
                self.end_run(topic.conversation_id, end.turn_id);
            }
            Event::ConversationDeleted { topic, .. } => self.forget_runs_of(topic.conversation_id),
            Event::TokenAdded { digest, caller } => self.add_caller(*digest, caller.clone()),
            Event::TokenEnded { token_id } => self.end_token(*token_id),
            Event::UserChanged { user_id, now } => self.change_user(*user_id, now.as_ref()),
            Event::AgentKeyAdded { digest, key } => self.agents.add(*digest, key.clone()),
            Event::Delivery { delivery, .. } if delivery.channel_id.is_some() => self.channels.on_delivery(delivery),
            Event::AgentKeyEnded { key_id, .. } => self.agents.end(*key_id),
            Event::AgentChanged { agent_id, now } => self.agents.change(*agent_id, now.as_deref()),
            Event::OutcomeUnknown => self.in_doubt.store(true, Ordering::SeqCst),
            _ => {}
        }
    }

    /// Returns how often the store has changed, or may have, what is read of it when a node begins: the gateways, the runs
    /// that are in progress and who may call. Where the number moved since before the reading, it must be read again.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Tells whether the node is about to begin anew, because what it knows may not be all that is stored (D12).
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::SeqCst)
    }

    /// Says that the node reads anew what is stored.
    pub fn end_doubt(&self) {
        self.in_doubt.store(false, Ordering::SeqCst);
    }

    /// Who may call by an agent's key, and when each agent was seen.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The channels to people.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Keeps a channel as it was found by a [reading](Channels::begin_reading), or takes it out; agents are told by
    /// which ways people can be reached.
    pub fn set_channel(&self, id: ChannelId, reading: u64, found: Option<(Channel, Provider)>) {
        self.channels.set(id, reading, found);
        self.agents.cards().forget_related();
    }

    /// Takes a channel out that has just been removed.
    pub fn remove_channel(&self, id: ChannelId) {
        self.set_channel(id, self.channels.begin_reading(), None);
    }

    /// Returns all gateways, by id.
    pub fn gateways(&self) -> Vec<GatewayCard> {
        let mut cards: Vec<GatewayCard> = read(&self.gateways).values().cloned().collect();
        cards.sort_by(|a, b| a.gateway.id.cmp(&b.gateway.id));
        cards
    }

    pub fn gateway(&self, id: &GatewayId) -> Option<GatewayCard> {
        read(&self.gateways).get(id).cloned()
    }

    /// Tells whether the gateway can take a question now.
    pub fn is_connected(&self, id: &GatewayId) -> bool {
        self.gateway(id).is_some_and(|card| card.status.is_connected())
    }

    /// Adds a gateway or changes it. What is known of it stays, unless it is another one by its address.
    pub fn set_gateway(&self, gateway: Gateway) {
        let mut gateways = write(&self.gateways);
        let known = gateways.get(&gateway.id).filter(|card| card.gateway.url == gateway.url);
        let mut status = known.map(|card| card.status.clone()).unwrap_or_default();
        // Its link says the same in a moment; whoever made the change may ask before.
        let state = match (gateway.enabled, status.state) {
            (false, _) => LinkState::Disabled,
            (true, LinkState::Disabled) => LinkState::Connecting,
            (true, state) => state,
        };
        if state != status.state {
            status = Arc::new(LinkStatus { state, since_ms: gateway.updated_at, ..status.last_known() });
        }
        gateways.insert(gateway.id.clone(), GatewayCard { gateway: Arc::new(gateway), status });
    }

    pub fn remove_gateway(&self, id: &GatewayId) {
        write(&self.gateways).remove(id);
    }

    pub fn set_status(&self, id: &GatewayId, status: Arc<LinkStatus>) {
        if let Some(card) = write(&self.gateways).get_mut(id) {
            card.status = status;
        }
    }

    /// Returns the run in progress in a conversation.
    pub fn run(&self, id: ConversationId) -> Option<Arc<Live>> {
        read(&self.runs).get(&id).cloned()
    }

    /// Notes how far a run has come.
    pub fn set_run(&self, id: ConversationId, live: Arc<Live>) {
        write(&self.runs).insert(id, live);
    }

    /// Takes these runs for those in progress, and no others.
    pub fn set_runs(&self, runs: Vec<(ConversationId, Arc<Live>)>) {
        *write(&self.runs) = runs.into_iter().collect();
    }

    /// Forgets a run that has ended; before its end is told, so that nobody who comes later sees it as running.
    pub fn end_run(&self, id: ConversationId, turn: TurnId) {
        let mut runs = write(&self.runs);
        if runs.get(&id).is_some_and(|live| live.turn_id == turn) {
            runs.remove(&id);
        }
    }

    pub fn forget_runs_of(&self, id: ConversationId) {
        write(&self.runs).remove(&id);
    }

    pub fn runs(&self) -> usize {
        read(&self.runs).len()
    }

    /// Finds who a token stands for, by its digest, and notes that it was used.
    pub fn caller(&self, digest: &[u8; 32], now_ms: i64) -> Option<Arc<Caller>> {
        let caller = read(&self.callers).get(digest).cloned()?;
        if caller.expires_at.is_some_and(|at| at <= now_ms) {
            return None;
        }
        if let Some(token) = caller.token_id {
            write(&self.used).insert(token, now_ms);
        }
        Some(caller)
    }

    pub fn set_callers(&self, callers: Vec<([u8; 32], Caller)>) {
        let known =
            callers.into_iter().filter_map(|(digest, caller)| Some((caller.token_id?, digest, Arc::new(caller))));
        *write(&self.callers) = known.collect();
    }

    /// Returns the caller as it is now, by its token: what was found earlier may have ended or got another role.
    pub fn current(&self, caller: &Caller, now_ms: i64) -> Option<Arc<Caller>> {
        let Some(token) = caller.token_id else {
            return self.trusted().filter(|trusted| trusted.user_id == caller.user_id);
        };
        let callers = read(&self.callers);
        let found = callers.of(&token)?;
        found.expires_at.is_none_or(|at| at > now_ms).then(|| found.clone())
    }

    /// Returns whom a trusted local client stands for.
    pub fn trusted(&self) -> Option<Arc<Caller>> {
        read(&self.trusted).clone()
    }

    pub fn set_trusted(&self, caller: Option<Caller>) {
        *write(&self.trusted) = caller.map(Arc::new);
    }

    /// Lets a token count from now on.
    pub fn add_caller(&self, digest: [u8; 32], caller: Arc<Caller>) {
        if let Some(token) = caller.token_id {
            write(&self.callers).add(token, digest, caller);
        }
    }

    /// Ends a token.
    pub fn end_token(&self, id: TokenId) {
        write(&self.callers).end(&id);
    }

    /// Has the tokens of a user stand for its new name and role, or ends them.
    pub fn change_user(&self, id: UserId, now: Option<&(String, Role)>) {
        let mut callers = write(&self.callers);
        match now {
            None => callers.retain(|caller| caller.user_id != id),
            Some((name, role)) => {
                for caller in callers.values_mut().filter(|caller| caller.user_id == id) {
                    *caller = Arc::new(Caller { name: name.clone(), role: *role, ..Caller::clone(caller) });
                }
            }
        }
    }

    /// Takes what is to be written down of the tokens' use.
    pub fn take_used(&self) -> Vec<(TokenId, i64)> {
        write(&self.used).drain().collect()
    }

    /// Tells whether this node answers: it is the active one and is not about to stop.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Finds what is known only while this node is the active one. One that has lost its lease, if only to begin anew, knows
    /// nothing of it any more: that is no word on what there is.
    pub fn known<T>(&self, find: impl Fn(&Self) -> Option<T>) -> Result<Option<T>, Error> {
        let found = find(self);
        if found.is_some() {
            return Ok(found);
        }
        if !self.is_active() {
            return Err(Error::stands_by());
        }
        // It may have begun anew since: it knows everything before it is active.
        Ok(find(self))
    }

    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::SeqCst);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Tells whether the lease still holds by our own clock; asked before every effect outside (D5).
    pub fn lease_holds(&self, now_ms: i64) -> bool {
        let in_time = read(&self.lease_until_instant).is_none_or(|until| tokio::time::Instant::now() < until);
        in_time && now_ms < self.lease_until.load(Ordering::SeqCst)
    }

    /// Notes until when the lease holds: by wall-clock time, and by monotonic time where it can end at all.
    pub fn set_lease_until(&self, until_ms: i64, until: Option<tokio::time::Instant>) {
        *write(&self.lease_until_instant) = until;
        self.lease_until.store(until_ms, Ordering::SeqCst);
    }

    /// Counts a socket in, unless its user has too many or there are too many in all.
    pub fn enter_socket(&self, user: UserId, of_user_max: usize, sockets_max: usize) -> bool {
        self.count_in(&self.sockets_by_user, user, of_user_max, sockets_max)
    }

    pub fn leave_socket(&self, user: UserId) {
        self.count_out(&self.sockets_by_user, user);
    }

    /// Takes a place for a socket of an agent, unless it has too many or there are too many in all.
    pub fn agent_seat(self: &Arc<Self>, agent: AgentId, of_agent_max: usize, sockets_max: usize) -> Option<AgentSeat> {
        let is_in = self.count_in(&self.sockets_by_agent, agent, of_agent_max, sockets_max);
        is_in.then(|| AgentSeat { directory: self.clone(), agent })
    }

    fn count_in<K: Eq + Hash>(
        &self,
        counts: &RwLock<HashMap<K, usize>>,
        of: K,
        max: usize,
        sockets_max: usize,
    ) -> bool {
        let mut counts = write(counts);
        let count = counts.get(&of).copied().unwrap_or(0);
        if count >= max || self.sockets.load(Ordering::SeqCst) >= sockets_max as u64 {
            return false;
        }
        counts.insert(of, count + 1);
        self.sockets.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn count_out<K: Eq + Hash>(&self, counts: &RwLock<HashMap<K, usize>>, of: K) {
        let mut counts = write(counts);
        if let Some(count) = counts.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&of);
            }
        }
        self.sockets.fetch_sub(1, Ordering::SeqCst);
    }

    /// Forgets what is only known while this node is the active one.
    pub fn forget_live(&self) {
        write(&self.runs).clear();
        write(&self.gateways).clear();
        self.agents.forget();
        self.channels.forget();
    }

    pub fn sockets(&self) -> u64 {
        self.sockets.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::ErrorCode;
    use crate::domain::event::GatewayChange;
    use crate::domain::ids::{AgentId, AgentKeyId};

    #[test]
    fn a_node_that_has_lost_its_lease_does_not_say_what_there_is() {
        let directory = Directory::default();
        let refused = directory.known(|_| None::<()>).map_err(|error| error.code());
        assert_eq!(refused, Err(ErrorCode::Standby));
        assert_eq!(directory.known(|_| Some(1)).ok(), Some(Some(1)), "what it has heard of it may tell");
        directory.set_active(true);
        assert_eq!(directory.known(|_| None::<()>).ok(), Some(None));
        // It begins anew between two looks.
        let looks = AtomicU64::new(0);
        let found = directory.known(|_| (looks.fetch_add(1, Ordering::SeqCst) > 0).then_some(1));
        assert_eq!(found.ok(), Some(Some(1)));
    }

    #[test]
    fn what_changes_who_may_call_is_counted() {
        let directory = Directory::default();
        let agent_id = AgentId::new();
        let counted = [
            Event::TokenEnded { token_id: TokenId::new() },
            Event::UserChanged { user_id: UserId::new(), now: None },
            Event::AgentKeyEnded { agent_id, key_id: AgentKeyId::new() },
            Event::AgentChanged { agent_id, now: None },
            Event::GatewayChanged { gateway_id: "gw".parse().expect("a name"), change: GatewayChange::Removed },
            Event::ChannelChanged { channel_id: ChannelId::new() },
            Event::OutcomeUnknown,
        ];
        for event in &counted {
            let before = directory.changes();
            directory.on_event(event);
            assert_eq!(directory.changes(), before + 1, "{event:?}");
        }
        directory.on_event(&Event::SteppedDown);
        assert_eq!(directory.changes(), counted.len() as u64);
        assert!(directory.is_in_doubt());
        directory.end_doubt();
        assert!(!directory.is_in_doubt());
    }
}
