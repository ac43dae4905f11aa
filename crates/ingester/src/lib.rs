//! The ingester: takes entries in durably, shows them at once, and brings them into the table.
//!
//! It owns the write-ahead log ([`wal`]), the entries in memory ([`segment`], one growing and some sealed ones per
//! tenant), and the flush of sealed segments to the tenant's table ([`table`]).
//!
//! It promises:
//! * A push that was acknowledged is on disk (as far as the configuration lets it sync), and is found by every query
//!   from then on: in memory until the table has it, in the table afterwards; where it is the only one to keep them, never in both for
//!   one table version.
//! * What it wrote to the table is not written again, also not after a crash in the middle of a commit.
//! * Its memory stays inside a budget. When flushes can't keep up, pushes wait and are then refused.
//!
//! It never decides who keeps a stream, never reads blocks, and never deletes what the table holds.

mod config;
mod core;
mod deletes;
pub mod delta;
mod flush;
mod housekeeping;
mod instance;
mod log;
pub mod metrics;
pub mod patterns;
mod quarantine;
mod query;
mod replay;
pub mod replicas;
#[cfg(test)]
mod samples;
pub mod segment;
mod service;
pub mod table;
mod tail;
mod tenant;
pub mod wal;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use instance::Instance;
pub use service::{Ingester, StartError, Status};
