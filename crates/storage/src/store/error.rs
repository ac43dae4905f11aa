//! Why a store can't be opened.

use skald_model::Kind;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A store that can't be opened. All of them want a change of the configuration or of the place it names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings contradict each other or lack something.
    #[error("storage configuration: {0}")]
    Config(String),

    /// The local directory can't be used.
    #[error(
        "data directory {path} is not usable: {source}; set common.storage.filesystem.chunks_directory (or --data) to a directory that this user can write"
    )]
    Directory {
        /// The directory.
        path: String,
        /// What the file system or the probe said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A bucket refused the probe.
    #[error(
        "{place} is not usable: {source}; check the name, the credentials and the endpoint under {setting}"
    )]
    Unusable {
        /// The bucket or container.
        place: String,
        /// The section of the configuration that names it.
        setting: &'static str,
        /// What the store said.
        source: object_store::Error,
    },

    /// The bucket overwrites objects that it was told to create only.
    #[error(
        "{place} does not honour conditional put (If-None-Match): a second create of the same object {outcome}; Skald commits by conditional put and would lose data here"
    )]
    NoConditionalPut {
        /// The bucket or container.
        place: String,
        /// What happened instead of a refusal.
        outcome: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Config(_) => Kind::InvalidArgument,
            Error::Directory { .. } | Error::Unusable { .. } => Kind::Unavailable,
            Error::NoConditionalPut { .. } => Kind::Internal,
        }
    }
}

impl From<Error> for skald_model::Error {
    fn from(e: Error) -> Self {
        skald_model::Error::new(e.kind(), e.to_string())
    }
}
