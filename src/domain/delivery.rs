//! Deliveries: the obligation that one recipient handles one message, and the one state machine they all follow.
//!
//! Everything here is a pure function of the row, the move and the time. The store applies moves inside its
//! transactions, the property test below runs them against a model.
//!
//! Invariants
//! - DLV-1: at most one live lease; each hand-out has an attempt number, and a lease counts as an attempt.
//! - DLV-2: one state at a time; each open state has something that moves it ([`Delivery::due_at`] or an event).
//! - DLV-3: reporting twice with the same result is one effect; another result is a conflict.
use serde::Serialize;

use super::error::{Error, ErrorCode};
use super::ids::{ChannelId, ConversationId, DeliveryId, MessageId, PartyId};

/// The states. The numbers are stored; below 2 a delivery is open, which the partial indexes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum DeliveryState {
    Pending = 0,
    Leased = 1,
    Completed = 2,
    Dead = 3,
    Expired = 4,
    Cancelled = 5,
}

impl DeliveryState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Leased, Self::Completed, Self::Dead, Self::Expired, Self::Cancelled];

    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i32 == code)
    }

    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Leased)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Leased => "leased",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a completed delivery ended. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum Outcome {
    Answered = 1,
    Aborted = 2,
    Error = 3,
    Reported = 4,
    HandedOut = 5,
    Sent = 6,
    Shown = 7,
    /// The recipient said that it has it, where nothing else is asked of it.
    Acknowledged = 8,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Aborted,
        Self::Error,
        Self::Reported,
        Self::HandedOut,
        Self::Sent,
        Self::Shown,
        Self::Acknowledged,
    ];

    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| *outcome as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Aborted => "aborted",
            Self::Error => "error",
            Self::Reported => "reported",
            Self::HandedOut => "handed_out",
            Self::Sent => "sent",
            Self::Shown => "shown",
            Self::Acknowledged => "acknowledged",
        }
    }
}

/// Reasons that the machine itself gives; others are sentences of the recipient.
pub mod reason {
    /// All attempts were used up; a late report still completes.
    pub const ATTEMPTS: &str = "attempts";
    /// Whether the recipient acted is not known, so it is not tried again.
    pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";
    /// The conversation was deleted.
    pub const CONVERSATION_DELETED: &str = "conversation_deleted";
    /// Its recipient was removed.
    pub const RECIPIENT_REMOVED: &str = "recipient_removed";
    /// A newer message with the same coalescing key took its place.
    pub const COALESCED: &str = "coalesced";
    /// The channel that was to bring it was removed.
    pub const CHANNEL_REMOVED: &str = "channel_removed";

    /// All of them: words that a recipient cannot give for its own.
    pub const ALL: [&str; 6] =
        [ATTEMPTS, OUTCOME_UNKNOWN, CONVERSATION_DELETED, RECIPIENT_REMOVED, COALESCED, CHANNEL_REMOVED];
}

/// One delivery, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub id: DeliveryId,
    /// Order of acceptance over all deliveries.
    pub n: i64,
    pub message_id: MessageId,
    pub conversation_id: ConversationId,
    pub recipient_id: PartyId,
    /// The channel that brings it to a person; the others have none.
    pub channel_id: Option<ChannelId>,
    /// Place of its message in the conversation: the order of first hand-out (DLV-4).
    pub seq: i64,
    /// From 0 to 2; of two that may be handed out the higher one goes first.
    pub priority: i32,
    pub state: DeliveryState,
    pub outcome: Option<Outcome>,
    pub reason: Option<String>,
    /// Number of hand-outs so far.
    pub attempt: i32,
    pub attempts_max: i32,
    /// Not handed out before this time; `created_at` for what does not wait.
    pub available_at: i64,
    /// End of the lease; `None` while leased means that only the recipient's events end it (a gateway's run).
    pub lease_until: Option<i64>,
    /// Begin of the newest lease.
    pub leased_at: Option<i64>,
    /// A pending delivery expires at this time.
    pub expires_at: Option<i64>,
    /// Digest of the result that completed it, to tell a repeat from a conflict (DLV-3).
    pub result_hash: Option<[u8; 32]>,
    pub created_at: i64,
    pub ended_at: Option<i64>,
}

/// What can happen to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Hand it out. `until` is the end of the lease, `None` for a lease without a clock.
    Lease { until: Option<i64> },
    /// The recipient is done. `attempt` is the number it was handed out with, where the wire carries one.
    Complete { outcome: Outcome, attempt: Option<i32>, result_hash: Option<[u8; 32]> },
    /// The recipient gives it back; it comes again at `retry_at`.
    Nack { attempt: Option<i32>, retry_at: i64, reason: Option<String> },
    /// The lease's time is over; it comes again at `retry_at`.
    LeaseOver { retry_at: i64 },
    /// The recipient prolongs its lease.
    Extend { attempt: Option<i32>, until: i64 },
    /// It ends for good, always with a reason.
    Fail { attempt: Option<i32>, reason: String },
    /// The ttl is over.
    Expire,
    /// Its sender, an operator, a newer message or a deleted conversation ends it.
    Cancel { reason: Option<String> },
    /// An operator starts a dead one afresh.
    Redrive,
}

