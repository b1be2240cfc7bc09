//! What a gateway's own log brings: imported lines, and the origins of lines and steps (D1).
//!
//! Each row of the gateway's history belongs to exactly one line or one step; the key
//! `(gateway, upstream session, row)` sees to it, so pages may overlap and passes may be repeated.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::dialect::Db;
use super::messages::{self, NewLine, Place};
use super::parties;
use super::schema::{conversations, message_origins};
use super::turns::{self, NewStep, Turn};
use super::tx::{Command, Tx};
use crate::domain::error::Error;
use crate::domain::event::Event;
use crate::domain::ids::{ConversationId, DeliveryId, GatewayId, MessageId, StepId, TurnId};
use crate::domain::message::{Block, Line, MessageRole, bounded_text};
use crate::domain::party::PartyKind;
use crate::domain::user::Role;

/// A row of the gateway's log that becomes a line.
#[derive(Clone, Debug)]
pub struct RowLine {
    /// The key or run that it belongs to: a delivery's id, where we asked.
    pub run: Option<String>,
    pub role: MessageRole,
    pub blocks: Vec<Block>,
    pub said_at: i64,
    pub error: Option<String>,
}

/// What a row of the gateway's log is to us.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// The question that we sent with this delivery.
    Question(DeliveryId),
    /// The answer that stands already.
    Answer(TurnId),
    /// The answer of a turn that ended without one.
    LateAnswer(TurnId, RowLine),
    /// Something a turn did before its answer.
    Step(TurnId, NewStep),
    /// A line that nobody told us of while it was said.
    Line(RowLine),
}

/// One row with its meaning.
#[derive(Clone, Debug)]
pub struct MappedRow {
    pub row_id: String,
    pub meaning: Meaning,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub conversation_id: ConversationId,
    pub gateway_id: GatewayId,
    /// The gateway's id of the transcript.
    pub upstream_session: String,
}

/// Returns which of these rows have an origin already.
pub fn known_rows(db: &mut Db, source: &Source, row_ids: &[String]) -> Result<HashSet<String>, Error> {
    Ok(message_origins::table
        .filter(
            message_origins::gateway_id
                .eq(source.gateway_id.as_str())
                .and(message_origins::upstream_session.eq(&source.upstream_session))
                .and(message_origins::row_id.eq_any(row_ids)),
        )
        .select(message_origins::row_id)
        .load::<String>(db)?
        .into_iter()
        .collect())
}

/// Finds which of these keys are deliveries of ours, and of which conversation. What has been removed since is known by
/// its turn, which stays.
pub fn our_keys(
    db: &mut Db,
    keys: impl Iterator<Item = String>,
) -> Result<HashMap<String, (DeliveryId, ConversationId)>, Error> {
    use super::schema::{deliveries, turns};
    let mut ids: Vec<DeliveryId> = keys.filter_map(|key| key.parse().ok()).collect();
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = deliveries::table
        .filter(deliveries::id.eq_any(ids.iter().map(|id| id.as_bytes().as_slice())))
        .select((deliveries::id, deliveries::conversation_id))
        .load(db)?;
    ids.retain(|id| rows.iter().all(|(known, _)| known.as_slice() != id.as_bytes().as_slice()));
    if !ids.is_empty() {
        let removed: Vec<(Option<Vec<u8>>, Vec<u8>)> = turns::table
            .filter(turns::delivery_id.eq_any(ids.iter().map(|id| id.as_bytes().as_slice())))
            .select((turns::delivery_id, turns::conversation_id))
            .load(db)?;
        rows.extend(removed.into_iter().filter_map(|(id, conversation)| Some((id?, conversation))));
    }
    rows.into_iter()
        .map(|(id, conversation)| {
            let id = DeliveryId::try_from(id.as_slice())?;
            Ok((id.to_string(), (id, ConversationId::try_from(conversation.as_slice())?)))
        })
        .collect()
}

/// A turn with its answer's line.
pub type Unmapped = (Turn, Option<Arc<Line>>);

/// Who began a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Us,
    Others,
}

/// Finds the newest turns whose first line here has no origin yet, the question of ours or the answer to others, oldest
/// first, each with its answer; for protocol 3.
pub fn unmapped(db: &mut Db, conversation: ConversationId, asker: Asker, limit: i64) -> Result<Vec<Unmapped>, Error> {
    use super::schema::turns as table;
    let of_conversation = table::table.filter(table::conversation_id.eq(conversation.as_bytes().as_slice()));
    let query = match asker {
        Asker::Us => of_conversation
            .filter(table::message_id.is_not_null())
            .filter(not(exists(message_origins::table.filter(message_origins::message_id.eq(table::message_id)))))
            .into_boxed(),
        Asker::Others => of_conversation
            .filter(table::message_id.is_null())
            .filter(not(exists(message_origins::table.filter(message_origins::message_id.eq(table::answer_id)))))
            .into_boxed(),
    };
    let rows: Vec<turns::Row> =
        query.order(table::started_at.desc()).limit(limit).select(turns::Row::as_select()).load(db)?;
    let mut found = Vec::new();
    for row in rows.into_iter().rev() {
        let turn = Turn::try_from(row)?;
        let answer = turn.answer_id.map(|id| messages::get(db, id)).transpose()?.flatten();
        found.push((turn, answer));
    }
    Ok(found)
}

