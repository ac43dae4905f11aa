//! The catalog: a Delta table per tenant that says which blocks exist.
//!
//! `<root>/<tenant>/_delta_log` is an ordinary Delta log, written with the actions of `deltalake-core`, and
//! checkpointed and cleaned by it; any Delta reader opens the tables. Commits and snapshots are Skald's own,
//! because they are on the way of every flush and every query: a commit is one conditional put, a snapshot
//! without news one small request, and neither touches arrow (docs of [`Catalog`] say what they promise).
//!
//! The rules that keep the promises:
//! * A commit is one conditional put of the next number in the log. Nobody goes on to a number without having
//!   read all before it.
//! * A failed commit may have happened: after any error the log is read on, and what it says counts.
//! * A flush carries its application's id and version; what carries a version that is not newer than the
//!   committed one is there already and is not written again.
//! * Rewrites (whatever removes) carry one application id of Skald's and exclude each other.
//! * A data file is deleted only by whoever knows that nobody needs it: vacuum, and a rewrite that has lost.

mod catalog;
pub mod check;
mod checkpoint;
mod commit;
mod entry;
mod error;
mod export;
mod files;
mod log;
mod maintain;
mod metrics;
mod rebuild;
mod schema;
mod snapshot;
mod tenant;
mod upload;

pub use catalog::{Catalog, CatalogConfig};
pub use commit::{AppliedCommit, Committed, CopiesCommit, FlushCommit, RewriteCommit};
pub use entry::{BlockEntry, BlockOrigin, NewBlock};

pub use crate::block::BlockSummary;
pub use error::{Error, Result};
pub use export::Exported;
pub use files::DataFile;
pub use log::{block_path, date_text};
pub use maintain::Maintained;
pub use rebuild::Rebuilt;
pub use snapshot::{NO_VERSION, Snapshot};
pub use upload::BlockUpload;

#[cfg(test)]
mod tests;
