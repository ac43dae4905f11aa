//! Things made from files, made again when the files change.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::Tasks;

/// Files and what is made from them.
pub trait Source: Send + Sync + 'static {
    /// The content of the files.
    type Files: PartialEq + Send + Sync;
    /// What comes of them.
    type Made: Send + Sync;
    /// Why they cannot be used. Names the file.
    type Error: Display;

    /// The setting that names the files, or its section.
    fn setting(&self) -> &str;

    /// The files as they are now.
    ///
    /// # Errors
    /// When one of them cannot be read.
    fn read(&self) -> Result<Self::Files, Self::Error>;

    /// What comes of `files`.
    ///
    /// # Errors
    /// When they are not what they should be.
    fn make(&self, files: &Self::Files) -> Result<Self::Made, Self::Error>;

    /// What was made, in a few words for the log.
    fn summary(&self, made: &Self::Made) -> String;

    /// Is told after every look whether the files as they are can be used.
    fn looked(&self, _usable: bool) {}
}

/// The last good state of a source.
///
/// A change counts when two looks in a row find the same: a file is often written in place, and one that is empty or
/// ends early may well be valid.
pub struct Reloaded<S: Source> {
    source: S,
    made: RwLock<Arc<S::Made>>,
    seen: Mutex<Seen<S::Files>>,
}

/// What the looks have found.
struct Seen<F> {
    /// What counts.
    files: F,
    /// What the last look found, if it was something else.
    changed: Option<F>,
}

impl<S: Source> Reloaded<S> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When they cannot be used: at start nothing good is there to go on with.
    pub fn load(source: S) -> Result<Self, S::Error> {
        let files = source.read()?;
        let made = RwLock::new(Arc::new(source.make(&files)?));
        source.looked(true);
        Ok(Self { source, made, seen: Mutex::new(Seen { files, changed: None }) })
    }

    /// What counts now.
    pub fn current(&self) -> Arc<S::Made> {
        self.made.read().clone()
    }

    /// What it is made from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Looks at the files as long as `tasks` live, so often that a change counts within `period`.
    ///
    /// Their content is compared, not their times: Kubernetes swaps links, and others copy with times.
    pub fn watch(self: Arc<Self>, tasks: &Tasks, period: Duration) {
        let mut last_error = String::new();
        let name = format!("files of {}", self.source.setting());
        tasks.spawn_every(name, (period / 2).max(Duration::from_millis(5)), move || {
            let setting = self.source.setting();
            match self.look() {
                Ok(None) => last_error.clear(),
                Ok(Some(made)) => {
                    last_error.clear();
                    tracing::info!(setting, now = self.source.summary(&made), "took up changed files");
                }
                Err(error) => {
                    let error = error.to_string();
                    // Once per error, not once per look.
                    if error != last_error {
                        tracing::error!(
                            error,
                            setting,
                            "changed files are not usable, the last good ones count"
                        );
                        last_error = error;
                    }
                }
            }
            std::future::ready(())
        });
    }

    /// What is made from files that have changed and stand still.
    ///
    /// # Errors
    /// When they cannot be used; what counts stays.
    pub fn look(&self) -> Result<Option<Arc<S::Made>>, S::Error> {
        let outcome = self.compare();
        self.source.looked(outcome.is_ok());
        outcome
    }

    fn compare(&self) -> Result<Option<Arc<S::Made>>, S::Error> {
        let mut seen = self.seen.lock();
        let last = seen.changed.take();
        let files = self.source.read()?;
        if files == seen.files {
            return Ok(None);
        }
        if last.as_ref() != Some(&files) {
            seen.changed = Some(files);
            return Ok(None);
        }
        let made = match self.source.make(&files) {
            Ok(made) => Arc::new(made),
            Err(error) => {
                seen.changed = Some(files);
                return Err(error);
            }
        };
        seen.files = files;
        *self.made.write() = made.clone();
        Ok(Some(made))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A file with a number; an empty one is 0.
    struct Number {
        file: PathBuf,
        usable: AtomicBool,
    }

    impl Source for Number {
        type Files = String;
        type Made = u32;
        type Error = String;

        fn setting(&self) -> &str {
            "number"
        }

        fn read(&self) -> Result<String, String> {
            std::fs::read_to_string(&self.file).map_err(|e| e.to_string())
        }

        fn make(&self, text: &String) -> Result<u32, String> {
            if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| format!("{text} is no number")) }
        }

        fn summary(&self, made: &u32) -> String {
            made.to_string()
        }

        fn looked(&self, usable: bool) {
            self.usable.store(usable, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_change_counts_when_the_files_stand_still_and_wrong_ones_never_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("number");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("x");
        let source = || Number { file: file.clone(), usable: AtomicBool::new(false) };
        assert!(Reloaded::load(source()).is_err());
        write("1");
        let number = Reloaded::load(source()).unwrap();
        let look = || number.look().map(|made| made.map(|m| *m));
        let usable = || number.source().usable.load(Ordering::Relaxed);
        assert_eq!((look(), usable(), *number.current()), (Ok(None), true, 1));

        // Between the truncation and the text.
        write("");
        assert_eq!((look(), *number.current()), (Ok(None), 1));
        write("2");
        assert_eq!((look(), *number.current()), (Ok(None), 1));
        assert_eq!((look(), *number.current()), (Ok(Some(2)), 2));
        assert_eq!(look(), Ok(None));
        // Empty for good.
        write("");
        assert_eq!((look(), look(), *number.current()), (Ok(None), Ok(Some(0)), 0));

        write("y");
        let wrong = Err("y is no number".to_owned());
        assert_eq!((look(), look(), look(), usable()), (Ok(None), wrong.clone(), wrong, false));
        assert_eq!(*number.current(), 0);
        write("");
        assert_eq!((look(), usable()), (Ok(None), true));
        std::fs::remove_file(&file).unwrap();
        assert!(look().is_err() && !usable());
        assert_eq!(*number.current(), 0);
    }
}
