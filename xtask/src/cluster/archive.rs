//! Where entries go before they expire: a directory, whatever the tables lie in.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::server::Setup;

/// The tables of the archive, and a configuration to look at them with.
pub(super) struct Archive {
    place: PathBuf,
    setup: Setup,
}

impl Archive {
    /// Below the directory of the run.
    pub(super) fn new(binary: &Path, directory: &Path) -> Result<Self> {
        let place = directory.join("archive");
        let config =
            format!("common: {{storage: {{filesystem: {{chunks_directory: {}}}}}}}\n", place.display());
        Ok(Self { setup: Setup::new(binary, &directory.join("archivist"), &config)?, place })
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// For commands that work on the archive's tables.
    pub(super) fn tool(&self) -> &Setup {
        &self.setup
    }
}
