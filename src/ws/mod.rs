//! WebSocket plumbing for both sides: what actix leaves to its users.
//!
//! [`frame_guard`] and [`codec`] refuse a frame by its header, before its payload is buffered; [`fragments`] joins
//! continuation frames within a bound.
pub mod codec;
pub mod fragments;
pub mod frame_guard;
