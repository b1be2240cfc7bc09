//! Turns and their steps.
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::dialect::Db;
use super::messages::{self, NewLine, Place};
use super::schema::{steps, turns};
use super::tx::{Command, Tx};
use super::{deliveries, parties};
use crate::domain::delivery::{Move, Outcome};
use crate::domain::error::Error;
use crate::domain::event::{Event, TurnEnd};
use crate::domain::ids::{ConversationId, DeliveryId, GatewayId, MessageId, StepId, TurnId};
use crate::domain::message::{Block, Line, MessageRole, bounded_text};
use crate::domain::party::PartyKind;
use crate::domain::turn::{StepKind, TurnState};

/// A turn, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub id: TurnId,
    pub conversation_id: ConversationId,
    pub delivery_id: Option<DeliveryId>,
    /// The question.
    pub message_id: Option<MessageId>,
    /// The line that answers it.
    pub answer_id: Option<MessageId>,
    /// The gateway's id of the run; another one after the gateway has taken it up again.
    pub run_id: String,
    pub state: TurnState,
    pub text: String,
    pub started_at: i64,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = turns)]
pub(super) struct Row {
    id: Vec<u8>,
    conversation_id: Vec<u8>,
    delivery_id: Option<Vec<u8>>,
    message_id: Option<Vec<u8>>,
    answer_id: Option<Vec<u8>>,
    upstream_run_id: String,
    state: i32,
    text: String,
    started_at: i64,
}

impl TryFrom<Row> for Turn {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: TurnId::try_from(row.id.as_slice())?,
            conversation_id: ConversationId::try_from(row.conversation_id.as_slice())?,
            delivery_id: row.delivery_id.map(|id| DeliveryId::try_from(id.as_slice())).transpose()?,
            message_id: row.message_id.map(|id| MessageId::try_from(id.as_slice())).transpose()?,
            answer_id: row.answer_id.map(|id| MessageId::try_from(id.as_slice())).transpose()?,
            run_id: row.upstream_run_id,
            state: TurnState::from_code(row.state).ok_or_else(|| Error::corrupt("a turn of an unknown state"))?,
            text: row.text,
            started_at: row.started_at,
        })
    }
}

/// Reads one turn.
pub fn get(db: &mut Db, id: TurnId) -> Result<Option<Turn>, Error> {
    let row = turns::table.find(id.as_bytes().as_slice()).select(Row::as_select()).first(db).optional()?;
    row.map(Turn::try_from).transpose()
}

/// The condition of the index of open turns. With a bound number in it SQLite would plan the query anew each time.
fn open() -> SqlLiteral<Bool> {
    diesel::dsl::sql("(turns.state < 5)")
}

/// Reads the open turns of a conversation, oldest first.
pub fn open_of_conversation(db: &mut Db, id: ConversationId) -> Result<Vec<Turn>, Error> {
    let rows = turns::table
        .filter(turns::conversation_id.eq(id.as_bytes().as_slice()).and(open()))
        .order(turns::started_at.asc())
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Turn::try_from).collect()
}

/// Reads the open turns of all sessions of a gateway.
pub fn open_of_gateway(db: &mut Db, gateway_id: &GatewayId) -> Result<Vec<Turn>, Error> {
    use super::schema::conversations;
    let rows = turns::table
        .inner_join(conversations::table.on(conversations::id.eq(turns::conversation_id)))
        .filter(open().and(conversations::gateway_id.eq(gateway_id.as_str())).and(conversations::deleted_at.is_null()))
        .order(turns::started_at.asc())
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Turn::try_from).collect()
}

/// Finds the turn of a run: by the gateway's id of it, or by the key we sent, which is the delivery's id (D4).
pub fn by_run(db: &mut Db, conversation: ConversationId, run_id: &str) -> Result<Option<Turn>, Error> {
    let row = turns::table
        .filter(turns::conversation_id.eq(conversation.as_bytes().as_slice()).and(turns::upstream_run_id.eq(run_id)))
        .select(Row::as_select())
        .first(db)
        .optional()?;
    if let Some(row) = row {
        return Turn::try_from(row).map(Some);
    }
    match run_id.parse::<DeliveryId>() {
        Ok(delivery) => by_delivery(db, delivery),
        Err(_) => Ok(None),
    }
}

