//! The supervisor's decisions, as pure functions.
use crate::domain::delivery::DeliveryState;
use crate::domain::event::{Event, GatewayChange};
use crate::domain::ids::{DeliveryId, GatewayId};

/// Restarts within [`WINDOW_MS`] after which a child is parked and reported instead of started again.
pub const RESTARTS_MAX: usize = 10;
/// The time over which restarts are counted.
pub const WINDOW_MS: i64 = 10 * 60 * 1_000;
/// First wait before a child is started again; it doubles with each restart in the window.
const DELAY_MS_MIN: u64 = 100;
const DELAY_MS_MAX: u64 = 30_000;

/// What to do about a child that ended without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    RestartIn {
        ms: u64,
    },
    /// Too many restarts: a person must look at it.
    Park,
}

/// The recent ends of one child.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    ends: Vec<i64>,
    pub total: u64,
    pub parked: bool,
}

impl Restarts {
    /// Notes an unexpected end at `now_ms` and says what to do.
    pub fn on_end(&mut self, now_ms: i64) -> Verdict {
        self.ends.retain(|at| now_ms - at < WINDOW_MS);
        self.ends.push(now_ms);
        self.total += 1;
        if self.ends.len() > RESTARTS_MAX {
            self.parked = true;
            return Verdict::Park;
        }
        let doublings = u32::try_from(self.ends.len() - 1).unwrap_or(u32::MAX).min(16);
        Verdict::RestartIn { ms: (DELAY_MS_MIN << doublings).min(DELAY_MS_MAX) }
    }
}

/// Where an event of the store goes besides the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the link of this gateway.
    Link(GatewayId),
    /// The gateway's link is started anew, or stopped for good.
    RestartLink {
        gateway_id: GatewayId,
        change: GatewayChange,
    },
    Nobody,
}

/// Finds who must hear of an event.
pub fn route(event: &Event) -> Route {
    match event {
        Event::Delivery { topic, delivery, from, .. } => match (&topic.gateway_id, delivery.state, from) {
            // Accepted, given back or started afresh: to be handed out; ended by others: to be forgotten.
            (Some(gateway_id), DeliveryState::Pending | DeliveryState::Cancelled | DeliveryState::Expired, _) => {
                Route::Link(gateway_id.clone())
            }
            _ => Route::Nobody,
        },
        Event::ConversationDeleted { topic, .. } => topic.gateway_id.clone().map_or(Route::Nobody, Route::Link),
        Event::GatewayChanged { gateway_id, change } => {
            Route::RestartLink { gateway_id: gateway_id.clone(), change: *change }
        }
        Event::TokenAdded { .. }
        | Event::TokenEnded { .. }
        | Event::UserChanged { .. }
        | Event::AgentKeyAdded { .. }
        | Event::AgentKeyEnded { .. }
        | Event::AgentChanged { .. }
        | Event::Line { .. }
        | Event::TurnEnded { .. }
        | Event::Imported { .. }
        | Event::SessionRefused { .. }
        | Event::Live { .. }
        | Event::Link { .. }
        | Event::OutcomeUnknown
        | Event::SteppedDown => Route::Nobody,
    }
}

/// What the scheduler must know of an event: the delivery and when it is due, if at all.
pub fn due_change(event: &Event) -> Option<(DeliveryId, Option<i64>)> {
    let Event::Delivery { delivery, .. } = event else { return None };
    Some((delivery.id, delivery.due_at()))
}

/// Tells whether an event leaves slow work behind: lines to index, conversations to purge, mail of a removed agent.
pub fn wants_upkeep(event: &Event) -> bool {
    matches!(
        event,
        Event::Line { .. }
            | Event::Imported { .. }
            | Event::GatewayChanged { change: GatewayChange::Removed, .. }
            | Event::AgentChanged { now: None, .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::AgentId;

    #[test]
    fn a_child_that_keeps_failing_is_started_later_and_later_and_then_parked() {
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        for index in 0..RESTARTS_MAX {
            match restarts.on_end(index as i64) {
                Verdict::RestartIn { ms } => delays.push(ms),
                Verdict::Park => panic!("parked too early"),
            }
        }
        assert_eq!(delays.first(), Some(&100));
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(delays.last(), Some(&30_000));
        assert_eq!(restarts.on_end(100), Verdict::Park);
        assert!(restarts.parked);
    }

    #[test]
    fn a_removed_agent_leaves_slow_work_behind() {
        let agent_id = AgentId::new();
        assert!(wants_upkeep(&Event::AgentChanged { agent_id, now: None }));
        assert!(!wants_upkeep(&Event::SteppedDown));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut restarts = Restarts::default();
        for index in 0..100 {
            assert_eq!(restarts.on_end(index * WINDOW_MS), Verdict::RestartIn { ms: 100 });
        }
    }
}
