//! The level of the log, changeable at run time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use super::Error;

/// Names of the levels, the quietest first; the index is what [`LogLevel`] stores.
const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// Libraries that talk about every request or file, with what is still worth a line below `trace`.
const QUIET: [(&str, Level); 12] = [
    ("delta", Level::WARN),
    ("buoyant", Level::WARN),
    ("object_store", Level::WARN),
    ("hyper", Level::WARN),
    ("h2", Level::WARN),
    ("tonic", Level::WARN),
    ("tower", Level::WARN),
    ("rustls", Level::WARN),
    ("reqwest", Level::WARN),
    ("opentelemetry", Level::WARN),
    ("mio", Level::WARN),
    ("tokio", Level::WARN),
];

/// The least level that is logged. Clones share it.
#[derive(Clone, Debug)]
pub struct LogLevel(Arc<AtomicU8>);

impl LogLevel {
    /// A level by its name.
    ///
    /// # Errors
    /// When it is none of `debug`, `info`, `warn`, `error` (and `trace`, which Loki does not have).
    pub fn new(name: &str) -> Result<Self, Error> {
        Ok(Self(Arc::new(AtomicU8::new(index_of(name)?))))
    }

    /// The level's name.
    pub fn get(&self) -> &'static str {
        LEVELS[self.index()].0
    }

    /// Changes the level for the whole process.
    ///
    /// # Errors
    /// On an unknown name; the level stays as it was.
    pub fn set(&self, name: &str) -> Result<(), Error> {
        self.0.store(index_of(name)?, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    pub(super) fn gate(&self) -> Gate {
        Gate(self.clone())
    }

    fn index(&self) -> usize {
        usize::from(self.0.load(Ordering::Relaxed)).min(LEVELS.len() - 1)
    }

    fn level(&self) -> Level {
        LEVELS[self.index()].1
    }
}

fn index_of(name: &str) -> Result<u8, Error> {
    LEVELS
        .iter()
        .position(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|i| i as u8)
        .ok_or_else(|| Error::Level(name.to_owned()))
}

/// Lets events through by level, and spans down to `info` at any level, so that a warning still names its tenant.
pub(super) struct Gate(LogLevel);

impl Gate {
    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        let level = self.0.level();
        if metadata.is_span() {
            return *metadata.level() <= level.max(Level::INFO);
        }
        let quiet = QUIET.iter().find(|(t, _)| metadata.target().starts_with(t)).map(|(_, l)| *l);
        match quiet {
            Some(most) if level < Level::TRACE => *metadata.level() <= level.min(most),
            _ => *metadata.level() <= level,
        }
    }
}

impl<S> Filter<S> for Gate {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.passes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.0.level().max(Level::INFO)))
    }
}