/// Notes the first contact with a session: its own name, and the boundary below which rows are imported (D1).
#[derive(Clone, Debug)]
pub struct NoteContact {
    pub conversation_id: ConversationId,
    pub canonical_key: Option<String>,
    pub session_id: Option<String>,
    pub boundary_seq: i64,
    /// `None`: there is nothing to import.
    pub import_below: Option<i64>,
}

impl Command for NoteContact {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let Some(found) = super::conversations::get(tx.read()?, self.conversation_id)? else { return Ok(()) };
        if found.upstream.contacted {
            return Ok(());
        }
        let canonical = match (&self.canonical_key, &found.gateway_id) {
            // Another session here may have taken the name, under a different key; then it keeps it.
            (Some(canonical), Some(gateway_id)) => {
                let taken: i64 = conversations::table
                    .filter(
                        conversations::gateway_id
                            .eq(gateway_id.as_str())
                            .and(conversations::canonical_key.eq(canonical))
                            .and(conversations::id.ne(self.conversation_id.as_bytes().as_slice()))
                            .and(conversations::deleted_at.is_null()),
                    )
                    .count()
                    .get_result(tx.read()?)?;
                Some((taken == 0).then_some(canonical))
            }
            // It goes by what the key was expected to be.
            _ => None,
        };
        let row = conversations::table.find(self.conversation_id.as_bytes().as_slice());
        diesel::update(row)
            .set((
                conversations::contacted.eq(true),
                canonical.map(|canonical| conversations::canonical_key.eq(canonical)),
            ))
            .execute(tx.write()?)?;
        // A pass over the tail, or a reset, that was written before this knows more.
        if found.upstream.session_id.is_none() {
            diesel::update(row)
                .set((
                    conversations::upstream_session_id.eq(&self.session_id),
                    conversations::mapped_seq.eq(self.boundary_seq),
                    conversations::import_below.eq(self.import_below),
                ))
                .execute(tx.write()?)?;
        }
        if self.import_below.is_none() {
            let first_seq = tx.ends(self.conversation_id)?.first_seq;
            let topic = tx.topic(self.conversation_id)?;
            tx.emit(Event::Imported { topic, first_seq, done: true });
        }
        Ok(())
    }
}

/// Imports rows from before the boundary, newest first, above the beginning of the log (D1). Belongs in the bulk lane.
#[derive(Clone, Debug)]
pub struct ImportRows {
    pub source: Source,
    pub rows: Vec<(String, RowLine)>,
    /// Rows that say that the log was started afresh. Whether or not they become lines they are known from here on, so
    /// that no later pass takes them for news and what stands behind them for new.
    pub resets: Vec<String>,
    /// The lowest row number that is here now; `None`: the import is complete.
    pub import_below: Option<i64>,
}

impl Command for ImportRows {
    type Output = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, Error> {
        let id = self.source.conversation_id;
        let Some(conversation) = super::conversations::get(tx.read()?, id)? else { return Ok(0) };
        let row_ids: Vec<String> = self.rows.iter().map(|(row_id, _)| row_id).chain(&self.resets).cloned().collect();
        let mut known = known_rows(tx.read()?, &self.source, &row_ids)?;
        // What others said in a session before a member named it here is not the member's to read (SEC-2).
        let may_read_all = match conversation.owner_id {
            Some(owner) => super::users::get(tx.read()?, owner)?.is_some_and(|user| user.role >= Role::Operator),
            None => true,
        };
        let rows = if may_read_all { self.rows.as_slice() } else { &[] };
        let ours = our_keys(tx.read()?, self.rows.iter().filter_map(|(_, row)| row.run.clone()))?;
        let mut imported = 0;
        for (row_id, row) in rows {
            // What we asked ourselves is no history, also when its session was deleted since (D1).
            let asked_here = row.run.as_ref().is_some_and(|run| ours.contains_key(run));
            if asked_here || !known.insert(row_id.clone()) {
                continue;
            }
            let line = add_line(tx, &self.source, Place::Above, row, false, None)?;
            note_origin(tx, &self.source, row_id, Some(line.id), None)?;
            imported += 1;
        }
        for row_id in &self.resets {
            if known.insert(row_id.clone()) {
                note_origin(tx, &self.source, row_id, None, None)?;
            }
        }
        diesel::update(conversations::table.find(id.as_bytes().as_slice()))
            .set(conversations::import_below.eq(self.import_below))
            .execute(tx.write()?)?;
        let first_seq = tx.ends(id)?.first_seq;
        let topic = tx.topic(id)?;
        tx.emit(Event::Imported { topic, first_seq, done: self.import_below.is_none() });
        Ok(imported)
    }
}

/// Maps the tail of the gateway's log to lines and steps.
#[derive(Clone, Debug)]
pub struct MapRows {
    pub source: Source,
    pub rows: Vec<MappedRow>,
    /// Rows up to this number are done.
    pub mapped_seq: i64,
}

