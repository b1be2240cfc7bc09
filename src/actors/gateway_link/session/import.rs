//! What was said before the first contact: imported page by page, from the boundary downwards.
use super::{Effect, Purpose, RESUME_LOOK_MS, RequestError, Session, Wake, line_of, retry};
use crate::domain::error::Error;
use crate::gateway::history::{HistoryPage, HistoryRow, Marker};
use crate::store::upstream::{ImportRows, RowLine};

/// The import of what came before.
#[derive(Debug, Default)]
pub(super) struct Import {
    pub(super) running: bool,
    /// A page of it is being written down; goes on without a connection.
    pub(super) writing: bool,
    /// The page of the first contact is not on disk: passes over the tail wait, which would take its rows for new ones.
    pub(super) is_first: bool,
    /// Rows that this walk has passed.
    walked: usize,
    offset: u64,
}

impl Import {
    /// Begins a walk from the newest row downwards.
    pub(super) fn begin(is_first: bool) -> Self {
        Self { running: true, is_first, ..Self::default() }
    }
}

impl Session {
    /// Picks the rows below the boundary that become lines, newest first.
    pub(super) fn rows_to_import(&self, rows: &[HistoryRow], up_to: i64) -> Vec<(String, RowLine)> {
        rows.iter()
            .rev()
            .filter(|row| is_up_to(row, up_to) && !self.is_barred(row))
            .map(|row| (row.id.clone(), line_of(row)))
            .collect()
    }

    /// The row belongs to a deleted predecessor of this conversation.
    fn is_barred(&self, row: &HistoryRow) -> bool {
        let not_before = self.conversation.upstream.not_before_ms;
        not_before > 0 && row.timestamp_ms.is_none_or(|at| at <= not_before)
    }

    pub(super) fn import_page(&mut self, page: &HistoryPage, up_to: i64) -> Vec<Effect> {
        let room = self.options.import_lines_max.saturating_sub(self.import.walked);
        let mut rows = self.rows_to_import(&page.rows, up_to);
        rows.truncate(room);
        // Later pages are older than what a pass over the tail reads.
        let resets = if self.import.is_first { resets_up_to(page, up_to) } else { Vec::new() };
        self.import.walked += page.rows.len();
        let is_barred = page.rows.iter().any(|row| self.is_barred(row));
        let next_offset = page.next_offset.filter(|offset| page.has_more && *offset > self.import.offset);
        let is_complete = is_barred || self.import.walked >= self.options.import_lines_max || next_offset.is_none();
        self.import.offset = next_offset.unwrap_or(0);
        self.import.writing = true;
        let oldest = page.rows.iter().filter_map(|row| row.seq).chain(self.conversation.upstream.import_below).min();
        let import_below = if is_complete { None } else { oldest.or(Some(0)) };
        self.conversation.upstream.import_below = import_below;
        let source = self.source(page.session_id.as_deref());
        vec![Effect::Import(ImportRows { source, rows, resets, import_below })]
    }

    pub(super) fn on_import_page(&mut self, page: &HistoryPage) -> Vec<Effect> {
        let Some(below) = self.conversation.upstream.import_below.filter(|_| self.import.running) else {
            return Vec::new();
        };
        self.import_page(page, below.saturating_sub(1))
    }

    pub(super) fn import_failed(&mut self, error: &RequestError) -> Vec<Effect> {
        self.import.running = false;
        let effects = retry(error, Wake::Import);
        if !effects.is_empty() || matches!(error, RequestError::Closed) {
            return effects;
        }
        // The gateway does not show what came before; what is new is read all the same.
        self.import.is_first = false;
        if self.tail.again { self.map_tail() } else { Vec::new() }
    }

    /// A page of the import is on disk.
    pub(in super::super) fn on_imported(&mut self, result: Result<usize, Error>) -> Vec<Effect> {
        self.import.writing = false;
        if let Err(error) = result {
            // It begins again; the origins keep rows from coming twice.
            log::warn!(session = &*self.topic.key; "rows of a log could not be imported and are tried again: {error}");
            self.import.running = false;
            self.conversation.upstream.import_below = Some(self.import_from());
            return vec![Effect::WakeIn { ms: RESUME_LOOK_MS, wake: Wake::Import }];
        }
        self.import.is_first = false;
        let mut effects = Vec::new();
        if self.conversation.upstream.import_below.is_none() || !self.link_up {
            self.import.running = false;
        } else {
            effects.push(Effect::History {
                purpose: Purpose::Import,
                limit: self.options.history_rows,
                offset: self.import.offset,
            });
        }
        if self.tail.again {
            effects.extend(self.map_tail());
        }
        effects
    }

    /// Where an import that failed begins again: its first page is not on disk as long as this is where it stands.
    pub(super) fn import_from(&self) -> i64 {
        self.conversation.upstream.mapped_seq.saturating_add(1)
    }

    pub(super) fn continue_import(&mut self) -> Vec<Effect> {
        if self.conversation.upstream.import_below.is_none() || self.import.running || !self.link_up {
            return Vec::new();
        }
        self.import = Import::begin(self.import.is_first);
        vec![Effect::History { purpose: Purpose::Import, limit: self.options.history_rows, offset: 0 }]
    }
}

fn is_up_to(row: &HistoryRow, up_to: i64) -> bool {
    row.seq.is_none_or(|seq| seq <= up_to)
}

/// The log was started afresh before the first contact, or before this conversation began: that is no news.
pub(super) fn resets_up_to(page: &HistoryPage, up_to: i64) -> Vec<String> {
    let resets = page.rows.iter().filter(|row| row.marker == Some(Marker::Reset) && is_up_to(row, up_to));
    resets.map(|row| row.id.clone()).collect()
}
