//! What became of the entries.

use std::fmt;

use http::StatusCode;

use crate::notes::{Notes, count};

/// No more refusals than this are told one by one.
const REASONS_MAX: u64 = 10;

/// Numbers of entries.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In requests that were taken whole.
    acknowledged: u64,
    requests: u64,
    /// In requests of which the server refused a part, or all.
    in_refused_requests: u64,
    /// Of these, as many as the server counted.
    refused: u64,
    /// Lines of the input that are no entries.
    unreadable: u64,
    /// In requests that came to nothing.
    failed: u64,
    told: u64,
}

impl Outcome {
    /// The server took a whole request.
    pub(super) fn acknowledge(&mut self, entries: u64) {
        self.acknowledged += entries;
        self.requests += 1;
    }

    /// The server refused a request, or a part of it.
    pub(super) fn refuse(&mut self, notes: &Notes, entries: u64, status: StatusCode, message: &str) {
        self.requests += 1;
        self.in_refused_requests += entries;
        self.refused += ignored(message).unwrap_or_default();
        self.tell(
            notes,
            &format!("the server refused entries of a request of {entries} ({status}): {message}"),
        );
    }

    /// A line of the input is no entry.
    pub(super) fn refuse_here(&mut self, notes: &Notes, reason: &str) {
        self.unreadable += 1;
        self.tell(notes, reason);
    }

    /// A request came to nothing.
    pub(super) fn fail(&mut self, entries: u64) {
        self.failed += entries;
    }

    /// Entries that are certainly stored.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether every line of the input was taken.
    pub(super) fn is_complete(&self) -> bool {
        self.in_refused_requests == 0 && self.unreadable == 0 && self.failed == 0
    }

    fn tell(&mut self, notes: &Notes, text: &str) {
        self.told += 1;
        if self.told <= REASONS_MAX {
            notes.warn(text);
        }
        if self.told == REASONS_MAX {
            notes.warn("further refusals are only counted");
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pushed {} entries in {} requests", count(self.acknowledged), count(self.requests))?;
        if self.in_refused_requests > 0 {
            let counted = match self.refused {
                0 => "some or all".to_owned(),
                refused => format!("at least {}", count(refused)),
            };
            write!(f, "; of {} further entries {counted} were refused", count(self.in_refused_requests))?;
        }
        if self.failed > 0 {
            write!(f, "; {} entries were not acknowledged", count(self.failed))?;
        }
        if self.unreadable > 0 {
            write!(f, "; {} lines of the input are no entries", count(self.unreadable))?;
        }
        Ok(())
    }
}

/// The number of entries in a refusal's `total ignored: 3 out of 10`, over all its streams.
fn ignored(message: &str) -> Option<u64> {
    let numbers =
        message.split("total ignored: ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok());
    numbers.reduce(|a: u64, b: u64| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_count_is_read() {
        let text = "entry with timestamp 1 ignored, reason: 'x', user 'fake', total ignored: 3 out of 10 for stream: {}";
        assert_eq!(ignored(text), Some(3));
        assert_eq!(ignored(&format!("{text}\n{text}")), Some(6));
        assert_eq!(ignored("max line size exceeded"), None);
    }

    #[test]
    fn the_count_at_the_end_is_whole() {
        let notes = Notes::new(true);
        let mut outcome = Outcome::default();
        outcome.acknowledge(1000);
        assert!(outcome.is_complete());
        assert_eq!(outcome.to_string(), "pushed 1,000 entries in 1 requests");
        outcome.refuse(&notes, 10, StatusCode::BAD_REQUEST, "total ignored: 3 out of 10");
        outcome.refuse_here(&notes, "line 7: x");
        outcome.fail(5);
        assert!(!outcome.is_complete());
        assert_eq!(
            outcome.to_string(),
            "pushed 1,000 entries in 2 requests; of 10 further entries at least 3 were refused; 5 entries were not \
             acknowledged; 1 lines of the input are no entries"
        );
    }
}
