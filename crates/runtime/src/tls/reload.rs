//! Things made from files, made again when the files change.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::TlsError;
use crate::Tasks;

/// Files and what is made from them.
pub(super) trait Source: Send + Sync + 'static {
    /// The content of the files.
    type Files: PartialEq + Send + Sync;
    /// What comes of them.
    type Made: Send + Sync;

    /// The section of the configuration that names the files.
    fn section(&self) -> &'static str;
    fn read(&self) -> Result<Self::Files, TlsError>;
    fn make(&self, files: &Self::Files) -> Result<Self::Made, TlsError>;
}

/// The last good state of a source.
pub(super) struct Reloaded<S: Source> {
    source: S,
    state: RwLock<State<S>>,
}

struct State<S: Source> {
    files: S::Files,
    made: Arc<S::Made>,
}

impl<S: Source> Reloaded<S> {
    /// Reads the files for the first time.
    pub(super) fn load(source: S) -> Result<Self, TlsError> {
        let files = source.read()?;
        let made = Arc::new(source.make(&files)?);
        Ok(Self { source, state: RwLock::new(State { files, made }) })
    }

    pub(super) fn current(&self) -> Arc<S::Made> {
        self.state.read().made.clone()
    }

    /// Looks at the files every `period`, as long as `tasks` live.
    ///
    /// Their content is compared, not their times: Kubernetes swaps links, and others copy with times.
    pub(super) fn watch(self: Arc<Self>, tasks: &Tasks, period: Duration) {
        let section = self.source.section();
        let mut last_error = None;
        tasks.spawn_every(format!("tls-files {section}"), period.max(Duration::from_millis(10)), move || {
            match self.reload() {
                Ok(false) => last_error = None,
                Ok(true) => tracing::info!(section, "read the certificates again"),
                // Once per error, not once per period.
                Err(error) if last_error.as_ref() != Some(&error) => {
                    tracing::error!(%error, section, "new certificates are not usable, the last good ones stay");
                    last_error = Some(error);
                }
                Err(_) => {}
            }
            std::future::ready(())
        });
    }

    /// Whether there was something new.
    pub(super) fn reload(&self) -> Result<bool, TlsError> {
        let files = self.source.read()?;
        if self.state.read().files == files {
            return Ok(false);
        }
        let made = Arc::new(self.source.make(&files)?);
        *self.state.write() = State { files, made };
        Ok(true)
    }
}
