//! A disk that is soon full: a file system in memory, mounted where an ingester keeps its log. Needs the right to mount.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// Far more than an ingester of the test ever has in its log.
const SIZE: &str = "size=512m";

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at `directory`, which is made.
    pub(crate) fn mount(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("failed to create {}", directory.display()))?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(directory);
        workspace::run(&mut command).context("this machine does not let us mount disks (it takes root)")?;
        Ok(Self(directory.to_owned()))
    }

    /// Leaves no byte free on it.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler()).context("failed to create a file on a small disk")?;
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0_u8; size];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("failed to fill a small disk"),
                }
            }
        }
        Ok(())
    }

    /// Undoes [`Self::fill`].
    pub(crate) fn clear(&self) -> Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("failed to clear a small disk")
            }
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is left mounted goes with the machine.
        let _ = workspace::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
