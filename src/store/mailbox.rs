//! Mailboxes of agents: messages are sent, handed out under a lease, prolonged, reported on and given back.
//!
//! Every move is judged here by the row, or by what the writer remembers of it; whoever proposes one may know less.
//!
//! Invariants
//! - DLV-1: a message is handed out to one caller at a time, and each hand-out has a number.
//! - DLV-3: a request that is reported on twice has one reply.
//! - STO-2: a report, its line and the reply's delivery are one transaction, and so are a death and its notice.
//! - RTE-1: a reply or a notice begets nothing, and requests that follow from each other come to an end.
mod after;
mod ask;
mod hand_out;
mod hidden;
mod moves;
mod pair;
mod report;
mod retained;
mod send;

pub(super) use self::after::{Deaths, Lost};
pub use self::ask::{Ask, OpenUserAgent};
pub use self::hand_out::{Close, GiveBack, HandOut, HandedOut};
pub use self::hidden::hidden_from;
pub use self::moves::{Acknowledge, Acknowledged, Extend, ExtendAll, Extended, Fail, Nack, Prolonging};
pub use self::pair::LoopGuards;
pub(super) use self::pair::{Pairs, admit_to_member, admits_member, note_request};
pub use self::report::{Report, Reported};
pub use self::retained::was_sent_to;
pub use self::send::{Before, SendMessage, Sent, sent_before};
pub(super) use self::send::{append, check_room, deliver, scoped};

/// How much mail there may be.
#[derive(Clone, Copy, Debug)]
pub struct MailLimits {
    /// Open messages of one mailbox.
    pub messages_max: usize,
    /// Hand-outs of a message before it is dead, where its agent has no number of its own.
    pub attempts_max: i32,
}