impl Move {
    /// The number of the hand-out that the recipient speaks of, where it names one.
    fn attempt(&self) -> Option<i32> {
        match self {
            Self::Complete { attempt, .. }
            | Self::Nack { attempt, .. }
            | Self::Extend { attempt, .. }
            | Self::Fail { attempt, .. } => *attempt,
            Self::Lease { .. } | Self::LeaseOver { .. } | Self::Expire | Self::Cancel { .. } | Self::Redrive => None,
        }
    }
}

/// What a move did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The row changed and must be stored.
    Changed,
    /// A repeat of what had been done: nothing to store, the same answer as before.
    Repeated,
}

impl Delivery {
    /// Applies a move at `now_ms`, or says why it is not possible. On an error nothing has changed.
    pub fn apply(&mut self, action: &Move, now_ms: i64) -> Result<Applied, Error> {
        use DeliveryState::{Cancelled, Completed, Dead, Expired, Leased, Pending};
        self.check_number(action.attempt())?;
        match action {
            Move::Lease { until } => match self.state {
                Pending if !self.must_wait(now_ms) && !self.ttl_over(now_ms) => {
                    self.state = Leased;
                    self.attempt += 1;
                    self.lease_until = *until;
                    self.leased_at = Some(now_ms);
                    self.reason = None;
                    Ok(Applied::Changed)
                }
                Pending | Leased => Err(self.refuse(ErrorCode::NotLeased, "cannot be handed out now")),
                _ => Err(self.ended()),
            },
            Move::Complete { outcome, attempt, result_hash } => {
                match self.state {
                    Completed => {
                        return if self.result_hash == *result_hash && self.outcome == Some(*outcome) {
                            Ok(Applied::Repeated)
                        } else {
                            Err(self.refuse(ErrorCode::ResultConflict, "was completed with another result"))
                        };
                    }
                    Pending | Leased => {}
                    Dead if self.reason.as_deref() == Some(reason::ATTEMPTS) => {}
                    Dead | Expired | Cancelled => return Err(self.ended()),
                }
                self.check_attempt(*attempt)?;
                self.end(Completed, None, now_ms);
                self.outcome = Some(*outcome);
                self.result_hash = *result_hash;
                Ok(Applied::Changed)
            }
            Move::Nack { attempt, retry_at, reason } => {
                self.require_lease()?;
                self.check_attempt(*attempt)?;
                self.give_back(*retry_at, reason.clone(), now_ms);
                Ok(Applied::Changed)
            }
            Move::LeaseOver { retry_at } => {
                self.require_lease()?;
                if self.lease_until.is_none_or(|until| until > now_ms) {
                    return Err(self.refuse(ErrorCode::NotLeased, "still has a live lease"));
                }
                self.give_back(*retry_at, None, now_ms);
                Ok(Applied::Changed)
            }
            Move::Extend { attempt, until } => {
                self.require_lease()?;
                self.check_attempt(*attempt)?;
                self.lease_until = Some(self.lease_until.map_or(*until, |current| current.max(*until)));
                Ok(Applied::Changed)
            }
            Move::Fail { attempt, reason } => match self.state {
                Pending | Leased => {
                    self.check_attempt(*attempt)?;
                    self.end(Dead, Some(reason.clone()), now_ms);
                    Ok(Applied::Changed)
                }
                Dead if self.reason.as_ref() == Some(reason) => Ok(Applied::Repeated),
                _ => Err(self.ended()),
            },
            Move::Expire => match self.state {
                Pending if self.ttl_over(now_ms) => {
                    self.end(Expired, None, now_ms);
                    Ok(Applied::Changed)
                }
                Expired => Ok(Applied::Repeated),
                Pending | Leased => Err(self.refuse(ErrorCode::NotLeased, "has not outlived its ttl")),
                _ => Err(self.ended()),
            },
            Move::Cancel { reason } => match self.state {
                Pending | Leased => {
                    self.end(Cancelled, reason.clone(), now_ms);
                    Ok(Applied::Changed)
                }
                Cancelled => Ok(Applied::Repeated),
                _ => Err(self.ended()),
            },
            Move::Redrive => match self.state {
                Dead => {
                    self.state = Pending;
                    self.reason = None;
                    self.attempt = 0;
                    self.available_at = self.created_at;
                    self.ended_at = None;
                    // A ttl that ran out while it lay dead would end it again at once.
                    if self.ttl_over(now_ms) {
                        self.expires_at = None;
                    }
                    Ok(Applied::Changed)
                }
                Pending | Leased => Err(self.refuse(ErrorCode::NotLeased, "is not dead: it is still under way")),
                _ => Err(self.ended()),
            },
        }
    }

