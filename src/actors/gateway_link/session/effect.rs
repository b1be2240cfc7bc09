//! What a session is told and what it wants: the words between it and its link.
use std::sync::Arc;

use crate::domain::event::Live;
use crate::domain::ids::{DeliveryId, MessageId, TurnId};
use crate::gateway::frames::GatewayError;
use crate::gateway::history::HistoryPage;
use crate::store::turns::{BeginForeignTurn, BeginTurn, Checkpoint, EndTurn};
use crate::store::upstream::{ImportRows, NoteContact};

/// What the machine is told by its settings.
#[derive(Clone, Debug)]
pub(in super::super) struct Options {
    pub(in super::super) resume_wait_ms: i64,
    pub(in super::super) silence_ms: i64,
    pub(in super::super) checkpoint_ms: i64,
    pub(in super::super) history_rows: u32,
    pub(in super::super) import_lines_max: usize,
    pub(in super::super) store_thinking: bool,
}

/// A line that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Question {
    pub(in super::super) delivery_id: DeliveryId,
    pub(in super::super) message_id: MessageId,
    pub(in super::super) seq: i64,
    pub(in super::super) text: Arc<str>,
}

/// Why history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Purpose {
    Contact,
    Import,
    Tail,
    Reconcile(Look),
}

/// A look at the log for what became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Look {
    pub(in super::super) turn_id: TurnId,
    /// What had been heard of the run when it was asked for: a page that is older than the last of it is recognised.
    pub(in super::super) heard: u64,
}

/// Why the machine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Wake {
    Resend,
    Reconcile,
    Tail,
    RetryBegin,
    RetryEnd,
    Contact,
    Import,
    Next,
}

/// What should happen.
#[derive(Debug)]
pub(in super::super) enum Effect {
    /// Ask the gateway: `chat.send` with the delivery's id as key.
    Send {
        delivery_id: DeliveryId,
        text: Arc<str>,
    },
    /// Ask the gateway: `chat.abort`.
    Abort {
        run_id: String,
    },
    /// Ask the gateway: `chat.history`.
    History {
        purpose: Purpose,
        limit: u32,
        offset: u64,
    },
    Begin(BeginTurn),
    BeginForeign(BeginForeignTurn),
    End(Box<EndTurn>),
    /// Ask the store whether the owner may have what this page shows; it is the page of the first contact.
    Claim(Box<HistoryPage>),
    NoteContact(NoteContact),
    Import(ImportRows),
    /// Map the rows of this page to lines and steps.
    Map(Box<HistoryPage>),
    Checkpoint(Checkpoint),
    Tell(Live),
    WakeIn {
        ms: u64,
        wake: Wake,
    },
    /// End these waiting deliveries.
    Cancel(Vec<DeliveryId>),
    /// The session now goes by this run id as well.
    RunId(String),
}

/// Why a request to the gateway failed.
#[derive(Debug)]
pub(in super::super) enum RequestError {
    Refused(GatewayError),
    TimedOut,
    /// It was not sent: too many wait here already.
    Busy,
    /// The connection ended before the answer.
    Closed,
    /// The answer could not be read.
    Unreadable(String),
}
