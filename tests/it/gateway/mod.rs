//! Links to gateways: what an admin sees of them, and what they never tell.
mod alone;
mod changes;
mod links;
mod replay;
mod resets;
mod secrets;
