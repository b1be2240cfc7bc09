//! The main job against a real OpenClaw gateway: `./test --real-gateway` (elsewhere the stories are ignored).
//!
//! After each story every row of the gateway's history must belong to exactly one line or step of ours, the texts must be
//! equal but for the gateway's own clean-up, and each browser must have seen exactly one end for each question.
pub(crate) mod check;
mod skill;
mod stories;