/// Finds the newest turn of a delivery.
pub fn by_delivery(db: &mut Db, delivery: DeliveryId) -> Result<Option<Turn>, Error> {
    let row = turns::table
        .filter(turns::delivery_id.eq(delivery.as_bytes().as_slice()))
        .order(turns::started_at.desc())
        .select(Row::as_select())
        .first(db)
        .optional()?;
    row.map(Turn::try_from).transpose()
}

/// Leases a question to its gateway and begins its turn, before anything is sent (D4).
#[derive(Clone, Debug)]
pub struct BeginTurn {
    pub turn_id: TurnId,
    pub delivery_id: DeliveryId,
}

impl Command for BeginTurn {
    type Output = Turn;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Turn, Error> {
        // A repeat after a commit of unknown outcome.
        if let Some(known) = get(tx.read()?, self.turn_id)? {
            return Ok(known);
        }
        let delivery = deliveries::apply(tx, self.delivery_id, &Move::Lease { until: None })?;
        insert(
            tx,
            Turn {
                id: self.turn_id,
                conversation_id: delivery.conversation_id,
                delivery_id: Some(delivery.id),
                message_id: Some(delivery.message_id),
                answer_id: None,
                run_id: delivery.id.to_string(),
                state: TurnState::Started,
                text: String::new(),
                started_at: tx.now_ms(),
            },
        )
    }
}

/// Begins the turn of a run that somebody else started.
#[derive(Clone, Debug)]
pub struct BeginForeignTurn {
    pub turn_id: TurnId,
    pub conversation_id: ConversationId,
    pub run_id: String,
}

impl Command for BeginForeignTurn {
    type Output = Turn;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Turn, Error> {
        if let Some(known) = by_run(tx.read()?, self.conversation_id, &self.run_id)? {
            return Ok(known);
        }
        // A deleted conversation gets no new lines, so nobody may begin one.
        super::conversations::get(tx.read()?, self.conversation_id)?
            .ok_or_else(|| Error::not_found("conversation", self.conversation_id))?;
        let started_at = tx.now_ms();
        insert(
            tx,
            Turn {
                id: self.turn_id,
                conversation_id: self.conversation_id,
                delivery_id: None,
                message_id: None,
                answer_id: None,
                run_id: self.run_id.clone(),
                state: TurnState::Started,
                text: String::new(),
                started_at,
            },
        )
    }
}

fn insert(tx: &mut Tx<'_>, turn: Turn) -> Result<Turn, Error> {
    diesel::insert_into(turns::table)
        .values((
            turns::id.eq(turn.id.as_bytes().as_slice()),
            turns::conversation_id.eq(turn.conversation_id.as_bytes().as_slice()),
            turns::delivery_id.eq(turn.delivery_id.as_ref().map(|id| id.as_bytes().as_slice())),
            turns::message_id.eq(turn.message_id.as_ref().map(|id| id.as_bytes().as_slice())),
            turns::upstream_run_id.eq(&turn.run_id),
            turns::state.eq(turn.state as i32),
            turns::text.eq(""),
            turns::started_at.eq(turn.started_at),
        ))
        .execute(tx.write()?)?;
    Ok(turn)
}

/// Keeps the text of a running turn, so that a crash loses little of it. Belongs in the bulk lane.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub turn_id: TurnId,
    pub text: String,
    /// The gateway's id of the run, which changes when it takes the run up again.
    pub run_id: String,
    /// When the gateway took the question, for its receipt.
    pub sent_at: Option<i64>,
}

impl Command for Checkpoint {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let now_ms = tx.now_ms();
        diesel::update(turns::table.find(self.turn_id.as_bytes().as_slice()))
            .filter(open())
            .set((
                turns::state.eq(TurnState::Streaming as i32),
                turns::text.eq(bounded_text(self.text.clone())),
                turns::upstream_run_id.eq(&self.run_id),
                turns::checkpoint_at.eq(Some(now_ms)),
            ))
            .execute(tx.write()?)?;
        if let Some(sent_at) = self.sent_at
            && let Some(delivery) = get(tx.read()?, self.turn_id)?.and_then(|turn| turn.delivery_id)
        {
            deliveries::note_sent(tx, delivery, sent_at)?;
        }
        Ok(())
    }
}

