//! The HTTP surface of Loki: routes, codecs, wording of errors.
//!
//! This crate owns what goes over HTTP: it decodes pushes without copying lines, reads the parameters of queries,
//! writes answers in Loki's shapes, and gives every error the status code and the words that Loki's clients expect.
//! It calls the services behind it through the traits of `skald-rpc` only.
//!
//! It never keeps an entry, never evaluates a query, and never opens a socket: a server shell is given the
//! [`router`](router::router).

pub mod auth;
pub mod body;
pub mod cluster;
mod compactor;
pub mod config;
pub mod deletes;
mod drilldown;
pub mod error;
mod metrics;
pub mod push;
pub mod query;
pub mod rfc3339;
pub mod router;
pub mod status;
mod tail;
mod tenant;

pub use config::Config;
pub use deletes::Deletes;
pub use router::{ApiDeps, router};
pub use status::{Flush, Node};
