//! Lines made searchable, and conversations found by what was said in them.
//!
//! Each conversation knows the range of its lines that the index has. The index follows in small steps of the bulk
//! lane, a second behind; what it does not have yet is read and compared as it stands, up to a bound that only a large
//! import reaches.
use diesel::prelude::*;

use super::dialect::{self, Db, Indexed};
use super::schema::{conversations, messages, search_lines};
use super::tx::{Command, Tx};
use crate::domain::error::Error;
use crate::domain::ids::{GatewayId, UserId};
use crate::domain::search::{self, CHARS_MAX, Search};

/// Conversations that one step looks at.
const CONVERSATIONS_MAX: i64 = 100;
/// Lines that one step indexes, so that other commands get in between.
const LINES_MAX: i64 = 200;
/// Lines that are read at a time; each may be long.
const PAGE: i64 = 20;
/// Bytes of text after which a step leaves the rest to the next one.
const BYTES_MAX: usize = 256 * 1024;
/// Conversations and bytes of text that a search itself compares, where the index is behind; what is beyond is found when
/// the index has it.
const UNINDEXED_CONVERSATIONS_MAX: i64 = 500;
const UNINDEXED_BYTES_MAX: usize = 1 << 20;

/// A conversation with lines that the index does not have: the ends of its log, and of the part that is indexed.
#[derive(Queryable)]
struct Behind {
    id: Vec<u8>,
    first_seq: i64,
    last_seq: i64,
    searched_first: i64,
    searched_last: i64,
}

/// Reads conversations that the index is behind with, of one gateway or one owner if asked for.
fn conversations_behind(
    db: &mut Db,
    gateway: Option<&GatewayId>,
    owner: Option<UserId>,
    limit: i64,
) -> Result<Vec<Behind>, Error> {
    let mut query = conversations::table.filter(conversations::deleted_at.is_null()).filter(is_behind()).into_boxed();
    if let Some(gateway) = gateway {
        query = query.filter(conversations::gateway_id.eq(gateway.as_str()));
    }
    if let Some(owner) = owner {
        query = query.filter(conversations::owner_id.eq(owner.as_bytes().to_vec()));
    }
    Ok(query
        .order(conversations::id)
        .limit(limit)
        .select((
            conversations::id,
            conversations::first_seq,
            conversations::last_seq,
            conversations::searched_first,
            conversations::searched_last,
        ))
        .load(db)?)
}

/// The condition of their index, in its own words.
fn is_behind() -> diesel::expression::SqlLiteral<diesel::sql_types::Bool> {
    diesel::dsl::sql(
        "(conversations.last_seq - conversations.first_seq <> conversations.searched_last - conversations.searched_first)",
    )
}

/// Counts the conversations that the index is behind with.
pub fn behind(db: &mut Db) -> Result<i64, Error> {
    let behind = conversations::table.filter(conversations::deleted_at.is_null()).filter(is_behind());
    Ok(behind.count().get_result(db)?)
}

/// The two parts of a log that are not indexed.
#[derive(Clone, Copy)]
enum Part {
    Newer,
    Older,
}

impl Behind {
    fn is_whole(&self, part: Part) -> bool {
        match part {
            Part::Newer => self.searched_last >= self.last_seq,
            Part::Older => self.searched_first <= self.first_seq,
        }
    }

    /// Notes that a part is known up to this line.
    fn reach(&mut self, part: Part, seq: i64) {
        match part {
            Part::Newer => self.searched_last = seq,
            Part::Older => self.searched_first = seq,
        }
    }

    /// Reads the next lines of a part, outwards from what is indexed: `seq` and the text that is searched.
    fn lines(&self, db: &mut Db, part: Part, limit: i64) -> Result<Vec<(i64, String)>, Error> {
        if self.is_whole(part) {
            return Ok(Vec::new());
        }
        let query = messages::table
            .filter(messages::conversation_id.eq(&self.id))
            .limit(limit)
            .select((messages::seq, dialect::substr(messages::text, 1, CHARS_MAX)));
        Ok(match part {
            Part::Newer => query.filter(messages::seq.gt(self.searched_last)).order(messages::seq.asc()).load(db)?,
            Part::Older => query.filter(messages::seq.lt(self.searched_first)).order(messages::seq.desc()).load(db)?,
        })
    }
}

