//! To which session a run belongs, by its id. Session keys tell as well, but for a run that is ours and goes by a name of
//! the gateway's.
use std::collections::HashMap;

use crate::domain::ids::ConversationId;

/// Runs of one generation. Two are kept, so that many more runs than are under way at a time are known.
const GENERATION_MAX: usize = 4_096;

/// The runs that were heard of lately; those that nobody spoke of for a whole generation are forgotten.
#[derive(Debug, Default)]
pub(super) struct Runs {
    newer: HashMap<String, ConversationId>,
    older: HashMap<String, ConversationId>,
}

impl Runs {
    /// Notes whose run this is.
    pub(super) fn insert(&mut self, run_id: String, id: ConversationId) {
        if self.newer.len() >= GENERATION_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(run_id, id);
    }

    /// Finds the session of a run that was heard of just now.
    pub(super) fn session_of(&mut self, run_id: &str) -> Option<ConversationId> {
        if let Some(id) = self.newer.get(run_id) {
            return Some(*id);
        }
        let (run_id, id) = self.older.remove_entry(run_id)?;
        self.insert(run_id, id);
        Some(id)
    }

    pub(super) fn remove(&mut self, run_id: &str) {
        self.newer.remove(run_id);
        self.older.remove(run_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_of_stays_and_what_is_not_goes() {
        let (mut runs, id) = (Runs::default(), ConversationId::new());
        runs.insert("goes on".to_owned(), id);
        for n in 0..10 * GENERATION_MAX {
            runs.insert(format!("run {n}"), ConversationId::new());
            if n % 1_000 == 0 {
                assert_eq!(runs.session_of("goes on"), Some(id));
            }
        }
        assert_eq!(runs.session_of("run 0"), None);
        assert!(runs.newer.len() + runs.older.len() <= 2 * GENERATION_MAX);
        runs.remove("goes on");
        assert_eq!(runs.session_of("goes on"), None);
    }
}
