//! The tenant's limits on streams and entries, with Loki's words.

use std::sync::Arc;

use chrono::DateTime;
use skald_model::{
    Batch, BatchStream, EntryRef, Error, Kind, LabelsRef, Limits, Push, Result, TenantId, Timestamp,
};

use crate::level::{Level, tag};
use crate::rules::Rules;
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
    MissingEnforcedLabels,
    BlockedIngestionPolicy,
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
            Reason::MissingEnforcedLabels => "missing_enforced_labels",
            Reason::BlockedIngestionPolicy => "blocked_ingestion_policy",
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

    /// The answer for the pusher; `None` when nothing was refused. Where everything that was refused is blocked, it has
    /// the status code for that.
    pub(crate) fn to_error(&self, limits: &Limits) -> Option<Error> {
        let all = self.messages.len() + self.more;
        let message = match &self.messages[..] {
            [] => return None,
            [one] => one.clone(),
            many => format!("{all} errors: {}", many.join("; ")),
        };
        let blocked = self.counts.iter().all(|(reason, ..)| *reason == Reason::BlockedIngestionPolicy);
        match limits.block_ingestion_status_code {
            200 if blocked => None,
            status if blocked => Some(Error::new(Kind::Blocked(status), message)),
            _ => Some(Error::invalid(message)),
        }
    }
}

/// The outcome of validation.
pub(crate) struct Validated {
    /// What may be stored.
    pub(crate) batch: Batch,
    /// What may not.
    pub(crate) refused: Refused,
    /// Bytes that count against rates: lines and structured metadata as they came.
    pub(crate) bytes: u64,
    /// Lines that were cut, and the bytes that they lost.
    pub(crate) truncated: (u64, u64),
}

/// Resolves the streams of a push and keeps the entries that the limits allow. Labels that do not parse refuse the
/// whole push; anything else refuses just what it concerns.
pub(crate) fn validate(
    push: Push,
    cache: &StreamCache,
    tenant: &TenantId,
    rules: &Arc<Rules>,
    now: Timestamp,
) -> Result<Validated> {
    let Push { streams, mut entries } = push;
    let limits = &*rules.limits;
    let resolved: Vec<Stream> =
        streams.iter().map(|s| cache.resolve(tenant, &s.labels, rules)).collect::<Result<_>>()?;
    let window = Window::new(limits, now);
    let mut refused = Refused::default();
    let mut batch = Batch { streams: Vec::with_capacity(streams.len()), ..Batch::default() };
    let mut levels: Vec<Option<Level>> = Vec::new();
    let mut cut = Cut::default();
    let mut refs = std::mem::take(&mut entries.refs);
    // Entries are kept in place: `kept` never overtakes the entry that is looked at, as ranges ascend.
    let (mut kept, mut bytes) = (0usize, 0);
    for (pushed, stream) in streams.into_iter().zip(resolved) {
        let first = kept;
        let range = pushed.entries.start as usize..pushed.entries.end as usize;
        if let Some((reason, text)) = refusal_of(&stream, tenant, rules, now) {
            refs[range].iter().for_each(|e| refused.count(reason, bytes_of(e)));
            refused.say(|| text);
            continue;
        }
        for i in range {
            let mut e = refs[i];
            match check(&mut e, &entries, &window, limits, &mut cut) {
                Ok(()) => {
                    refs[kept] = e;
                    kept += 1;
                    bytes += bytes_of(&e);
                }
                Err(reason) => {
                    refused.count(reason, bytes_of(&e));
                    let metadata = entries.metadata(&e);
                    refused.say(|| message(reason, &stream, &e, metadata, &window, limits));
                }
            }
        }
        if kept > first {
            if limits.increment_duplicate_timestamp {
                increment_duplicates(&mut refs[first..kept], &entries);
            }
            let range = first as u32..kept as u32;
            batch.streams.push(BatchStream { id: stream.id, labels: stream.labels, entries: range });
            levels.push(stream.level);
        }
    }
    refs.truncate(kept);
    entries.refs = refs;
    batch.entries = entries;
    if !limits.max_line_size_truncate_identifier.is_empty() {
        cut.mark(&mut batch, &limits.max_line_size_truncate_identifier);
    }
    if let Some(detector) = &rules.levels {
        tag(&mut batch, &levels, detector);
    }
    Ok(Validated { batch, refused, bytes, truncated: (cut.lines.len() as u64, cut.bytes) })
}

