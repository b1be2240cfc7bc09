//! What happened to a delivery, as receipts show it.
use serde::{Deserialize, Serialize};

use crate::domain::delivery::{Delivery, DeliveryState, Move};
use crate::domain::error::Error;

/// Entries kept of a delivery's own history; a redriven one could go on for ever.
const EVENTS_MAX: usize = 64;
pub(super) const LEASED: &str = "leased";
pub(super) const NACKED: &str = "nacked";
pub(super) const REDRIVEN: &str = "redriven";
const EXTENDED: &str = "extended";
/// A provider had taken it and could not deliver it.
const UNDELIVERED: &str = "undelivered";
/// The recipient has taken the hand-out.
const SENT: &str = "sent";

/// One entry of a delivery's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Epoch milliseconds.
    pub at: i64,
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Entry {
    fn new(at: i64, what: &str) -> Self {
        Self { at, what: what.to_owned(), attempt: None, reason: None }
    }

    /// The first entry of each delivery.
    pub(super) fn accepted(at: i64) -> Self {
        Self::new(at, "accepted")
    }
}

/// Writes a history as it is stored.
pub(super) fn text(events: &[Entry]) -> Result<String, Error> {
    serde_json::to_string(events).map_err(Error::internal)
}

/// Adds what a move did.
pub(super) fn add_move(events: &mut Vec<Entry>, action: &Move, after: &Delivery, at: i64) {
    let has_attempt = matches!(action, Move::Lease { .. } | Move::Nack { .. } | Move::LeaseOver { .. });
    let entry = Entry {
        attempt: has_attempt.then_some(after.attempt),
        reason: after.reason.clone(),
        ..Entry::new(at, what_happened(action, after))
    };
    // One entry for all extensions in a row, with the newest time: a long job has many.
    match events.last_mut().filter(|last| last.what == EXTENDED && entry.what == EXTENDED) {
        Some(last) => *last = entry,
        None => insert(events, events.len(), entry),
    }
}

/// Adds that the recipient has taken the newest hand-out, in its place in time. Once for each hand-out; tells whether
/// it is new.
pub(super) fn add_sent(events: &mut Vec<Entry>, attempt: i32, at: i64) -> bool {
    let handed_out = events.iter().rposition(|entry| entry.what == LEASED).map_or(0, |index| index + 1);
    if events.iter().skip(handed_out).any(|entry| entry.what == SENT) {
        return false;
    }
    let before = events.iter().skip(handed_out).take_while(|entry| entry.at <= at).count();
    insert(events, handed_out + before, Entry { attempt: Some(attempt), ..Entry::new(at, SENT) });
    true
}

/// Adds that the provider could not deliver what it had taken, in its words. Once; tells whether it is new.
pub(super) fn add_undelivered(events: &mut Vec<Entry>, why: &str, at: i64) -> bool {
    if events.iter().any(|entry| entry.what == UNDELIVERED) {
        return false;
    }
    insert(events, events.len(), Entry { reason: Some(why.to_owned()), ..Entry::new(at, UNDELIVERED) });
    true
}

fn insert(events: &mut Vec<Entry>, index: usize, entry: Entry) {
    events.insert(index, entry);
    if events.len() > EVENTS_MAX {
        // The first entry says when it was accepted; the oldest after it goes.
        events.remove(1);
    }
}

fn what_happened(action: &Move, after: &Delivery) -> &'static str {
    match (action, after.state) {
        (Move::Lease { .. }, _) => LEASED,
        (_, DeliveryState::Dead) => "dead",
        (Move::Nack { .. }, _) => NACKED,
        (Move::LeaseOver { .. }, _) => "lease_over",
        (Move::Extend { .. }, _) => EXTENDED,
        (Move::Redrive, _) => REDRIVEN,
        (_, state) => state.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(i64, &str)]) -> Vec<Entry> {
        entries.iter().map(|(at, what)| Entry::new(*at, what)).collect()
    }

    fn words(events: &[Entry]) -> Vec<&str> {
        events.iter().map(|entry| entry.what.as_str()).collect()
    }

    #[test]
    fn each_hand_out_is_sent_once() {
        let mut events = history(&[(1, "accepted"), (2, "leased")]);
        assert!(add_sent(&mut events, 1, 3));
        assert!(!add_sent(&mut events, 1, 9), "a replay changes nothing");
        events.extend(history(&[(4, "nacked"), (5, "leased")]));
        assert!(add_sent(&mut events, 2, 6));
        assert_eq!(words(&events), ["accepted", "leased", "sent", "nacked", "leased", "sent"]);
        assert_eq!((events[2].attempt, events[5].attempt, events[5].at), (Some(1), Some(2), 6));
    }

    #[test]
    fn what_could_not_be_delivered_is_said_once() {
        let mut events = history(&[(1, "accepted"), (2, "leased"), (3, "completed")]);
        assert!(add_undelivered(&mut events, "no such number", 4));
        assert!(!add_undelivered(&mut events, "again", 5), "it was told again");
        assert_eq!(words(&events), ["accepted", "leased", "completed", "undelivered"]);
        assert_eq!((events[3].at, events[3].reason.as_deref()), (4, Some("no such number")));
    }

    #[test]
    fn what_was_sent_before_the_end_stands_before_it() {
        let mut events = history(&[(1, "accepted"), (2, "leased"), (8, "cancelled")]);
        assert!(add_sent(&mut events, 1, 3));
        assert_eq!(words(&events), ["accepted", "leased", "sent", "cancelled"]);
    }

    #[test]
    fn a_history_is_bounded_and_keeps_its_beginning() {
        let mut events = history(&[(0, "accepted")]);
        for at in 1..200 {
            let end = events.len();
            insert(&mut events, end, Entry::new(at, LEASED));
            add_sent(&mut events, 1, at);
        }
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!((events[0].what.as_str(), words(&events).last()), ("accepted", Some(&SENT)));
    }
}
