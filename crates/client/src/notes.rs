//! Standard error: notes, and one line of progress that is drawn over.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The progress line is drawn anew no more often than this.
const REDRAW: Duration = Duration::from_millis(150);

/// Writes one line to standard error. There is nowhere to report that it cannot be written.
pub(crate) fn line(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// A shared handle to standard error.
#[derive(Clone, Debug)]
pub(crate) struct Notes {
    quiet: bool,
    terminal: bool,
    drawn: Arc<Mutex<Progress>>,
}

#[derive(Debug, Default)]
struct Progress {
    last: Option<Instant>,
    width: usize,
}

impl Notes {
    /// With `quiet` only errors are written.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: stderr().is_terminal(), drawn: Arc::default() }
    }

    /// Says something that is not part of the result.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Says something even when quiet was asked for.
    pub(crate) fn warn(&self, text: &str) {
        self.clear();
        line(text);
    }

    /// Draws the progress line, if it is due and somebody sees it.
    pub(crate) fn progress(&self, text: impl FnOnce() -> String) {
        if self.quiet || !self.terminal {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.last.is_some_and(|last| last.elapsed() < REDRAW) {
            return;
        }
        let text = text();
        let width = text.chars().count();
        let _ = write!(stderr(), "\r{text}{}", " ".repeat(drawn.width.saturating_sub(width)));
        *drawn = Progress { last: Some(Instant::now()), width };
    }

    /// Takes the progress line away, before something else is written.
    pub(crate) fn clear(&self) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.width > 0 {
            let _ = write!(stderr(), "\r{}\r", " ".repeat(drawn.width));
            *drawn = Progress::default();
        }
    }
}

/// A number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A bar of `width` characters for a part of the whole.
pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
    let share = if whole == 0 { 1.0 } else { (part as f64 / whole as f64).min(1.0) };
    let full = (share * width as f64) as usize;
    let mut out = String::new();
    let _ = write!(out, "[{}{}] {:3.0}%", "#".repeat(full), "-".repeat(width - full), share * 100.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        let expected =
            [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")];
        for (number, text) in expected {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn a_bar_is_as_full_as_its_part() {
        assert_eq!(bar(0, 10, 4), "[----]   0%");
        assert_eq!(bar(5, 10, 4), "[##--]  50%");
        assert_eq!(bar(11, 10, 4), "[####] 100%");
        assert_eq!(bar(0, 0, 2), "[##] 100%");
    }
}
