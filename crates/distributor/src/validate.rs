//! The tenant's limits on streams and entries, with Loki's words.

use std::sync::Arc;

use chrono::DateTime;
use skald_model::{
    Batch, BatchStream, EntryRef, Error, LabelsRef, Limits, Push, Result, TenantId, Timestamp,
};

use crate::streams::{Stream, StreamCache};

/// Why entries were discarded; the names are those of Loki's `loki_discarded_samples_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    MaxLabelNamesPerSeries,
    LabelNameTooLong,
    LabelValueTooLong,
    LineTooLong,
    GreaterThanMaxSampleAge,
    TooFarInFuture,
    DisallowedStructuredMetadata,
    StructuredMetadataTooLarge,
    StructuredMetadataTooMany,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::MaxLabelNamesPerSeries => "max_label_names_per_series",
            Reason::LabelNameTooLong => "label_name_too_long",
            Reason::LabelValueTooLong => "label_value_too_long",
            Reason::LineTooLong => "line_too_long",
            Reason::GreaterThanMaxSampleAge => "greater_than_max_sample_age",
            Reason::TooFarInFuture => "too_far_in_future",
            Reason::DisallowedStructuredMetadata => "disallowed_structured_metadata",
            Reason::StructuredMetadataTooLarge => "structured_metadata_too_large",
            Reason::StructuredMetadataTooMany => "structured_metadata_too_many",
        }
    }
}

/// What was refused of a push.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Entries and bytes by reason.
    pub(crate) counts: Vec<(Reason, u64, u64)>,
    messages: Vec<String>,
    more: usize,
}

/// Messages that one answer names; the rest is counted.
const MESSAGES_MAX: usize = 10;

impl Refused {
    fn count(&mut self, reason: Reason, bytes: u64) {
        match self.counts.iter_mut().find(|(r, ..)| *r == reason) {
            Some((_, n, b)) => {
                *n += 1;
                *b += bytes;
            }
            None => self.counts.push((reason, 1, bytes)),
        }
    }

    fn say(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push(message());
        } else {
            self.more += 1;
        }
    }

    /// The answer for the pusher; `None` when nothing was refused.
    pub(crate) fn to_error(&self) -> Option<Error> {
        let all = self.messages.len() + self.more;
        match &self.messages[..] {
            [] => None,
            [one] => Some(Error::invalid(one.clone())),
            many => Some(Error::invalid(format!("{all} errors: {}", many.join("; ")))),
        }
    }
}

/// The outcome of validation.
pub(crate) struct Validated {
    /// What may be stored.
    pub(crate) batch: Batch,
    /// What may not.
    pub(crate) refused: Refused,
}

/// Resolves the streams of a push and keeps the entries that the limits allow. Labels that do not parse refuse the
/// whole push; anything else refuses just what it concerns.
pub(crate) fn validate(
    push: Push,
    cache: &StreamCache,
    tenant: &TenantId,
    limits: &Arc<Limits>,
    now: Timestamp,
) -> Result<Validated> {
    let Push { streams, mut entries } = push;
    let resolved: Vec<Stream> =
        streams.iter().map(|s| cache.resolve(tenant, &s.labels, limits)).collect::<Result<_>>()?;
    let window = Window::new(limits, now);
    let mut refused = Refused::default();
    let mut batch = Batch { streams: Vec::with_capacity(streams.len()), ..Batch::default() };
    let mut refs = std::mem::take(&mut entries.refs);
    // Entries are kept in place: `kept` never overtakes the entry that is looked at, as ranges ascend.
    let mut kept = 0usize;
    for (pushed, stream) in streams.into_iter().zip(resolved) {
        let first = kept;
        if let Some(why) = &stream.refused {
            for e in &refs[pushed.entries.start as usize..pushed.entries.end as usize] {
                refused.count(why.0, bytes_of(e));
            }
            refused.say(|| why.1.clone());
            continue;
        }
        for i in pushed.entries.start as usize..pushed.entries.end as usize {
            let mut e = refs[i];
            match check(&mut e, &entries, &window, limits) {
                Ok(()) => {
                    refs[kept] = e;
                    kept += 1;
                }
                Err(reason) => {
                    refused.count(reason, bytes_of(&e));
                    let metadata = entries.metadata(&e);
                    refused.say(|| message(reason, &stream, &e, metadata, &window, limits));
                }
            }
        }
        if kept > first {
            let range = first as u32..kept as u32;
            batch.streams.push(BatchStream { id: stream.id, labels: stream.labels, entries: range });
        }
    }
    refs.truncate(kept);
    entries.refs = refs;
    batch.entries = entries;
    Ok(Validated { batch, refused })
}

