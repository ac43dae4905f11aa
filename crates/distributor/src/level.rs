//! The level of an entry, `detected_level`, found as Loki finds it.
//!
//! Sources in order: the labels of the stream, the entry's structured metadata (fields of levels, then the severity number
//! of OpenTelemetry), a field of a JSON or logfmt line, the first word of the line that names a level. This runs for every
//! entry that comes in, so nothing is allocated, and lines are searched many bytes at a time: each search looks for the
//! beginnings of what it wants, and only what begins so is looked at closer.

mod fields;
mod tag;
mod words;

use skald_model::{LabelsRef, Limits};

use self::fields::FieldFinder;
pub(crate) use self::tag::tag;
use self::words::WordFinder;

/// The name under which the level is added to structured metadata.
pub const DETECTED_LEVEL: &str = "detected_level";

/// OpenTelemetry's number of a severity, as structured metadata has it.
const SEVERITY_NUMBER: &str = "severity_number";

/// How severe an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Finest.
    Trace,
    /// For developers.
    Debug,
    /// As expected.
    Info,
    /// Odd, but the work goes on.
    Warn,
    /// Something failed.
    Error,
    /// Something important failed.
    Critical,
    /// The end of a process.
    Fatal,
    /// Nothing names a level.
    Unknown,
}

impl Level {
    /// Number of levels.
    pub const COUNT: usize = 8;

    /// The text that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Fatal => "fatal",
            Level::Unknown => "unknown",
        }
    }

    /// The level that `word` names, in capitals or not.
    #[inline]
    pub fn of_word(word: &[u8]) -> Option<Self> {
        if word.len() > 8 {
            return word.eq_ignore_ascii_case(b"information").then_some(Level::Info);
        }
        Some(match number_of(word) {
            TRACE | TRC => Level::Trace,
            DEBUG | DBG => Level::Debug,
            INFO | INF => Level::Info,
            WARN | WRN | WARNING => Level::Warn,
            ERROR | ERR => Level::Error,
            CRITICAL => Level::Critical,
            FATAL => Level::Fatal,
            _ => return None,
        })
    }

    /// The level of OpenTelemetry's severity number.
    fn of_severity(number: &str) -> Self {
        match number.parse::<i64>() {
            Ok(1..=4) => Level::Trace,
            Ok(5..=8) => Level::Debug,
            Ok(9..=12) => Level::Info,
            Ok(13..=16) => Level::Warn,
            Ok(17..=20) => Level::Error,
            Ok(21..=24) => Level::Fatal,
            Ok(_) => Level::Unknown,
            Err(_) => Level::Info,
        }
    }
}

/// A word of at most eight bytes as a number, the same for small letters and capitals. No other bytes than the two forms of
/// a letter give what the letter gives.
#[inline]
const fn number_of(word: &[u8]) -> u64 {
    let (mut number, mut i) = (0, 0);
    while i < word.len() {
        number = number << 8 | (word[i] | 0x20) as u64;
        i += 1;
    }
    number
}

const TRACE: u64 = number_of(b"trace");
const TRC: u64 = number_of(b"trc");
const DEBUG: u64 = number_of(b"debug");
const DBG: u64 = number_of(b"dbg");
const INFO: u64 = number_of(b"info");
const INF: u64 = number_of(b"inf");
const WARN: u64 = number_of(b"warn");
const WRN: u64 = number_of(b"wrn");
const WARNING: u64 = number_of(b"warning");
const ERROR: u64 = number_of(b"error");
const ERR: u64 = number_of(b"err");
const CRITICAL: u64 = number_of(b"critical");
const FATAL: u64 = number_of(b"fatal");

/// Finds levels by the settings of a tenant.
#[derive(Debug)]
pub struct LevelDetector {
    /// `log_level_fields` as labels and metadata are named.
    names: Vec<String>,
    fields: FieldFinder,
    words: WordFinder,
}

impl LevelDetector {
    /// A detector by `limits.log_level_fields` and `limits.log_level_from_json_max_depth`.
    pub fn new(limits: &Limits) -> Self {
        let names = limits.log_level_fields.iter().map(|f| f.replace(['.', '-'], "_")).collect();
        let fields = FieldFinder::new(&limits.log_level_fields, limits.log_level_from_json_max_depth);
        Self { names, fields, words: WordFinder::new() }
    }

    /// The level that labels tell; `None` if none of them does.
    pub fn of_labels(&self, labels: LabelsRef<'_>) -> Option<Level> {
        let value = self.names.iter().find_map(|name| labels.get(name))?;
        Some(Level::of_word(value.as_bytes()).unwrap_or(Level::Unknown))
    }

    /// The level that structured metadata tells; `None` if nothing in it does.
    pub fn of_metadata(&self, metadata: LabelsRef<'_>) -> Option<Level> {
        if metadata.is_empty() {
            return None;
        }
        self.of_labels(metadata).or_else(|| metadata.get(SEVERITY_NUMBER).map(Level::of_severity))
    }

    /// The level that a line tells.
    pub fn of_line(&self, line: &[u8]) -> Level {
        let field = self.fields.value(line).and_then(Level::of_word);
        field.or_else(|| self.words.first(line)).unwrap_or(Level::Unknown)
    }
}

#[cfg(test)]
#[path = "level/tests.rs"]
mod tests;
