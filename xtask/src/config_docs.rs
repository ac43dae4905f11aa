//! Checks that the documentation of the configuration has every key that the program has.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// Options of `config-docs`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Compares `skald config show` with docs/configuration.md. True when no key is missing there.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let shown =
        workspace::output(Command::new(binary).args(["config", "show"]).current_dir(workspace::root()))?;
    let path = workspace::root().join("docs/configuration.md");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let missing: Vec<String> = keys(&shown).into_iter().filter(|key| !documents(&text, key)).collect();
    for key in &missing {
        println!("docs/configuration.md does not have the key {key}");
    }
    println!("config-docs: {} keys, {} missing", keys(&shown).len(), missing.len());
    Ok(missing.is_empty())
}

/// Whether a table row begins with the key, by its last part or by its last two or three.
fn documents(text: &str, key: &str) -> bool {
    let parts: Vec<&str> = key.split('.').collect();
    let names = [1, 2, 3].map(|n| format!("`{}`", parts[parts.len().saturating_sub(n)..].join(".")));
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.any(|cell| names.iter().any(|name| cell.contains(name)))
}

/// The keys with dots of a YAML document of maps, in the form that `config show` prints: two spaces a level.
fn keys(yaml: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    for line in yaml.lines() {
        let indented = line.trim_start_matches(' ');
        let Some((name, value)) = indented.split_once(':') else { continue };
        if indented.starts_with(['-', '#']) {
            continue;
        }
        path.truncate((line.len() - indented.len()) / 2);
        path.push(name);
        let section = value.is_empty() && !LISTS.contains(&name);
        if !section {
            keys.push(path.join("."));
        }
    }
    keys
}

/// Keys whose value is a list, which stands on the lines below.
const LISTS: [&str; 3] = ["discover_service_name", "log_level_fields", "tenant_limits_allow_publish"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_with_their_sections() {
        let yaml = "target: all\nserver:\n  port: 1\n  tls:\n    cert: ''\nlimits:\n  discover_service_name:\n  - app\n";
        assert_eq!(keys(yaml), ["target", "server.port", "server.tls.cert", "limits.discover_service_name"]);
    }

    #[test]
    fn a_key_is_documented_by_the_first_cell_of_a_row() {
        let text = "| `s3.region` | x |\n| `port` | see `other` |\n";
        assert!(documents(text, "common.storage.s3.region"));
        assert!(documents(text, "server.port"));
        assert!(!documents(text, "server.other"));
    }
}
