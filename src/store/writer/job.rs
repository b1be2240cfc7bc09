//! A command on its way through the writer, and how it ended.
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::WriterStats;
use crate::domain::error::{Error, ErrorCode};
use crate::store::tx::{Command, Tx};

/// A command of any type, on its way through the writer.
pub(super) trait Job: Send {
    /// Tells whether a node that stands by may run it.
    fn in_standby(&self) -> bool;
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran;
    /// Has it fail by itself, after it had run.
    fn fail(&mut self, error: Error);
    /// Has it fail with its batch.
    fn refuse(&mut self, error: Error);
    /// Answers whoever waits; how it ended is final now, and counted.
    fn settle(self: Box<Self>, stats: &WriterStats);
}

/// How a command ended, as far as its neighbours are concerned.
pub(super) enum Ran {
    Fine,
    /// A rule of ours said no. What the command had written must go; without writes nothing has happened.
    Refused,
    /// A statement failed, or the command did. PostgreSQL then refuses everything else in the transaction and turns
    /// its commit into a rollback without a word, so it counts as if it had written.
    Failed,
    /// The disk or the connection failed, and the whole batch with it (D12).
    Lost(Error),
}

impl Ran {
    fn of<T>(outcome: &Result<T, Error>) -> Self {
        outcome.as_ref().err().map_or(Self::Fine, Self::by)
    }

    pub(super) fn by(error: &Error) -> Self {
        match error.code() {
            ErrorCode::StoreBusy | ErrorCode::StorageFull => Self::Lost(copy_of(error)),
            ErrorCode::Internal => Self::Failed,
            _ => Self::Refused,
        }
    }
}

pub(super) struct Pending<C: Command> {
    pub(super) command: C,
    /// `None` when nobody waits for the answer.
    pub(super) reply: Option<oneshot::Sender<Result<C::Output, Error>>>,
    pub(super) outcome: Option<Result<C::Output, Error>>,
    /// It failed with its batch, which is logged.
    pub(super) refused: bool,
}

impl<C: Command> Job for Pending<C> {
    fn in_standby(&self) -> bool {
        C::IN_STANDBY
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        // A panic must not take the thread with it; it is this command's failure alone.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.command.apply(tx)))
            .unwrap_or_else(|_| Err(Error::internal("a store command panicked")));
        let ran = Ran::of(&outcome);
        self.outcome = Some(outcome);
        ran
    }

    fn fail(&mut self, error: Error) {
        self.outcome = Some(Err(error));
    }

    fn refuse(&mut self, error: Error) {
        self.fail(error);
        self.refused = true;
    }

    fn settle(mut self: Box<Self>, stats: &WriterStats) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(Error::store_busy()));
        if let Err(error) = &outcome {
            stats.note_refusal(error.code());
        }
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone; the change is made all the same.
            let _ = reply.send(outcome);
        } else if let Err(error) = outcome
            && !self.refused
        {
            let command = std::any::type_name::<C>();
            log::warn!(command; "a write that nobody waits for failed: {}", error.cause());
        }
    }
}

/// Makes the error for each caller of a failed batch.
pub(super) fn copy_of(error: &Error) -> Error {
    let copy = match error.code() {
        ErrorCode::Internal => Error::internal(error.to_string()),
        code => Error::new(code, error.message()),
    };
    match error.retry_after_s() {
        Some(seconds) => copy.with_retry_after_s(seconds),
        None => copy,
    }
}
