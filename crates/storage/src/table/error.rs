//! What can go wrong with a table.

use std::sync::Arc;
use std::time::Duration;

use skald_model::{Kind, TenantId};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a table. Cheap to clone, so that one failure can be told to all who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds a table that is not Skald's, or one of a later version. Nothing was changed.
    #[error(
        "the table at {table} was not written by this version of Skald: {reason}; nothing was changed, move it away or choose another directory"
    )]
    Foreign {
        /// Where the table is.
        table: String,
        /// What is different.
        reason: String,
    },

    /// The log of the table can't be understood.
    #[error("the log of the table at {table} is damaged: {reason}")]
    Damaged {
        /// Where the table is.
        table: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A block that the caller wants to commit breaks a rule of the table.
    #[error("block {path} can't be added to the table: {reason}")]
    InvalidBlock {
        /// The block's path.
        path: String,
        /// Which rule.
        reason: String,
    },

    /// A block's file can't be read as one.
    #[error("failed to read block {path} of tenant {tenant}: {reason}")]
    Unreadable {
        /// The tenant.
        tenant: TenantId,
        /// The block's path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A rewrite took so long that its files might have been taken for garbage. Nothing was committed.
    #[error(
        "a rewrite of the table of tenant {tenant} took longer than {limit:?}, a quarter of compactor.retention_delete_delay; nothing was changed"
    )]
    TooSlow {
        /// The tenant.
        tenant: TenantId,
        /// The time it had.
        limit: Duration,
    },

    /// Another rewrite was faster: choose the inputs anew from a new snapshot.
    #[error("another rewrite of the table of tenant {tenant} was faster: {reason}")]
    Conflict {
        /// The tenant.
        tenant: TenantId,
        /// What is no longer as it was.
        reason: String,
    },

    /// The commit could not be brought to an end in time. It may still take place: ask with the same
    /// application id and version again.
    #[error(
        "commit to the table of tenant {tenant} was not confirmed within {limit:?} (setting commit_timeout): {reason}"
    )]
    Unconfirmed {
        /// The tenant.
        tenant: TenantId,
        /// The time it was given.
        limit: Duration,
        /// The last thing that went wrong.
        reason: String,
    },

    /// The store failed.
    #[error("failed to {what} of tenant {tenant}: {source}")]
    Store {
        /// What was attempted.
        what: &'static str,
        /// The tenant.
        tenant: TenantId,
        /// The store's error.
        source: Arc<object_store::Error>,
    },

    /// The store failed to list the tables.
    #[error("failed to list the tables: {source}")]
    Listing {
        /// The store's error.
        source: Arc<object_store::Error>,
    },

    /// The Delta library failed.
    #[error("failed to {what} of tenant {tenant}: {reason}")]
    Delta {
        /// What was attempted.
        what: &'static str,
        /// The tenant.
        tenant: TenantId,
        /// The library's words.
        reason: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Foreign { .. }
            | Error::Damaged { .. }
            | Error::InvalidBlock { .. }
            | Error::Unreadable { .. } => Kind::Internal,
            Error::Conflict { .. }
            | Error::TooSlow { .. }
            | Error::Unconfirmed { .. }
            | Error::Store { .. }
            | Error::Listing { .. }
            | Error::Delta { .. } => Kind::Unavailable,
        }
    }
}

impl From<Error> for skald_model::Error {
    fn from(e: Error) -> Self {
        skald_model::Error::new(e.kind(), e.to_string())
    }
}
