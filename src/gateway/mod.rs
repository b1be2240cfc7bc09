//! The protocol room: what an OpenClaw gateway says over its WebSocket, and what we say to it.
//!
//! Owner: nobody; everything here is data and pure functions. Time, random numbers and keys are arguments. The only
//! user is the link actor, which owns the socket. No actors, no I/O, no clock.
//!
//! The protocol has two generations that matter. They differ in what a chat client sees, not in the envelope:
//!
//! | releases | protocol | differs by |
//! | --- | --- | --- |
//! | up to 2026.5.8 | 3 | deltas hold the text so far only; history rows have no run id and no idempotency key |
//! | 2026.5.9 and later | 4 | `deltaText`, `status` events, run ids in history; from 2026.9 `bootId`, `pendingInputs` |
//!
//! Sources: `tests/fixtures/openclaw-gateway` (recorded with real gateways) and the protocol's documentation.
//! What is marked "documented" in a comment was read there and not seen on the wire.
//!
//! Invariants
//! - SEC-1: no token, password or key is in a `Debug` print, an error or a [`crate::domain::gateway::Problem`].
//! - What a gateway sends is foreign input: nothing in it can make this room panic, and unknown fields, kinds and
//!   events are not errors, since they are added in minor releases.
pub mod backoff;
pub mod device;
pub mod frames;
pub mod handshake;
pub mod history;
pub mod reconcile;
pub mod run;

#[cfg(test)]
mod fixtures;