struct Window {
    oldest: Timestamp,
    newest: Timestamp,
}

impl Window {
    fn new(limits: &Limits, now: Timestamp) -> Self {
        let oldest = if limits.reject_old_samples {
            now.saturating_sub(limits.reject_old_samples_max_age)
        } else {
            i64::MIN
        };
        Self { oldest, newest: now.saturating_add(limits.creation_grace_period) }
    }
}

fn bytes_of(e: &EntryRef) -> u64 {
    u64::from(e.line_len) + u64::from(e.metadata_len)
}

fn check(
    e: &mut EntryRef,
    entries: &skald_model::batch::Entries,
    window: &Window,
    limits: &Limits,
) -> std::result::Result<(), Reason> {
    if e.timestamp < window.oldest {
        return Err(Reason::GreaterThanMaxSampleAge);
    }
    if e.timestamp > window.newest {
        return Err(Reason::TooFarInFuture);
    }
    if limits.max_line_size > 0 && e.line_len as usize > limits.max_line_size {
        if !limits.max_line_size_truncate {
            return Err(Reason::LineTooLong);
        }
        e.line_len = char_boundary(entries.line(e), limits.max_line_size) as u32;
    }
    if e.metadata_len > 0 {
        check_metadata(entries.metadata(e), limits)?;
    }
    Ok(())
}

fn check_metadata(metadata: LabelsRef<'_>, limits: &Limits) -> std::result::Result<(), Reason> {
    if !limits.allow_structured_metadata {
        return Err(Reason::DisallowedStructuredMetadata);
    }
    let (count, bytes) = metadata_size(metadata);
    if bytes > limits.max_structured_metadata_size {
        return Err(Reason::StructuredMetadataTooLarge);
    }
    if count > limits.max_structured_metadata_entries_count {
        return Err(Reason::StructuredMetadataTooMany);
    }
    Ok(())
}

/// Pairs and bytes of names and values.
fn metadata_size(metadata: LabelsRef<'_>) -> (usize, usize) {
    metadata.iter().fold((0, 0), |(n, b), (k, v)| (n + 1, b + k.len() + v.len()))
}

/// The largest length up to `max` that does not cut a UTF-8 character.
fn char_boundary(line: &[u8], max: usize) -> usize {
    (0..=max).rev().find(|i| line.get(*i).is_none_or(|b| b & 0xc0 != 0x80)).unwrap_or(0)
}

fn message(
    reason: Reason,
    stream: &Stream,
    e: &EntryRef,
    metadata: LabelsRef<'_>,
    window: &Window,
    limits: &Limits,
) -> String {
    let labels = &stream.labels;
    let advice = |key: &str, verb: &str| {
        format!("Please see `limits_config.{key}` or contact your Loki administrator to {verb} it")
    };
    match reason {
        Reason::LineTooLong => format!(
            "max entry size '{}' bytes exceeded for stream '{labels}' while adding an entry with length '{}' bytes",
            limits.max_line_size, e.line_len
        ),
        Reason::GreaterThanMaxSampleAge => format!(
            "entry for stream '{labels}' has timestamp too old: {}, oldest acceptable timestamp is: {}",
            rfc3339(e.timestamp),
            rfc3339(window.oldest)
        ),
        Reason::TooFarInFuture => {
            format!("entry for stream '{labels}' has timestamp too new: {}", rfc3339(e.timestamp))
        }
        Reason::DisallowedStructuredMetadata => format!(
            "stream '{labels}' includes structured metadata, but this feature is disallowed. {}",
            advice("allow_structured_metadata", "enable")
        ),
        Reason::StructuredMetadataTooLarge => format!(
            "stream '{labels}' has structured metadata too large: '{}' bytes, limit: '{}' bytes. {}",
            metadata_size(metadata).1,
            limits.max_structured_metadata_size,
            advice("max_structured_metadata_size", "increase")
        ),
        Reason::StructuredMetadataTooMany => format!(
            "stream '{labels}' has too many structured metadata labels: '{}', limit: '{}'. {}",
            metadata_size(metadata).0,
            limits.max_structured_metadata_entries_count,
            advice("max_structured_metadata_entries_count", "increase")
        ),
        // Refusals of whole streams bring their own message.
        Reason::MaxLabelNamesPerSeries | Reason::LabelNameTooLong | Reason::LabelValueTooLong => {
            format!("stream '{labels}' refused: {}", reason.as_str())
        }
    }
}

