//! The HTTP surface over services that only write down what they are asked.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "all of this is test code"
)]

mod conformance;
mod deletes;
mod push;
mod query;
mod services;
mod status;
