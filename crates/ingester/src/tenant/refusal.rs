//! Which entries of a push are refused, and the words for it, which are Loki's.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Timelike};
use skald_model::{Batch, BatchStream, EntryRef, Error, Kind, Labels, TenantId, Timestamp};

/// The refused entries of one batch.
#[derive(Debug)]
pub(crate) struct Refused {
    keep: Vec<bool>,
    /// The error to answer with; a refusal that is final outranks one that may be retried, as those entries would be
    /// refused again and the others are stored.
    pub(crate) error: Option<Error>,
    /// Entries too far behind.
    pub(crate) behind: Discarded,
    /// Entries of streams over the limit.
    pub(crate) over_limit: Discarded,
    /// Entries of streams that come too fast.
    pub(crate) too_fast: Discarded,
}

/// What was refused for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Discarded {
    pub(crate) entries: u64,
    /// Of lines and structured metadata.
    pub(crate) bytes: u64,
}

impl Discarded {
    fn add(&mut self, entry: &EntryRef) {
        self.entries += 1;
        self.bytes += u64::from(entry.line_len) + u64::from(entry.metadata_len);
    }
}

/// Why single entries are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    /// Older than this.
    Behind(Timestamp),
    /// Older than the one before, where that is not allowed at all.
    OutOfOrder,
    /// The stream comes faster than so many bytes per second.
    TooFast(u64),
}

impl Refused {
    pub(crate) fn none_of(batch: &Batch) -> Self {
        Self {
            keep: vec![true; batch.entries.refs.len()],
            error: None,
            behind: Discarded::default(),
            over_limit: Discarded::default(),
            too_fast: Discarded::default(),
        }
    }

    /// Refuses one entry.
    pub(crate) fn entry(&mut self, batch: &Batch, entry: usize, why: Why) {
        self.keep[entry] = false;
        let discarded = match why {
            Why::Behind(_) | Why::OutOfOrder => &mut self.behind,
            Why::TooFast(_) => &mut self.too_fast,
        };
        discarded.add(&batch.entries.refs[entry]);
    }

    /// Whether an entry is not refused.
    pub(crate) fn keeps(&self, entry: usize) -> bool {
        self.keep[entry]
    }

    /// Refuses all of a stream because there are too many.
    pub(crate) fn stream(&mut self, batch: &Batch, stream: &BatchStream, tenant: &TenantId) {
        batch.of(stream).iter().for_each(|e| self.over_limit.add(e));
        self.keep[stream.entries.start as usize..stream.entries.end as usize].fill(false);
        if self.error.is_none() {
            self.error = Some(too_many_streams(&stream.labels, tenant));
        }
    }

    pub(crate) fn add(&mut self, error: Error) {
        let is_final = |e: &Error| e.kind == Kind::InvalidArgument;
        if is_final(&error) || !self.error.as_ref().is_some_and(is_final) {
            self.error = Some(error);
        }
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
    too_fast: bool,
    text: String,
}

impl<'a> Refusal<'a> {
    pub(crate) fn new(tenant: &'a TenantId, labels: &'a Labels, total: usize, listed_max: usize) -> Self {
        Self { tenant, labels, total, listed_max, refused: 0, too_fast: false, text: String::new() }
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, entry: &EntryRef, why: Why) {
        self.refused += 1;
        self.too_fast = matches!(why, Why::TooFast(_));
        if self.listed_max > 0 && self.refused > self.listed_max {
            return;
        }
        let reason = match why {
            Why::Behind(oldest) => format!(
                "entry too far behind, entry timestamp is: {}, oldest acceptable timestamp is: {}",
                rfc3339(entry.timestamp),
                rfc3339(oldest)
            ),
            Why::OutOfOrder => "entry out of order".to_owned(),
            Why::TooFast(limit) => format!(
                "Per stream rate limit exceeded (limit: {}/sec) while attempting to ingest for stream '{}' totaling {}, \
                 consider splitting a stream via additional labels or contact your Loki administrator to see if the \
                 limit can be increased",
                go_bytes(limit),
                self.labels,
                go_bytes(u64::from(entry.line_len))
            ),
        };
        let at = go_time(entry.timestamp);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "entry with timestamp {at} ignored, reason: '{reason}',");
    }

    /// The error; with the last reason's status, as in Loki.
    pub(crate) fn into_error(self) -> Error {
        let Self { tenant, labels, total, refused, too_fast, mut text, .. } = self;
        let _ = write!(text, "user '{tenant}', total ignored: {refused} out of {total} for stream: {labels}");
        if too_fast { Error::limit(text, Duration::from_secs(1)) } else { Error::invalid(text) }
    }
}

/// Bytes as Loki prints them: `10 B`, `3.0 MB`, `1.5 GB`, in powers of 1024.
fn go_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let value = (value * 10.0).round() / 10.0;
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
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
    fn streams_that_come_too_fast_are_refused_whole_for_a_while() {
        let limits =
            Limits { per_stream_rate_limit: 10, per_stream_rate_limit_burst: 20, ..Limits::default() };
        let mut window = Window::default();
        let (kept, error) =
            check(&mut window, &limits, &[("x", &[(1, "0123456789", "")]), ("y", &[(1, "0", "")])]);
        assert!(error.is_none() && kept == [1, 1]);
        let late = "0123456789a";
        let (kept, error) = check(&mut window, &limits, &[("x", &[(2, late, "")]), ("y", &[(2, late, "")])]);
        let error = error.unwrap();
        assert_eq!((kept, error.kind), (vec![2], Kind::LimitExceeded));
        assert_eq!(
            error.message,
            "entry with timestamp 1970-01-01 00:00:00.000000002 +0000 UTC ignored, reason: 'Per stream rate limit \
             exceeded (limit: 10 B/sec) while attempting to ingest for stream '{app=\"x\"}' totaling 11 B, consider \
             splitting a stream via additional labels or contact your Loki administrator to see if the limit can be \
             increased',\nuser 'fake', total ignored: 1 out of 1 for stream: {app=\"x\"}"
        );
        assert!(error.retry_after.is_some());
        // What was refused took nothing from the burst.
        assert!(check(&mut window, &limits, &[("x", &[(2, "0123456789", "")])]).1.is_none());
    }

    #[test]
    fn an_ingester_has_a_limit_of_streams_of_its_own() {
        let limits = Limits { max_streams_per_user: 1, max_global_streams_per_user: 9, ..Limits::default() };
        let (kept, error) =
            check(&mut Window::default(), &limits, &[("x", &[(1, "", "")]), ("y", &[(2, "", "")])]);
        assert_eq!((kept, error.unwrap().kind), (vec![1], Kind::LimitExceeded));
    }

    #[test]
    fn bytes_are_printed_as_loki_prints_them() {
        for (bytes, text) in [(10, "10 B"), (3 << 20, "3.0 MB"), (1536 << 10, "1.5 MB"), (15 << 20, "15 MB")]
        {
            assert_eq!(go_bytes(bytes), text);
        }
    }

    #[test]
    fn fractions_are_printed_as_go_prints_them() {
        assert_eq!(go_time(SECOND / 2), "1970-01-01 00:00:00.5 +0000 UTC");
        assert_eq!(go_time(1), "1970-01-01 00:00:00.000000001 +0000 UTC");
    }
}
