//! A pass over the tail of a session's log: reads what the store knows of its rows, decides, writes it down.
use std::collections::HashSet;

use super::session::{Mapped, clean, line_of};
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, DeliveryId, TurnId};
use crate::domain::message::{Block, Line};
use crate::domain::thinking;
use crate::domain::turn::{StepKind, TurnState};
use crate::gateway::history::{HistoryPage, HistoryRow, Marker, RowRole};
use crate::gateway::reconcile::{self, Known, KnownTurn, Meaning, OthersTurn};
use crate::store::turns::{NewStep, Turn};
use crate::store::upstream::{self, Asker, MapRows, MappedRow, NoteReset, Source};
use crate::store::{Store, messages, turns};

/// Turns on protocol 3 whose rows are looked for by their text.
const UNMAPPED_MAX: i64 = 50;

/// What the store knows of the rows at hand.
struct LookedUp {
    known: Known<TurnId, DeliveryId>,
    /// Keys of ours that belong to another conversation: a deleted one of the same name.
    elsewhere: HashSet<String>,
}

/// Maps a page. Repeating it changes nothing: each row has one origin.
pub(super) async fn map(
    store: &Store,
    mut source: Source,
    page: HistoryPage,
    mut mapped_seq: i64,
    known_session: Option<String>,
    protocol: u32,
) -> Result<Mapped, Error> {
    if let Some(session) = &page.session_id {
        source.upstream_session.clone_from(session);
    }
    if reconcile::was_reset(&page, known_session.as_deref(), mapped_seq) {
        mapped_seq = 0;
        let text = "the session was started afresh on the gateway".to_owned();
        store.write(NoteReset { source: source.clone(), text }).await?;
    }
    let id = source.conversation_id;
    let runs: Vec<String> = distinct(page.rows.iter().filter_map(|row| row.run_id.clone()));
    let keys: Vec<String> = distinct(page.rows.iter().filter_map(|row| row.delivery_key().map(str::to_owned)));
    let row_ids: Vec<String> = page.rows.iter().map(|row| row.id.clone()).collect();
    let (looked_at, old) = (source.clone(), protocol < 4);
    let (LookedUp { known, elsewhere }, done) = store
        .readers()
        .read_in_background(move |db| {
            let looked_up = look_up(db, id, &runs, &keys, old)?;
            Ok::<_, Error>((looked_up, upstream::known_rows(db, &looked_at, &row_ids)?))
        })
        .await?;
    let is_elsewhere = |row: &HistoryRow| {
        [row.run_id.as_deref(), row.delivery_key()].into_iter().flatten().any(|key| elsewhere.contains(key))
    };
    let rows: Vec<HistoryRow> =
        page.rows.into_iter().filter(|row| !done.contains(&row.id) && !is_elsewhere(row)).collect();
    if rows.iter().any(|row| row.marker == Some(Marker::Reset)) {
        // The rows after it are numbered from 1 again; the marker itself becomes a line.
        mapped_seq = 0;
    }
    let mapped = reconcile::map_tail(&rows, mapped_seq, &known);
    let answers = mapped
        .rows
        .iter()
        .filter(|(_, meaning)| matches!(meaning, Meaning::Answer(_) | Meaning::LateAnswer(_)))
        .count();
    let up_to = mapped.up_to;
    let rows: Vec<MappedRow> = mapped.rows.iter().map(|(row, meaning)| to_store(row, meaning)).collect();
    let upstream_session = source.upstream_session.clone();
    if !rows.is_empty() || up_to != mapped_seq {
        store.write(MapRows { source, rows, mapped_seq: up_to }).await?;
    }
    Ok(Mapped { up_to, upstream_session, answers })
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut values: Vec<String> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

fn look_up(
    db: &mut crate::store::Db,
    id: ConversationId,
    runs: &[String],
    keys: &[String],
    protocol_3: bool,
) -> Result<LookedUp, Error> {
    let (mut known, mut elsewhere) = (Known::default(), HashSet::new());
    for (run, turn, answer) in turns::by_runs(db, id, runs)? {
        // What an interrupted turn left is a part; the whole answer, found later, is a line of its own.
        let answer = answer.filter(|_| turn.state != TurnState::Interrupted);
        known.turns.insert(run, KnownTurn { id: turn.id, open: turn.state.is_open(), answer });
    }
    for (key, (delivery, conversation)) in upstream::our_keys(db, keys.iter().chain(runs).cloned())? {
        if conversation == id {
            known.questions.insert(key, delivery);
        } else {
            elsewhere.insert(key);
        }
    }
    if protocol_3 {
        for (turn, answer) in upstream::unmapped(db, id, Asker::Us, UNMAPPED_MAX)? {
            let (Some(delivery), Some(question)) = (turn.delivery_id, turn.message_id) else { continue };
            let text = messages::get(db, question)?.map(|line| line.text.clone()).unwrap_or_default();
            // Of a question that was asked anew the last turn counts.
            known.asked.retain(|(_, other, _)| *other != delivery);
            known.asked.push((text, delivery, known_turn(&turn, answer.as_deref())));
        }
        for (turn, answer) in upstream::unmapped(db, id, Asker::Others, UNMAPPED_MAX)? {
            known.others.push(OthersTurn {
                turn: known_turn(&turn, answer.as_deref()),
                started_ms: turn.started_at,
                ended_ms: answer.map(|line| line.created_at),
            });
        }
    }
    Ok(LookedUp { known, elsewhere })
}

fn known_turn(turn: &Turn, answer: Option<&Line>) -> KnownTurn<TurnId> {
    // What an interrupted turn left is a part; the whole answer, found later, is a line of its own.
    let answer = answer.filter(|_| turn.state != TurnState::Interrupted).map(|line| line.text.clone());
    KnownTurn { id: turn.id, open: turn.state.is_open(), answer }
}

fn to_store(row: &HistoryRow, meaning: &Meaning<TurnId, DeliveryId>) -> MappedRow {
    let meaning = match meaning {
        Meaning::Question(delivery) => upstream::Meaning::Question(*delivery),
        Meaning::Answer(turn) => upstream::Meaning::Answer(*turn),
        Meaning::LateAnswer(turn) => upstream::Meaning::LateAnswer(*turn, line_of(row)),
        Meaning::Step(turn) => upstream::Meaning::Step(*turn, step_of(row)),
        Meaning::Line => upstream::Meaning::Line(line_of(row)),
    };
    MappedRow { row_id: row.id.clone(), meaning }
}

fn step_of(row: &HistoryRow) -> NewStep {
    let kind = if row.role == RowRole::ToolResult {
        StepKind::ToolResult
    } else if row.is_failure() {
        StepKind::Error
    } else if row.blocks.iter().any(|block| matches!(block, Block::ToolCall { .. })) {
        StepKind::ToolCall
    } else {
        StepKind::Text
    };
    let text = match row.role {
        RowRole::Assistant => thinking::strip(&row.text).visible,
        _ => row.text.clone(),
    };
    NewStep { kind, text, blocks: clean(&row.blocks), said_at: row.timestamp_ms.unwrap_or(0) }
}
