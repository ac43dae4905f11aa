//! Which entries of a push are refused, and the words for it, which are Loki's.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Timelike};
use skald_model::{Batch, BatchStream, Error, Labels, TenantId, Timestamp};

/// The refused entries of one batch.
#[derive(Debug)]
pub(crate) struct Refused {
    keep: Vec<bool>,
    /// The error to answer with; a refusal that is final outranks one that may be retried, as those entries would be
    /// refused again and the others are stored.
    pub(crate) error: Option<Error>,
    /// Entries too far behind.
    pub(crate) behind: u64,
    /// Entries of streams over the limit.
    pub(crate) over_limit: u64,
}

impl Refused {
    pub(crate) fn none_of(batch: &Batch) -> Self {
        Self { keep: vec![true; batch.entries.refs.len()], error: None, behind: 0, over_limit: 0 }
    }

    /// Refuses one entry.
    pub(crate) fn entry(&mut self, entry: usize) {
        self.behind += u64::from(std::mem::replace(&mut self.keep[entry], false));
    }

    /// Refuses all of a stream because there are too many.
    pub(crate) fn stream(&mut self, stream: &BatchStream, tenant: &TenantId) {
        self.over_limit += stream.entries.len() as u64;
        self.keep[stream.entries.start as usize..stream.entries.end as usize].fill(false);
        if self.error.is_none() {
            self.error = Some(too_many_streams(&stream.labels, tenant));
        }
    }

    pub(crate) fn add(&mut self, error: Error) {
        self.error = Some(error);
    }

    /// The batch without the refused entries, over the same buffers. `None` if nothing is left.
    pub(crate) fn rest_of(&self, batch: &Batch) -> Option<Batch> {
        let mut rest = Batch { streams: Vec::new(), entries: batch.entries.clone() };
        rest.entries.refs.clear();
        for stream in &batch.streams {
            let start = rest.entries.refs.len() as u32;
            let kept = stream.entries.clone().filter(|i| self.keep[*i as usize]);
            rest.entries.refs.extend(kept.map(|i| batch.entries.refs[i as usize]));
            let end = rest.entries.refs.len() as u32;
            if start < end {
                rest.streams.push(BatchStream {
                    id: stream.id,
                    labels: stream.labels.clone(),
                    entries: start..end,
                });
            }
        }
        (!rest.streams.is_empty()).then_some(rest)
    }
}

/// The text about refused entries of one stream.
pub(crate) struct Refusal<'a> {
    tenant: &'a TenantId,
    labels: &'a Labels,
    total: usize,
    listed_max: usize,
    refused: usize,
    text: String,
}

impl<'a> Refusal<'a> {
    pub(crate) fn new(tenant: &'a TenantId, labels: &'a Labels, total: usize, listed_max: usize) -> Self {
        Self { tenant, labels, total, listed_max, refused: 0, text: String::new() }
    }

    /// Adds an entry; without `oldest` no entry may come out of order at all.
    pub(crate) fn add(&mut self, timestamp: Timestamp, oldest: Option<Timestamp>) {
        self.refused += 1;
        if self.listed_max > 0 && self.refused > self.listed_max {
            return;
        }
        let reason = match oldest {
            Some(oldest) => format!(
                "entry too far behind, entry timestamp is: {}, oldest acceptable timestamp is: {}",
                rfc3339(timestamp),
                rfc3339(oldest)
            ),
            None => "entry out of order".to_owned(),
        };
        let at = go_time(timestamp);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "entry with timestamp {at} ignored, reason: '{reason}',");
    }

    pub(crate) fn into_error(self) -> Error {
        let Self { tenant, labels, total, refused, mut text, .. } = self;
        let _ = write!(text, "user '{tenant}', total ignored: {refused} out of {total} for stream: {labels}");
        Error::invalid(text)
    }
}

fn too_many_streams(labels: &Labels, tenant: &TenantId) -> Error {
    Error::limit(
        format!(
            "maximum active stream limit exceeded when trying to create stream {labels}, reduce the number of active \
             streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit \
             can be increased, user: '{tenant}'"
        ),
        Duration::from_secs(60),
    )
}

