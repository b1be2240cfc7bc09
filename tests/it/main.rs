//! The one integration binary: each folder is a room of the house, `harness` is what their tests stand on.
#![cfg(test)]

#[macro_use]
mod harness;

mod channels;
mod cli;
mod crash;
mod database_outages;
#[cfg(target_os = "linux")]
mod disk;
mod docs;
mod fuzz_seeds;
mod gateway;
mod hostile;
mod mailbox;
mod outbox;
mod real_gateway;
mod routes;
mod standby;
mod store;
mod ws;