/// Why all of a stream is refused, if it is.
fn refusal_of(stream: &Stream, tenant: &TenantId, rules: &Rules, now: Timestamp) -> Option<(Reason, String)> {
    let policy = stream.policy.as_deref();
    if let Some(until) = rules.policy_blocked_until(policy, now) {
        let text = format!(
            "ingestion blocked for user {tenant} (policy: {}) until '{}' with status code '{}'",
            policy.unwrap_or_default(),
            rfc3339(until),
            rules.limits.block_ingestion_status_code
        );
        return Some((Reason::BlockedIngestionPolicy, text));
    }
    stream.refused.as_ref().map(|why| (**why).clone())
}

/// Moves entries that have the time of the one before, but another line, a nanosecond behind it.
fn increment_duplicates(refs: &mut [EntryRef], entries: &skald_model::batch::Entries) {
    let Some(mut as_pushed) = refs.first().map(|e| e.timestamp) else { return };
    for i in 1..refs.len() {
        let (before, e) = (refs[i - 1], refs[i]);
        let same_time = e.timestamp == as_pushed || e.timestamp == before.timestamp;
        if same_time && entries.line(&before) != entries.line(&e) {
            refs[i].timestamp = before.timestamp.saturating_add(1);
        } else {
            as_pushed = e.timestamp;
        }
    }
}

/// Lines that were cut because they are too long.
#[derive(Default)]
struct Cut {
    /// Where they begin in the body. Each line has a place of its own.
    lines: Vec<u32>,
    /// Bytes that they lost.
    bytes: u64,
}

impl Cut {
    /// Puts `identifier` behind each of the lines that were cut. They move to the end of the body.
    fn mark(&self, batch: &mut Batch, identifier: &str) {
        if self.lines.is_empty() {
            return;
        }
        let entries = &mut batch.entries;
        let mut body = entries.body.to_vec();
        let mut cut = self.lines.iter().peekable();
        for e in &mut entries.refs {
            if cut.next_if(|start| **start == e.line_start).is_none() {
                continue;
            }
            let start = body.len();
            if start + e.line_len as usize + identifier.len() > u32::MAX as usize {
                continue;
            }
            body.extend_from_within(e.line_start as usize..(e.line_start + e.line_len) as usize);
            body.extend_from_slice(identifier.as_bytes());
            (e.line_start, e.line_len) = (start as u32, (body.len() - start) as u32);
        }
        entries.body = body.into();
        entries.compressed = None;
    }
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
    cut: &mut Cut,
) -> std::result::Result<(), Reason> {
    if e.timestamp < window.oldest {
        return Err(Reason::GreaterThanMaxSampleAge);
    }
    if e.timestamp > window.newest {
        return Err(Reason::TooFarInFuture);
    }
    let too_long = limits.max_line_size > 0 && e.line_len as usize > limits.max_line_size;
    if too_long && !limits.max_line_size_truncate {
        return Err(Reason::LineTooLong);
    }
    if e.metadata_len > 0 {
        check_metadata(entries.metadata(e), limits)?;
    }
    if too_long {
        let room = limits.max_line_size.saturating_sub(limits.max_line_size_truncate_identifier.len());
        let len = char_boundary(entries.line(e), room) as u32;
        cut.lines.push(e.line_start);
        cut.bytes += u64::from(e.line_len - len);
        e.line_len = len;
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
        Reason::MaxLabelNamesPerSeries
        | Reason::LabelNameTooLong
        | Reason::LabelValueTooLong
        | Reason::MissingEnforcedLabels
        | Reason::BlockedIngestionPolicy => {
            format!("stream '{labels}' refused: {}", reason.as_str())
        }
    }
}