/// As Go's `Time.String` in UTC: `2026-01-16 22:58:20.5 +0000 UTC`.
fn go_time(timestamp: Timestamp) -> String {
    let time = DateTime::from_timestamp_nanos(timestamp);
    let fraction = match time.nanosecond() {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{}{fraction} +0000 UTC", time.format("%Y-%m-%d %H:%M:%S"))
}

/// As Go's `time.RFC3339` in UTC: whole seconds.
fn rfc3339(timestamp: Timestamp) -> String {
    DateTime::from_timestamp_nanos(timestamp).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::window::{Rules, Window};
    use super::*;
    use crate::samples::{self, Sample, batch, tenant};
    use skald_model::time::SECOND;
    use skald_model::{Kind, Limits};

    const NEWEST: i64 = 1_768_608_000 * SECOND;
    const HOUR: i64 = 3600 * SECOND;

    fn check(
        window: &mut Window,
        limits: &Limits,
        streams: &[(&str, &[Sample<'_>])],
    ) -> (Vec<i64>, Option<Error>) {
        let fake = tenant("fake");
        let b = batch(&fake, streams);
        let rules = Rules { tenant: &fake, limits, behind_max: HOUR, listed_max: 2, now: 0 };
        let checked = window.check(&b, &rules);
        let rest = match &checked.refused {
            Some(refused) => refused.rest_of(&b).unwrap_or_default(),
            None => b,
        };
        let times = samples::entries(&rest).into_iter().map(|e| e.1).collect();
        (times, checked.refused.and_then(|r| r.error))
    }

    #[test]
    fn says_too_far_behind_as_loki_does() {
        let behind = 1_768_604_300 * SECOND;
        let entries = [(NEWEST, "newest", ""), (behind, "too far", ""), (NEWEST - HOUR, "just", "")];
        let (kept, error) = check(&mut Window::default(), &Limits::default(), &[("x", &entries)]);
        let error = error.unwrap();
        assert_eq!(kept, [NEWEST, NEWEST - HOUR]);
        assert_eq!(error.kind, Kind::InvalidArgument);
        assert_eq!(
            error.message,
            "entry with timestamp 2026-01-16 22:58:20 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp \
             is: 2026-01-16T22:58:20Z, oldest acceptable timestamp is: 2026-01-16T23:00:00Z',\nuser 'fake', total \
             ignored: 1 out of 3 for stream: {app=\"x\"}"
        );
    }

    #[test]
    fn the_window_spans_pushes_and_lists_are_cut() {
        let mut window = Window::default();
        let limits = Limits::default();
        check(&mut window, &limits, &[("x", &[(NEWEST, "", "")]), ("y", &[(0, "", "")])]);
        let late: Vec<_> = (0..4).map(|i| (i, "", "")).collect();
        let (kept, error) = check(&mut window, &limits, &[("x", &late), ("y", &late)]);
        assert_eq!(kept, [0, 1, 2, 3], "each stream has a window of its own");
        let message = error.unwrap().message;
        assert_eq!(message.lines().count(), 3, "{message}");
        assert!(message.contains("total ignored: 4 out of 4"), "{message}");
    }

    #[test]
    fn without_unordered_writes_nothing_may_be_late() {
        let limits = Limits { unordered_writes: false, ..Limits::default() };
        let (kept, error) =
            check(&mut Window::default(), &limits, &[("x", &[(5, "", ""), (5, "b", ""), (4, "", "")])]);
        assert_eq!(kept, [5, 5]);
        assert!(error.unwrap().message.contains("'entry out of order'"));
    }

    #[test]
    fn streams_over_the_limit_are_refused_and_the_others_stored() {
        let limits = Limits { max_global_streams_per_user: 1, ..Limits::default() };
        let mut window = Window::default();
        let (kept, error) = check(&mut window, &limits, &[("x", &[(1, "", "")]), ("y", &[(2, "", "")])]);
        let error = error.unwrap();
        assert_eq!((kept, error.kind), (vec![1], Kind::LimitExceeded));
        assert!(
            error.message.starts_with(
                "maximum active stream limit exceeded when trying to create stream {app=\"y\"},"
            )
        );
        assert!(error.message.ends_with("user: 'fake'"));
        window.forget_idle(1);
        assert!(check(&mut window, &limits, &[("y", &[(2, "", "")])]).1.is_none(), "idle streams make room");
    }

    #[test]
    fn fractions_are_printed_as_go_prints_them() {
        assert_eq!(go_time(SECOND / 2), "1970-01-01 00:00:00.5 +0000 UTC");
        assert_eq!(go_time(1), "1970-01-01 00:00:00.000000001 +0000 UTC");
    }
}
