//! Whom senders mean by the names that they use: looked up once, and forgotten when anybody is called or known otherwise.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::event::Event;
use crate::domain::ids::AgentId;

/// Names that are kept; beyond it all are looked up anew.
const KEPT_MAX: usize = 10_000;

/// A name as somebody used it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub asker: AgentId,
    /// By which channel it was to go, as the asker said.
    pub channel: String,
    pub text: String,
}

/// The agents that are meant by names.
#[derive(Default)]
pub struct Named {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changes: u64,
    agents: HashMap<Name, AgentId>,
}

impl Named {
    /// Returns which agent is meant; else what [`keep`](Self::keep) wants to know when it was looked up.
    pub fn get(&self, name: &Name) -> Result<AgentId, u64> {
        let state = self.state();
        state.agents.get(name).copied().ok_or(state.changes)
    }

    /// Keeps what was looked up, unless something changed meanwhile.
    pub fn keep(&self, name: Name, agent: AgentId, changes: u64) {
        let mut state = self.state();
        if state.changes != changes {
            return;
        }
        if state.agents.len() >= KEPT_MAX {
            state.agents.clear();
        }
        state.agents.insert(name, agent);
    }

    /// Forgets all of it where somebody is called or known otherwise. Called by the writer's thread before anybody is
    /// answered.
    pub fn publish(&self, events: &[Event]) {
        let is_change = |event: &Event| {
            matches!(
                event,
                Event::AgentChanged { .. }
                    | Event::RelationshipsChanged { .. }
                    | Event::OutcomeUnknown
                    | Event::SteppedDown
            )
        };
        if events.iter().any(is_change) {
            self.forget();
        }
    }

    /// Forgets all names: another node may have changed what they mean.
    pub fn forget(&self) {
        let mut state = self.state();
        state.changes += 1;
        state.agents.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::actors::agents::recent::tests::{line, moved, said, topic};
    use crate::actors::agents::tests::agent;
    use crate::domain::delivery::DeliveryState;
    use crate::domain::event::GatewayChange;
    use crate::domain::ids::{AgentKeyId, ChannelId, TokenId, UserId};

    fn name(text: &str) -> Name {
        Name { asker: AgentId::new(), channel: "agent".to_owned(), text: text.to_owned() }
    }

    /// What is to be said of a name that is looked up from now on.
    fn look_up(named: &Named, name: &Name) -> u64 {
        named.get(name).expect_err("it is not known")
    }

    /// All by which a name may come to mean somebody else.
    fn changes() -> Vec<Event> {
        let (agent_id, now) = (AgentId::new(), Some(Arc::new(agent("ann"))));
        vec![
            Event::AgentChanged { agent_id, now },
            Event::AgentChanged { agent_id, now: None },
            Event::RelationshipsChanged { agents: vec![agent_id] },
            Event::OutcomeUnknown,
            Event::SteppedDown,
        ]
    }

    fn others() -> Vec<Event> {
        let talk = topic();
        let one = line(&talk, 1);
        vec![
            moved(&talk, one.id, DeliveryState::Leased),
            said(&talk, one),
            Event::ConversationDeleted { topic: talk, first_seq: 1, last_seq: 1 },
            Event::TokenEnded { token_id: TokenId::new() },
            Event::UserChanged { user_id: UserId::new(), now: None },
            Event::AgentKeyEnded { agent_id: AgentId::new(), key_id: AgentKeyId::new() },
            Event::ChannelChanged { channel_id: ChannelId::new() },
            Event::GatewayChanged { gateway_id: "default".parse().expect("valid"), change: GatewayChange::Removed },
        ]
    }

    #[test]
    fn what_was_found_is_kept_for_the_same_question() {
        let (named, ann, to) = (Named::default(), name("ann"), AgentId::new());
        let before = look_up(&named, &ann);
        named.keep(ann.clone(), to, before);
        assert_eq!(named.get(&ann), Ok(to));
        for other in [
            name("ann"),
            Name { channel: String::new(), ..ann.clone() },
            Name { text: "Ann".to_owned(), ..ann.clone() },
        ] {
            let before = look_up(&named, &other);
            let another = AgentId::new();
            named.keep(other.clone(), another, before);
            assert_eq!((named.get(&other), named.get(&ann)), (Ok(another), Ok(to)));
        }
    }

    #[test]
    fn what_changed_while_it_was_looked_up_is_not_kept() {
        for event in changes() {
            let (named, ann, to) = (Named::default(), name("ann"), AgentId::new());
            let before = look_up(&named, &ann);
            named.publish(std::slice::from_ref(&event));
            named.keep(ann.clone(), AgentId::new(), before);
            let since = look_up(&named, &ann);
            named.keep(ann.clone(), to, since);
            assert_eq!(named.get(&ann), Ok(to), "it was looked up after {event:?}");
        }
    }

    #[test]
    fn all_is_forgotten_when_somebody_is_called_or_known_otherwise() {
        for event in changes() {
            let (named, names) = (Named::default(), [name("ann"), name("ben")]);
            for name in &names {
                let before = look_up(&named, name);
                named.keep(name.clone(), AgentId::new(), before);
            }
            let batch: Vec<Event> = others().into_iter().chain([event.clone()]).chain(others()).collect();
            named.publish(&batch);
            assert_eq!(names.map(|name| named.get(&name).is_ok()), [false; 2], "{event:?}");
        }
    }

    #[test]
    fn nothing_else_is_a_reason_to_look_up_again() {
        let (named, ann, ben, to) = (Named::default(), name("ann"), name("ben"), AgentId::new());
        let (of_ann, of_ben) = (look_up(&named, &ann), look_up(&named, &ben));
        named.keep(ann.clone(), to, of_ann);
        named.publish(&others());
        named.publish(&[]);
        named.keep(ben.clone(), to, of_ben);
        assert_eq!((named.get(&ann), named.get(&ben)), (Ok(to), Ok(to)));
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let (named, to) = (Named::default(), AgentId::new());
        let first = name("0");
        let nth = |n: usize| Name { text: n.to_string(), ..first.clone() };
        let before = look_up(&named, &first);
        for n in 0..KEPT_MAX {
            named.keep(nth(n), to, before);
        }
        let kept = || named.state().agents.len();
        assert_eq!((kept(), named.get(&first)), (KEPT_MAX, Ok(to)));
        for n in KEPT_MAX..2 * KEPT_MAX + 2 {
            named.keep(nth(n), to, before);
            assert_eq!(named.get(&nth(n)), Ok(to), "the newest one");
            assert!(kept() <= KEPT_MAX);
        }
        assert_eq!(named.get(&first), Err(before), "it made room, and nobody is called otherwise");
    }
}
