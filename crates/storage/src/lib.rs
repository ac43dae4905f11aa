//! Where Skald keeps what it was given: the object store stack, blocks, tables and their caches.
//!
//! This crate owns the formats at rest. [`store`] opens a local directory, S3, GCS or Azure as one
//! `ObjectStore` with metrics, bounded retries and (in tests) faults; [`block`] writes and reads one Parquet
//! file; [`table`] is the Delta table of each tenant that says which blocks exist; [`rewrite`] merges blocks of
//! a table and takes rows out of them; [`cache`] keeps by bytes what is read often; [`registry`] tells which
//! ingesters may hold what no table has.
//!
//! It promises that what [`table`] acknowledged is durable and is seen exactly once, and that every table and
//! block opens in other Delta and Parquet readers. It is the only crate that knows arrow, parquet, Delta and
//! object stores. It never parses LogQL (predicates arrive as types of `skald-model`), never talks to other
//! nodes, and never deletes a data file that a table may still name.

pub mod block;
pub mod cache;
pub mod registry;
pub mod rewrite;
pub mod store;
pub mod table;
