//! A process of Skald as a container would start it: does Skald accept its configuration?

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// What a container gives to Skald.
#[derive(Debug)]
pub(super) struct Process {
    /// Where it comes from.
    pub(super) name: String,
    /// Its environment.
    pub(super) environment: Vec<(String, String)>,
    /// The command and its flags.
    pub(super) arguments: Vec<String>,
    /// Paths inside the container, and what lies there.
    pub(super) files: Vec<(String, String)>,
}

impl Process {
    /// What `--verify-config` says against it.
    pub(super) fn verify(&self, binary: &Path) -> Result<Option<String>> {
        let directory = tempfile::tempdir().context("failed to create a directory for configurations")?;
        let mut moved = Vec::new();
        for (path, _) in &self.files {
            let name = Path::new(path).file_name().unwrap_or_default();
            moved.push((path.as_str(), directory.path().join(name).display().to_string()));
        }
        // Files name each other by their paths in the container.
        let here = |text: &str| moved.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        for ((_, text), (_, path)) in self.files.iter().zip(&moved) {
            std::fs::write(path, here(text)).with_context(|| format!("failed to write {path}"))?;
        }
        let mut command = Command::new(binary);
        command.args(self.arguments.iter().map(|argument| here(argument))).arg("--verify-config");
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = command.output().with_context(|| format!("failed to start {}", binary.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        Ok((!output.status.success()).then(|| format!("{}: {}", self.name, said.trim())))
    }
}
