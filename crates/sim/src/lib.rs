//! A cluster in one process on simulated time, with faults and a seed.
//!
//! The services are the real ones: distributors, ingesters with their logs on disk, a frontend, a querier and compactors, over a table
//! in an object store in memory. What lies between them is simulated: the clock, the network ([`network`](Weather)), the
//! ways to the store, who hears when of whom. Everything runs on one thread and all chance comes from the seed, so the same
//! seed gives the same run, event by event.
//!
//! [`run`](run::run) makes a run from a seed and checks the promises of the design in it, by their names ([`promises`]).
//! The scenarios in `tests/` are runs written by hand, one for each rule that keeps the promises.
//!
//! It never simulates membership (gossip, the registration of ingesters): it says who knows what of whom, within the bounds
//! that membership has to keep.

mod client;
mod clock;
mod cluster;
pub mod compaction;
mod dice;
pub mod history;
mod link;
mod members;
mod network;
pub mod promises;
pub mod run;
mod store;
mod table;
mod trace;

pub use client::NO_LIMIT;
pub use clock::SimClock;
pub use cluster::{Cluster, Setup};
pub use network::Weather;

use skald_runtime::Deterministic;

/// Runs `work` on simulated time, with all chance from `seed`.
pub fn simulate<T, F: Future<Output = T>>(seed: u64, work: impl FnOnce() -> F) -> T {
    let _deterministic = Deterministic::enter(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without a thread");
    runtime.block_on(async { work().await })
}
