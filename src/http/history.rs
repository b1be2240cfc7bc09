//! What happened to a delivery, as receipts show it.
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::time::iso;
use crate::store::deliveries::Entry;

#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryEvent)]
pub(super) struct Happened {
    at: String,
    /// `accepted`, `stored`, `leased`, `sent` (the gateway has taken it), `nacked`, `lease_over`, `completed`, `dead`,
    /// `expired`, `cancelled`, `redriven`, `undelivered` (the provider had taken it and could not deliver it) …
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Happened {
    /// Something that has no number and no reason.
    pub(super) fn plain(at: i64, what: &str) -> Self {
        Self { at: iso(at), what: what.to_owned(), attempt: None, reason: None }
    }

    /// The end of a delivery whose history is no more.
    pub(super) fn end(at: i64, what: &str, reason: Option<String>) -> Self {
        Self { reason, ..Self::plain(at, what) }
    }
}

/// Shows a history.
pub(super) fn shown(history: &[Entry]) -> Vec<Happened> {
    let mut events = Vec::with_capacity(history.len() + 1);
    for entry in history {
        let reason = entry.reason.clone();
        events.push(Happened { attempt: entry.attempt, reason, ..Happened::plain(entry.at, &entry.what) });
        if entry.what == "accepted" {
            // One transaction did both, and what can be read here was committed (STO-1).
            events.push(Happened::plain(entry.at, "stored"));
        }
    }
    events
}