/// Loki prints these times without a fraction.
fn rfc3339(t: Timestamp) -> String {
    DateTime::from_timestamp_nanos(t).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::batch::Entries;
    use skald_model::{Labels, PushLabels, PushStream};

    fn push(streams: &[(&str, &[(i64, &str)])]) -> Push {
        let mut out = Push::default();
        let mut body = Vec::new();
        for (app, entries) in streams {
            let start = out.entries.refs.len() as u32;
            for (timestamp, line) in *entries {
                let (line_start, line_len) = (body.len() as u32, line.len() as u32);
                out.entries.refs.push(EntryRef {
                    timestamp: *timestamp,
                    line_start,
                    line_len,
                    metadata_start: 0,
                    metadata_len: 0,
                });
                body.extend_from_slice(line.as_bytes());
            }
            let labels = PushLabels::Set(Labels::from_pairs([("app", *app)]));
            out.streams.push(PushStream { labels, entries: start..out.entries.refs.len() as u32 });
        }
        out.entries = Entries { body: body.into(), ..out.entries };
        out
    }

    fn run(p: Push, limits: Limits) -> (Vec<String>, Option<String>) {
        let tenant = TenantId::new("t").unwrap();
        let v = validate(p, &StreamCache::new(1 << 20), &tenant, &Arc::new(limits), 0).unwrap();
        let lines = v.batch.streams.iter().flat_map(|s| {
            v.batch.of(s).iter().map(|e| {
                format!(
                    "{} {}",
                    s.labels.get("app").unwrap(),
                    String::from_utf8_lossy(v.batch.entries.line(e))
                )
            })
        });
        (lines.collect(), v.refused.to_error().map(|e| e.message))
    }

    #[test]
    fn keeps_the_good_entries_of_a_mixed_push() {
        let limits = Limits { max_line_size: 4, reject_old_samples: false, ..Limits::default() };
        let p = push(&[
            ("a", &[(1, "ok"), (2, "too long"), (3, "fine")]),
            ("b", &[(1, "loooong")]),
            ("c", &[(5, "x")]),
        ]);
        let (lines, error) = run(p, limits);
        assert_eq!(lines, ["a ok", "a fine", "c x"]);
        assert!(
            error.unwrap().starts_with("2 errors: max entry size '4' bytes exceeded for stream '{app=\"a\"")
        );
    }

    #[test]
    fn cuts_lines_at_a_character() {
        let limits = Limits { max_line_size: 4, max_line_size_truncate: true, ..Limits::default() };
        let (lines, error) = run(push(&[("a", &[(0, "abcüz")])]), limits);
        assert_eq!(lines, ["a abc"]);
        assert_eq!(error, None);
    }

    #[test]
    fn holds_entries_to_the_time_window() {
        let new = 2_051_222_400_000_000_000;
        let (lines, error) = run(
            push(&[("a", &[(0, "now"), (new, "new"), (-8 * 86_400_000_000_000, "old")])]),
            Limits::default(),
        );
        assert_eq!(lines, ["a now"]);
        let error = error.unwrap();
        assert!(error.contains("has timestamp too new: 2035-01-01T00:00:00Z"), "{error}");
        assert!(
            error.contains("too old: 1969-12-24T00:00:00Z, oldest acceptable timestamp is: 1969-12-25"),
            "{error}"
        );
    }
}