/// Ends a turn that nobody will hear of any more, and tells whoever watches it.
pub(super) fn abandon(tx: &mut Tx<'_>, id: TurnId) -> Result<(), Error> {
    let Some(turn) = get(tx.read()?, id)?.filter(|turn| turn.state.is_open()) else { return Ok(()) };
    let ended_at = tx.now_ms();
    diesel::update(turns::table.find(id.as_bytes().as_slice()))
        .set((turns::state.eq(TurnState::Aborted as i32), turns::ended_at.eq(Some(ended_at))))
        .execute(tx.write()?)?;
    let topic = tx.topic(turn.conversation_id)?;
    let end = TurnEnd {
        turn_id: id,
        state: TurnState::Aborted,
        text: turn.text.as_str().into(),
        error: None,
        code: None,
        usage: None,
    };
    tx.emit(Event::TurnEnded { topic, end: std::sync::Arc::new(end) });
    Ok(())
}

/// How the delivery of an ended turn ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    Completed(Outcome),
    /// For good; `started`: the gateway may have begun to work on it, so its key must not be sent again (D4).
    Dead {
        reason: String,
        started: bool,
    },
}

/// Ends a turn: its answer line, its delivery and its state in one transaction (STO-2). The first end counts.
#[derive(Clone, Debug)]
pub struct EndTurn {
    pub turn_id: TurnId,
    /// The gateway's id of the run in the end, by which its rows are known. `None`: as it is stored.
    pub run_id: Option<String>,
    pub state: TurnState,
    /// The visible answer, or the part that came.
    pub text: String,
    /// What was removed from it, where it is to be kept.
    pub thinking: Option<String>,
    pub error: Option<String>,
    pub code: Option<&'static str>,
    pub usage: Option<serde_json::Value>,
    /// The gateway's time of the answer.
    pub said_at: Option<i64>,
    pub late: bool,
    /// When the gateway took the question, for its receipt.
    pub sent_at: Option<i64>,
    pub delivery: DeliveryEnd,
}

impl Command for EndTurn {
    /// The line of the answer, if there is one. `None` as well when the turn had ended before.
    type Output = Option<std::sync::Arc<Line>>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Self::Output, Error> {
        let turn = get(tx.read()?, self.turn_id)?.ok_or_else(|| Error::not_found("turn", self.turn_id))?;
        if !turn.state.is_open() {
            return Ok(None);
        }
        let topic = tx.topic(turn.conversation_id)?;
        let gateway = topic.gateway_id.as_ref().map_or("", GatewayId::as_str).to_owned();
        let sender = parties::ensure_named(tx, PartyKind::Gateway, &gateway)?;
        let error = self.error.clone().map(bounded_text);
        // What is told is what is stored.
        let text = bounded_text(self.text.clone());
        let mut blocks = Vec::new();
        if let Some(thinking) = self.thinking.as_ref().filter(|thinking| !thinking.is_empty()) {
            blocks.push(Block::Thinking { text: thinking.clone() });
        }
        match (&error, text.is_empty()) {
            // An error without an answer says so in its place, for clients that know only text.
            (Some(error), true) => blocks.push(Block::text(error.clone())),
            (_, true) => {}
            (_, false) => blocks.push(Block::text(text.as_str())),
        }
        let line = if blocks.is_empty() {
            None
        } else {
            let new = NewLine {
                blocks,
                said_at: self.said_at,
                late: self.late,
                in_reply_to: turn.message_id,
                error: error.clone(),
                ..NewLine::text(MessageRole::Assistant, sender, "")
            };
            Some(messages::append(tx, turn.conversation_id, Place::End, new)?)
        };
        let ended_at = tx.now_ms();
        diesel::update(turns::table.find(self.turn_id.as_bytes().as_slice()))
            .set((
                turns::state.eq(self.state as i32),
                self.run_id.as_ref().map(|run_id| turns::upstream_run_id.eq(run_id)),
                turns::answer_id.eq(line.as_ref().map(|line| line.id.as_bytes().to_vec())),
                // A line holds the answer; without one the turn keeps what had come.
                turns::text.eq(if line.is_some() { "" } else { text.as_str() }),
                turns::usage.eq(self.usage.as_ref().map(ToString::to_string)),
                turns::error.eq(&error),
                turns::ended_at.eq(Some(ended_at)),
            ))
            .execute(tx.write()?)?;
        let end = std::sync::Arc::new(TurnEnd {
            turn_id: turn.id,
            state: self.state,
            text: text.as_str().into(),
            error: error.clone(),
            code: self.code,
            usage: self.usage.clone(),
        });
        match &line {
            Some(line) => tx.emit(Event::Line { topic, line: line.clone(), ack_to: None, end: Some(end) }),
            None => tx.emit(Event::TurnEnded { topic, end }),
        }
        if let Some(id) = turn.delivery_id {
            end_delivery(tx, id, self)?;
        }
        Ok(line)
    }
}