    /// Refuses the number of a hand-out that never was.
    pub fn check_number(&self, attempt: Option<i32>) -> Result<(), Error> {
        match attempt.filter(|number| *number > self.attempt) {
            None => Ok(()),
            Some(number) => Err(Error::invalid(
                "delivery_attempt",
                format!("`delivery_attempt` is {number}, but the newest hand-out was number {}", self.attempt),
            )),
        }
    }

    /// Tells whether it may not be handed out yet. What never had to wait does not by a clock that was set back.
    pub fn must_wait(&self, now_ms: i64) -> bool {
        self.has_wait() && self.available_at > now_ms
    }

    /// Ends a wait that is over, for good: whoever takes the delivery up need not look at a clock again.
    pub fn end_wait(&mut self, now_ms: i64) {
        if !self.must_wait(now_ms) {
            self.available_at = self.created_at;
        }
    }

    fn has_wait(&self) -> bool {
        self.available_at > self.created_at
    }

    /// Returns the time at which the scheduler must look at it, if time alone moves it (DLV-2). What never had to wait is
    /// told to its recipient by its own event, and only its ttl is waited for.
    pub fn due_at(&self) -> Option<i64> {
        match self.state {
            DeliveryState::Pending => {
                let waits_until = self.has_wait().then_some(self.available_at);
                waits_until.into_iter().chain(self.expires_at).min()
            }
            DeliveryState::Leased => self.lease_until,
            _ => None,
        }
    }

    /// Returns what time alone does to it at `now_ms`; `retry_at` is when a lease that is over comes again.
    pub fn due_move(&self, now_ms: i64, retry_at: i64) -> Option<Move> {
        match self.state {
            DeliveryState::Pending if self.ttl_over(now_ms) => Some(Move::Expire),
            DeliveryState::Leased if self.lease_until.is_some_and(|until| until <= now_ms) => {
                Some(Move::LeaseOver { retry_at })
            }
            _ => None,
        }
    }

    fn ttl_over(&self, now_ms: i64) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now_ms)
    }

    fn give_back(&mut self, retry_at: i64, reason: Option<String>, now_ms: i64) {
        if self.attempt >= self.attempts_max {
            self.end(DeliveryState::Dead, Some(reason::ATTEMPTS.to_owned()), now_ms);
            return;
        }
        self.state = DeliveryState::Pending;
        self.lease_until = None;
        self.available_at = retry_at;
        self.end_wait(now_ms);
        self.reason = reason;
    }

    fn end(&mut self, state: DeliveryState, reason: Option<String>, now_ms: i64) {
        debug_assert!(!state.is_open(), "DLV-2: an end is an end");
        self.state = state;
        self.reason = reason;
        self.lease_until = None;
        self.ended_at = Some(now_ms);
    }

    fn require_lease(&self) -> Result<(), Error> {
        match self.state {
            DeliveryState::Leased => Ok(()),
            DeliveryState::Pending => Err(self.refuse(ErrorCode::NotLeased, "is not leased")),
            _ => Err(self.ended()),
        }
    }

    fn check_attempt(&self, attempt: Option<i32>) -> Result<(), Error> {
        if attempt.is_some_and(|number| number < self.attempt) {
            return Err(self.refuse(ErrorCode::StaleAttempt, "was handed out again since that attempt"));
        }
        Ok(())
    }

    fn ended(&self) -> Error {
        self.refuse(ErrorCode::DeliveryEnded, &format!("has ended: {}", self.state.as_str()))
    }

    fn refuse(&self, code: ErrorCode, what: &str) -> Error {
        // Agents know their messages only; operators know deliveries.
        Error::new(code, format!("message `{}` (delivery `{}`) {what}", self.message_id, self.id))
    }
}

/// Longest wait between two attempts.
const BACKOFF_MS_MAX: i64 = 15 * 60 * 1_000;
/// First wait; it doubles with each attempt.
const BACKOFF_MS_MIN: i64 = 5_000;

/// Returns how long to wait before the next hand-out after `attempt` hand-outs. Milliseconds.
pub fn backoff_ms(attempt: i32) -> i64 {
    let doublings = attempt.saturating_sub(1).clamp(0, 10);
    (BACKOFF_MS_MIN << doublings).min(BACKOFF_MS_MAX)
}

#[cfg(test)]
mod tests;