/// Loki prints these times without a fraction.
pub(crate) fn rfc3339(t: Timestamp) -> String {
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

    fn validated(p: Push, limits: impl Into<Arc<Limits>>) -> Validated {
        let (tenant, rules) = (TenantId::new("t").unwrap(), Arc::new(Rules::new(limits.into())));
        validate(p, &StreamCache::new(1 << 20), &tenant, &rules, 0).unwrap()
    }

    fn run(p: Push, limits: impl Into<Arc<Limits>>) -> (Vec<String>, Option<String>) {
        let limits = limits.into();
        let v = validated(p, limits.clone());
        let lines = v.batch.streams.iter().flat_map(|s| {
            v.batch.of(s).iter().map(|e| {
                format!(
                    "{} {}",
                    s.labels.get("app").unwrap(),
                    String::from_utf8_lossy(v.batch.entries.line(e))
                )
            })
        });
        (lines.collect(), v.refused.to_error(&limits).map(|e| e.message))
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
    fn lines_that_were_cut_are_marked_inside_of_the_limit() {
        let limits = Limits {
            max_line_size: 6,
            max_line_size_truncate: true,
            max_line_size_truncate_identifier: "...".into(),
            ..Limits::default()
        };
        let p = push(&[("a", &[(0, "short"), (1, "too long"), (2, "fine"), (3, "übermässig")])]);
        let v = validated(p.clone(), limits.clone());
        assert_eq!(v.truncated, (2, 5 + 9));
        assert_eq!(run(p, limits).0, ["a short", "a too...", "a fine", "a üb..."]);
    }

    #[test]
    fn times_that_are_the_same_can_be_moved_apart() {
        let limits = Limits { increment_duplicate_timestamp: true, ..Limits::default() };
        let entries = [(5, "a"), (5, "b"), (5, "c"), (5, "c"), (9, "d"), (9, "e"), (10, "f")];
        let v = validated(push(&[("a", &entries)]), limits);
        let times: Vec<_> = v.batch.entries.refs.iter().map(|e| e.timestamp).collect();
        assert_eq!(times, [5, 6, 7, 5, 9, 10, 11]);
    }

    #[test]
    fn blocked_policies_are_refused_with_their_status_and_the_others_stored() {
        let selector = r#"{app="b"}"#.to_owned();
        let limits = Limits {
            policy_stream_mapping: [(
                "p".to_owned(),
                vec![skald_model::limits::PolicySelector { selector, priority: 0 }],
            )]
            .into(),
            block_ingestion_policy_until: [("p".to_owned(), 3_600_000_000_000)].into(),
            ..Limits::default()
        };
        let v = validated(push(&[("a", &[(0, "x")]), ("b", &[(0, "y"), (0, "z")])]), limits.clone());
        assert_eq!(v.refused.counts, [(Reason::BlockedIngestionPolicy, 2, 2)]);
        assert_eq!(v.batch.streams.len(), 1);
        let error = v.refused.to_error(&limits).unwrap();
        assert_eq!(error.kind, Kind::Blocked(260));
        assert_eq!(
            error.message,
            "ingestion blocked for user t (policy: p) until '1970-01-01T01:00:00Z' with status code '260'"
        );
        let silent = Limits { block_ingestion_status_code: 200, ..limits };
        assert!(v.refused.to_error(&silent).is_none());
    }

    #[test]
    fn entries_get_their_level() {
        let v = validated(push(&[("a", &[(0, "level=warn x"), (0, "y")])]), Limits::default());
        let levels: Vec<_> =
            v.batch.entries.refs.iter().map(|e| v.batch.entries.metadata(e).to_string()).collect();
        assert_eq!(levels, [r#"{detected_level="warn"}"#, r#"{detected_level="unknown"}"#]);
        assert_eq!(v.bytes, 13, "what is added does not count");
        let off = Limits { discover_log_levels: false, ..Limits::default() };
        let v = validated(push(&[("a", &[(0, "level=warn x")])]), off);
        assert_eq!(v.batch.entries.refs[0].metadata_len, 0);
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