impl Behind {
    /// Tells whether a line that is not indexed has what is searched for. Takes what it reads off `room`.
    fn says(mut self, db: &mut Db, search: &Search, room: &mut usize) -> Result<Option<Vec<u8>>, Error> {
        for part in [Part::Newer, Part::Older] {
            while *room > 0 {
                let lines = self.lines(db, part, PAGE)?;
                let Some((seq, _)) = lines.last() else { break };
                self.reach(part, *seq);
                *room = room.saturating_sub(lines.iter().map(|(_, text)| text.len()).sum());
                if lines.iter().any(|(_, text)| search.finds(&search::words(text))) {
                    return Ok(Some(self.id));
                }
            }
        }
        Ok(None)
    }
}

/// Adds the next lines to the index: newer ones first, then older ones downwards. Tells whether more wait.
pub struct IndexLines;

impl Command for IndexLines {
    type Output = bool;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let found = conversations_behind(tx.read()?, None, None, CONVERSATIONS_MAX)?;
        if found.is_empty() {
            return Ok(false);
        }
        let newest: Option<i64> =
            search_lines::table.select(search_lines::n).order(search_lines::n.desc()).first(tx.read()?).optional()?;
        let mut step = Step { n: newest.unwrap_or(0), lines: LINES_MAX, bytes: BYTES_MAX, indexed: Vec::new() };
        let mut more = found.len() as i64 == CONVERSATIONS_MAX;
        let mut taken = Vec::with_capacity(found.len());
        for mut conversation in found {
            if !step.has_room() {
                more = true;
                break;
            }
            step.take(tx, &mut conversation)?;
            more |= !(conversation.is_whole(Part::Newer) && conversation.is_whole(Part::Older));
            taken.push(conversation);
        }
        dialect::add_lines(tx.write()?, &step.indexed)?;
        let reached = |taken: &Behind| (taken.id.clone(), taken.searched_first, taken.searched_last);
        dialect::save_searched(tx.write()?, &taken.iter().map(reached).collect::<Vec<_>>())?;
        Ok(more)
    }
}

/// What a step may still do, and what it has done so far: it is written at once.
struct Step {
    /// The number of the last indexed line.
    n: i64,
    lines: i64,
    bytes: usize,
    indexed: Vec<Indexed>,
}

impl Step {
    fn has_room(&self) -> bool {
        self.lines > 0 && self.bytes > 0
    }

    /// Indexes what there is room for.
    fn take(&mut self, tx: &mut Tx<'_>, conversation: &mut Behind) -> Result<(), Error> {
        for part in [Part::Newer, Part::Older] {
            while self.has_room() {
                let lines = conversation.lines(tx.read()?, part, self.lines.min(PAGE))?;
                let Some((seq, _)) = lines.last() else { break };
                conversation.reach(part, *seq);
                self.index(&conversation.id, lines);
            }
        }
        Ok(())
    }

    fn index(&mut self, id: &[u8], lines: Vec<(i64, String)>) {
        for (seq, text) in lines {
            self.n += 1;
            self.lines -= 1;
            self.bytes = self.bytes.saturating_sub(text.len());
            self.indexed.push(Indexed { n: self.n, conversation: id.to_vec(), seq, words: search::words(&text) });
        }
    }
}

/// Takes at most `limit` lines of a conversation out of the index; returns how many there were.
pub(super) fn forget_lines(tx: &mut Tx<'_>, id: &[u8], limit: i64) -> Result<i64, Error> {
    let ns: Vec<i64> = search_lines::table
        .filter(search_lines::conversation_id.eq(id))
        .order(search_lines::n)
        .limit(limit)
        .select(search_lines::n)
        .load(tx.read()?)?;
    if !ns.is_empty() {
        dialect::remove_words(tx.write()?, &ns)?;
        diesel::delete(search_lines::table.filter(search_lines::n.eq_any(&ns))).execute(tx.write()?)?;
    }
    Ok(ns.len() as i64)
}

/// Finds the conversations with what is searched for in lines that the index does not have yet, of one gateway or one
/// owner if asked for.
pub(super) fn found_unindexed(
    db: &mut Db,
    search: &Search,
    gateway: Option<&GatewayId>,
    owner: Option<UserId>,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut found = Vec::new();
    if search.phrases().is_empty() {
        return Ok(found);
    }
    let mut room = UNINDEXED_BYTES_MAX;
    for conversation in conversations_behind(db, gateway, owner, UNINDEXED_CONVERSATIONS_MAX)? {
        if room == 0 {
            break;
        }
        found.extend(conversation.says(db, search, &mut room)?);
    }
    Ok(found)
}
