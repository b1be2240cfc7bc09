//! The mailbox family as agents use it.
mod keys;
