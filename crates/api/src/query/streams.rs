//! Entries of a log query, grouped into streams by their final labels.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use skald_model::labels::pack_pair;
use skald_model::{EntryLabels, Labels, LogEntry};

use super::answer::Rows;
use super::json;

const HEADER: &str = "x-loki-response-encoding-flags";
const CATEGORIZE: &str = "categorize-labels";

/// The encoding flags of a request. Unknown ones have no effect, but are echoed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(Vec<String>);

impl Flags {
    /// Those that a request asks for.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(HEADER).map_or("", |v| v.to_str().unwrap_or(""));
        let mut flags: Vec<String> = Vec::new();
        for flag in value.split(',').filter(|f| !f.is_empty()) {
            if !flags.iter().any(|f| f == flag) {
                flags.push(flag.to_owned());
            }
        }
        Self(flags)
    }

    /// Whether labels are to be told apart by where they come from.
    pub(crate) fn categorize(&self) -> bool {
        self.0.iter().any(|f| f == CATEGORIZE)
    }

    /// Appends `"encodingFlags":[…],` if there are any.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            out.extend_from_slice(b"\"encodingFlags\":");
            json::strings(out, self.0.iter().map(String::as_str));
            out.push(b',');
        }
    }
}

/// Entries with the same labels.
pub(super) struct Group {
    /// What they have in common.
    pub(super) labels: Labels,
    /// Their places, in the order of the answer.
    pub(super) entries: Vec<u32>,
}

/// Groups `entries`; groups come in order of their labels, entries keep theirs.
pub(super) fn group(entries: &[LogEntry], categorize: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // Most entries share the allocation of their labels with the one before or with an earlier one.
    let mut by_allocation: HashMap<*const EntryLabels, usize> = HashMap::new();
    let mut by_labels: HashMap<Labels, usize> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let at = *by_allocation.entry(Arc::as_ptr(&entry.labels)).or_insert_with(|| {
            let labels = if categorize { entry.labels.stream.clone() } else { all_labels(&entry.labels) };
            *by_labels.entry(labels).or_insert_with_key(|labels| {
                groups.push(Group { labels: labels.clone(), entries: Vec::new() });
                groups.len() - 1
            })
        });
        groups[at].entries.push(i as u32);
    }
    groups.sort_by(|a, b| a.labels.cmp(&b.labels));
    groups
}

/// Stream labels, structured metadata and parsed labels as one set. Their names do not clash: the query has renamed
/// those that did.
fn all_labels(labels: &EntryLabels) -> Labels {
    if labels.structured_metadata.is_empty() && labels.parsed.is_empty() {
        return labels.stream.clone();
    }
    let mut pairs: Vec<_> =
        labels.stream.iter().chain(labels.structured_metadata.iter()).chain(labels.parsed.iter()).collect();
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    let mut packed = Vec::with_capacity(
        labels.stream.packed().len()
            + labels.structured_metadata.packed().len()
            + labels.parsed.packed().len(),
    );
    for (i, (name, value)) in pairs.iter().enumerate() {
        if pairs.get(i + 1).is_none_or(|next| next.0 != *name) {
            pack_pair(&mut packed, name, value);
        }
    }
    Labels::from_packed(&packed).unwrap_or_else(Labels::empty)
}

/// Writes streams entry by entry.
pub(crate) struct StreamRows {
    entries: Vec<LogEntry>,
    groups: Vec<Group>,
    categorize: bool,
    /// Group and place in it of the next entry.
    at: (usize, usize),
}

impl StreamRows {
    pub(crate) fn new(entries: Vec<LogEntry>, categorize: bool) -> Self {
        let groups = group(&entries, categorize);
        Self { entries, groups, categorize, at: (0, 0) }
    }
}

impl Rows for StreamRows {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let (group_at, at) = self.at;
        let Some(group) = self.groups.get(group_at) else { return false };
        if at == 0 {
            out.extend_from_slice(if group_at > 0 { b",{\"stream\":" } else { b"{\"stream\":" });
            json::labels(out, group.labels.as_ref());
            out.extend_from_slice(b",\"values\":[");
        } else {
            out.push(b',');
        }
        entry(out, &self.entries[group.entries[at] as usize], self.categorize);
        if at + 1 == group.entries.len() {
            out.extend_from_slice(b"]}");
            self.at = (group_at + 1, 0);
        } else {
            self.at.1 += 1;
        }
        true
    }
}

fn entry(out: &mut Vec<u8>, entry: &LogEntry, categorize: bool) {
    out.extend_from_slice(b"[\"");
    json::integer(out, entry.timestamp);
    out.extend_from_slice(b"\",");
    json::line(out, &entry.line);
    if categorize {
        out.extend_from_slice(b",{");
        let groups = [
            ("\"structuredMetadata\":", &entry.labels.structured_metadata),
            ("\"parsed\":", &entry.labels.parsed),
        ];
        let mut first = true;
        for (name, labels) in groups.iter().filter(|(_, labels)| !labels.is_empty()) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            json::labels(out, labels.as_ref());
        }
        out.push(b'}');
    }
    out.push(b']');
}
