//! What is deleted or has expired.
//!
//! This crate owns the question "does this entry go?": retention rules and delete requests, compiled ([`Removals`]), the
//! requests of a tenant and how they change ([`requests`]), where they lie in the store ([`lists`]), and the service that
//! takes, lists and cancels them ([`service`]). Queries, flushes and rewrites all ask the same type, so that they cannot
//! disagree.
//!
//! It never reads or writes a row, and it decides nothing by itself: whoever holds entries asks.

mod blocks;
mod config;
mod flush;
mod lists;
mod metrics;
pub mod plan;
mod ranges;
mod removals;
pub mod requests;
mod resolve;
mod rewrite;
mod service;
mod told;

pub use blocks::Concern;
pub use config::Config;
pub use flush::AtFlush;
pub use lists::{Change, DeleteLists, Loaded};
pub use removals::{Delete, Entry, Keep, Removals, RowRules, Sieve, Source};
pub use requests::{DeleteList, DeleteRequest};
pub use resolve::Resolver;
pub use rewrite::{AtRewrite, Due};
pub use service::{Service, finished};
pub use told::Told;
