//! Who may call by an agent's key, and when each agent called last.
//!
//! All keys that count are in memory, so that a call with a wrong one costs no look into the database, and a heartbeat
//! costs no write: what was seen is noted in atomics here and written down now and then.
mod named;
mod recent;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};

pub use self::named::{Name, Named};
pub use self::recent::{Before, Recent};
use super::agent_mailbox::Cards;
use super::digests::Digests;
use super::directory::{read, write};
use crate::domain::agent::{Agent, KeyFacts};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, AgentKeyId};

/// How long after its last call an agent counts as online.
pub const ONLINE_MS: i64 = 300_000;

/// When keys were used and agents seen, to be written down.
type Used = (Vec<(AgentKeyId, i64)>, Vec<(AgentId, i64)>);

/// The agents' keys and presence and their open mailboxes, as this node knows them.
#[derive(Default)]
pub struct Agents {
    known: RwLock<Known>,
    cards: Cards,
    named: Named,
    recent: Recent,
}

#[derive(Default)]
struct Known {
    keys: Digests<AgentKeyId, Kept>,
    /// Agents that have keys, or had.
    agents: HashMap<AgentId, Presence>,
}

struct Kept {
    key: Arc<KeyFacts>,
    /// When it was used since that was written down last; 0 if it was not.
    used_at: AtomicI64,
}

#[derive(Default)]
struct Presence {
    keys: Vec<AgentKeyId>,
    /// When the agent called last; 0 if it did not since this node became active.
    seen_at: AtomicI64,
    noted_at: AtomicI64,
}

impl Known {
    fn add(&mut self, digest: [u8; 32], key: Arc<KeyFacts>) {
        let presence = self.agents.entry(key.agent.id).or_default();
        if !presence.keys.contains(&key.key_id) {
            presence.keys.push(key.key_id);
        }
        self.keys.add(key.key_id, digest, Kept { key, used_at: AtomicI64::new(0) });
    }

