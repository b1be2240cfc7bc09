//! The mailbox of one agent: it picks what a poll hands out and keeps the polls that wait for something.
//!
//! Owner: the supervisor; opened by the first call that needs it and gone again when nobody has called for a while.
//! What is leased, given back or ended is the writer's to say; the mailbox only proposes. Its two parts are pure:
//! `state` is the picture of the open deliveries, `waiting` the queue of long polls.
//!
//! Invariants
//! - DLV-1: a stale picture costs a refused proposal, never a second hand-out.
//! - DLV-4: first hand-outs of a conversation are proposed in the order of its lines.
//! - LIM-1: texts in memory are bounded; what is beyond the bound is read when it is handed out.
mod state;
mod waiting;
