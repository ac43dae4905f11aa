//! The table when nobody writes any more: compactors come to rest, and what they leave is in good order.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Shared;
use super::archive::Archive;
use super::members::Members;
use crate::server::Setup;

/// Longer than this compactors should not find anything to do: blocks with lists of pushes wait half a minute before they are
/// merged, and files wait for `retention_delete_delay` after that.
const REST: Duration = Duration::from_secs(120);

/// With compactors alone: waits until the table has nothing that has expired, and they leave no file that it or the archive
/// does not name.
pub(super) fn come_to_rest(members: &Members, archive: &Archive, shared: &Shared) -> Result<()> {
    let begun = Instant::now();
    loop {
        let checked = members.tool().command(&["table", "check"])?;
        let archived = archive.tool().command(&["table", "check"])?;
        let plan = members.tool().command(&["retention", "plan"])?;
        if orphans(&checked)? == 0 && orphans(&archived)? == 0 && plan.contains("nothing would go") {
            println!("cluster-test: nothing is left over after {:.0} s", begun.elapsed().as_secs_f64());
            return Ok(());
        }
        if begun.elapsed() > REST {
            shared.find(format!("something is left over after {REST:?}:\n{checked}{archived}{plan}"));
            return Ok(());
        }
        sleep(Duration::from_millis(500));
    }
}

/// How many files `skald table check` tells of that the table does not name.
fn orphans(checked: &str) -> Result<u64> {
    match checked.lines().find(|line| line.contains("that the table does not name")) {
        None => Ok(0),
        Some(line) => {
            let count = line.split(' ').next().and_then(|word| word.parse().ok());
            count.with_context(|| format!("no number of files in: {line}"))
        }
    }
}

/// What a check of all rows says is printed, or is a finding.
pub(super) fn check(what: &str, tool: &Setup, shared: &Shared) {
    match tool.check_table() {
        Ok(checked) => print!("cluster-test: {what}: {checked}"),
        Err(error) => shared.find(format!("{what}: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_files_that_a_check_tells_of() {
        let table = "table of tenant fake at version 7: 2 blocks, 9 rows, 800 bytes; 0 found wrong\n";
        assert_eq!(orphans(table).unwrap(), 0);
        let files =
            "12 files (345 bytes) that the table does not name and that vacuum will remove:\n  a.parquet\n";
        assert_eq!(orphans(&format!("{table}{files}")).unwrap(), 12);
    }
}
