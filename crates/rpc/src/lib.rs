//! The services of Skald as traits, their messages, and the two ways to call them.
//!
//! A service is called through its trait, whether the other side is in this process (the service itself behind an
//! `Arc`) or across the wire (a gRPC client that implements the same trait). So the single binary and the cluster
//! run the same code path. Messages are the types of `skald-model` and the plain structs of this crate; generated
//! protobuf types stay inside the adapters. Bodies of pushes move by reference in both cases.
//!
//! This crate never looks into a query: it carries LogQL as text.

pub mod compaction;
pub mod deletes;
pub mod distributor;
pub mod frontend;
pub mod grpc;
pub mod ingester;
pub mod memory;
pub mod patterns;
pub mod querier;
pub mod tail;

pub use compaction::Compaction;
pub use deletes::DeleteRequests;
pub use distributor::Distributor;
pub use frontend::QueryFrontend;
pub use ingester::Ingester;
pub use querier::Querier;
pub use skald_model::error::{Error, Kind, Result};
