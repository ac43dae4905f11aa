//! What may stand in files, and how long they may be.

use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

/// Most lines of code of a Rust file: without tests at its end, comments and empty lines.
const CODE_LINES_MAX: usize = 800;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Texts that name somebody's machine instead of the project, cut in two so that this file passes itself.
const MACHINE_PATHS: [[&str; 2]; 4] = [["/wo", "rk/"], ["/tmp/he", "lpers"], ["/ho", "me/"], ["/ro", "ot/"]];

/// Findings over all files that git knows or would add.
pub(crate) fn check() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for name in files()?.lines() {
        // Files that are not text, or deleted and not yet committed as such, have nothing to say here.
        let Ok(text) = std::fs::read_to_string(workspace::root().join(name)) else { continue };
        findings.extend(machine_paths(name, &text));
        if Path::new(name).extension().is_some_and(|extension| extension == "rs") && !generated(&text) {
            findings.extend(too_long(name, &text));
            findings.extend(ignored_tests(name, &text));
        }
    }
    Ok(findings)
}

fn files() -> Result<String> {
    let mut command = std::process::Command::new("git");
    command.current_dir(workspace::root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    workspace::output(&mut command).context("failed to list the files of the checkout")
}

fn generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.contains("@generated"))
}

fn machine_paths(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in MACHINE_PATHS.map(|parts| parts.concat()) {
            if line.contains(&word) {
                findings.push(format!("{name}:{}: names a machine's path: {word}", index + 1));
            }
        }
    }
    findings
}

fn too_long(name: &str, text: &str) -> Option<String> {
    let lines = code_lines(text);
    let allowed = LONG_FILES.iter().any(|(file, _)| *file == name) || name.ends_with("tests.rs");
    (lines > CODE_LINES_MAX && !allowed)
        .then(|| format!("{name}: {lines} lines of code, more than {CODE_LINES_MAX}: split it by its ideas"))
}

fn code_lines(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

fn ignored_tests(name: &str, text: &str) -> Option<String> {
    let attributes = ["#[ignore", "#[should_panic"];
    let found = text.lines().map(str::trim).find(|line| attributes.iter().any(|a| line.starts_with(a)))?;
    Some(format!("{name}: {found}: assert what happens instead, and note why"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_counted_without_tests_comments_and_empty_lines() {
        let text = "// a comment\n\nfn f() {\n    g();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        assert_eq!(code_lines(text), 3);
        assert!(too_long("a.rs", &"f();\n".repeat(CODE_LINES_MAX)).is_none());
        assert!(too_long("a.rs", &"f();\n".repeat(CODE_LINES_MAX + 1)).is_some());
    }

    #[test]
    fn paths_of_machines_and_ignored_tests_are_found() {
        let path = MACHINE_PATHS[0].concat();
        assert_eq!(
            machine_paths("a.md", &format!("see\n{path}x")),
            [format!("a.md:2: names a machine's path: {path}")]
        );
        assert!(ignored_tests("a.rs", "    #[ignore]\n    fn f() {}").is_some());
        assert!(ignored_tests("a.rs", "let ignored = 1;").is_none());
    }
}
