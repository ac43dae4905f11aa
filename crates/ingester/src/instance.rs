//! Who this ingester is, over restarts.
//!
//! The table remembers for each *application* how far its flushes have come. An application is an instance with one
//! history of its log: should the log be lost, LSNs begin anew, and so must the application. Both stand in the file
//! `instance` beside the log, with a lock that keeps a second process out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::wal::{Error, has_files};

/// The identity of an ingester. The directory of its log is locked as long as this lives and is not released.
#[derive(Debug)]
pub struct Instance {
    /// Its name, set or random.
    pub id: String,
    /// What its flushes call themselves in the table's log.
    pub app_id: String,
    lock: Option<File>,
}

impl Instance {
    /// An instance without a log: every start is somebody new.
    pub fn without_log(configured: &str) -> Self {
        let id = name(configured, &random());
        Self { app_id: app_id(&id, &random()), id, lock: None }
    }

    /// Lets another process work in the directory of the log, which must be closed.
    pub(crate) fn release(&self) {
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "failed to unlock the directory of the log");
        }
    }

    /// Reads who works in `dir`, or decides it, before the log in it is opened.
    pub fn open(dir: &Path, configured: &str) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        let path = dir.join("instance");
        let failed = |action: &'static str| {
            let path = path.clone();
            move |e| Error::io(action, &path, e)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("opening"))?;
        file.try_lock().map_err(|_| Error::InUse { path: path.clone() })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed("reading"))?;
        let known = parse(&text).map_err(|reason| Error::Instance { path: path.clone(), reason })?;
        let (id, history) = match known {
            // A log that is there belongs to the one who wrote it, whatever the configuration says now.
            Some((id, history)) if has_files(dir)? => {
                if !configured.is_empty() && configured != id {
                    tracing::warn!(
                        configured,
                        kept = id,
                        "the log belongs to another instance id, which is kept"
                    );
                }
                (id, history)
            }
            Some((id, _)) => (name(configured, &id), random()),
            None => (name(configured, &random()), random()),
        };
        let new_text = format!("id={id}\nhistory={history}\n");
        if new_text != text {
            let mut write = || {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(new_text.as_bytes())?;
                file.set_len(new_text.len() as u64)?;
                file.sync_all()
            };
            write().map_err(failed("writing"))?;
        }
        Ok(Self { app_id: app_id(&id, &history), id, lock: Some(file) })
    }
}

fn app_id(id: &str, history: &str) -> String {
    format!("skald-ingester-{id}-{history}")
}

/// The configured name with only what file names allow, or `otherwise`.
fn name(configured: &str, otherwise: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    match configured {
        "" => otherwise.to_owned(),
        configured => configured.chars().map(allowed).collect(),
    }
}

/// `None` of an empty file; an error of one that says something else.
fn parse(text: &str) -> Result<Option<(String, String)>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).filter(|v| !v.is_empty());
    match (value("id="), value("history=")) {
        (Some(id), Some(history)) => Ok(Some((id.to_owned(), history.to_owned()))),
        _ => Err("expected the lines `id=…` and `history=…`".into()),
    }
}

/// Eight hex digits.
fn random() -> String {
    format!("{:08x}", skald_runtime::random() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_the_same_as_long_as_the_log_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::open(dir.path(), "").unwrap();
        assert!(matches!(Instance::open(dir.path(), ""), Err(Error::InUse { .. })));
        let (id, app_id) = (first.id.clone(), first.app_id.clone());
        drop(first);
        std::fs::write(dir.path().join("00000000000000000001.wal"), b"").unwrap();
        assert_eq!(Instance::open(dir.path(), "").unwrap().app_id, app_id);
        assert_eq!(Instance::open(dir.path(), "other").unwrap().app_id, app_id, "the log keeps its owner");
        std::fs::remove_file(dir.path().join("00000000000000000001.wal")).unwrap();
        let after_loss = Instance::open(dir.path(), "").unwrap();
        assert_eq!(after_loss.id, id);
        assert_ne!(after_loss.app_id, app_id, "a new log is a new history");
    }

    #[test]
    fn configured_names_are_made_fit_for_file_names() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Instance::open(dir.path(), "node/a 1").unwrap().id, "node_a_1");
        std::fs::write(dir.path().join("instance"), "x").unwrap();
        assert!(matches!(Instance::open(dir.path(), ""), Err(Error::Instance { .. })));
    }
}