impl Command for MapRows {
    type Output = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, Error> {
        let id = self.source.conversation_id;
        if super::conversations::get(tx.read()?, id)?.is_none() {
            return Ok(0);
        }
        let row_ids: Vec<String> = self.rows.iter().map(|row| row.row_id.clone()).collect();
        let mut known = known_rows(tx.read()?, &self.source, &row_ids)?;
        let mut mapped = 0;
        for row in &self.rows {
            if !known.insert(row.row_id.clone()) {
                continue;
            }
            let (message, step) = self.map(tx, &row.meaning)?;
            note_origin(tx, &self.source, &row.row_id, message, step)?;
            mapped += 1;
        }
        diesel::update(conversations::table.find(id.as_bytes().as_slice()))
            .set((
                conversations::mapped_seq.eq(self.mapped_seq),
                conversations::upstream_session_id.eq(Some(&self.source.upstream_session)),
            ))
            .execute(tx.write()?)?;
        Ok(mapped)
    }
}

impl MapRows {
    fn map(&self, tx: &mut Tx<'_>, meaning: &Meaning) -> Result<(Option<MessageId>, Option<StepId>), Error> {
        Ok(match meaning {
            Meaning::Question(delivery) => {
                let question = match super::deliveries::get(tx.read()?, *delivery)? {
                    Some(stored) => Some(stored.delivery.message_id),
                    None => turns::by_delivery(tx.read()?, *delivery)?.and_then(|turn| turn.message_id),
                };
                (question, None)
            }
            Meaning::Answer(turn) => (turns::get(tx.read()?, *turn)?.and_then(|turn| turn.answer_id), None),
            Meaning::LateAnswer(turn_id, row) => {
                let question = turns::get(tx.read()?, *turn_id)?.and_then(|turn| turn.message_id);
                let line = add_line(tx, &self.source, Place::End, row, true, question)?;
                turns::set_answer(tx, *turn_id, line.id)?;
                (Some(line.id), None)
            }
            Meaning::Step(turn, step) => (None, Some(turns::add_step(tx, *turn, step)?)),
            Meaning::Line(row) => (Some(add_line(tx, &self.source, Place::End, row, true, None)?.id), None),
        })
    }
}

/// Notes that the gateway began a new transcript for the session: a marker line, and everything after it is new (D1).
/// A repeat changes nothing.
#[derive(Clone, Debug)]
pub struct NoteReset {
    pub source: Source,
    pub text: String,
}

impl Command for NoteReset {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let id = self.source.conversation_id;
        let Some(found) = super::conversations::get(tx.read()?, id)? else { return Ok(()) };
        let is_noted = found.upstream.session_id.as_ref() == Some(&self.source.upstream_session);
        if is_noted && found.upstream.mapped_seq == 0 {
            return Ok(());
        }
        let row = RowLine {
            run: None,
            role: MessageRole::Marker,
            blocks: vec![Block::text(self.text.clone())],
            said_at: tx.now_ms(),
            error: None,
        };
        add_line(tx, &self.source, Place::End, &row, false, None)?;
        diesel::update(conversations::table.find(id.as_bytes().as_slice()))
            .set((
                conversations::mapped_seq.eq(0_i64),
                conversations::import_below.eq(None::<i64>),
                conversations::upstream_session_id.eq(Some(&self.source.upstream_session)),
            ))
            .execute(tx.write()?)?;
        Ok(())
    }
}

fn add_line(
    tx: &mut Tx<'_>,
    source: &Source,
    place: Place,
    row: &RowLine,
    late: bool,
    in_reply_to: Option<MessageId>,
) -> Result<Arc<crate::domain::message::Line>, Error> {
    let sender = parties::ensure_named(tx, PartyKind::Gateway, source.gateway_id.as_str())?;
    let new = NewLine {
        blocks: row.blocks.clone(),
        said_at: Some(row.said_at),
        late,
        in_reply_to,
        error: row.error.clone().map(bounded_text),
        ..NewLine::text(row.role, sender, "")
    };
    let line = messages::append(tx, source.conversation_id, place, new)?;
    if place == Place::End {
        let topic = tx.topic(source.conversation_id)?;
        tx.emit(Event::Line { topic, line: line.clone(), ack_to: None, end: None });
    }
    Ok(line)
}

fn note_origin(
    tx: &mut Tx<'_>,
    source: &Source,
    row_id: &str,
    message: Option<MessageId>,
    step: Option<StepId>,
) -> Result<(), Error> {
    let created_at = tx.now_ms();
    diesel::insert_into(message_origins::table)
        .values((
            message_origins::gateway_id.eq(source.gateway_id.as_str()),
            message_origins::upstream_session.eq(&source.upstream_session),
            message_origins::row_id.eq(row_id),
            message_origins::message_id.eq(message.as_ref().map(|id| id.as_bytes().as_slice())),
            message_origins::step_id.eq(step.as_ref().map(|id| id.as_bytes().as_slice())),
            message_origins::created_at.eq(created_at),
        ))
        .execute(tx.write()?)?;
    Ok(())
}