/// Ends the delivery with its turn. One that cannot be read is left as it is: the answer is there all the same (STO-3).
fn end_delivery(tx: &mut Tx<'_>, id: DeliveryId, end: &EndTurn) -> Result<(), Error> {
    use super::schema::deliveries::dsl;
    let Some(mut stored) = deliveries::get_readable(tx.read()?, id)? else { return Ok(()) };
    // It may have been cancelled meanwhile; then its end stands.
    if !stored.delivery.state.is_open() {
        return end.sent_at.map_or(Ok(()), |at| deliveries::note_sent(tx, id, at));
    }
    if let Some(at) = end.sent_at {
        stored.add_sent(at);
    }
    match &end.delivery {
        DeliveryEnd::Completed(outcome) => {
            let action = Move::Complete { outcome: *outcome, attempt: None, result_hash: None };
            deliveries::apply_to(tx, stored, &action, true)?;
        }
        DeliveryEnd::Dead { reason, started } => {
            let action = Move::Fail { attempt: None, reason: reason.clone() };
            deliveries::apply_to(tx, stored, &action, true)?;
            diesel::update(dsl::deliveries.find(id.as_bytes().as_slice()))
                .set(dsl::started.eq(*started))
                .execute(tx.write()?)?;
        }
    }
    Ok(())
}

/// A step that is to be added to a turn.
#[derive(Clone, Debug)]
pub struct NewStep {
    pub kind: StepKind,
    pub text: String,
    pub blocks: Vec<Block>,
    pub said_at: i64,
}

/// Appends a step.
pub(super) fn add_step(tx: &mut Tx<'_>, turn: TurnId, new: &NewStep) -> Result<StepId, Error> {
    let newest: Option<i32> = steps::table
        .filter(steps::turn_id.eq(turn.as_bytes().as_slice()))
        .order(steps::n.desc())
        .select(steps::n)
        .first(tx.read()?)
        .optional()?;
    let id = StepId::new();
    let created_at = tx.now_ms();
    diesel::insert_into(steps::table)
        .values((
            steps::id.eq(id.as_bytes().as_slice()),
            steps::turn_id.eq(turn.as_bytes().as_slice()),
            steps::n.eq(newest.unwrap_or(0) + 1),
            steps::kind.eq(new.kind as i32),
            steps::text.eq(bounded_text(new.text.clone())),
            steps::blocks.eq(Some(serde_json::to_string(&new.blocks).map_err(Error::internal)?)),
            steps::said_at.eq(new.said_at),
            steps::created_at.eq(created_at),
        ))
        .execute(tx.write()?)?;
    Ok(id)
}

/// Notes which line answers a turn, for an answer that was found after its end.
pub(super) fn set_answer(tx: &mut Tx<'_>, turn: TurnId, line: MessageId) -> Result<(), Error> {
    diesel::update(turns::table.find(turn.as_bytes().as_slice()))
        .set(turns::answer_id.eq(Some(line.as_bytes().to_vec())))
        .execute(tx.write()?)?;
    Ok(())
}

/// Finds the turns of these runs, each with the text of its answer: by the gateway's ids of them and by our keys (D4).
pub fn by_runs(
    db: &mut Db,
    conversation: ConversationId,
    runs: &[String],
) -> Result<Vec<(String, Turn, Option<String>)>, Error> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<DeliveryId> = runs.iter().filter_map(|run| run.parse().ok()).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|id| id.as_bytes().as_slice()).collect();
    let rows: Vec<Row> = turns::table
        .filter(turns::conversation_id.eq(conversation.as_bytes().as_slice()))
        .filter(turns::upstream_run_id.eq_any(runs).or(turns::delivery_id.eq_any(keys)))
        .order(turns::started_at.asc())
        .select(Row::as_select())
        .load(db)?;
    let mut found = Vec::new();
    for row in rows {
        let turn = Turn::try_from(row)?;
        let answer = answer_text(db, &turn)?;
        for run in runs {
            if *run == turn.run_id || turn.delivery_id.is_some_and(|id| id.to_string() == *run) {
                found.push((run.clone(), turn.clone(), answer.clone()));
            }
        }
    }
    Ok(found)
}

fn answer_text(db: &mut Db, turn: &Turn) -> Result<Option<String>, Error> {
    let Some(id) = turn.answer_id else { return Ok(None) };
    Ok(messages::get(db, id)?.map(|line| line.text.clone()))
}