    fn note_use(&self, kept: &Kept, now_ms: i64) {
        kept.used_at.fetch_max(now_ms, Ordering::Relaxed);
        if let Some(presence) = self.agents.get(&kept.key.agent.id) {
            presence.seen_at.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    fn end(&mut self, id: AgentKeyId) {
        let Some(kept) = self.keys.end(&id) else { return };
        if let Some(presence) = self.agents.get_mut(&kept.key.agent.id) {
            presence.keys.retain(|known| *known != id);
        }
    }
}

impl Agents {
    /// The mailboxes that are open.
    pub fn cards(&self) -> &Cards {
        &self.cards
    }

    /// Whom senders mean by names.
    pub fn named(&self) -> &Named {
        &self.named
    }

    /// The newest lines of their conversations.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Tells the mailboxes, and all that is kept of what agents ask for, of what was committed. Called by the writer's
    /// thread, in the order of commitment and before anybody is answered.
    pub fn publish(&self, events: &[Event]) {
        self.named.publish(events);
        self.recent.publish(events);
        self.cards.publish(events);
    }

    /// Tells whether an agent has keys, or had: one that was removed is not known any more.
    pub fn knows(&self, id: AgentId) -> bool {
        read(&self.known).agents.contains_key(&id)
    }

    /// Finds whose key this is, by its digest, and notes that it was used and its agent seen.
    pub fn key(&self, digest: &[u8; 32], now_ms: i64) -> Option<Arc<KeyFacts>> {
        let known = read(&self.known);
        let kept = known.keys.get(digest).filter(|kept| !has_ended(&kept.key, now_ms))?;
        known.note_use(kept, now_ms);
        Some(kept.key.clone())
    }

    /// Tells whether a key counts, without noting a use of it.
    pub fn counts(&self, id: AgentKeyId, now_ms: i64) -> bool {
        read(&self.known).keys.of(&id).is_some_and(|kept| !has_ended(&kept.key, now_ms))
    }

    /// Returns a key as it is now, if it counts, without noting a use of it.
    pub fn current(&self, id: AgentKeyId, now_ms: i64) -> Option<Arc<KeyFacts>> {
        let known = read(&self.known);
        known.keys.of(&id).filter(|kept| !has_ended(&kept.key, now_ms)).map(|kept| kept.key.clone())
    }

    /// Notes that an agent is there, by a key that it showed before.
    pub fn note_seen(&self, id: AgentKeyId, now_ms: i64) {
        let known = read(&self.known);
        let Some(kept) = known.keys.of(&id).filter(|kept| !has_ended(&kept.key, now_ms)) else { return };
        known.note_use(kept, now_ms);
    }

    /// Returns when an agent called last, if it did since this node became active.
    pub fn seen_at(&self, id: AgentId) -> Option<i64> {
        let seen_at = read(&self.known).agents.get(&id)?.seen_at.load(Ordering::Relaxed);
        (seen_at > 0).then_some(seen_at)
    }

    /// Counts the agents that are online, as far as they called since this node became active.
    pub fn online(&self, now_ms: i64) -> usize {
        let is_online = |presence: &&Presence| {
            let seen_at = presence.seen_at.load(Ordering::Relaxed);
            seen_at > 0 && now_ms - seen_at < ONLINE_MS
        };
        read(&self.known).agents.values().filter(is_online).count()
    }

    /// Lets these keys count, and no others; what was kept of another time is forgotten.
    pub fn set_keys(&self, keys: Vec<([u8; 32], KeyFacts)>) {
        self.named.forget();
        self.recent.forget();
        let mut known = Known::default();
        for (digest, key) in keys {
            known.add(digest, Arc::new(key));
        }
        *write(&self.known) = known;
    }

    /// Lets a key count from now on.
    pub fn add(&self, digest: [u8; 32], key: Arc<KeyFacts>) {
        write(&self.known).add(digest, key);
    }

    /// Ends a key.
    pub fn end(&self, id: AgentKeyId) {
        write(&self.known).end(id);
    }

    /// Has the keys of an agent stand for it as it is now, or ends them.
    pub fn change(&self, id: AgentId, now: Option<&Agent>) {
        let mut known = write(&self.known);
        let Known { keys, agents } = &mut *known;
        let Some(agent) = now else {
            let ended = agents.remove(&id).map(|presence| presence.keys).unwrap_or_default();
            ended.iter().for_each(|key| drop(keys.end(key)));
            return;
        };
        let Some(presence) = agents.get(&id) else { return };
        let facts = Arc::new(agent.facts());
        for key in &presence.keys {
            if let Some(kept) = keys.of_mut(key) {
                kept.key = Arc::new(KeyFacts { agent: facts.clone(), ..KeyFacts::clone(&kept.key) });
            }
        }
    }

    /// Takes what is to be written down, and forgets keys that have expired.
    pub fn take_used(&self, now_ms: i64) -> Used {
        let (mut used, mut seen, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        let known = read(&self.known);
        for kept in known.keys.values() {
            let used_at = kept.used_at.swap(0, Ordering::Relaxed);
            if used_at > 0 {
                used.push((kept.key.key_id, used_at));
            }
            if has_ended(&kept.key, now_ms) {
                ended.push(kept.key.key_id);
            }
        }
        for (id, presence) in &known.agents {
            let seen_at = presence.seen_at.load(Ordering::Relaxed);
            if presence.noted_at.swap(seen_at, Ordering::Relaxed) < seen_at {
                seen.push((*id, seen_at));
            }
        }
        drop(known);
        if !ended.is_empty() {
            let mut known = write(&self.known);
            ended.into_iter().for_each(|key| known.end(key));
        }
        (used, seen)
    }

    /// Forgets the keys: another node may change them now. The mailboxes are told to stop by the event of it.
    pub fn forget(&self) {
        *write(&self.known) = Known::default();
    }

    /// Returns how many keys are held.
    pub fn keys(&self) -> usize {
        read(&self.known).keys.values().count()
    }
}

fn has_ended(key: &KeyFacts, now_ms: i64) -> bool {
    key.expires_at.is_some_and(|at| at <= now_ms)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::agent::{AgentKind, AgentState};
    use crate::domain::ids::PartyId;

    pub(super) fn agent(name: &str) -> Agent {
        Agent {
            id: AgentId::new(),
            party_id: PartyId::new(),
            slug: name.to_owned(),
            name: name.to_owned(),
            kind: AgentKind::OpenClaw,
            state: AgentState::Running,
            role_description: String::new(),
            creator_id: None,
            labels: BTreeMap::new(),
            lease_seconds: None,
            attempts_max: None,
            model: None,
            last_seen_at: None,
            created_at: 0,
            updated_at: 0,
        }
    }

    fn key(of: &Agent, expires_at: Option<i64>) -> Arc<KeyFacts> {
        Arc::new(KeyFacts { key_id: AgentKeyId::new(), agent: Arc::new(of.facts()), expires_at })
    }

    #[test]
    fn keys_of_one_agent_overlap_and_end_one_by_one() {
        let (agents, ann) = (Agents::default(), agent("ann"));
        let (old, new) = (key(&ann, None), key(&ann, Some(100)));
        agents.add([1; 32], old.clone());
        agents.add([2; 32], new.clone());
        assert_eq!((agents.key(&[1; 32], 50), agents.key(&[2; 32], 99)), (Some(old.clone()), Some(new.clone())));
        let counts = |at: i64| (agents.counts(old.key_id, at), agents.counts(new.key_id, at));
        assert_eq!((counts(99), counts(100)), ((true, true), (true, false)));
        agents.end(old.key_id);
        assert_eq!((agents.key(&[1; 32], 50), counts(99)), (None, (false, true)));
        assert_eq!(agents.key(&[2; 32], 100), None, "it expires at this time");
        assert_eq!(agents.seen_at(ann.id), Some(99), "what was refused was not seen");
        assert_eq!(agents.keys(), 1);
        agents.take_used(100);
        assert_eq!(agents.keys(), 0, "an expired key is not held for ever");
    }

    #[test]
    fn a_socket_is_a_sign_of_life_while_its_key_counts() {
        let (agents, ann) = (Agents::default(), agent("ann"));
        let its = key(&ann, Some(100));
        agents.add([1; 32], its.clone());
        assert_eq!((agents.current(its.key_id, 99), agents.current(its.key_id, 100)), (Some(its.clone()), None));
        assert_eq!(agents.seen_at(ann.id), None, "to look is no use of it");
        agents.note_seen(its.key_id, 99);
        agents.note_seen(its.key_id, 100);
        agents.note_seen(AgentKeyId::new(), 100);
        assert_eq!(agents.take_used(99), (vec![(its.key_id, 99)], vec![(ann.id, 99)]));
    }

    #[test]
    fn a_change_of_an_agent_reaches_its_keys_and_no_others() {
        let (agents, ann, ben) = (Agents::default(), agent("ann"), agent("ben"));
        let (of_ann, of_ben) = (key(&ann, None), key(&ben, None));
        agents.set_keys(vec![([1; 32], KeyFacts::clone(&of_ann)), ([2; 32], KeyFacts::clone(&of_ben))]);
        let paused = Agent { state: AgentState::Paused, ..ann.clone() };
        agents.change(ann.id, Some(&paused));
        let found = agents.key(&[1; 32], 1).expect("a paused agent's key counts");
        assert_eq!((found.key_id, found.agent.state), (of_ann.key_id, AgentState::Paused));
        assert_eq!(agents.key(&[2; 32], 1), Some(of_ben));
        agents.change(ann.id, None);
        assert_eq!((agents.key(&[1; 32], 1), agents.seen_at(ann.id)), (None, None));
        assert!(agents.key(&[2; 32], 1).is_some());
        agents.forget();
        assert_eq!((agents.key(&[2; 32], 1), agents.keys()), (None, 0));
    }

    #[test]
    fn agents_that_called_of_late_are_counted() {
        let (agents, ann, ben) = (Agents::default(), agent("ann"), agent("ben"));
        agents.add([1; 32], key(&ann, None));
        agents.add([2; 32], key(&ben, None));
        assert_eq!(agents.online(1), 0, "nobody has called");
        agents.key(&[1; 32], 1);
        agents.key(&[2; 32], 1_000);
        assert_eq!([ONLINE_MS, ONLINE_MS + 1, ONLINE_MS + 1_000].map(|at| agents.online(at)), [2, 1, 0]);
        agents.change(ben.id, None);
        assert_eq!(agents.online(1_000), 1, "one that was removed is nowhere");
    }

    #[test]
    fn what_was_seen_is_written_down_once() {
        let (agents, ann) = (Agents::default(), agent("ann"));
        let its = key(&ann, None);
        agents.add([1; 32], its.clone());
        assert_eq!(agents.take_used(1), (vec![], vec![]));
        agents.key(&[1; 32], 7);
        agents.key(&[1; 32], 5);
        assert_eq!(agents.take_used(8), (vec![(its.key_id, 7)], vec![(ann.id, 7)]));
        assert_eq!(agents.take_used(9), (vec![], vec![]));
        assert_eq!(agents.seen_at(ann.id), Some(7), "it is still known");
    }
}
