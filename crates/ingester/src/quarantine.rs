//! Entries from a log so old that requests to delete them may have been forgotten.
//!
//! Writing them would bring back what was deleted; dropping them would lose what was acknowledged. So they are laid aside,
//! as lines that `skald push --format jsonl` takes, for somebody to decide.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use skald_model::{Batch, LabelsRef, TenantId};

use crate::wal::Lsn;

/// The folder below that of the log.
const FOLDER: &str = "quarantine";

/// Writes the entries of a record to `<dir>/quarantine/<tenant>/<LSN>.jsonl`, durably, and returns the file. One that is
/// there already is written again.
pub(crate) fn lay_aside(dir: &Path, tenant: &TenantId, lsn: Lsn, batch: &Batch) -> io::Result<PathBuf> {
    let folder = dir.join(FOLDER).join(tenant.as_str());
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{lsn:020}.jsonl"));
    let mut out = BufWriter::new(fs::File::create(&path)?);
    for stream in &batch.streams {
        let labels = object(stream.labels.as_ref());
        for entry in batch.of(stream) {
            let line = json!({
                // As text, because numbers of JSON need not have so many digits.
                "timestamp": entry.timestamp.to_string(),
                "labels": labels,
                "line": String::from_utf8_lossy(batch.entries.line(entry)),
                "metadata": object(batch.entries.metadata(entry)),
            });
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::File::open(&folder)?.sync_all()?;
    Ok(path)
}

fn object(labels: LabelsRef<'_>) -> Value {
    Value::Object(Map::from_iter(labels.iter().map(|(n, v)| (n.to_owned(), v.into()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{batch, tenant};

    #[test]
    fn entries_can_be_pushed_again() {
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(&tenant("t"), &[("a", &[(5, "x \"y\"", "m"), (6, "z", "")])]);
        let path = lay_aside(dir.path(), &tenant("t"), 7, &batch).unwrap();
        assert_eq!(path, dir.path().join("quarantine/t/00000000000000000007.jsonl"));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let entry = |t: &str, line: &str, metadata: Value| json!({"timestamp": t, "labels": {"app": "a"}, "line": line, "metadata": metadata});
        assert_eq!(lines, [entry("5", "x \"y\"", json!({"k": "m"})), entry("6", "z", json!({}))]);
    }
}
