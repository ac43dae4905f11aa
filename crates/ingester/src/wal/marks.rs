//! How far the table has each tenant's records, kept beside the log.
//!
//! A file of the log goes only as a whole, so most of what a replay finds in the last one may be in the table already. One
//! ingester alone finds out from the table. One of several replicas can't always: what others have written for it, it
//! knows from lists in blocks, and those go with compaction. Without its own word it would write everything once more.
//!
//! The file is only a help: without it, or with one that is damaged, more is replayed than has to be.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use skald_model::TenantId;

use super::Lsn;
use super::error::{Error, Result};

const NAME: &str = "covered";

/// The highest LSN up to which the table has all records, by tenant.
pub(crate) type Marks = FxHashMap<TenantId, Lsn>;

/// The marks in the log's directory; none if there are none that can be trusted.
pub(crate) fn read(dir: &Path) -> Marks {
    let path = path(dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => decode(&text).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "ignored damaged marks of what the table has; more is replayed");
            Marks::default()
        }),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "failed to read what the table has; more is replayed");
            }
            Marks::default()
        }
    }
}

/// Replaces the marks in the log's directory. Blocks on the file system.
pub(crate) fn write(dir: &Path, marks: &Marks) -> Result<()> {
    let path = path(dir);
    let new = path.with_extension("new");
    let written = || {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(encode(marks).as_bytes())?;
        // Or a power failure could leave the new name without its content.
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    written().map_err(|e| Error::io("writing", &path, e))
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// A line for each tenant, and one with the checksum of all before.
fn encode(marks: &Marks) -> String {
    let mut lines: Vec<String> = marks.iter().map(|(tenant, lsn)| format!("{tenant} {lsn}\n")).collect();
    lines.sort_unstable();
    let text = lines.concat();
    format!("{text}crc32 {:08x}\n", crc32fast::hash(text.as_bytes()))
}

fn decode(text: &str) -> Option<Marks> {
    let at = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    let (lines, sum) = text.split_at(at);
    let sum = u32::from_str_radix(sum.trim_end().strip_prefix("crc32 ")?, 16).ok()?;
    if sum != crc32fast::hash(lines.as_bytes()) {
        return None;
    }
    let mark = |line: &str| {
        let (tenant, lsn) = line.rsplit_once(' ')?;
        Some((TenantId::new(tenant).ok()?, lsn.parse().ok()?))
    };
    lines.lines().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_marks_are_none() {
        let marks: Marks = [("a", 7), ("b-2", u64::MAX)]
            .map(|(t, lsn)| (TenantId::new(t).unwrap(), lsn))
            .into_iter()
            .collect();
        let text = encode(&marks);
        assert_eq!(decode(&text), Some(marks));
        assert_eq!(decode(&encode(&Marks::default())), Some(Marks::default()));
        for end in 0..text.len() - 1 {
            assert_eq!(decode(&text[..end]), None, "{end}");
        }
        assert_eq!(decode(&text.replace('7', "8")), None);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Marks::default());
        std::fs::write(path(dir.path()), [0xff]).unwrap();
        assert_eq!(read(dir.path()), Marks::default());
    }
}
