//! The first hand-outs of one conversation: which is next, and how many could follow it at once. Pure.
use std::collections::BTreeSet;

use super::Rank;
use crate::domain::ids::DeliveryId;

/// The first hand-outs of one conversation, by the place of their lines.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) waiting: BTreeSet<(i64, DeliveryId)>,
    /// Those of them that are not available yet.
    pub(super) delayed: BTreeSet<(i64, DeliveryId)>,
    pub(super) on_way: BTreeSet<DeliveryId>,
    /// The one that is in `ready`.
    pub(super) head: Option<Rank>,
    /// The first delayed one when `free` was counted last.
    bar: Option<(i64, DeliveryId)>,
    /// How many wait before the first delayed one.
    pub(super) free: usize,
    /// The part of `State::free` that is this conversation's.
    pub(super) counted: usize,
}

impl Talk {
    pub(super) fn insert(&mut self, place: (i64, DeliveryId), is_delayed: bool) {
        self.waiting.insert(place);
        if is_delayed {
            self.delayed.insert(place);
        }
        self.free += usize::from(self.is_free(place));
    }

    pub(super) fn remove(&mut self, place: (i64, DeliveryId)) {
        if self.waiting.remove(&place) {
            self.free -= usize::from(self.is_free(place));
        }
        self.delayed.remove(&place);
    }

    fn is_free(&self, place: (i64, DeliveryId)) -> bool {
        self.bar.is_none_or(|bar| place < bar)
    }

    /// Returns the one that may be handed out next.
    pub(super) fn next_free(&self) -> Option<DeliveryId> {
        let first = self.waiting.first()?;
        (self.on_way.is_empty() && !self.delayed.contains(first)).then_some(first.1)
    }

    pub(super) fn recount(&mut self) {
        let bar = self.delayed.first().copied();
        if bar != self.bar {
            self.bar = bar;
            self.free = match bar {
                None => self.waiting.len(),
                Some(bar) => self.waiting.range(..bar).count(),
            };
        }
    }
}
